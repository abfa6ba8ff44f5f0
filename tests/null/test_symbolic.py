"""Index algebra: whatever dissolves, the value stays the same for every value of the counters."""

import random
from itertools import product
from typing import Any

import pytest

from homebox.engine.graph.ops import Sym
from homebox.engine.graph.symbolic import (
    ZERO,
    Div,
    Index,
    Loaded,
    Loop,
    Mod,
    atom_bounds,
    flatten,
    of,
    replace,
    unflatten,
)

Environment = dict[Any, int]


def value_of(index: Index, at: Environment) -> int:
    """Evaluate an index as a kernel does."""
    total = index.const
    for atom, c in index.terms:
        if isinstance(atom, (Div, Mod)):
            inner = value_of(atom.index, at)
            assert inner >= 0  # machines divide negative numbers another way
            part = inner // atom.by if isinstance(atom, Div) else inner % atom.by
        else:
            part = at[atom]
        total += c * part
    return total


def everywhere(*atoms: Loop | Sym) -> list[Environment]:
    """Return every assignment of the counters and run-time integers."""
    ranges = [range(a.size) if isinstance(a, Loop) else range(a.lo, a.hi + 1) for a in atoms]
    return [dict(zip(atoms, values, strict=True)) for values in product(*ranges)]


def test_random_expressions_keep_their_value() -> None:
    dice = random.Random(1)
    divided = 0
    for _ in range(600):
        atoms: list[Any] = [Loop(i, dice.choice([2, 3, 4, 6])) for i in range(2)]
        atoms.append(dice.choice([Loop(9, 5), Sym("n", 1, 4)]))
        places = everywhere(*atoms)
        index, wanted = ZERO, [0] * len(places)
        for _ in range(dice.randint(2, 7)):
            kind = dice.choice("++*/%c")
            n = dice.choice([1, 2, 3, 4, 6, 8, 12])
            if kind == "+":
                atom = dice.choice(atoms)
                index = index + of(atom) * n
                wanted = [w + at[atom] * n for w, at in zip(wanted, places, strict=True)]
            elif kind == "*":
                index, wanted = index * n, [w * n for w in wanted]
            elif kind == "/":
                index, wanted = index // n, [w // n for w in wanted]
            elif kind == "%":
                index, wanted = index % n, [w % n for w in wanted]
            else:
                c = dice.randint(-5, 9)
                index, wanted = index + c, [w + c for w in wanted]
            divided += any(isinstance(a, (Div, Mod)) for a, _ in index.terms)
            assert [value_of(index, at) for at in places] == wanted
            lo, hi = index.bounds()
            assert lo <= min(wanted) and max(wanted) <= hi
            assert list(index.terms) == sorted(index.terms, key=lambda t: repr(t[0]))
            assert all(c for _, c in index.terms)
    assert divided > 300  # control: not everything dissolved before it was tested


def test_equal_sums_are_one_object() -> None:
    a, b = of(Loop(1, 5)), of(Loop(2, 7))
    assert a + b * 2 + 3 == b * 2 + 3 + a
    assert a * 2 + b + a * -2 == b
    assert hash(a + b) == hash(b + a)
    assert of(Loop(3, 1)) == ZERO  # a loop of one turn does not count


@pytest.mark.parametrize(
    "shapes",
    [
        [(6, 4), (24,), (2, 12), (4, 3, 2)],
        [(5, 7), (35,), (5, 7)],
        [(2, 3, 4, 5), (6, 20), (2, 60), (3, 2, 20), (120,)],
        [(1, 9), (9,), (3, 1, 3), (3, 3, 1)],
        [(16, 3), (3, 16), (48,), (4, 4, 3)],
    ],
)
def test_chains_of_reshapes_keep_every_position(shapes: list[tuple[int, ...]]) -> None:
    counters = [Loop(i, size) for i, size in enumerate(shapes[0])]
    index = tuple(of(c) for c in counters)
    start = flatten(index, shapes[0])
    for before, after in zip(shapes, [*shapes[1:], shapes[0]]):
        index = unflatten(flatten(index, before), after)
    for at in everywhere(*counters):
        assert value_of(flatten(index, shapes[0]), at) == value_of(start, at)
        for part, size in zip(index, shapes[0], strict=True):
            assert 0 <= value_of(part, at) < size
    # There and back again leaves no division behind.
    assert flatten(index, shapes[0]) == start


