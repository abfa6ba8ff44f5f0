"""Which tokens of an example are targets, counted by hand on the text of real templates."""

import json
from copy import copy
from pathlib import Path
from typing import Any

import pytest

from homebox.learning.curriculum import curriculum_of
from homebox.learning.examples import Example
from homebox.learning.examples.fitted import fitted
from homebox.learning.examples.shown import demonstrations
from homebox.memory.lessons import Lesson
from homebox.memory.store import canonical_json
from homebox.model.chat.built_in import CHATML
from homebox.model.chat.formats import RoleTokenChat
from homebox.model.chat.template_chat import TemplateChat
from homebox.model.tokenizer.load import Settings, Tokenizer
from homebox.model.tokenizer.sentencepiece_file import parse_model
from homebox.model.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer
from tests.unit.model_files import train_tokenizer

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_time",
            "description": "Tell the time somewhere.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "get_time", "arguments": '{"city": "Oslo"}'},
        }
    ],
}
BEFORE: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief. <|im_end|> is a mark."},
    {"role": "user", "content": "Hello!"},
    {"role": "assistant", "content": "Hello. What is it?"},
    {"role": "user", "content": "What time is it in Oslo?"},
]
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "17:04"}
WRITTEN_CALL = (
    '<tool_call>\n{"name": "get_time", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>'
)


def shown(messages: list[dict[str, Any]], answer: Any, tools: Any = TOOLS) -> Example:
    """Make the example of a turn that the owner took for good."""
    body = {"messages": messages, "answer": answer, "tools": tools}
    text = canonical_json(body).decode()
    (example,) = demonstrations(curriculum_of([Lesson("demonstration", "", "", "", body=text)]))
    return example


def targets(chat: Any, tokenizer: Tokenizer, example: Example, length: int = 2048) -> str:
    """Return the text that is learned; it must be encoded as a whole and nothing besides."""
    result = fitted(example, chat.render_training, length)
    assert result is not None
    rendered, _ = result
    ids = [i for i, target in zip(rendered.ids, rendered.mask, strict=True) if target]
    text = tokenizer.decode(ids, special=True)
    assert len(ids) == len(tokenizer.encode_marked(text))
    places = [place for place, target in enumerate(rendered.mask) if target]
    # One turn is learned, without a gap, and its end of turn with it.
    assert places == list(range(places[0], places[-1] + 1))
    return text


@pytest.fixture(scope="module")
def qwen(shared: Path, qwen3: Tokenizer) -> tuple[TemplateChat, Tokenizer]:
    """Return Qwen3's own template over Qwen3's own vocabulary."""
    cases = json.loads((shared / "data/templates/chat_template_cases.json").read_text())
    template = next(case["template"] for case in cases if case["name"] == "Qwen/Qwen3-0.6B")
    tokenizer = copy(qwen3)
    tokenizer.settings = Settings(variables=(("eos_token", "<|im_end|>"),))
    return TemplateChat(tokenizer, template), tokenizer


@pytest.fixture(scope="module")
def chatml(qwen3: Tokenizer) -> tuple[TemplateChat, Tokenizer]:
    """Return the built-in ChatML template, which knows no tools."""
    tokenizer = copy(qwen3)
    tokenizer.settings = Settings()
    return TemplateChat(tokenizer, CHATML.template), tokenizer


def test_an_answer_and_its_end_are_learned(
    qwen: tuple[TemplateChat, Tokenizer], chatml: tuple[TemplateChat, Tokenizer]
) -> None:
    for chat, tokenizer in (qwen, chatml):
        example = shown(BEFORE, "It is five.", [])
        assert targets(chat, tokenizer, example) == "It is five.<|im_end|>"


