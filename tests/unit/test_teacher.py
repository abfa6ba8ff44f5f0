"""A teacher's opinions: those of the base, ties by id, whatever lies beside a document."""

from typing import Any

import numpy as np

from homebox.engine.runtime.stop_flag import StopFlag
from homebox.model.training.distillation import TOP
from homebox.model.training.teacher import Asked, Teacher, most_probable
from tests.unit.reference_llama import ReferenceLlama
from tests.unit.test_training import CONFIG, Base, log_softmax


def asked(seed: int, length: int) -> Asked:
    rng = np.random.default_rng(seed)
    ids = tuple(int(i) for i in rng.integers(0, CONFIG.vocab_size, length))
    return Asked(ids, tuple(range(length // 2, length - 1)))


def opinions(teacher: Teacher, *documents: Asked, stop: StopFlag | None = None) -> list[Any]:
    steps = teacher.opinions(documents, stop or StopFlag())
    while True:
        try:
            next(steps)
        except StopIteration as done:
            found: list[Any] = done.value
            return found


def bits(opinion: Any) -> tuple[bytes, bytes]:
    return opinion.ids.tobytes(), opinion.probabilities.tobytes()


def test_opinions_are_those_of_the_base() -> None:
    base = Base()
    teacher = Teacher(base, 40)
    documents = [asked(seed, 10 + 3 * seed) for seed in range(8)]
    reference = ReferenceLlama(CONFIG, base.weights, 40)
    for document, found in zip(documents, opinions(teacher, *documents), strict=True):
        logits = reference.all_logits(np.array(document.ids, np.int32)).astype(np.float64)
        p = np.exp(log_softmax(logits))[list(document.places)]
        wanted = np.argsort(-p, axis=1, kind="stable")[:, :TOP]
        assert found.ids.shape == (len(document.places), TOP)
        np.testing.assert_allclose(found.probabilities, np.take_along_axis(p, wanted, 1), rtol=1e-4)
        assert (found.ids[:, :3] == wanted[:, :3]).mean() > 0.95


def test_neighbours_and_pauses_change_no_bit() -> None:
    teacher = Teacher(Base(), 40)
    documents = [asked(seed, 9 + 5 * (seed % 5)) for seed in range(9)]
    together = [bits(opinion) for opinion in opinions(teacher, *documents)]
    stop = StopFlag()
    stop.set()
    assert [bits(opinion) for opinion in opinions(teacher, *documents, stop=stop)] == together
    alone = [bits(opinions(teacher, document)[0]) for document in documents]
    assert alone == together
    turned = [bits(opinion) for opinion in opinions(teacher, *documents[::-1])]
    assert turned[::-1] == together
    assert len(set(together)) == len(together)


def test_long_documents_have_a_row_of_their_own() -> None:
    teacher = Teacher(Base(), 300)
    assert teacher.shape[0] == 1
    documents = [asked(1, 20), asked(2, 290), asked(3, 20)]
    together = [bits(opinion) for opinion in opinions(teacher, *documents)]
    assert [bits(opinions(teacher, document)[0]) for document in documents] == together


def test_equally_probable_ids_come_by_number() -> None:
    p = np.full((2, 50), 0.01, np.float32)
    p[0, 30], p[1, [7, 49]] = 0.5, 0.2
    found = most_probable(p)
    assert found.ids[0].tolist() == [30, *range(TOP - 1)]
    assert found.ids[1].tolist() == [7, 49, *(i for i in range(TOP - 1) if i != 7)][:TOP]
    few = most_probable(np.array([[0.25, 0.5, 0.25]], np.float32))
    assert few.ids[0].tolist() == [1, 0, 2, *[-1] * (TOP - 3)]
    assert few.probabilities[0, 3:].tolist() == [0.0] * (TOP - 3)
