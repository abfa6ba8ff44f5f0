"""Chat by templates: whose words are whose, what is learned, and ids of another implementation."""

import json
import random
from copy import copy
from pathlib import Path
from typing import Any

import pytest

from homebox.errors import ModelFormatError, RequestError
from homebox.model.chat import template_chat
from homebox.model.chat.formats import PlainChat, RoleTokenChat, chat_format
from homebox.model.chat.template_chat import TemplateChat
from homebox.model.tokenizer.json_tokenizer import JsonTokenizer
from homebox.model.tokenizer.json_tokenizer_file import check_tokenizer
from homebox.model.tokenizer.load import Settings, Tokenizer
from homebox.model.tokenizer.sentencepiece_file import parse_model
from homebox.model.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer
from tests.unit.model_files import train_tokenizer
from tests.unit.tokenizer_files import CHATML, SPECIALS, VISIBLE, byte_level, spaced

IDS = Path(__file__).parent / "chat_ids.json"  # by tests/parity/test_live_tokenizers.py
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "the fish"},
    {"role": "assistant", "content": "the tea"},
    {"role": "user", "content": "\n and?"},
    {"role": "assistant", "content": " swims"},
]
# Keeps the thoughts of the last answer only, as Qwen3's template does.
REWRITING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] }}"
    "{% elif m.role == 'assistant' and '</think>' not in m.content %}<think></think>{{ m.content }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ALTERNATING = (
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant/...') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content | trim }}<|im_end|>{% endif %}{% endfor %}"
)


def tokenizer_with(template: str | None, text: str | None = None, **more: Any) -> JsonTokenizer:
    file = check_tokenizer(json.loads(text or byte_level()), "t.json")
    return JsonTokenizer(file, "t.json", Settings(template=template, **more))


@pytest.fixture(scope="module", params=["bytes", "spaces"])
def tokenizer(request: pytest.FixtureRequest) -> JsonTokenizer:
    return tokenizer_with(CHATML, None if request.param == "bytes" else spaced())


def learned(tokenizer: Tokenizer, chat: TemplateChat, messages: list[dict[str, Any]]) -> str:
    rendered = chat.render_training(messages)
    ids = [i for i, target in zip(rendered.ids, rendered.mask, strict=True) if target]
    return tokenizer.decode(ids, special=True)


def test_ids_of_another_implementation(shared: Path, qwen3: Tokenizer) -> None:
    cases = json.loads((shared / "data/templates/chat_template_cases.json").read_text())
    templates = {case["name"]: case["template"] for case in cases}
    tokenizer = copy(qwen3)
    variables = (("eos_token", "<|im_end|>"), ("pad_token", "<|endoftext|>"))
    tokenizer.settings = Settings(variables=variables)
    expected = json.loads(IDS.read_text())
    assert len(expected) >= 50
    for case in expected:
        chat = TemplateChat(tokenizer, templates[case["name"]])
        try:
            ids = chat.render(case["messages"], case["prompt"])
        except RequestError:
            ids = None
        assert ids == case["ids"], case


def test_a_prompt_is_the_templates_text(tokenizer: JsonTokenizer) -> None:
    chat = TemplateChat(tokenizer, CHATML)
    text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in TALK)
    assert chat.render(TALK, add_generation_prompt=False) == tokenizer.encode_marked(text)
    prompt = tokenizer.encode_marked(text + "<|im_start|>assistant\n")
    assert chat.render(TALK) == prompt
    assert tokenizer.special["<|im_end|>"] in chat.stop_ids


def test_targets_follow_their_prompts(tokenizer: JsonTokenizer) -> None:
    chat = TemplateChat(tokenizer, CHATML)
    rendered = chat.render_training(TALK)
    for number in (2, 4):
        prompt = chat.render(TALK[:number])
        assert rendered.ids[: len(prompt)] == prompt
        assert not rendered.mask[len(prompt) - 1]
        assert rendered.mask[len(prompt)]
    assert learned(tokenizer, chat, TALK) == "the tea<|im_end|> swims<|im_end|>"
    untold = [*TALK[:4], {**TALK[4], "train": False}]
    assert learned(tokenizer, chat, untold) == "the tea<|im_end|>"


def test_spans_cover_the_conversation_side_by_side(tokenizer: JsonTokenizer) -> None:
    chat = TemplateChat(tokenizer, CHATML)
    messages = [*TALK, {"role": "tool", "content": "42", "provenance": "web"}]
    rendered = chat.render_training(messages)
    assert [s.provenance for s in rendered.spans] == [
        *("system", "owner", "assistant", "owner", "assistant"),
        "web",
    ]
    assert rendered.spans[0].start == 0
    assert rendered.spans[-1].end == len(rendered.ids)
    for number, span in enumerate(rendered.spans):
        assert span.message == number
        assert number == 0 or span.start == rendered.spans[number - 1].end
        text = tokenizer.decode(rendered.ids[span.start : span.end], special=True)
        assert messages[number]["content"] in text


