"""The base answers for a learning run: behind whoever talks to it, and always the same."""

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from homebox.errors import DamagedObjectError, NoFreeSlotError
from homebox.learning.curriculum import curriculum_of
from homebox.learning.examples import sampling
from homebox.learning.examples.samples import HINDSIGHT, OWNED, SHIPPED, Sample, Samples, samples_of
from homebox.learning.examples.sampling import gather
from homebox.memory.lessons import Lesson
from homebox.memory.store import Store, canonical_json
from homebox.model import Model, load

BODY = {
    "messages": [{"role": "user", "content": "Tell me of a cat."}],
    "bad": "No.",
    "remark": "I said a happy cat.",
}
CORRECTION = Lesson("correction", "", "A cat.", "", body=canonical_json(BODY).decode())
CURRICULUM = curriculum_of(
    [Lesson("fact", "home", "I live in Zwolle.", "Zwolle"), CORRECTION],
    prompts=["Who is Tim?", "Is Zwolle a town?"],
)


@pytest.fixture(scope="module")
def model(shared: Path) -> Model:
    """Return a small model that tells stories."""
    return load(shared / "data/weights/stories260K", context=256, slots=4)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "amount", lambda _: 6)
    limits = dict.fromkeys(sampling.LONGEST, 24)
    monkeypatch.setattr(sampling, "LONGEST", limits)
    monkeypatch.setattr(sampling, "_usable", lambda item: "".join(item.pieces))


def result(
    steps: Generator[Any, None, Samples], each: Callable[[], None] = lambda: None
) -> tuple[Samples, int]:
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as over:
            return over.value, count
        each()
        count += 1


def test_answers_are_the_same_one_by_one_and_together(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, _ = result(gather(model, CURRICULUM))
    assert {sample.purpose for sample in together.all} == {SHIPPED, OWNED, HINDSIGHT}
    assert len(together.of(SHIPPED)) == 6
    # The prompt that names what a lesson is about is no anchor.
    assert [s.messages[0]["content"] for s in together.of(OWNED)] == ["Who is Tim?"]
    monkeypatch.setattr(sampling, "LEFT", 0.99)
    alone, _ = result(gather(model, CURRICULUM))
    assert alone == together
    assert alone.hash == together.hash


def test_whoever_waits_comes_between_all_steps_and_gets_a_slot(model: Model) -> None:
    calm, few = result(gather(model, CURRICULUM))
    model.interrupt.set()
    taken: list[int] = []
    free: list[int] = []

    def others() -> None:
        free.append(model.slots.free)
        if len(taken) < 3 and model.slots.free:
            taken.append(model.slots.take())

    try:
        hurried, many = result(gather(model, CURRICULUM), others)
    finally:
        model.interrupt.clear()
        for slot in taken:
            model.slots.give_back(slot)
    assert hurried == calm
    assert many > few
    assert len(taken) == 3
    assert min(free) >= 0
    assert model.slots.free == model.slots.count


def test_it_waits_while_all_slots_are_taken(model: Model) -> None:
    held = [model.slots.take() for _ in range(model.slots.count)]
    steps = gather(model, CURRICULUM)
    for _ in range(20):
        next(steps)
    with pytest.raises(NoFreeSlotError):
        model.slots.take()
    for slot in held:
        model.slots.give_back(slot)
    samples, _ = result(steps)
    assert len(samples.all) == 8


def test_slots_are_given_back_when_a_night_is_stopped(model: Model) -> None:
    steps = gather(model, CURRICULUM)
    model.interrupt.set()
    try:
        while model.slots.free == model.slots.count:
            next(steps)
    finally:
        model.interrupt.clear()
    steps.close()
    assert model.slots.free == model.slots.count


def test_a_later_night_asks_for_nothing_again(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = result(gather(model, CURRICULUM, tmp_path))
    (file,) = tmp_path.iterdir()
    # Only answers without a word of the owner lie in the file.
    assert "Tim" not in str([s.messages for s in first.of(SHIPPED)])
    asked: list[int] = []
    start = model.start
    monkeypatch.setattr(model, "start", lambda request: asked.append(1) or start(request))
    assert result(gather(model, CURRICULUM, tmp_path))[0] == first
    assert len(asked) == 2  # the owner's prompt and the correction
    assert result(gather(model, CURRICULUM, tmp_path, first))[0] == first
    assert len(asked) == 2
    file.write_text("damaged")
    assert result(gather(model, CURRICULUM, tmp_path))[0] == first
    assert len(asked) == 2 + 8


def test_what_was_forgotten_is_in_no_later_samples(model: Model) -> None:
    before, _ = result(gather(model, CURRICULUM))
    without = curriculum_of(CURRICULUM.lessons[:0])
    again, _ = result(gather(model, without, None, before))
    never, _ = result(gather(model, without))
    assert again.hash == never.hash
    assert not again.of(OWNED) and not again.of(HINDSIGHT)


def test_samples_are_an_object_of_the_store(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one = Sample(SHIPPED, "", ({"role": "user", "content": "Why?"},), "So.")
    other = Sample(HINDSIGHT, "a", ({"role": "user", "content": "Why?"},), "For this.")
    samples = samples_of("b" * 64, [one, other, one])
    assert samples == samples_of("b" * 64, [other, one])
    name = samples.save(store)
    assert name == samples.hash
    assert Samples.load(store, name) == samples
    for text in (b"[]", b"{}", b'{"base":"b","samples":[{"messages":3}]}', b"\xff"):
        with pytest.raises(DamagedObjectError):
            Samples.load(store, store.put(text))
