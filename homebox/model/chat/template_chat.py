"""Talks to a model in the words of its own chat template.

The one idea: the template makes one text of a conversation; steering tokens count where the
template wrote them, while what people wrote in the messages stays text (`stand_ins.py`).
In training, a turn is a target only where the conversation shows it as the model would have said
it: templates may rewrite earlier turns, and nobody should learn to say what was rewritten.
Invariant: the ids before a target are those of the prompt that asks for it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from itertools import compress, pairwise
from typing import Any

from homebox.errors import RequestError
from homebox.model.answers.formats import THOUGHTS
from homebox.model.chat.call_shape import PROBED_TOOL, CallShape, call_shape
from homebox.model.chat.messages import (
    Message,
    Rendered,
    RenderedText,
    Span,
    TextSpan,
    content_of,
    parsed_arguments,
    parts_of,
    provenance_of,
    role_of,
    text_of,
)
from homebox.model.chat.prompt import ChatPrompt, PromptEncoder, begun, stable_place
from homebox.model.chat.recall import Recall, spelled, splices
from homebox.model.chat.said import TEMPLATE, joined, runs_of, said
from homebox.model.chat.stand_ins import StandIns
from homebox.model.chat.template import STOPPED, ChatTemplate
from homebox.model.chat.written import text_of_value
from homebox.model.tokenizer.base import After, Restore, Tokenizer, any_of

_DAY = datetime(2026, 1, 1)  # in training, so that a job has one result
_PROBE = "Zq9x"
_THOUGHTS = ("reasoning_content", "thinking", "reasoning")  # what templates call them
_OWN_WORDS = ("content", *_THOUGHTS)  # of an assistant, whose marks count in them
# What a turn thinks before it speaks; blanks that follow on the same line belong to its first word.
_THOUGHT = re.compile(
    r"\s*(?:"
    + "|".join(f"{re.escape(begin)}.*?{re.escape(end)}" for begin, end in THOUGHTS)
    + r")\n*",
    re.DOTALL,
)
_TAKEN = ("messages", "tools", "add_generation_prompt", "raise_exception", "strftime_now")

Offer = list[Any] | None  # tools, in stand-ins


class TemplateChat:
    """The chat format of a model with a template; raises ModelFormatError if it is no template."""

    def __init__(
        self, tokenizer: Tokenizer, source: str, stop_ids: tuple[int, ...] = (), where: str = ""
    ) -> None:
        self._tokenizer = tokenizer
        self._template = ChatTemplate(source, where or "chat template")
        more = tokenizer.settings.tool_template
        self._tool_template = ChatTemplate(more, "chat template") if more else self._template
        source += more or ""
        self._variables = dict(tokenizer.settings.variables)
        self._calls = "tool_calls" in source
        names = (rf"""[.'"]{name}\b""" for name in _THOUGHTS)
        asked = [re.search(name, source) is not None for name in names]
        self._thoughts = tuple(compress(_THOUGHTS, asked))
        self._encoder = PromptEncoder(tokenizer)
        self._marks = any_of(tokenizer.special)
        ends = (*stop_ids, *tokenizer.settings.end_ids, *self._end_of_turn())
        self.stop_ids = tuple(dict.fromkeys(ends))
        by_id = {index: text for text, index in tokenizer.special.items()}
        self._stops = any_of(by_id[index] for index in self.stop_ids if index in by_id)

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> list[int]:
        """Return the ids of a prompt (see ChatFormat)."""
        stand_ins, given = self._given(messages, [tools, variables])
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
        stand_ins, given = self._given(messages, [tools, variables])
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
            if span.provenance == "assistant" and span.field in _OWN_WORDS:
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
        stand_ins, given = self._given(messages, tools)
        offered = stand_ins.of_others(self._offered(tools))
        text = self._past(given, tools=offered)
        bounds = self._bounds(given, text, offered)
        targets = []
        for number, message in enumerate(messages):
            if given[number]["role"] == "assistant" and message.get("train", True) is not False:
                targets += self._target(given, number, text, bounds, offered)
        return self._encoded(messages, given, text, bounds, targets, stand_ins)

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

    def _given(
        self, messages: Sequence[Message], others: Any
    ) -> tuple[StandIns, list[dict[str, Any]]]:
        """Return the messages as templates expect them, in stand-ins.

        `others` are values that go into the template besides them.
        """
        plain = [self._message(message, number) for number, message in enumerate(messages)]
        stand_ins = StandIns(self._tokenizer, [plain, others])
        given = []
        for shown in plain:
            kept = stand_ins.of_others(shown)
            if shown["role"] == "assistant":
                for name in _OWN_WORDS:
                    if name in shown:
                        kept[name] = stand_ins.of_assistant(shown[name])
            # Names of fields and of roles are the program's.
            kept = {name: kept[stand_ins.of_others(name)] for name in shown}
            given.append({**kept, "role": shown["role"]})
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
            shape = self._shape
            plain["tool_calls"] = [_call(call, number, shape.text) for call in calls]
            if shape.null and not plain["content"]:
                plain["content"] = None
        for name in ("name", "tool_call_id"):
            if isinstance(message.get(name), str):
                plain[name] = message[name]
        if isinstance(message.get("reasoning_content"), str):
            plain |= dict.fromkeys(self._thoughts, message["reasoning_content"])
        return plain

    @cached_property
    def _shape(self) -> CallShape:
        tools = None if self._tool_template is self._template else [PROBED_TOOL]
        return call_shape(lambda given: self._text(given, False, tools=tools))

    def _text(self, given: list[dict[str, Any]], prompt: bool, /, **variables: Any) -> str:
        return self._with(variables.get("tools")).render(
            messages=given, add_generation_prompt=prompt, **{**self._variables, **variables}
        )

    def _with(self, tools: Any) -> ChatTemplate:
        return self._tool_template if tools else self._template

    def _past(self, given: list[dict[str, Any]], prompt: bool = False, tools: Offer = None) -> str:
        return self._text(given, prompt, tools=tools, strftime_now=_some_day)

    def _tried(
        self, given: list[dict[str, Any]], prompt: bool = False, tools: Offer = None
    ) -> str | None:
        """Return the text of a part of a conversation, None if the template refuses it."""
        try:
            return self._past(given, prompt, tools)
        except RequestError as error:
            if error.code == STOPPED:
                raise
            return None

    def _end_of_turn(self) -> tuple[int, ...]:
        """Return the token that the template writes behind an answer, if it does."""
        given = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _PROBE}]
        try:
            text = self._past(given)
        except RequestError:
            return ()
        place = text.rfind(_PROBE)
        rest = text[place + len(_PROBE) :].lstrip() if place >= 0 else ""
        found = self._marks.match(rest)
        return () if found is None else (self._tokenizer.special[found.group()],)

    # places in it

    def _bounds(self, given: list[dict[str, Any]], text: str, tools: Offer = None) -> list[int]:
        """Return where each message begins in the text, and the text's end.

        A part of a conversation that is the beginning of the whole shows it. Where the template
        refuses the part or rewrites it later, the message's own words and the end of its turn do.
        """
        begin = self._variables.get("bos_token", "")
        known: list[int | None] = [len(begin) if begin and text.startswith(begin) else 0]
        for count in range(1, len(given)):
            part = self._tried(given[:count], tools=tools)
            known.append(len(part) if part is not None and text.startswith(part) else None)
        known.append(len(text))
        bounds: list[int] = [known[0] or 0]
        for number in range(1, len(known)):
            exact = known[number]
            low = bounds[-1]
            if exact is None or exact < low:
                high = next(b for b in known[number:] if b is not None and b >= low)
                exact = self._guess(given[number - 1], text, low, high)
            bounds.append(self._snapped(text, exact, low))
        return bounds

    def _guess(self, message: dict[str, Any], text: str, low: int, high: int) -> int:
        words = (message["content"] or "").rpartition("</think>")[2].strip()
        place = text.find(words, low, high) if words else -1
        if place < 0:
            return low
        end = place + len(words)
        found = self._stops.match(text, end + len(text[end:high]) - len(text[end:high].lstrip()))
        if found is None or found.end() > high:
            return end
        return found.end() + (1 if text[found.end() : found.end() + 1] == "\n" else 0)

    def _snapped(self, text: str, place: int, low: int) -> int:
        """Return a place behind a steering token where only blanks lie between: a cleaner cut."""
        if place >= len(text) or self._marks.match(text, place):
            return place
        end = len(text[low:place].rstrip()) + low
        return end if end < place and self._behind_mark(text[low:end]) else place

    def _behind_mark(self, text: str) -> bool:
        return any(found.end() == len(text) for found in self._marks.finditer(text))

    def _target(
        self,
        given: list[dict[str, Any]],
        number: int,
        text: str,
        bounds: list[int],
        tools: Offer = None,
    ) -> list[tuple[int, int]]:
        """Return from where to where a turn is what the model would have said; empty if nowhere."""
        last = number == len(given) - 1
        whole = text if last else self._tried(given[: number + 1], tools=tools)
        if whole is None or not text.startswith(whole):
            return []
        prompt = self._tried(given[:number], prompt=True, tools=tools)
        if prompt is not None and text.startswith(prompt):
            start = len(prompt)
        else:
            words = (given[number]["content"] or "").strip()
            start = text.find(words, bounds[number], len(whole)) if words else -1
        if start < 0:
            return []
        thoughts = _THOUGHT.match(text, start, len(whole))
        start = thoughts.end() if thoughts else start
        ends = [found.end() for found in self._stops.finditer(text, start, len(whole))]
        if not ends and (found := self._stops.match(text, len(whole))):
            ends = [found.end()]  # some templates end a turn where the next one begins
        return [(start, ends[-1] if ends else len(whole))]

    # ids

    def _encoded(
        self,
        messages: Sequence[Message],
        given: list[dict[str, Any]],
        text: str,
        bounds: list[int],
        targets: list[tuple[int, int]],
        stand_ins: StandIns,
    ) -> Rendered:
        cuts = sorted({0, len(text), *bounds, *(place for target in targets for place in target)})
        ids: list[int] = []
        mask: list[bool] = []
        index = {0: 0}
        after: After = ""
        for start, end in pairwise(cuts):
            part = text[start:end]
            ids += self._tokenizer.encode_marked(part, stand_ins.restore, after)
            learned = any(low <= start < high for low, high in targets)
            mask += [learned] * (len(ids) - len(mask))
            index[end] = len(ids)
            after = "mark" if self._behind_mark(part) else "text"
        spans = tuple(
            Span(
                index[bounds[number]],
                index[bounds[number + 1]],
                number,
                given[number]["role"],
                provenance_of(message, given[number]["role"]),
            )
            for number, message in enumerate(messages)
        )
        return Rendered(ids, mask, spans)


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


def _some_day(form: str) -> str:
    return _DAY.strftime(form)
