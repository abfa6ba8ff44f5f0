"""Sums of products with packed panels, in registers: int8, bf16 and float32 arithmetic.

`segments` sums a tile of one product along k. Each arithmetic is a function that adds some of k to
registers; weights are read as they lie, and decoded on the way where floats are multiplied.
Invariant: along k in order, in segments of 1024 that start from zero.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from homebox.engine.codegen.linear import Builder, Value
from homebox.engine.fusion.packed import Packed
from homebox.engine.fusion.schedule import SEGMENT
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.formats import A8, BLOCK, Q8, SUPER
from homebox.engine.graph.symbolic import Index
from homebox.engine.kernels.contract_kernels import Registers
from homebox.engine.kernels.decode_kernels import PIECE, blocks, load_words, scales
from homebox.engine.kernels.loops import LANES, Emitter

Span = tuple[Value, int]  # the first k, and how many


@dataclass(frozen=True, slots=True)
class Operands:
    """One product inside a kernel that is being written."""

    e: Emitter
    packed: Packed
    k: int  # numbers summed
    stored: Value  # pointer to the weight's bytes
    input: Value  # pointer to the activations
    row_start: Callable[[Index], Index]  # where a row of activations begins, in elements
    row_step: int  # elements from one row to the next
    panel_start: Callable[[int], Value]  # the byte where a panel of the unit begins
    ahead: int = 0  # bytes of the weight to ask for before they are read; 0 = leave it to the CPU
    exists: Callable[[], Value | None] = lambda: None  # whether the unit has a weight; None = yes

    def guard(self) -> AbstractContextManager[None]:
        """Return a block that runs only if the unit has a weight: other sums stay zero."""
        exists = self.exists()
        return nullcontext() if exists is None else self.e.b.when(exists)


def segments(o: Operands, top: Index, rows: int, v: int, panels: int) -> list[list[Value]]:
    """Return the sums of `rows` x `panels` from row `top` and the unit's panel `v` on."""
    b = o.e.b
    sums = zeros(b, rows, panels)
    with o.guard():
        _sum_up(o, top, v, sums)
    return values_of(b, sums)


def _sum_up(o: Operands, top: Index, v: int, sums: Registers) -> None:
    """Add all of k to the registers of a tile."""
    b, add = o.e.b, _ARITHMETIC[o.packed.arithmetic]
    if o.k <= SEGMENT:
        add(o, top, v, (b.int(0), o.k), sums)
        return
    full, rest = divmod(o.k, SEGMENT)
    with b.loop(b.int(0), b.int(full)) as segment:
        begin = b.mul(segment, b.int(SEGMENT))
        _added(b, sums, lambda parts: add(o, top, v, (begin, SEGMENT), parts))
    if rest:
        begin = b.int(full * SEGMENT)
        _added(b, sums, lambda parts: add(o, top, v, (begin, rest), parts))


def zeros(b: Builder, rows: int, panels: int) -> Registers:
    """Return registers of a tile that hold zeros."""
    zero = b.const(0.0, dt.f32, LANES)
    return [[b.reg(zero) for _ in range(panels)] for _ in range(rows)]


def values_of(b: Builder, registers: Registers) -> list[list[Value]]:
    """Return what the registers of a tile hold."""
    return [[b.get(x) for x in row] for row in registers]


def _added(b: Builder, totals: Registers, fill: Callable[[Registers], None]) -> None:
    """Sum one segment from zero and add it to the totals."""
    parts = zeros(b, len(totals), len(totals[0]))
    fill(parts)
    for total_row, part_row in zip(totals, parts, strict=True):
        for total, part in zip(total_row, part_row, strict=True):
            b.set(total, b.alu("add", b.get(total), b.get(part)))


