"""Sums of a streamed weight in the CPU's order: one work-item for each output and segment of k.

A sum in order is a chain of multiply-adds, and memory is far away: so all work-items of the group
fetch the panel's bytes, as they lie, 16 at a time into registers, while those that add walk what
was fetched before and lies in local memory. Sixteen neighbours walk the sixteen outputs of a panel.
Invariant: along k in order, in segments of 1024 that start from zero and are added in order;
numbers are decoded exactly. These are the CPU's bits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from homebox.engine.codegen.linear import Builder, Value
from homebox.engine.fusion.schedule import SEGMENT
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.formats import BLOCK, F32, PANEL, Q4, Q8, Format
from homebox.engine.kernels.decode_kernels import high_half, low_half
from homebox.engine.simt.gemv_sums import lane, numbers
from homebox.engine.simt.simt_emitter import SimtEmitter

PIECE = {"f32": 16, "bf16": 16, "q8": BLOCK, "q4": BLOCK}  # k that are walked without a branch
CHUNK = 4  # words of a read
AT_ONCE = 8  # reads of a work-item that are on their way at most


def line_words(form: Format, depth: int) -> int:
    """Return the words of `depth` k of a panel."""
    return depth // form.unit * form.unit_bytes // 4


def least_bytes(form: Format) -> int:
    """Return the local memory that the shortest staged line of a panel needs."""
    return 4 * (line_words(form, max(form.unit, PIECE[form.name])) + PANEL)


@dataclass(frozen=True, slots=True)
class Chain:
    """One output of a work-item: its row's activations, panel and lane, and whether it exists."""

    row: Value  # the element where the row begins
    panel: Value  # of the group's panels
    lane: Value
    inside: Value | None


