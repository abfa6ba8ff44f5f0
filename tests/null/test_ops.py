"""Graph nodes: interned, immutable in meaning, and walked without recursion."""

import gc
import random

import numpy as np
import pytest

from homebox.engine.graph import dtype as types
from homebox.engine.graph.dtype import f32, i32
from homebox.engine.graph.ops import (
    BINARY,
    ELEMENTWISE,
    LEAF,
    MOVEMENT,
    UNARY,
    Node,
    Op,
    Sym,
    node,
    numel_max,
    size_max,
    strides_of,
    toposort,
)


def constant(value: float) -> Node:
    return node(Op.CONST, f32, (), (), value)


def test_equal_content_is_one_object() -> None:
    a, b = constant(1.5), constant(2.5)
    total = node(Op.ADD, f32, (), (a, b))
    assert node(Op.ADD, f32, (), (constant(1.5), constant(2.5))) is total
    assert node(Op.ADD, f32, (), (b, a)) is not total
    assert node(Op.MUL, f32, (), (a, b)) is not total
    assert node(Op.CONST, i32, (), (), 1) is not constant(1.0)


def test_numbers_that_python_calls_equal_stay_apart() -> None:
    made = [node(Op.CONST, f32, (), (), value) for value in (1, 1.0, True, 0.0, -0.0, 0, False)]
    assert len({id(item) for item in made}) == len(made)
    assert [repr(item.arg) for item in made] == ["1", "1.0", "True", "0.0", "-0.0", "0", "False"]
    nan = float("nan")
    assert constant(nan) is constant(float("nan"))  # though nan != nan


def test_unused_nodes_are_freed_and_their_places_not_confused() -> None:
    kept = constant(0.125)
    for value in range(200):
        total = node(Op.ADD, f32, (), (kept, constant(float(value))))
        assert total.src[1].arg == float(value)
    del total
    gc.collect()
    alive = [x for x in gc.get_objects() if isinstance(x, Node) and kept in x.src]
    assert alive == []


def test_symbols_are_compared_by_content() -> None:
    rows = Sym("rows", 1, 8)
    first = node(Op.IOTA, i32, (rows,))
    assert node(Op.IOTA, i32, (Sym("rows", 1, 8),)) is first
    assert node(Op.IOTA, i32, (Sym("rows", 1, 9),)) is not first


def test_memory_is_laid_out_for_the_upper_bound() -> None:
    rows = Sym("rows", 1, 8)
    assert [size_max(dim) for dim in (rows, 5)] == [8, 5]
    assert numel_max((2, rows, 3)) == 48 and numel_max(()) == 1 and numel_max((4, 0)) == 0
    assert strides_of((2, rows, 3)) == (24, 3, 1) and strides_of(()) == ()
    shape = (3, 1, 5, 2)
    assert strides_of(shape) == tuple(s // 8 for s in np.zeros(shape).strides)


def test_every_operation_is_of_one_family() -> None:
    others = {Op.WHERE, Op.REDUCE, Op.GATHER, Op.STORE, Op.COPY, Op.UNPACK, Op.PACK, Op.ATTEND}
    families = [LEAF, UNARY, BINARY, MOVEMENT, others]
    assert sorted(op.name for family in families for op in family) == sorted(op.name for op in Op)
    assert UNARY | BINARY | {Op.WHERE} == ELEMENTWISE


def test_sources_come_before_users_once() -> None:
    chooser = random.Random(5)
    nodes = [constant(float(i)) for i in range(4)]
    for _ in range(300):
        nodes.append(node(Op.ADD, f32, (), (chooser.choice(nodes), chooser.choice(nodes[-5:]))))
    order = toposort([nodes[-1], nodes[10]])
    place = {item: i for i, item in enumerate(order)}
    assert len(place) == len(order)
    assert all(place[source] < place[item] for item in order for source in item.src)
    reached = {nodes[-1], nodes[10]}
    for item in reversed(nodes):
        if item in reached:
            reached.update(item.src)
    assert set(order) == reached
    assert order == toposort([nodes[-1], nodes[10]])


def test_deep_and_wide_graphs_need_no_recursion() -> None:
    deep = constant(1.0)
    for _ in range(50_000):
        deep = node(Op.ADD, f32, (), (deep, deep))
    order = toposort([deep])
    assert len(order) == 50_001 and order[-1] is deep
    # Freed from the top, as a plain `del` would recurse in C, if Python did not guard against it.
    del order, deep


def test_types_round_trip_through_numpy() -> None:
    for kind in types.ALL:
        assert kind.to_numpy().itemsize == kind.size
        if kind is not types.bf16:
            assert types.from_numpy(kind.to_numpy()) is kind
    for foreign in ("uint16", "complex64", "uint64"):
        with pytest.raises(TypeError, match=foreign):
            types.from_numpy(np.dtype(foreign))
