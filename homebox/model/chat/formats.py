"""Renders a conversation to token ids, and says of every token who wrote it.

The one idea: the program puts the marks of roles and turns in as ids, and the text between them is
encoded as text; so nothing that anybody writes can end a turn or take another role.
The built-in format: each message is its role's token, its text and <|end|>.
Invariant: rendering more messages only appends ids, so that a KV cache can be used again.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from typing import Any, Protocol

from homebox.model.chat.built_in import built_in
from homebox.model.chat.messages import (
    Message,
    Rendered,
    RenderedText,
    Span,
    TextSpan,
    parts_of,
    provenance_of,
    role_of,
    text_of,
)
from homebox.model.chat.prompt import ChatPrompt
from homebox.model.chat.recall import Generated, Recall, overlap, spelled
from homebox.model.chat.stand_ins import StandIns
from homebox.model.chat.template import render_template
from homebox.model.chat.template_chat import TemplateChat
from homebox.model.tokenizer.base import CALL_MARKS, Tokenizer

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
Part = tuple[str, str, int | None, str]  # a text, its provenance, its message and field


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
        **variables: Any,
    ) -> list[int]:
        """Return the ids of a prompt; by default it ends where the assistant's answer begins.

        `tools` are offered to the model in the words of its template, if that knows tools, and
        `variables` (enable_thinking, ...) go to it where it asks for them.
        """
        ...

    def prompt(
        self,
        messages: Sequence[Message],
        recall: Recall | None = None,
        add_generation_prompt: bool = True,
        tools: Tools = None,
        **variables: Any,
    ) -> ChatPrompt:
        """Return the ids of a prompt, how many of them last, and how its text ends.

        Without `recall` they are those of `render`. With it, turns of the assistant that were
        generated are shown with the arguments as they were written and by the ids of the answer.
        """
        ...

    def render_text(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        tools: Tools = None,
        **variables: Any,
    ) -> RenderedText:
        """Return the text that `render` encodes, with who wrote each of its characters."""
        ...

    def encode(self, rendered: RenderedText) -> list[int]:
        """Return the ids of such a text; steering tokens count where the format wrote them."""
        ...

    def render_training(self, messages: Sequence[Message], tools: Tools = None) -> Rendered:
        """Return the ids of a whole conversation, with mask and spans.

        `tools` are those that the model was offered in it.
        """
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
        **variables: Any,
    ) -> list[int]:
        """Return the ids of a prompt (see ChatFormat)."""
        ids = self.render_training([*_announced(tools), *messages]).ids
        return [*ids, self._roles["assistant"]] if add_generation_prompt else ids

    def prompt(
        self,
        messages: Sequence[Message],
        recall: Recall | None = None,
        add_generation_prompt: bool = True,
        tools: Tools = None,
        **variables: Any,
    ) -> ChatPrompt:
        """Return the ids of a prompt and what is known of them (see ChatFormat)."""
        offer = _announced(tools)
        written = [*offer, *spelled(messages, recall)]
        rendered = self._rendered(written, recall)
        firsts = [span.start for span in rendered.spans if span.role != "system"]
        ids = rendered.ids
        stable = firsts[0] if firsts else len(ids)
        if add_generation_prompt:
            ids = [*ids, self._roles["assistant"]]
        return ChatPrompt(ids, stable, self._tokenizer.decode(ids[-1:], special=True))

    def render_text(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        tools: Tools = None,
        **variables: Any,
    ) -> RenderedText:
        """Return text and spans (see ChatFormat)."""
        parts: list[Part] = []
        offer = _announced(tools)
        for number, message in enumerate([*offer, *messages], -len(offer)):
            role = role_of(message, number)
            at = number if number >= 0 else None
            parts.append((ROLE_TOKENS[role], "template", None, ""))
            written = provenance_of(message, role)
            for text, field in parts_of(message, number):
                parts.append((text, written if field else "template", at, field))
            parts.append((END, "template", None, ""))
        if add_generation_prompt:
            parts.append((ROLE_TOKENS["assistant"], "template", None, ""))
        return _side_by_side(parts)

    def encode(self, rendered: RenderedText) -> list[int]:
        """Return the ids of such a text (see ChatFormat)."""
        ids: list[int] = []
        for number, spans in groupby(rendered.spans, key=lambda span: span.message):
            parts = [(rendered.text[span.start : span.end], span) for span in spans]
            if number is None:
                for text, span in parts:
                    plain = span.provenance != "template"
                    ids += self._said([(text, "content")], False) if plain else [self._mark(text)]
            else:
                answer = ids[-1] == self._roles["assistant"]
                ids += self._said([(text, span.field) for text, span in parts], answer)
        return ids

    def _mark(self, text: str) -> int:
        return self._tokenizer.special[text]

    def _said(self, parts: Sequence[tuple[str, str]], answer: bool) -> list[int]:
        """Return the ids of a message's parts; in calls only their own marks count."""
        text = "".join(part for part, _ in parts)
        if not answer:
            return self._tokenizer.encode(text, add_special=False)
        calls = [part for part, field in parts if field == "tool_calls"]
        if not any(mark in call for call in calls for mark in CALL_MARKS):
            return self._tokenizer.encode_answer(text)
        stand_ins = StandIns(self._tokenizer, text)
        keep: dict[str, Callable[[str], str]] = {
            "content": stand_ins.of_assistant,
            "tool_calls": stand_ins.of_others,
            "": str,
        }
        marked = "".join(keep[field](part) for part, field in parts)
        return self._tokenizer.encode_marked(marked, stand_ins.restore)

    def render_training(self, messages: Sequence[Message], tools: Tools = None) -> Rendered:
        """Return ids, mask and spans (see ChatFormat); the offer belongs to no message."""
        offer = self._rendered(_announced(tools), None).ids
        rendered = self._rendered(messages, None)
        if not offer:
            return rendered
        spans = tuple(
            replace(span, start=span.start + len(offer), end=span.end + len(offer))
            for span in rendered.spans
        )
        return Rendered([*offer, *rendered.ids], [False] * len(offer) + rendered.mask, spans)

    def _rendered(self, messages: Sequence[Message], recall: Recall | None) -> Rendered:
        ids: list[int] = []
        mask: list[bool] = []
        spans = []
        for number, message in enumerate(messages):
            role = role_of(message, number)
            parts = parts_of(message, number)
            known = None
            if recall is not None and role == "assistant":
                known = self._recalled(recall.turns(message), "".join(part for part, _ in parts))
            text = self._said(parts, role == "assistant") if known is None else known
            target = role == "assistant" and message.get("train", True) is not False
            start = len(ids)
            ids += [self._roles[role], *text, self._end]
            mask += [False] + [target] * (len(text) + 1)
            spans.append(Span(start, len(ids), number, role, provenance_of(message, role)))
        return Rendered(ids, mask, tuple(spans))

    def _recalled(self, turns: Sequence[Generated], text: str) -> list[int] | None:
        """Return the ids of the answer that says this, if there is one."""
        for turn in turns:
            match = overlap(turn, self._tokenizer, text, (0, len(text)), (0, len(text)))
            whole = match is not None and (match.start, match.end) == (0, len(text))
            if match and whole and self._tokenizer.hidden.isdisjoint(match.ids):
                return list(match.ids)
        return None


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
        **variables: Any,
    ) -> list[int]:
        """Return the ids of a prompt; there is no mark where the assistant begins."""
        return self.render_training(messages).ids

    def prompt(
        self,
        messages: Sequence[Message],
        recall: Recall | None = None,
        add_generation_prompt: bool = True,
        tools: Tools = None,
        **variables: Any,
    ) -> ChatPrompt:
        """Return the ids of a prompt; no turn is told from another, so nothing is recalled."""
        rendered = self.render_training(messages)
        firsts = [span.start for span in rendered.spans if span.role != "system"]
        stable = firsts[0] if firsts else len(rendered.ids)
        return ChatPrompt(rendered.ids, stable, "")

    def render_text(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        tools: Tools = None,
        **variables: Any,
    ) -> RenderedText:
        """Return text and spans (see ChatFormat); the begin of text has no characters."""
        parts: list[Part] = []
        for number, message in enumerate(messages):
            written = provenance_of(message, role_of(message, number))
            parts.append(("\n" if number else "", "template", None, ""))
            for text, field in parts_of(message, number):
                parts.append((text, written if field else "template", number, field))
        return _side_by_side(parts)

    def encode(self, rendered: RenderedText) -> list[int]:
        """Return the ids of such a text (see ChatFormat)."""
        ids = list(self._begin)
        text, spans = rendered
        starts = [0, *(span.start for span in spans if span.message is None), len(text)]
        for start, end in pairwise(starts):
            ids += self._tokenizer.encode(text[start:end], add_special=False)
        return ids

    def render_training(self, messages: Sequence[Message], tools: Tools = None) -> Rendered:
        """Return ids, mask and spans (see ChatFormat); of tools nothing is said."""
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


