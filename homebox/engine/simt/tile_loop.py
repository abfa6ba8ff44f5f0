"""The loop of every tiled product: slices of operands in local memory, sums in registers.

A work-item holds `rows` x `columns` sums in registers, four neighbours of a row in one vector; it
has 1, 4 or 8 rows. A slice is `depth` steps along k of both operands, in local memory as
[step][place]: so each step is read as vectors of four, rows of a and columns of b. While one slice
is multiplied, the next one is read into registers, and goes to the other half of local memory
afterwards: one barrier a slice.

Local memory has 32 banks of a word. Groups of four places ("chunks") are swapped along a line by
XOR with a number that follows from the step, so that work-items that store different steps at once
meet different banks, while those that read one step still read neighbours.
Invariant: a tile's sums run along k in order; what is staged beyond the end is never multiplied.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from homebox.engine.codegen.linear import Value
from homebox.engine.graph import dtype as dt
from homebox.engine.simt.simt_emitter import SimtEmitter
from homebox.engine.simt.target import Tile

VECTOR = 4  # places that are read at once
Registers = list[list[Value]]  # [row][columns / 4] vectors of four sums


class Stage(Protocol):
    """Brings slices of one operand from memory into local memory, shared out by work-item."""

    def load(self, k: Value) -> list[Value]:
        """Read this work-item's share of the slice that begins at step k into registers."""

    def store(self, half: Value, values: list[Value]) -> None:
        """Decode what `load` returned and store it into a half of local memory."""


# -- integers that fold ---------------------------------------------------------------------------


def whole(s: SimtEmitter, op: str, a: Value, c: Value | int) -> Value:
    """Return sub, idiv, mod, min, max, and or xor of i64 scalars, folded if both are known."""
    other = s.b.int(c) if isinstance(c, int) else c
    x, y = a.constant, other.constant
    if x is not None and y is not None:
        known = {
            "sub": lambda: x - y,
            "idiv": lambda: x // y,
            "mod": lambda: x % y,
            "min": lambda: min(x, y),
            "max": lambda: max(x, y),
            "and": lambda: x & y,
            "xor": lambda: x ^ y,
        }
        return s.b.int(known[op]())
    if y == 0 and op in ("sub", "xor"):
        return a
    if y == 1 and op in ("idiv", "mod"):
        return a if op == "idiv" else s.b.int(0)
    return s.b.emit(op, dt.i64, 1, (a, other))


def total(s: SimtEmitter, *parts: Value | int) -> Value:
    """Return a sum; what does not move with inner loops should stand first."""
    out = s.b.int(0)
    for part in parts:
        out = s.b.add(out, s.b.int(part) if isinstance(part, int) else part)
    return out


def lane(s: SimtEmitter, vector: Value, i: int, lanes: int = 1) -> Value:
    """Return one element of a vector, as a scalar or in all `lanes`."""
    return s.b.emit("shuffle", vector.dtype, lanes, (vector, vector), (i,) * lanes)


# -- local memory ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Slice:
    """One operand in local memory: two halves of [lines][width] elements of four bytes.

    `reach` work-items read a line side by side. Line 4 q + u has its chunks turned by
    ((4 q + u) // by * turn) modulo 8, or fewer where fewer work-items stand side by side.
    """

    s: SimtEmitter
    memory: Value
    start: int  # of its first half in this memory
    lines: int
    width: int
    reach: int
    by: int
    turn: int

    def place(self, half: Value, q: Value, u: Value | int, chunk: Value) -> Value:
        """Return where chunk `chunk` of line 4 q + u begins."""
        s, b = self.s, self.s.b
        start = b.add(b.mul(half, b.int(self.lines * self.width)), b.int(self.start))
        step = total(s, b.mul(q, b.int(VECTOR)), u)
        moved = whole(s, "xor", chunk, self._turned(q, u))
        line = b.add(b.mul(step, b.int(self.width)), b.mul(moved, b.int(VECTOR)))
        return b.add(line, start)

    def _turned(self, q: Value, u: Value | int) -> Value:
        s, b = self.s, self.s.b
        wrap = min(8, self.reach)
        if VECTOR // self.by * self.turn % wrap == 0:  # the same for every q
            q = b.int(0)
        step = total(s, b.mul(q, b.int(VECTOR)), u)
        turned = b.mul(whole(s, "idiv", step, self.by), b.int(self.turn))
        return whole(s, "and", turned, wrap - 1)

    def read(self, half: Value, q: Value, u: Value | int, item: Value, count: int) -> list[Value]:
        """Return `count` chunks of a line, those that belong to work-item `item`."""
        b, first = self.s.b, self.place(half, q, u, item)
        return [
            b.load(self.memory, b.add(first, b.int(VECTOR * self.reach * j)), VECTOR, aligned=True)
            for j in range(count)
        ]


@dataclass(frozen=True, slots=True)
class Share:
    """One piece of a slice that a work-item brings; `mine` says whether it is one, None = yes."""

    number: Value
    mine: Value | None