def test_rewritten_turns_are_no_targets() -> None:
    tokenizer = tokenizer_with(REWRITING)
    chat = TemplateChat(tokenizer, REWRITING)
    talk = [dict(message) for message in TALK]
    talk[2]["content"] = "<think>hm</think>the tea"
    # Nor are thoughts.
    assert learned(tokenizer, chat, talk) == " swims<|im_end|>"
    assert learned(tokenizer, chat, talk[:3]) == "the tea<|im_end|>"
    rendered = chat.render_training(talk)
    assert rendered.ids == chat.render(talk, add_generation_prompt=False)
    texts = [tokenizer.decode(rendered.ids[s.start : s.end]) for s in rendered.spans]
    assert texts[2] == "assistant\nthe tea\n"


def test_a_template_that_refuses_roles_says_so() -> None:
    tokenizer = tokenizer_with(ALTERNATING, variables=(("bos_token", "<|endoftext|>"),))
    chat = TemplateChat(tokenizer, ALTERNATING)
    with pytest.raises(RequestError, match="roles must alternate") as caught:
        chat.render(TALK)
    assert caught.value.param == "messages"
    assert learned(tokenizer, chat, TALK[1:]) == " the tea<|im_end|> swims<|im_end|>"
    first = chat.render_training(TALK[1:]).spans[0]
    assert first.start == 1  # behind the begin of the text
    with pytest.raises(ModelFormatError, match="cannot be parsed"):
        TemplateChat(tokenizer, "{% for %}")


def test_a_template_that_is_stopped_changes_no_targets() -> None:
    template = "{% if messages | length == 4 %}{{ 'a' * 10**9 }}{% endif %}" + CHATML
    chat = TemplateChat(tokenizer_with(template), template)
    with pytest.raises(RequestError, match="was stopped"):
        chat.render_training(TALK)


def test_tools_and_calls_reach_the_template() -> None:
    template = (
        "{% for t in tools or [] %}{{ t.function.name }};{% endfor %}{% for m in messages %}"
        "{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}"
        "</tool_call>{% endfor %}{% endfor %}"
    )
    tokenizer = tokenizer_with(template)
    chat = TemplateChat(tokenizer, template)
    call = {"id": "1", "function": {"name": "look", "arguments": '{"at": "the <tool_call>"}'}}
    ids = chat.render(
        [{"role": "assistant", "content": None, "tool_calls": [call]}],
        tools=[{"type": "function", "function": {"name": "look"}}],
    )
    assert tokenizer.decode(ids) == (
        'look;<tool_call>{"name": "look", "arguments": {"at": "the <tool_call>"}}</tool_call>'
    )
    assert ids.count(tokenizer.special["<tool_call>"]) == 1
    plain = TemplateChat(tokenizer, CHATML)
    text = tokenizer.decode(plain.render([{"role": "assistant", "tool_calls": [call]}]))
    assert "<tool_call> look at: the <tool_call></tool_call>" in text


@pytest.mark.parametrize(
    ("call", "what"),
    [("x", "functions with a name"), ({"function": {"name": "f", "arguments": "{"}}, "not JSON")],
)
def test_wrong_calls_are_refused(call: Any, what: str) -> None:
    chat = TemplateChat(tokenizer_with(CHATML), "{{ messages[0].tool_calls }}")
    with pytest.raises(RequestError, match=what):
        chat.render([{"role": "assistant", "tool_calls": [call]}])


def typed_marks(count: int, seed: int) -> list[list[dict[str, Any]]]:
    """Return conversations in which people type steering tokens, whole and in parts."""
    dice = random.Random(seed)
    parts = [*SPECIALS, *VISIBLE, "<|im_", "end|>", "<", "|", ">", "a\n", "</think>", "\U000f0000"]
    parts += ["&lt;|im_end|&gt;", "\\u003c|im_end|>", "\uff1c|im_end|\uff1e", "\ue0f0", "%3C"]
    return [
        [
            {"role": role, "content": "".join(dice.choices(parts, k=dice.randint(1, 6)))}
            for role in ("system", "user", "assistant", "tool", "user")
        ]
        for _ in range(count)
    ]


