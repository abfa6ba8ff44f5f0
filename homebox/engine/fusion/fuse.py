"""Decides which nodes get memory of their own, and so which kernels there are.

Every realised node is the root of one region, hence of one kernel; everything between realised
nodes is computed on the way. Contractions take their elementwise users along as an epilogue. A row
reduction stays inside the kernel that uses it along the same rows (rule R1). An elementwise value
that several kernels need is computed again in each if it is cheap, else realised.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from homebox.engine.fusion import twins
from homebox.engine.fusion.attend import attention
from homebox.engine.fusion.contract import classify, operand_bases, packed_product, prepare
from homebox.engine.fusion.hazards import safe_store
from homebox.engine.fusion.schedule import FEW
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.indexing import Counters, accesses
from homebox.engine.graph.ops import (
    ELEMENTWISE,
    MOVEMENT,
    Node,
    Op,
    Shape,
    is_name,
    numel_max,
    size_max,
    toposort,
)
from homebox.engine.graph.rewrite import rewrite, with_sources
from homebox.engine.graph.rules import disabled, hoisting, simplify
from homebox.engine.graph.symbolic import of

MOST_BETWEEN = 16  # operations that a contraction's epilogue takes where ways part
LARGEST_RESIDENT = 65536  # elements that a kernel reads for an operand that it computes itself
DEEPEST = 100  # operations from memory to memory inside one kernel
SHORT = 32  # terms of a sum that a rounded operand's kernel computes for each element
COSTLY = frozenset({Op.EXP2, Op.LOG2, Op.SIN, Op.SQRT, Op.RECIP})


@dataclass(frozen=True, slots=True)
class Region:
    """One kernel to be: the node it writes, and the contraction at its heart, if any.

    `others` are further contractions with outputs of the same shape, which meet the first one on
    the way to the root. `resident` are small operands that the kernel computes for itself. `also`
    are further nodes that it writes, made from the root's elements (`twins`).
    """

    root: Node
    core: Node | None
    others: tuple[Node, ...] = ()
    resident: tuple[Node, ...] = ()
    also: tuple[Node, ...] = ()

    @property
    def cores(self) -> tuple[Node, ...]:
        """All contractions."""
        return () if self.core is None else (self.core, *self.others)

    @property
    def written(self) -> tuple[Node, ...]:
        """All nodes that get their memory from the kernel."""
        return (self.root, *self.also)


@dataclass(frozen=True, slots=True)
class Partition:
    """Regions in an order that respects every dependence, and the set of realised nodes."""

    regions: tuple[Region, ...]
    realised: frozenset[Node]
    roots: tuple[Node, ...]


def optimise(roots: Sequence[Node]) -> list[Node]:
    """Apply the algebraic rules (simplification, then R3 and R2 unless switched off)."""
    current = rewrite(roots, simplify)
    if "R3" not in disabled():
        current = rewrite(rewrite(current, attention), simplify)
    if "R2" not in disabled():
        current = rewrite(rewrite(current, hoisting), simplify)
    return current


def partition(roots: Sequence[Node], resident: bool = True) -> Partition:
    """Cut a graph into regions. `roots` must be realised; BUFFER roots need no kernel.

    Kernels of few rows compute their small operands themselves if these may be `resident`, which
    pays where a kernel is few threads that live long; many short work-groups would each repeat it.
    """
    current = optimise(roots)
    if merges(resident):
        current = twins.rounded_copies(current)
    prepared, cores, forced = prepare_contractions(current, resident)
    plan = _Plan(prepared, cores, forced, resident)
    plan.settle()
    order = {n: i for i, n in enumerate(toposort(prepared))}
    regions = sorted(plan.regions.values(), key=lambda r: order[r.root])
    return Partition(tuple(regions), frozenset(plan.realised), tuple(prepared))


def merges(resident: bool) -> bool:
    """Whether kernels take over what a launch of its own would cost too much for (rule R5)."""
    return not resident and "R5" not in disabled()


def prepare_contractions(
    roots: Sequence[Node], resident: bool = True
) -> tuple[list[Node], set[Node], set[Node]]:
    """Rewrite contractions for their kernels; return roots, contractions, forced memory."""
    done: dict[Node, Node] = {}
    cores: set[Node] = set()
    forced: set[Node] = set()
    finished: set[Node] = set()
    known: set[Node] = set()
    for each in toposort(roots):
        current = with_sources(each, tuple(done[s] for s in each.src))
        found = prepare(current)
        if found is not None:
            (current,) = rewrite([found], simplify, finished)
            cores.add(current)
            forced.update(b for b in operand_bases(current) if not (resident and few_rows(current)))
        elif current.op is Op.STORE:
            current = safe_store(current, known, cores)
        if current in cores or is_forced(current):
            known.add(current)
        done[each] = current
        finished.add(current)
    return [done[r] for r in roots], cores, forced


def _read_directly(core: Node) -> bool:
    """Whether a contraction multiplies packed panels as they lie, without decoding them first."""
    packed = packed_product(core)
    if packed is None or packed.transposed:
        return False
    if packed.arithmetic == "int8" or packed.arithmetic == packed.form.name:
        return True
    return packed.arithmetic == "f32" and few_rows(core)


def _terms(n: Node) -> int:
    """Return how many numbers each element of a REDUCE is made of."""
    return numel_max(n.src[0].shape[a] for a in n.arg[1])


def _squeezed(n: Node) -> Shape:
    return tuple(d for d in n.shape if d != 1)


def few_rows(core: Node) -> bool:
    """Whether a contraction has so few rows that it streams a packed weight once."""
    axes = classify(core)
    if axes is None or packed_product(core, axes) is None:
        return False
    return numel_max(core.src[0].shape[i] for i in axes.m) <= FEW


def is_forced(n: Node) -> bool:
    """Whether a node asks for memory itself."""
    return n.op in (Op.STORE, Op.COPY, Op.PACK, Op.ATTEND) and not is_name(n)


class _Plan:
    """The search for the realised set; `settle` runs it to the end."""

    def __init__(
        self, roots: list[Node], cores: set[Node], forced: set[Node], resident: bool
    ) -> None:
        self.roots = roots
        self.resident = resident
        self.merging = merges(resident)
        self.nodes = toposort(roots)
        self.cores = cores & set(self.nodes)
        self.users: dict[Node, list[Node]] = {}
        for each in self.nodes:
            for source in dict.fromkeys(each.src):
                self.users.setdefault(source, []).append(each)
        self.realised = {n for n in self.nodes if is_forced(n) and n.op is not Op.PACK}
        self.realised |= {*roots, *(forced & set(self.nodes))}
        for each in self.nodes:  # a store into something computed needs that in memory first
            if each.op is Op.STORE and each.src[0].op is not Op.BUFFER:
                self.realised.add(each.src[0])
        self.realised = {n for n in self.realised if n.op is not Op.BUFFER}
        self.readers: dict[Node, list[Node]] = {}  # operand -> the contractions that read it
        for core in self.cores:
            for base in operand_bases(core):
                self.readers.setdefault(base, []).append(core)
        self.bases = {base for base in self.readers if base.op is not Op.BUFFER}
        self.place = {n: i for i, n in enumerate(self.nodes)}
        self.short: set[Node] = set()  # sums that are computed wherever they are needed
        self.regions: dict[Node, Region] = {}

    def settle(self) -> None:
        claimed: dict[Node, Node] = {}
        for each in reversed(self.nodes):
            if each in self.cores:
                end = self._chain(each, claimed, meeting=True)
                if not self._join(each, end, claimed):
                    self.realised.add(end)
                    self.regions[end] = Region(end, each)
        self._own_operands()
        while True:
            for root in self.realised:
                self.regions.setdefault(root, Region(root, None))
            extra = self._reductions() or self._shared() or self._deep()
            if not extra:
                break
            self.realised |= extra
        self._note_residents()
        if self.merging:
            self._find_twins()
            self._find_factors()

    def _find_twins(self) -> None:
        """Let products of few rows write what is made from their outputs, element by element."""
        for root, region in list(self.regions.items()):
            if region.core is None or root.op is Op.STORE or not twins.streams(region.cores):
                continue
            if not isinstance(self._row_sums(region), list):
                continue
            found = self._twins_of(root)
            for each in found:
                del self.regions[each]
            self.regions[root] = replace(region, also=tuple(found))
            self._replace_copy(self.regions[root])

    def _twins_of(self, root: Node) -> list[Node]:
        """Return the twins of a product's root among those who read it."""
        found: list[Node] = []
        seen, stack = {root}, [root]
        while stack:
            for each in self.users.get(stack.pop(), []):
                if each in seen:
                    continue
                seen.add(each)
                if each not in self.realised:
                    stack.append(each)
                    continue
                alone = each in self.regions and self.regions[each].core is None
                if alone and twins.follows(each, root, found, self.realised):
                    found.append(each)
                    stack.append(each)
        return sorted(found, key=self.place.__getitem__)

    def _find_factors(self) -> None:
        """Let what packs rows write the number for each row that is made from the same memory."""
        packs: dict[frozenset[Node], Node] = {}
        for root, region in self.regions.items():
            if root.op is Op.PACK and region.core is None:
                packs.setdefault(self._leaves(root), root)
        for each, region in list(self.regions.items()):
            if region.core is not None or region.also or each.shape[1:] != (1,):
                continue
            pack = packs.get(self._leaves(each))
            free = pack is not None and not self.regions[pack].also
            if pack is not None and free and twins.beside(each, pack, self.realised):
                del self.regions[each]
                self.regions[pack] = replace(self.regions[pack], also=(each,))

    def _leaves(self, root: Node) -> frozenset[Node]:
        """Return the memory that is not frozen from which a region is computed."""
        read = {source for n in self.cone(root) for source in n.src}
        buffers = {n for n in read if n.op is Op.BUFFER and not n.arg.frozen}
        return frozenset(buffers | {n for n in read if n in self.realised})

    def _replace_copy(self, region: Region) -> None:
        """Leave a root out that is only packed: the blocks become the root."""
        root, also = region.root, region.also
        if root.op is not Op.COPY or is_name(root) or root in self.roots or len(also) != 1:
            return
        if self.users.get(root, []) == [also[0]] and also[0].op is Op.PACK:
            del self.regions[root]
            self.realised.discard(root)
            self.regions[also[0]] = replace(region, root=also[0], also=())

    def _row_sums(self, region: Region) -> list[Node] | None:
        """Return the sums of rows in a region's epilogue; None if there are sums of other kinds."""
        found = twins.rows_and_columns(region.root)
        if found is None:
            return None
        counters, (row, column) = found
        index = (of(row), of(column))
        inside = self.realised - {region.root}
        return twins.row_sums(region.root, index, row, inside, counters, region.cores)

    def _join(self, core: Node, end: Node, claimed: dict[Node, Node]) -> bool:
        """Let a contraction join the region in which its only user is; both read packed weights."""
        last = end
        users = self.users.get(last, [])
        while last not in self.realised and len(users) == 1 and users[0].op is Op.RESHAPE:
            last = users[0]
            users = self.users.get(last, [])
        if last in self.realised or len(users) != 1 or users[0] not in claimed:
            return False
        root = claimed[users[0]]
        while root not in self.regions:  # that one has joined another itself
            root = claimed[root]
        region = self.regions[root]
        if region.core is None or len({_squeezed(n) for n in (core, last, region.core)}) > 1:
            return False
        if not (_read_directly(core) and _read_directly(region.core)):
            return False
        claimed[core] = claimed[end] = region.root
        self.regions[region.root] = replace(region, others=(*region.others, core))
        return True

    def _own_operands(self) -> None:
        """Give memory to the operands of contractions that their kernels do not compute."""
        # In the graph's order: what is realised already decides what the next one's cone is.
        for base in self.nodes:
            wanted = base in self.bases or base.op is Op.PACK
            if wanted and self._is_resident(base):
                self.realised -= {base, *self._copies_for(base)}
            elif wanted:
                self.realised.add(base)
                if self.merging:
                    self._take_copy(base)

    def _take_copy(self, base: Node) -> None:
        """Compute the copy behind a rounded operand in the operand's kernel, if it is cheap.

        A copy of short sums, as what joins the splits of an attention, is one launch less.
        """
        source = base.src[0] if base.src else base
        while source.op in MOVEMENT:
            source = source.src[0]
        if base.op not in (Op.PACK, Op.CAST) or source.op is not Op.COPY or is_name(source):
            return
        alone = source not in self.roots and len(self.users.get(source, [])) == 1
        region = self.regions.get(source)
        if not alone or (region is not None and region.core is not None):
            return
        self.realised.discard(source)
        sums = [n for n in self.cone(source) if n.op is Op.REDUCE]
        if all(_terms(n) <= SHORT for n in sums) and not set(sums) & self.cores:
            self.short.update(sums)
        else:
            self.realised.add(source)

    def _copies_for(self, base: Node) -> list[Node]:
        """Return the copy behind an operand, if operands alone read it: both are computed."""
        source = base.src[0] if base.op is Op.PACK else base
        while source.op in MOVEMENT:
            source = source.src[0]
        if source.op is not Op.COPY or is_name(source) or source in self.roots:
            return []
        region = self.regions.get(source)
        multiplied = region is not None and region.core is not None
        return [source] if not multiplied and self._only_multiplied(source) else []

    def _is_resident(self, base: Node) -> bool:
        """Whether all who read an operand are contractions of few rows, and it is quickly made."""
        named = base.op is Op.STORE or is_name(base)
        if (
            not self.resident
            or named
            or base in self.roots
            or (base in self.realised and base.op is not Op.COPY)
        ):
            return False
        if numel_max(base.shape) > LARGEST_RESIDENT or base.dtype not in (dt.f32, dt.u8, dt.bf16):
            return False
        if base.op in (Op.PACK, Op.COPY) and not self._only_multiplied(base):
            return False
        inside = self.cone(base)
        for copy in self._copies_for(base):
            inside += self.cone(copy)
        summed = [numel_max(n.src[0].shape) for n in inside if n.op is Op.REDUCE]
        if max(summed, default=0) > LARGEST_RESIDENT:
            return False
        return all(few_rows(c) for c in self.readers.get(base, [])) and not (
            set(inside) & (self.cores | {n for n in self.nodes if n.op is Op.GATHER})
        )

    def _only_multiplied(self, base: Node) -> bool:
        """Whether a node is read by contractions only."""
        stack = list(self.users.get(base, []))
        while stack:
            each = stack.pop()
            users = self.users.get(each, [])
            if each.op is Op.MUL and users and all(u in self.cores and few_rows(u) for u in users):
                continue
            if each.op not in MOVEMENT and each.op not in (Op.PACK, Op.UNPACK):
                return False
            stack.extend(users)
            if not users:
                return False
        return True

    def _note_residents(self) -> None:
        """Write down for each region which operands its kernel computes."""
        for end, region in list(self.regions.items()):
            cores = [c for c in (region.core, *region.others) if c is not None]
            bases = [b for c in cores for b in operand_bases(c) if b.op is not Op.BUFFER]
            resident = [b for b in dict.fromkeys(bases) if b not in self.realised]
            copies = [c for b in resident for c in self._copies_for(b) if c not in self.realised]
            if resident:
                every = tuple(dict.fromkeys([*copies, *resident]))
                self.regions[end] = replace(region, resident=every)

    def _chain(self, start: Node, claimed: dict[Node, Node], meeting: bool = False) -> Node:
        """Follow single users upwards through elementwise ops; return the last one taken.

        With `meeting`, several users are taken too if they meet again, as in x * sigmoid(x).
        """
        end = current = start
        path: list[Node] = []
        while current not in self.realised:
            users = self.users.get(current, [])
            if len(users) > 1 and meeting and (between := self._between(users, claimed)):
                path += between
                end = current = between[-1]
                continue
            if len(users) != 1 or users[0] in claimed:
                break
            (user,) = users
            if user.op in ELEMENTWISE:
                path.append(user)
                end = user
                if user in self.bases:  # what a contraction reads ends here
                    break
            elif user.op in (Op.RESHAPE, Op.PERMUTE):
                path.append(user)
            elif user.op is Op.PACK:
                same = current.shape == start.shape[: len(current.shape)]
                if meeting and same and self.resident:
                    end = user
                    path.append(user)
                break
            elif is_forced(user) and user.src[0 if user.op is Op.COPY else 1] is current:
                if len(user.src) < 3:
                    end = user
                    path.append(user)
                break
            else:
                break
            current = user
        taken = path[: path.index(end) + 1] if end in path else []
        claimed.update(dict.fromkeys(taken, end))
        return end

    def _between(self, users: Sequence[Node], claimed: dict[Node, Node]) -> list[Node]:
        """Return the elementwise nodes from several users to the one where all ways meet."""
        inside: list[Node] = []
        waiting = set(users)
        while len(inside) < MOST_BETWEEN:
            each = min(waiting, key=self.place.__getitem__)
            if each.op not in ELEMENTWISE or each in claimed:
                return []
            inside.append(each)
            waiting.remove(each)
            if not waiting:
                return inside
            onward = self.users.get(each, [])
            if each in self.realised or not onward:
                return []
            waiting.update(onward)
        return []

    def cone(self, root: Node) -> list[Node]:
        """Return the nodes that a region computes on the way, its root included."""
        found: dict[Node, None] = {root: None}
        stack = [root]
        while stack:
            each = stack.pop()
            for source in each.src:
                if source in found or source in self.realised or source.op is Op.BUFFER:
                    continue
                found[source] = None
                stack.append(source)
        return list(found)

    def _reductions(self) -> set[Node]:
        """Return reductions (with their epilogues) that must not stay inside a user's kernel."""
        homes: dict[Node, set[Node]] = {}
        strict: set[Node] = set()
        keep = "R1" not in disabled()
        for region in self.regions.values():
            inner = [
                n
                for n in self.cone(region.root)
                if n.op is Op.REDUCE and n not in (region.core, *region.others, *self.short)
            ]
            if not inner:
                continue
            for each in inner:
                homes.setdefault(each, set()).add(region.root)
            if region.core is not None:
                strict.update(n for n in inner if not self._in_few_rows(region, n))
                continue
            strict.update(self._misplaced(region.root))
        extra: set[Node] = set()
        for each, roots in homes.items():
            end = self._chain(each, {})
            if each not in strict and all(self._in_few_rows(self.regions[r], each) for r in roots):
                continue
            alone = len(roots) == 1 and end in roots
            if alone:
                continue
            if len(roots) > 1 or each in strict or not keep:
                extra.add(end)
        return extra - self.realised

    def _in_few_rows(self, region: Region, n: Node) -> bool:
        """Whether a region computes few rows, and a sum belongs to a row or to an operand of it."""
        if region.core is None or not few_rows(region.core):
            return False
        if not self.resident:
            known = self.merging and twins.streams(region.cores)
            return known and n in (self._row_sums(region) or [])
        if numel_max(n.shape) <= 64:
            return True
        cores = [region.core, *region.others]
        bases = {b for c in cores for b in operand_bases(c)} - self.realised
        return any(n in self.cone(b) for b in bases)

    def _misplaced(self, root: Node) -> set[Node]:
        """Return reductions that a region would compute anew for each element of a row."""
        counters = Counters()
        each = [counters.loop(size_max(d)) for d in _iteration(root)]
        index = tuple(of(x) for x in each)
        rows = set(each)
        wide = [x for x in each if x.size > 1]
        vector = wide[-1] if wide else None
        wrong: set[Node] = set()
        for access in accesses(root, index, self.realised, counters):
            if not access.inline or access.node is root:
                continue
            atoms = {a for i in access.index for a, _ in i.terms}
            if (vector is not None and vector in atoms) or atoms - rows:
                wrong.add(access.node)
            elif set(wide[:-1]) - atoms and vector is not None:
                # Other rows need the same sum: worth a kernel unless it is short.
                source = access.node.src[0]
                terms = numel_max(source.shape[a] for a in access.node.arg[1])
                if terms > 4 * min(vector.size, 1024):
                    wrong.add(access.node)
        return wrong

    def _shared(self) -> set[Node]:
        """Return elementwise nodes that several regions need and that are dear to compute."""
        homes: dict[Node, set[Node]] = {}
        for region in self.regions.values():
            for each in self.cone(region.root):
                homes.setdefault(each, set()).add(region.root)
        extra: set[Node] = set()
        for each, roots in homes.items():
            several = len(roots) > 1 and len(self.users.get(each, [])) > 1
            candidate = several and each not in self.realised
            if candidate and all(self._in_few_rows(self.regions[r], each) for r in roots):
                continue
            if candidate and each.op in (*ELEMENTWISE, Op.GATHER) and self._dear(each):
                extra.add(each)
        return extra

    def _deep(self) -> set[Node]:
        """Return nodes that cut long ways between memory: kernels are written by recursion."""
        depth: dict[Node, int] = {}
        extra: set[Node] = set()
        for each in self.nodes:
            if each in self.realised or not each.src:
                depth[each] = 0
                continue
            depth[each] = 1 + max(depth[s] for s in each.src)
            if depth[each] >= DEEPEST and each.op in (*ELEMENTWISE, Op.REDUCE):
                extra.add(each)
                depth[each] = 0
        return extra

    def _dear(self, n: Node) -> bool:
        size = numel_max(n.shape)
        reads = sum(
            1
            for each in self.cone(n)
            for source in each.src
            if (source in self.realised or source.op is Op.BUFFER)
            and 2 * numel_max(source.shape) >= size
        )
        costly = any(
            each.op in COSTLY and 2 * numel_max(each.shape) >= size for each in self.cone(n)
        )
        return costly or reads > 2


def _iteration(root: Node) -> Shape:
    return root.src[1].shape if root.op is Op.STORE else root.shape
