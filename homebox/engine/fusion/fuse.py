"""Decides which nodes get memory of their own, and so which kernels there are.

Every realised node is the root of one region, hence of one kernel; everything between realised
nodes is computed on the way. Contractions take their elementwise users along as an epilogue. A row
reduction stays inside the kernel that uses it along the same rows (rule R1). An elementwise value
that several kernels need is computed again in each if it is cheap, else realised.
"""

from collections.abc import Sequence
from dataclasses import replace

from homebox.engine.fusion import twins
from homebox.engine.fusion.attend import attention
from homebox.engine.fusion.contract import packed_product
from homebox.engine.fusion.draft import (
    Draft,
    Partition,
    Region,
    few_rows,
    few_rows_beside,
    is_forced,
    merges,
)
from homebox.engine.fusion.hazards import safe_store
from homebox.engine.fusion.merge import find_factors, find_twins, row_sums_of
from homebox.engine.fusion.operands import note_residents, own_operands
from homebox.engine.fusion.prepare import operand_bases, prepare
from homebox.engine.graph.formats import BLOCK
from homebox.engine.graph.indexing import Counters, accesses
from homebox.engine.graph.ops import (
    ELEMENTWISE,
    Node,
    Op,
    Shape,
    numel_max,
    size_max,
    toposort,
)
from homebox.engine.graph.rewrite import rewrite, with_sources
from homebox.engine.graph.rules import disabled, hoisting, simplify
from homebox.engine.graph.symbolic import of

MOST_BETWEEN = 16  # operations that a contraction's epilogue takes where ways part
DEEPEST = 100  # operations from memory to memory inside one kernel
COSTLY = frozenset({Op.EXP2, Op.LOG2, Op.SIN, Op.TANH, Op.SQRT, Op.RECIP})


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
    return packed.arithmetic == "f32" and few_rows_beside(core)


def _rows_of_blocks(core: Node, n: Node) -> bool:
    """Whether a node has the rows of a grouped product, one below the other, in whole blocks."""
    packed = packed_product(core) if n.op is Op.RESHAPE and len(n.shape) == 2 else None
    if packed is None or packed.group is None or not _read_directly(core):
        return False
    width = size_max(n.shape[1])
    return width % BLOCK == 0 and [d for d in core.shape if d != 1][-1:] == [width]


def _squeezed(n: Node) -> Shape:
    return tuple(d for d in n.shape if d != 1)


class _Plan(Draft):
    """The search for the realised set; `settle` runs it to the end."""

    def settle(self) -> None:
        claimed: dict[Node, Node] = {}
        for each in reversed(self.nodes):
            if each in self.cores:
                end = self._chain(each, claimed, meeting=True)
                if not self._join(each, end, claimed):
                    self.realised.add(end)
                    self.regions[end] = Region(end, each)
        own_operands(self)
        while True:
            for root in self.realised:
                self.regions.setdefault(root, Region(root, None))
            extra = self._reductions() or self._shared() or self._deep()
            if not extra:
                break
            self.realised |= extra
        note_residents(self)
        if self.merging:
            find_twins(self)
            find_factors(self)

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
        if self._turned(core, end, claimed) or self._turned(region.core, region.root, claimed):
            return False
        claimed[core] = claimed[end] = region.root
        self.regions[region.root] = replace(region, others=(*region.others, core))
        return True

    def _turned(self, core: Node, end: Node, claimed: dict[Node, Node]) -> bool:
        """Whether the epilogue from a contraction to `end` has its outputs in another order."""
        inside, waiting = {core}, [core]
        while waiting:
            users = self.users.get(waiting.pop(), [])
            taken = [n for n in users if claimed.get(n) is end and n not in inside]
            if any(n.op is Op.PERMUTE for n in taken):
                return True
            inside.update(taken)
            waiting += taken
        return False

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
                same = same or (meeting and _rows_of_blocks(start, current))
                # What is turned round may have the same shape, but rows of it are columns here.
                same = same and all(n.op is not Op.PERMUTE for n in path)
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
            return known and n in (row_sums_of(self, region) or [])
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