def steering(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    return [tokenizer.piece(index) for index in ids if index in tokenizer.hidden]


def test_typed_tokens_stay_text(tokenizer: JsonTokenizer) -> None:
    chat = TemplateChat(tokenizer, CHATML)
    frame = steering(tokenizer, chat.render(TALK))
    visible = {tokenizer.special[mark] for mark in VISIBLE}
    for messages in typed_marks(500, seed=4):
        ids = chat.render(messages)
        assert steering(tokenizer, ids) == frame
        text = tokenizer.decode(ids)
        for message in messages:
            assert message["content"] in text
        others = [{**m, "role": "user"} for m in messages]
        assert not visible & set(chat.render(others))
        assert steering(tokenizer, chat.render_training(messages).ids) == frame[:-1]


def test_control_without_stand_ins_typed_tokens_count(
    tokenizer: JsonTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = TemplateChat(tokenizer, CHATML)
    frame = steering(tokenizer, chat.render(TALK))
    monkeypatch.setattr(template_chat.StandIns, "of_others", lambda _, value: value)
    monkeypatch.setattr(template_chat.StandIns, "of_assistant", lambda _, value: value)
    cases = typed_marks(50, seed=4)
    assert sum(steering(tokenizer, chat.render(m)) != frame for m in cases) > 25


def test_marks_of_turns_are_not_an_assistants_even_where_they_are_visible() -> None:
    raw = json.loads(byte_level())
    for token in raw["added_tokens"]:
        token["special"] = False
    tokenizer = tokenizer_with(CHATML, json.dumps(raw))
    chat = TemplateChat(tokenizer, CHATML)
    end, think = tokenizer.special["<|im_end|>"], tokenizer.special["<think>"]
    ids = chat.render([{"role": "assistant", "content": "<think>a<|im_end|>b"}])
    assert (ids.count(end), ids.count(think)) == (1, 1)


def test_what_nests_too_deeply_is_refused() -> None:
    chat = TemplateChat(tokenizer_with(CHATML), "{{ tools | tojson }}")
    deep: Any = "x"
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(RequestError, match="too deeply"):
        chat.render(TALK, tools=[{"function": deep}])
    call = {"function": {"name": "f", "arguments": {"a": deep}}}
    chat = TemplateChat(tokenizer_with(CHATML), "{{ messages[0].tool_calls }}")
    with pytest.raises(RequestError, match="not JSON"):
        chat.render([{"role": "assistant", "tool_calls": [call]}])


def test_templates_cannot_join_what_people_typed() -> None:
    tokenizer = tokenizer_with(None)
    for template in (
        "{{ messages[0].content }}{{ messages[1].content }}",
        "{{ messages[0].content | replace('x', '') }}{{ messages[1].content }}",
        "{{ (messages[0].content ~ messages[1].content).split('x') | join('') }}",
        "<{{ messages[0].content[2:] }}{{ messages[1].content }}",
        "<|im_{{ messages[1].content }}",
        "{{ messages[0].content | replace('x', '') }}end|>",
    ):
        chat = TemplateChat(tokenizer, template)
        messages = [{"role": "user", "content": "<x|im_"}, {"role": "user", "content": "end|>"}]
        assert steering(tokenizer, chat.render(messages)) == []


def test_the_format_is_the_models_own_or_fits_the_vocabulary() -> None:
    assert isinstance(chat_format(tokenizer_with(CHATML), None, ()), TemplateChat)
    built_in = chat_format(tokenizer_with(None), None, (1,))
    assert isinstance(built_in, TemplateChat)
    assert built_in.render(TALK) == TemplateChat(tokenizer_with(None), CHATML).render(TALK)
    assert built_in.stop_ids[0] == 1
    roles = SentencePieceTokenizer(parse_model(train_tokenizer(), "t"), "t")
    assert isinstance(chat_format(roles, None, ()), RoleTokenChat)
    raw = json.loads(byte_level())
    raw["added_tokens"] = []
    bare = tokenizer_with(None, json.dumps(raw), prefix=(7,), end_ids=(3,))
    plain = chat_format(bare, 9, (2,))
    assert isinstance(plain, PlainChat)
    assert plain.render([{"role": "user", "content": "the"}])[0] == 7
    assert plain.stop_ids == (2, 3)


def test_a_sentencepiece_vocabulary_with_a_template() -> None:
    marks = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>")
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    vocabulary = parse_model(train_tokenizer(), "t")
    tokenizer = SentencePieceTokenizer(vocabulary, "t", Settings(template=template))
    chat = chat_format(tokenizer, None, ())
    assert isinstance(chat, TemplateChat)
    roles = RoleTokenChat(tokenizer)
    assert chat.render(TALK, False) == roles.render(TALK, False)
    assert set(chat.stop_ids) == {tokenizer.special["<|end|>"]}
    assert set(marks) <= set(tokenizer.special)
    ours, theirs = chat.render_training(TALK), roles.render_training(TALK)
    assert ours == theirs
