"""Operands of contractions: which get memory, which a kernel of few rows computes for itself."""

from dataclasses import replace

from homebox.engine.fusion.draft import Draft, few_rows
from homebox.engine.fusion.prepare import operand_bases
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.ops import MOVEMENT, Node, Op, is_name, numel_max

LARGEST_RESIDENT = 65536  # elements that a kernel reads for an operand that it computes itself
SHORT = 32  # terms of a sum that a rounded operand's kernel computes for each element


def own_operands(draft: Draft) -> None:
    """Give memory to the operands of contractions that their kernels do not compute."""
    # In the graph's order: what is realised already decides what the next one's cone is.
    for base in draft.nodes:
        wanted = base in draft.bases or base.op is Op.PACK
        if wanted and _is_resident(draft, base):
            draft.realised -= {base, *_copies_for(draft, base)}
        elif wanted:
            draft.realised.add(base)
            if draft.merging:
                _take_copy(draft, base)


def _take_copy(draft: Draft, base: Node) -> None:
    """Compute the copy behind a rounded operand in the operand's kernel, if it is cheap.

    A copy of short sums, as what joins the splits of an attention, is one launch less.
    """
    source = base.src[0] if base.src else base
    while source.op in MOVEMENT:
        source = source.src[0]
    if base.op not in (Op.PACK, Op.CAST) or source.op is not Op.COPY or is_name(source):
        return
    alone = source not in draft.roots and len(draft.users.get(source, [])) == 1
    region = draft.regions.get(source)
    if not alone or (region is not None and region.core is not None):
        return
    draft.realised.discard(source)
    sums = [n for n in draft.cone(source) if n.op is Op.REDUCE]
    if all(_terms(n) <= SHORT for n in sums) and not set(sums) & draft.cores:
        draft.short.update(sums)
    else:
        draft.realised.add(source)


def _copies_for(draft: Draft, base: Node) -> list[Node]:
    """Return the copy behind an operand, if operands alone read it: both are computed."""
    source = base.src[0] if base.op is Op.PACK else base
    while source.op in MOVEMENT:
        source = source.src[0]
    if source.op is not Op.COPY or is_name(source) or source in draft.roots:
        return []
    region = draft.regions.get(source)
    multiplied = region is not None and region.core is not None
    return [source] if not multiplied and _only_multiplied(draft, source) else []


def _is_resident(draft: Draft, base: Node) -> bool:
    """Whether all who read an operand are contractions of few rows, and it is quickly made."""
    named = base.op is Op.STORE or is_name(base)
    if (
        not draft.resident
        or named
        or base in draft.roots
        or (base in draft.realised and base.op is not Op.COPY)
    ):
        return False
    if numel_max(base.shape) > LARGEST_RESIDENT or base.dtype not in (dt.f32, dt.u8, dt.bf16):
        return False
    if base.op in (Op.PACK, Op.COPY) and not _only_multiplied(draft, base):
        return False
    inside = draft.cone(base)
    for copy in _copies_for(draft, base):
        inside += draft.cone(copy)
    summed = [numel_max(n.src[0].shape) for n in inside if n.op is Op.REDUCE]
    if max(summed, default=0) > LARGEST_RESIDENT:
        return False
    return all(few_rows(c) for c in draft.readers.get(base, [])) and not (
        set(inside) & (draft.cores | {n for n in draft.nodes if n.op is Op.GATHER})
    )


def _only_multiplied(draft: Draft, base: Node) -> bool:
    """Whether a node is read by contractions only."""
    stack = list(draft.users.get(base, []))
    while stack:
        each = stack.pop()
        users = draft.users.get(each, [])
        if each.op is Op.MUL and users and all(u in draft.cores and few_rows(u) for u in users):
            continue
        if each.op not in MOVEMENT and each.op not in (Op.PACK, Op.UNPACK):
            return False
        stack.extend(users)
        if not users:
            return False
    return True


def note_residents(draft: Draft) -> None:
    """Write down for each region which operands its kernel computes."""
    for end, region in list(draft.regions.items()):
        cores = [c for c in (region.core, *region.others) if c is not None]
        bases = [b for c in cores for b in operand_bases(c) if b.op is not Op.BUFFER]
        resident = [b for b in dict.fromkeys(bases) if b not in draft.realised]
        copies = [c for b in resident for c in _copies_for(draft, b) if c not in draft.realised]
        if resident:
            every = tuple(dict.fromkeys([*copies, *resident]))
            draft.regions[end] = replace(region, resident=every)


def _terms(n: Node) -> int:
    """Return how many numbers each element of a REDUCE is made of."""
    return numel_max(n.src[0].shape[a] for a in n.arg[1])
