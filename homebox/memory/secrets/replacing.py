"""Walks through all that somebody or the model worded, and puts marks in the place of parts of it.

The one idea: what is a secret is for others to say; here it is only known where words stand: in the
content of a message, in its pieces and spans, inside JSON and inside the arguments of tools.
Invariant: ids and names of fields stay, since clients and the answers' memory go by them, and what
has nothing to replace is the same to the byte.
"""

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from homebox.memory.secrets.view import Found
from homebox.memory.spans import Span, lengths_of, spans_of, with_spans
from homebox.memory.turns import Message, Turn

IDS = frozenset(("id", "tool_call_id", "call_id", "type", "role", "parts", "spans"))


class Replacer(ABC):
    """Replaces what `found` finds."""

    @abstractmethod
    def found(self, text: str) -> Sequence[tuple[Found, str]]:
        """Return what is to be replaced in a text, in order, each with what stands instead."""

    def named(self, text: str, name: str) -> str:
        """Return the value of a field, of which its name may say more than the value does."""
        return text

    def known(self, text: str) -> bool:
        """Say whether it is known of the text of a JSON object that nothing is to be replaced."""
        return False

    def turn(self, turn: Turn) -> Turn:
        """Return a turn as it is to be written; an answer that changes loses its token ids."""
        messages = tuple(map(self.message, turn.messages))
        prompt = tuple(map(self.message, turn.prompt))
        changed = messages[-1] != with_spans(turn.messages[-1])
        return dataclasses.replace(
            turn,
            messages=messages,
            prompt=prompt,
            offered=self.json(turn.offered),
            sampling=self.value(turn.sampling),
            token_ids=() if changed else turn.token_ids,
        )

    def message(self, message: Message) -> Message:
        """Return a message with marks in it; its pieces and spans are counted anew."""
        spans = spans_of(message)
        lengths = lengths_of(message)
        found = self.found(message.content)
        if found:
            spans = [
                Span(_moved(span.start, found), _moved(span.end, found), span.provenance)
                for span in spans
            ]
            message = dataclasses.replace(message, content=_joined(message.content, found))
            ends = [_moved(end, found) for end in accumulate(lengths)]
            lengths = [end - start for start, end in pairwise([0, *ends])]
        details = self.json(message.details)
        return with_spans(dataclasses.replace(message, details=details), spans, lengths)

    def text(self, text: str) -> str:
        """Return a text with marks in it."""
        found = self.found(text)
        return _joined(text, found) if found else text

    def json(self, text: str) -> str:
        """Return the text of a JSON object with marks in its values."""
        if not text or self.known(text):
            return text
        value = json.loads(text)
        kept = self.value(value)
        return (
            text if kept == value else json.dumps(kept, ensure_ascii=False, separators=(",", ":"))
        )

    def value(self, value: Any, name: str = "") -> Any:
        """Return a value of JSON with marks in its strings, and in those of the JSON in them."""
        if isinstance(value, str):
            if name in IDS or name.endswith("_id"):
                return value
            nested = _parsed(value)
            if nested is not None:
                kept = self.value(nested)
                if kept != nested:
                    value = json.dumps(kept, ensure_ascii=False)
            return self.named(self.text(value), name)
        if isinstance(value, list):
            return [self.value(item, name) for item in value]
        if isinstance(value, dict):
            return {self.text(key): self.value(item, key) for key, item in value.items()}
        return value


def _parsed(text: str) -> Any:
    """Return the JSON object or list that a text is, or None."""
    if text[:1] not in ("{", "[") or text[-1:] not in ("}", "]"):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _joined(text: str, found: Sequence[tuple[Found, str]]) -> str:
    pieces, place = [], 0
    for item, instead in found:
        pieces += [text[place : item.start], instead]
        place = item.end
    return "".join([*pieces, text[place:]])


def _moved(place: int, found: Sequence[tuple[Found, str]]) -> int:
    """Return where a place of a text is after parts were replaced; none is cut in two."""
    grown = 0
    for item, instead in found:
        if place <= item.start:
            break
        if place < item.end:
            return item.start + grown + len(instead)
        grown += len(instead) - (item.end - item.start)
    return place + grown
