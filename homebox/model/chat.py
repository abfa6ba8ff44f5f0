"""Renders a conversation to token ids, and says of every token who wrote it.

The one idea: the program puts the marks of roles and turns in as ids, and the text between them is
encoded as text; so nothing that anybody writes can end a turn or take another role.
The built-in format: each message is its role's token, its text and <|end|>.
Invariant: rendering more messages only appends ids, so that a KV cache can be used again.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from homebox.errors import RequestError
from homebox.model.tokenizer import CALL_MARKS, Tokenizer

END = "<|end|>"
ROLE_TOKENS = {
    "system": "<|system|>",
    "user": "<|user|>",
    "assistant": "<|assistant|>",
    "tool": "<|tool|>",
}
_ROLE_OF = {"developer": "system", "function": "tool"} | {role: role for role in ROLE_TOKENS}
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


class ChatFormat(Protocol):
    """What a model's chat format offers; a model with its own template brings another one.

    A message maps "role" to system, developer, user, assistant or tool, "content" to a text, a
    list of text parts or None, and optionally "provenance" to who wrote it and "train" (of an
    assistant message) to False if it is no target. Errors are RequestError.
    """

    stop_ids: tuple[int, ...]

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
        """Return the ids of a prompt; by default it ends where the assistant's answer begins."""
        ...

    def render_training(self, messages: Sequence[Message]) -> Rendered:
        """Return the ids of a whole conversation, with mask and spans."""
        ...


class RoleTokenChat:
    """The built-in format, for vocabularies that have the four role tokens and <|end|>."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._roles = {role: tokenizer.special[text] for role, text in ROLE_TOKENS.items()}
        self._end = tokenizer.special[END]
        # A role token in an answer would begin a turn of somebody else: the answer is over.
        self.stop_ids = (self._end, *self._roles.values())

    @staticmethod
    def fits(tokenizer: Tokenizer) -> bool:
        """Tell whether a vocabulary has the tokens of this format."""
        return all(text in tokenizer.special for text in (END, *ROLE_TOKENS.values()))

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
        """Return the ids of a prompt (see ChatFormat)."""
        ids = self.render_training(messages).ids
        return [*ids, self._roles["assistant"]] if add_generation_prompt else ids

    def render_training(self, messages: Sequence[Message]) -> Rendered:
        """Return ids, mask and spans (see ChatFormat)."""
        ids: list[int] = []
        mask: list[bool] = []
        spans = []
        for number, message in enumerate(messages):
            role = role_of(message, number)
            said = text_of(message, number)
            text = (
                self._tokenizer.encode_answer(said)
                if role == "assistant"
                else self._tokenizer.encode(said, add_special=False)
            )
            target = role == "assistant" and message.get("train", True) is not False
            start = len(ids)
            ids += [self._roles[role], *text, self._end]
            mask += [False] + [target] * (len(text) + 1)
            spans.append(Span(start, len(ids), number, role, _provenance(message, role)))
        return Rendered(ids, mask, tuple(spans))


class PlainChat:
    """For models that know no chat: the messages' texts, one a line, are simply continued."""

    def __init__(
        self, tokenizer: Tokenizer, begin: int | None, stop_ids: tuple[int, ...] = ()
    ) -> None:
        self._tokenizer = tokenizer
        self._begin = begin
        self.stop_ids = stop_ids

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
        """Return the ids of a prompt; there is no mark where the assistant begins."""
        return self.render_training(messages).ids

    def render_training(self, messages: Sequence[Message]) -> Rendered:
        """Return ids, mask and spans (see ChatFormat)."""
        ids: list[int] = [] if self._begin is None else [self._begin]
        mask = [False] * len(ids)
        spans = []
        for number, message in enumerate(messages):
            role = role_of(message, number)
            text = text_of(message, number)
            start = len(ids)
            ids += self._tokenizer.encode(f"\n{text}" if number else text, add_special=False)
            target = role == "assistant" and message.get("train", True) is not False
            mask += [target] * (len(ids) - start)
            spans.append(Span(start, len(ids), number, role, _provenance(message, role)))
        return Rendered(ids, mask, tuple(spans))


def chat_format(tokenizer: Tokenizer, begin: int | None, stop_ids: tuple[int, ...]) -> ChatFormat:
    """Return the chat format that fits a model's vocabulary."""
    if RoleTokenChat.fits(tokenizer):
        return RoleTokenChat(tokenizer)
    return PlainChat(tokenizer, begin, stop_ids)


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
    param = f"messages[{number}].content"
    content = message.get("content")
    if content is None:
        content = ""
    if isinstance(content, list | tuple):
        content = "".join(_part(part, param) for part in content)
    if not isinstance(content, str):
        raise RequestError(f"{param} must be a text or a list of text parts", param=param)
    calls = message.get("tool_calls") or ()
    lines = [_call(call, number) for call in calls]
    return "\n".join([content, *lines] if content else lines)


def _part(part: Any, param: str) -> str:
    if isinstance(part, Mapping) and part.get("type") in ("text", "input_text", "output_text"):
        text = part.get("text")
        if isinstance(text, str):
            return text
    raise RequestError(f"{param} may only hold parts of type text", param=param)


def _call(call: Any, number: int) -> str:
    """Return a tool call as the built-in model writes it: <tool_call> name argument: value.

    It is written from the parsed arguments, because clients send them back reformatted.
    """
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
    values = ", ".join(f"{key}: {_plain_value(value, param)}" for key, value in arguments.items())
    return f"{CALL_MARKS[0]} {function['name']} {values}{CALL_MARKS[1]}"


def _plain_value(value: Any, param: str) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        raise RequestError(f"{param}: arguments are not JSON", param=param) from None


def _provenance(message: Message, role: str) -> str:
    value = message.get("provenance")
    return value if isinstance(value, str) else _PROVENANCE_OF[role]
