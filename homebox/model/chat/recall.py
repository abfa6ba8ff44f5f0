"""What was generated, put back where a conversation shows it again.

The one idea: a history comes back as text that clients wrote anew; where a rendered turn says what
an answer said, its ids are the answer's, as the same text could be cut into other tokens. Then the
keys and values of the answer serve again, and what is trained is what was said.
Invariant: ids are put in only for a piece of rendered text that they spell exactly, within one
message of the assistant's and the template's words around it; a hidden steering token only where
the template wrote that token. Who asks gets nothing of another owner (`Recall`).
"""

import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple, Protocol

from homebox.errors import RequestError
from homebox.model.chat.messages import Message, TextSpan, parsed_arguments
from homebox.model.chat.written import same_value, written
from homebox.model.tokenizer.base import Restore, StreamDecoder, Tokenizer

_OTHER = re.compile(r"[^A-Za-z0-9]")
_ID_LENGTH = 40


class Call(NamedTuple):
    """A call of a tool: its id, the tool's name, the JSON text of its arguments."""

    id: str
    name: str
    arguments: str


class Spelling(NamedTuple):
    """What ids spell: a text, and after each of them the place in it, -1 within a character."""

    text: str
    ends: "array[int]"

    def tokens(self, first: int, last: int) -> tuple[int, int, int, int] | None:
        """Return the longest run of whole tokens that spells a part of text[first:last].

        As the first of them and the one behind the last, and where the part begins and ends.
        """
        size = len(self.text)
        if first == 0 and last == size and self.ends and self.ends[-1] == size:
            return 0, len(self.ends), 0, size
        begin = end = -1
        start = stop = 0
        for number, place in enumerate((0, *self.ends)):
            if first <= place <= last:
                if begin < 0:
                    begin, start = number, place
                if place > stop or end < 0:
                    end, stop = number, place
        return (begin, end, start, stop) if begin < end else None


class Generated:
    """An answer: its ids (T,), its calls of tools and its reasoning."""

    __slots__ = ("_spelled", "calls", "ids", "thoughts")

    def __init__(self, ids: Iterable[int], calls: Iterable[Call] = (), thoughts: str = "") -> None:
        self.ids = array("i", ids)
        self.calls = tuple(calls)
        self.thoughts = thoughts
        self._spelled: tuple[Tokenizer, bool, Spelling] | None = None

    def spelled(self, tokenizer: Tokenizer, continued: bool) -> Spelling:
        """Return what the ids spell, steering tokens shown; nothing if it has not all of them.

        `continued` tells whether a text stands before them.
        """
        known = self._spelled
        if known is not None and known[0] is tokenizer and known[1] is continued:
            return known[2]
        spelling = _spelling(tokenizer, self.ids, continued)
        self._spelled = (tokenizer, continued, spelling)
        return spelling


def _spelling(tokenizer: Tokenizer, ids: Sequence[int], continued: bool) -> Spelling:
    if not all(0 <= index < tokenizer.size for index in ids):
        return Spelling("", array("i"))
    decoder = StreamDecoder(tokenizer, continuation=continued, special=True)
    parts: list[str] = []
    ends = array("i")
    place = 0
    for index in ids:
        parts.append(decoder.push(index))
        place += len(parts[-1])
        ends.append(-1 if decoder.pending else place)
    parts.append(decoder.flush())
    return Spelling("".join(parts), ends)


class Recall(Protocol):
    """What one owner was answered."""

    def turns(self, message: Message) -> Sequence[Generated]:
        """Return the answers that an assistant's message may show, the likeliest first."""
        ...


class Splice(NamedTuple):
    """text[start:end] of a rendered text is spelled by `ids`."""

    start: int
    end: int
    ids: tuple[int, ...]


def spelled(messages: Sequence[Message], recall: Recall | None) -> list[Message]:
    """Return the messages with the arguments of calls as the model wrote them.

    Where no answer is known that called the same tool with the same values, they stay. Reasoning
    that a client dropped from an answer with calls is there again; the template shows it or not.
    """
    if recall is None:
        return list(messages)
    return [
        _spelled(message, recall)
        if message.get("role") == "assistant" and message.get("tool_calls")
        else message
        for message in messages
    ]


def short_id(id: Any) -> str:
    """Return what clients leave of the id of a call; empty if it is none."""
    return _OTHER.sub("", id)[:_ID_LENGTH] if isinstance(id, str) else ""


def same_call(call: Any) -> tuple[str, str] | None:
    """Return the tool's name and a text for the value of the arguments; None if it is no call."""
    try:
        name, arguments = parsed_arguments(call, 0)
        return name, same_value(arguments)
    except (RequestError, TypeError, ValueError, RecursionError):
        return None


