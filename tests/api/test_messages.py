"""POST /v1/messages: Anthropic's own client, what recorded clients sent, whose words are whose."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest

from homebox.api.tokens import add_key, open_keys
from homebox.model.guides import JsonSchema
from tests.api.box import Box
from tests.api.conftest import MakeBox
from tests.api.telling_model import ANSWERS, TellingModel, thinking

__all__ = ["thinking"]

SCHEMA: Any = {"type": "object", "properties": {"path": {"type": "string"}}}
TOOL: Any = {"name": "edit", "description": "d", "input_schema": SCHEMA}
USE = {"type": "tool_use", "id": "toolu_1", "name": "edit", "input": {"path": "a"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "done"}


@pytest.fixture
def telling(make_box: MakeBox) -> Box:
    return make_box(TellingModel())


@pytest.fixture
def client(telling: Box) -> Iterator[anthropic.Anthropic]:
    with client_of(telling) as client:
        yield client


def client_of(box: Box, key: str = "any") -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=box.url, api_key=key, max_retries=0)


def user(content: Any) -> Any:
    return {"role": "user", "content": content}


def create(box: Box, status: int = 200, said: Any = "hello", **fields: Any) -> Any:
    body = {"model": "homebox", "max_tokens": 500, "messages": [user(said)]} | fields
    response = box.http.post("/v1/messages", json=body)
    assert response.status_code == status, response.text
    return response.json()


def events_of(box: Box, said: str, **fields: Any) -> list[Any]:
    body = {"model": "homebox", "max_tokens": 500, "messages": [user(said)], "stream": True}
    with box.http.stream("POST", "/v1/messages", json=body | fields) as response:
        lines = list(response.iter_lines())
    found = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data")]
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event")]
    assert names == [event["type"] for event in found]
    return [event for event in found if event["type"] != "ping"]


def put_together(events: list[Any]) -> Any:
    """Make the message of a stream out of its pieces, as Anthropic's documentation says."""
    message = events[0]["message"]
    blocks: list[Any] = message["content"]
    arguments: dict[int, str] = {}
    for event in events[1:]:
        if event["type"] == "content_block_start":
            assert event["index"] == len(blocks)
            blocks.append(event["content_block"])
        elif event["type"] == "content_block_delta":
            delta = dict(event["delta"])
            if delta.pop("type") == "input_json_delta":
                index = event["index"]
                arguments[index] = arguments.get(index, "") + delta["partial_json"]
                continue
            ((name, text),) = delta.items()
            blocks[event["index"]][name] += text
        elif event["type"] == "message_delta":
            message |= event["delta"]
            message["usage"] |= event["usage"]
    for index, text in arguments.items():
        blocks[index]["input"] = json.loads(text)
    return message


def said(block: Any) -> Any:
    return {name: value for name, value in block.to_dict().items() if name != "parsed_output"}


def last_prompt(box: Box) -> list[tuple[str, str, str]]:
    *_, turn = box.state.ledger.turns()
    return [(each.role, each.content, each.provenance) for each in turn.prompt]


def test_the_sdk_asks_and_streams(client: anthropic.Anthropic) -> None:
    asked: Any = {"model": "homebox", "max_tokens": 500, "messages": [user("think")]}
    enabled: Any = {"type": "enabled", "budget_tokens": 1024}
    whole = client.messages.create(**asked, thinking=enabled)
    assert [block.type for block in whole.content] == ["thinking", "text"]
    assert whole.stop_reason == "end_turn"
    with client.messages.stream(**asked, thinking=enabled) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert {"thinking", "signature", "text"} <= set(kinds)
    assert [said(block) for block in final.content] == [said(block) for block in whole.content]
    assert final.usage.output_tokens == whole.usage.output_tokens
    count = client.messages.count_tokens(model="homebox", messages=asked["messages"])
    assert count.input_tokens == whole.usage.input_tokens


