"""Sums of a streamed weight: a quad of work-items reads a group of 16 outputs, 16 bytes each.

A work-item sums four outputs (the lanes of its vectors) over the units of its slice: 32 k of int8
or of decoded numbers, 16 k of bf16. It asks for all of a unit's bytes, eight reads of 16, before it
multiplies; four neighbours read 64 bytes that lie together, and neighbouring slices the units next
to each other. int8: an exact sum of 32 products, then one multiply-add with both scales. bf16:
exactly widened numbers, multiplied and added in f32.
Invariant: the order of a slice's sum is that of its units; rows do not meet, and do not matter.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd

from homebox.engine.codegen.linear import Builder, Value
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.formats import BLOCK, F32, PANEL, Q4, Q8, Format
from homebox.engine.graph.symbolic import Index
from homebox.engine.kernels.decode_kernels import high_half, low_half

QUAD = 4  # outputs of a work-item, and work-items side by side
NIBBLES = 0x0F0F0F0F
A8_WORDS = 10  # of a block of activations: scale, sum, 32 numbers
UNIT = {"f32": 8, "bf16": 16, "q8": BLOCK, "q4": BLOCK}  # k of a unit


@dataclass(frozen=True, slots=True)
class Stream:
    """One product as a work-item sees it; places are counted in words of 4 bytes."""

    b: Builder
    form: Format
    k: int
    words: Value  # the weight
    given: Value  # the activations: words of a8, or of pairs of bf16
    rows: list[Value]  # where each row of activations begins
    even: int  # words that divide where rows begin: 1, 2 or 4
    panel: Value  # where the panel begins
    slice: Value  # 0 .. slices - 1
    slices: int
    quad: Value  # the first of the four words in a group of 16


def units_of(int8: bool, form: Format, k: int) -> int:
    """Return into how many pieces k may be cut."""
    return -(-k // (BLOCK if int8 else UNIT[form.name]))


def common_step(index: Index, row_step: int, most: int) -> int:
    """Return the largest power of two up to `most` that divides wherever a row may begin."""
    step = gcd(most, index.const, row_step)
    for _, c in index.terms:
        step = gcd(step, c)
    return step


def stream_int8(o: Stream, acc: list[Value]) -> None:
    """Add this slice's part of an int8 product to a register of four sums for each row."""
    at, step, x_step = _unit_places(o)
    ahead = 2 if o.form is Q4 else 1
    place = Place(o, at, step, x_step * A8_WORDS)

    def several(first: Value, count: int) -> None:
        fetched = [_fetch_int8(place, o.b.add(first, o.b.int(u))) for u in range(count)]
        for block in fetched:
            _add_int8(o, block, acc)

    _walk(o, units_of(True, o.form, o.k), ahead, several)


