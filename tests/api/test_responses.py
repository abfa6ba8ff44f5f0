"""POST /v1/responses: OpenAI's own client, the order of events, what is kept, what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from homebox.api.bodies.items import messages_of
from homebox.api.shapes.kept import KeptResponse
from homebox.api.tokens import add_key, open_keys
from homebox.errors import RequestError
from homebox.model.guides import JsonObject, JsonSchema
from tests.api.box import Box
from tests.api.conftest import MakeBox
from tests.api.telling_model import TellingModel, thinking

__all__ = ["thinking"]

TOOL: Any = {
    "type": "function",
    "name": "edit",
    "parameters": {"type": "object", "properties": {"path": {"type": "string"}}},
    "strict": True,
}
OTHER: Any = {**TOOL, "name": "read"}
E = {"type": "input_text", "text": "e"}
IMAGE = {"type": "input_image", "image_url": "data:"}
TEXT = [
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
]
CALL = [
    "response.output_item.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
]
THOUGHT = [
    "response.output_item.added",
    "response.content_part.added",
    "response.reasoning_text.delta",
    "response.reasoning_text.done",
    "response.content_part.done",
    "response.output_item.done",
]
SUMMARY = [
    "response.output_item.added",
    "response.reasoning_summary_part.added",
    "response.reasoning_summary_text.delta",
    "response.reasoning_summary_text.done",
    "response.reasoning_summary_part.done",
    "response.output_item.done",
]


@pytest.fixture
def telling(make_box: MakeBox) -> Box:
    return make_box(TellingModel())


@pytest.fixture
def client(telling: Box) -> Iterator[openai.OpenAI]:
    with client_of(telling) as client:
        yield client


def client_of(box: Box, key: str = "any") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{box.url}/v1", api_key=key, max_retries=0)


def create(box: Box, status: int = 200, **fields: Any) -> Any:
    response = box.http.post("/v1/responses", json={"model": "homebox", "input": "hello"} | fields)
    assert response.status_code == status, response.text
    return response.json()


def events_of(box: Box, **fields: Any) -> list[Any]:
    body = {"model": "homebox", "input": "hello", "stream": True} | fields
    with box.http.stream("POST", "/v1/responses", json=body) as response:
        lines = list(response.iter_lines())
    found = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data")]
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event")]
    assert names == [event["type"] for event in found]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def put_together(events: list[Any]) -> list[Any]:
    """Make the items of a stream out of its pieces, as a client does that trusts no last event."""
    items: dict[int, Any] = {}
    for event in events:
        place = event.get("output_index")
        match event["type"].removeprefix("response."):
            case "output_item.added":
                items[place] = event["item"]
            case "content_part.added":
                items[place]["content"].append(event["part"])
            case "reasoning_summary_part.added":
                items[place]["summary"].append(event["part"])
            case "output_text.delta":
                items[place]["content"][event["content_index"]]["text"] += event["delta"]
                items[place]["content"][event["content_index"]]["logprobs"] += event["logprobs"]
            case "reasoning_text.delta":
                items[place]["content"][event["content_index"]]["text"] += event["delta"]
            case "reasoning_summary_text.delta":
                items[place]["summary"][event["summary_index"]]["text"] += event["delta"]
            case "function_call_arguments.delta":
                items[place]["arguments"] += event["delta"]
            case "output_item.done":
                items[place]["status"] = event["item"]["status"]
                assert event["item"] == items[place]
    return [items[place] for place in sorted(items)]


def prompt_of(box: Box, id: str) -> list[tuple[str, str]]:
    turn = box.state.ledger.turn("turn_" + id.removeprefix("resp_"))
    assert turn is not None
    return [(message.role, message.content) for message in turn.prompt]


def test_the_sdk_creates_retrieves_goes_on_and_deletes(telling: Box, client: openai.OpenAI) -> None:
    first = client.responses.create(
        model="homebox", input="hello", instructions="Be brief.", metadata={"a": "b"}
    )
    assert first.output_text == "<base> you said: hello"
    assert first.status == "completed"
    assert first.usage is not None
    assert first.usage.total_tokens == first.usage.input_tokens + first.usage.output_tokens
    again = client.responses.retrieve(first.id)
    assert again.output == first.output
    assert (again.instructions, again.metadata) == ("Be brief.", {"a": "b"})
    assert again.temperature == first.temperature
    second = client.responses.create(
        model="homebox", input="more", instructions="Be long.", previous_response_id=first.id
    )
    assert second.previous_response_id == first.id
    # Instructions of an earlier response are not those of the next.
    assert prompt_of(telling, second.id) == [
        ("system", "Be long."),
        ("user", "hello"),
        ("assistant", "<base> you said: hello"),
        ("user", "more"),
    ]
    third = client.responses.create(model="homebox", input="x", previous_response_id=second.id)
    assert [role for role, _ in prompt_of(telling, third.id)] == [
        *("user", "assistant", "user", "assistant", "user")
    ]
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError) as gone:
        client.responses.create(model="homebox", input="x", previous_response_id=first.id)
    assert gone.value.code == "previous_response_not_found"
    assert gone.value.param == "previous_response_id"
    # What was built on it stays, and so does the owner's log.
    assert client.responses.retrieve(second.id).output_text.endswith("more")
    assert prompt_of(telling, first.id)


def test_the_sdk_streams(client: openai.OpenAI) -> None:
    with client.responses.stream(model="homebox", input="think and call", tools=[TOOL]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert [item.type for item in final.output] == ["reasoning", "function_call"]
    (call,) = [item for item in final.output if item.type == "function_call"]
    assert json.loads(call.arguments) == {"path": "a", "text": "b"}


def test_the_sdk_parses(telling: Box, client: openai.OpenAI) -> None:
    class Fruit(BaseModel):
        fruit: str
        count: int

    telling.model.answers["fruit"] = '{"fruit": "fig", "count": 3}'
    parsed = client.responses.parse(model="homebox", input="fruit", text_format=Fruit)
    assert parsed.output_parsed == Fruit(fruit="fig", count=3)
    wanted: Any = telling.model
    assert isinstance(wanted.wanted.form, JsonSchema)
    assert wanted.wanted.form.strict
    assert set(wanted.wanted.form.schema["properties"]) == {"fruit", "count"}


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize(
    ("fields", "between"),
    [
        ({}, TEXT),
        ({"input": "nothing"}, [kind for kind in TEXT if not kind.endswith("delta")]),
        ({"input": "think"}, [*THOUGHT, *TEXT]),
        ({"input": "think", "reasoning": {"summary": "auto"}}, [*SUMMARY, *TEXT]),
        ({"input": "call", "tools": [TOOL]}, [*TEXT, *CALL]),
        ({"input": "call twice", "tools": [TOOL]}, [*CALL, *CALL]),
        ({"input": "think and call", "tools": [TOOL]}, [*THOUGHT, *CALL]),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 2}, TEXT),
    ],
)
def test_events_in_order_make_the_response(
    make_box: MakeBox, eager: bool, fields: dict[str, Any], between: list[str]
) -> None:
    box = make_box(TellingModel(eager))
    events = events_of(box, **fields)
    kinds: list[str] = []
    for kind in (event["type"] for event in events):
        if not (kinds and kinds[-1] == kind and kind.endswith("delta")):
            kinds.append(kind)
    # The same event again is a sign of life.
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert [kind for kind in kinds[2:-1] if kind != "response.in_progress"] == between
    assert kinds[-1] == "response.completed"
    final = events[-1]["response"]
    assert put_together(events) == final["output"]
    ids = [item["id"] for item in final["output"]]
    assert len(set(ids)) == len(ids)
    prefixes = {"message": "msg_", "reasoning": "rs_", "function_call": "fc_"}
    assert all(item["id"].startswith(prefixes[item["type"]]) for item in final["output"])
    kept = box.http.get(f"/v1/responses/{final['id']}").json()
    likely = kept["output"][-1].get("content", [{}])
    if fields.get("include"):
        assert final["output"][-1]["content"][0]["logprobs"]
        likely[0]["logprobs"] = final["output"][-1]["content"][0]["logprobs"]
    assert kept["output"] == final["output"]
    unlike = {"output", "usage", "completed_at"}
    assert {k: v for k, v in kept.items() if k not in unlike} == {
        k: v for k, v in final.items() if k not in unlike
    }


def test_what_ends_early_says_why(telling: Box) -> None:
    value = create(telling, input="count 40", max_output_tokens=16)
    assert (value["status"], value["incomplete_details"]) == (
        "incomplete",
        {"reason": "max_output_tokens"},
    )
    assert value["output"][0]["status"] == "incomplete"
    events = events_of(telling, input="count 40", max_output_tokens=16)
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "a" * 16
    cut = create(telling, input="call", tools=[TOOL], max_output_tokens=50)
    assert cut["output"][-1]["type"] == "function_call"
    assert cut["output"][-1]["status"] == "incomplete"
    events = events_of(telling, input="boom")
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["code"] == "server_error"


def test_silence_is_told_in_events_that_clients_count(telling: Box) -> None:
    body = {"model": "homebox", "input": "hold", "stream": True}
    kinds: list[str] = []
    with telling.http.stream("POST", "/v1/responses", json=body) as response:
        for line in response.iter_lines():
            assert not line.startswith(":")
            if line.startswith("event: "):
                kinds.append(line.removeprefix("event: "))
            if kinds.count("response.in_progress") == 4:
                telling.model.release.set()
    assert kinds.count("response.in_progress") >= 4
    assert kinds[-1] == "response.completed"


def test_a_silent_stream_is_one_for_the_sdk_too(telling: Box, client: openai.OpenAI) -> None:
    with client.responses.stream(model="homebox", input="hold") as stream:
        for count, event in enumerate(stream):
            if count == 4:
                telling.model.release.set()
            assert event.type != "error"
        assert stream.get_final_response().output_text == "<base> you said: hold"


def test_responses_belong_to_their_key(make_box: MakeBox, tmp_path: Path) -> None:
    ring = open_keys(tmp_path)
    mine, theirs = add_key(tmp_path, "mine"), add_key(tmp_path, "theirs")
    box = make_box(TellingModel(), keys=ring)
    with client_of(box, mine) as me, client_of(box, theirs) as them:
        id = me.responses.create(model="homebox", input="secret").id
        assert me.responses.retrieve(id).output_text
        with pytest.raises(openai.NotFoundError):
            them.responses.retrieve(id)
        with pytest.raises(openai.NotFoundError):
            them.responses.create(model="homebox", input="x", previous_response_id=id)
        with pytest.raises(openai.NotFoundError):
            them.responses.delete(id)
        assert me.responses.create(model="homebox", input="x", previous_response_id=id).output


def test_control_without_owners_everybody_gets_everything(
    make_box: MakeBox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = open_keys(tmp_path)
    mine, theirs = add_key(tmp_path, "mine"), add_key(tmp_path, "theirs")
    box = make_box(TellingModel(), keys=ring)
    kept = KeptResponse.of
    monkeypatch.setattr(KeptResponse, "of", lambda turn, owner: kept(turn, turn.owner))
    with client_of(box, mine) as me, client_of(box, theirs) as them:
        id = me.responses.create(model="homebox", input="secret").id
        assert them.responses.retrieve(id).output_text == "<base> you said: secret"


def test_responses_outlive_the_server(tmp_path: Path) -> None:
    box = Box(tmp_path / "state", TellingModel())
    kept = create(box, input="think and call", tools=[TOOL, OTHER])
    hidden = create(box, store=False)
    gone = create(box)
    assert box.http.delete(f"/v1/responses/{gone['id']}").json()["deleted"] is True
    box.close()
    box = Box(tmp_path / "state", TellingModel())
    try:
        again = box.http.get(f"/v1/responses/{kept['id']}").json()
        assert again["output"] == kept["output"]
        assert again["tools"] == kept["tools"] == [TOOL, OTHER]
        for lost in (hidden, gone):
            assert box.http.get(f"/v1/responses/{lost['id']}").status_code == 404
        call = kept["output"][-1]["call_id"]
        result = {"type": "function_call_output", "call_id": call, "output": "done"}
        value = create(box, input=[result], previous_response_id=kept["id"])
        assert [role for role, _ in prompt_of(box, value["id"])] == ["user", "assistant", "tool"]
    finally:
        box.close()


def test_tools_and_choices_reach_the_model(telling: Box) -> None:
    model: Any = telling.model

    def wanted(**fields: Any) -> tuple[list[str], str, bool]:
        create(telling, tools=[TOOL, OTHER], **fields)
        names = [tool["function"]["name"] for tool in model.wanted.tools]
        return names, model.wanted.tool_choice, model.wanted.parallel

    assert wanted() == (["edit", "read"], "auto", True)
    assert wanted(tool_choice="required", parallel_tool_calls=False)[1:] == ("required", False)
    assert wanted(tool_choice={"type": "function", "name": "read"})[1] == "read"
    assert wanted(tool_choice="none")[0] == []
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"name": "read"}]}
    assert wanted(tool_choice=allowed)[:2] == (["read"], "required")
    create(telling, text={"format": {"type": "json_object"}})
    assert model.wanted.form == JsonObject()
    create(telling, reasoning={"effort": "none"})
    assert model.chat.given[2] == {"enable_thinking": False}
    echoed = create(telling, tools=[TOOL, OTHER], tool_choice=allowed)
    kept = telling.http.get(f"/v1/responses/{echoed['id']}").json()
    assert echoed["tools"] == kept["tools"] == [TOOL, OTHER]
    assert echoed["tool_choice"] == kept["tool_choice"] == allowed


def test_items_become_messages_as_they_were_generated() -> None:
    messages = messages_of(
        [
            {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
            {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "b"}]},
            {"role": "assistant", "content": [{"type": "output_text", "text": "c"}]},
            {"type": "function_call", "call_id": "1", "name": "x", "arguments": "{}"},
            {"type": "function_call", "call_id": "2", "name": "y", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": "d"},
            {"type": "function_call_output", "call_id": "2", "output": [E]},
            {"type": "reasoning", "summary": [], "encrypted_content": "?"},
            {"role": "assistant", "content": "f"},
            {"role": "assistant", "content": "g"},
            {"role": "developer", "content": "h"},
        ]
    )  # fmt: skip
    assert [(each.role, each.text) for each in messages] == [
        ("user", "a"),
        ("assistant", "c"),
        ("tool", "d"),
        ("tool", "e"),
        ("assistant", "f"),
        ("assistant", "g"),
        ("developer", "h"),
    ]
    said = messages[1]
    assert said.reasoning_content == "b"
    assert [call.id for call in said.tool_calls or ()] == ["1", "2"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [IMAGE]}]}, "input[0].content[0]"),
        ({"input": [{"role": "king", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"type": "function_call", "name": "x"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]},
         "input[0].tool_call_id"),
        ({"input": "x" * 9000}, "input"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "middle"}, "truncation"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 10**6}, "max_output_tokens"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "no"}}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"name": []}]}},
         "tool_choice.tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
        ({"text": {"format": 3}}, "text.format"),
        ({"text": {"format": {"type": "json_schema", "schema": 3}}}, "text.format.schema"),
        ({"metadata": {"a": 1}}, "metadata[]"),
        ({"previous_response_id": 3}, "previous_response_id"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_by_name(
    telling: Box, fields: dict[str, Any], param: str
) -> None:
    error = create(telling, 400, **fields)["error"]
    assert error["param"] == param
    assert error["message"]
    assert create(telling)["status"] == "completed"


def test_too_much_is_told_as_agents_know_it(telling: Box) -> None:
    error = create(telling, 400, input="x" * 9000)["error"]
    assert error["code"] == "context_length_exceeded"
    assert "maximum context length is 4096 tokens" in error["message"]
    assert "resulted in 90" in error["message"]


def test_unknown_ids_are_not_found(telling: Box) -> None:
    for id in ("resp_0", "resp_" + "0" * 24, "x", "turn_1", "resp_%ED%A0%80", "resp_" + "0" * 999):
        assert telling.http.get(f"/v1/responses/{id}").status_code == 404
        assert telling.http.delete(f"/v1/responses/{id}").status_code == 404
    chat = telling.chat("hello").headers["x-homebox-turn"].removeprefix("turn_")
    assert telling.http.get(f"/v1/responses/resp_{chat}").status_code == 404
    with pytest.raises(RequestError):
        messages_of([{"type": 3}])


def test_words_come_back_in_the_pieces_they_came_in(telling: Box) -> None:
    pieces = [{"type": "input_text", "text": text} for text in ("read this:", " a file", " ok")]
    first = create(telling, input=[{"role": "user", "content": pieces}])
    second = create(telling, input="more", previous_response_id=first["id"])
    for id in (first["id"], second["id"]):
        turn = telling.state.ledger.turn("turn_" + id.removeprefix("resp_"))
        assert turn is not None
        assert turn.prompt[0].content == "read this: a file ok"
        assert json.loads(turn.prompt[0].details)["parts"] == [10, 7, 3]
