"""Calls in sections of marks, and gpt-oss' channels.

Formats: DeepSeek V3 and R1 (`function<｜tool▁sep｜>NAME` and fenced JSON), V3.1
(`NAME<｜tool▁sep｜>{...}`), Kimi (`functions.NAME:0<|tool_call_argument_begin|>{...}`), harmony
(https://github.com/openai/harmony: `<|channel|>commentary to=functions.NAME<|message|>{...}`).
"""

import re

from homebox.model.answers.calls import Calls, read_name
from homebox.model.answers.json_formats import read_arguments
from homebox.model.answers.reader import Marks, Steps

DEEPSEEK = "<\uff5ctool\u2581{}\uff5c>"
DEEPSEEK_BEGIN = DEEPSEEK.format("calls\u2581begin")
DEEPSEEK_END = DEEPSEEK.format("calls\u2581end")
_CALL = (DEEPSEEK.format("call\u2581begin"), "<|tool_call_begin|>")
_SEPARATOR = (DEEPSEEK.format("sep"), "<|tool_call_argument_begin|>")
_CALL_END = (DEEPSEEK.format("call\u2581end"), "<|tool_call_end|>")
_CALLS, _SEPARATORS, _CALL_ENDS = Marks(_CALL), Marks(_SEPARATOR), Marks(_CALL_END)
SECTION_MARKS = (*_CALL, *_SEPARATOR, *_CALL_END)
_FENCE = Marks(("```json", "```"))
_FENCE_END = Marks(("```",))
_KIMI_NAME = re.compile(r"(?:functions\.)?(.+?)(?::[0-9]+)?")

CHANNEL, START, MESSAGE = "<|channel|>", "<|start|>", "<|message|>"
# Each of them ends a message; <|return|> and <|call|> end the answer as well.
MESSAGE_ENDS = ("<|end|>", "<|return|>", "<|call|>")
_HEADER_MARKS = Marks((CHANNEL, MESSAGE))
_ENDS = Marks(MESSAGE_ENDS)
_RECIPIENT = re.compile(r"\bto=(functions\.)?([^\s<]+)")
_TO = Marks((" to=",))
_MAX_HEADER = 200


def read_section(calls: Calls, closes: Marks) -> Steps[None]:
    """Read the calls of a section of DeepSeek's or Kimi's marks, and its end, if there."""
    reader = calls.reader
    yield from reader.spaces()
    if not (yield from reader.literal(_CALLS)):
        raise ValueError("no call")
    while True:
        yield from _section_call(calls)
        yield from reader.spaces()
        if (yield from reader.literal(closes)):
            return
        if not (yield from reader.literal(_CALLS)):
            return


def _section_call(calls: Calls) -> Steps[None]:
    reader = calls.reader
    yield from reader.spaces()
    head = yield from read_name(reader)
    separator = yield from reader.literal(_SEPARATORS)
    if not head or not separator:
        raise ValueError("no name")
    if separator == _SEPARATOR[1]:
        found = _KIMI_NAME.fullmatch(head)
        head = found[1] if found else head
    char = yield from reader.spaces()
    if char == "{":
        calls.begin(head)
        yield from read_arguments(calls)
    else:
        calls.begin((yield from read_name(reader)))
        yield from reader.spaces()
        fenced = yield from reader.literal(_FENCE)
        yield from read_arguments(calls)
        yield from reader.spaces()
        if fenced:
            yield from reader.literal(_FENCE_END)
    yield from reader.spaces()
    yield from reader.literal(_CALL_ENDS)
    calls.finish()


def read_channel(calls: Calls, closes: Marks) -> Steps[bool]:
    """Read a message's header, and its call if it is one; tell whether a thought follows."""
    return (yield from _message(calls, ""))


def read_recipient(calls: Calls, closes: Marks) -> Steps[bool]:
    """Read a message whose header the prompt began, and which goes on with who it is for."""
    mark = yield from calls.reader.literal(_TO)
    if not mark:
        raise ValueError("no recipient")
    return (yield from _message(calls, mark))


def _message(calls: Calls, header: str) -> Steps[bool]:
    mark = ""
    while mark != MESSAGE:
        pieces: list[str] = []
        mark = yield from _header(calls, pieces)
        header += "".join(pieces) + " "
    recipient = _RECIPIENT.search(header)
    if recipient is None or not (recipient[1] or recipient[2] in calls.tools):
        return "analysis" in header.split()
    calls.begin(recipient[2])
    yield from read_arguments(calls)
    yield from calls.reader.spaces()
    yield from calls.reader.literal(_ENDS)
    calls.finish()
    return False


def _header(calls: Calls, pieces: list[str]) -> Steps[str]:
    size = 0
    while True:
        char = yield from calls.reader.peek()
        if char == "<":
            mark = yield from calls.reader.literal(_HEADER_MARKS)
            if mark:
                return mark
        size += 1
        # A header names a role, a channel, a recipient and a type (<|constrain|>json).
        if not char or size > _MAX_HEADER:
            raise ValueError("no header")
        pieces.append(calls.reader.skip())
