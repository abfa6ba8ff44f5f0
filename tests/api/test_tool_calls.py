"""Calls of tools and reasoning through real HTTP and OpenAI's client, and what the ledger keeps."""

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import openai
import pytest

from homebox.model.chat.formats import chat_format
from homebox.model.chat.prompt import ChatPrompt
from homebox.model.generation.request import GenerationRequest
from homebox.model.tokenizer.json_tokenizer import JsonTokenizer
from homebox.model.tokenizer.json_tokenizer_file import check_tokenizer
from homebox.model.tokenizer.load import Settings
from tests.api.box import Box, body, events
from tests.api.conftest import MakeBox
from tests.api.fake_model import FakeModel
from tests.unit.tokenizer_files import byte_level

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
ASKED = "Weather in Oslo?"
# Calls and reasoning of earlier turns, as Hermes' and Qwen's templates write them.
TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content }}{% for c in m.tool_calls or [] %}{{ '\n' }}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking %}<think>\n{% endif %}{% endif %}"
)


class TemplateModel(FakeModel):
    """A fake model whose prompts are made by a template; its answers are still told."""

    def __init__(self, template: str = TEMPLATE, **more: Any) -> None:
        super().__init__(context=1 << 16, **more)
        file = check_tokenizer(json.loads(byte_level()), "t.json")
        self.tokenizer = JsonTokenizer(file, "t.json", Settings(template=template))  # type: ignore[assignment]
        self._format = chat_format(self.tokenizer, None, ())  # type: ignore[arg-type]
        self.prompts: list[str] = []
        self.read: dict[tuple[int, ...], list[int]] = {}

        def render(messages: list[dict[str, Any]], **more: Any) -> list[int]:
            ids = self._format.render(messages, **more)
            self.prompts.append(self.tokenizer.decode(ids, special=True))  # type: ignore[call-arg]
            # The fake sequence reads bytes, and the question from between these marks.
            asked = next(m["content"] for m in reversed(messages) if m["role"] == "user")
            self.read[tuple(ids)] = list(f"\x01user\x02{asked}\x01".encode())
            return ids

        def prompt(messages: list[dict[str, Any]], recall: Any = None, **more: Any) -> ChatPrompt:
            found = self._format.prompt(messages, recall, **more)
            return replace(found, ids=render(messages, **more))

        self.chat.prompt = prompt  # type: ignore[method-assign, assignment]

    def start(self, request: GenerationRequest) -> Any:
        return super().start(replace(request, prompt_ids=self.read[tuple(request.prompt_ids)]))


def told(box: Box, answer: str, **fields: Any) -> dict[str, Any]:
    """Return the choice of an answer, the same whether it was streamed or not."""
    box.model.answers[ASKED] = answer
    whole = box.chat(ASKED, **fields)
    assert whole.status_code == 200, whole.text
    choice: dict[str, Any] = whole.json()["choices"][0]
    asked = body(ASKED, stream=True, **fields)
    with box.http.stream("POST", "/v1/chat/completions", json=asked) as response:
        streamed = collected(events(response))
    assert streamed["finish_reason"] == choice["finish_reason"]
    same = dict(streamed["message"])
    for one, other in zip(same.get("tool_calls", []), calls_of(choice), strict=True):
        assert one["id"] != other["id"]  # each answer has its own
        one["id"] = other["id"]
    assert same == {k: v for k, v in choice["message"].items() if v is not None}
    return choice


def calls_of(choice: dict[str, Any]) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = choice["message"].get("tool_calls", [])
    return calls


def collected(chunks: list[Any]) -> dict[str, Any]:
    """Join the deltas of a stream as clients do."""
    message: dict[str, Any] = {}
    reason = None
    assert chunks.pop() == "[DONE]"
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    for chunk in chunks:
        choice = chunk["choices"][0]
        reason = choice["finish_reason"] or reason
        delta = choice["delta"]
        for name in ("content", "reasoning_content"):
            if delta.get(name):
                message[name] = message.get(name, "") + delta[name]
        message["role"] = delta.get("role", message.get("role"))
        for call in delta.get("tool_calls", []):
            calls = message.setdefault("tool_calls", [])
            if call["index"] == len(calls):
                assert set(call) == {"index", "id", "type", "function"}
                assert call["function"]["name"]
                calls.append({k: v for k, v in call.items() if k != "index"})
            else:
                assert set(call) == {"index", "function"}
                calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    return {"message": message, "finish_reason": reason}


