"""Few rows times packed weights on SIMT devices: the weight is read once, at memory's speed.

A group has some panels of 16 outputs. int8 and bf16 products split k among quads of work-items
(`gemv_sums`), whose partial sums meet in local memory; float32 ones are summed in order
(`gemv_ordered`). Then each of the group's outputs belongs to one work-item, which has the totals of
all contractions of the region and computes the epilogue, twins included; 32 neighbours pack a
block. Sums of rows that outputs are scaled with are computed by each group, in the order of rows.
Invariant: how a product is summed follows from its own shape and the target. Rows and further
products of the kernel change no bit.
"""

from collections.abc import Sequence

from homebox.engine.codegen.linear import Value
from homebox.engine.fusion.draft import Region
from homebox.engine.fusion.schedule import FEW
from homebox.engine.fusion.twins import row_sums
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.formats import A8, BLOCK, PANEL
from homebox.engine.graph.ops import Node, Op, Sym, size_max
from homebox.engine.graph.symbolic import ZERO, Index, flatten, of, replace
from homebox.engine.kernels.contract_kernels import forward
from homebox.engine.kernels.packed_kernels import Product
from homebox.engine.simt import gemv_ordered, gemv_sums
from homebox.engine.simt.gemv_ordered import (
    Chain,
    Ordered,
    Walk,
    ask_early,
    guarded,
    ordered_sums,
)
from homebox.engine.simt.gemv_schedule import LONELY, STAGED, meeting_bytes, stream_schedule
from homebox.engine.simt.gemv_sums import QUAD, stream_bf16, stream_int8
from homebox.engine.simt.pack import Blocks, Item, write_blocks
from homebox.engine.simt.product import PackedSimt
from homebox.engine.simt.target import LoweredSimt, Simt, Span, Stream
from homebox.errors import EngineError

MEETING = 20480  # bytes of local memory for partial sums; more would leave room for fewer groups
TOGETHER = 4  # sums of four that a work-item keeps while it streams several products
LEAST_STAGED = 128  # numbers of a row that are summed at a time, at least
ADDERS = 4  # chains in which a work-item adds partial sums


def lower_gemv(
    region: Region, realised: frozenset[Node], syms: list[Sym], target: Simt
) -> LoweredSimt | None:
    """Return the kernel of a region whose contractions read packed weights for up to `FEW` rows.

    None if the region is another one, or its operands do not lie as these kernels read them.
    """
    if region.core is None or region.resident:
        return None
    return Gemv(region, realised, syms, target).lower_simt()


