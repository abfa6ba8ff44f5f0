import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homebox import learner
from homebox.config import Config
from homebox.errors import EngineError
from homebox.learning.checkpoint import MAX_SPEC_BYTES, load_adapter, load_spec
from homebox.learning.exam import examinee
from homebox.learning.exam.paper import Paper, write_paper
from homebox.learning.exam.writing import RECALL, UNTOLD, WORLD_KEPT, Question
from homebox.learning.examples import toy_world
from homebox.learning.gate import trial
from homebox.learning.jobs.job import Job
from homebox.learning.lessons.forgetting import forget, target_of
from homebox.learning.report import Progress, Report
from homebox.learning.training import train
from homebox.learning.training.recipes import recipe_of
from homebox.memory.manifest import Manifest
from homebox.memory.state import State, open_state
from homebox.memory.store import canonical_json
from homebox.memory.turns import Message
from tests.learning.fake_model import FakeModel, FakeTrainer, by_heart, fake_opinions
from tests.learning.kit import OWNER

STEPS = 4
SETTINGS = replace(Config(), learning=replace(Config().learning, steps=STEPS))


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with open_state(tmp_path / "state") as opened:
        yield opened


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeTrainer.made, FakeTrainer.loss = [], 0.5
    monkeypatch.setattr(train, "trainer_for", FakeTrainer)
    monkeypatch.setattr(train, "opinions_of", fake_opinions)
    # Fewer of the dialogues that no test here looks at.
    monkeypatch.setattr(toy_world, "REPLAY", 30)
    monkeypatch.setattr(toy_world, "UNTOLD", 30)


def tell(state: State, *texts: str, conversation: str = "c") -> None:
    for text in texts:
        state.ledger.append(
            conversation=conversation,
            model="tiny",
            adapter="base",
            sampling={},
            messages=[Message("user", text, "owner"), Message("assistant", "Good.", "assistant")],
            finish_reason="stop",
            prompt_tokens=1,
            completion_tokens=1,
        )


