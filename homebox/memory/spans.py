"""Whose words each piece of a message holds.

The one idea: one message may hold words of several (the owner's, and a file that the client put
beside them), so provenance belongs to pieces. It is told once, when the message is written, and
kept with it under the chain's digest. Invariant: the spans of a message cover it without a gap.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from homebox.memory.clients import parts_of_message
from homebox.memory.provenance import OWNER, PROVENANCES
from homebox.memory.turns import Message

_FIELD, _LENGTHS = "spans", "parts"  # of a message's details


class Span(NamedTuple):
    """A piece of a message's content and whose words it is; places count characters."""

    start: int
    end: int
    provenance: str


def spans_of(message: Message) -> list[Span]:
    """Return the pieces of a message in order, as they were kept or else as they are told now."""
    spans = _kept(_details(message).get(_FIELD))
    if spans and spans[-1].end == len(message.content):
        return spans
    if message.role != "user" or message.provenance != OWNER:
        return _whole(message)
    place = 0
    for part in parts_of_message(message.content, lengths_of(message)):
        spans.append(Span(place, place + len(part.text), part.provenance))
        place += len(part.text)
    return spans


def lengths_of(message: Message) -> list[int]:
    """Return the lengths of the pieces in which a client sent a message; empty if it was one."""
    lengths = _details(message).get(_LENGTHS)
    if not isinstance(lengths, list) or not all(type(length) is int for length in lengths):
        return []
    return lengths


def with_spans(
    message: Message, spans: Sequence[Span] | None = None, lengths: Sequence[int] = ()
) -> Message:
    """Return a message that tells its spans, if they are more than its own provenance says.

    `spans` and `lengths` are those that it has now, if they were others before.
    """
    spans = spans_of(message) if spans is None else spans
    told = _details(message)
    fields = {**told, **({_LENGTHS: list(lengths)} if lengths and _LENGTHS in told else {})}
    if [span.provenance for span in spans] in ([message.provenance], []):
        fields.pop(_FIELD, None)
    else:
        fields[_FIELD] = [list(span) for span in spans]
    if fields == told:
        return message
    details = json.dumps(fields, ensure_ascii=False, separators=(",", ":")) if fields else ""
    return dataclasses.replace(message, details=details)


def _whole(message: Message) -> list[Span]:
    return [Span(0, len(message.content), message.provenance)] if message.content else []


def _details(message: Message) -> dict[str, Any]:
    fields = json.loads(message.details) if message.details else {}
    return fields if isinstance(fields, dict) else {}


def _kept(value: Any) -> list[Span]:
    """Read a list of spans that follow each other; empty if a value is none."""
    spans: list[Span] = []
    for each in value if isinstance(value, list) else ():
        if not isinstance(each, list) or len(each) != 3 or type(each[1]) is not int:
            return []
        place = spans[-1].end if spans else 0
        if each[0] != place or each[1] < place or each[2] not in PROVENANCES:
            return []
        spans.append(Span(*each))
    return spans
