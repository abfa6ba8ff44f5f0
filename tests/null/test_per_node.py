"""Facts about nodes are found out once and go with them."""

import gc
import weakref

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.ops import Node, Op, node
from homebox.engine.graph.per_node import per_node


def a_node(number: int) -> Node:
    return node(Op.CONST, dt.f32, (), (), float(number))


def test_a_fact_is_found_out_once_and_goes_with_its_node() -> None:
    asked: list[float] = []

    @per_node
    def negative(n: Node) -> float | None:
        asked.append(n.arg)
        return -n.arg if n.arg else None

    one, none = a_node(17), a_node(0)
    assert [negative(n) for n in (one, none, one, none)] == [-17.0, None, -17.0, None]
    assert asked == [17.0, 0.0]
    gone = weakref.ref(one)
    del one
    gc.collect()
    assert gone() is None
    assert negative(a_node(17)) == -17.0
    assert asked == [17.0, 0.0, 17.0]