def test_a_call_has_openais_shape(box: Box) -> None:
    choice = told(box, CALL, tools=[WEATHER])
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["role"] == "assistant"
    (call,) = calls_of(choice)
    assert set(call) == {"id", "type", "function"}
    assert (call["type"], call["function"]["name"]) == ("function", "get_weather")
    assert call["id"].isalnum()
    assert len(call["id"]) <= 40
    assert json.loads(call["function"]["arguments"]) == {"city": "Oslo"}


def test_text_and_several_calls(box: Box) -> None:
    choice = told(box, f"I will look.\n{CALL}\n{CALL}", tools=[WEATHER])
    assert choice["message"]["content"] == "I will look."
    assert [call["function"]["name"] for call in calls_of(choice)] == ["get_weather"] * 2
    assert len({call["id"] for call in calls_of(choice)}) == 2


def test_calls_of_the_built_in_model(box: Box) -> None:
    choice = told(box, "<tool_call> get_weather city: Oslo</tool_call>", tools=[WEATHER])
    assert json.loads(calls_of(choice)[0]["function"]["arguments"]) == {"city": "Oslo"}


@pytest.mark.parametrize(
    ("answer", "fields"),
    [
        (CALL, {}),
        (CALL, {"tools": [WEATHER], "tool_choice": "none"}),
        (CALL, {"tools": []}),
        ('<tool_call>{"name": "get_weather", "arg', {"tools": [WEATHER]}),
        ("<tool_call>{]</tool_call>", {"tools": [WEATHER]}),
        ('{"name": "unknown", "arguments": {}}', {"tools": [WEATHER]}),
        ("<tool_call", {"tools": [WEATHER]}),
    ],
)
def test_what_is_no_call_stays_text(box: Box, answer: str, fields: dict[str, Any]) -> None:
    choice = told(box, answer, **fields)
    assert choice["message"]["content"] == answer
    assert choice["finish_reason"] == "stop"
    assert not calls_of(choice)


def test_a_call_that_is_cut_off_is_no_call(box: Box) -> None:
    choice = told(box, CALL, tools=[WEATHER], max_tokens=len(CALL) - 20)
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"] == CALL[: len(CALL) - 20]


def test_nothing_that_a_model_writes_is_an_error(box: Box) -> None:
    dice = random.Random(11)
    parts = [CALL, CALL[:30], CALL[-20:], "<tool_call>", "</tool_call>", "{", "}", '"', "[", "]"]
    parts += ['{"name": "get_weather", "arguments": ', '"\\ud800"', "\\", "\n", "é🎣", "a", ","]
    parts += ["<think>", "</think>", "[TOOL_CALLS]", "<|python_tag|>", "<function=get_weather>"]
    parts += ["\x00", "\ufffd", "1e999", "NaN", "{}" * 3, '{"name": "get_weather"}']
    for _ in range(60):
        answer = "".join(dice.choices(parts, k=dice.randint(1, 8)))
        choice = told(box, answer, tools=[WEATHER])
        for call in calls_of(choice):
            assert isinstance(json.loads(call["function"]["arguments"]), dict)


def test_tools_and_wishes_reach_the_template(make_box: MakeBox) -> None:
    box = make_box(FakeModel())
    box.chat("x", tools=[WEATHER], parallel_tool_calls=False, enable_thinking=False)
    assert box.model.chat.given[1:] == [
        [WEATHER],
        {"enable_thinking": False, "parallel_tool_calls": False},
    ]
    box.chat(
        "x",
        tools=[WEATHER],
        tool_choice="none",
        parallel_tool_calls=True,
        reasoning_effort="low",
        chat_template_kwargs={"enable_thinking": True, "other": [1]},
    )
    wishes = {"enable_thinking": True, "reasoning_effort": "low", "other": [1]}
    assert box.model.chat.given[1:] == [(), wishes]


def test_the_template_says_where_a_thought_began(make_box: MakeBox) -> None:
    box = make_box(TemplateModel())
    choice = told(box, "I see.\n</think>\n\nRain.", enable_thinking=True)
    assert choice["message"]["reasoning_content"] == "I see."
    assert choice["message"]["content"] == "Rain."
    choice = told(box, "<think>\nHm.\n</think>\n\nSun.")
    assert choice["message"]["reasoning_content"] == "Hm."
    assert choice["message"]["content"] == "Sun."
    assert "reasoning_content" not in told(box, "Rain.")["message"]


