"""Rule R5: where launches are dear, a kernel also writes what is made from its own elements."""

from dataclasses import replace

from homebox.engine.fusion import twins
from homebox.engine.fusion.draft import Draft, Region
from homebox.engine.graph.ops import Node, Op, is_name
from homebox.engine.graph.symbolic import of


def find_twins(draft: Draft) -> None:
    """Let products of few rows write what is made from their outputs, element by element."""
    for root, region in list(draft.regions.items()):
        if region.core is None or root.op is Op.STORE:
            continue
        grouped = twins.streams(region.cores, blocks=True)
        if not grouped and not twins.streams(region.cores):
            continue
        sums = row_sums_of(draft, region)
        if sums is None or (grouped and sums):
            continue
        found = _twins_of(draft, root)
        for each in found:
            del draft.regions[each]
        draft.regions[root] = replace(region, also=tuple(found))
        _replace_copy(draft, draft.regions[root])


def _twins_of(draft: Draft, root: Node) -> list[Node]:
    """Return the twins of a product's root among those who read it."""
    found: list[Node] = []
    seen, stack = {root}, [root]
    while stack:
        for each in draft.users.get(stack.pop(), []):
            if each in seen:
                continue
            seen.add(each)
            if each not in draft.realised:
                stack.append(each)
                continue
            alone = each in draft.regions and draft.regions[each].core is None
            if alone and twins.follows(each, root, found, draft.realised):
                found.append(each)
                stack.append(each)
    return sorted(found, key=draft.place.__getitem__)


def find_factors(draft: Draft) -> None:
    """Let what packs rows write the number for each row that is made from the same memory."""
    packs: dict[frozenset[Node], Node] = {}
    for root, region in draft.regions.items():
        if root.op is Op.PACK and region.core is None:
            packs.setdefault(_leaves(draft, root), root)
    for each, region in list(draft.regions.items()):
        if region.core is not None or region.also or each.shape[1:] != (1,):
            continue
        pack = packs.get(_leaves(draft, each))
        free = pack is not None and not draft.regions[pack].also
        if pack is not None and free and twins.beside(each, pack, draft.realised):
            del draft.regions[each]
            draft.regions[pack] = replace(draft.regions[pack], also=(each,))


def _leaves(draft: Draft, root: Node) -> frozenset[Node]:
    """Return the memory that is not frozen from which a region is computed."""
    read = {source for n in draft.cone(root) for source in n.src}
    buffers = {n for n in read if n.op is Op.BUFFER and not n.arg.frozen}
    return frozenset(buffers | {n for n in read if n in draft.realised})


def _replace_copy(draft: Draft, region: Region) -> None:
    """Leave a root out that is only packed: the blocks become the root."""
    root, also = region.root, region.also
    if root.op is not Op.COPY or is_name(root) or root in draft.roots or len(also) != 1:
        return
    if draft.users.get(root, []) == [also[0]] and also[0].op is Op.PACK:
        del draft.regions[root]
        draft.realised.discard(root)
        draft.regions[also[0]] = replace(region, root=also[0], also=())


def row_sums_of(draft: Draft, region: Region) -> list[Node] | None:
    """Return the sums of rows in a region's epilogue; None if there are sums of other kinds."""
    found = twins.rows_and_columns(region.root)
    if found is None:
        return None
    counters, (row, column) = found
    index = (of(row), of(column))
    inside = draft.realised - {region.root}
    return twins.row_sums(region.root, index, row, inside, counters, region.cores)
