"""Calls written with tags or keys, whose values are plain text, typed by the tool's schema.

Formats: Qwen3-coder and Seed (`<function=NAME><parameter=KEY>value</parameter></function>`), GLM
(`NAME<arg_key>KEY</arg_key><arg_value>value</arg_value>`), the built-in model
(`NAME KEY: value, KEY: value`), functionary (`<function=NAME>{...}</function>`, `>>>NAME` and a
line with JSON). A value ends at its end tag, so it holds anything but that; the end of line that a
template writes on either side of it is not part of it.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from homebox.model.answers.calls import Calls, read_name
from homebox.model.answers.json_formats import read_arguments, read_calls
from homebox.model.answers.reader import SPACE, Marks, Steps
from homebox.model.answers.typed import quoted, typed

_FUNCTION = Marks(("<function=",))
_PARAMETER_END = Marks(("</parameter>",))
_FUNCTION_END = Marks(("</function>",))
_PARAMETER = "<parameter="
_NEXT = Marks((_PARAMETER, "</function>"))
KEY_MARKS = ("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
_KEY, _KEY_END, _VALUE, _VALUE_END = (Marks((mark,)) for mark in KEY_MARKS)
_CALL_END = Marks(("</tool_call>",))
_NEXT_KEY = re.compile(r", (?=([A-Za-z_][A-Za-z0-9_.-]*): )")
_FIRST_KEY = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]*): ")


def read_tool_call(calls: Calls, closes: Marks) -> Steps[None]:
    """Read what stands behind <tool_call>: JSON, tags, or a name with keys and values."""
    reader = calls.reader
    char = yield from reader.spaces()
    if char in ("{", "[", "`"):
        yield from read_calls(calls, closes)
    elif (yield from reader.literal(_FUNCTION)):
        yield from read_function(calls, closes)
    else:
        name = yield from read_name(reader)
        following = yield from reader.spaces()
        if following == "<":
            yield from _keyed(calls, name)
        else:
            yield from _plain(calls, name)


def read_function(calls: Calls, closes: Marks) -> Steps[None]:
    """Read what stands behind <function=: a name, and parameters with tags or as JSON."""
    reader = calls.reader
    name = yield from read_name(reader)
    if (yield from reader.peek()) != ">":
        raise ValueError("no name")
    reader.skip()
    calls.begin(name)
    if (yield from reader.spaces()) == "{":
        yield from read_arguments(calls)
        yield from reader.spaces()
        yield from reader.literal(_FUNCTION_END)
    else:
        yield from _parameters(calls, name)
    calls.finish()
    yield from reader.spaces()
    yield from reader.literal(closes)


def _parameters(calls: Calls, name: str) -> Steps[None]:
    reader = calls.reader
    write = _Members(calls, name)
    mark = yield from reader.literal(_NEXT)
    while mark == _PARAMETER:
        key = yield from read_name(reader)
        if (yield from reader.peek()) != ">":
            raise ValueError("no name of a parameter")
        reader.skip()
        pieces: list[str] = []
        mark = ""
        while not mark:
            pieces.append((yield from _text(calls, _PARAMETER_END)))
            blanks: list[str] = []
            yield from reader.run(SPACE, blanks.append)
            mark = yield from reader.literal(_NEXT)
            # An end tag with something else behind it is part of the value.
            pieces += () if mark else (_PARAMETER_END.texts[0], *blanks)
        write(key, _unwrapped("".join(pieces)))
    if not mark:
        raise ValueError("no end")
    write.end()


def read_functionary(calls: Calls, closes: Marks) -> Steps[None]:
    """Read what stands behind >>>: `all` for text that follows, or a tool and its arguments."""
    reader = calls.reader
    name = yield from read_name(reader)
    if (yield from reader.peek()) != "\n":
        raise ValueError("no name of a tool")
    reader.skip()
    if name == "all":
        return
    calls.only_known = True
    calls.begin(name)
    yield from read_arguments(calls)
    calls.finish()


def _keyed(calls: Calls, name: str) -> Steps[None]:
    reader = calls.reader
    write = _Members(calls, name)
    more = yield from reader.literal(_KEY)
    calls.only_known = not more
    calls.begin(name)
    while more:
        key = yield from _text(calls, _KEY_END)
        yield from reader.spaces()
        if not (yield from reader.literal(_VALUE)):
            raise ValueError("no value")
        write(key.strip(), (yield from _text(calls, _VALUE_END)))
        yield from reader.spaces()
        more = yield from reader.literal(_KEY)
    if not (yield from reader.literal(_CALL_END)):
        raise ValueError("no end")
    write.end()
    calls.finish()


def _plain(calls: Calls, name: str) -> Steps[None]:
    """Read `key: value, key: value`; ", key: " begins a value only where the tool has that key."""
    calls.only_known = True  # what stands here may be a sentence
    calls.begin(name)
    text = yield from _text(calls, _CALL_END)
    write = _Members(calls, name)
    schemas = calls.tools[name]
    first = _FIRST_KEY.match(text)
    if text and not first:
        raise ValueError("no value")
    key, start = (first[1], first.end()) if first else ("", 0)
    for found in _NEXT_KEY.finditer(text, start):
        if found[1] in schemas:
            write(key, text[start : found.start()])
            key, start = found[1], found.end(1) + 2
    if first:
        write(key, text[start:])
    write.end()
    calls.finish()


class _Members:
    """Writes the members of a call's arguments, each with the type that its schema says."""

    def __init__(self, calls: Calls, name: str) -> None:
        self._give: Callable[[str], None] = calls.give
        self._schemas: Mapping[str, Any] = calls.tools.get(name, {})
        self._keys: set[str] = set()

    def __call__(self, key: str, text: str) -> None:
        if not key or key in self._keys:
            raise ValueError("a parameter twice, or without a name")
        self._give(", " if self._keys else "{")
        self._keys.add(key)
        self._give(f"{quoted(key)}: {typed(text, self._schemas.get(key))}")

    def end(self) -> None:
        self._give("}" if self._keys else "{}")


def _text(calls: Calls, end: Marks) -> Steps[str]:
    pieces: list[str] = []
    if not (yield from calls.reader.until(end, pieces.append)):
        raise ValueError("no end")
    return "".join(pieces)


def _unwrapped(text: str) -> str:
    return text.removeprefix("\n").removesuffix("\n")
