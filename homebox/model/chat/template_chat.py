"""Talks to a model in the words of its own chat template.

The one idea: the template makes one text of a conversation; steering tokens count where the
template wrote them, while what people wrote in the messages stays text (`stand_ins.py`).
Invariant: whoever asks for a prompt cannot set what the program or the model's own files set.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from homebox.model.chat.call_shape import PROBED_TOOL
from homebox.model.chat.messages import (
    Message,
    Rendered,
    RenderedText,
    TextSpan,
    provenance_of,
    role_of,
)
from homebox.model.chat.prompt import ChatPrompt, PromptEncoder, begun, stable_place
from homebox.model.chat.recall import Recall, spelled, splices
from homebox.model.chat.said import TEMPLATE, runs_of, said
from homebox.model.chat.stand_ins import StandIns
from homebox.model.chat.template import ChatTemplate
from homebox.model.chat.template_messages import OWN_WORDS, Given, Offer, TemplateMessages
from homebox.model.chat.template_turns import TemplateTurns, end_of_turn
from homebox.model.tokenizer.base import Restore, Tokenizer

_DAY = datetime(2026, 1, 1)  # in training, so that a job has one result
_TAKEN = ("messages", "tools", "add_generation_prompt", "raise_exception", "strftime_now")


class TemplateChat:
    """The chat format of a model with a template; raises ModelFormatError if it is no template."""

    def __init__(
        self, tokenizer: Tokenizer, source: str, stop_ids: tuple[int, ...] = (), where: str = ""
    ) -> None:
        self._tokenizer = tokenizer
        self._template = ChatTemplate(source, where or "chat template")
        more = tokenizer.settings.tool_template
        self._tool_template = ChatTemplate(more, "chat template") if more else self._template
        self._variables = dict(tokenizer.settings.variables)
        self._messages = TemplateMessages(tokenizer, source + (more or ""), self._probed)
        self._encoder = PromptEncoder(tokenizer)
        ends = (*stop_ids, *tokenizer.settings.end_ids, *end_of_turn(tokenizer, self._past))
        self.stop_ids = tuple(dict.fromkeys(ends))
        begin = self._variables.get("bos_token", "")
        self._turns = TemplateTurns(tokenizer, self.stop_ids, begin, self._past)

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> list[int]:
        """Return the ids of a prompt (see ChatFormat)."""
        stand_ins, given = self._messages.given(messages, [tools, variables])
        offered, more = stand_ins.of_others([self._offered(tools), self._chosen(variables)])
        text = self._text(given, add_generation_prompt, tools=offered, **more)
        return self._tokenizer.encode_marked(text, stand_ins.restore)

    def prompt(
        self,
        messages: Sequence[Message],
        recall: Recall | None = None,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> ChatPrompt:
        """Return the ids of a prompt and what is known of them (see ChatFormat)."""
        written = spelled(messages, recall)
        text, spans, restore = self._told(written, add_generation_prompt, tools, variables)
        stable = stable_place(spans, lambda n: role_of(messages[n], n) == "system", len(text))
        known = (
            ()
            if recall is None
            else splices(messages, recall, text, spans, self._tokenizer, restore)
        )
        ids, first = self._encoder.encode(text, stable, restore, known)
        return ChatPrompt(ids, first, begun(text.translate(dict(restore)), spans))

    def render_text(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> RenderedText:
        """Return the text that `render` encodes, with who wrote each character."""
        text, spans, restore = self._told(messages, add_generation_prompt, tools, variables)
        return RenderedText(text.translate(dict(restore)), spans)

    def _told(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any],
    ) -> tuple[str, tuple[TextSpan, ...], Restore]:
        """Return the text with stand-ins, who wrote each character, and what they stand for."""
        stand_ins, given = self._messages.given(messages, [tools, variables])
        offered, more = stand_ins.of_others([self._offered(tools), self._chosen(variables)])
        told = [
            {
                name: said(value, (provenance_of(messages[number], message["role"]), number, name))
                for name, value in message.items()
            }
            | {"role": message["role"]}
            for number, message in enumerate(given)
        ]
        system = ("system", None, "")
        chosen = {
            name: said(value, ("file", None, "") if name == "documents" else system)
            for name, value in more.items()
        }
        text = self._with(offered).render(
            True,
            messages=told,
            add_generation_prompt=add_generation_prompt,
            **{**self._variables, **chosen, "tools": said(offered, system)},
        )
        spans = []
        place = 0
        for length, source in runs_of(text):
            spans.append(TextSpan(place, place + length, *source))
            place += length
        return str.__getitem__(text, slice(None)), tuple(spans), stand_ins.restore

    def encode(self, rendered: RenderedText) -> list[int]:
        """Return the ids of a text: only what the template wrote, or an assistant, steers."""
        text, spans = rendered
        stand_ins = StandIns(self._tokenizer, text)
        parts = []
        for span in spans:
            part = text[span.start : span.end]
            if span.provenance == "assistant" and span.field in OWN_WORDS:
                part = stand_ins.of_assistant(part)
            elif span.provenance != TEMPLATE[0]:
                part = stand_ins.of_others(part)
            parts.append(part)
        return self._tokenizer.encode_marked("".join(parts), stand_ins.restore)

    def render_training(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> Rendered:
        """Return ids, mask and spans (see ChatFormat); the day is always the same one.

        Thoughts are no targets: what a turn is to show is what it says after them.
        """
        stand_ins, given = self._messages.given(messages, tools)
        offered = stand_ins.of_others(self._offered(tools))
        return self._turns.render(messages, given, offered, stand_ins.restore)

    # the template's text

    def _offered(self, tools: Sequence[Mapping[str, Any]] | None) -> list[Any] | None:
        return None if tools is None else list(tools)

    def _chosen(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Return those variables that the template asks for and that nobody else sets."""
        taken = {*_TAKEN, *self._variables}
        return {
            name: value
            for name, value in variables.items()
            if name in self._template.names | self._tool_template.names
            and name not in taken
            and value is not None
        }

    def _text(self, given: Given, prompt: bool, /, **variables: Any) -> str:
        return self._with(variables.get("tools")).render(
            messages=given, add_generation_prompt=prompt, **{**self._variables, **variables}
        )

    def _with(self, tools: Any) -> ChatTemplate:
        return self._tool_template if tools else self._template

    def _past(self, given: Given, prompt: bool, tools: Offer) -> str:
        return self._text(given, prompt, tools=tools, strftime_now=_some_day)

    def _probed(self, given: Given) -> str:
        tools = None if self._tool_template is self._template else [PROBED_TOOL]
        return self._text(given, False, tools=tools)


def _some_day(form: str) -> str:
    return _DAY.strftime(form)
