"""Index algebra: integer expressions over loop counters, in a form where equal means same object.

An `Index` is a constant plus integer multiples of atoms (loop counters, run-time sizes, loaded
integers, and divisions or remainders that did not dissolve). Reshapes turn into `//` and `%`; the
rules below dissolve them whenever bounds allow, so that what is left tells whether memory is read
in order. Divisors are positive constants, loop counters are not negative, and nothing that a kernel
has to divide is (unless memory holds it: then the element is masked off).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from homebox.engine.graph.ops import Shape, Sym, size_max, strides_of

LOADED = 1 << 31


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop counter 0 <= i < size; two loops are the same only if their ids are."""

    uid: int
    size: int  # upper bound if the extent is symbolic


@dataclass(frozen=True, slots=True)
class Div:
    """index // by"""

    index: "Index"
    by: int


@dataclass(frozen=True, slots=True)
class Mod:
    """index % by"""

    index: "Index"
    by: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """An integer read from memory: `value` is the graph node, `at` where it is read.

    It can be anything, but where it is not one of 0 .. size - 1 nothing is done with it.
    """

    value: Any
    at: tuple["Index", ...]
    size: int = LOADED

    def __repr__(self) -> str:
        # Terms are sorted by this, and an address would make their order differ from run to run.
        what = getattr(self.value, "op", self.value), getattr(self.value, "shape", None)
        return f"Loaded({what}, {self.at}, {self.size})"


Atom = Loop | Sym | Div | Mod | Loaded


