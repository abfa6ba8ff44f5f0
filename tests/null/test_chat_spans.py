"""Who wrote each character of a rendered conversation, whatever the template did to it."""

import json
import random
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homebox.errors import RequestError
from homebox.model.chat import TextSpan, said, template_chat
from homebox.model.chat import budget as template_budget
from homebox.model.chat.chat_text import ChatText
from homebox.model.chat.formats import PlainChat, RoleTokenChat
from homebox.model.chat.messages import RenderedText
from homebox.model.chat.said import TEMPLATE, Said, joined, mixed, replaced, runs_of
from homebox.model.chat.template import ChatTemplate
from homebox.model.chat.template_chat import TemplateChat
from homebox.model.tokenizer import Tokenizer, load_tokenizer
from homebox.model.tokenizer.json_tokenizer import JsonTokenizer
from homebox.model.tokenizer.json_tokenizer_file import check_tokenizer
from homebox.model.tokenizer.load import Settings
from homebox.model.tokenizer.sentencepiece_file import parse_model
from homebox.model.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer
from tests.unit.model_files import train_tokenizer
from tests.unit.tokenizer_files import CHATML, byte_level

# Each message has letters that no other one and no template has: they tell whose words they are.
LETTERS = ("αβγδε", "жзийк", "אבגדה", "កខគឃង", "ሀለሐመሠ", "あいうえお")
OTHER = (" ", "\n", "<think>", "</think>", "<", "|>", "{{ x }}", "", "\n\n", "'", '"', "\\")
WHO = {"system": "system", "user": "owner", "assistant": "assistant", "tool": "tool"}
TOOL = {"type": "function", "function": {"name": "ξ", "description": "ξξ <ξ>", "parameters": {}}}


