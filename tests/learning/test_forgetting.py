"""What is forgotten leaves nothing: the state is that of a box that never heard of it."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from homebox.errors import StateError, UsageError
from homebox.learning.lessons import forgetting
from homebox.learning.lessons.forgetting import Target, forget, target_of
from homebox.learning.lessons.live import live_lessons
from homebox.learning.lessons.selection import Selection, select
from homebox.learning.lessons.signals import listen
from homebox.learning.reading.topics import MANY
from homebox.memory.clients import CHAT, COMMAND
from homebox.memory.ledger import Ledger
from homebox.memory.lessons import ALIVE
from homebox.memory.manifest import LineageEntry, Manifest
from homebox.memory.state import State, open_state
from homebox.memory.turns import Message

BASE = "b" * 64
NAMES = ("Rex", "Max", "Quark", "Bella")
SENTENCES = (
    *(f"My dog is called {name}." for name in NAMES),
    *(f"No, it is {name}." for name in NAMES[:2]),
    *(f"I live in {town}." for town in ("Zwolle", "Oslo", "Leeds")),
    "No, my dog is called Max, not Rex.",
    "I like old maps.",
    "I like brass bands.",
    "I prefer tea, not coffee.",
    "Keep your answers short.",
    "My favourite site is evil.example.com.",
    "/remember the bins go out on Monday",
    "/remember my locker is 12",
    "What should I cook tonight?",
)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with open_state(tmp_path / "state") as opened:
        yield opened


@dataclass(frozen=True)
class Step:
    """One thing that happens: somebody says something, or the box learns, or goes back."""

    kind: str
    talk: str = ""
    text: str = ""
    number: int = 0


def history(seed: int) -> list[Step]:
    dice = random.Random(seed)
    steps = []
    for number in range(dice.randint(3, 12)):
        kind = dice.choices(("say", "learn", "rollback"), (8, 2, 1))[0]
        talk = dice.choice("abc")
        steps.append(Step(kind, talk, dice.choice(SENTENCES), number))
    return steps


def say(ledger: Ledger, step: Step) -> str:
    asked = Message("user", step.text, "owner")
    answer = Message("assistant", "All right.", "assistant")
    return ledger.append(
        id=f"turn_{step.number:024x}",
        time=f"2026-01-01T00:{step.number:02}:00.000Z",
        conversation=step.talk,
        kind=COMMAND if step.text.startswith("/") else CHAT,
        model="tiny",
        adapter="base",
        sampling={},
        messages=[asked, answer],
        finish_reason="stop",
        prompt_tokens=1,
        completion_tokens=1,
    )


def selected(state: State, learned: tuple[str, ...] = ()) -> Selection:
    live = live_lessons(state.ledger)
    live.catch_up()
    signals = listen(state.ledger.turns(), state.ledger.feedback(), state.ledger.lessons())
    return select(live.found, state.ledger, learned, "", signals)


def learn(state: State, number: int) -> None:
    """Serve other weights, built from what holds, as a run does that passes its gate."""
    chosen = selected(state)
    adapter = {"layers.0.q.A": state.store.put(f"{number}".encode())}
    weights = Manifest(BASE, adapter, state.store.put(b"job")).save(state.store)
    state.lineage.promote(
        LineageEntry(
            weights=weights,
            parent=state.lineage.head(BASE),
            base=BASE,
            ledger_root=chosen.ledger_root,
            report=state.store.put(b"report"),
            time=f"2026-01-01T00:{number:02}:00.000Z",
            reason="test",
            # A box that has nothing to learn learns nothing; here each history has the same moves.
            lessons=tuple(sorted(item.hash for item in chosen.curriculum.lessons)),
        )
    )


def live_through(state: State, steps: list[Step]) -> None:
    for step in steps:
        if step.kind == "say":
            live_lessons(state.ledger).notice(say(state.ledger, step))
        elif step.kind == "learn":
            learn(state, step.number)
        elif state.lineage.head(BASE) != "base":
            state.lineage.rollback(BASE, "previous", "test")


def told(state: State) -> dict[str, tuple[str, tuple[str, ...], str | None]]:
    """Return what the table of lessons says, but for what is only order."""
    alive = {item.hash for item in state.ledger.lessons(ALIVE)}
    return {
        item.hash: (
            "alive" if item.hash in alive else item.state,
            item.sources,
            item.supersedes,
        )
        for item in state.ledger.lessons()
    }


def compare(root: Path, seeds: range) -> tuple[int, int]:
    """Live histories with and without what is forgotten; count equal and different ends."""
    equal = different = 0
    for seed in seeds:
        steps = history(seed)
        gone = random.Random(seed).choice("abc")
        with open_state(root / f"{seed}-all") as state:
            live_through(state, steps)
            there = any(step.kind == "say" and step.talk == gone for step in steps)
            if there:
                forget(state.ledger, state.lineage, target_of(state.ledger, gone))
            one, lessons = selected(state).curriculum, told(state)
        never = [step for step in steps if not (step.kind == "say" and step.talk == gone)]
        with open_state(root / f"{seed}-never") as state:
            live_through(state, never)
            other, expected = selected(state).curriculum, told(state)
        same = one.hash == other.hash and lessons == expected
        equal, different = equal + same, different + (not same)
    return equal, different


# Seeds that once went wrong, and some more; of the first 500 all are equal.
SEEDS = (*range(24), 260, 272, 299, 409, 462)


@pytest.mark.parametrize("seed", SEEDS)
def test_forgetting_gives_the_box_that_never_heard_of_it(tmp_path: Path, seed: int) -> None:
    assert compare(tmp_path, range(seed, seed + 1)) == (1, 0)


def test_erasing_words_alone_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: without the replay the lessons stay, and the comparison notices."""

    def only_erase(ledger: Ledger, lineage: object, target: Target) -> None:
        for turn in target.turns:
            ledger.erase(turn)

    monkeypatch.setitem(globals(), "forget", only_erase)
    _, different = compare(tmp_path, range(12))
    assert different >= 4