def test_a_tool_is_called_and_its_result_is_the_tools(
    telling: Box, client: anthropic.Anthropic
) -> None:
    talk: list[Any] = [user("call")]
    asked: Any = {"model": "homebox", "max_tokens": 500, "tools": [TOOL], "messages": talk}
    with client.messages.stream(**asked) as stream:
        message = stream.get_final_message()
    assert message.stop_reason == "tool_use"
    text, call = message.content
    assert (text.type, call.type) == ("text", "tool_use")
    assert call.type == "tool_use" and call.input == {"path": "a", "text": "b"}
    talk += [
        {"role": "assistant", "content": message.content},
        user([{"type": "tool_result", "tool_use_id": call.id, "content": "wrote a"},
              {"type": "text", "text": "now "}, {"type": "text", "text": "thank you"}]),
    ]  # fmt: skip
    assert client.messages.create(**asked).stop_reason == "end_turn"
    assert last_prompt(telling) == [
        ("user", "call", "owner"),
        ("assistant", "I will.", "assistant"),
        ("tool", "wrote a", "tool"),
        ("user", "now thank you", "owner"),
    ]
    *_, turn = telling.state.ledger.turns()
    assert json.loads(turn.prompt[-1].details)["parts"] == [4, 9]


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("said", ["hello", *ANSWERS])
def test_events_make_the_message(make_box: MakeBox, eager: bool, said: str) -> None:
    box = make_box(TellingModel(eager))
    fields: dict[str, Any] = {"tools": [TOOL]}
    whole = create(box, said=said, **fields)
    made = put_together(events_of(box, said, **fields))
    assert made["id"].startswith("msg_")
    for message in (whole, made):
        del message["id"]
        for block in message["content"]:
            block.pop("id", None)
    assert made == whole


def test_blocks_open_and_close_one_after_the_other(telling: Box) -> None:
    kinds = []
    for event in events_of(telling, "think and call", tools=[TOOL]):
        kind = event["type"].removeprefix("content_block_") + str(event.get("index", ""))
        if not (kinds and kinds[-1] == kind):
            kinds.append(kind)
    assert kinds == [
        "message_start",
        *("start0", "delta0", "stop0"),
        *("start1", "delta1", "stop1"),
        "message_delta",
        "message_stop",
    ]


def test_silence_is_told_in_pings(telling: Box, client: anthropic.Anthropic) -> None:
    body = {"model": "homebox", "max_tokens": 50, "messages": [user("hold")], "stream": True}
    names: list[str] = []
    with telling.http.stream("POST", "/v1/messages", json=body) as response:
        for line in response.iter_lines():
            if line.startswith("event: "):
                names.append(line.removeprefix("event: "))
            if names.count("ping") == 3:
                telling.model.release.set()
    assert names.count("ping") >= 3
    assert names[-1] == "message_stop"
    telling.model.release.clear()
    asked: Any = {"model": "homebox", "max_tokens": 50, "messages": [user("hold")]}
    with client.messages.stream(**asked) as stream:
        telling.model.release.set()
        assert stream.get_final_text() == "<base> you said: hold"


def test_ends_have_their_reasons(telling: Box) -> None:
    assert create(telling, said="count 40", max_tokens=5)["stop_reason"] == "max_tokens"
    ended = create(telling, stop_sequences=["never", "said"])
    assert (ended["stop_reason"], ended["stop_sequence"]) == ("stop_sequence", "said")
    ended = put_together(events_of(telling, "hello", stop_sequences=["never", "said"]))
    assert (ended["stop_reason"], ended["stop_sequence"]) == ("stop_sequence", "said")
    unstopped = create(telling, stop_sequences=["never"])
    assert (unstopped["stop_reason"], unstopped["stop_sequence"]) == ("end_turn", None)
    # Clients that must name a limit name a large one.
    assert create(telling, max_tokens=10**6)["stop_reason"] == "end_turn"
    full = create(telling, said="endless" + "x" * 4_000, max_tokens=10**6)
    assert full["stop_reason"] == "model_context_window_exceeded"
    events = events_of(telling, "boom")
    assert events[-1]["type"] == "error"
    assert events[-1]["error"]["type"] == "api_error"


def test_what_was_asked_reaches_the_model(telling: Box) -> None:
    model: Any = telling.model

    def wanted(choice: Any) -> Any:
        create(telling, tools=[TOOL], tool_choice=choice)
        return model.wanted.tool_choice, model.wanted.parallel, bool(model.wanted.tools)

    assert wanted({"type": "auto"}) == ("auto", True, True)
    assert wanted({"type": "any", "disable_parallel_tool_use": True}) == ("required", False, True)
    assert wanted({"type": "tool", "name": "edit"}) == ("edit", True, True)
    assert wanted({"type": "none"}) == ("none", True, False)
    assert model.chat.given[2]["enable_thinking"] is False
    create(telling, thinking={"type": "enabled", "budget_tokens": 77})
    assert model.chat.given[2]["enable_thinking"] is True
    assert model.wanted.thinking_budget == 77
    create(telling, thinking={"type": "adaptive"})
    assert model.chat.given[2]["enable_thinking"] is True
    create(telling, output_config={"format": {"type": "json_schema", "schema": SCHEMA}})
    assert isinstance(model.wanted.form, JsonSchema)
    assert model.wanted.form.schema == SCHEMA


