"""What the base thinks of dialogues: what it would say if it read the lesson, and what it says.

The one idea: the base is a teacher who is asked about a dialogue when it first comes up, and
remembered, since its opinion never changes: with the lesson in the prompt it is what lessons are
distilled from, without it is what the replay holds on to. Invariant: a batch's teaching depends on
the dialogues in it alone, so a run that was interrupted asks again and gets the same bits.
"""

import dataclasses
from collections.abc import Generator

import numpy as np

from homebox.learning.training.packing import Drawn, Encoded, spread
from homebox.learning.training.recipes import Recipe
from homebox.model import Model
from homebox.model.training import StopFlag
from homebox.model.training.batches import Batch, Teaching
from homebox.model.training.replicas import Copy
from homebox.model.training.teacher import SPLIT, Asked, Opinion, Teacher


class Opinions:
    """A teacher and what it has said so far; `distil` and `kl` weigh both kinds of opinions."""

    def __init__(self, teacher: Teacher, distil: float, kl: float) -> None:
        self._teacher, self._distil, self._kl = teacher, distil, kl
        self._known: dict[Asked, Opinion] = {}

    def taught(self, drawn: Drawn, stop: StopFlag) -> Generator[None, None, Batch]:
        """Return a batch with the teaching of all dialogues in it that ask for one."""
        asked = {at: (d, self._question(d)) for at, d in drawn.placed}
        wanted = dict.fromkeys(question for _, question in asked.values() if question is not None)
        new = [question for question in wanted if question not in self._known]
        found = yield from self._teacher.opinions(new, stop)
        self._known.update(zip(new, found, strict=True))
        teaching = Teaching.nothing(drawn.batch.ids.shape)
        top = teaching.ids.reshape(-1, teaching.ids.shape[-1])
        probabilities = teaching.probabilities.reshape(top.shape)
        lessons, held = (np.zeros(teaching.share.shape, np.bool_) for _ in range(2))
        for at, (dialogue, question) in asked.items():
            if question is None:
                continue
            places = np.array(dialogue.places) + at
            opinion = self._known[question]
            top[places], probabilities[places] = opinion.ids, opinion.probabilities
            (held if dialogue.anchor else lessons).reshape(-1)[places] = True
        share, anchor = spread(lessons, self._distil), spread(held, self._kl)
        teaching = dataclasses.replace(teaching, share=share, anchor=anchor)
        return dataclasses.replace(drawn.batch, teaching=teaching)

    def _question(self, dialogue: Encoded) -> Asked | None:
        """Return what the teacher is asked about a dialogue; None if nothing.

        Longer ones would have its rows to themselves; they are learned as they are.
        """
        if not dialogue.anchor:
            return dialogue.asked
        if not self._kl or len(dialogue.ids) > SPLIT:
            return None
        return Asked(dialogue.ids, tuple(dialogue.places))


def opinions_of(model: Model, recipe: Recipe) -> Opinions | None:
    """Return the model itself as a teacher; None if the recipe wants none."""
    if not recipe.taught:
        return None
    device = model.training_devices()[0]
    base = Copy.on(device, model)
    teacher = Teacher(base, SPLIT, numerics=recipe.numerics, device=device)
    return Opinions(teacher, recipe.distil, recipe.kl)
