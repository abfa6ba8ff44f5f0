"""What a conversation consists of, checked message by message, and its form as training data.

Invariant: every error names the message and the field, as the API's clients know them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from homebox.errors import RequestError
from homebox.model.tokenizer.base import CALL_MARKS

ROLES = ("system", "user", "assistant", "tool")
_ROLE_OF = {"developer": "system", "function": "tool"} | {role: role for role in ROLES}
_PROVENANCE_OF = {"system": "system", "user": "owner", "assistant": "assistant", "tool": "tool"}

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Span:
    """ids[start:end] come from message number `message`; `provenance` says who wrote it."""

    start: int
    end: int
    message: int
    role: str
    provenance: str


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as training data.

    `mask[i]` tells whether the model is to learn to say ids[i] (assistant text and its end of
    turn); the spans lie side by side and cover all ids that belong to messages.
    """

    ids: list[int]
    mask: list[bool]
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class TextSpan:
    """text[start:end] was written by `provenance`: system, owner, assistant, tool, file or web.

    What the chat format put around their words is of "template". `message` and `field` say where
    the words stand, if in a message.
    """

    start: int
    end: int
    provenance: str
    message: int | None = None
    field: str = ""


class RenderedText(NamedTuple):
    """A conversation as one text; the spans lie side by side and cover all of it."""

    text: str
    spans: tuple[TextSpan, ...]


def role_of(message: Message, number: int) -> str:
    """Return a message's role, with developer and function under their newer names."""
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLE_OF:
        raise RequestError(
            f"messages[{number}].role must be one of {', '.join(sorted(_ROLE_OF))}",
            param=f"messages[{number}].role",
        )
    return _ROLE_OF[role]


def text_of(message: Message, number: int) -> str:
    """Return a message's text: its content, then its tool calls, one a line."""
    return "".join(part for part, _ in parts_of(message, number))


def parts_of(message: Message, number: int) -> list[tuple[str, str]]:
    """Return the parts of a message's text, each with the field whose words it holds.

    Of no field are the marks of a tool call, which is written as the built-in model does:
    <tool_call> name argument: value</tool_call>, from the parsed arguments, as clients reformat
    them.
    """
    parts = [(content_of(message, number), "content")]
    for call in message.get("tool_calls") or ():
        line = "\n" if len(parts) > 1 or parts[0][0] else ""
        parts.append((f"{line}{CALL_MARKS[0]} ", ""))
        parts.append((_call(call, number), "tool_calls"))
        parts.append((CALL_MARKS[1], ""))
    return parts


def content_of(message: Message, number: int) -> str:
    """Return a message's content as one text."""
    param = f"messages[{number}].content"
    content = message.get("content")
    if content is None:
        content = ""
    if isinstance(content, list | tuple):
        content = "".join(_part(part, param) for part in content)
    if not isinstance(content, str):
        raise RequestError(f"{param} must be a text or a list of text parts", param=param)
    return content


def _part(part: Any, param: str) -> str:
    if isinstance(part, Mapping) and part.get("type") in ("text", "input_text", "output_text"):
        text = part.get("text")
        if isinstance(text, str):
            return text
    raise RequestError(f"{param} may only hold parts of type text", param=param)


def _call(call: Any, number: int) -> str:
    name, arguments = parsed_arguments(call, number)
    param = f"messages[{number}].tool_calls"
    values = ", ".join(f"{key}: {_plain_value(value, param)}" for key, value in arguments.items())
    return f"{name} {values}"


def parsed_arguments(call: Any, number: int) -> tuple[str, Mapping[str, Any]]:
    """Return the name and the decoded arguments of a tool call."""
    param = f"messages[{number}].tool_calls"
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RequestError(f"{param} must hold functions with a name", param=param)
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            raise RequestError(f"{param}: arguments are not JSON", param=param) from None
    if not isinstance(arguments, Mapping):
        raise RequestError(f"{param}: arguments must be an object", param=param)
    return function["name"], arguments


def _plain_value(value: Any, param: str) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        raise RequestError(f"{param}: arguments are not JSON", param=param) from None


def provenance_of(message: Message, role: str) -> str:
    """Return who wrote a message: what it says itself, else what its role says."""
    value = message.get("provenance")
    return value if isinstance(value, str) else _PROVENANCE_OF[role]