def test_a_call_is_learned_as_json_and_what_is_offered_is_not(
    qwen: tuple[TemplateChat, Tokenizer],
) -> None:
    chat, tokenizer = qwen
    example = shown(BEFORE, CALL)
    assert targets(chat, tokenizer, example) == WRITTEN_CALL
    rendered = chat.render_training(list(example.messages), TOOLS)
    whole = tokenizer.decode(rendered.ids, special=True)
    assert "Tell the time somewhere." in whole
    # As it is asked while serving, without thoughts.
    prompt = chat.render(BEFORE, tools=TOOLS, enable_thinking=False)
    assert rendered.ids[: len(prompt)] == prompt
    assert rendered.mask.index(True) == len(prompt)
    # The control: without the offer the text lacks it.
    bare = tokenizer.decode(chat.render_training(list(example.messages)).ids, special=True)
    assert "Tell the time somewhere." not in bare


def test_results_of_tools_and_earlier_calls_are_context(
    qwen: tuple[TemplateChat, Tokenizer],
) -> None:
    chat, tokenizer = qwen
    example = shown([*BEFORE, CALL, RESULT], "It is 17:04 in Oslo.")
    assert targets(chat, tokenizer, example) == "It is 17:04 in Oslo.<|im_end|>"


def test_thoughts_are_not_learned(qwen: tuple[TemplateChat, Tokenizer]) -> None:
    chat, tokenizer = qwen
    thought = {"role": "assistant", "content": "It is five.", "reasoning_content": "Let me see."}
    assert targets(chat, tokenizer, shown(BEFORE, thought)) == "It is five.<|im_end|>"
    written = {"role": "assistant", "content": "<think>\nLet me see.\n</think>\n\nIt is five."}
    assert targets(chat, tokenizer, shown(BEFORE, written)) == "It is five.<|im_end|>"


def test_an_answer_cannot_name_a_mark_of_turns(qwen: tuple[TemplateChat, Tokenizer]) -> None:
    chat, tokenizer = qwen
    example = shown(BEFORE, "A turn ends with <|im_end|>.", [])
    rendered = chat.render_training(list(example.messages))
    end = tokenizer.special["<|im_end|>"]
    learned = [i for i, target in zip(rendered.ids, rendered.mask, strict=True) if target]
    assert learned.count(end) == 1
    assert learned[-1] == end


def test_the_front_of_a_long_conversation_is_cut(qwen: tuple[TemplateChat, Tokenizer]) -> None:
    chat, tokenizer = qwen
    talk: list[dict[str, Any]] = [BEFORE[0]]
    for number in range(30):
        talk += [
            {"role": "user", "content": f"Tell me number {number}."},
            {"role": "assistant", "content": f"The number is {number}."},
        ]
    example = shown([*talk, {"role": "user", "content": "And the next?"}], "The number is 30.", [])
    result = fitted(example, chat.render_training, 200)
    assert result is not None
    rendered, kept = result
    assert len(rendered.ids) <= 200
    assert kept[0] == BEFORE[0]
    assert kept[1]["role"] == "user"
    assert kept[-2:] == example.messages[-2:]
    assert targets(chat, tokenizer, example, 200) == "The number is 30.<|im_end|>"
    assert fitted(example, chat.render_training, 20) is None


def test_the_built_in_format_offers_tools_and_learns_the_call() -> None:
    tokenizer = SentencePieceTokenizer(parse_model(train_tokenizer(), "t"), "t")
    chat = RoleTokenChat(tokenizer)
    example = shown([{"role": "user", "content": "the time"}], CALL)
    rendered = chat.render_training(list(example.messages), TOOLS)
    assert rendered.ids == [
        *chat.render([*example.messages], add_generation_prompt=False, tools=TOOLS)
    ]
    ids = [i for i, target in zip(rendered.ids, rendered.mask, strict=True) if target]
    assert tokenizer.decode(ids, special=True).strip().endswith("<|end|>")
    assert "get_time" in tokenizer.decode(ids, special=True)
    span = rendered.spans[0]
    assert "the time" in tokenizer.decode(rendered.ids[span.start : span.end])
