"""Recognises regions of the same structure, so that equal layers are lowered once.

A signature writes a region's nodes down in order, with memory replaced by its place in the order of
first use. Lowering depends on nothing else; so a second region with the same signature takes the
first one's kernel, with its own memory in the same places.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from homebox.engine.fusion.draft import Region
from homebox.engine.graph.ops import Node, Op, is_name, memory_of
from homebox.engine.simt.target import Low

Key = tuple[Any, ...]


def signature(region: Region, realised: frozenset[Node]) -> tuple[Key, list[Node]]:
    """Return the structure of a region, and the nodes that own the memory it touches, in order."""
    place: dict[Node, int] = {}
    owners: dict[Node, int] = {}
    rows: list[Key] = []
    written = region.written
    stack: list[tuple[Node, bool]] = [(n, False) for n in reversed(written)]
    while stack:
        each, ready = stack.pop()
        if each in place:
            continue
        if each.op is Op.BUFFER or (each in realised and each not in written):
            owner = owners.setdefault(memory_of(each), len(owners))
            rows.append(("memory", each.dtype, each.shape, owner))
        elif not ready:
            stack.append((each, True))
            stack.extend((s, False) for s in reversed(each.src))
            continue
        else:
            # The argument of a copy only tells copies apart, but a mere name is no copy at all.
            arg = is_name(each) if each.op is Op.COPY else (type(each.arg), repr(each.arg))
            sources = tuple(place[s] for s in each.src)
            rows.append((each.op, each.dtype, each.shape, arg, sources))
        place[each] = len(place)
    results = tuple(owners.setdefault(memory_of(n), len(owners)) for n in written)
    core = -1 if region.core is None else place[region.core]
    inner = tuple(place[n] for n in (*region.others, *region.resident))
    return (core, len(region.others), inner, results, *rows), list(owners)


class Lowering:
    """Lowers regions, each structure once."""

    def __init__(self, lower: Callable[[Region], Low], realised: frozenset[Node]) -> None:
        self._lower, self._realised = lower, realised
        self._known: dict[Key, tuple[Low, list[int]]] = {}

    def __call__(self, region: Region) -> Low:
        """Return the kernel of a region with its own memory."""
        key, owners = signature(region, self._realised)
        if key not in self._known:
            low = self._lower(region)
            self._known[key] = low, [owners.index(n) for n in low.memory]
            return low
        low, places = self._known[key]
        return replace(low, memory=tuple(owners[i] for i in places))