def stream_bf16(o: Stream, acc: list[Value]) -> None:
    """Add this slice's part of a product of bf16 numbers to four sums for each row."""
    unit = UNIT[o.form.name]
    at, step, x_step = _unit_places(o)
    place = Place(o, at, step, x_step * unit // 2)

    def several(first: Value, count: int) -> None:
        for u in range(count):
            _add_bf16(place, o.b.add(first, o.b.int(u)), unit, acc)

    whole = o.k // unit
    _walk(o, whole, 1, several)
    if o.k % unit:
        with o.b.when(o.b.alu("eq", o.slice, o.b.int(whole % o.slices))):
            _add_bf16(place, o.b.int(whole // o.slices), o.k % unit, acc)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a slice's units lie: at `at` and every `step` words; their k at every `x_step`."""

    o: Stream
    at: Value
    step: int
    x_step: int


def _unit_places(o: Stream) -> tuple[Value, int, int]:
    """Return the word of this quad in the slice's first unit, the words to its next, and units."""
    b = o.b
    if not o.form.quantised:
        words = UNIT[o.form.name] * PANEL // o.form.unit
        at = b.add(b.add(o.panel, o.quad), b.mul(o.slice, b.int(words)))
        return at, words * o.slices, o.slices
    # Units are the halves of super-blocks. With one slice there is a single unit.
    whole, half = o.form.unit_bytes // 4, (o.form.unit_bytes // 4 - PANEL) // 2
    two = b.int(2)
    at = b.add(o.panel, b.mul(b.emit("idiv", dt.i64, 1, (o.slice, two)), b.int(whole)))
    at = b.add(at, b.mul(b.emit("mod", dt.i64, 1, (o.slice, two)), b.int(half)))
    return b.add(at, b.add(o.quad, b.int(PANEL))), o.slices * whole // 2, o.slices


def _walk(o: Stream, units: int, ahead: int, several: Callable[[Value, int], None]) -> None:
    """Call several(first, count) for the slice's units, `ahead` at a time."""
    b = o.b
    whole, rest = divmod(units, o.slices)
    together = whole // ahead * ahead
    if together > ahead:
        with b.loop(b.int(0), b.int(together), ahead) as i:
            several(i, ahead)
    elif together:
        several(b.int(0), ahead)
    if whole > together:
        several(b.int(together), whole - together)
    if rest:
        with b.when(b.alu("lt", o.slice, b.int(rest))):
            several(b.int(whole), 1)


# -- int8 -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Block:
    """Four outputs' bytes of a unit, their scales, and where the unit's activations begin."""

    words: list[Value]
    scale: Value
    x: list[Value]


def _fetch_int8(p: Place, i: Value) -> Block:
    o, b = p.o, p.o.b
    at = b.add(p.at, b.mul(i, b.int(p.step)))
    words = [
        b.load(o.words, b.add(at, b.int(PANEL * g)), QUAD, aligned=True)
        for g in range(8 if o.form is Q8 else 4)
    ]
    first = b.mul(o.slice, b.int(A8_WORDS))
    moved = b.add(first, b.mul(i, b.int(p.x_step)))
    return Block(words, _scale(p, i), [b.add(row, moved) for row in o.rows])


def _scale(p: Place, i: Value) -> Value:
    """Return the four scales of a unit."""
    o, b, two = p.o, p.o.b, p.o.b.int(2)
    halves = b.view(o.words, dt.f16)
    whole = b.int(o.form.unit_bytes // 2)
    at = b.mul(b.emit("idiv", dt.i64, 1, (o.slice, two)), whole)
    at = b.add(at, b.mul(b.emit("mod", dt.i64, 1, (o.slice, two)), b.int(PANEL)))
    at = b.add(at, b.add(b.mul(o.panel, two), o.quad))
    at = b.add(at, b.mul(i, b.int(p.step * 2)))
    return b.cast(b.load(halves, at, QUAD, aligned=True), dt.f32)


def _add_int8(o: Stream, block: Block, acc: list[Value]) -> None:
    b, form = o.b, o.form
    groups = block.words
    if form is Q4:
        low, four = b.const(NIBBLES, dt.i32, QUAD), b.const(4, dt.i32, QUAD)
        groups = [b.alu("and", w, low) for w in block.words]
        groups += [b.alu("and", b.alu("shr", w, four), low) for w in block.words]
    for x, total in zip(block.x, acc, strict=True):
        scale, whole = numbers(b, o.given, x, 2, 2)
        zero = b.const(-form.zero, dt.i32)
        chain = b.splat(b.alu("mul", whole, zero), QUAD)
        start = b.add(x, b.int(2))
        for word, x_word in zip(groups, numbers(b, o.given, start, 8, 2), strict=True):
            args = (chain, b.bitcast(word, dt.u8), b.bitcast(b.splat(x_word, QUAD), dt.i8))
            chain = b.emit("dot4", dt.i32, QUAD, args, form.zero * 2 - 1)
        both = b.alu("mul", block.scale, b.splat(b.bitcast(scale, dt.f32), QUAD))
        b.set(total, b.alu("fma", b.cast(chain, dt.f32), both, b.get(total)))


def numbers(b: Builder, pointer: Value, at: Value, count: int, together: int) -> list[Value]:
    """Return `count` scalars from a place that is a multiple of `together` elements."""
    found: list[Value] = []
    while len(found) < count:
        size = together
        while size > count - len(found):
            size //= 2
        place = b.add(at, b.int(len(found)))
        if size == 1:
            found.append(b.load(pointer, place))
            continue
        loaded = b.load(pointer, place, size, aligned=True)
        found += [lane(b, loaded, i) for i in range(size)]
    return found


def lane(b: Builder, vector: Value, i: int) -> Value:
    """Return one lane of a vector as a scalar."""
    return b.emit("shuffle", vector.dtype, 1, (vector, vector), (i,))


# -- bf16 -----------------------------------------------------------------------------------------


def _add_bf16(p: Place, i: Value, count: int, acc: list[Value]) -> None:
    """Add the first `count` k of a unit, eight at a time."""
    o, b = p.o, p.o.b
    at = b.add(p.at, b.mul(i, b.int(p.step)))
    parts = acc
    if o.form.quantised:
        parts = [b.reg(b.const(0.0, dt.f32, QUAD)) for _ in acc]
    first = b.mul(o.slice, b.int(UNIT[o.form.name] // 2))
    moved = b.add(first, b.mul(i, b.int(p.x_step)))
    words = _float_words(o, at, count)
    for k in range(0, count, 8):
        some = [_decoded(b, o.form, words, k + j) for j in range(min(8, count - k))]
        for row, total in zip(o.rows, parts, strict=True):
            start = b.add(b.add(row, moved), b.int(k // 2))
            pairs = numbers(b, o.given, start, len(some) // 2, o.even)
            for j, value in enumerate(some):
                half = high_half(b, pairs[j // 2]) if j % 2 else low_half(b, pairs[j // 2])
                b.set(total, b.alu("fma", b.splat(half, QUAD), value, b.get(total)))
    if o.form.quantised:
        scale = _scale(p, i)
        for part, total in zip(parts, acc, strict=True):
            b.set(total, b.alu("fma", b.get(part), scale, b.get(total)))


def _float_words(o: Stream, at: Value, count: int) -> list[Value]:
    """Return the words of four outputs for the first `count` k of a unit."""
    b, form, unit = o.b, o.form, UNIT[o.form.name]
    per = form.unit if not form.quantised else 4
    groups = min(-(-count // per), unit // per // (2 if form is Q4 else 1))
    return [b.load(o.words, b.add(at, b.int(PANEL * g)), QUAD, aligned=True) for g in range(groups)]


def _decoded(b: Builder, form: Format, words: list[Value], k: int) -> Value:
    """Return four outputs' numbers for one k of a unit as float32, without their scales."""
    if form is F32:
        return b.bitcast(words[k], dt.f32)
    if not form.quantised:
        return high_half(b, words[k // 2]) if k % 2 else low_half(b, words[k // 2])
    shift, bits = (8 * (k % 4), 8) if form is Q8 else (8 * (k % 4) + 4 * (k // 16), 4)
    word = words[k // 4 if form is Q8 else k % 16 // 4]
    moved = b.alu("shr", word, b.const(shift, dt.i32, QUAD)) if shift else word
    whole = b.cast(b.alu("and", moved, b.const((1 << bits) - 1, dt.i32, QUAD)), dt.f32)
    return b.alu("sub", whole, b.const(float(form.zero), dt.f32, QUAD))
