"""What the base would say if it read the lesson: the targets of distillation.

The one idea: the teacher is asked about a dialogue when it first comes up, and remembered, since
its opinion never changes. Invariant: a batch's teaching depends on the dialogues in it alone, so a
run that was interrupted asks again and gets the same bits.
"""

import dataclasses
from collections.abc import Generator

import numpy as np

from homebox.learning.training.packing import Drawn, spread
from homebox.learning.training.recipes import Recipe
from homebox.model import Model
from homebox.model.training import StopFlag
from homebox.model.training.batches import Batch, Teaching
from homebox.model.training.replicas import Copy
from homebox.model.training.teacher import SPLIT, Asked, Opinion, Teacher


class Opinions:
    """A teacher and what it has said so far; `weight` is that of the distillation."""

    def __init__(self, teacher: Teacher, weight: float) -> None:
        self._teacher, self._weight = teacher, weight
        self._known: dict[Asked, Opinion] = {}

    def taught(self, drawn: Drawn, stop: StopFlag) -> Generator[None, None, Batch]:
        """Return a batch with the teaching of all dialogues in it that have a lesson."""
        wanted = {d.asked: None for _, d in drawn.placed if d.asked is not None}
        new = [asked for asked in wanted if asked not in self._known]
        found = yield from self._teacher.opinions(new, stop)
        self._known.update(zip(new, found, strict=True))
        return self._with(drawn)

    def _with(self, drawn: Drawn) -> Batch:
        batch = drawn.batch
        teaching = Teaching.nothing(batch.ids.shape)
        marked = np.zeros(batch.ids.shape, np.bool_)
        top = teaching.ids.reshape(-1, teaching.ids.shape[-1])
        probabilities = teaching.probabilities.reshape(top.shape)
        for at, dialogue in drawn.placed:
            if dialogue.asked is None:
                continue
            places = np.array(dialogue.places) + at
            opinion = self._known[dialogue.asked]
            top[places], probabilities[places] = opinion.ids, opinion.probabilities
            marked.reshape(-1)[places] = True
        share = spread(marked, self._weight)
        teaching = Teaching(teaching.ids, teaching.probabilities, share)
        return dataclasses.replace(batch, teaching=teaching)


def opinions_of(model: Model, recipe: Recipe) -> Opinions | None:
    """Return the model itself as a teacher; None if the recipe wants none."""
    if not recipe.distil:
        return None
    device = model.training_devices()[0]
    base = Copy.on(device, model)
    return Opinions(Teacher(base, SPLIT, numerics=recipe.numerics, device=device), recipe.distil)