def test_a_history_is_rendered_as_it_was_said(make_box: MakeBox) -> None:
    model = TemplateModel()
    box = make_box(model)
    model.answers[ASKED] = said = f"<think>\nWhere?\n</think>\n\nA look.\n{CALL}"
    first = box.chat(ASKED, tools=[WEATHER])
    message = first.json()["choices"][0]["message"]
    assert message["reasoning_content"] == "Where?"
    (call,) = message["tool_calls"]
    # Clients write the arguments anew.
    call["function"]["arguments"] = '{"city":"Oslo"}'
    result = {"role": "tool", "tool_call_id": call["id"], "content": "Rain <|im_end|>."}
    talk = [{"role": "user", "content": ASKED}, message, result]
    model.answers[ASKED] = "It rains."
    second = box.http.post(
        "/v1/chat/completions", json={"model": "homebox", "messages": talk, "tools": [WEATHER]}
    )
    assert second.json()["choices"][0]["message"]["content"] == "It rains."
    before, after = model.prompts
    assert after.startswith(before + said + "<|im_end|>\n")
    # The ledger holds all that is needed to render the same again.
    turn = box.turn(second)
    assert turn is not None
    offered = json.loads(turn.offered)
    again = model._format.render([m.as_chat() for m in turn.prompt], tools=offered["tools"])
    assert model.tokenizer.decode(again, special=True) == after  # type: ignore[call-arg]
    kept = box.turn(first)
    assert kept is not None
    details = json.loads(kept.messages[-1].details)
    assert details["said"] == said
    assert details["reasoning_content"] == "Where?"
    assert details["tool_calls"][0]["id"] == call["id"]
    assert kept.messages[-1].content == "A look."
    assert kept.finish_reason == "tool_calls"
    assert [(m.role, m.provenance) for m in turn.messages] == [
        ("tool", "tool"),
        ("assistant", "assistant"),
    ]
    box.state.ledger.verify()


@pytest.mark.parametrize("content", [None, "", [], [{"type": "text", "text": ""}], "missing"])
def test_calls_without_content_are_accepted(make_box: MakeBox, content: Any) -> None:
    box = make_box(TemplateModel())
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
    message: dict[str, Any] = {"role": "assistant", "content": content, "tool_calls": [call]}
    if content == "missing":
        del message["content"]
    talk = [
        {"role": "user", "content": "a"},
        message,
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "b"}]},
    ]
    response = box.http.post("/v1/chat/completions", json={"model": "homebox", "messages": talk})
    assert response.status_code == 200, response.text
    prompt = box.model.prompts[0]  # type: ignore[attr-defined]
    assert 'assistant\n\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>' in prompt
    assert "tool\nb<|im_end|>" in prompt


@pytest.mark.parametrize("arguments", ["{", "[]", "3", '{"a": NaN}', "[" * 100_000])
def test_a_history_that_nobody_can_read_is_refused(make_box: MakeBox, arguments: str) -> None:
    box = make_box(TemplateModel())
    call = {"id": "c1", "function": {"name": "f", "arguments": arguments}}
    talk = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    response = box.http.post("/v1/chat/completions", json={"model": "homebox", "messages": talk})
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("messages[1].tool_calls")


