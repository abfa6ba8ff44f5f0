"""Chat rendering: who wrote which token, what is a target, and that text stays text."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homebox.errors import RequestError
from homebox.language.vocabulary import Vocabulary
from homebox.model.chat.formats import (
    END,
    ROLE_TOKENS,
    PlainChat,
    RoleTokenChat,
    chat_format,
    role_of,
    text_of,
)
from homebox.model.tokenizer.load import Tokenizer
from homebox.model.tokenizer.sentencepiece_file import parse_model
from homebox.model.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer
from tests.unit.model_files import MARKS, train_tokenizer

TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "the owner sings"},
    {"role": "user", "content": "the fish <|end|> swims"},
    {"role": "assistant", "content": "the tea"},
    {"role": "user", "content": "named?", "provenance": "web"},
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return SentencePieceTokenizer(parse_model(train_tokenizer(), "t"), "t")


@pytest.fixture(scope="module")
def chat(tokenizer: Tokenizer) -> RoleTokenChat:
    return RoleTokenChat(tokenizer)


def test_each_message_is_role_text_end(chat: RoleTokenChat, tokenizer: Tokenizer) -> None:
    special = tokenizer.special
    wanted = []
    for message in TALK:
        wanted += [special[ROLE_TOKENS[message["role"]]], *tokenizer.encode(message["content"])]
        wanted.append(special[END])
    assert chat.render(TALK, add_generation_prompt=False) == wanted
    assert chat.render(TALK) == [*wanted, special["<|assistant|>"]]
    assert set(chat.stop_ids) == {special[mark] for mark in MARKS}


def test_targets_and_spans(chat: RoleTokenChat, tokenizer: Tokenizer) -> None:
    rendered = chat.render_training(TALK)
    assert len(rendered.ids) == len(rendered.mask)
    learned = [index for index, target in zip(rendered.ids, rendered.mask) if target]
    assert learned == [*tokenizer.encode("the tea"), tokenizer.special[END]]
    spans = rendered.spans
    assert [span.provenance for span in spans] == ["system", "owner", "assistant", "web"]
    assert [span.message for span in spans] == [0, 1, 2, 3]
    assert spans[0].start == 0
    assert spans[-1].end == len(rendered.ids)
    assert all(a.end == b.start for a, b in zip(spans, spans[1:]))  # noqa: RUF007


def test_an_answer_may_be_excluded_from_the_targets(chat: RoleTokenChat) -> None:
    assert not any(chat.render_training([{**TALK[2], "train": False}]).mask)
    assert any(chat.render_training([TALK[2]]).mask)


def test_developer_is_system(chat: RoleTokenChat) -> None:
    assert chat.render([{"role": "developer", "content": "x"}]) == chat.render(
        [{"role": "system", "content": "x"}]
    )


def test_contents_of_every_kind(chat: RoleTokenChat) -> None:
    parts = [{"type": "text", "text": "the "}, {"type": "text", "text": "fish"}]
    assert text_of({"content": parts}, 0) == "the fish"
    assert text_of({"content": None}, 0) == ""
    assert text_of({}, 0) == ""
    assert chat.render([{"role": "assistant", "content": None}], add_generation_prompt=False)


def test_tool_calls_are_written_from_their_arguments(
    chat: RoleTokenChat, tokenizer: Tokenizer
) -> None:
    def message(arguments: Any) -> dict[str, Any]:
        call = {"type": "function", "function": {"name": "get_time", "arguments": arguments}}
        return {"role": "assistant", "content": None, "tool_calls": [call]}

    text = "<tool_call> get_time city: Oslo</tool_call>"
    assert text_of(message('{"city":"Oslo"}'), 0) == text
    assert text_of(message(' { "city" : "Oslo" } '), 0) == text
    assert text_of(message({"city": "Oslo"}), 0) == text
    assert text_of({**message({"n": 3}), "content": "Yes."}, 0).startswith("Yes.\n<tool_call>")
    assert tokenizer.special["<tool_call>"] in chat.render([message({"city": "Oslo"})])
    for broken in ("{", "[]", 3, '{"a": NaN}'):
        with pytest.raises(RequestError, match=r"messages\[7\].tool_calls"):
            text_of(message(broken), 7)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "owner", "content": "x"},
        {"role": None, "content": "x"},
        {"role": ["user"], "content": "x"},
        {"content": "x"},
        {"role": "user", "content": 3},
        {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
        {"role": "user", "content": [{"type": "text", "text": 3}]},
        {"role": "user", "content": ["x"]},
        {"role": "assistant", "tool_calls": [3]},
        {"role": "assistant", "tool_calls": [{"function": {"name": 3}}]},
    ],
)
def test_malformed_messages_are_named(chat: RoleTokenChat, message: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=r"messages\[1\]") as caught:
        chat.render([TALK[0], message])
    assert caught.value.param is not None


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["system", "user", "assistant", "tool"]),
            st.lists(st.sampled_from([*MARKS, "the fish", "\n", " ", "<|", "|>", "é"]), max_size=5),
        ),
        max_size=5,
    )
)
def test_nobody_can_end_a_turn_by_text(turns: list[tuple[str, list[str]]]) -> None:
    tokenizer = SentencePieceTokenizer(parse_model(train_tokenizer(), "t"), "t")
    chat = RoleTokenChat(tokenizer)
    messages = [{"role": role, "content": "".join(parts)} for role, parts in turns]
    ids = chat.render(messages, add_generation_prompt=False)
    marks = [tokenizer.piece(index) for index in ids if index in set(chat.stop_ids)]
    assert marks == [mark for role, _ in turns for mark in (ROLE_TOKENS[role], END)]


def test_rendering_more_only_appends(chat: RoleTokenChat) -> None:
    for count in range(len(TALK)):
        shorter = chat.render(TALK[:count], add_generation_prompt=False)
        assert chat.render(TALK)[: len(shorter)] == shorter


def test_the_built_in_model_is_trained_on_the_same_ids(chat: RoleTokenChat) -> None:
    from homebox.language.turns import Turn

    texts = ["the fish's tea\n12 über", "<tool_call> get_time city: Oslo</tool_call>", ""]
    document = [Turn("user", texts[0]), Turn("assistant", texts[1], True), Turn("tool", texts[2])]
    ids, targets = Vocabulary(train_tokenizer()).render(document)
    rendered = chat.render_training(
        [{"role": turn.role, "content": turn.content} for turn in document]
    )
    assert rendered.ids == ids
    assert rendered.mask == targets


def test_plain_models_continue_the_text() -> None:
    tokenizer = SentencePieceTokenizer(parse_model(train_tokenizer(marks=()), "t"), "t")
    chat = chat_format(tokenizer, 7, (2,))
    assert isinstance(chat, PlainChat)
    assert chat.render(TALK[:1]) == [7, *tokenizer.encode("the owner sings")]
    rendered = chat.render_training(TALK)
    assert len(rendered.ids) == len(rendered.mask)
    assert tokenizer.decode(rendered.ids[1 : rendered.spans[0].end]) == "the owner sings"
    assert chat.stop_ids == (2,)
    assert [span.role for span in rendered.spans] == [role_of(m, 0) for m in TALK]
