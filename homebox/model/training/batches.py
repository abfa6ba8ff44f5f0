"""Batches of packed rows: what training programs take, as arrays and as tensors.

One idea: everything that differs from place to place comes in through a batch, so one program
serves lessons, replay, a teacher's opinions and preferences. Invariant: a program that does not
distill has no input for it, and so the same kernels as ever.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.capture import Program, Spec
from homebox.model.training.cross_entropy import Shares
from homebox.model.training.distillation import TOP, Taught
from homebox.model.training.packed_rows import Rows

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

WHOLE = ("ids", "segment", "position", "target")
PARTS = ("weight", "anchor")


@dataclass(frozen=True)
class Teaching:
    """What a teacher thinks of the places of a batch; a share of 0 asks for nothing.

    `ids` and `probabilities` (rows, length, TOP) are its most probable next tokens, all different
    (-1 with probability 0: none); `share` (rows, length) weighs KL(teacher || student), in which
    all other tokens are one.
    """

    ids: Ints
    probabilities: Floats
    share: Floats

    @staticmethod
    def nothing(shape: tuple[int, int]) -> "Teaching":
        """Return what asks for nothing."""
        ids = np.full((*shape, TOP), -1, np.int32)
        return Teaching(ids, np.zeros(ids.shape, np.float32), np.zeros(shape, np.float32))


@dataclass(frozen=True)
class Batch:
    """Packed rows, each array (rows, length).

    `segment` numbers the documents of a row from 1 (0 = padding), each in one piece; `weight` is
    the share of the cross-entropy of predicting `target` at a place, `anchor` the share of
    KL(base || student). A weight below 0 makes its target less probable.
    """

    ids: Ints
    segment: Ints
    position: Ints
    target: Ints
    weight: Floats
    anchor: Floats
    teaching: Teaching | None = None


def specs(shape: tuple[int, int], taught: bool) -> dict[str, Spec]:
    """Return the inputs of a program over batches of a shape."""
    found = {name: Spec(shape, dt.i32) for name in WHOLE} | {name: Spec(shape) for name in PARTS}
    if taught:
        top = (*shape, TOP)
        found |= {"top": Spec(top, dt.i32), "top_weight": Spec(top), "share": Spec(shape)}
    return found


def tensors_of(given: dict[str, Tensor]) -> tuple[Rows, Shares]:
    """Return the inputs of a program as what its graph is built from."""
    rows, length = given["ids"].shape
    if not isinstance(rows, int) or not isinstance(length, int):
        raise TypeError("training batches have a fixed shape")
    count = rows * length
    target, weight, anchor = (given[name].reshape((count,)) for name in ("target", *PARTS))
    taught = None
    if "top" in given:
        ids, probabilities = (given[name].reshape((count, TOP)) for name in ("top", "top_weight"))
        taught = Taught(ids, probabilities, given["share"].reshape((count,)))
    rows_ = Rows(given["ids"], given["segment"], given["position"])
    return rows_, Shares(target, weight, anchor, taught)


def set_inputs(program: Program, batch: Batch, taught: bool) -> None:
    """Make a batch the input of a program."""
    for name in (*WHOLE, *PARTS):
        program.set_input(name, getattr(batch, name))
    if taught:
        teaching = batch.teaching or Teaching.nothing(batch.ids.shape)
        program.set_input("top", teaching.ids)
        program.set_input("top_weight", teaching.probabilities)
        program.set_input("share", teaching.share)


def cut(batch: Batch, parts: int, rows: int) -> list[Batch]:
    """Cut a batch into parts of `rows` rows; what is missing in the last are rows of padding."""
    return [_rows_from(batch, part * rows, rows) for part in range(parts)]


def _rows_from(batch: Batch, start: int, rows: int) -> Batch:
    def part(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        found = np.zeros((rows, *array.shape[1:]), array.dtype)
        given = array[start : start + rows]
        found[: len(given)] = given
        return found

    whole = batch.teaching
    teaching = whole and Teaching(part(whole.ids), part(whole.probabilities), part(whole.share))
    arrays = {name: part(getattr(batch, name)) for name in (*WHOLE, *PARTS)}
    return Batch(**arrays, teaching=teaching)