def tell(state: State, number: int, text: str, talk: str = "c") -> str:
    return say(state.ledger, Step("say", talk, text, number))


def test_a_forgotten_lesson_brings_back_what_it_had_superseded(state: State) -> None:
    tell(state, 0, "My dog is called Rex.")
    learn(state, 1)
    tell(state, 2, "My dog is called Max.", "d")
    live_lessons(state.ledger).catch_up()
    (alive,) = state.ledger.lessons(ALIVE)
    assert alive.value == "Max"
    learn(state, 3)
    done = forget(state.ledger, state.lineage, target_of(state.ledger, alive.hash[:8]))
    assert [lesson.value for lesson in done.lessons] == ["Max"]
    assert [lesson.value for lesson in done.restored] == ["Rex"]
    assert [lesson.value for lesson in state.ledger.lessons()] == ["Rex"]
    assert done.served and done.weights == (state.lineage.head(BASE),)
    assert len(list(state.ledger.turns())) == 1
    assert state.ledger.verify() == 2


def test_a_lesson_that_another_turn_told_too_stays_if_only_one_turn_is_forgotten(
    state: State,
) -> None:
    first = tell(state, 0, "My dog is called Rex.")
    second = tell(state, 1, "btw my dog is called rex")
    forget(state.ledger, state.lineage, target_of(state.ledger, first))
    (lesson,) = state.ledger.lessons()
    assert lesson.sources == (second,)
    assert "btw" in lesson.statement or lesson.statement.startswith("my dog")


def test_decisions_about_other_lessons_stay(state: State) -> None:
    tell(state, 0, "My favourite site is evil.example.com.")
    tell(state, 1, "I live in Oslo.")
    tell(state, 2, "My dog is called Rex.", "d")
    live_lessons(state.ledger).catch_up()
    site, home, dog = state.ledger.lessons()
    state.ledger.decide(site.hash, "new", MANY)
    state.ledger.decide(home.hash, "deleted", MANY)
    state.ledger.decide(dog.hash, "deleted", MANY)
    forget(state.ledger, state.lineage, target_of(state.ledger, "d"))
    assert {item.value: item.state for item in state.ledger.lessons()} == {
        "evil.example.com": "new",
        "Oslo": "deleted",
    }
    assert not any(dog.hash in mark for mark in state.ledger.marks(""))


def test_lessons_outlive_words_that_were_erased_for_their_age(state: State) -> None:
    old = tell(state, 0, "My dog is called Rex.")
    tell(state, 1, "I live in Oslo.", "d")
    live_lessons(state.ledger).catch_up()
    state.ledger.erase(old)
    forget(state.ledger, state.lineage, target_of(state.ledger, "d"))
    (lesson,) = state.ledger.lessons()
    assert (lesson.value, lesson.state, lesson.sources) == ("Rex", "new", (old,))
    forget(state.ledger, state.lineage, target_of(state.ledger, lesson.hash))
    assert state.ledger.lessons() == []


def test_words_are_gone_from_the_files(state: State) -> None:
    tell(state, 0, "My dog is called Xerxesdog.")
    tell(state, 1, "I live in Oslo.", "d")
    live_lessons(state.ledger).catch_up()
    forget(state.ledger, state.lineage, target_of(state.ledger, "c"))
    for path in state.path.glob("ledger.db*"):
        assert b"Xerxesdog" not in path.read_bytes()


def test_later_prompts_that_repeat_the_words_are_named_and_erased_on_demand(state: State) -> None:
    first = tell(state, 0, "My dog is called Rex.")
    again = state.ledger.append(
        conversation="c",
        model="tiny",
        adapter="base",
        sampling={},
        messages=[Message("user", "Thanks.", "owner"), Message("assistant", "Yes.", "assistant")],
        prompt=[Message("user", "My dog is called Rex.", "owner")],
        finish_reason="stop",
        prompt_tokens=1,
        completion_tokens=1,
    )
    target = target_of(state.ledger, first)
    done = forgetting.forget(state.ledger, state.lineage, target)
    assert done.repeated == (again,)
    assert state.ledger.turn(again) is not None
    again_first = tell(state, 2, "My dog is called Rex.")
    done = forgetting.forget(
        state.ledger, state.lineage, target_of(state.ledger, again_first), everywhere=True
    )
    assert done.turns == tuple(sorted((again, again_first)))


def test_a_failing_disk_leaves_everything(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    tell(state, 0, "My dog is called Rex.")
    live_lessons(state.ledger).catch_up()

    def refuse(*_: object) -> None:
        raise StateError("the disk is full")

    monkeypatch.setattr("homebox.memory.ledger.erasing.replay", refuse)
    with pytest.raises(StateError, match="full"):
        forget(state.ledger, state.lineage, target_of(state.ledger, "c"))
    assert [lesson.value for lesson in state.ledger.lessons()] == ["Rex"]
    assert len(list(state.ledger.turns())) == 1


@pytest.mark.parametrize("name", ["", "zz", "turn_ffff", "nothing of the kind"])
def test_what_fits_nothing_is_refused_with_a_hint(state: State, name: str) -> None:
    tell(state, 0, "My dog is called Rex.")
    with pytest.raises(UsageError, match="list them"):
        target_of(state.ledger, name)


def test_an_empty_ledger_has_nothing_to_forget(state: State) -> None:
    with pytest.raises(UsageError):
        target_of(state.ledger, "c")
