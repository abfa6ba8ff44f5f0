"""What is forgotten everywhere is in no byte of the state and the cache; what serves is whole."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from homebox.errors import StateError, UnknownWeightsError
from homebox.learning.curriculum import Pair, Thumb, curriculum_of
from homebox.learning.examples.samples import HINDSIGHT, OWNED, Sample, samples_of
from homebox.learning.lessons.deciding import forgets, forgotten, remember
from homebox.learning.lessons.live import live_lessons
from homebox.learning.lessons.traces import traces
from homebox.memory.lessons import Lesson
from homebox.memory.lineage import Lineage
from homebox.memory.manifest import BASE as BARE
from homebox.memory.manifest import LineageEntry, Manifest
from homebox.memory.state import State, open_state
from homebox.memory.store import Store, canonical_json
from homebox.memory.turns import Message, now
from tests.left_words import files_with

BASE = "b" * 64
WORD = "Brimbolska"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with open_state(tmp_path / "state") as opened:
        yield opened


def say(state: State, text: str, answer: str = "All right.", talk: str = "c") -> str:
    return state.ledger.append(
        conversation=talk,
        model="tiny",
        adapter="base",
        sampling={},
        messages=[Message("user", text, "owner"), Message("assistant", answer, "assistant")],
        prompt=[Message("user", text, "owner")],
        finish_reason="stop",
        prompt_tokens=1,
        completion_tokens=1,
    )


def learn(state: State, number: int, **more: Any) -> str:
    """Serve weights that are made of all that holds, with all objects that a run keeps."""
    live_lessons(state.ledger).catch_up()
    found: list[Lesson] = state.ledger.lessons(("new", "active"))
    superseded = state.ledger.lessons("superseded")
    store = state.store
    curriculum = curriculum_of(found, superseded, **more)
    samples = samples_of(
        BASE,
        [
            Sample(OWNED, "", ({"role": "user", "content": prompt},), f"An answer to {prompt}")
            for prompt in curriculum.prompts
        ],
    )
    spec = {
        "base": BASE,
        "curriculum": curriculum.save(store),
        "kind": "lora",
        "recipe": {"number": number},
        "samples": samples.save(store),
    }
    tensor = store.put(bytes(8) + f"tensor {number}".encode())
    weights = Manifest(BASE, {"a": tensor}, store.put(canonical_json(spec))).save(store)
    topics = {each.subject: {"lessons": [each.hash]} for each in found if not each.body}
    report = {"by_topic": topics, "checks": [], "known": [], "number": number}
    state.lineage.promote(
        LineageEntry(
            weights=weights,
            parent=state.lineage.head(BASE),
            base=BASE,
            ledger_root=state.ledger.root(),
            report=store.put(canonical_json(report)),
            time=now(),
            reason="test",
            lessons=tuple(sorted(each.hash for each in found)),
        )
    )
    return weights


def of_value(state: State, value: str) -> Lesson:
    (lesson,) = [each for each in state.ledger.lessons() if each.value == value]
    return lesson


def test_without_everywhere_the_words_are_found_and_with_it_nowhere(state: State) -> None:
    say(state, "I live in Oslo.")
    clean = learn(state, 1)
    say(state, f"My dog is called {WORD}.", talk="d")
    say(state, "What is my dog called?", f"It is {WORD}.", talk="e")
    say(state, "No, my dog is called Max.", talk="f")
    knowing = learn(state, 2)
    again = learn(state, 3)
    name = of_value(state, WORD).hash
    # The control: old weights know it as what no longer holds, and an answer said it.
    done = forgotten(state.ledger, state.lineage, name)
    assert len(done["repeated"]) == 1
    assert files_with(WORD, state.path)
    # One command afterwards lets go of what old weights are made of.
    for turn in done["repeated"]:
        forgotten(state.ledger, state.lineage, turn)
    assert files_with(WORD, state.path)
    done = forgotten(state.ledger, state.lineage, "", everywhere=True)
    assert files_with(WORD, state.path) == []
    assert set(done["let_go"]["weights"]) == {knowing, again}
    assert done["let_go"]["moves"] == [{"base": BASE, "old": again, "new": clean}]
    assert state.lineage.head(BASE) == clean
    state.lineage.verify(clean)
    # Nothing else was harmed, and what was told besides holds.
    assert {each.value: each.state for each in state.ledger.lessons()} == {
        "Oslo": "active",
        "Max": "active",
    }
    assert traces(state.ledger, state.store).objects == ()


def test_one_command_does_all_of_it(state: State) -> None:
    say(state, f"My dog is called {WORD}.")
    say(state, "What is my dog called?", f"It is {WORD}.", talk="e")
    learn(state, 1)
    name = of_value(state, WORD).hash
    would = forgets(state.ledger, state.lineage, name, everywhere=True)
    assert len(would["turns"]) == 2 and len(would["weights"]) == 1 and would["objects"] >= 6
    assert files_with(WORD, state.path)
    done = forgotten(state.ledger, state.lineage, name, everywhere=True)
    assert sorted(done["turns"]) == sorted(would["turns"])
    assert done["let_go"]["weights"] == would["weights"]
    assert files_with(WORD, state.path) == []
    assert state.lineage.head(BASE) == BARE
    assert not done["served"] and not done["weights"]


def test_opinions_prompts_and_hindsight_go_too(state: State) -> None:
    turn = say(state, "Write a poem.", f"Ode to {WORD}")
    say(state, "Write one.", "Better", talk="d")
    message = [{"role": "user", "content": "Write a poem."}]
    body = canonical_json({"bad": WORD, "messages": message, "remark": "No"}).decode()
    hindsight = Lesson("correction", "answer", "No", "No", body=body, sources=(turn,))
    for number, more in enumerate(
        (
            {"pairs": [Pair(message, "Better", f"Ode to {WORD}")]},
            {"thumbs": [Thumb(message, f"Ode to {WORD}", good=True)]},
        )
    ):
        learn(state, number, **more)
    learn(state, 7, prompts=[f"Ode to {WORD}"])
    samples_of(BASE, [Sample(HINDSIGHT, hindsight.hash, tuple(message), WORD)]).save(state.store)
    assert traces(state.ledger, state.store).weights == ()  # all of it stands in the ledger
    forgotten(state.ledger, state.lineage, turn)
    assert files_with(WORD, state.path)
    done = forgotten(state.ledger, state.lineage, "", everywhere=True)
    assert len(done["let_go"]["weights"]) == 3
    assert files_with(WORD, state.path) == []


def test_a_refused_run_leaves_its_report_which_goes_too(state: State) -> None:
    say(state, "I live in Oslo.")
    learn(state, 1)
    remember(state.ledger, f"my {WORD} = seven")
    (lesson,) = [each for each in state.ledger.lessons() if each.value == "seven"]
    report = {"by_topic": {lesson.subject: {"lessons": [lesson.hash]}}, "checks": []}
    state.store.put(canonical_json(report))
    forgotten(state.ledger, state.lineage, lesson.hash)
    assert files_with(WORD, state.path)
    done = forgotten(state.ledger, state.lineage, "", everywhere=True)
    assert done["let_go"] == {"weights": [], "objects": 1, "moves": []}
    assert files_with(WORD, state.path) == []


def test_what_went_is_named_and_history_stays_readable(state: State) -> None:
    say(state, f"My dog is called {WORD}.")
    weights = learn(state, 1)
    forgotten(state.ledger, state.lineage, of_value(state, WORD).hash, everywhere=True)
    assert [each.weights for each in state.lineage.history(BASE)] == [weights]
    assert state.lineage.checkpoints(BASE) == []
    assert state.lineage.gone() == {weights}
    for name in (weights[:10], "previous"):
        with pytest.raises(UnknownWeightsError, match="let go of for good"):
            state.lineage.rollback(BASE, name, "test")
    assert state.lineage.head(BASE) == BARE
    # The same lessons again make the same weights again.
    say(state, f"My dog is called {WORD}.", talk="z")
    assert learn(state, 1) == weights
    assert state.lineage.gone() == frozenset()
    forgotten(state.ledger, state.lineage, of_value(state, WORD).hash)  # replays all of it


def test_shared_objects_stay_with_those_that_need_them(state: State) -> None:
    say(state, "I live in Oslo.")
    clean = learn(state, 1)
    say(state, f"My dog is called {WORD}.", talk="d")
    manifest = Manifest.load(state.store, clean)
    knowing = learn(state, 2)
    job = Manifest.load(state.store, knowing).job
    shared = Manifest(BASE, dict(manifest.adapter), job).save(state.store)
    forgotten(state.ledger, state.lineage, of_value(state, WORD).hash, everywhere=True)
    assert not state.store.has(shared)
    state.lineage.verify(clean)


def test_what_a_crash_cut_short_is_ended_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CrashError(Exception):
        pass

    def crash(*_: object) -> int:
        raise CrashError

    with open_state(tmp_path / "state") as state:
        say(state, f"My dog is called {WORD}.")
        learn(state, 1)
        with monkeypatch.context() as patch:
            patch.setattr(Store, "remove", crash)
            with pytest.raises(CrashError):
                name = of_value(state, WORD).hash
                forgotten(state.ledger, state.lineage, name, everywhere=True)
        assert files_with(WORD, state.path)
    with open_state(tmp_path / "state") as state:
        assert files_with(WORD, state.path) == []
        assert state.lineage.head(BASE) == BARE


def test_served_weights_are_never_let_go_of(state: State) -> None:
    say(state, f"My dog is called {WORD}.")
    weights = learn(state, 1)
    with pytest.raises(StateError, match="served"):
        state.lineage.let_go([weights], [weights])
    state.lineage.verify(weights)


def test_without_the_move_of_head_it_is_refused(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: were HEAD not moved first, nothing would go rather than something served."""
    say(state, f"My dog is called {WORD}.")
    weights = learn(state, 1)
    monkeypatch.setattr(Lineage, "leave", lambda self, base, name, why: _Unmoved(weights, name))
    name = of_value(state, WORD).hash
    with pytest.raises(StateError, match="served"):
        forgotten(state.ledger, state.lineage, name, everywhere=True)
    state.lineage.verify(weights)


@dataclasses.dataclass
class _Unmoved:
    old: str
    new: str


def test_rolling_back_after_a_forgetting_keeps_its_rules(state: State) -> None:
    say(state, "I live in Oslo.")
    clean = learn(state, 1)
    say(state, f"My dog is called {WORD}.", talk="d")
    learn(state, 2)
    forgotten(state.ledger, state.lineage, of_value(state, WORD).hash, everywhere=True)
    assert state.lineage.head(BASE) == clean
    move = state.lineage.rollback(BASE, "base", "test")
    assert move.new == BARE and len(move.undone_lessons) == 1
    state.lineage.rollback(BASE, clean, "test")
    assert [each.state for each in state.ledger.lessons()] == ["active"]
    kinds = [line["kind"] for line in state.lineage.reflog()]
    assert kinds == ["promote", "promote", "left", "rollback", "rollback"]
