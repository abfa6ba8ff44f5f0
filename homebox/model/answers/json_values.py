"""Reads JSON while it is being written, and gives it out as it comes.

The one idea: what is given out is at every moment the beginning of valid JSON (RFC 8259).
Stricter than many readers, so that all of them see the same value: no key twice in an object, no
half of a surrogate pair, no number that is no finite double. More lenient in one place, because
models do it: tabs and ends of lines may stand in strings, and are given out escaped.
Invariant: nesting is bounded, nothing recurses, each character is looked at once. Whatever is not
JSON raises ValueError, at the first character that cannot belong to it.
"""

import json
import math
import re
from collections.abc import Callable

from homebox.model.answers.reader import Marks, Reader, Steps

MAX_DEPTH = 64
MAX_NUMBER = 320  # characters; the exact decimal places of a double need fewer

Give = Callable[[str], object]

_PLAIN = re.compile(r'[^"\\\x00-\x1f\ud800-\udfff]*')
_NUMBER_PART = re.compile(r"[-+0-9.eE]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_WORD_PART = re.compile(r"[a-z]*")
_WORDS = ("true", "false", "null")
_RAW = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_HEX = re.compile(r"[0-9a-fA-F]{4}")
_ESCAPED_U = Marks(("\\u",))
_CLOSE = {"{": "}", "[": "]"}


def read_value(reader: Reader, give: Give) -> Steps[None]:
    """Read one JSON value; the blanks behind it are not read."""
    within: list[tuple[str, set[str]]] = []  # the closing bracket of each level, and its keys
    while True:
        char = yield from _next(reader, give)
        if char in _CLOSE:
            if len(within) == MAX_DEPTH:
                raise ValueError("nested too deeply")
            give(reader.skip())
            within.append((_CLOSE[char], set()))
            following = yield from _next(reader, give)
            if following != _CLOSE[char]:
                if char == "{":
                    yield from _key(reader, give, within[-1][1])
                continue
        elif char == '"':
            yield from read_string(reader, give)
        else:
            yield from _scalar(reader, give)
        while within:
            close, keys = within[-1]
            char = yield from _next(reader, give)
            if char not in (",", close):
                raise ValueError("neither a comma nor the end")
            give(reader.skip())
            if char == ",":
                if close == "}":
                    yield from _key(reader, give, keys)
                break
            within.pop()
        else:
            return


def read_string(reader: Reader, give: Give) -> Steps[None]:
    """Read a string with its quotation marks."""
    if (yield from reader.peek()) != '"':
        raise ValueError("no string")
    give(reader.skip())
    while True:
        yield from reader.run(_PLAIN, give)
        char = yield from reader.peek()
        if char == '"':
            give(reader.skip())
            return
        if char == "\\":
            yield from _escape(reader, give)
        elif char in _RAW:
            reader.skip()
            give(_RAW[char])
        else:
            raise ValueError("a character that strings cannot hold, or no end")


def read_text(reader: Reader) -> Steps[str]:
    """Read a string and return what it says."""
    pieces: list[str] = []
    yield from read_string(reader, pieces.append)
    return str(json.loads("".join(pieces)))


def is_object(text: str) -> bool:
    """Tell whether `text` is one JSON object, by the rules of this room."""
    return text.lstrip(" \t\r\n").startswith("{") and clean(text) is not None


def clean(text: str) -> str | None:
    """Return `text` as valid JSON without blanks around it, or None if it is none."""
    reader = Reader(text.strip(" \t\r\n"), ended=True)
    pieces: list[str] = []
    try:
        for _ in read_value(reader, pieces.append):
            return None
        rest = "".join(reader.taken())
    except ValueError:
        return None
    return "".join(pieces) if len(rest) == len(text.strip(" \t\r\n")) else None


def _next(reader: Reader, give: Give) -> Steps[str]:
    char = yield from reader.peek()
    while char and char in " \t\r\n":
        give(reader.skip())
        char = yield from reader.peek()
    return char


def _key(reader: Reader, give: Give, keys: set[str]) -> Steps[None]:
    yield from _next(reader, give)
    pieces: list[str] = []
    yield from read_string(reader, pieces.append)
    text = "".join(pieces)
    key = json.loads(text)
    if key in keys:
        raise ValueError("a key twice")
    keys.add(key)
    give(text)
    if (yield from _next(reader, give)) != ":":
        raise ValueError("no colon")
    give(reader.skip())


def _scalar(reader: Reader, give: Give) -> Steps[None]:
    char = yield from reader.peek()
    pieces: list[str] = []
    if char and char in "tfn":
        yield from reader.run(_WORD_PART, pieces.append)
        if "".join(pieces) not in _WORDS:
            raise ValueError("no value")
    else:
        yield from reader.run(_NUMBER_PART, pieces.append)
        text = "".join(pieces)
        if len(text) > MAX_NUMBER or not _NUMBER.fullmatch(text) or math.isinf(float(text)):
            raise ValueError("no number")
    give("".join(pieces))


def _escape(reader: Reader, give: Give) -> Steps[None]:
    reader.skip()
    char = yield from reader.peek()
    if char and char in '"\\/bfnrt':
        give("\\" + reader.skip())
        return
    if char != "u":
        raise ValueError("an unknown escape")
    reader.skip()
    text = yield from _four(reader)
    code = int(text, 16)
    if 0xDC00 <= code < 0xE000:
        raise ValueError("half of a pair")
    if 0xD800 <= code < 0xDC00:
        if not (yield from reader.literal(_ESCAPED_U)):
            raise ValueError("half of a pair")
        low = yield from _four(reader)
        if not 0xDC00 <= int(low, 16) < 0xE000:
            raise ValueError("half of a pair")
        text += "\\u" + low
    give("\\u" + text)


def _four(reader: Reader) -> Steps[str]:
    text = ""
    while len(text) < 4:
        if not (yield from reader.peek()):
            raise ValueError("no end")
        text += reader.skip()
    if not _HEX.fullmatch(text):
        raise ValueError("no hexadecimal digits")
    return text
