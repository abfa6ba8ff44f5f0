"""Renders a conversation to token ids, and says of every token who wrote it.

The one idea: the program puts the marks of roles and turns in as ids, and the text between them is
encoded as text; so nothing that anybody writes can end a turn or take another role.
The built-in format: each message is its role's token, its text and <|end|>.
Invariant: rendering more messages only appends ids, so that a KV cache can be used again.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from homebox.model.chat.messages import (
    Message,
    Rendered,
    Span,
    provenance_of,
    role_of,
    text_of,
)
from homebox.model.chat.template import render_template
from homebox.model.chat.template_chat import CHATML, CHATML_TOKENS, TemplateChat
from homebox.model.tokenizer.base import Tokenizer

__all__ = [
    "ChatFormat",
    "Message",
    "PlainChat",
    "Rendered",
    "RoleTokenChat",
    "Span",
    "chat_format",
    "render_template",
    "role_of",
    "text_of",
]

END = "<|end|>"
ROLE_TOKENS = {
    "system": "<|system|>",
    "user": "<|user|>",
    "assistant": "<|assistant|>",
    "tool": "<|tool|>",
}
Tools = Sequence[Mapping[str, Any]] | None


class ChatFormat(Protocol):
    """What a model's chat format offers; a model with its own template brings another one.

    A message maps "role" to system, developer, user, assistant or tool, "content" to a text, a
    list of text parts or None, and optionally "provenance" to who wrote it and "train" (of an
    assistant message) to False if it is no target. Errors are RequestError.
    """

    stop_ids: tuple[int, ...]

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        tools: Tools = None,
    ) -> list[int]:
        """Return the ids of a prompt; by default it ends where the assistant's answer begins.

        `tools` are offered to the model in the words of its template, if that knows tools.
        """
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

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        tools: Tools = None,
    ) -> list[int]:
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
            spans.append(Span(start, len(ids), number, role, provenance_of(message, role)))
        return Rendered(ids, mask, tuple(spans))


class PlainChat:
    """For models that know no chat: the messages' texts, one a line, are simply continued."""

    def __init__(
        self, tokenizer: Tokenizer, begin: tuple[int, ...], stop_ids: tuple[int, ...] = ()
    ) -> None:
        self._tokenizer = tokenizer
        self._begin = begin
        self.stop_ids = stop_ids

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        tools: Tools = None,
    ) -> list[int]:
        """Return the ids of a prompt; there is no mark where the assistant begins."""
        return self.render_training(messages).ids

    def render_training(self, messages: Sequence[Message]) -> Rendered:
        """Return ids, mask and spans (see ChatFormat)."""
        ids = list(self._begin)
        mask = [False] * len(ids)
        spans = []
        for number, message in enumerate(messages):
            role = role_of(message, number)
            text = text_of(message, number)
            start = len(ids)
            ids += self._tokenizer.encode(f"\n{text}" if number else text, add_special=False)
            target = role == "assistant" and message.get("train", True) is not False
            mask += [target] * (len(ids) - start)
            spans.append(Span(start, len(ids), number, role, provenance_of(message, role)))
        return Rendered(ids, mask, tuple(spans))


def chat_format(tokenizer: Tokenizer, begin: int | None, stop_ids: tuple[int, ...]) -> ChatFormat:
    """Return the chat format that a model brings, or the one that fits its vocabulary.

    `begin` is the begin token where the tokenizer's own files name none. Raises ModelFormatError
    if the model's template is none.
    """
    template = tokenizer.settings.template
    if template is not None:
        return TemplateChat(tokenizer, template, stop_ids)
    if RoleTokenChat.fits(tokenizer):
        return RoleTokenChat(tokenizer)
    if all(text in tokenizer.special for text in CHATML_TOKENS):
        return TemplateChat(tokenizer, CHATML, stop_ids)
    prefix = tokenizer.settings.prefix
    first = ((begin,) if begin is not None else ()) if prefix is None else prefix
    ends = tuple(dict.fromkeys((*stop_ids, *tokenizer.settings.end_ids)))
    return PlainChat(tokenizer, first, ends)
