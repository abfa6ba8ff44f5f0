"""Answers are told apart into text, reasoning and calls, the same for every way of cutting them."""

import itertools
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import homebox.model
from homebox.model.answers import (
    AnswerParser,
    CallArguments,
    CallBegins,
    CallEnds,
    Event,
    Text,
    dialect_of,
    parser_for,
)
from homebox.model.answers.calls import MAX_CALLS
from homebox.model.answers.formats import FORMATS, THOUGHTS, WRAPPERS, Dialect
from homebox.model.answers.json_values import MAX_DEPTH, clean
from homebox.model.answers.reader import MAX_HELD, Marks
from homebox.model.answers.stream import merged
from homebox.model.answers.typed import quoted, typed
from homebox.model.tokenizer import load_tokenizer
from tests.null.answer_cases import (
    CASES,
    HERMES,
    J_OSLO,
    OSLO,
    TOOLS,
    Case,
    accounted,
    outcome,
    parse,
    parser,
)

TINY = Path(homebox.model.__file__).parent / "tiny"
EVERYTHING = Dialect(FORMATS, THOUGHTS, WRAPPERS)
NAMES = [f"{case.signs[:16]}: {case.name}" for case in CASES]
FRAGMENTS = sorted(
    {
        *(mark for form in FORMATS for mark in (*form.opens, *form.closes, *form.inner)),
        *(mark for pair in THOUGHTS for mark in pair),
        *(
            "{",
            "}",
            "[",
            "]",
            '"',
            ":",
            ", ",
            "\\",
            "\n",
            " ",
            "```json",
            "```",
            "é",
            "😀",
            "<",
            "\ud800",
        ),
        *(
            '{"name": "get_weather", "arguments": ',
            '{"city": "Oslo"}',
            "get_time",
            "get_weather",
            ">",
        ),
        *(
            "<parameter=city>",
            "</parameter>",
            "<arg_key>",
            "</arg_key>",
            "<arg_value>",
            "city: ",
            ";",
        ),
        *(
            "all\n",
            "assistant",
            "analysis",
            " to=functions.get_time",
            "function",
            "null",
            "1e5",
            ".call(",
        ),
    }
)


def one(text: str, **more: Any) -> Case:
    return Case("", HERMES, text, [], **more)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_answers_say_what_they_say(case: Case) -> None:
    events = parse(case, [case.text])
    assert outcome(events) == ([] if case.text == "" else case.outcome)
    assert accounted(events) == case.text


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_the_result_is_the_same_for_every_cut(case: Case) -> None:
    dice = random.Random(5)
    whole = merged(parse(case, [case.text]))
    for pieces in cuts(case.text, dice):
        assert merged(parse(case, pieces)) == whole, pieces


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_eager_parsing_has_the_same_result_for_every_cut(case: Case) -> None:
    dice = random.Random(6)
    whole = merged(parse(case, [case.text], eager=True))
    calls = [each for each in outcome(whole) if each[0] == "call"]
    assert calls == [each for each in case.outcome if each[0] == "call"]
    assert sorted(accounted(whole)) == sorted(case.text)
    for pieces in itertools.islice(cuts(case.text, dice), 40):
        assert merged(parse(case, pieces, eager=True)) == whole, pieces


def cuts(text: str, dice: random.Random) -> Iterator[list[str]]:
    """Yield ways of cutting: by character, in two, in three (all if it is short), at random."""
    yield list(text)
    yield ["", *itertools.chain.from_iterable((char, "") for char in text)]
    for cut in range(len(text)):
        yield [text[:cut], text[cut:]]
    places = range(1, len(text))
    pairs = list(itertools.combinations(places, 2)) if len(text) < 34 else []
    for _ in range(60 if len(text) > 33 else 0):
        pairs.append(tuple(sorted(dice.choices(places, k=2))))  # type: ignore[arg-type]
    for first, second in pairs:
        yield [text[:first], text[first:second], text[second:]]
    for _ in range(20):
        yield scattered(text, dice)


def scattered(text: str, dice: random.Random) -> list[str]:
    chosen = [place for place in range(len(text)) if dice.random() < 0.3]
    return [text[a:b] for a, b in itertools.pairwise([0, *chosen, len(text)])]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=3)), max_size=30),
    st.sampled_from(["", "<think>", ">>>"]),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_any_text_has_one_result(
    fragments: list[str], prompt: str, with_tools: bool, dice: random.Random
) -> None:
    text = "".join(fragments)

    def events(pieces: list[str], eager: bool = False) -> list[Any]:
        number = itertools.count()
        parsed = AnswerParser(
            EVERYTHING, TOOLS if with_tools else (), prompt, eager, lambda: f"id{next(number)}"
        )
        found = [event for piece in pieces for event in parsed.feed(piece)]
        return merged(found + parsed.end())

    whole = events([text])
    assert accounted(whole) == text
    assert events(list(text)) == whole
    assert events(scattered(text, dice)) == whole
    assert events(list(text), eager=True) == events([text], eager=True)
    outcome(whole)  # the arguments of every call are JSON