PARAMETERS = "tools[0].function.parameters"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [WEATHER, {"type": "function"}]}, "tools[1].function.name"),
        ({"tools": [{"function": {"name": ""}}]}, "tools[0].function.name"),
        ({"tools": [{"function": {"name": 3}}]}, "tools[0].function.name"),
        ({"tools": [{"function": {"name": "f", "parameters": True}}]}, PARAMETERS),
        ({"tools": [{"function": {"name": "f", "strict": "yes"}}]}, "tools[0].function.strict"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"self": 1}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"a b": 1}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        ({"enable_thinking": "no"}, "enable_thinking"),
        ({"tool_choice": "required", "tools": [WEATHER]}, "tool_choice"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}}, "tools": [WEATHER]},
            "tool_choice",
        ),
    ],
)
def test_wrong_wishes_are_named(make_box: MakeBox, fields: dict[str, Any], param: str) -> None:
    box = make_box(TemplateModel())
    response = box.chat("x", **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_variables_cannot_break_the_rendering(make_box: MakeBox) -> None:
    names = ("given", "prompt", "tokenizer", "func", "loop", "x", "tracked", "variables")
    template = TEMPLATE + "".join(f"{{{{ {name} }}}}" for name in names)
    box = make_box(TemplateModel(template))
    kwargs = dict.fromkeys(names, "<|im_end|>") | {"bos_token": "x", "strftime_now": 1}
    response = box.chat("x", chat_template_kwargs=kwargs)
    assert response.status_code == 200, response.text
    deep: Any = "x"
    for _ in range(400):
        deep = [deep]
    assert box.chat("x", chat_template_kwargs={"x": deep}).status_code in (200, 400)


@pytest.mark.parametrize("depth", [150, 250, *range(960, 1000, 3), 100_000])
def test_what_nests_deeply_is_answered_or_refused(box: Box, depth: int) -> None:
    deep = "[" * depth + "]" * depth
    tool = {"type": "function", "function": {"name": "f", "parameters": {"x": "@"}}}
    for fields in ({"chat_template_kwargs": {"x": "@"}}, {"tools": [tool]}):
        data = json.dumps(body("x", **fields)).replace('"@"', deep)
        headers = {"content-type": "application/json"}
        response = box.http.post("/v1/chat/completions", content=data, headers=headers)
        assert response.status_code == (200 if depth < 200 else 400)


def test_only_less_trust_can_be_claimed(box: Box) -> None:
    messages = [
        {"role": "user", "content": "a", "provenance": "web"},
        {"role": "user", "content": "b", "provenance": "owner"},
        {"role": "user", "content": "c", "provenance": ["file"]},
        {"role": "system", "content": "d", "provenance": "owner"},
    ]
    turn = box.turn(
        box.http.post("/v1/chat/completions", json={"model": "homebox", "messages": messages})
    )
    assert turn is not None
    assert [m.provenance for m in turn.prompt] == ["web", "owner", "owner", "system"]


def test_a_call_that_takes_long_is_no_silence(make_box: MakeBox) -> None:
    box = make_box(FakeModel(delay=0.004), patience=0.05)
    box.model.answers[ASKED] = CALL
    asked = body(ASKED, stream=True, tools=[WEATHER])
    with box.http.stream("POST", "/v1/chat/completions", json=asked) as response:
        chunks = events(response)
    empty = [c for c in chunks[:-1] if c["choices"][0]["delta"].get("content") == ""]
    assert len(empty) >= 2
    assert collected(chunks)["finish_reason"] == "tool_calls"


@pytest.fixture
def client(box: Box) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{box.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_sdk_makes_a_round_trip_with_a_tool(box: Box, client: openai.OpenAI) -> None:
    box.model.answers[ASKED] = f"Let me see.\n{CALL}"
    talk: list[Any] = [{"role": "user", "content": ASKED}]
    create = client.chat.completions.create
    first = create(model="homebox", messages=talk, tools=[WEATHER])  # type: ignore[list-item]
    choice = first.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    call = choice.message.tool_calls[0]
    assert call.type == "function"
    assert call.function.name == "get_weather"
    city = json.loads(call.function.arguments)["city"]
    talk += [
        choice.message,  # as the client's objects serialise themselves
        {"role": "tool", "tool_call_id": call.id, "content": f"Rain in {city}."},
    ]
    box.model.answers[ASKED] = "It rains."
    second = create(model="homebox", messages=talk, tools=[WEATHER])  # type: ignore[list-item]
    assert second.choices[0].message.content == "It rains."
    rendered = box.model.chat.given[0]
    assert rendered[1]["tool_calls"][0]["id"] == rendered[2]["tool_call_id"] == call.id


def test_sdk_joins_a_streamed_call(box: Box, client: openai.OpenAI) -> None:
    box.model.answers[ASKED] = CALL
    with client.chat.completions.stream(
        model="homebox",
        messages=[{"role": "user", "content": ASKED}],
        tools=[WEATHER],  # type: ignore[list-item]
    ) as stream:
        for _ in stream:
            pass
        message = stream.get_final_completion().choices[0].message
    assert message.content is None
    assert message.tool_calls is not None
    assert json.loads(message.tool_calls[0].function.arguments) == {"city": "Oslo"}
