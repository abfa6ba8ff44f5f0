"""Batches of packed rows: what training programs take, as arrays and as tensors.

One idea: everything that differs from place to place comes in through a batch, so one program
serves lessons, replay, a teacher's opinions and preferences. Logits cost as much as some layers, so
they are computed at the places alone of which a batch asks something, of which there is a most.
Invariant: a program that does not distill has no input for it, and so the same kernels as ever.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.capture import Program, Spec
from homebox.model.training.cross_entropy import Places, Shares
from homebox.model.training.distillation import TOP, Taught
from homebox.model.training.packed_rows import Rows

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

ROWS = ("ids", "segment", "position")
OPINION = ("ids", "probabilities", "share", "anchor")


@dataclass(frozen=True)
class Teaching:
    """What a teacher thinks of the places of a batch; a share of 0 asks for nothing.

    `ids` and `probabilities` (rows, length, TOP) are its most probable next tokens, all different
    (-1 with probability 0: none). `share` and `anchor` (rows, length) weigh KL(teacher || student),
    in which all other tokens are one; what `anchor` weighs is told apart, as the distance from the
    base.
    """

    ids: Ints
    probabilities: Floats
    share: Floats
    anchor: Floats

    @staticmethod
    def nothing(shape: tuple[int, int]) -> "Teaching":
        """Return what asks for nothing."""
        ids = np.full((*shape, TOP), -1, np.int32)
        none = np.zeros(shape, np.float32)
        return Teaching(ids, np.zeros(ids.shape, np.float32), none, none.copy())


@dataclass(frozen=True)
class Batch:
    """Packed rows, each array (rows, length).

    `segment` numbers the documents of a row from 1 (0 = padding), each in one piece; `weight` is
    the share of the cross-entropy of predicting `target` at a place. A weight below 0 makes its
    target less probable.
    """

    ids: Ints
    segment: Ints
    position: Ints
    target: Ints
    weight: Floats
    teaching: Teaching | None = None

    def asking(self) -> Ints:
        """Return the numbers of the places of which something is asked, in order."""
        marked = self.weight != 0
        if self.teaching is not None:
            marked = marked | (self.teaching.share != 0) | (self.teaching.anchor != 0)
        return np.flatnonzero(marked).astype(np.int32)


def specs(shape: tuple[int, int], most: int, taught: bool) -> dict[str, Spec]:
    """Return the inputs of a program over batches of a shape, with `most` places that ask."""
    found = {name: Spec(shape, dt.i32) for name in ROWS}
    found |= {"place": Spec((most,), dt.i32), "spot": Spec((shape[0] * shape[1],), dt.i32)}
    found |= {"target": Spec((most,), dt.i32), "weight": Spec((most,))}
    if taught:
        top = (most, TOP)
        found |= {"top": Spec(top, dt.i32), "top_weight": Spec(top)}
        found |= {"share": Spec((most,)), "anchor": Spec((most,))}
    return found


def tensors_of(given: dict[str, Tensor]) -> tuple[Rows, Places, Shares]:
    """Return the inputs of a program as what its graph is built from."""
    taught = None
    if "top" in given:
        taught = Taught(*(given[name] for name in ("top", "top_weight", "share", "anchor")))
    rows = Rows(*(given[name] for name in ROWS))
    places = Places(given["place"], given["spot"])
    return rows, places, Shares(given["target"], given["weight"], taught)


def set_inputs(program: Program, batch: Batch, most: int, taught: bool) -> Ints:
    """Make a batch the input of a program; return the places that ask.

    Raises ValueError if there are more than `most`.
    """
    asking = batch.asking()
    if len(asking) > most:
        raise ValueError(f"a batch learns at {len(asking)} places, of which {most} have room")
    for name in ROWS:
        program.set_input(name, getattr(batch, name))

    def put(name: str, values: npt.NDArray[Any], rest: int = 0) -> None:
        """Give the values of the places that ask; what is left of the room asks for nothing."""
        flat = values.reshape(batch.ids.size, *values.shape[2:])
        chosen = np.full((most, *flat.shape[1:]), rest, values.dtype)
        chosen[: len(asking)] = flat[asking]
        program.set_input(name, chosen)

    put("place", np.arange(batch.ids.size, dtype=np.int32).reshape(batch.ids.shape))
    spot = np.full(batch.ids.size, most, np.int32)
    spot[asking] = np.arange(len(asking))
    program.set_input("spot", spot)
    put("target", batch.target)
    put("weight", batch.weight)
    if taught:
        teaching = batch.teaching or Teaching.nothing(batch.ids.shape)
        put("top", teaching.ids, -1)
        put("top_weight", teaching.probabilities)
        put("share", teaching.share)
        put("anchor", teaching.anchor)
    return asking


def rows_of_part(rows: int, parts: int) -> int:
    """Return how many of a batch's rows are computed together if it is cut into `parts`."""
    return -(-rows // min(parts, rows))


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
    teaching = whole and Teaching(*(part(getattr(whole, name)) for name in OPINION))
    arrays = {name: part(getattr(batch, name)) for name in (*ROWS, "target", "weight")}
    return Batch(**arrays, teaching=teaching)
