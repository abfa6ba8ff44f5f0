"""Answers that make no sense: the parser never raises, loses nothing, and is done in time.

Seeded: the same cases in every run. `pytest -m whole tests/fuzz` runs many more.
"""

import itertools
import random
import time

import pytest

from homebox.model.answers import AnswerParser, Event
from homebox.model.answers.json_values import read_value
from homebox.model.answers.reader import Reader
from homebox.model.answers.stream import merged
from tests.null.answer_cases import CASES, TOOLS, accounted, outcome
from tests.null.test_answers import EVERYTHING, FRAGMENTS, scattered

COUNT, WHOLE = 1500, 100_000
LIMIT = 0.05  # seconds of this thread for a case
FLOOD = 1_000_000  # characters
FLOOD_LIMIT = 2.0  # seconds of this thread

PROMPTS = ["", "<think>", ">>>", "<|start|>assistant", "[THINK]\n", "x"]
FLOODS = ["<", '{"a":', '{"', "[", "<think", "\n", "\\", '"', "</", "`", "\u25c1", "<tool_call>{"]


def damaged(dice: random.Random) -> str:
    """Return an answer that was one, with something taken out, put in, doubled or swapped."""
    text = dice.choice(CASES).text
    for _ in range(dice.choice([1, 1, 2, 3, 6])):
        a, b = sorted(dice.randrange(len(text) + 1) for _ in range(2))
        kind = dice.randrange(5)
        if kind == 0:
            text = text[:a] + text[b:]
        elif kind == 1:
            text = text[:a] + dice.choice(FRAGMENTS) + text[a:]
        elif kind == 2:
            text = text[:b] + text[a:]
        elif kind == 3:
            text = text[:a] + dice.choice(CASES).text + text[a:]
        else:
            text = text[:a] + "".join(chr(dice.randrange(0x3000)) for _ in range(4)) + text[b:]
    return text


def parsed(pieces: list[str], prompt: str, tools: bool, eager: bool) -> list[Event]:
    number = itertools.count()
    parser = AnswerParser(
        EVERYTHING, TOOLS if tools else (), prompt, eager, lambda: f"id{next(number)}"
    )
    events = [event for piece in pieces for event in parser.feed(piece)]
    return merged(events + parser.end())


def seconds(text: str, prompt: str, tools: bool, eager: bool) -> float:
    """Return the time of a case; of three where the first is long, the shortest."""
    spent = []
    while not spent or (min(spent) >= LIMIT and len(spent) < 3):
        begin = time.thread_time()
        parsed([text], prompt, tools, eager)
        spent.append(time.thread_time() - begin)
    return min(spent)


def run(count: int, seed: int) -> None:
    dice = random.Random(seed)
    calls = broken = 0
    for _ in range(count):
        text, prompt = damaged(dice), dice.choice(PROMPTS)
        tools, eager = dice.random() < 0.9, dice.random() < 0.3
        whole = parsed([text], prompt, tools, eager)
        assert seconds(text, prompt, tools, eager) < LIMIT, (text, prompt)
        assert parsed(scattered(text, dice), prompt, tools, eager) == whole, (text, prompt)
        if eager:
            assert sorted(accounted(whole)) == sorted(text)
        else:
            assert accounted(whole) == text
        found = outcome(whole)
        calls += any(each[0] == "call" for each in found)
        broken += any(each[0] == "broken" for each in found)
        assert tools or not any(each[0] in ("call", "broken") for each in found)
    assert calls > count // 10
    assert broken > 0


def test_damaged_answers_are_told_apart() -> None:
    run(COUNT, 21)


@pytest.mark.whole
def test_many_damaged_answers_are_told_apart() -> None:
    run(WHOLE, 22)


@pytest.mark.parametrize("unit", FLOODS)
def test_floods_are_done_in_time(unit: str) -> None:
    text = unit * (FLOOD // len(unit))
    for prompt in ("", "<think>"):
        begin = time.thread_time()
        events = parsed([text], prompt, True, False)
        assert time.thread_time() - begin < FLOOD_LIMIT
        assert accounted(events) == text


def test_the_fuzzer_finds_json_that_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a reader of strings that lets everything through gives out what is no JSON."""

    def careless(reader: Reader, give: object) -> object:
        yield from read_value(reader, lambda piece: give(piece.replace(":", "")))  # type: ignore[operator]

    monkeypatch.setattr("homebox.model.answers.json_formats.read_value", careless)
    with pytest.raises((ValueError, AssertionError)):
        run(200, 21)
