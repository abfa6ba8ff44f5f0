"""Notices where an answer opens a call or a thought, exactly as its reader will.

The one idea: it is the reader itself, the parser of answers, which tells when one of its formats
begins to read; so nothing is enforced that would be text, and nothing is missed.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from homebox.model.answers import AnswerParser, Dialect
from homebox.model.answers.calls import Calls
from homebox.model.answers.formats import Format, Read
from homebox.model.answers.reader import Marks, Steps

BARE = ""  # the mark of calls that no mark announces


@dataclass(frozen=True, eq=False)
class _Marked:
    """How a format reads behind one of its marks."""

    mark: str
    read: Read

    def __call__(self, calls: Calls, closes: Marks) -> Steps[bool | None]:
        return self.read(calls, closes)


class Watcher(AnswerParser):
    """Parses an answer for its guide; the events are of no use to it."""

    def __init__(
        self, dialect: Dialect, tools: Iterable[Mapping[str, Any]] = (), prompt: str = ""
    ) -> None:
        self.thinking: tuple[str, ...] | None = None  # the marks that close the thought
        self.opened: str | None = None  # the mark behind which a format reads
        self.openings = 0  # how many formats began to read
        self.rest = ""  # what stood behind the mark already, and what came since
        named = tuple(part for each in dialect.formats for part in _apart(each))
        super().__init__(replace(dialect, formats=named), tools, prompt)

    def take(self, text: str) -> None:
        """Take the next piece of the answer."""
        if self.opened is not None:
            self.rest += text
        self.feed(text)

    def _read(self, read: Callable[[Calls, Marks], Steps[Any]], closes: Marks) -> Steps[None]:
        self.opened = read.mark if isinstance(read, _Marked) else BARE
        self.openings += 1
        self.rest = self._reader.waiting
        yield from super()._read(read, closes)
        self.opened = None

    def _thought(self, closes: tuple[str, ...]) -> Steps[None]:
        self.opened = None
        self.thinking = closes
        yield from super()._thought(closes)
        self.thinking = None
        self.rest = self._reader.waiting


def _apart(each: Format) -> tuple[Format, ...]:
    """Return a format as one for each of its marks, which the parser cannot tell from it."""
    return tuple(replace(each, opens=(mark,), read=_Marked(mark, each.read)) for mark in each.opens)
