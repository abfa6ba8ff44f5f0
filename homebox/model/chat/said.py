"""Texts that know of each of their characters who said it, through all that a template does.

The one idea: what goes into a template is a `Said`, a text with the sources of its runs of
characters; cutting, joining and replacing keep them exactly. Where an operation cannot tell, the
whole result counts as said by the least trusted of those whose words went in.
Invariant: no character of a `Said` ever turns into one that the template is taken to have written;
numbers and truths that a template derives from texts are its own.
"""

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby, islice
from typing import Any, SupportsIndex

from homebox.model.chat.written import written_alike

# Whose words count less, where several are mixed: the last one.
_TRUST = ("template", "owner", "system", "assistant", "tool", "file", "web")
_MOST_RUNS = 1 << 16  # of one text; with more of them it is a mixture
_MOST_PARTS = 1 << 18  # into which a text is taken apart

Source = tuple[str, int | None, str]  # provenance, number of the message, its field
Runs = tuple[tuple[int, Source], ...]  # lengths, each above 0, with their sources
TEMPLATE: Source = ("template", None, "")
UNKNOWN: Source = ("web", None, "")


class Said(str):
    """A text with the sources of its characters; everything else is as in `str`."""

    __slots__ = ("_runs",)
    _runs: Runs

    def __new__(cls, text: str, runs: Runs = ()) -> "Said":
        """Make a text of its characters' sources; where they are wrong, nobody knows."""
        made = super().__new__(cls, text)
        known = sum(length for length, _ in runs) == len(text)
        made._runs = runs if known else ((len(text), UNKNOWN),)
        return made

    def __str__(self) -> str:
        return self

    def __iter__(self) -> Iterator[str]:
        _check_parts(len(self))
        letters = super().__iter__()
        for length, source in self._runs:
            runs = ((1, source),)
            for text in islice(letters, length):
                yield Said(text, runs)

    def __getitem__(self, key: SupportsIndex | slice) -> "Said":
        if not isinstance(key, slice):
            index = operator.index(key)
            key = slice(index, index + 1 if index != -1 else None)
            if len(self) == 0 or not -len(self) <= index < len(self):
                raise IndexError("string index out of range")
        start, stop, step = key.indices(len(self))
        text = super().__getitem__(key)
        if step == 1:
            return Said(text, _cut(self._runs, start, stop))
        return Said(text, _grouped(list(_each(self._runs))[key]))

    def __add__(self, other: str) -> str:
        return joined((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> str:
        return joined((other, self)) if isinstance(other, str) else NotImplemented

    def __mul__(self, count: SupportsIndex) -> "Said":
        times = max(count.__index__(), 0)
        runs = self._runs if len(self._runs) == 1 else _bounded(self._runs * times)
        text = super().__mul__(count)
        return Said(text, ((len(text), runs[0][1]),) if len(runs) == 1 and text else runs)

    __rmul__ = __mul__

    def strip(self, chars: str | None = None) -> "Said":
        """Cut off blanks, or `chars`, at both ends."""
        return self.lstrip(chars).rstrip(chars)

    def lstrip(self, chars: str | None = None) -> "Said":
        """Cut off blanks, or `chars`, at the beginning."""
        return self[len(self) - len(super().lstrip(chars)) :]

    def rstrip(self, chars: str | None = None) -> "Said":
        """Cut off blanks, or `chars`, at the end."""
        return self[: len(super().rstrip(chars))]

    def removeprefix(self, prefix: str) -> "Said":
        """Cut off a beginning, where it is there."""
        return self[len(prefix) if self.startswith(prefix) else 0 :]

    def removesuffix(self, suffix: str) -> "Said":
        """Cut off an end, where it is there."""
        return self[: len(self) - len(suffix)] if suffix and self.endswith(suffix) else self[:]

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        """Return the parts between separators, or between blanks."""
        return self._found(super().split(sep, maxsplit), len(sep or ""))

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        """Return the parts between separators, counted from the end."""
        bounds = []
        place = len(self)
        for part in super().rsplit(sep, maxsplit)[::-1]:
            start = str.rfind(self, part, 0, place)
            bounds.append((start, start + len(part)))
            place = start - len(sep or "")
        return self._parts(bounds[::-1])

    def splitlines(self, keepends: bool = False) -> list[str]:
        """Return the lines."""
        return self._found(super().splitlines(keepends), 0)

    def partition(self, sep: str) -> tuple[str, str, str]:
        """Return what is before the first separator, the separator, and what is behind it."""
        return self._three(super().partition(sep))

    def rpartition(self, sep: str) -> tuple[str, str, str]:
        """Return what is before the last separator, the separator, and what is behind it."""
        return self._three(super().rpartition(sep))

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:
        """Put `new` in the places of `old`."""
        return replaced(self, old, new, count.__index__())

    def join(self, iterable: Iterable[str], /) -> str:
        """Join texts with this one between them."""
        return joined(iterable, self)

    def _found(self, parts: list[str], gap: int) -> list[str]:
        """Return parts of this text, in their order, with their sources.

        Between two lie `gap` characters, or blanks that no part begins with.
        """
        bounds = []
        place = 0
        for part in parts:
            start = str.find(self, part, place)
            bounds.append((start, start + len(part)))
            place = start + len(part) + gap
        return self._parts(bounds)

    def _parts(self, bounds: list[tuple[int, int]]) -> list[str]:
        """Return the parts between places that only grow, in one walk over the runs."""
        _check_parts(len(bounds))
        found: list[str] = []
        at, begin = 0, 0  # a run, and where it begins
        for start, end in bounds:
            while at < len(self._runs) and begin + self._runs[at][0] <= start:
                begin += self._runs[at][0]
                at += 1
            runs = []
            last, place = at, begin
            while last < len(self._runs) and place < end:
                length, source = self._runs[last]
                low, high = max(place, start), min(place + length, end)
                if low < high:
                    runs.append((high - low, source))
                place += length
                last += 1
            found.append(Said(str.__getitem__(self, slice(start, end)), tuple(runs)))
        return found

    def _three(self, parts: tuple[str, str, str]) -> tuple[str, str, str]:
        first, second = len(parts[0]), len(parts[0]) + len(parts[1])
        return self[:first], self[first:second], self[second:]


def _kept(name: str) -> Callable[..., Any]:
    """Return a method that keeps the sources if it keeps the length, and mixes them if not."""
    plain = getattr(str, name)

    def method(self: Said, *args: Any, **kwargs: Any) -> Said:
        text = plain(self, *args, **kwargs)
        if len(text) == len(self):
            return Said(text, self._runs)
        return mixed(text, (self, *args))

    method.__name__ = name
    return method


for _name in ("upper", "lower", "capitalize", "title", "swapcase", "casefold"):
    setattr(Said, _name, _kept(_name))
for _name in ("center", "ljust", "rjust", "zfill", "expandtabs", "__mod__", "__format__"):
    setattr(Said, _name, _kept(_name))


def said(value: Any, source: Source) -> Any:
    """Return a JSON value in which every text, names of fields too, is known to be of `source`.

    What knows its sources already keeps them.
    """
    if isinstance(value, Said):
        return value
    if isinstance(value, str):
        return Said(value, ((len(value), source),) if value else ())
    if isinstance(value, Mapping):
        inner = {said(key, source): said(item, source) for key, item in value.items()}
        return written_alike(value, inner, lambda text: str(said(text, source)))
    if isinstance(value, list | tuple):
        items = [said(item, source) for item in value]
        return written_alike(value, items, lambda text: str(said(text, source)))
    return value


def runs_of(text: str) -> Runs:
    """Return the sources of a text; one that nobody said is the template's."""
    return text._runs if isinstance(text, Said) else _plain(text)


def joined(parts: Iterable[str], between: str = "") -> str:
    """Join texts; the result knows its sources if any of them does."""
    texts = list(parts)
    if not isinstance(between, Said) and not any(isinstance(text, Said) for text in texts):
        return between.join(texts)
    runs: list[tuple[int, Source]] = []
    gap = runs_of(between)
    for number, text in enumerate(texts):
        runs += gap if number else ()
        runs += runs_of(text)
    return Said(str.join(between, texts), _bounded(_merged(runs)))


def replaced(text: str, old: str, new: str, count: int = -1) -> str:
    """Return `text` with `new` in the places of `old`, at most `count` of them if not negative."""
    if not isinstance(text, Said) and not isinstance(new, Said):
        return str.replace(text, old, new, count)
    if old:
        return joined(Said(text, runs_of(text)).split(old, count), new)
    plain = str.replace(text, old, new, count)
    return plain if plain == text else mixed(plain, (text, new))


def mixed(text: str, values: Any) -> Said:
    """Return a text that as a whole counts as said by the least trusted source in `values`."""
    least = max(sources_in(values), key=_distrust, default=TEMPLATE)
    return Said(text, ((len(text), least),) if text else ())


def known(text: Any, values: Any) -> Any:
    """Return a result of an operation on `values`; a text that lost its sources gets them mixed."""
    if not isinstance(text, str) or isinstance(text, Said):
        return text
    return mixed(str(text), values) if sources_in(values) else text


def sources_in(value: Any) -> set[Source]:
    """Return the sources of all texts in a JSON value."""
    found: set[Source] = set()
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Said):
            found.update(source for _, source in item._runs)
        elif isinstance(item, Mapping):
            waiting.extend(item.keys())
            waiting.extend(item.values())
        elif isinstance(item, list | tuple):
            waiting.extend(item)
    return found


def _check_parts(count: int) -> None:
    if count > _MOST_PARTS:
        raise ValueError("a text has too many parts")


def _distrust(source: Source) -> tuple[int, int, str]:
    provenance, number, name = source
    place = _TRUST.index(provenance) if provenance in _TRUST else len(_TRUST)
    return place, -1 if number is None else number, name


def _plain(text: str) -> Runs:
    return ((len(text), TEMPLATE),) if text else ()


def _each(runs: Runs) -> Iterator[Source]:
    for length, source in runs:
        for _ in range(length):
            yield source


def _grouped(sources: Iterable[Source]) -> Runs:
    return tuple((sum(1 for _ in same), source) for source, same in groupby(sources))


def _merged(runs: Iterable[tuple[int, Source]]) -> Runs:
    return tuple(
        (sum(length for length, _ in same), source)
        for source, same in groupby(runs, key=lambda run: run[1])
    )


def _bounded(runs: Runs) -> Runs:
    if len(runs) <= _MOST_RUNS:
        return runs
    least = max((source for _, source in runs), key=_distrust)
    return ((sum(length for length, _ in runs), least),)


def _cut(runs: Runs, start: int, stop: int) -> Runs:
    found = []
    place = 0
    for length, source in runs:
        low, high = max(place, start), min(place + length, stop)
        if low < high:
            found.append((high - low, source))
        place += length
        if place >= stop:
            break
    return tuple(found)
