"""Calls of tools as grammars: from the moment that one begins, or from the beginning of an answer.

The one idea: behind a mark there is one grammar, made of the format's shape and the offered tools;
an answer that must call begins with the mark itself. Invariant: what such a grammar derives is read
as calls of offered tools, with arguments that their schemas allow.
"""

import re
from collections.abc import Sequence

from homebox.model.answers import Dialect
from homebox.model.answers.section_formats import CHANNEL, MESSAGE, START
from homebox.model.answers.typed import kinds_of
from homebox.model.guides.compiler import matcher_of
from homebox.model.guides.segment import Json, Segment
from homebox.model.guides.shapes import MOST, Shape, Words, plain_call, shape_of
from homebox.model.guides.tools import Tool
from homebox.model.guides.vocabulary import Vocabulary, quoted
from homebox.model.guides.watcher import BARE

_FUNCTIONARY = ">>>"


class Calls:
    """The grammars of calls of some tools, for one model and one answer."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        dialect: Dialect,
        template: str,
        tools: Sequence[Tool],
        parallel: bool,
    ) -> None:
        self._vocabulary = vocabulary
        self._dialect = dialect
        self._template = template
        self._tools = tools
        self._parallel = parallel

    def opened(self, mark: str, rest: str) -> Segment | None:
        """Return the grammar of a call that was opened by a mark, behind which stands `rest`.

        None if it may still be a text, or is none.
        """
        words = self._words()
        sign = CHANNEL if mark == START else mark
        shape = shape_of(sign, words)
        if shape is None or (shape.weak and not self._certain(mark, rest)):
            return None
        if sign == CHANNEL:
            bodies = [self._message(words, shape, mark)]
        else:
            head = shape.head
            heads = ([head] if rest.startswith(head) or head.startswith(rest) else []) or [
                _blank(rest)
            ]
            bodies = [self._behind(words, shape, each) for each in heads]
        for body in bodies:
            segment = self._segment(words.rules.grammar(body), shape)
            if segment.take_text(rest):
                return segment
        return None

    def prepare(self) -> None:
        """Compile the grammars of calls, so that no answer waits for that; raises RequestError."""
        for each in self._dialect.formats:
            self.opened(each.opens[0], "")

    def wanted(self, lead: str, behind_thought: bool) -> Segment:
        """Return the grammar of an answer that is calls, behind a `lead` of blanks."""
        words = self._words()
        mark = self._usual(words)
        shape = shape_of(mark, words)
        if shape is None:
            mark, shape = BARE, shape_of(BARE, words) or Shape(_nothing)
        if mark == CHANNEL:
            opens = START if behind_thought else CHANNEL
            body = self._message(words, shape, opens, only_calls=True, thinks=not behind_thought)
            body = f"{words.mark(opens)} {body}"
        else:
            once = words.rules.add(
                f"{words.mark(mark) if mark else ''} {self._behind(words, shape, shape.head)}"
            )
            body = once
            if self._parallel and shape.again is not None:
                body += f" ({quoted(shape.again) if shape.again else ''} {once}){{0,{MOST - 1}}}"
        return self._segment(words.rules.grammar(f"{lead} {body}"), shape, ends=True)

    def _words(self) -> Words:
        return Words(self._vocabulary, self._template)

    def _usual(self, words: Words) -> str:
        """Return the mark that the model's calls begin with."""
        shown = [each.opens[0] for each in self._dialect.formats if words.known(each.opens[0])]
        if "<|python_tag|>" in shown and "<tool_call>" not in shown:
            return BARE  # its own tools stand behind the tag, those of others do not
        preferred = [mark for mark in shown if mark not in ("Action:", "<function=")]
        return (preferred or shown or [BARE])[0]

    def _behind(self, words: Words, shape: Shape, head: str) -> str:
        calls = " | ".join(words.rules.add(shape.call(words, tool)) for tool in self._tools)
        call = words.rules.add(calls)
        parts = [quoted(head) if head else "", call]
        if shape.between is not None and self._parallel:
            gap = quoted(shape.between) if shape.between else ""
            parts.append(f"({gap} {call}){{0,{MOST - 1}}}")
        parts.append(quoted(shape.tail) if shape.tail else "")
        if shape.close:
            parts.append(words.mark(shape.close))
        return " ".join(part for part in parts if part)

    def _message(
        self, words: Words, shape: Shape, mark: str, only_calls: bool = False, thinks: bool = True
    ) -> str:
        """Return what stands behind <|channel|> or <|start|> in gpt-oss' format."""
        calls = " | ".join(words.rules.add(shape.call(words, tool)) for tool in self._tools)
        kinds = words.rules.add(calls)
        if only_calls and thinks:
            kinds = words.rules.add(f'{kinds} | "analysis" {words.mark(MESSAGE)}')
        elif not only_calls:
            text = f'("analysis" | "commentary" | "final") {words.mark(MESSAGE)}'
            kinds = words.rules.add(f"{kinds} | {text}")
        return f'"assistant" {words.mark(CHANNEL)} {kinds}' if mark == START else kinds

    def _certain(self, mark: str, rest: str) -> bool:
        """Tell whether what stands behind a mark that is also a word can only be a call."""
        if mark == BARE:
            names = "|".join(re.escape(tool.name) for tool in self._tools)
            return re.match(rf'\{{\s*"name"\s*:\s*"({names})"', rest) is not None
        return re.match(r"\s*(```json\s*)?[\[{]", rest) is not None

    def _segment(self, grammar: str, shape: Shape, ends: bool = False) -> Segment:
        matcher = matcher_of(self._vocabulary, grammar, "tools")
        never = [*shape.never]
        if shape.call is plain_call:
            never += [f", {name}: " for tool in self._tools for name in tool.parameters]
        follows = shape.again is not None or bool(shape.close)
        return Segment(
            self._vocabulary,
            matcher,
            "tools",
            json=self._json(shape),
            never=tuple(each.encode() for each in never),
            ends=ends or not follows,
            thinks=shape.thinks,
        )

    def _json(self, shape: Shape) -> Json:
        """Return what tells where JSON begins in calls of a shape; True: they are JSON."""
        if not shape.before:
            return True
        names = {
            name
            for tool in self._tools
            for name, schema in tool.parameters.items()
            if (kinds := set(kinds_of(schema))) and "string" not in kinds
        }
        any_of = "|".join(re.escape(name) for name in sorted(names))
        return re.compile((shape.before % f"(?:{any_of})").encode()) if names else False


def _blank(rest: str) -> str:
    return rest[: len(rest) - len(rest.lstrip())]


def _nothing(words: Words, tool: Tool) -> str:
    return '""'
