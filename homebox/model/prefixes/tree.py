"""A tree of kept pages: which keys and values are there for a prompt, from its beginning on.

The one idea: a node is one page of up to 64 ids, and a page's keys and values depend on nothing but
the ids up to its end, so a path from the root is a prompt's beginning that need not be computed
again. Full nodes have children; a partial one is a leaf. Roots are *spaces*, an owner with an
adapter, and nothing leads from one to another.

Invariants: no two nodes stand for the same ids, nor one for the beginning of its sibling; a slot
that uses a node's page uses those above it too, so idle nodes are given up from the leaves on; a
node is never older than its children, in the order of use.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from homebox.model.decoder.pages import PAGE, Pages

Int32 = npt.NDArray[np.int32]

_BYTES = 4 * PAGE  # of the ids of a full page
_NO_ID = b"\xff" * _BYTES  # -1, which is no id


@dataclass(frozen=True, slots=True)
class Match:
    """The beginning of a prompt that is there: how many positions, and their pages in order."""

    length: int = 0
    pages: tuple[int, ...] = ()

    @property
    def whole_pages(self) -> "Match":
        """The same without the positions of a page that is not used to its end."""
        count = self.length // PAGE
        return Match(count * PAGE, self.pages[:count])


class Node:
    """A page of ids; `key` are their bytes, int32. A root has no parent and no page."""

    __slots__ = ("children", "key", "page", "parent", "partial", "space")

    def __init__(
        self, space: Hashable, parent: "Node | None" = None, key: bytes = b"", page: int = -1
    ) -> None:
        self.space = space
        self.parent = parent
        self.key = key
        self.page = page
        self.children: dict[bytes, Node] = {}  # full ones
        self.partial: dict[bytes, Node] = {}

    def siblings(self, key: bytes) -> "dict[bytes, Node]":
        """Return the children among which one of this key belongs."""
        return self.children if len(key) == _BYTES else self.partial

    def nearest(self, ids: Int32) -> "tuple[Node | None, int]":
        """Return the child that begins with the most of `ids` (at most a page), and how many."""
        nodes = [*self.children.values(), *self.partial.values()]
        if not nodes or not len(ids):
            return None, 0
        stored = b"".join(node.key + _NO_ID[len(node.key) :] for node in nodes)
        differ = np.frombuffer(stored, np.int32).reshape(-1, PAGE)[:, : len(ids)] != ids
        common = np.where(differ.any(axis=1), differ.argmax(axis=1), len(ids))
        best = int(common.argmax())
        return (nodes[best], int(common[best])) if common[best] else (None, 0)


class PrefixTree:
    """The kept pages of a pool; belongs to the thread that owns the pool."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._spaces: dict[Hashable, Node] = {}
        self._order: OrderedDict[Node, None] = OrderedDict()  # the longest unused first
        self.evictions = 0  # pages that were given up for others
        pages.reclaim = self.evict

    def __len__(self) -> int:
        """Return the number of pages that are kept."""
        return len(self._order)

    def match(self, space: Hashable, ids: Int32) -> Match:
        """Return the longest beginning of `ids` (T,) that is there, at most T - 1 positions.

        Its pages count as used now. They stay only if `Pages.share` follows at once.
        """
        node = self._spaces.get(space)
        if node is None or self._pages.lost:
            return Match()
        most = len(ids) - 1
        raw = ids.tobytes()
        pages = []
        at = 0
        while at + PAGE <= most:
            child = node.children.get(raw[4 * at : 4 * at + _BYTES])
            if child is None:
                break
            pages.append(child.page)
            node, at = child, at + PAGE
        last, common = node.nearest(ids[at : min(at + PAGE, most)])
        if last is not None:
            pages.append(last.page)
        self._touch(last or node)
        return Match(at + common, tuple(pages))

    def keep(self, space: Hashable, ids: Int32, slot: int, partial: bool = False) -> None:
        """Keep the pages of a slot that holds keys and values of `ids`, as far as they are new.

        Of what is there already the slot uses the kept pages from now on, so that its own are free.
        The last page, if it is not full, is kept only if `partial`.
        """
        count = min(len(ids), self._pages.length(slot))
        if self._pages.lost or count < (1 if partial else PAGE):
            return
        raw = ids[:count].tobytes()
        node = self._root(space)
        for index in range(count // PAGE):
            key = raw[index * _BYTES : (index + 1) * _BYTES]
            child = node.children.get(key)
            page = self._pages.of(slot)[index]
            if child is None:
                child = self._add(node, key, page)
            elif child.page != page:
                self._pages.exchange(slot, index, child.page)
            node = child
        rest = count % PAGE
        if partial and rest:
            near, common = node.nearest(ids[count - rest : count])
            if near is None or common < rest:
                near = self._add(node, raw[-4 * rest :], self._pages.of(slot)[count // PAGE])
            node = near
        self._touch(node)

    def path(self, space: Hashable, ids: Int32) -> tuple[int, ...]:
        """Return the full pages that are there for `ids`, in order; counts as no use."""
        node, raw = self._spaces.get(space), ids.tobytes()
        found: list[int] = []
        for at in range(0, len(raw) - _BYTES + 1, _BYTES):
            node = node.children.get(raw[at : at + _BYTES]) if node is not None else None
            if node is None:
                break
            found.append(node.page)
        return tuple(found)

    def evict(self, count: int) -> int:
        """Give up to `count` idle pages up, the longest unused first; return how many."""
        found: list[Node] = []
        for node in self._order:
            if len(found) == count:
                break
            if self._pages.is_idle(node.page):
                found.append(node)
        for node in found:
            self._remove(node)
        self.evictions += len(found)
        return len(found)

    def clear(self) -> None:
        """Give everything up."""
        for node in list(self._order):
            self._remove(node)

    def forget(self) -> None:
        """Drop all nodes of a pool that was reset."""
        self._order.clear()
        self._spaces.clear()

    def walk(self) -> Iterator[tuple[Hashable, bytes, int]]:
        """Yield the space, all ids from the beginning on (bytes of int32) and the page of nodes."""
        for space, root in self._spaces.items():
            stack = [(root, b"")]
            while stack:
                node, before = stack.pop()
                for child in (*node.children.values(), *node.partial.values()):
                    yield space, before + child.key, child.page
                    stack.append((child, before + child.key))

    # -- nodes ----------------------------------------------------------------------------------

    def _root(self, space: Hashable) -> Node:
        return self._spaces.get(space) or Node(space)

    def _add(self, parent: Node, key: bytes, page: int) -> Node:
        """Keep a slot's page as a child; one that only stands for its beginning goes."""
        # First, because it may be the same page, of which the slot held less then.
        for shorter in [each for each in parent.partial if key.startswith(each)]:
            self._remove(parent.partial[shorter])
        self._pages.keep(page)
        return self._hang(parent, key, page)

    def _hang(self, parent: Node, key: bytes, page: int) -> Node:
        node = Node(parent.space, parent, key, page)
        parent.siblings(key)[key] = node
        if parent.parent is None:
            self._spaces[parent.space] = parent
        self._order[node] = None
        return node

    def _remove(self, node: Node) -> None:
        """Take a node out that has no children left, or whose children go with it."""
        parent = node.parent
        if parent is not None:
            del parent.siblings(node.key)[node.key]
            if parent.parent is None and not parent.children and not parent.partial:
                del self._spaces[parent.space]
        del self._order[node]
        self._pages.give_up(node.page)

    def _touch(self, node: Node) -> None:
        """Count a node and those above it as used now, in an order that goes up."""
        at: Node | None = node
        while at is not None and at.parent is not None:
            self._order.move_to_end(at)
            at = at.parent