def test_words_are_whose_they_are(telling: Box) -> None:
    system = [
        {"type": "text", "text": "x-anthropic-billing-header: cch=1a2b;"},
        {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Be kind."},
    ]
    broken = {**RESULT, "content": [{"type": "text", "text": "no file"}], "is_error": True}
    thought = {"type": "thinking", "thinking": "hm", "signature": "x"}
    hidden = {"type": "redacted_thinking", "data": "?"}
    messages = [
        user("edit it"),
        {"role": "assistant", "content": [thought, hidden, USE]},
        user([broken, {"type": "text", "text": "and?"}]),
    ]
    create(telling, system=system, messages=messages)
    assert last_prompt(telling) == [
        ("system", "Be brief.\n\nBe kind.", "system"),
        ("user", "edit it", "owner"),
        ("assistant", "", "assistant"),
        ("tool", "Error: no file", "tool"),
        ("user", "and?", "owner"),
    ]
    *_, turn = telling.state.ledger.turns()
    details = json.loads(turn.prompt[2].details)
    assert details["reasoning_content"] == "hm"
    assert details["tool_calls"][0]["function"] == {"name": "edit", "arguments": '{"path":"a"}'}


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": "x"}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [user([{"type": "image", "source": {}}])]}, "image"),
        ({"messages": [user([RESULT])]}, "toolu_1"),
        ({"messages": [user([{**RESULT, "content": 3}])]}, "content"),
        ({"messages": [user([{"type": "tool_result"}])]}, "tool_use_id"),
        ({"messages": [user("a"), {"role": "assistant", "content": "b"}]}, "last"),
        ({"messages": [user([{"type": "text", "text": 3}])]}, "messages[0].content[0].text"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search_20250305"),
        ({"tools": [{"name": "x"}]}, "input_schema"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "no"}}, "tool_choice"),
        ({"tool_choice": {"type": []}}, "tool_choice"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"system": [{"type": "image"}]}, "system[0]"),
    ],
)
def test_what_cannot_be_done_is_refused_in_their_shape(
    telling: Box, fields: dict[str, Any], word: str
) -> None:
    error = create(telling, 400, **fields)
    assert error["type"] == "error"
    assert error["error"]["type"] == "invalid_request_error"
    assert word in error["error"]["message"]


def test_errors_are_anthropics(make_box: MakeBox, tmp_path: Path) -> None:
    ring = open_keys(tmp_path)
    box = make_box(TellingModel(), keys=ring, max_body_bytes=20_000)
    asked: Any = {"model": "homebox", "max_tokens": 50, "messages": [user("hi")]}
    with client_of(box, add_key(tmp_path, "mine")) as client:
        assert client.messages.create(**asked).content
        with pytest.raises(anthropic.NotFoundError):
            client.messages.create(**asked | {"model": "claude"})
        with pytest.raises(anthropic.RequestTooLargeError):
            client.messages.create(**asked | {"messages": [user("x" * 30_000)]})
        with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: 90\d\d tokens"):
            client.messages.create(**asked | {"messages": [user("x" * 9_000)]})
        with pytest.raises(anthropic.APIStatusError) as missing:
            client.get("/v1/messages/nothing", cast_to=object)
        assert missing.value.body["type"] == "error"  # type: ignore[index, call-overload]
    with client_of(box, "wrong") as stranger:
        with pytest.raises(anthropic.AuthenticationError) as refused:
            stranger.messages.create(**asked)
        assert refused.value.body["error"]["type"] == "authentication_error"  # type: ignore[index, call-overload]
    # The others' shape is not touched.
    assert "type" not in box.http.post("/v1/responses", json={}).json()


def test_too_many_are_told_to_come_back(make_box: MakeBox) -> None:
    box = make_box(TellingModel(slots=1), max_waiting=0)
    error = create(box, 429)
    assert error["error"]["type"] == "rate_limit_error"


def test_long_prompts_are_counted_though_they_cannot_be_answered(telling: Box) -> None:
    body = {"model": "homebox", "messages": [user("x" * 9_000)]}
    response = telling.http.post("/v1/messages/count_tokens", json=body)
    assert response.json()["input_tokens"] > 9_000
    unknown = telling.http.post("/v1/messages/count_tokens", json=body | {"model": "no"})
    assert unknown.status_code == 404


def test_recorded_requests_are_answered(telling: Box, shared: Path) -> None:
    found = sorted((shared / "clients/captures/other").glob("*_POST_v1_messages*.json"))
    assert len(found) >= 3
    for path in found:
        recorded = json.loads(path.read_text(encoding="utf-8"))
        body = recorded["body"] | {"model": "homebox"}
        response = telling.http.post(recorded["path"], json=body)
        assert response.status_code == 200, response.text
