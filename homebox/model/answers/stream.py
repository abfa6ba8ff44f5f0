"""Tells apart text, thoughts and calls of tools in an answer while it is being written.

The one idea: text goes out at once, except what may be the beginning of a mark and blanks that a
mark may follow. Behind a mark its format reads on; if that does not work out, everything since the
mark is text after all, and the search for marks goes on where the reading stopped.
Invariant: the events do not depend on how the text was cut, no character is lost or told twice
(`events.py`), the time is linear in the length of the text, and nothing is ever raised.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any

from homebox.model.answers.calls import Calls, new_id, tools_by_name
from homebox.model.answers.events import (
    CallBegins,
    CallEnds,
    Event,
    Markup,
    Text,
    Thought,
)
from homebox.model.answers.formats import Dialect, Read, dialect_of
from homebox.model.answers.json_formats import read_bare
from homebox.model.answers.reader import SPACE, Marks, Reader, Steps
from homebox.model.answers.section_formats import MESSAGE_ENDS, START, read_recipient
from homebox.model.answers.tagged_formats import read_functionary
from homebox.model.tokenizer.base import Tokenizer

_BLANKS = " \t\r\n"
_NONE = Marks(())
_FUNCTIONARY = ">>>"
_ASSISTANT = START + "assistant"


class AnswerParser:
    """Parses one answer; see `parser_for`."""

    def __init__(
        self,
        dialect: Dialect,
        tools: Iterable[Mapping[str, Any]] = (),
        prompt: str = "",
        eager: bool = False,
        ids: Callable[[], str] = new_id,
    ) -> None:
        known = tools_by_name(tools)
        self._reader = Reader()
        self._events: list[Event] = []
        self._calls = Calls(
            self._reader, known, self._events.append, self._marked, eager=eager, ids=ids
        )
        formats = tuple(each for each in dialect.formats if known or each.frames)
        # A model that forgets the mark before a call may still write the one behind it.
        ends = tuple(mark for each in formats for mark in each.closes)
        self._bare = Marks(ends) if known else None
        self._formats = {
            mark: (each.read, closes)
            for each, closes in zip(formats, [Marks(each.closes) for each in formats], strict=True)
            for mark in each.opens
        }
        self._thoughts = dict(dialect.thoughts)
        self._wrappers = dict(dialect.wrappers)
        ends_of_messages = MESSAGE_ENDS if START in self._formats else ()
        anywhere = (*self._formats, *ends_of_messages)
        pairs = (*dialect.thoughts, *dialect.wrappers)
        self._marks = Marks(anywhere)
        self._first = Marks((*anywhere, *(mark for pair in pairs for mark in pair)))
        self.marks = frozenset(self._first.texts).union(
            *(each.closes for each in formats), *(each.inner for each in formats)
        )
        self._gap: list[str] = []  # blanks that may belong to a mark
        self._fresh = True  # only blanks came since the beginning or the last mark
        self._behind_mark = False
        self._steps = self._answer(prompt.rstrip(_BLANKS))
        self._go_on()

    def feed(self, text: str) -> list[Event]:
        """Take the next piece of the answer; returns what is certain now. Never raises."""
        if self._reader.ended:
            return [Text(text)] if text else []
        self._reader.add(text)
        return self._go_on()

    def end(self) -> list[Event]:
        """Return what is left when the answer is over. Never raises."""
        self._reader.ended = True
        return self._go_on()

    def _go_on(self) -> list[Event]:
        next(self._steps, None)
        events = self._events[:] if len(self._events) < 2 else merged(self._events)
        self._events.clear()
        return events

    def _answer(self, prompt: str) -> Steps[None]:
        opened = next(
            (close for mark, close in self._thoughts.items() if prompt.endswith(mark)), ""
        )
        if opened:
            yield from self._thought((opened,))
        elif _FUNCTIONARY in self._formats and prompt.endswith(_FUNCTIONARY):
            yield from self._read(read_functionary, _NONE)
        elif START in self._formats and prompt.endswith(_ASSISTANT):
            yield from self._read(read_recipient, _NONE)
        while (yield from self._part()):
            pass
        self._begin_text()
        self._out(Text, "".join(self._gap))

    def _part(self) -> Steps[bool]:
        """Read up to the next mark, and what it begins; tells whether there was one."""
        reader = self._reader
        mark = ""
        if self._fresh:
            yield from reader.run(SPACE, self._say)
            mark = yield from reader.literal(self._first)
            if not mark and self._bare and (yield from reader.peek()) in ("{", "[", "`"):
                yield from self._read(read_bare, self._bare)
                return True
        if not mark:
            mark = yield from reader.until(self._marks, self._say)
        if mark in self._formats:
            yield from self._read(*self._formats[mark])
        elif mark:
            self._marked()
            if mark in self._thoughts:
                yield from self._thought((self._thoughts[mark],))
            elif mark in self._wrappers:
                self._marks = Marks((*self._marks.texts, self._wrappers[mark]))
        return bool(mark)

    def _read(self, read: Read, closes: Marks) -> Steps[None]:
        calls = self._calls
        calls.only_known = False
        self._reader.bounded = True
        thinks: bool | None = False
        try:
            thinks = yield from read(calls, closes)
        except ValueError:
            if not calls.fail():
                self._begin_text()
                self._say(self._reader.taken())
        self._reader.bounded = False
        self._marked()
        if thinks:
            yield from self._thought(MESSAGE_ENDS)

    def _thought(self, closes: tuple[str, ...]) -> Steps[None]:
        """Read a thought up to its end; one without an end lasts as long as the answer."""
        reader = self._reader
        opens = Marks(mark for mark, close in self._thoughts.items() if close in closes)
        yield from reader.spaces()
        # A model may open the thought that its template opened already.
        if (yield from reader.literal(opens)):
            yield from reader.spaces()
        self._out(Markup, reader.taken())
        blanks: list[str] = []

        def think(text: str) -> None:
            reader.taken()
            bare = text.rstrip(_BLANKS)
            if bare:
                self._out(Thought, "".join((*blanks, bare)))
                blanks.clear()
            blanks.append(text[len(bare) :])

        mark = yield from reader.until(Marks(closes), think)
        if not mark:
            self._out(Thought, "".join(blanks))
            blanks.clear()
        self._out(Markup, "".join(blanks))
        self._marked()

    def _say(self, text: str) -> None:
        """Give out text, but keep the blanks at its end."""
        self._reader.taken()
        bare = text.rstrip(_BLANKS)
        if not bare:
            self._gap.append(text)
            return
        if self._fresh:
            self._begin_text()
        self._out(Text, "".join((*self._gap, bare)))
        self._gap.clear()
        self._gap.append(text[len(bare) :])

    def _begin_text(self) -> None:
        """Give out the blanks before a text: they belong to the mark before it, if there is one."""
        if self._fresh:
            out = Markup if self._behind_mark else Text
            self._out(out, "".join(self._gap))
            self._gap.clear()
            self._fresh = False

    def _marked(self) -> None:
        """Regard what was read, and the blanks before it, as marks."""
        raw = self._reader.taken()
        if raw:
            self._out(Markup, "".join((*self._gap, raw)))
            self._gap.clear()
            self._fresh = self._behind_mark = True

    def _out(self, kind: type[Text] | type[Thought] | type[Markup], text: str) -> None:
        if text:
            self._events.append(kind(text))


def merged(events: Iterable[Event]) -> list[Event]:
    """Return the events with neighbouring pieces of a kind put together."""
    out: list[Event] = []
    for _, group in groupby(events, lambda each: (type(each), getattr(each, "index", 0))):
        members = list(group)
        texts = [each.text for each in members if not isinstance(each, CallBegins | CallEnds)]
        first = members[0]
        if isinstance(first, CallBegins | CallEnds):
            out += members
        else:
            out.append(replace(first, text="".join(texts)))
    return out


def parser_for(
    tokenizer: Tokenizer,
    tools: Iterable[Mapping[str, Any]] = (),
    prompt: str = "",
    eager: bool = False,
) -> AnswerParser:
    """Return the parser for one answer of the model with this tokenizer.

    `tools` are those of the request; without any, nothing is a call. `prompt` is the end of the
    rendered prompt, steering tokens shown: it may have begun a thought. With `eager`, arguments are
    given out while they are written, at the price of calls that end incomplete.
    """
    template = tokenizer.settings.template or ""
    return AnswerParser(dialect_of(template, tokenizer.special), tools, prompt, eager)
