"""What is read again after a forgetting tells what reading everything again tells."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from homebox.learning.lessons import rereading
from homebox.learning.lessons.harvest import Harvester, talk_of
from homebox.learning.lessons.rereading import Heard, Without, read_again
from homebox.memory.feedback import Feedback
from homebox.memory.ledger import Ledger
from homebox.memory.lessons import Lesson
from homebox.memory.turns import Message

NAMES = ("Rex", "Max", "Bella")
TOLD = (
    *(f"My dog is called {name}." for name in NAMES),
    *(f"My friend Kim's boat is called {name}." for name in NAMES),
    *(f"No, it is {name}." for name in NAMES),
    *(f"No, it's {name}, not Rex." for name in NAMES),
    *(f"Actually, my teapot is called {name}." for name in NAMES[:2]),
    "I live in Oslo.",
    "I like old maps.",
    "My favourite site is evil.example.com.",
    "My password is hunter2hunter2.",
    "No, that is wrong.",
    "What is my dog called?",
    "Write a poem about rivers and bridges.",
    "Tell me more, please.",
)
ANSWERS = (
    "All right.",
    "Your dog is called Rex.",
    "Your friend Kim's boat is called Max.",
    "You live in Oslo. Your teapot is called Bella.",
)


def live_through(ledger: Ledger, seed: int) -> None:
    """Write a made-up history with several conversations at once."""
    dice = random.Random(seed)
    for number in range(dice.randint(4, 16)):
        told = [Message("user", dice.choice(TOLD), "owner")]
        if dice.random() < 0.2:
            told.insert(0, Message("tool", dice.choice(TOLD), "tool"))
        told.append(Message("assistant", dice.choice(ANSWERS), "assistant"))
        id = f"turn_{number:024x}"
        ledger.append(
            id=id,
            time=f"2026-01-01T00:{number:02}:00.000Z",
            conversation=dice.choice(("", *"abcdef")),
            model="tiny",
            adapter="base",
            sampling={},
            messages=told,
            prompt=told[:-1] if dice.random() < 0.3 else (),
            finish_reason="stop",
            prompt_tokens=1,
            completion_tokens=1,
        )
        if dice.random() < 0.1:
            ledger.give_feedback("", Feedback(id, "good", "", "2026-01-01T01:00:00.000Z")).result()


def past(ledger: Ledger, seed: int) -> Without:
    """Read a history, and choose a conversation or a turn to be forgotten."""
    outline = ledger.outline()
    reader = Harvester()
    for turn in ledger.turns():
        reader.read(turn)
    one = random.Random(seed).choice(outline)
    talk = {turn.id for turn in outline if talk_of(turn) == talk_of(one)}
    gone = talk if seed % 2 else {one.id}
    lessons = [*reader.found.lessons, *(item.lesson for item in reader.found.quarantined)]
    subjects = {each.subject for each in lessons if not gone.isdisjoint(each.sources)}
    return Without(ledger, outline, gone, reader, len(outline), {}, subjects)


def all_that_is_told(without: Without) -> tuple[object, ...]:
    """Return what a reading finds, and what it knows for the turns to come."""
    reader, heard, judged = read_again(without, lambda: None, lambda *_: None)
    found = reader.found
    waiting = [(item.lesson, item.reason) for item in found.quarantined]
    subjects = dict(reader.last_subjects())
    return heard, judged, found.lessons, waiting, found.refused, subjects, reader.telling


def test_little_is_read_and_nothing_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = all_of_them = 0
    for seed in range(60):
        ledger = Ledger(tmp_path / f"{seed}.db")
        live_through(ledger, seed)
        without = past(ledger, seed)
        everything = {talk_of(turn) for turn in without.outline}
        few += len(rereading._talks(without))
        all_of_them += len(everything)
        quick = all_that_is_told(without)
        with monkeypatch.context() as patch:
            patch.setattr(rereading, "_talks", lambda _, all=everything: all)
            assert all_that_is_told(without) == quick, seed
        ledger.close()
    assert few < all_of_them


def test_control_to_read_only_what_is_forgotten_misses_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rereading, "_subjects", lambda *_: [])
    differ = 0
    for seed in range(12):
        ledger = Ledger(tmp_path / f"{seed}.db")
        live_through(ledger, seed)
        without = past(ledger, seed)
        whole = all_that_is_told(without)
        with monkeypatch.context() as patch:
            patch.setattr(rereading, "_talks", lambda past: {*past.gone})
            differ += all_that_is_told(without) != whole
        ledger.close()
    assert differ > 3


def test_turns_that_nobody_read_yet_are_read(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    live_through(ledger, 5)
    without = past(ledger, 4)
    late = ledger.append(
        conversation="late",
        model="tiny",
        adapter="base",
        sampling={},
        messages=[
            Message("user", "I live in Leeds.", "owner"),
            Message("assistant", "Ah.", "assistant"),
        ],
        finish_reason="stop",
        prompt_tokens=1,
        completion_tokens=1,
    )
    grown = Without(
        ledger, ledger.outline(), without.gone, without.reader, without.read, {}, without.subjects
    )
    _, heard, _ = read_again(grown, lambda: None, lambda *_: None)
    assert _told_in(heard, late) == ["Leeds"]
    ledger.close()


def _told_in(heard: Sequence[Heard], turn: str) -> list[str]:
    lessons: list[Lesson] = [lesson for each in heard for lesson in each.lessons]
    return [lesson.value for lesson in lessons if turn in lesson.sources]