class Gemv(PackedSimt):
    """The lowering of one region."""

    def __init__(
        self, region: Region, realised: frozenset[Node], syms: list[Sym], target: Simt
    ) -> None:
        super().__init__(region, realised, syms, target)
        self.packs = [n for n in region.written if n.op is Op.PACK]

    def lower_simt(self) -> LoweredSimt | None:
        """Return the kernel; None if memory is not laid out for one."""
        if not self.find_products() or size_max(self.m_size) > FEW:
            return None
        if any(p.packed.transposed or not self._in_words(p) for p in self.products):
            return None
        self.rows = size_max(self.m_size)
        self.stream = self._schedule()
        self.outputs = PANEL * self.stream.panels * self.rows
        outer = self.place_outer(1)
        self.products = self.weights_within()
        self._find_place()
        self._prepare()
        totals = self._totals()
        sums = self._row_sums()
        packed = []
        for number, output in enumerate(self.chains):
            given = {p.core: totals[i][number] for i, p in enumerate(self.products)}
            given |= {n: self._of_row(values, output[0]) for n, values in sums.items()}
            packed.append(self._write_output(output, given))
        for i, root in enumerate(self.packs):
            self._write_blocks(root, [values[i] for values in packed])
        n = self.shape[self.axes.n]
        grid = (Span((n,), PANEL * self.stream.panels), *outer)
        kernel = self.s.b.kernel((self.stream.group, *(1 for _ in outer)))
        return LoweredSimt(kernel, tuple(self.s.memory), grid, self.stream)

    def _in_words(self, product: Product) -> bool:
        """Whether rows of bf16 begin at whole words, as they are read."""
        start = self._row_start(product)
        narrow = product.packed.arithmetic == "bf16"
        return not narrow or gemv_sums.common_step(start, product.row_step, 2) == 2

    def _schedule(self) -> Stream:
        units, staged = [], 0
        for p in self.products:
            if p.packed.arithmetic == "f32":
                units.append(0)
                staged = max(staged, gemv_ordered.least_bytes(p.packed.form))
            else:
                int8 = p.packed.arithmetic == "int8"
                units.append(gemv_sums.units_of(int8, p.packed.form, p.k))
        return stream_schedule(self.target, self.blocks, units, staged, bool(self.packs))

    # -- work-items -----------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Find this work-item's panel, slice and quad, and its outputs."""
        s, b, plan = self.s, self.s.b, self.stream
        me = s.local()
        rest, quad = s.divide(me, b.int(QUAD))
        self.quad = b.mul(quad, b.int(QUAD))
        self.my_panel, self.slice = s.divide(rest, b.int(plan.slices))
        if plan.panels == 1:
            self.my_panel, self.slice = b.int(0), rest
        self.numbers: list[tuple[Value, Value, Value, Value | None]] = []
        self.chains: list[tuple[Value, Value, Value | None]] = []
        for i in range(-(-self.outputs // plan.group)):
            number = b.add(me, b.int(i * plan.group))
            inside = None
            if (i + 1) * plan.group > self.outputs:
                inside = b.alu("lt", number, b.int(self.outputs))
            rest, place = s.divide(number, b.int(PANEL))
            row, panel = s.divide(rest, b.int(plan.panels))
            if (i + 1) * plan.group > self.outputs:
                row = b.emit("mod", dt.i64, 1, (row, b.int(self.rows)))
            self.numbers.append((row, panel, place, inside))
            left = b.mul(s.group(), b.int(plan.panels))
            column = b.add(b.mul(b.add(left, panel), b.int(PANEL)), place)
            self.chains.append((row, column, inside))
        words = max(1, self._scratch_words())
        if self.summed:
            words = max(words, LEAST_STAGED, plan.group)
        if self.packs:
            words = max(words, 2 * max(plan.group, BLOCK))
        self.words = words
        self.scratch = s.shared(dt.i32, words)

    def _panel_at(self, product: Product, panel: Value) -> Value:
        """Return the word where one of the group's panels begins; beyond the last, the last."""
        s, b, plan = self.s, self.s.b, self.stream
        number = b.add(b.mul(s.group(), b.int(plan.panels)), panel)
        if self.blocks % plan.panels:
            number = b.emit("min", dt.i64, 1, (number, b.int(self.blocks - 1)))
        packed = product.packed
        size = packed.form.panel_bytes(packed.shape[1]) // 4
        first = s.integer(packed.first // PANEL)
        return b.mul(b.add(number, first), b.int(size))

    def _row_start(self, product: Product) -> Index:
        """Return the element where the first row of activations begins."""
        flat = product.packed.a_flat
        for place, part in self._split(ZERO, self.m_inner).items():
            flat = replace(flat, self.each[place], part)
        return flat

    # -- sums -----------------------------------------------------------------------------------

    def _totals(self) -> list[list[Value]]:
        """Return for each product the sums of this work-item's outputs."""
        plan = self.stream
        totals: list[list[Value]] = [[] for _ in self.products]
        split = [i for i, slices in enumerate(plan.split) if slices]
        several = max(1, TOGETHER // self.rows)
        dirty = False
        ordered = {i: self._ordered(p) for i, p in enumerate(self.products) if not plan.split[i]}
        if split:
            ask_early(list(ordered.values()))
        for at in range(0, len(split), several):
            some = split[at : at + several]
            sums = [self._streamed(i) for i in some]
            for i, mine in zip(some, sums, strict=True):
                totals[i] = self._met(plan.split[i], mine, dirty)
                dirty = True
        for i, product in ordered.items():
            if dirty:
                self.s.barrier()
            totals[i] = ordered_sums(product, self._walked(self.products[i]))
            dirty = True
        pairs = zip(self.products, totals, strict=True)
        return [[self._if_exists(p, total) for total in mine] for p, mine in pairs]

    def _if_exists(self, product: Product, total: Value) -> Value:
        """Return a sum, or zero where there is no weight.

        Blocks of few rows have one nearly always; a branch around the sums would cost more, since
        compilers for CPUs do not see that it is the same one for all work-items.
        """
        exists, b = self.s.mask(product.packed.exists), self.s.b
        return total if exists is None else b.alu("where", exists, total, b.const(0.0, dt.f32))

    def _streamed(self, i: int) -> list[Value]:
        """Return this work-item's part of four outputs of each row, from its slice of k."""
        b, product, slices = self.s.b, self.products[i], self.stream.split[i]
        packed, e = product.packed, self.s
        acc = [b.reg(b.const(0.0, dt.f32, QUAD)) for _ in range(self.rows)]
        start, int8 = self._row_start(product), packed.arithmetic == "int8"
        if int8:
            per = A8.panel_bytes(product.k) // 4
            start = Index(
                start.const // product.k * per,
                tuple((a, c // product.k * per) for a, c in start.terms),
            )
            base, step, even = e.integer(start), product.row_step // product.k * per, 2
        else:
            even = gemv_sums.common_step(start, product.row_step, 8) // 2
            base = b.emit("idiv", dt.i64, 1, (e.integer(start), b.int(2)))
            step = product.row_step // 2
        stream = gemv_sums.Stream(
            b,
            packed.form,
            product.k,
            b.view(e.pointer(packed.stored), dt.i32),
            b.view(e.pointer(packed.a), dt.i32),
            [b.add(base, b.int(r * step)) for r in range(self.rows)],
            even,
            self._panel_at(product, self.my_panel),
            self.slice,
            slices,
            self.quad,
        )
        whole = slices == self.stream.slices
        mine = None if whole else b.alu("lt", self.slice, b.int(slices))
        with guarded(b, mine):
            (stream_int8 if int8 else stream_bf16)(stream, acc)
        return [b.get(a) for a in acc]

    def _rounds(self, slices: int) -> int:
        """Return how many rows' partial sums meet at a time."""
        room = min(MEETING, self.target.local_memory)
        return min(self.rows, max(1, room // (meeting_bytes(slices) * self.stream.panels)))

    def _scratch_words(self) -> int:
        """Return the words of local memory that the kernel needs at a time."""
        words = 0
        for product, slices in zip(self.products, self.stream.split, strict=True):
            if slices:
                each = meeting_bytes(slices) // 4 * self.stream.panels
                words = max(words, each * self._rounds(slices))
            else:
                walk = self._walk(product)
                words = max(
                    words, walk.words(product.packed.form, self.stream.panels, self.outputs)
                )
        return words

    def _met(self, slices: int, mine: list[Value], dirty: bool) -> list[Value]:
        """Add up the slices' partial sums; return the totals of this work-item's outputs."""
        b, s, plan = self.s.b, self.s, self.stream
        floats, line = b.view(self.scratch, dt.f32), meeting_bytes(slices) // 4
        totals = [b.reg(b.const(0.0, dt.f32)) for _ in self.chains]
        height = self._rounds(slices)
        for top in range(0, self.rows, height):
            some = mine[top : top + height]
            if dirty or top:
                s.barrier()
            whole = slices == plan.slices
            with guarded(b, None if whole else b.alu("lt", self.slice, b.int(slices))):
                for r, value in enumerate(some):
                    at = b.add(self.my_panel, b.int(r * plan.panels))
                    at = b.add(b.mul(at, b.int(line)), b.mul(self.slice, b.int(PANEL)))
                    b.store(floats, b.add(at, self.quad), value, aligned=True)
            s.barrier()
            for i, (row, panel, place, inside) in enumerate(self.numbers):
                mask = self._among(i, row, top, len(some), inside)
                if mask is False:
                    continue
                with guarded(b, mask if isinstance(mask, Value) else None):
                    line_at = b.add(b.mul(b.add(row, b.int(-top)), b.int(plan.panels)), panel)
                    at = b.add(b.mul(line_at, b.int(line)), place)
                    b.set(totals[i], self._added(floats, at, slices))
        return [b.get(total) for total in totals]

    def _among(
        self, i: int, row: Value, top: int, count: int, inside: Value | None
    ) -> Value | bool | None:
        """Return whether output `i` lies in some rows; None = for all work-items, False = none."""
        b, per = self.s.b, PANEL * self.stream.panels
        first, last = i * self.stream.group, (i + 1) * self.stream.group - 1
        if last // per < top or first // per >= top + count:
            return False
        mask = inside
        if first // per < top:
            above = b.alu("lt", b.int(top - 1), row)
            mask = above if mask is None else b.alu("and", mask, above)
        if min(last, self.outputs - 1) // per >= top + count:
            below = b.alu("lt", row, b.int(top + count))
            mask = below if mask is None else b.alu("and", mask, below)
        return mask

    def _added(self, floats: Value, at: Value, slices: int) -> Value:
        """Return the sum of an output's partial sums: four chains, then those in pairs."""
        b = self.s.b
        parts = [b.load(floats, b.add(at, b.int(PANEL * i))) for i in range(slices)]
        chains = parts[:ADDERS]
        for i, part in enumerate(parts[ADDERS:]):
            chains[i % ADDERS] = b.alu("add", chains[i % ADDERS], part)
        while len(chains) > 1:
            chains = [
                b.alu("add", *chains[i : i + 2]) if i + 1 < len(chains) else chains[i]
                for i in range(0, len(chains), 2)
            ]
        return chains[0]

    # -- in order -------------------------------------------------------------------------------

    def _walk(self, product: Product) -> Walk:
        """Return how a product is walked; few groups may take all of the local memory."""
        plan, room = self.stream, self.target.local_memory
        if -(-self.blocks // plan.panels) > LONELY:
            room = min(room, STAGED)
        return Walk.of(product.packed.form, product.k, plan.panels, self.outputs, plan.group, room)

    def _walked(self, product: Product) -> list[Chain]:
        """Return where this work-item walks a product: one chain for each of its outputs."""
        b, base = self.s.b, self.s.integer(self._row_start(product))
        chains = []
        for row, panel, place, inside in self.numbers:
            at = b.add(base, b.mul(row, b.int(product.row_step)))
            chains.append(Chain(at, panel, place, inside))
        return chains

    def _ordered(self, product: Product) -> Ordered:
        """Return what is to know of a product that is summed in order."""
        b, packed, e = self.s.b, product.packed, self.s
        panels = [self._panel_at(product, b.int(p)) for p in range(self.stream.panels)]
        return Ordered(
            self.s,
            packed.form,
            product.k,
            self._walk(product),
            b.view(e.pointer(packed.stored), dt.i32),
            e.pointer(packed.a),
            gemv_sums.common_step(self._row_start(product), product.row_step, 4),
            panels,
            self.stream.group,
            self.outputs,
            self.scratch,
        )

    # -- what follows ---------------------------------------------------------------------------

    def _find_place(self) -> None:
        """Find where the output at row `m` and column `n` lies in the root, and its rows' sums."""
        root = self.root
        self.m = self.counters.loop(self.rows)
        self.n = self.counters.loop(size_max(self.shape[self.axes.n]))
        index = [of(x) if i in self.outer else ZERO for i, x in enumerate(self.each)]
        for i, part in self._split(of(self.m), self.m_inner).items():
            index[i] = part
        index[self.axes.n] = of(self.n)
        at: Sequence[Index] = index
        self.place = tuple(at)
        for each in self.chain:
            self.place = self.place if each.op is Op.PACK else forward(each, self.place)
        self.source = root.src[1 if root.op is Op.STORE else 0]
        if root.op not in (Op.STORE, Op.PACK):
            self.source = root
        cores = [p.core for p in self.products]
        found = row_sums(self.source, self.place, self.m, self.s.realised, self.counters, cores)
        if found is None and (self.packs or self.region.also):
            raise EngineError(f"{root!r} needs sums that a kernel of few rows does not compute")
        self.summed = found or []

    def _row_sums(self) -> dict[Node, list[Value]]:
        """Return what the rows' sums are that the outputs need, by row."""
        if not self.summed:
            return {}
        s, b = self.s, self.s.b
        longest = max(size_max(n.src[0].shape[1]) for n in self.summed)
        floats = b.view(self.scratch, dt.f32)
        s.share_group(self.stream.group, longest, 4 * self.words, floats)
        found: dict[Node, list[Value]] = {n: [] for n in self.summed}
        for each, values in found.items():
            for row in range(self.rows):
                s.barrier()
                values.append(s.value(each, (Index(row), ZERO)))
        return found

    def _of_row(self, values: list[Value], row: Value) -> Value:
        """Return the number that belongs to a row."""
        b, found = self.s.b, values[0]
        for i, value in enumerate(values[1:], 1):
            found = b.alu("where", b.alu("eq", row, b.int(i)), value, found)
        return found

    def _write_output(
        self, output: tuple[Value, Value, Value | None], given: dict[Node, Value]
    ) -> list[Value]:
        """Compute the epilogue of one output from the contractions' totals, and write it.

        Return the numbers that are to be packed, 0 where there is no output.
        """
        s, b, (row, column, inside) = self.s, self.s.b, output
        columns, root = self.n.size, self.root
        s.env[self.n], s.env[self.m] = column, row
        s.begin(given)
        ragged = columns % (PANEL * self.stream.panels) != 0
        edge = b.alu("lt", column, b.int(columns)) if ragged else None
        packed = [b.reg(b.const(0.0, dt.f32)) for _ in self.packs]
        with guarded(b, inside), guarded(b, edge), s.moving(self.n):
            if root.op is Op.STORE:
                value = s.value(self.source, self.place)
                if root.arg == "add":
                    value = b.alu("add", s.load(root.src[0], self.place, ()), value)
                s.store(root.src[0], flatten(self.place, root.src[0].shape), value, None)
            for each in (root, *self.region.also):
                if each.op not in (Op.STORE, Op.PACK):
                    value = s.value(each, self.place)
                    s.store(each, flatten(self.place, each.shape), value, None)
            for total, each in zip(packed, self.packs, strict=True):
                b.set(total, s.value(each.src[0], self.place))
        return [b.get(total) for total in packed]

    def _row_of_root(self, row: Value) -> Value:
        """Return which row of the root a row of this group's block is."""
        self.s.env[self.m] = row
        return self.s.integer(self.place[0])

    def _write_blocks(self, root: Node, values: list[Value]) -> None:
        """Pack the outputs of all work-items: 32 neighbours have a block of a row."""
        plan = self.stream
        together = max(1, BLOCK // plan.group)
        room = max(plan.group, BLOCK)
        items = Blocks(self.s, self.s.pointer(root), self.scratch, room)
        width = size_max(root.shape[1])
        for first in range(0, len(values), together):
            some = range(first, min(first + together, len(values)))
            each = []
            for i in some:
                row, column, inside = self.chains[i]
                if self.outer:
                    row = self._row_of_root(row)
                if self.n.size % (PANEL * plan.panels):
                    edge = self.s.b.alu("lt", column, self.s.b.int(self.n.size))
                    inside = edge if inside is None else self.s.b.alu("and", inside, edge)
                at = self.s.b.add(self.s.local(), self.s.b.int((i - first) * plan.group))
                each.append(Item(values[i], row, column, inside, at))
            write_blocks(items, each, width)