def shares(s: SimtEmitter, tile: Tile, count: int) -> list[Share]:
    """Deal `count` pieces out to the work-items of a group, neighbours to neighbours."""
    b, items = s.b, tile.across * tile.down
    item = b.add(b.mul(s.local(1), b.int(tile.across)), s.local(0))
    out = []
    for first in range(0, count, items):
        number = b.add(item, b.int(first))
        if first + items <= count:
            out.append(Share(number, None))
        else:
            mine = b.alu("lt", number, b.int(count))
            out.append(Share(whole(s, "min", number, count - 1), mine))
    return out


# -- the loop -------------------------------------------------------------------------------------

Multiply = Callable[[Value, Value, Value], None]  # half, first step of the slice, steps


def slices(
    s: SimtEmitter,
    depth: int,
    stages: Sequence[Stage],
    multiply: Multiply,
    span: tuple[Value, Value],
    again: bool,
) -> None:
    """Walk span = (begin, end) in slices; `multiply` adds up one that lies in local memory.

    `begin` is a multiple of 2 * depth. If local memory is written `again`, all have read it when
    this returns. After an even number of slices the next walk of the same stages can begin without,
    since it first fills the half that is not the last one.
    """
    b, (begin, end) = s.b, span
    for stage in stages:
        stage.store(b.int(0), stage.load(begin))
    s.barrier()
    rest = whole(s, "max", whole(s, "sub", end, b.add(begin, b.int(1))), 0)
    last = b.add(begin, b.mul(whole(s, "idiv", rest, depth), b.int(depth)))

    def half_of(k: Value) -> Value:
        return whole(s, "mod", whole(s, "idiv", k, depth), 2)

    if last.constant is None or last.constant != begin.constant:
        with b.loop(begin, last, depth) as k:
            ahead = [stage.load(b.add(k, b.int(depth))) for stage in stages]
            multiply(half_of(k), k, b.int(depth))
            for stage, values in zip(stages, ahead, strict=True):
                stage.store(whole(s, "xor", half_of(k), 1), values)
            s.barrier()
    multiply(half_of(last), last, whole(s, "sub", end, last))
    if again:
        s.barrier()


def zeros(s: SimtEmitter, tile: Tile) -> Registers:
    """Return a register tile of zeros."""
    zero = s.b.const(0.0, dt.f32, VECTOR)
    return [[s.b.reg(zero) for _ in range(tile.columns // VECTOR)] for _ in range(tile.rows)]


def fold(s: SimtEmitter, totals: Registers, parts: Registers) -> None:
    """Add a segment's sums to the totals."""
    for total_row, part_row in zip(totals, parts, strict=True):
        for one, part in zip(total_row, part_row, strict=True):
            s.b.set(one, s.b.alu("add", s.b.get(one), s.b.get(part)))


def reach_down(tile: Tile) -> int:
    """Return how many chunks of four rows stand side by side in a slice of a, as `Slice.reach`."""
    return tile.down if tile.rows >= VECTOR else tile.down // VECTOR


def row_factors(
    s: SimtEmitter, tile: Tile, a: Slice, half: Value, q: Value, u: Value | int
) -> list[Value]:
    """Return a work-item's rows of a for one step, each in all lanes."""
    y = s.local(1)
    if tile.rows < VECTOR:
        at = a.place(half, q, u, whole(s, "idiv", y, VECTOR))
        place = s.b.add(at, whole(s, "mod", y, VECTOR))
        return [s.b.splat(s.b.load(a.memory, place), VECTOR)]
    vectors = a.read(half, q, u, y, tile.rows // VECTOR)
    return [lane(s, vectors[r // VECTOR], r % VECTOR, VECTOR) for r in range(tile.rows)]


def multiply_floats(s: SimtEmitter, tile: Tile, a: Slice, b_: Slice, acc: Registers) -> Multiply:
    """Return the inner product of float32 slices: rows + columns words read per rows x columns."""
    b = s.b

    def step(half: Value, q: Value, u: Value | int) -> None:
        columns = b_.read(half, q, u, s.local(0), tile.columns // VECTOR)
        for one, line in zip(row_factors(s, tile, a, half, q, u), acc, strict=True):
            for column, register in zip(columns, line, strict=True):
                b.set(register, b.alu("fma", one, column, b.get(register)))

    def multiply(half: Value, k: Value, steps: Value) -> None:
        quads = whole(s, "idiv", steps, VECTOR)
        if quads.constant != 0:
            with b.loop(b.int(0), quads) as q:
                for u in range(VECTOR):
                    step(half, q, u)
        rest = whole(s, "mod", steps, VECTOR)
        for u in range(rest.constant or 0):
            step(half, quads, u)
        if rest.constant is None:
            with b.loop(b.int(0), rest) as i:
                step(half, quads, i)

    return multiply


def rows_of(s: SimtEmitter, tile: Tile, r: int) -> Value:
    """Return the number, in the tile, of a work-item's row r."""
    if tile.rows < VECTOR:
        return s.local(1)
    first = s.b.mul(s.local(1), s.b.int(VECTOR))
    return total(s, first, r // VECTOR * VECTOR * tile.down + r % VECTOR)


def columns_of(s: SimtEmitter, tile: Tile, c: int) -> Value:
    """Return the number, in the tile, of a work-item's column c."""
    first = s.b.mul(s.local(0), s.b.int(VECTOR))
    return total(s, first, c // VECTOR * VECTOR * tile.across + c % VECTOR)
