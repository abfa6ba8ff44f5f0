"""Messages as chat templates expect them, with stand-ins in what people wrote.

The one idea: templates agree on roles and contents; whether they write calls, and what they call
thoughts, their source tells. Calls that a template does not write become text before it sees them.
Invariant: names of fields, roles, and the marks around calls that became text are the program's;
all else that goes in has its stand-ins.
"""

import json
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import compress
from typing import Any

from homebox.errors import RequestError
from homebox.model.chat.call_shape import CallShape, call_shape
from homebox.model.chat.messages import (
    Message,
    content_of,
    parsed_arguments,
    parts_of,
    provenance_of,
    role_of,
    text_of,
)
from homebox.model.chat.said import joined, said
from homebox.model.chat.stand_ins import StandIns
from homebox.model.chat.written import text_of_value
from homebox.model.tokenizer.base import Tokenizer

_THOUGHTS = ("reasoning_content", "thinking", "reasoning")  # what templates call them
OWN_WORDS = ("content", *_THOUGHTS)  # of an assistant, whose marks count in them

Given = list[dict[str, Any]]  # messages, in stand-ins
Offer = list[Any] | None  # tools, in stand-ins


class TemplateMessages:
    """Prepares messages for the templates whose text is `source`.

    `probe` is their text of messages with calls, to see what they make of them; it may raise
    RequestError.
    """

    def __init__(self, tokenizer: Tokenizer, source: str, probe: Callable[[Given], str]) -> None:
        self._tokenizer = tokenizer
        self._probe = probe
        self._calls = "tool_calls" in source
        names = (rf"""[.'"]{name}\b""" for name in _THOUGHTS)
        asked = [re.search(name, source) is not None for name in names]
        self._thoughts = tuple(compress(_THOUGHTS, asked))

    @cached_property
    def shape(self) -> CallShape:
        """How the template wants calls, which is tried when there is the first of them."""
        return call_shape(self._probe)

    def given(self, messages: Sequence[Message], others: Any) -> tuple[StandIns, Given]:
        """Return the messages as templates expect them, in stand-ins.

        `others` are values that go into the template besides them. Raises RequestError if a message
        is none.
        """
        plain = [self._message(message, number) for number, message in enumerate(messages)]
        stand_ins = StandIns(self._tokenizer, [plain, others])
        given = [_kept(shown, stand_ins) for shown in plain]
        if not self._calls:
            for number, message in enumerate(messages):
                if message.get("tool_calls"):
                    given[number]["content"] = _with_calls(message, number, stand_ins)
        return stand_ins, given

    def _message(self, message: Message, number: int) -> dict[str, Any]:
        role = role_of(message, number)
        calls = message.get("tool_calls")
        if calls and not self._calls:
            return {"role": role, "content": text_of(message, number)}
        plain: dict[str, Any] = {"role": role, "content": content_of(message, number)}
        if calls:
            shape = self.shape
            plain["tool_calls"] = [_call(call, number, shape.text) for call in calls]
            if shape.null and not plain["content"]:
                plain["content"] = None
        for name in ("name", "tool_call_id"):
            if isinstance(message.get(name), str):
                plain[name] = message[name]
        if isinstance(message.get("reasoning_content"), str):
            plain |= dict.fromkeys(self._thoughts, message["reasoning_content"])
        return plain


def _kept(shown: dict[str, Any], stand_ins: StandIns) -> dict[str, Any]:
    """Return a message in stand-ins."""
    kept = stand_ins.of_others(shown)
    if shown["role"] == "assistant":
        for name in OWN_WORDS:
            if name in shown:
                kept[name] = stand_ins.of_assistant(shown[name])
    # Names of fields and of roles are the program's.
    kept = {name: kept[stand_ins.of_others(name)] for name in shown}
    return {**kept, "role": shown["role"]}


def _with_calls(message: Message, number: int, stand_ins: StandIns) -> str:
    """Return a message's text with its calls, of which only the program's own marks count."""
    written = provenance_of(message, role_of(message, number))
    parts: list[str] = []
    for text, field in parts_of(message, number):
        if not field:
            parts.append(text)
            continue
        keep = stand_ins.of_assistant if field == "content" else stand_ins.of_others
        parts.append(said(keep(text), (written, number, field)))
    return joined(parts)


def _call(call: Any, number: int, as_text: bool) -> dict[str, Any]:
    name, arguments = parsed_arguments(call, number)
    text = text_of_value(arguments)
    if text is None:
        try:
            arguments = json.loads(json.dumps(arguments, allow_nan=False))
        except (TypeError, ValueError, RecursionError):
            param = f"messages[{number}].tool_calls"
            raise RequestError(f"{param}: arguments are not JSON", param=param) from None
        text = json.dumps(arguments, ensure_ascii=False) if as_text else ""
    function = {"name": name, "arguments": text if as_text else arguments}
    known = call.get("id")
    given = {"id": known} if isinstance(known, str) else {}
    return {**given, "type": "function", "function": function}
