"""Calls written as Python writes them: [get_weather(city="Oslo", days=3), get_time()].

Formats: Llama 3.2 and 4 without a mark, Llama 3's built-in tools (`NAME.call(key="value")`), LFM2
(between `<|tool_call_start|>` marks), OLMo 3 (a call a line). Arguments have names, values are
literals that JSON has as well; anything else is no call. Nothing is ever evaluated.
"""

import re

from homebox.model.answers.calls import Calls, read_name
from homebox.model.answers.json_values import clean
from homebox.model.answers.reader import Marks, Reader, Steps
from homebox.model.answers.typed import of_python, quoted

_DOT_CALL = Marks((".call(",))
_PLAIN = re.compile(r"""[^'"\[\]{}(),]*""")
_INSIDE = {"'": re.compile(r"[^'\\]*"), '"': re.compile(r'[^"\\]*')}


def read_python_array(calls: Calls) -> Steps[None]:
    """Read calls up to the closing bracket of their list, whose opening one was read."""
    reader = calls.reader
    while True:
        yield from reader.spaces()
        yield from _call(calls)
        char = yield from reader.spaces()
        if char not in (",", "]"):
            raise ValueError("neither a comma nor the end")
        reader.skip()
        if char == "]":
            return


def read_python_calls(calls: Calls, closes: Marks) -> Steps[None]:
    """Read a list of calls, or one a line, and the mark behind them, if there."""
    reader = calls.reader
    if (yield from reader.spaces()) == "[":
        reader.skip()
        yield from read_python_array(calls)
    else:
        yield from _call(calls)
        while not (yield from reader.literal(closes)):
            if not (yield from reader.spaces()):
                return
            if (yield from reader.literal(closes)):
                return
            yield from _call(calls)
        return
    yield from reader.spaces()
    yield from reader.literal(closes)


def read_dot_call(calls: Calls) -> Steps[None]:
    """Read a call of one of Llama's built-in tools: `name.call(key="value")`."""
    name = yield from read_name(calls.reader, dots=False)
    if not (yield from calls.reader.literal(_DOT_CALL)):
        raise ValueError("no call")
    calls.begin(name)
    yield from _arguments(calls)


def _call(calls: Calls) -> Steps[None]:
    name = yield from read_name(calls.reader)
    if (yield from calls.reader.peek()) != "(":
        raise ValueError("no call")
    calls.reader.skip()
    calls.begin(name)
    yield from _arguments(calls)


def _arguments(calls: Calls) -> Steps[None]:
    reader = calls.reader
    calls.give("{")
    keys: set[str] = set()
    while (yield from reader.spaces()) != ")":
        if keys:
            if (yield from reader.peek()) != ",":
                raise ValueError("no comma")
            reader.skip()
            yield from reader.spaces()
        key = yield from read_name(reader)
        if not key or key in keys or (yield from reader.spaces()) != "=":
            raise ValueError("no argument, or one twice")
        reader.skip()
        value = yield from _value(reader)
        calls.give(f"{', ' if keys else ''}{quoted(key)}: {value}")
        keys.add(key)
    reader.skip()
    calls.give("}")
    calls.finish()


def _value(reader: Reader) -> Steps[str]:
    """Read a literal, up to the comma or bracket behind it, and return it as JSON."""
    pieces: list[str] = []
    depth = 0
    while True:
        yield from reader.run(_PLAIN, pieces.append)
        char = yield from reader.peek()
        if not char:
            raise ValueError("no end")
        if depth == 0 and char in ",)":
            break
        if char in _INSIDE:
            yield from _string(reader, char, pieces)
        else:
            depth += (char in "[{(") - (char in "]})")
            pieces.append(reader.skip())
    text = of_python("".join(pieces))
    value = None if text is None else clean(text)
    if value is None:
        raise ValueError("no literal")
    return value


def _string(reader: Reader, quotation: str, pieces: list[str]) -> Steps[None]:
    pieces.append(reader.skip())
    while True:
        yield from reader.run(_INSIDE[quotation], pieces.append)
        char = yield from reader.peek()
        if not char:
            raise ValueError("no end")
        pieces.append(reader.skip())
        if char == quotation:
            return
        if not (yield from reader.peek()):
            raise ValueError("no end")
        pieces.append(reader.skip())
