"""How a streamed weight is shared out over work-groups: `Stream`, chosen from shapes and target.

Bandwidth needs enough reads in flight, whatever the shape: a quad of work-items holds eight reads
of 64 bytes at a time. A matrix with many outputs has enough quads by itself; one with few splits k
into slices until some `ENOUGH` work-items are at it, or each has a single unit. Eight slices is the
least, so that neighbouring quads read one panel's bytes side by side and few partial sums meet.
Invariant: the number of slices of a product follows from its own shape, the target and whether its
outputs are packed, never from the number of rows or from other products of its kernel, so a row has
the same bits in any batch.
"""

from collections.abc import Sequence

from homebox.engine.graph.formats import PANEL
from homebox.engine.simt.target import Simt, Stream

LEAST = 8  # slices of a product, if it has as many units
ENOUGH = 32768  # work-items; each has 128 bytes on their way, which is what fast memory needs
WIDTH = 128  # work-items of a group: small groups spread evenly over the device
STAGED = 18432  # local memory of a group that sums in order, so that several share a processor
LONELY = 256  # groups; up to so many have all the local memory for themselves


def slices_of(target: Simt, blocks: int, units: int, pairs: bool = False) -> int:
    """Return among how many quads the `units` of k of each of `blocks` panels are shared out.

    With `pairs` a group has two panels at least.
    """
    limit, count = min(units, target.group // (8 if pairs else 4)), 1
    while count * 2 <= limit and (count < LEAST or 4 * blocks * count < ENOUGH):
        count *= 2
    while count > 1 and (1 + pairs) * meeting_bytes(count) > target.local_memory:
        count //= 2
    return count


def meeting_bytes(slices: int) -> int:
    """Return the local memory of the partial sums of a row of a panel, padded against conflicts."""
    return 4 * PANEL * (slices + 1)


def stream_schedule(
    target: Simt, blocks: int, units: Sequence[int], staged: int, pairs: bool = False
) -> Stream:
    """Return the schedule of some products over `blocks` panels.

    `units` says for each product into how many units its k may be cut, 0 if it is summed in order;
    `staged` is the local memory that a panel of those needs at least, 0 if there is none. With
    `pairs` a group has an even number of panels: 32 outputs side by side are packed into a block.
    """
    split = tuple(slices_of(target, blocks, count, pairs) if count else 0 for count in units)
    slices = max(*split, 1)
    panels = 1 + pairs
    need = max(staged, meeting_bytes(slices))

    def fits(more: int) -> bool:
        return 4 * more * slices <= target.group and more * need <= target.local_memory

    if not any(split):
        # All work-items fetch, sixteen a panel and row add: two panels fill a sub-group.
        slices = min(target.group, 2 * WIDTH) // 4
        if pairs:
            return Stream(2, slices // 2, split)
        if blocks * PANEL >= ENOUGH and 2 * need <= target.local_memory and slices > 1:
            slices, panels = slices // 2, 2
        return Stream(panels, slices, split)
    while 4 * panels * slices < WIDTH and 2 * panels <= blocks and fits(2 * panels):
        panels *= 2
    while 4 * panels * slices < min(WIDTH // 2, target.group):
        slices *= 2
    return Stream(panels, slices, split)