def _announced(tools: Tools) -> list[Message]:
    """Return the system message by which the built-in model learns of tools."""
    shown = []
    for tool in tools or ():
        function = tool.get("function")
        if isinstance(function, Mapping) and isinstance(function.get("name"), str):
            parameters = function.get("parameters")
            known = parameters.get("properties") if isinstance(parameters, Mapping) else None
            names = ", ".join(known) if isinstance(known, Mapping) else ""
            shown.append(f"{function['name']}({names})")
    return [{"role": "system", "content": "Tools: " + ", ".join(shown)}] if shown else []


def _side_by_side(parts: Iterable[Part]) -> RenderedText:
    text = ""
    spans = []
    for part, provenance, number, field in parts:
        if part:
            end = len(text) + len(part)
            spans.append(TextSpan(len(text), end, provenance, number, field))
        text += part
    return RenderedText(text, tuple(spans))


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
    known = built_in(tokenizer.special)
    if known is not None:
        return TemplateChat(tokenizer, known.template, stop_ids)
    prefix = tokenizer.settings.prefix
    first = ((begin,) if begin is not None else ()) if prefix is None else prefix
    ends = tuple(dict.fromkeys((*stop_ids, *tokenizer.settings.end_ids)))
    return PlainChat(tokenizer, first, ends)