def add_int8(o: Operands, top: Index, v: int, span: Span, acc: Registers) -> None:
    """Add `span` = (first k, count) of int8 blocks: exact sums of 32, then one fma each."""
    b = o.e.b
    begin, count = span
    rows = _int8_rows(o, top, len(acc))
    starts = [o.panel_start(v + p) for p in range(len(acc[0]))]
    first = b.emit("idiv", dt.i64, 1, (begin, b.int(SUPER)))
    whole = count // SUPER
    if whole:
        with b.loop(first, b.add(first, b.int(whole))) as at:
            for half in range(2):
                _int8_block(o, rows, starts, at, half, acc)
    if count % SUPER:
        at = b.add(first, b.int(whole))
        for half in range(-(-(count % SUPER) // BLOCK)):
            _int8_block(o, rows, starts, at, half, acc)


def _int8_rows(o: Operands, top: Index, rows: int) -> list[Value]:
    """Return the byte where each row of int8 activations begins."""
    start, per = o.row_start(top), A8.panel_bytes(o.k)
    scaled = Index(
        start.const // o.k * per,
        tuple((a, c // o.k * per) for a, c in start.terms),
    )
    step = o.row_step // o.k * per
    base = o.e.integer(scaled)
    return [o.e.b.add(base, o.e.b.int(r * step)) for r in range(rows)]


def _int8_block(
    o: Operands, rows: list[Value], starts: list[Value], at: Value, half: int, acc: Registers
) -> None:
    """Add one block of 32 k: half `half` of super-block `at`."""
    b, form = o.e.b, o.packed.form
    a = o.input
    floats, ints = b.view(a, dt.f32), b.view(a, dt.i32)
    places = [b.add(p, b.mul(at, b.int(form.unit_bytes))) for p in starts]
    if not half:
        _fetch(o, places[0], form.unit_bytes)
    words = []
    for row in rows:
        byte = b.add(row, b.mul(at, b.int(2 * A8.unit_bytes)))
        words.append(b.add(b.emit("idiv", dt.i64, 1, (byte, b.int(4))), b.int(10 * half)))
    sums: list[list[list[Value]]] = []  # chains by row and panel
    for word in words:
        total = b.load(ints, b.add(word, b.int(1)))
        start = b.splat(b.alu("mul", total, b.const(-form.zero, dt.i32)), LANES)
        sums.append([[b.reg(start), *_second(o, acc)] for _ in starts])
    for g, panel_bytes in _int8_groups(o, places, half):
        for word, panels in zip(words, sums, strict=True):
            number = b.splat(b.load(ints, b.add(word, b.int(2 + g))), LANES)
            four = b.bitcast(number, dt.i8)
            for weight, chains in zip(panel_bytes, panels, strict=True):
                chain = chains[g % len(chains)]
                args = (b.get(chain), weight, four)
                b.set(chain, b.emit("dot4", dt.i32, LANES, args, form.zero * 2 - 1))
    factors = [scales(b, form, o.stored, place, half) for place in places]
    for word, panels, totals in zip(words, sums, acc, strict=True):
        mine = b.splat(b.load(floats, word), LANES)
        for chains, factor, total in zip(panels, factors, totals, strict=True):
            whole = b.get(chains[0])
            for other in chains[1:]:
                whole = b.alu("add", whole, b.get(other))
            both = b.alu("mul", factor, mine)
            b.set(total, b.alu("fma", b.cast(whole, dt.f32), both, b.get(total)))


def _second(o: Operands, acc: Registers) -> list[Value]:
    """Return a second chain of sums where few run side by side: integers add in any order."""
    few = len(acc) * len(acc[0]) <= 2
    return [o.e.b.reg(o.e.b.const(0, dt.i32, LANES))] if few else []


def _int8_groups(o: Operands, places: list[Value], half: int) -> Iterator[tuple[int, list[Value]]]:
    """Yield each group of 4 k with the panels' 64 unsigned bytes, just when they are read."""
    b, form, stored = o.e.b, o.packed.form, o.stored
    count = 8 if form is Q8 else 4
    for g in range(count):
        offset = 64 + 64 * (count * half + g)
        loaded = [b.bitcast(load_words(b, stored, at, offset), dt.u8) for at in places]
        if form is Q8:
            yield g, loaded
            continue
        low, four = b.const(15, dt.u8, 64), b.const(4, dt.u8, 64)
        yield g, [b.alu("and", x, low) for x in loaded]
        yield g + 4, [b.alu("shr", x, four) for x in loaded]


def add_bf16(o: Operands, top: Index, v: int, span: Span, acc: Registers) -> None:
    """Add `span` of a product of bf16 with bf16 panels, two k at a time."""
    b, (begin, count) = o.e.b, span
    pairs = b.view(o.input, dt.i32)
    half = b.emit("idiv", dt.i64, 1, (o.e.integer(o.row_start(top)), b.int(2)))
    rows = [b.add(half, b.int(r * o.row_step // 2)) for r in range(len(acc))]
    words = b.view(o.stored, dt.i32)
    starts = [
        b.emit("idiv", dt.i64, 1, (o.panel_start(v + p), b.int(4))) for p in range(len(acc[0]))
    ]

    def step(k: Value, u: int) -> None:
        at = b.add(b.mul(k, b.int(LANES)), b.int(LANES * u))
        if o.ahead:
            b.prefetch(words, b.add(b.add(starts[0], at), b.int(o.ahead // 4)))
        panels = [b.bitcast(b.load(words, b.add(s, at), LANES), dt.bf16) for s in starts]
        for row, totals in zip(rows, acc, strict=True):
            pair = b.splat(b.load(pairs, b.add(b.add(row, k), b.int(u))), LANES)
            dot_row(b, b.bitcast(pair, dt.bf16), panels, totals)

    first = b.emit("idiv", dt.i64, 1, (begin, b.int(2)))
    unrolled(b, first, count // 2, 4, step)


def _fetch(o: Operands, at: Value, count: int) -> None:
    """Ask for `count` bytes of the weight that follow byte `at` by `ahead`."""
    if o.ahead:
        for line in range(o.ahead, o.ahead + count, 64):
            o.e.b.prefetch(o.stored, o.e.b.add(at, o.e.b.int(line)))


def dot_row(b: Builder, pair: Value, panels: list[Value], totals: list[Value]) -> None:
    """Add a pair of bf16, the same in all lanes, times each panel's pairs."""
    for panel, total in zip(panels, totals, strict=True):
        b.set(total, b.emit("dotbf16", dt.f32, LANES, (b.get(total), panel, pair)))


def unrolled(
    b: Builder, first: Value, count: int, unroll: int, step: Callable[[Value, int], None]
) -> None:
    """Call step(k, u) for first .. first + count, `unroll` at a time."""
    whole = count // unroll * unroll
    if whole:
        with b.loop(first, b.add(first, b.int(whole)), unroll) as k:
            for u in range(unroll):
                step(k, u)
    for u in range(count - whole):
        step(b.add(first, b.int(whole)), u)


def add_f32(o: Operands, top: Index, v: int, span: Span, acc: Registers) -> None:
    """Add `span` of a product of float32 with exactly decoded weights."""
    b, (begin, count) = o.e.b, span
    form, a = o.packed.form, o.input
    base = o.e.integer(o.row_start(top))
    rows = [b.add(base, b.int(r * o.row_step)) for r in range(len(acc))]
    starts = [o.panel_start(v + p) for p in range(len(acc[0]))]
    length = PIECE[form.name]
    per = length // form.unit * form.unit_bytes

    def piece(at: Value, most: int) -> None:
        places = [b.add(s, b.mul(at, b.int(per))) for s in starts]
        _fetch(o, places[0], per)
        k0 = b.mul(at, b.int(length))
        for values in zip(*(blocks(b, form, o.stored, p, most) for p in places), strict=True):
            k = values[0][0]
            if k >= most:
                return
            for row, totals in zip(rows, acc, strict=True):
                factor = b.splat(b.load(a, b.add(b.add(row, k0), b.int(k))), LANES)
                for (_, value), total in zip(values, totals, strict=True):
                    b.set(total, b.alu("fma", factor, value, b.get(total)))

    first = b.emit("idiv", dt.i64, 1, (begin, b.int(length)))
    whole = count // length
    if whole:
        with b.loop(first, b.add(first, b.int(whole))) as at:
            piece(at, length)
    if count % length:
        piece(b.add(first, b.int(whole)), count % length)


_ARITHMETIC = {"int8": add_int8, "bf16": add_bf16, "f32": add_f32}