def test_the_cuts_find_a_parser_that_does_not_hold_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without holding back, a cut inside a mark changes the result."""
    monkeypatch.setattr(Marks, "held", lambda self, text, start: len(text))
    found = set()
    for case in CASES:
        whole = merged(parse(case, [case.text]))
        if merged(parse(case, list(case.text))) != whole:
            found.add(case.signs)
    assert len(found) > 8


def test_text_is_given_out_as_soon_as_it_cannot_be_a_mark() -> None:
    parsed = parser(one(""))
    assert parsed.feed("a <tool") == [Text("a")]
    assert parsed.feed("_call") == []
    assert parsed.feed("x") == [Text(" <tool_callx")]
    assert parsed.feed(" \n") == []
    assert parsed.feed("<") == []
    assert parsed.end() == [Text(" \n<")]
    assert parsed.feed("late") == [Text("late")]
    assert parsed.end() == []


@pytest.mark.parametrize(
    "dialect",
    [Dialect((), (), ()), Dialect((FORMATS[0],), (), ()), Dialect(FORMATS, THOUGHTS, WRAPPERS)],
    ids=["no marks", "one format", "everything"],
)
@pytest.mark.parametrize("tools", [[], TOOLS], ids=["no tools", "tools"])
def test_plain_words_are_never_held_back(dialect: Dialect, tools: list[Any]) -> None:
    parser = AnswerParser(dialect, tools)
    for word in ("I", "am", "at", "home"):
        assert parser.feed(word) == [Text(word)]


def test_text_that_might_be_a_bare_call_is_given_out_at_the_first_doubt() -> None:
    parsed = parser(Case("", "", "", []))
    assert parsed.feed('{"na') == []
    assert parsed.feed('tion"') == [Text('{"nation"')]


def test_eager_arguments_come_while_they_are_written() -> None:
    parsed = parser(one(""), eager=True)
    begun = parsed.feed('<tool_call>{"name": "run", "arguments": {"code": "a = ')
    assert begun == [CallBegins(0, "id0", "run"), CallArguments(0, '{"code": "a = ')]
    assert parsed.feed("1") == [CallArguments(0, "1")]
    broken = parsed.end()
    assert broken[0] == CallEnds(0, complete=False)
    assert not any(isinstance(event, Text) for event in broken)


def test_calls_are_numbered_and_have_ids() -> None:
    parsed = AnswerParser(dialect_of(HERMES), TOOLS)
    events = parsed.feed(f"<tool_call>{J_OSLO}</tool_call>" * 3)
    begun = [event for event in events if isinstance(event, CallBegins)]
    assert [event.index for event in begun] == [0, 1, 2]
    assert len({event.id for event in begun}) == 3
    assert all(event.id.isascii() and event.id.isalnum() for event in begun)
    assert all(len(event.id) == 9 for event in begun)


def test_bounds() -> None:
    call = f"<tool_call>{J_OSLO}</tool_call>"
    found = outcome(parse(one(""), [call * (MAX_CALLS + 2)]))
    assert found == [OSLO] * MAX_CALLS + [("text", call * 2)]

    def nested(depth: int) -> str:
        value = "[" * (depth - 1) + "]" * (depth - 1)
        return f'<tool_call>{{"name": "run", "arguments": {{"a": {value}}}}}</tool_call>'

    assert outcome(parse(one(""), [nested(MAX_DEPTH)]))[0][0] == "call"
    assert outcome(parse(one(""), [nested(MAX_DEPTH + 1)])) == [("text", nested(MAX_DEPTH + 1))]

    def long(size: int) -> str:
        start = '<tool_call>{"name": "run", "arguments": {"code": "'
        return start + "x" * (size - len(start) - 3) + '"}}'

    assert outcome(parse(one(""), [long(MAX_HELD)]))[0][0] == "call"
    assert outcome(parse(one(""), [long(MAX_HELD + 1)])) == [("text", long(MAX_HELD + 1))]
    text = "word " * (MAX_HELD // 4)
    assert outcome(parse(one(""), [text])) == [("text", text)]


@pytest.mark.parametrize(
    "unit",
    [
        "<",
        '{"a":',
        "<tool_call>",
        "<tool_call>{",
        '<tool_call>{"name":"',
        "<think>",
        " ",
        "\n<",
        "```",
    ],
)
def test_the_work_grows_with_the_length(unit: str) -> None:
    """Twice the text takes twice the calls of functions, whether it comes whole or by character."""
    for pieces in (lambda text: [text], list):
        few, many = (work(pieces(unit * count)) for count in (400, 1600))
        assert many < 5 * few + 200


def test_the_count_of_work_finds_a_parser_that_begins_anew() -> None:
    """The control: who parses all of the text for every piece works more on each."""

    class Anew(AnswerParser):
        text = ""

        def feed(self, text: str) -> list[Event]:
            self.text += text
            return AnswerParser(EVERYTHING, TOOLS).feed(self.text)

    few, many = (work(list("<tool_call>{" * count), Anew) for count in (10, 40))
    assert many > 5 * few + 200


def work(pieces: list[str], kind: type[AnswerParser] = AnswerParser) -> int:
    parsed = kind(EVERYTHING, TOOLS)
    count = 0

    def counting(*_: object) -> None:
        nonlocal count
        count += 1

    sys.setprofile(counting)
    try:
        for piece in pieces:
            parsed.feed(piece)
        parsed.end()
    finally:
        sys.setprofile(None)
    return count


def test_no_mark_hides_another() -> None:
    marks = AnswerParser(EVERYTHING, TOOLS).marks
    assert len(marks) > 40
    hidden = [(a, b) for a, b in itertools.permutations(marks, 2) if b.startswith(a)]
    assert hidden == []


@pytest.mark.parametrize(
    "text",
    [
        "1",
        "-0.5e-3",
        '"a\\n"',
        "[]",
        "{}",
        '[1, {"a": [true, false, null]}]',
        ' {"a": 1, "b": ""} ',
    ],
)
def test_valid_json_is_kept(text: str) -> None:
    assert json.loads(clean(text) or "") == json.loads(text)


NO_NUMBERS = "01 +1 1. .5 1e --1 nul True NaN Infinity -Infinity 1e400 /**/1".split()
NO_VALUES = '[1,] [,1] [1\t2] {,} {"a":} {"a"1} {1:2} {"a":1,} [ ] {] [} [1]] 1\t1'.split(" ")
NO_STRINGS = ['"', '"\\x"', '"\\u12g4"', '"\\ud800"', '"\\udc00"', '"\\ud800\\u0041"', "'a'"]
NO_MORE = ["", '{"a": 1, "a": 2}', "[" * 65 + "]" * 65, "1" * 321, '"\ud800"', '"\x01"']


@pytest.mark.parametrize("text", [*NO_NUMBERS, *NO_VALUES, *NO_STRINGS, *NO_MORE])
def test_what_is_no_json_is_refused(text: str) -> None:
    assert clean(text) is None


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='{}[]",:0123456789.eE+-truefalsn \\u\n\t', max_size=12))
def test_json_is_what_other_readers_take_for_it(text: str) -> None:
    cleaned = clean(text)
    if cleaned is not None:
        json.loads(cleaned)
        return
    try:
        value = json.loads(text, object_pairs_hook=lambda pairs: ("pairs", pairs))
    except ValueError:
        return
    # Python's reader takes more: keys twice, halves of pairs, numbers without bounds.
    assert "pairs" in repr(value) or "\\ud" in repr(value) or "inf" in repr(value)


def test_values_are_typed_by_their_schema() -> None:
    whole: list[tuple[str, Any, str]] = [
        ("7", {"type": "integer"}, "7"),
        ("7", {"type": "string"}, '"7"'),
        ("7", None, '"7"'),
        ("7", {"type": ["string", "null"]}, '"7"'),
        ("None", {"type": ["string", "null"]}, "null"),
        ("False", {"type": "boolean"}, "false"),
        (" [1] ", {"type": "array"}, "[1]"),
        ('{"a": 1}', {"$ref": "#/x"}, '{"a": 1}'),
        ("{'a': 'b\\x41\\u00e9\\n'}", {"type": "object"}, '{"a": "bAé\\n"}'),
        ("['a', __import__('os')]", {"type": "array"}, quoted("['a', __import__('os')]")),
        ("('a')", {"type": "array"}, quoted("('a')")),
        ("['\\ud800']", {"type": "array"}, quoted("['\\ud800']")),
        ("soon", {"anyOf": [{"type": "number"}, {"type": "null"}]}, '"soon"'),
        ("1", {"type": 5, "anyOf": 3}, '"1"'),
    ]
    for text, schema, expected in whole:
        assert typed(text, schema) == expected


def test_tools_of_any_shape_are_no_error() -> None:
    odd: list[Any] = [{}, {"function": 3}, {"function": {"name": 1}}, None, 5, {"name": "plain"}]
    odd += [{"function": {"name": "a", "parameters": {"properties": []}}}]
    text = "<tool_call> plain </tool_call>"
    assert outcome(parse(one(text, tools=odd), [text])) == [("call", "plain", {})]


def test_a_models_template_and_vocabulary_say_what_it_writes() -> None:
    tokenizer = load_tokenizer(TINY)
    assert dialect_of("...[TOOL_CALLS]...").formats != dialect_of("").formats
    assert dialect_of("", ["<|python_tag|>"]) == dialect_of("<|python_tag|>")
    assert "<tool_call>" in parser_for(tokenizer, TOOLS).marks
    assert parser_for(tokenizer).marks == frozenset()
