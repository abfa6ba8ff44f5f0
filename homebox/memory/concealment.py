"""What a turn, a lesson or an opinion is without the secrets in it, before it is written.

The one idea: all that somebody or the model worded is searched, also inside JSON and inside the
arguments of tools; ids and names of fields stay, since clients and the answers' memory go by them.
Invariant: what is written holds no secret that `redaction` finds, and a message without one is
written as it is, to the byte.
"""

import dataclasses
import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from homebox.memory.lessons import Lesson
from homebox.memory.redaction import Found, find_secrets, placeholder, replaced
from homebox.memory.spans import Span, lengths_of, spans_of, with_spans
from homebox.memory.store import canonical_json
from homebox.memory.turns import Message, Turn

_IDS = frozenset(("id", "tool_call_id", "call_id", "type", "role", "parts", "spans"))
_KNOWN = 4096  # texts of which it is known that nothing is to be replaced


class Concealer:
    """Replaces secrets, remembering texts that have none: prompts repeat with every request.

    Not safe for several threads; the ledger's writer has it.
    """

    def __init__(self, salt: bytes, active: bool = True) -> None:
        self._salt = salt
        self._active = active
        self._clean: OrderedDict[bytes, None] = OrderedDict()

    def turn(self, turn: Turn) -> Turn:
        """Return a turn as it is to be written; an answer that changes loses its token ids."""
        if not self._active:
            return dataclasses.replace(
                turn,
                messages=tuple(map(with_spans, turn.messages)),
                prompt=tuple(map(with_spans, turn.prompt)),
            )
        messages = tuple(map(self.message, turn.messages))
        changed = messages[-1] != with_spans(turn.messages[-1])
        return dataclasses.replace(
            turn,
            messages=messages,
            prompt=tuple(map(self.message, turn.prompt)),
            offered=self.json(turn.offered),
            sampling=self._value(turn.sampling),
            token_ids=() if changed else turn.token_ids,
        )

    def message(self, message: Message) -> Message:
        """Return a message without secrets; its pieces and spans are counted anew."""
        spans = spans_of(message)
        lengths = lengths_of(message)
        found = self._replaced(message.content)
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
        """Return a text without secrets."""
        found = self._replaced(text)
        return _joined(text, found) if found else text

    def json(self, text: str) -> str:
        """Return the text of a JSON object without secrets in its values."""
        if not text or not self._active or self._known(text):
            return text
        value = json.loads(text)
        kept = self._value(value)
        if kept == value:
            self._learn(text)
            return text
        return json.dumps(kept, ensure_ascii=False, separators=(",", ":"))

    def lesson(self, lesson: Lesson) -> Lesson:
        """Return a lesson without secrets; one that had some has another name."""
        if not self._active:
            return lesson
        body = json.loads(lesson.body) if lesson.body else None
        kept = self._value(body)
        return dataclasses.replace(
            lesson,
            statement=self.text(lesson.statement),
            value=self.text(lesson.value),
            reason=self.text(lesson.reason),
            body=lesson.body if kept == body else canonical_json(kept).decode(),
        )

    def _value(self, value: Any, name: str = "") -> Any:
        if isinstance(value, str):
            if name in _IDS or name.endswith("_id"):
                return value
            nested = _parsed(value)
            if nested is not None:
                kept = self._value(nested)
                if kept != nested:
                    value = json.dumps(kept, ensure_ascii=False)
            return self._named(self.text(value), name)
        if isinstance(value, list):
            return [self._value(item, name) for item in value]
        if isinstance(value, dict):
            return {self.text(key): self._value(item, key) for key, item in value.items()}
        return value

    def _named(self, text: str, name: str) -> str:
        """Replace a value that only the name of its field shows to be a secret."""
        if not name or not 3 <= len(text) <= 512 or '"' in text or "\\" in text or "\n" in text:
            return text
        before = f'"{name}": "'
        for item in find_secrets(f'{before}{text}"'):
            start, end = item.start - len(before), item.end - len(before)
            if start >= 0:
                return (
                    text[:start] + placeholder(item.kind, text[start:end], self._salt) + text[end:]
                )
        return text

    def _replaced(self, text: str) -> list[tuple[Found, str]]:
        if not self._active or self._known(text):
            return []
        found = replaced(text, self._salt)
        if not found:
            self._learn(text)
        return found

    def _known(self, text: str) -> bool:
        name = _name(text)
        if name in self._clean:
            self._clean.move_to_end(name)
            return True
        return False

    def _learn(self, text: str) -> None:
        self._clean[_name(text)] = None
        if len(self._clean) > _KNOWN:
            self._clean.popitem(last=False)


def _name(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


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
    """Return where a place of a text is after secrets were replaced; none is cut in two."""
    grown = 0
    for item, instead in found:
        if place <= item.start:
            break
        if place < item.end:
            return item.start + grown + len(instead)
        grown += len(instead) - (item.end - item.start)
    return place + grown