def _spelled(message: Message, recall: Recall) -> Message:
    known: dict[tuple[str, str], str] = {}
    thoughts = ""
    own = [same_call(call) for call in message["tool_calls"]]
    ids = [
        short_id(call.get("id")) if isinstance(call, Mapping) else ""
        for call in message["tool_calls"]
    ]
    for turn in recall.turns(message):
        calls = [same_call({"function": call._asdict()}) for call in turn.calls]
        for same, call in zip(calls, turn.calls, strict=True):
            if same is not None:
                known.setdefault(same, call.arguments)
        # Only ids say that it is this answer, and not another one that did the same.
        if calls == own and [short_id(call.id) for call in turn.calls] == ids:
            thoughts = thoughts or turn.thoughts
    told = {**message}
    if known:
        told["tool_calls"] = [_as_written(call, known) for call in message["tool_calls"]]
    if thoughts and not message.get("reasoning_content"):
        told["reasoning_content"] = thoughts
    return told


def _as_written(call: Any, known: Mapping[tuple[str, str], str]) -> Any:
    same = same_call(call)
    if same is None or same not in known:
        return call
    value = written(known[same] or "{}")
    return {**call, "function": {**call["function"], "arguments": value}}


def splices(
    messages: Sequence[Message],
    recall: Recall,
    text: str,
    spans: Sequence[TextSpan],
    tokenizer: Tokenizer,
    restore: Restore,
) -> list[Splice]:
    """Return what of a rendered text was generated, in order.

    `text` is as the template left it, with stand-ins; `spans` say who wrote what of it.
    """
    shown = Shown(text, text.translate(dict(restore)), tokenizer)
    runs = [
        list(run)
        for _, run in groupby(
            (span for span in spans if span.provenance != "template"), lambda span: span.message
        )
    ]
    found: list[Splice] = []
    for place, own in enumerate(runs):
        number = own[0].message
        if number is not None and messages[number].get("role") == "assistant":
            low = runs[place - 1][-1].end if place else 0
            high = runs[place + 1][0].start if place + 1 < len(runs) else len(text)
            groups = [list(group) for _, group in groupby(own, lambda span: span.field)]
            parts = [(group[0].start, group[-1].end) for group in groups]
            turns = recall.turns(messages[number])
            matches = [shown.pieces(turn, parts, (low, high)) for turn in turns]
            found += max(matches, key=_size) if matches else []
    return found


def _size(pieces: Iterable[Splice]) -> int:
    return sum(len(piece.ids) for piece in pieces)


class Shown(NamedTuple):
    """A rendered text, with stand-ins and without."""

    text: str
    plain: str
    tokenizer: Tokenizer

    def pieces(
        self, turn: Generated, parts: Sequence[tuple[int, int]], limits: tuple[int, int]
    ) -> list[Splice]:
        """Return what an answer spells of a message, whose words stand in `parts` of the text.

        As few pieces as possible: templates leave parts of an answer out, or join them in another
        way.
        """
        found: list[Splice] = []
        first, low = 0, limits[0]
        while first < len(parts):
            for last in range(len(parts), first, -1):
                core = (parts[first][0], parts[last - 1][1])
                match = overlap(turn, self.tokenizer, self.plain, core, (low, limits[1]))
                if match is not None and self._may_steer(match):
                    found.append(match)
                    low = match.end
                    break
            first = last
            while first < len(parts) and parts[first][0] < low:
                first += 1
        return found

    def _may_steer(self, match: Splice) -> bool:
        """Tell whether every hidden steering token in a piece is one that the template wrote."""
        tokenizer = self.tokenizer
        if tokenizer.hidden.isdisjoint(match.ids):
            return True
        place = match.start
        decoder = StreamDecoder(tokenizer, continuation=True, special=True)
        for index in match.ids:
            said = decoder.push(index)
            if index in tokenizer.hidden:
                mark = tokenizer.piece(index)
                if not self.text.startswith(mark, place + len(said) - len(mark)):
                    return False
            place += len(said)
        return True


def overlap(
    turn: Generated,
    tokenizer: Tokenizer,
    text: str,
    core: tuple[int, int],
    limits: tuple[int, int],
) -> Splice | None:
    """Return where whole tokens of an answer spell what is in and around text[core].

    None if the answer does not hold the core. The piece lies within `limits`.
    """
    # Where encoding adds a space to a text, the answer may have been spelled either way.
    either = (False, True) if tokenizer.strips_space else (False,)
    found = [_overlap(turn.spelled(tokenizer, each), turn, text, core, limits) for each in either]
    return max(
        (splice for splice in found if splice is not None),
        key=lambda splice: splice.end - splice.start,
        default=None,
    )


def _overlap(
    spelling: Spelling,
    turn: Generated,
    text: str,
    core: tuple[int, int],
    limits: tuple[int, int],
) -> Splice | None:
    said = spelling.text
    first = said.rfind(text[core[0] : core[1]])
    if first < 0 or core[0] == core[1]:
        return None
    shift = core[0] - first  # from places in the answer to places in the text
    last = first + core[1] - core[0]
    low, high = max(0, limits[0] - shift), min(len(said), limits[1] - shift)
    while first > low and said[first - 1] == text[first - 1 + shift]:
        first -= 1
    while last < high and said[last] == text[last + shift]:
        last += 1
    found = spelling.tokens(first, last)
    if found is None:
        return None
    begin, end, start, stop = found
    return Splice(start + shift, stop + shift, tuple(turn.ids[begin:end]))
