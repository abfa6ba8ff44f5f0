"""Models made up for tests of guides: a vocabulary of letters, marks and a template, and a sampler.

The sampler chooses among the allowed tokens without a thought, which is the worst model that there
is: whatever a guide lets through, it says sooner or later.
"""

import random
from collections.abc import Sequence

import numpy as np

from homebox.model.answers import Event, parser_for
from homebox.model.generation.guide import Guide
from homebox.model.guides import Wanted
from homebox.model.tokenizer.base import (
    After,
    Restore,
    Settings,
    StreamDecoder,
    Surfaces,
    Tokenizer,
)

END = "<|end|>"
# Tokens of several characters, as vocabularies of real models have them, some of them tricky.
PAIRS = (
    '{"', '":', '": ', '"}', ', "', '", "', '"}}', "}}", "[{", '{"a', '{"a":', '"a"', "null",
    "true", "false", "10", "999", "1e", "e99", "\n\n", "  ", "</", ">\n", "name", "arguments",
    "city", '""', '"name"', "Oslo", "parameter", "function", "é", "日本", "[[", "{}", "[]", "]]]",
    ", ", ": ", "</p", "tool_call", '\\"', "\\n", "\\u", "000", "def", "ab",
)  # fmt: skip


# What ends texts in formats without quotation marks, which chance would never write.
CLOSERS = (b"\n</parameter>\n", b", mode: ", b"</tool_call>", b"</arg_value>", b'"', b"}")


class Letters(Tokenizer):
    """A vocabulary of all bytes, some longer tokens, and marks; `padding` ids mean nothing."""

    def __init__(
        self, marks: Sequence[str] = (), template: str = "", end: str = END, padding: int = 5
    ) -> None:
        data = [bytes([value]) for value in range(256)]
        data += [each.encode() for each in PAIRS]
        special = {mark: len(data) + number for number, mark in enumerate((end, *marks))}
        data += [mark.encode() for mark in special] + [b""] * padding
        spellings = tuple(each.decode("utf-8", "replace") for each in data)
        super().__init__(
            Surfaces(spellings, tuple(data)),
            special,
            frozenset(special.values()),
            Settings(template=template or None),
        )
        self.stop_ids = (special[end],)

    def encode_marked(
        self, text: str, restore: Restore | None = None, after: After = ""
    ) -> list[int]:
        ids: list[int] = []
        start = 0
        for found in self._marks.finditer(text):
            ids += text[start : found.start()].encode()
            ids.append(self.special[found.group()])
            start = found.end()
        return ids + list(text[start:].encode())

    def encode_answer(self, text: str) -> list[int]:
        return self.encode_marked(text)

    def _plain(self, text: str) -> list[int]:
        return list(text.encode())


class Said:
    """What a sampler said under a guide: its tokens, its text, and how it ended."""

    def __init__(self, ids: list[int], ended: bool) -> None:
        self.ids = ids
        self.ended = ended


def allowed(guide: Guide, size: int) -> list[int]:
    """Return the tokens that may come next."""
    mask = guide.mask()
    if mask is None:
        return list(range(size))
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    assert not bits[size:].any()
    return np.flatnonzero(bits[:size]).tolist()


def babble(
    guide: Guide,
    tokenizer: Tokenizer,
    stop_ids: Sequence[int],
    dice: random.Random,
    most: int = 400,
    begin: Sequence[int] = (),
    hurry: int = 60,
    liked: frozenset[int] = frozenset(),
) -> Said:
    """Say allowed tokens at random: first `begin`, then such as end things after `hurry` tokens.

    Where it can it says one that is `liked`.
    """
    ids: list[int] = []
    closing = frozenset(b'"}]>')
    script = b""
    waiting = list(begin)
    while len(ids) < most:
        able = allowed(guide, tokenizer.size)
        assert able, tokenizer.decode(ids, special=True)
        if waiting:
            token = waiting.pop(0)
            assert token in able, (token, tokenizer.decode(ids, special=True))
        else:
            ends = [each for each in able if each in stop_ids]
            late = len(ids) > hurry
            if ends and (late or len(ends) == len(able) or dice.random() < 0.2):
                return Said(ids, True)
            able = [each for each in able if each not in stop_ids]
            able = (not late and [each for each in able if each in liked]) or able
            soon = [
                i
                for i in able
                if late and tokenizer.piece_bytes(i)[:1].strip(bytes(closing)) == b""
            ]
            token = dice.choice(soon or able)
            special = [each for each in able if each in tokenizer.special.values()]
            if late and special and dice.random() < 0.5:
                token = dice.choice(special)
            elif late:
                script = script or dice.choice(CLOSERS)
                token, script = (script[0], script[1:]) if script[0] in able else (token, b"")
        guide.take(token)
        ids.append(token)
    return Said(ids, False)


def text_of(tokenizer: Tokenizer, ids: Sequence[int], shown: frozenset[int] = frozenset()) -> str:
    """Return the text of an answer as a client gets it."""
    decoder = StreamDecoder(tokenizer, shown=shown)
    return "".join(decoder.push(each) for each in ids) + decoder.flush()


def events_of(tokenizer: Tokenizer, ids: Sequence[int], wanted: Wanted) -> list[Event]:
    """Return what the parser of answers reads in an answer, token by token."""
    parser = parser_for(tokenizer, wanted.tools, wanted.prompt, eager=True)
    shown = frozenset(tokenizer.special[m] for m in parser.marks if m in tokenizer.special)
    decoder = StreamDecoder(tokenizer, shown=shown)
    events: list[Event] = []
    for each in ids:
        events += parser.feed(decoder.push(each))
    return [*events, *parser.feed(decoder.flush()), *parser.end()]