@dataclass(frozen=True, slots=True)
class Walk:
    """How a group walks one product: `parallel` segments side by side, `depth` k at a time."""

    parallel: int
    depth: int

    @staticmethod
    def of(form: Format, k: int, panels: int, outputs: int, group: int, room: int) -> "Walk":
        """Return the widest walk for `group` work-items and `room` bytes of local memory."""
        segments = -(-k // SEGMENT)
        parallel = max(1, min(segments, group // outputs)) if outputs <= group else 1
        least = max(form.unit, PIECE[form.name])

        def fits(walk: Walk) -> bool:
            reads = panels * walk.parallel * line_words(form, walk.depth) // CHUNK
            held = 4 * walk.words(form, panels, outputs)
            return held <= room and reads <= AT_ONCE * group

        while parallel > 1 and not fits(Walk(parallel, least)):
            parallel -= 1
        depth = least
        while depth * 2 <= SEGMENT and depth < k and fits(Walk(parallel, depth * 2)):
            depth *= 2
        return Walk(parallel, min(depth, -(-k // least) * least))

    def line(self, form: Format, panels: int) -> int:
        """Return the words from one staged line to the next, which uses other banks."""
        several = panels * self.parallel > 1
        return line_words(form, self.depth) + (PANEL if several else 0)

    def words(self, form: Format, panels: int, outputs: int) -> int:
        """Return the words of local memory that it takes: lines, then sums of segments."""
        lines = panels * self.parallel * self.line(form, panels)
        return lines + (outputs * self.parallel if self.parallel > 1 else 0)


@dataclass(frozen=True, slots=True)
class Ordered:
    """One product as a group sees it."""

    s: SimtEmitter
    form: Format
    k: int
    walk: Walk
    words: Value  # the weight, in words
    given: Value  # the activations, float32
    even: int  # elements that divide where rows begin: 1, 2 or 4
    panels: list[Value]  # the word where each of the group's panels begins
    group: int
    outputs: int
    scratch: Value  # local memory, in words


def ordered_sums(o: Ordered, chains: list[Chain]) -> list[Value]:
    """Return the sums of this work-item's outputs; all work-items of the group come here."""
    b, w = o.s.b, o.walk
    segments = -(-o.k // SEGMENT)
    zero = b.const(0.0, dt.f32)
    totals = [b.reg(zero) for _ in chains]
    with _steps(b, segments, w.parallel) as first:
        parts = [b.reg(zero) for _ in chains]
        _segments(o, first, chains, parts)
        if segments == 1:
            return [b.get(part) for part in parts]
        if w.parallel == 1:
            for total, part in zip(totals, parts, strict=True):
                b.set(total, b.alu("add", b.get(total), b.get(part)))
        else:
            _meet(o, first, segments, chains[0], totals[0], parts[0])
    return [b.get(total) for total in totals]


def ask_early(products: list[Ordered]) -> None:
    """Read what the first slices need, as far as registers go, before other work begins.

    Reads of memory that a kernel does not write are done once: those for the slices find these.
    """
    left = AT_ONCE
    for o in products:
        *_, count = _chunks(o)
        if count <= left and o.k <= SEGMENT * o.walk.parallel:
            _fetch(o, o.s.b.int(0), o.s.b.int(0))
            left -= count


@contextmanager
def _steps(b: Builder, count: int, step: int) -> Iterator[Value]:
    """Open a loop over 0, step, .. < count, if there are several."""
    if count <= step:
        yield b.int(0)
        return
    with b.loop(b.int(0), b.int(count), step) as i:
        yield i


@contextmanager
def guarded(b: Builder, mask: Value | None) -> Iterator[None]:
    """Run a block where a mask holds; always if there is none."""
    if mask is None:
        yield
        return
    with b.when(mask):
        yield


def _meet(o: Ordered, first: Value, segments: int, chain: Chain, total: Value, part: Value) -> None:
    """Add the segments that work-items summed side by side to the outputs' totals, in order."""
    b, w = o.s.b, o.walk
    base = o.walk.words(o.form, len(o.panels), o.outputs) - o.outputs * w.parallel
    floats = b.view(o.scratch, dt.f32)
    me = o.s.local()
    most = o.outputs * w.parallel
    with guarded(b, b.alu("lt", me, b.int(most)) if most < o.group else None):
        b.store(floats, b.add(me, b.int(base)), b.get(part))
    o.s.barrier()
    with guarded(b, b.alu("lt", me, b.int(o.outputs)) if o.outputs < o.group else None):
        for t in range(w.parallel):
            other = b.load(floats, b.add(me, b.int(base + t * o.outputs)))
            added = b.alu("add", b.get(total), other)
            if segments % w.parallel and t:
                there = b.alu("lt", b.add(first, b.int(t)), b.int(segments))
                added = b.alu("where", there, added, b.get(total))
            b.set(total, added)


def _segments(o: Ordered, first: Value, chains: list[Chain], parts: list[Value]) -> None:
    """Sum some segments side by side: slices of the panels through local memory."""
    b, w = o.s.b, o.walk
    length = min(SEGMENT, o.k)
    fetched = [b.reg(v) for v in _fetch(o, first, b.int(0))]
    with _steps(b, length, w.depth) as begin:
        _put(o, fetched)
        o.s.barrier()
        if length > w.depth:
            ahead = b.add(begin, b.int(w.depth))
            with b.when(b.alu("lt", ahead, b.int(length))):
                for register, value in zip(fetched, _fetch(o, first, ahead), strict=True):
                    b.set(register, value)
        for chain, part in zip(chains, parts, strict=True):
            with guarded(b, _reaches(o, chain)):
                _walk(o, first, begin, chain, part)
        if length > w.depth or o.k > SEGMENT * w.parallel:
            o.s.barrier()  # the next slice must not overwrite what others still read


def _reaches(o: Ordered, chain: Chain) -> Value | None:
    """Return whether a work-item walks anything for one of its chains."""
    most = o.outputs * o.walk.parallel
    if o.walk.parallel == 1 or most == o.group:
        return chain.inside if o.walk.parallel == 1 else None
    return o.s.b.alu("lt", o.s.local(), o.s.b.int(most))


# -- fetching -------------------------------------------------------------------------------------


def _chunks(o: Ordered) -> tuple[int, int, int]:
    """Return the reads of a line and of all lines, and how many of them a work-item does."""
    line = line_words(o.form, o.walk.depth) // CHUNK
    every = line * len(o.panels) * o.walk.parallel
    return line, every, -(-every // o.group)


def _fetch(o: Ordered, first: Value, begin: Value) -> list[Value]:
    """Read this work-item's share of the lines from k `begin` of segments `first` and on."""
    b = o.s.b
    line, every, count = _chunks(o)
    last = o.form.panel_bytes(o.k) // (4 * CHUNK) - 1
    per_segment = line_words(o.form, SEGMENT) // CHUNK
    before = b.mul(first, b.int(per_segment))
    before = b.add(
        before,
        b.mul(
            b.emit("idiv", dt.i64, 1, (begin, b.int(o.form.unit))),
            b.int(o.form.unit_bytes // (4 * CHUNK)),
        ),
    )
    found = []
    for i in range(count):
        number, place = o.s.divide(_number(o, i, every), b.int(line))
        place = b.add(place, before)
        start = o.panels[0]
        if o.walk.parallel > 1:
            number, t = o.s.divide(number, b.int(o.walk.parallel))
            place = b.add(place, b.mul(t, b.int(per_segment)))
        if len(o.panels) > 1:
            for p in range(1, len(o.panels)):
                start = b.alu("where", b.alu("lt", number, b.int(p)), start, o.panels[p])
        place = b.emit("min", dt.i64, 1, (place, b.int(last)))
        at = b.add(start, b.mul(place, b.int(CHUNK)))
        found.append(b.load(o.words, at, CHUNK, aligned=True))
    return found


def _number(o: Ordered, i: int, every: int) -> Value:
    """Return which read of the group's is this work-item's i-th; the last one for the rest."""
    b = o.s.b
    number = b.add(o.s.local(), b.int(i * o.group))
    if (i + 1) * o.group <= every:
        return number
    return b.emit("min", dt.i64, 1, (number, b.int(every - 1)))


def _put(o: Ordered, fetched: list[Value]) -> None:
    """Put what was read into local memory."""
    b = o.s.b
    line, every, _ = _chunks(o)
    for i, register in enumerate(fetched):
        number = b.add(o.s.local(), b.int(i * o.group))
        mask = None if (i + 1) * o.group <= every else b.alu("lt", number, b.int(every))
        row, place = o.s.divide(number, b.int(line))
        apart = o.walk.line(o.form, len(o.panels))
        at = b.add(b.mul(row, b.int(apart)), b.mul(place, b.int(CHUNK)))
        with guarded(b, mask):
            b.store(o.scratch, at, b.get(register), aligned=True)


# -- walking --------------------------------------------------------------------------------------


def _walk(o: Ordered, first: Value, begin: Value, chain: Chain, part: Value) -> None:
    """Add what is staged to one sum: pieces without a branch, then the rest of k."""
    b, w = o.s.b, o.walk
    piece = PIECE[o.form.name]
    number = chain.panel
    segment = first
    if w.parallel > 1:
        t = b.emit("idiv", dt.i64, 1, (o.s.local(), b.int(o.outputs)))
        number = b.add(b.mul(number, b.int(w.parallel)), t)
        segment = b.add(first, t)
    line = b.mul(number, b.int(w.line(o.form, len(o.panels))))
    k = b.add(b.mul(segment, b.int(SEGMENT)), begin)
    x = b.add(chain.row, k)
    full = o.k // piece * piece
    left = b.alu("sub", b.int(full), k)
    even = o.k % SEGMENT == 0 and o.k // SEGMENT % w.parallel == 0
    if even or (o.k <= w.depth and o.k == full):
        stop = b.int(min(w.depth, full))
    else:
        stop = b.emit("min", dt.i64, 1, (left, b.int(w.depth)))

    def some(i: Value, count: int) -> None:
        values = _values(o, line, i, chain.lane, count)
        given = numbers(b, o.given, b.add(x, i), count, o.even)
        for value, factor in zip(values, given, strict=True):
            b.set(part, b.alu("fma", factor, value, b.get(part)))

    if full:
        with b.loop(b.int(0), stop, piece) as i:
            some(i, piece)
    if o.k > full:
        here: Value | None = b.alu("lt", left, b.int(w.depth))
        if full:
            inside = b.alu("lt", b.int(-1), left)
            here = b.alu("and", inside, b.alu("lt", left, b.int(w.depth)))
        elif w.parallel == 1:
            here = None
        with guarded(b, here):
            some(left, o.k - full)


def _values(o: Ordered, line: Value, i: Value, place: Value, count: int) -> list[Value]:
    """Return the exact numbers of an output for `count` k from the staged k `i` on."""
    b, form = o.s.b, o.form
    if form.quantised:
        return _quantised(o, line, i, place, count)
    at = b.add(
        b.add(line, place), b.mul(b.emit("idiv", dt.i64, 1, (i, b.int(form.unit))), b.int(PANEL))
    )
    steps = -(-count // form.unit)
    words = [b.load(o.scratch, b.add(at, b.int(PANEL * g))) for g in range(steps)]
    if form is F32:
        return [b.bitcast(w, dt.f32) for w in words]
    return [f(b, w) for w in words for f in (low_half, high_half)][:count]


def _quantised(o: Ordered, line: Value, i: Value, place: Value, count: int) -> list[Value]:
    b, form = o.s.b, o.form
    half_words = (form.unit_bytes // 4 - PANEL) // 2
    block = b.emit("idiv", dt.i64, 1, (i, b.int(BLOCK)))
    whole, half = o.s.divide(block, b.int(2))
    start = b.add(line, b.mul(whole, b.int(form.unit_bytes // 4)))
    halves = b.view(o.scratch, dt.f16)
    scale_at = b.add(b.mul(start, b.int(2)), b.add(b.mul(half, b.int(PANEL)), place))
    scale = b.splat(b.cast(b.load(halves, scale_at), dt.f32), 4)
    at = b.add(b.add(start, b.int(PANEL)), b.add(b.mul(half, b.int(half_words)), place))
    groups = min(-(-count // 4), 8 if form is Q8 else 4)
    words = [b.load(o.scratch, b.add(at, b.int(PANEL * g))) for g in range(groups)]
    if form is Q4:
        low, four = b.const(0x0F0F0F0F, dt.i32), b.const(4, dt.i32)
        words = [b.alu("and", w, low) for w in words] + [
            b.alu("and", b.alu("shr", w, four), low) for w in words
        ]
    zero = b.const(float(form.zero), dt.f32, 4)
    found = []
    for word in words:
        whole_numbers = b.cast(b.bitcast(word, dt.u8), dt.f32)
        exact = b.alu("mul", b.alu("sub", whole_numbers, zero), scale)
        found += [lane(b, exact, t) for t in range(4)]
    return found[:count]