def test_merged_axes_dissolve_completely() -> None:
    i, j, k = Loop(1, 6), Loop(2, 4), Loop(3, 5)
    flat = (of(i) * 4 + of(j)) * 5 + of(k)
    assert unflatten(flat, (6, 4, 5)) == (of(i), of(j), of(k))
    assert unflatten(flat, (24, 5)) == (of(i) * 4 + of(j), of(k))
    assert (of(i) * 16 + of(j)) // 16 == of(i) and (of(i) * 16 + of(j)) % 16 == of(j)
    assert of(i) // 6 == ZERO and of(i) % 8 == of(i)
    halves = of(i) // 2 * 2 + of(i) % 2
    assert halves == of(i)
    assert of(i) // 2 // 3 == ZERO and of(Loop(9, 24)) // 2 // 3 == of(Loop(9, 24)) // 6
    assert of(Loop(9, 24)) % 12 % 4 == of(Loop(9, 24)) % 4


def test_recombination_needs_the_same_divisor_and_coefficients() -> None:
    x = of(Loop(1, 30))
    assert x // 4 * 4 + x % 4 == x
    assert (x // 4 * 12 + x % 4 * 3) == x * 3
    assert ((x + 1) // 4 * 4 + (x + 1) % 4) == x + 1
    for wrong in (x // 4 * 8 + x % 4, x // 4 * 4 + x % 8, x // 4 * 4 + x % 4 * 2):
        assert wrong != x
        for at in everywhere(Loop(1, 30)):
            n = at[Loop(1, 30)]
            assert value_of(wrong, at) != n or wrong.bounds()[0] <= n <= wrong.bounds()[1]


def test_dependence_sees_through_divisions_and_loads() -> None:
    i, j = Loop(1, 6), Loop(2, 7)
    loaded = Loaded("node", (of(i) + 1,))
    index = of(j) // 4 + of(loaded) * 3 + of(i)
    assert index.depends(i) and index.depends(j)
    assert not index.linear_in(i) and not index.linear_in(j)
    assert (of(i) * 3 + of(j)).linear_in(i) and (of(i) * 3 + of(j)).coefficient(i) == 3
    assert not of(j).depends(i)
    assert atom_bounds(loaded)[0] < -1000000  # nothing is known about what memory holds


def test_replacing_a_counter_reaches_every_occurrence() -> None:
    i, j, k = Loop(1, 12), Loop(2, 3), Loop(3, 4)
    loaded = Loaded("node", (of(i) // 2,))
    index = of(i) * 5 + of(i) // 3 + (of(i) + of(j)) % 5 + 7 + of(loaded)
    moved = replace(index, i, of(j) * 4 + of(k))
    assert not moved.depends(i)
    for at in everywhere(j, k):
        at[i] = at[j] * 4 + at[k]
        plain = {**at, loaded: 0, Loaded("node", ((of(j) * 4 + of(k)) // 2,)): 0}
        assert value_of(moved, plain) == value_of(index, plain)


def test_what_memory_holds_is_divided_safely_where_it_is_used() -> None:
    row = Loaded("node", (), 24)
    index = (of(row) // 3 * -3 + of(row) % 3 + 21) // 6 * 6 + (of(row) % 7 * -2 + 12) % 5
    for r in range(24):
        assert (
            value_of(index, {row: r}) == (21 - r // 3 * 3 + r % 3) // 6 * 6 + (12 - r % 7 * 2) % 5
        )


def test_axes_without_elements_are_never_divided_by() -> None:
    assert unflatten(of(Loop(1, 0)), (0, 5)) is not None
    assert unflatten(ZERO, (3, 0)) == (ZERO, ZERO)