@dataclass(frozen=True, slots=True)
class Index:
    """const + sum of coefficient * atom; terms are sorted, coefficients are not 0."""

    const: int
    terms: tuple[tuple[Atom, int], ...] = ()

    def __add__(self, other: "Index | int") -> "Index":
        if isinstance(other, int):
            return Index(self.const + other, self.terms)
        return combine(self.const + other.const, (*self.terms, *other.terms))

    def __mul__(self, factor: int) -> "Index":
        if factor == 1:
            return self
        if factor == 0:
            return ZERO
        return Index(self.const * factor, tuple((a, c * factor) for a, c in self.terms))

    def bounds(self, valid: bool = False) -> tuple[int, int]:
        """Return the smallest and largest possible value; `valid`: if memory holds good indices."""
        lo = hi = self.const
        for atom, c in self.terms:
            a, b = atom_bounds(atom, valid)
            lo += min(a * c, b * c)
            hi += max(a * c, b * c)
        return lo, hi

    def coefficient(self, atom: Atom) -> int:
        """Return what an atom is multiplied by, 0 if it is no term."""
        return next((c for a, c in self.terms if a == atom), 0)

    def depends(self, atom: Atom) -> bool:
        """Whether the atom occurs anywhere, also inside divisions and loads."""
        return any(atom in atoms_of(a) for a, _ in self.terms)

    def linear_in(self, atom: Atom) -> bool:
        """Whether the atom occurs only with a coefficient, not inside another atom."""
        return all(a == atom or atom not in atoms_of(a) for a, _ in self.terms)

    def __floordiv__(self, by: int) -> "Index":
        if by == 1:
            return self
        whole, rest = self._split(by)
        small = rest._factor(by)
        if small is not None:
            big, _, factor = small
            return whole + (ZERO if factor == by else big // (by // factor))
        if not rest.terms:
            return whole + rest.const // by
        if len(rest.terms) == 1 and rest.const == 0:
            atom, c = rest.terms[0]
            if isinstance(atom, Div) and c == 1:
                return whole + atom.index // (atom.by * by)
        raised, turns = rest._raised(by)
        return whole + Index(-turns, ((Div(raised, by), 1),))

    def __mod__(self, by: int) -> "Index":
        if by == 1:
            return ZERO
        _, rest = self._split(by)
        small = rest._factor(by)
        if small is not None:
            big, low, factor = small
            return low if factor == by else big % (by // factor) * factor + low
        if not rest.terms:
            return Index(rest.const % by)
        if len(rest.terms) == 1 and rest.const == 0:
            atom, c = rest.terms[0]
            if isinstance(atom, Mod) and c == 1 and atom.by % by == 0:
                return atom.index % by
        return Index(0, ((Mod(rest._raised(by)[0], by), 1),))

    def _split(self, by: int) -> tuple["Index", "Index"]:
        """Return (q, r) with self = q * by + r, taking out every term that `by` divides."""
        whole = [(a, c // by) for a, c in self.terms if c % by == 0]
        rest = [(a, c) for a, c in self.terms if c % by]
        return Index(self.const // by, tuple(whole)), Index(self.const % by, tuple(rest))

    def _raised(self, by: int) -> tuple["Index", int]:
        """Return (self + n * by, n) so that it is not negative: machines divide towards zero."""
        lo, _ = self.bounds(valid=True)
        if lo >= 0:
            return self, 0
        turns = -(lo // by)
        return self + turns * by, turns

    def _factor(self, by: int) -> tuple["Index", "Index", int] | None:
        """Return (x, s, f) with self = f * x + s, f dividing `by` and 0 <= s < f, else None."""
        lo, hi = self.bounds()
        if lo >= 0 and hi < by:
            return ZERO, self, by
        for factor in sorted({abs(c) for _, c in self.terms}, reverse=True):
            if factor <= 1 or by % factor:
                continue
            big, low = self._split(factor)
            lo, hi = low.bounds()
            if lo >= 0 and hi < factor:
                return big, low, factor
        return None


ZERO = Index(0)


def of(atom: Atom) -> Index:
    """Return the index that is just this atom."""
    if isinstance(atom, Loop) and atom.size == 1:
        return ZERO
    return Index(0, ((atom, 1),))


def atom_bounds(atom: Atom, valid: bool = False) -> tuple[int, int]:
    """Return the smallest and largest possible value of an atom; `valid` as in `Index.bounds`."""
    match atom:
        case Loop(_, size):
            return 0, max(size - 1, 0)
        case Sym(_, lo, hi):
            return lo, hi
        case Div(index, by):
            lo, hi = index.bounds(valid)
            return lo // by, hi // by
        case Mod(_, by):
            return 0, by - 1
        case Loaded(_, _, size) if valid:
            return 0, size - 1
    return -LOADED, LOADED - 1


def atoms_of(atom: Atom) -> set[Atom]:
    """Return the atom and every atom inside it."""
    found: set[Atom] = set()
    stack: list[Atom] = [atom]
    while stack:
        current = stack.pop()
        found.add(current)
        if isinstance(current, (Div, Mod)):
            stack.extend(a for a, _ in current.index.terms)
        elif isinstance(current, Loaded):
            stack.extend(a for index in current.at for a, _ in index.terms)
    return found


def combine(const: int, terms: tuple[tuple[Atom, int], ...]) -> Index:
    """Add up terms, and join c * n * (x // n) + c * (x % n) to c * x."""
    total: dict[Atom, int] = {}
    for atom, c in terms:
        total[atom] = total.get(atom, 0) + c
    for atom, c in list(total.items()):
        if not isinstance(atom, Mod) or not c:
            continue
        quotient = atom.index // atom.by * (atom.by * c)
        if quotient.terms and all(total.get(a, 0) == k for a, k in quotient.terms):
            for key, _ in quotient.terms:
                del total[key]
            del total[atom]
            joined = atom.index * c
            return combine(const - quotient.const + joined.const, (*total.items(), *joined.terms))
    kept = [(a, c) for a, c in total.items() if c]
    if len(kept) > 1:
        kept.sort(key=lambda term: _order(term[0]))
    return Index(const, tuple(kept))


@lru_cache(maxsize=1 << 16)
def _order(atom: Atom) -> str:
    """Return what terms are sorted by: any fixed order will do."""
    return repr(atom)


def replace(index: Index, counter: Loop, by: Index) -> Index:
    """Return the index with a counter replaced by another index, simplified again."""
    out = Index(index.const)
    for atom, c in index.terms:
        part = of(atom)
        if atom == counter:
            part = by
        elif isinstance(atom, Div):
            part = replace(atom.index, counter, by) // atom.by
        elif isinstance(atom, Mod):
            part = replace(atom.index, counter, by) % atom.by
        elif isinstance(atom, Loaded):
            part = of(
                Loaded(atom.value, tuple(replace(i, counter, by) for i in atom.at), atom.size)
            )
        out = out + part * c
    return out


def flatten(index: tuple[Index, ...], shape: Shape) -> Index:
    """Return the position in row-major memory; symbolic axes count with their upper bound."""
    flat = ZERO
    for i, stride in zip(index, strides_of(shape), strict=True):
        flat = flat + i * stride
    return flat


def unflatten(flat: Index, shape: Shape) -> tuple[Index, ...]:
    """Return the index along each axis of a position in row-major memory."""
    index: list[Index] = []
    for axis, dim in reversed(list(enumerate(shape))):
        size = max(size_max(dim), 1)  # an axis without elements is never walked
        index.append(flat % size if axis else flat)
        flat = flat // size
    return tuple(reversed(index))
