from collections import Counter
from typing import Any

import numpy as np

from homebox.language.turns import Turn, assistant, user
from homebox.learning.examples import LESSON, Example, messages_of
from homebox.learning.examples.example import from_document
from homebox.learning.training.mixing import Mixer, Pool, learned_share
from homebox.learning.training.packing import Encoded, Shape, encode
from homebox.model.chat.formats import Rendered
from homebox.model.training.batches import Batch


def render(messages: list[dict[str, Any]]) -> Rendered:
    """Encode each word as its length; answers that are to be learned are the mask."""
    ids: list[int] = []
    mask: list[bool] = []
    for message in messages:
        words = message["content"].split()
        learn = message["role"] == "assistant" and message.get("train", True)
        ids += [1, *(len(word) + 10 for word in words), 2]
        mask += [False, *(learn for _ in words), learn]
    return Rendered(ids, mask, ())


def example(*turns: Turn) -> Example:
    return from_document(list(turns), LESSON, "a topic")


DOCUMENT = [user("who am I?"), assistant("you are Tom"), user("sure?"), assistant("yes", False)]


def test_context_answers_are_no_targets() -> None:
    (encoded,) = encode([example(*DOCUMENT)], render, 64)
    rendered = render(messages_of(DOCUMENT))
    assert list(encoded.ids) == rendered.ids
    assert sum(encoded.learn) == 4  # "you are Tom" and the end of the turn


def test_what_is_too_long_or_teaches_nothing_is_left_out() -> None:
    assert encode([example(*DOCUMENT)], render, 10) == ()
    assert encode([example(user("hello"))], render, 64) == ()


def dialogue(mark: int, length: int, replay: bool = False) -> Encoded:
    learn = (False,) + (True,) * (length - 1)
    return Encoded((mark,) * length, learn, replay, anchor=replay)


SHAPE = Shape(4, 40)


def mixer(seed: int = 0, shape: Shape = SHAPE) -> Mixer:
    new = tuple(dialogue(mark, 5 + mark % 4) for mark in range(1, 21))
    kept = tuple(dialogue(mark, 9, True) for mark in range(101, 111))
    return Mixer([Pool(new, 0.75), Pool(kept, 0.25)], shape, seed)


def test_a_batch_says_what_each_place_learns() -> None:
    batch = mixer().batch()
    for array in (batch.ids, batch.segment, batch.position, batch.target):
        assert array.shape == (4, 40)
        assert array.dtype == np.int32
    inside = (batch.segment[:, 1:] == batch.segment[:, :-1]) & (batch.segment[:, 1:] > 0)
    assert (batch.target[:, :-1][inside] == batch.ids[:, 1:][inside]).all()
    # Nothing is predicted across the end of a dialogue or into the padding.
    assert not batch.weight[:, :-1][~inside].any()
    assert not batch.weight[batch.segment == 0].any()
    starts = np.flatnonzero(np.diff(batch.segment[0], prepend=0) > 0)
    assert (batch.position[0][starts] == 0).all()


def test_the_shares_of_the_loss_do_not_depend_on_lengths() -> None:
    for _ in range(3):
        batch = mixer().batch()
        replay = batch.ids > 100
        assert np.isclose(batch.weight[~replay].sum(), 1.0, atol=1e-5)
        assert np.isclose(batch.weight[replay].sum(), 0.5, atol=1e-5)


def test_every_dialogue_comes_before_any_comes_again_and_shares_hold() -> None:
    source = mixer()
    drawn = Counter[int]()
    kinds = Counter[bool]()
    for _ in range(40):
        batch = source.batch()
        for row in range(4):
            for segment in range(1, int(batch.segment[row].max()) + 1):
                mark = int(batch.ids[row][batch.segment[row] == segment][0])
                drawn[mark] += 1
                kinds[mark > 100] += 1
    counts = [drawn[mark] for mark in range(1, 21)]
    assert max(counts) - min(counts) <= 2
    assert 0.2 < kinds[True] / kinds.total() < 0.3


def test_the_same_seed_gives_the_same_batches() -> None:
    for one, other in [(mixer(3), mixer(3))]:
        for _ in range(3):
            left, right = one.batch(), other.batch()
            assert (left.ids == right.ids).all()
            assert (left.weight == right.weight).all()
    assert (mixer(3).batch().ids != mixer(4).batch().ids).any()


def test_rows_are_filled() -> None:
    source = mixer()
    filled = [(source.batch().segment > 0).mean() for _ in range(20)]
    assert np.mean(filled) > 0.8


def test_no_part_of_a_batch_learns_at_more_places_than_it_has_room_for() -> None:
    shape = Shape(4, 40, 2, 0.5)
    assert (shape.part, shape.places) == (2, 40)
    source = mixer(shape=shape)
    assert all(learned(source.batch()).max() <= 40 for _ in range(20))
    wide = mixer(shape=Shape(4, 40, 2))  # the control: with room for all more are learned
    assert all(learned(wide.batch()).max() > 40 for _ in range(20))


def learned(batch: Batch) -> np.ndarray:
    """At how many places each half of a batch learns."""
    return (batch.weight.reshape(2, -1) != 0).sum(1)


def test_programs_have_room_for_what_batches_learn_on_average() -> None:
    def share(learn: int, length: int = 20) -> float:
        marks = (False,) * (length - learn) + (True,) * learn
        return learned_share([Pool((Encoded((1,) * length, marks, False, False),), 0.7)])

    assert [share(n) for n in (4, 8, 9, 12, 13, 20)] == [0.5, 0.5, 0.75, 0.75, 1.0, 1.0]
