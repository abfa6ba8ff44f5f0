"""From a model's tokens to a message: marks that are steering tokens, and deltas that add up."""

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homebox.api.reply import Reply, answer_parser, details, shown_marks
from homebox.api.shapes.chat import delta_of
from homebox.model.answers import AnswerParser, dialect_of
from homebox.model.tokenizer import StreamDecoder
from homebox.model.tokenizer.json_tokenizer import JsonTokenizer
from homebox.model.tokenizer.json_tokenizer_file import check_tokenizer
from homebox.model.tokenizer.load import Settings
from tests.unit.tokenizer_files import byte_level

TOOLS = [
    {"type": "function", "function": {"name": "look", "parameters": {"properties": {"at": {}}}}}
]
MISTRAL = '[TOOL_CALLS][{"name": "look", "arguments": {"at": "the fish"}}]'
LLAMA = '<|python_tag|>{"name": "look", "parameters": {"at": "the fish"}}'
DEEPSEEK = (
    "<\uff5ctool\u2581calls\u2581begin\uff5c><\uff5ctool\u2581call\u2581begin\uff5c>function"
    "<\uff5ctool\u2581sep\uff5c>look\n```json\n"
    '{"at": "the fish"}\n```<\uff5ctool\u2581call\u2581end\uff5c>'
    "<\uff5ctool\u2581calls\u2581end\uff5c>"
)
HARMONY = (
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary "
    'to=functions.look <|constrain|>json<|message|>{"at": "the fish"}'
)
COMMAND = '<|START_ACTION|>[{"tool_name": "look", "parameters": {"at": "the fish"}}]<|END_ACTION|>'
ANSWERS = {
    "mistral": (MISTRAL, ("[TOOL_CALLS]",)),
    "llama": (LLAMA, ("<|python_tag|>",)),
    "deepseek": (
        DEEPSEEK,
        tuple(
            f"<\uff5ctool\u2581{name}\uff5c>"
            for name in (
                "calls\u2581begin",
                "calls\u2581end",
                "call\u2581begin",
                "call\u2581end",
                "sep",
            )
        ),
    ),
    "harmony": (
        HARMONY,
        ("<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|constrain|>"),
    ),
    "command-r": (COMMAND, ("<|START_ACTION|>", "<|END_ACTION|>")),
}


def tokenizer_with(marks: tuple[str, ...]) -> JsonTokenizer:
    """Return a vocabulary in which these marks are special tokens, which decoding leaves out."""
    raw = json.loads(byte_level())
    first = 1 + max(token["id"] for token in raw["added_tokens"])
    raw["added_tokens"] += [
        {"id": index, "content": mark, "special": True} for index, mark in enumerate(marks, first)
    ]
    template = "{{ messages }}" + "".join(marks)
    return JsonTokenizer(check_tokenizer(raw, "t"), "t", Settings(template=template))


def read(tokenizer: JsonTokenizer, ids: list[int], tools: list[Any], shown: bool = True) -> Reply:
    parser = answer_parser(tokenizer, tools, "")
    marks = shown_marks(tokenizer, parser) if shown else frozenset()
    decoder = StreamDecoder(tokenizer, continuation=True, shown=marks)
    reply = Reply(parser)
    for index in ids:
        reply.read(decoder.push(index))
    reply.read(decoder.flush())
    reply.end()
    return reply


@pytest.mark.parametrize("name", ANSWERS)
def test_marks_that_are_steering_tokens_make_calls(name: str) -> None:
    answer, marks = ANSWERS[name]
    tokenizer = tokenizer_with(marks)
    ids = tokenizer.encode_marked(answer)
    assert set(marks) & {tokenizer.piece(index) for index in ids}
    message = read(tokenizer, ids, TOOLS).message()
    (call,) = message["tool_calls"]
    assert call["function"]["name"] == "look"
    assert json.loads(call["function"]["arguments"]) == {"at": "the fish"}
    assert message["content"] is None
    if name == "harmony":
        assert message["reasoning_content"] == "Hm."
    # The control: without their marks these are no calls; the others are bare JSON then.
    hidden = read(tokenizer, ids, TOOLS, shown=False).message()
    assert ("tool_calls" in hidden) == (name not in ("deepseek", "harmony"))


@pytest.mark.parametrize("name", ANSWERS)
def test_marks_that_are_only_text_make_no_steering_token(name: str) -> None:
    answer, marks = ANSWERS[name]
    tokenizer = tokenizer_with(marks)
    assert not set(tokenizer.encode(answer)) & set(tokenizer.special.values())


PARTS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "\n", " ", "Hm.", "{", "}", "é🎣"]
PARTS += ['{"name": "look", "arguments": {"at": "a\\ud83d\\udc1f"}}', '"', "[TOOL_CALLS]", "[", "]"]


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(st.sampled_from(PARTS), max_size=9), seed=st.integers(0, 99))
def test_deltas_add_up_to_the_message(parts: list[str], seed: int) -> None:
    text = "".join(parts)
    dialect = dialect_of("[TOOL_CALLS]", ("<think>", "<tool_call>"))
    dice = random.Random(seed)
    reply = Reply(AnswerParser(dialect, TOOLS))
    events = []
    place = 0
    while place < len(text):
        end = place + dice.randint(1, 4)
        events += reply.read(text[place:end])
        place = end
    events += reply.end()
    message: dict[str, Any] = {}
    for delta in filter(None, map(delta_of, events)):
        assert len(delta) == 1  # one thing at a time
        for name in ("content", "reasoning_content"):
            if name in delta:
                message[name] = message.get(name, "") + delta[name]
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                message.setdefault("tool_calls", []).append(
                    {"id": call["id"], "type": "function", "function": dict(call["function"])}
                )
                assert call["index"] == len(message["tool_calls"]) - 1
            else:
                message["tool_calls"][call["index"]]["function"]["arguments"] += call["function"][
                    "arguments"
                ]
    whole = reply.message()
    assert whole.pop("role") == "assistant"
    assert whole.pop("refusal") is None
    assert message == {name: value for name, value in whole.items() if value}
    for call in whole.get("tool_calls", ()):
        assert isinstance(json.loads(call["function"]["arguments"]), dict)
    json.dumps(whole).encode()
    assert reply.reason("stop") == ("tool_calls" if "tool_calls" in whole else "stop")
    assert reply.reason("length") == "length"
    kept = json.loads(reply.details() or "{}")
    assert kept.pop("said", reply.text) == text
    assert kept == {name: value for name, value in whole.items() if value and name != "content"}


def test_lone_surrogates_never_go_out() -> None:
    reply = Reply(AnswerParser(dialect_of(), TOOLS))
    reply.read('<tool_call>{"name": "look", "arguments": {"at": "\\ud800"}}</tool_call>\ud800')
    reply.end()
    json.dumps(reply.message(), ensure_ascii=False).encode()
    assert details({}) == ""
    assert list(json.loads(details({"b": 1, "a": 2}))) == ["b", "a"]
