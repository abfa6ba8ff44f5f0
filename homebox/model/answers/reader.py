"""Text that arrives in pieces, read as if all of it were there.

The one idea: whoever reads is a generator that yields when it needs more text; what it asks for is
said in terms of the whole text, never of a piece.
Invariant: the results do not depend on where the text was cut, and what waits to be read is never
longer than what was asked for. Each character is looked at a bounded number of times.
"""

import re
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]

MAX_HELD = 1 << 20  # characters of one call, or of what might become one
SPACE = re.compile(r"[ \t\r\n]*")


class Marks:
    """Texts to look for. Of several that begin at one place, the longest counts."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = tuple(sorted(dict.fromkeys(texts), key=len, reverse=True))
        self.longest = len(self.texts[0]) if self.texts else 0
        self._found = re.compile("|".join(re.escape(text) for text in self.texts) or r"(?!)")
        self._beginnings = frozenset(
            text[:length] for text in self.texts for length in range(1, len(text))
        )

    def may_go_on(self, text: str) -> bool:
        """Tell whether `text` is the beginning of a mark, and not a whole one that ends here."""
        return text in self._beginnings if text else self.longest > 0

    def at(self, text: str, start: int) -> str:
        """Return the mark that stands at `start`, or nothing."""
        found = self._found.match(text, start)
        return found.group() if found else ""

    def next(self, text: str, start: int) -> re.Match[str] | None:
        """Return the first mark from `start` on."""
        return self._found.search(text, start)

    def held(self, text: str, start: int) -> int:
        """Return from where on `text` may be the beginning of a mark that is not all there."""
        for place in range(max(start, len(text) - self.longest + 1), len(text)):
            if text[place:] in self._beginnings:
                return place
        return len(text)


class Reader:
    """What has arrived and is not read yet; `ended` tells that nothing more will arrive.

    While it is `bounded`, reading more than MAX_HELD before `taken` raises ValueError.
    """

    def __init__(self, text: str = "", ended: bool = False) -> None:
        self._text = text
        self._at = 0
        self.ended = ended
        self.bounded = False
        self._taken: list[str] = []
        self._size = 0

    @property
    def waiting(self) -> str:
        """What has arrived and is not read yet."""
        return self._text[self._at :]

    def add(self, text: str) -> None:
        """Append text that has arrived."""
        self._text = self._text[self._at :] + text
        self._at = 0

    def taken(self) -> str:
        """Return, and forget, what was read since the last call of this."""
        text = "".join(self._taken)
        self._taken.clear()
        self._size = 0
        return text

    def peek(self) -> Steps[str]:
        """Return the next character without reading it; nothing at the end."""
        while self._at == len(self._text):
            if self.ended:
                return ""
            yield
        return self._text[self._at]

    def skip(self) -> str:
        """Read the character that was peeked at."""
        return self._take(self._at + 1)

    def run(self, pattern: re.Pattern[str], give: Callable[[str], object]) -> Steps[None]:
        """Read the longest run of characters of one kind; `pattern` matches each part of a run."""
        while True:
            found = pattern.match(self._text, self._at)
            if found is not None and found.end() > self._at:
                give(self._take(found.end()))
            if self._at < len(self._text) or self.ended:
                return
            yield

    def spaces(self) -> Steps[str]:
        """Read blanks and ends of lines, and return the character that follows."""
        while True:
            if self._at < len(self._text):
                char = self._text[self._at]
                if char not in " \t\r\n":
                    return char
            yield from self.run(SPACE, _ignore)
            if self._at == len(self._text):
                return ""

    def literal(self, marks: Marks) -> Steps[str]:
        """Read the mark that stands here, and return it; else read nothing."""
        while not self.ended:
            if not marks.may_go_on(self._text[self._at : self._at + marks.longest]):
                break
            yield
        found = marks.at(self._text, self._at)
        return self._take(self._at + len(found)) if found else ""

    def until(self, marks: Marks, give: Callable[[str], object]) -> Steps[str]:
        """Read up to the next mark, giving out what stands before it, and return that mark.

        Returns nothing if the text ends without one.
        """
        while True:
            found = marks.next(self._text, self._at)
            # A longer mark may begin where a shorter one is whole already.
            if found and (self.ended or not self._open(marks, found.start())):
                if found.start() > self._at:
                    give(self._take(found.start()))
                return self._take(found.end())
            end = found.start() if found else marks.held(self._text, self._at)
            end = len(self._text) if self.ended else end
            if end > self._at:
                give(self._take(end))
            if self.ended:
                return ""
            yield

    def _open(self, marks: Marks, start: int) -> bool:
        return marks.may_go_on(self._text[start : start + marks.longest])

    def _take(self, end: int) -> str:
        text = self._text[self._at : end]
        self._at = end
        self._taken.append(text)
        self._size += len(text)
        if self.bounded and self._size > MAX_HELD:
            raise ValueError("too long")
        return text


def _ignore(_: str) -> None:
    pass