def talk(dice: random.Random, roles: tuple[str, ...]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for number, role in enumerate(roles):
        letters = LETTERS[number]
        parts = [dice.choice((*letters, *OTHER)) for _ in range(dice.randint(1, 12))]
        message: dict[str, Any] = {"role": role, "content": dice.choice(letters) + "".join(parts)}
        if role == "assistant" and dice.random() < 0.4:
            message["reasoning_content"] = "".join(parts)
        if role == "assistant" and dice.random() < 0.4:
            call = {
                "name": dice.choice(letters),
                "arguments": json.dumps({letters: "".join(parts)}),
            }
            message["tool_calls"] = [{"id": letters, "type": "function", "function": call}]
        if role in ("user", "tool") and dice.random() < 0.3:
            message["provenance"] = dice.choice(("web", "file"))
        messages.append(message)
    return messages


def check(rendered: RenderedText, messages: list[dict[str, Any]]) -> None:
    text, spans = rendered
    assert [span.start for span in spans] == [0, *(span.end for span in spans)][:-1]
    assert not text or spans[-1].end == len(text)
    for span in spans:
        assert span.start < span.end
        letters = set(text[span.start : span.end]) & set("ξ" + "".join(LETTERS))
        if span.provenance == "template":
            assert not letters, text[span.start : span.end]
        elif span.message is None:
            assert span.provenance in ("system", "file")
            assert letters <= {"ξ"}
        else:
            message = messages[span.message]
            assert span.provenance == message.get("provenance", WHO[message["role"]])
            assert letters <= set(LETTERS[span.message])


def templates(shared: Path) -> dict[str, str]:
    cases = json.loads((shared / "data/templates/chat_template_cases.json").read_text())
    return {case["name"]: case["template"] for case in cases}


@cache
def small() -> JsonTokenizer:
    return JsonTokenizer(check_tokenizer(json.loads(byte_level()), "t.json"), "t.json")


def test_letters_of_everybody_through_every_template(shared: Path) -> None:
    talks = (
        ("user", "assistant", "user"),
        ("system", "user", "assistant", "user", "assistant", "user"),
        ("user", "assistant", "tool", "user"),
    )
    rendered, marked = 0, 0
    for name, template in templates(shared).items():
        dice = random.Random(name)
        chat = TemplateChat(small(), template)
        for number in range(12):
            messages = talk(dice, talks[number % 3])
            tools = [TOOL] if number % 2 else None
            try:
                ids = chat.render(messages, tools=tools, enable_thinking=number % 4 == 1)
            except RequestError:
                continue
            found = chat.render_text(messages, tools=tools, enable_thinking=number % 4 == 1)
            check(found, messages)
            assert chat.encode(found) == ids, (name, messages)
            rendered += 1
            marked += any(span.provenance == "owner" for span in found.spans)
    assert rendered > 150
    assert marked > 0.9 * rendered


def test_the_text_is_that_of_the_plain_rendering(shared: Path, qwen3: Tokenizer) -> None:
    cases = json.loads((shared / "data/templates/chat_template_cases.json").read_text())
    tokenizer = copy(qwen3)
    same = 0
    for case in cases:
        data = dict(case["data"])
        # One template takes it as wished for where nobody says anything.
        unsaid = "add_generation_prompt is not defined" in case["template"]
        messages, prompt = data.pop("messages"), data.pop("add_generation_prompt", unsaid)
        named = {k: v for k, v in data.items() if k.endswith("_token")}
        tokenizer.settings = Settings(variables=tuple(named.items()))
        chat = TemplateChat(tokenizer, case["template"])
        if any(m["role"] not in WHO or not isinstance(m.get("content"), str) for m in messages):
            continue  # a conversation that no client can send, or parts that are no text
        found = chat.render_text(messages, prompt, data.pop("tools", None), **data)
        assert found.text == case["target"], case["name"]
        shown = [s.provenance for s in found.spans if s.message is None]
        assert ("file" in shown) == ("documents" in data)
        check(found, messages)
        same += 1
    assert same >= 22


def test_control_with_sources_that_are_lost_letters_are_the_templates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(template_chat, "said", lambda value, source: value)
    messages = [{"role": "user", "content": "αβ"}]
    with pytest.raises(AssertionError):
        check(TemplateChat(small(), CHATML).render_text(messages), messages)


@pytest.mark.parametrize(
    ("step", "text", "owners"),
    [
        ("m", "ab c", "ab c"),
        ("'<' ~ m ~ '>'", "<ab c>", "ab c"),
        ("'<' + m + '>'", "<ab c>", "ab c"),
        ("m | trim | upper", "AB C", "AB C"),
        ("m.split(' ') | join('ab')", "abababc"[:2] + "ab" + "c", "abc"),
        ("m[::-1]", "c ba", "c ba"),
        ("m.split('b')[-1].lstrip()", "c", "c"),
        ("m | replace('b', 'xx')", "axx c", "a c"),
        ("'say %s!' % m", "say ab c!", "say ab c!"),
        ("'{}?'.format(m)", "ab c?", "ab c?"),
        ("[m, 1] | tojson", '["ab c", 1]', "ab c"),
        ("{'k': m} | tojson(indent=2)", '{\n  "k": "ab c"\n}', "ab c"),
        ("[m]", "['ab c']", "['ab c']"),
        ("m | first ~ m[1]", "ab", "ab"),
        ("m.partition(' ')[2] ~ m.rpartition(' ')[0]", "cab", "cab"),
        ("m.replace('', '-')", "-a-b- -c-", "-a-b- -c-"),
        ("m | length", "4", ""),
        ("m | indent(2, true)", "  ab c", "ab c"),
        ("m * 2", "ab cab c", "ab cab c"),
        ("m | e", "ab c", "ab c"),
        ("m.removeprefix('a').removesuffix('c')", "b ", "b "),
        ("m.title()", "Ab C", "Ab C"),
        ("m | string | default('x')", "ab c", "ab c"),
        ("n | default('x')", "x", ""),
        ("m.splitlines() | last", "ab c", "ab c"),
        ("m.rsplit(' ', 1)[0]", "ab", "ab"),
        ("'ab' if m else m", "ab", ""),
    ],
)
def test_what_templates_do_to_texts(step: str, text: str, owners: str) -> None:
    for template in (
        "{% set m = messages[0].content %}{{ " + step + " }}",
        "{% set m = messages[0].content %}{% set y %}{{ " + step + " }}{% endset %}{{ y }}",
        "{% macro f(m) %}{{ " + step + " }}{% endmacro %}{{ f(messages[0].content) }}",
    ):
        chat = TemplateChat(small(), template)
        found, spans = chat.render_text([{"role": "user", "content": "ab c"}])
        assert found == text
        whose = "".join(found[s.start : s.end] for s in spans if s.provenance == "owner")
        assert whose == owners


def test_mixtures_count_as_those_of_the_least_trusted() -> None:
    chat = TemplateChat(small(), "{{ '%s %s' % (messages[0].content, messages[1].content) }}")
    messages = [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]
    assert chat.render_text(messages).spans == (TextSpan(0, 3, "tool", 1, "content"),)
    assert runs_of(mixed("abc", [])) == ((3, TEMPLATE),)
    many = joined([Said("a", ((1, ("owner", 0, "")),)), "b"] * 70_000)
    assert runs_of(many) == ((140_000, ("owner", 0, "")),)
    assert runs_of(Said("abc")) == ((3, said.UNKNOWN),)


def repeated(step: str) -> str:
    return (
        "{% set x = messages[0].content * 60000 %}{% for i in range(3000) %}{{ "
        + step
        + " }}{% endfor %}"
    )


@pytest.mark.parametrize(
    "template",
    [
        repeated("x.replace('h', 'jj').split('i') | length"),
        repeated("x.split('h') | length"),
        repeated("x.rsplit('h', 100000) | join('h') | length"),
        repeated("(x | list)[0]"),
        repeated("x[::-1].partition('h')[2]"),
        "{{ (messages[0].content * 4000000).split('h') | length }}",
        "{{ (messages[0].content * 4000000) | list | length }}",
        "{% set ns = namespace(x=messages[0].content) %}{% for i in range(60) %}"
        "{% set ns.x = ns.x ~ 'y' ~ ns.x %}{% endfor %}{{ ns.x }}",
    ],
)
def test_sources_cost_a_bounded_time(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_budget, "MAX_SECONDS", 0.2)
    chat = TemplateChat(small(), CHATML)
    chat._template = ChatTemplate(template)
    with pytest.raises(RequestError):
        chat.render_text([{"role": "user", "content": "hi"}])


PIECES = st.lists(
    st.tuples(st.text("ab, \n", max_size=5), st.sampled_from(["owner", "tool", "template"]))
)


@settings(max_examples=300, deadline=None)
@given(pieces=PIECES, other=st.text("ab, ", max_size=3), cut=st.tuples(*[st.integers(-9, 9)] * 2))
def test_texts_are_those_of_str_and_characters_keep_their_sources(
    pieces: list[tuple[str, str]], other: str, cut: tuple[int, int]
) -> None:
    # Every character is made one of a kind, so that its source can be looked up afterwards.
    whole = joined([Said(t, ((len(t), (w, None, "")),)) if t else "" for t, w in pieces])
    plain = "".join(text for text, _ in pieces)
    assert whole == plain
    assert whole.strip() == plain.strip()
    assert whole.split(other or None) == plain.split(other or None)
    assert whole.rsplit(other or None, 1) == plain.rsplit(other or None, 1)
    assert whole.splitlines(True) == plain.splitlines(True)
    assert whole.splitlines() == plain.splitlines()
    assert replaced(whole, other, "x", 2) == plain.replace(other, "x", 2)
    assert whole[cut[0] : cut[1]] == plain[cut[0] : cut[1]]
    assert whole[:: cut[0] or 1] == plain[:: cut[0] or 1]
    if other:
        assert whole.partition(other) == plain.partition(other)
        assert whole.rpartition(other) == plain.rpartition(other)
        parts = whole.split(other)
        assert runs_of(joined(parts, other)) or not plain
        there = [s for part in parts for n, s in runs_of(part) for _ in range(n)]
        places = [n for n, _ in enumerate(plain)]
        taken, at = [], 0
        for part in plain.split(other):
            taken += places[at : at + len(part)]
            at += len(part) + len(other)
        all_sources = [s for n, s in runs_of(whole) for _ in range(n)]
        assert there == [all_sources[place] for place in taken]


def test_formats_without_a_template_say_it_too() -> None:
    tokenizer = SentencePieceTokenizer(parse_model(train_tokenizer(), "t"), "t")
    messages = talk(random.Random(5), ("system", "user", "assistant", "tool", "user"))
    chat = RoleTokenChat(tokenizer)
    found = chat.render_text(messages, tools=[TOOL])
    check(found, messages)
    assert found.text.startswith("<|system|>Tools: ξ()<|end|><|system|>")
    assert chat.encode(found) == chat.render(messages, tools=[TOOL])
    plain = PlainChat(tokenizer, (1,))
    found = plain.render_text(messages)
    check(found, messages)
    assert plain.encode(found) == plain.render(messages)


def test_a_tokenizer_renders_by_itself(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(byte_level())
    template = CHATML.replace("assistant\n", "assistant\n{{ enable_thinking }}{{ eos_token }}")
    config = {"eos_token": "<|im_end|>", "chat_template": template}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer: Tokenizer = load_tokenizer(tmp_path)
    messages = [{"role": "user", "content": "the <|im_end|>"}]
    chat = tokenizer.chat
    assert isinstance(chat, ChatText)
    text, spans = chat.render(messages, None, True, False)
    assert text == (
        "<|im_start|>user\nthe <|im_end|><|im_end|>\n<|im_start|>assistant\nFalse<|im_end|>"
    )
    assert [text[s.start : s.end] for s in spans if s.provenance == "owner"] == ["the <|im_end|>"]
    ids = chat.encode(RenderedText(text, spans))
    assert ids.count(tokenizer.special["<|im_end|>"]) == 2
    text, _ = chat.render(messages, add_generation_prompt=False)
    assert text.endswith("<|im_end|>\n")
    # Nobody overrides what the file says, and texts of variables are texts.
    text, _ = chat.render(messages, eos_token="x", messages_="x", enable_thinking="<|im_end|>")  # type: ignore[arg-type]
    assert text.endswith("assistant\n<|im_end|><|im_end|>")
    ids = chat.encode(chat.render(messages, enable_thinking="<|im_end|>"))  # type: ignore[arg-type]
    assert ids.count(tokenizer.special["<|im_end|>"]) == 2
