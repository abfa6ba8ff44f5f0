"""What tools, files and web pages said in a conversation, so that it stays theirs in any mouth.

The one idea: only conversations that go on are looked at again, so what the others heard is packed,
and a reader of years of talk stays small. Invariant: packing changes no answer.
"""

import re
import zlib

MOST = 2_000_000  # characters of one conversation that are compared with
_WORDS = re.compile(r"\w+")
_LEAST = 256  # characters that are worth packing
_QUICK = 1  # zlib's level


class Foreign:
    """The words of others in one conversation."""

    __slots__ = ("_packed", "_text")

    def __init__(self) -> None:
        self._text = ""
        self._packed = b""

    def hear(self, text: str) -> None:
        """Remember words."""
        if text and len(self._unpacked()) < MOST:
            self._text += " " + normal(text[:MOST])

    def said(self, statement: str) -> bool:
        """Say whether they hold these words one after the other."""
        return normal(statement) in self._unpacked()

    def pack(self) -> None:
        """Take less memory until somebody asks again."""
        if len(self._text) >= _LEAST:
            self._packed, self._text = zlib.compress(self._text.encode(), _QUICK), ""

    def _unpacked(self) -> str:
        if self._packed:
            self._text, self._packed = zlib.decompress(self._packed).decode(), b""
        return self._text


def normal(text: str) -> str:
    """Return the words of a text, without case and signs."""
    return " ".join(_WORDS.findall(text.casefold()))
