"""Batches that hold a student to its base: what the base thinks of every place."""

from dataclasses import replace
from typing import Any

import numpy as np

from homebox.engine.runtime.stop_flag import StopFlag
from homebox.model.training.batches import Batch, Teaching
from homebox.model.training.teacher import Asked, Opinion, Teacher


def held(batch: Batch, base: Any, seed: int = 5) -> Batch:
    """Ask the base about each document of a batch; the anchor's shares are random."""
    rows, length = batch.ids.shape
    teaching = Teaching.nothing((rows, length))
    teacher = Teacher(base, length)
    for row in range(rows):
        for number in range(1, int(batch.segment[row].max()) + 1):
            at = np.flatnonzero(batch.segment[row] == number)
            ids = tuple(int(i) for i in batch.ids[row, at])
            asked = Asked(ids, tuple(range(len(ids))))
            (opinion,) = said(teacher, asked)
            teaching.ids[row, at] = opinion.ids
            teaching.probabilities[row, at] = opinion.probabilities
    rng = np.random.default_rng(seed)
    anchor = (rng.random((rows, length)) * (batch.segment > 0) / 80).astype(np.float32)
    return replace(batch, teaching=replace(teaching, anchor=anchor))


def said(teacher: Teacher, asked: Asked) -> list[Opinion]:
    """Return the opinions on one document."""
    steps = teacher.opinions([asked], StopFlag())
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value