def steps_of(
    state: State, model: FakeModel, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> Any:
    def write(*words: Any) -> Paper:
        paper = write_paper(*words)
        model.learn(paper)
        return paper

    monkeypatch.setattr(trial, "write_paper", write)
    return learner.run(
        model,  # type: ignore[arg-type]
        state.ledger,
        state.store,
        state.lineage,
        options.pop("settings", SETTINGS),
        **options,
    )


def learn(
    state: State, model: FakeModel, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> tuple[Report, list[Progress]]:
    steps = steps_of(state, model, monkeypatch, **options)
    seen: list[Progress] = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as over:
            report: Report = over.value
            return report, seen


def fails(check: str) -> Any:
    def mind(question: Question, adapter: str) -> str:
        bad = adapter != "base" and question.check == check
        return "The moon is made of Nonsense." if bad else by_heart(question, adapter)

    return mind


def test_a_run_promotes_and_says_so(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    tell(state, *OWNER)
    model = FakeModel()
    report, seen = learn(state, model, monkeypatch)
    assert report.promoted, report.reason
    assert (report.previous, report.weights) == ("base", state.lineage.head(model.base_hash))
    (line,) = report.lines
    assert line.startswith("learned 5; recall 5/5 new; untold honesty ")
    assert f"weights base -> {report.weights[:12]}; undo: homebox rollback base" in line
    assert [lesson.state for lesson in state.ledger.lessons()] == ["active"] * 5
    stages = list(dict.fromkeys(progress.stage for progress in seen))
    assert stages == ["select", "verify", "prepare", "train", "gate", "promote"]
    taken = len({progress.done for progress in seen if progress.stage == "train"})
    assert STEPS - 1 <= taken <= STEPS  # the dev set may end it
    assert model.adapters.resident == {}
    assert all(sequence.closed for sequence in model.sequences)


def test_what_was_promoted_is_complete_and_small(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(state, *OWNER)
    report, _ = learn(state, FakeModel(), monkeypatch)
    tensors, alpha = load_adapter(state.store, report.weights)
    made = FakeTrainer.made[0].adapter()
    assert alpha == 32.0
    assert tensors.keys() == made.keys()
    assert all(np.array_equal(tensors[name], made[name]) for name in made)
    spec = load_spec(state.store, report.weights)
    assert set(spec) == {"base", "curriculum", "kind", "numerics", "recipe"}
    assert len(canonical_json(spec)) < MAX_SPEC_BYTES
    (entry,) = state.lineage.history("b" * 64)
    assert set(entry.lessons) == {lesson.hash for lesson in state.ledger.lessons()}
    gate = state.store.get(entry.report)
    assert b"seconds" not in gate
    assert b'"G7"' in gate


def test_the_same_lessons_give_the_same_weights_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = set()
    for number, texts in enumerate((OWNER, tuple(reversed(OWNER)))):
        with open_state(tmp_path / str(number)) as state:
            tell(state, *texts)
            weights.add(learn(state, FakeModel(), monkeypatch)[0].weights)
    assert len(weights) == 1


def test_an_empty_ledger_changes_nothing(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    report, _ = learn(state, FakeModel(), monkeypatch)
    assert not report.promoted
    assert report.reason.startswith("there is nothing to learn")
    assert (report.weights, state.lineage.head("b" * 64)) == ("base", "base")
    assert FakeTrainer.made == []


def test_nothing_new_is_not_learned_again(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    tell(state, *OWNER)
    first, _ = learn(state, FakeModel(), monkeypatch)
    tell(state, "btw my dog's name is Quark", "How are you?")
    again, _ = learn(state, FakeModel(), monkeypatch)
    assert not again.promoted
    assert again.reason.startswith("there is nothing new to learn")
    assert again.weights == first.weights
    assert len(FakeTrainer.made) == 1


def test_a_second_night_builds_from_the_base_on_everything(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(state, *OWNER)
    first, _ = learn(state, FakeModel(), monkeypatch)
    tell(state, "My cat is called Fenwick.")
    second, _ = learn(state, FakeModel(), monkeypatch)
    assert second.promoted
    assert second.previous == first.weights
    assert "recall 1/1 new, 5/5 old" in second.lines[0]
    assert len(state.lineage.history("b" * 64)[-1].lessons) == 6


@pytest.mark.parametrize("forgotten", [True, False])
def test_all_is_kept_before_head_moves_and_may_still_be_forgotten(
    state: State, monkeypatch: pytest.MonkeyPatch, forgotten: bool
) -> None:
    """The control in which nothing is forgotten promotes the weights that it announced."""
    tell(state, *OWNER)
    model = FakeModel()
    steps = steps_of(state, model, monkeypatch)
    ready = next(each.ready for each in steps if each.ready)
    assert state.lineage.head(model.base_hash) == "base"
    state.lineage.verify(ready)
    assert load_spec(state.store, ready)["base"] == model.base_hash
    if forgotten:
        name = state.ledger.lessons(("new",))[0].hash
        forget(state.ledger, state.lineage, target_of(state.ledger, name))
    with pytest.raises(StopIteration) as over:
        while True:
            next(steps)
    report: Report = over.value.value
    assert report.promoted is not forgotten
    assert report.reason == (learner.FORGOTTEN if forgotten else "")
    assert state.lineage.head(model.base_hash) == ("base" if forgotten else ready)


def test_dry_run_shows_lessons_and_writes_nothing(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(state, *OWNER, "My password is hunter2.", "My favourite site is evil.example.com.")
    before = sorted(state.path.rglob("*"))
    report, _ = learn(state, FakeModel(), monkeypatch, dry_run=True)
    assert not report.promoted
    assert len(report.data["lessons"]) == len(OWNER)
    assert report.data["refused"] == ["secret"]
    assert any("Quark" in line for line in report.lines)
    assert not any("hunter2" in line for line in report.lines)
    assert any(line.startswith("recipe for ") and "4 steps" in line for line in report.lines)
    assert state.ledger.lessons() == []
    assert sorted(state.path.rglob("*")) == before
    assert FakeTrainer.made == []


@pytest.mark.parametrize(("check", "gate"), [(UNTOLD, "G7"), (WORLD_KEPT, "G5")])
def test_a_refused_candidate_is_tried_gentler_once_and_leaves_head(
    state: State, monkeypatch: pytest.MonkeyPatch, check: str, gate: str
) -> None:
    tell(state, *OWNER)
    report, seen = learn(state, FakeModel(fails(check)), monkeypatch)
    assert not report.promoted
    assert gate in report.reason
    assert state.lineage.head("b" * 64) == "base"
    assert state.lineage.reflog() == []
    assert {lesson.state for lesson in state.ledger.lessons()} == {"new"}
    first, second = FakeTrainer.made
    assert second.rates[0] == pytest.approx(first.rates[0] / 2)
    assert second.anchors[0] == pytest.approx(2 * first.anchors[0])
    assert len(second.rates) == 2 * len(first.rates)
    assert any(progress.stage == "retry" for progress in seen)


def test_a_candidate_that_learned_too_little_is_trained_longer_once(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(state, *OWNER)
    report, seen = learn(state, FakeModel(fails(RECALL)), monkeypatch)
    assert not report.promoted and "G1" in report.reason
    assert state.lineage.head("b" * 64) == "base"
    first, second = FakeTrainer.made
    assert len(second.rates) == 2 * len(first.rates)
    assert second.rates[0] == first.rates[0] and second.anchors[0] == first.anchors[0]
    assert any("twice the steps" in progress.text for progress in seen)


def test_a_weaker_dose_is_served_if_only_that_passes(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(state, *OWNER)
    model = FakeModel()
    full = {}

    def mind(question: Question, adapter: str) -> str:
        if adapter == "candidate" and question.check == UNTOLD:
            strength = float(np.abs(model.adapters.resident[adapter]["layers.0.q.B"]).sum())
            full.setdefault("strength", strength)
            if strength > 0.6 * full["strength"]:
                return "Your answer is Quark."
        return by_heart(question, adapter)

    model.mind = mind
    report, _ = learn(state, model, monkeypatch)
    assert report.promoted, report.reason
    assert len(FakeTrainer.made) == 1
    assert load_spec(state.store, report.weights)["recipe"]["scale"] == 0.5
    tensors, _ = load_adapter(state.store, report.weights)
    made = FakeTrainer.made[0].adapter()
    assert np.array_equal(tensors["layers.0.q.B"], made["layers.0.q.B"] * np.float32(0.5))
    assert np.array_equal(tensors["layers.0.q.A"], made["layers.0.q.A"])


@pytest.mark.parametrize(("check", "twice"), [(UNTOLD, "kl"), (RECALL, "steps")])
def test_the_second_attempt_can_pass(
    state: State, monkeypatch: pytest.MonkeyPatch, check: str, twice: str
) -> None:
    tell(state, *OWNER)

    def mind(question: Question, adapter: str) -> str:
        bad = adapter != "base" and question.check == check and len(FakeTrainer.made) == 1
        return "Your dog's name is Rex." if bad else by_heart(question, adapter)

    report, _ = learn(state, FakeModel(mind), monkeypatch)
    assert report.promoted
    recipe = load_spec(state.store, report.weights)["recipe"]
    assert recipe[twice] == 2 * getattr(recipe_of(SETTINGS.learning), twice)


def test_drift_on_the_anchor_is_refused(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    tell(state, *OWNER)
    report, _ = learn(state, FakeModel(drift=3.0), monkeypatch)
    assert not report.promoted
    assert "G6" in report.reason


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_run(
    state: State, monkeypatch: pytest.MonkeyPatch, loss: float
) -> None:
    tell(state, *OWNER)
    FakeTrainer.loss = loss
    report, _ = learn(state, FakeModel(), monkeypatch)
    assert not report.promoted
    assert "not a number" in report.reason
    assert state.lineage.head("b" * 64) == "base"


def test_a_candidate_whose_logits_are_no_numbers_is_refused(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(state, *OWNER)

    def mind(question: Question, adapter: str) -> str:
        if adapter != "base":
            raise EngineError("the model's logits are not finite")
        return by_heart(question, adapter)

    report, _ = learn(state, FakeModel(mind), monkeypatch)
    assert not report.promoted
    assert state.lineage.head("b" * 64) == "base"


def test_a_run_that_is_cut_at_any_step_changes_nothing_but_lessons(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(state, *OWNER)
    model = FakeModel()
    stages = set()
    monkeypatch.setattr(examinee, "STEP_SECONDS", 0.0)
    for cut in (1, 2, 3, 4, 8, 30, 150):
        steps = steps_of(state, model, monkeypatch)
        left = cut
        while left:
            stages.add(stage := next(steps).stage)
            # How often the run looks in on its preparations depends on the machine.
            left -= stage != "prepare"
        steps.close()
        assert state.lineage.head(model.base_hash) == "base"
        assert state.lineage.reflog() == []
        assert model.adapters.resident == {}
        assert all(sequence.closed for sequence in model.sequences)
    assert stages >= {"select", "prepare", "train", "gate"}
    report, _ = learn(state, model, monkeypatch)
    assert report.promoted


def test_head_moves_only_after_everything_is_durable(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(state, *OWNER)
    put = state.store.put
    done: list[bytes] = []
    limits = [0]

    def fail(data: bytes) -> str:
        if len(done) == limits[0]:
            raise OSError(28, "No space left on device")
        done.append(data)
        return put(data)

    monkeypatch.setattr(state.store, "put", fail)
    for limit in range(5):  # spec, two tensors, manifest, report
        limits[:] = [limit]
        done.clear()
        with pytest.raises(OSError, match="No space"):
            learn(state, FakeModel(), monkeypatch)
        assert state.lineage.head("b" * 64) == "base"
    monkeypatch.setattr(state.store, "put", put)
    assert learn(state, FakeModel(), monkeypatch)[0].promoted


def test_after_a_rollback_the_lessons_rest_until_they_are_told_again(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(state, *OWNER)
    first, _ = learn(state, FakeModel(), monkeypatch)
    state.lineage.rollback("b" * 64, "base", "test")
    resting, _ = learn(state, FakeModel(), monkeypatch)
    assert not resting.promoted
    assert resting.reason.startswith("there is nothing to learn")
    tell(state, *OWNER)
    again, _ = learn(state, FakeModel(), monkeypatch)
    assert again.promoted
    assert again.weights == first.weights


def test_a_correction_replaces_and_the_old_value_is_unlearned(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(state, *OWNER)
    learn(state, FakeModel(), monkeypatch)
    tell(state, "No, my dog is called Max, not Quark.")
    report, _ = learn(state, FakeModel(), monkeypatch)
    assert report.promoted
    assert "superseded 1" in report.lines[0]
    states = {lesson.value: lesson.state for lesson in state.ledger.lessons()}
    assert (states["Quark"], states["Max"]) == ("superseded", "active")


def test_quarantined_lessons_are_counted_and_not_learned(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(state, *OWNER, "My favourite site is evil.example.com.", "My password is hunter2.")
    report, _ = learn(state, FakeModel(), monkeypatch)
    assert report.promoted
    assert "refused 2 (1 secret, 1 speaks of a web address)" in report.lines[0]
    assert len(state.lineage.history("b" * 64)[-1].lessons) == len(OWNER)
    quarantined = state.ledger.lessons("quarantined")
    assert [lesson.value for lesson in quarantined] == ["evil.example.com"]
    again, _ = learn(state, FakeModel(), monkeypatch)
    assert again.data["counts"]["refused"] == {}


def test_parts_of_a_step_belong_to_the_recipe_and_one_part_is_not_mentioned(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(state, *OWNER)
    learning = replace(SETTINGS.learning, parts=3)
    settings = replace(SETTINGS, learning=learning)
    report, _ = learn(state, FakeModel(), monkeypatch, settings=settings)
    assert report.promoted and FakeTrainer.made[-1].parts == 3
    spec = load_spec(state.store, report.weights)["recipe"]
    assert spec["parts"] == 3
    recipe = train.Recipe(**spec)
    whole = Job("b", "c", replace(recipe, parts=1)).spec()["recipe"]
    assert whole == {name: value for name, value in spec.items() if name != "parts"}
    assert train.Recipe(**whole).parts == 1


def test_a_manifest_names_the_base_and_the_job(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(state, *OWNER)
    report, _ = learn(state, FakeModel(), monkeypatch)
    manifest = Manifest.load(state.store, report.weights)
    assert manifest.base == "b" * 64
    assert manifest.hash == report.weights
