"""Facts about a node that are found out once: nodes never change, and many rooms ask the same."""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar
from weakref import WeakKeyDictionary

from homebox.engine.graph.ops import Node

T = TypeVar("T")


def per_node(find_out: Callable[[Node], T]) -> Callable[[Node], T]:
    """Keep what a function of one node returns, as long as the node is there.

    What it returns may hold sources of the node, never the node itself: else neither would go.
    """
    known: WeakKeyDictionary[Node, T] = WeakKeyDictionary()

    @wraps(find_out)
    def kept(n: Node) -> T:
        try:
            return known[n]
        except KeyError:
            return known.setdefault(n, find_out(n))

    return kept
