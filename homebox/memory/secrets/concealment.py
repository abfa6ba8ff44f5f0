"""What a turn, a lesson or an opinion is without the secrets in it, before it is written.

The one idea: a secret shows where it is told, and is then known where it is only repeated: in the
answer, in a later history, in the arguments of a tool. Invariant: what is written holds no secret
that `redaction` finds, nor a telling part of one that was found in the same conversation, and a
message without one is written as it is, to the byte.
"""

import dataclasses
import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Sequence

from homebox.memory.lessons import Lesson
from homebox.memory.secrets.echoes import Echoes
from homebox.memory.secrets.finding import PLACEHOLDER, SIGN, find_secrets
from homebox.memory.secrets.redaction import digest_of, placeholder, replaced
from homebox.memory.secrets.replacing import Replacer
from homebox.memory.secrets.view import Found
from homebox.memory.spans import with_spans
from homebox.memory.store import canonical_json
from homebox.memory.turns import Message, Turn

_KNOWN = 4096  # texts of which it is known that nothing is to be replaced
_TALKS = 512  # conversations of which it is known which secrets were told in them
_PLAIN = re.compile(r"[A-Za-z]?[a-z]+|\d{1,3}")
_TOLD = 128  # secrets of one conversation that are remembered, the last ones told


class Concealer(Replacer):
    """Replaces secrets, remembering texts that have none: prompts repeat with every request.

    Secrets of the last conversations are kept in memory alone. Not safe for several threads; the
    ledger's writer has it.
    """

    def __init__(self, salt: bytes, active: bool = True) -> None:
        self._salt = salt
        self._active = active
        self._clean: OrderedDict[bytes, None] = OrderedDict()
        self._talks: OrderedDict[tuple[str, str], dict[str, str]] = OrderedDict()
        self._told: dict[str, str] = {}  # the secrets of the turn that is looked at, and their kind
        self._marked: set[str] = set()  # digests of secrets that were replaced before
        self._answered = False  # whether an answer is looked at

    def turn(self, turn: Turn) -> Turn:
        """Return a turn without the secrets that show themselves, and remember these."""
        if not self._active:
            return dataclasses.replace(
                turn,
                messages=tuple(map(with_spans, turn.messages)),
                prompt=tuple(map(with_spans, turn.prompt)),
            )
        self._told = {}
        self._marked = {
            mark
            for each in turn.prompt
            if SIGN in each.content
            for mark in PLACEHOLDER.findall(each.content)
        }
        kept = super().turn(turn)
        self._remember(turn)
        return kept

    def repeated(self, turn: Turn) -> Turn:
        """Return a turn without what repeats a secret of its conversation, whole or in part.

        The turn is one that `turn` returned just before.
        """
        if not self._active:
            return turn
        known = {digest_of(secret, self._salt) for secret in self._told}
        echoes = Echoes(self._told, self._salt, self._marked - known)
        return echoes.turn(turn) if echoes else turn

    def message(self, message: Message) -> Message:
        """Return a message without secrets; its pieces and spans are counted anew."""
        self._answered = message.role == "assistant"
        kept = super().message(message)
        self._answered = False
        return kept

    def json(self, text: str) -> str:
        """Return the text of a JSON object without secrets in its values."""
        kept = super().json(text)
        if text and kept == text:
            self._learn(text)
        return kept

    def lesson(self, lesson: Lesson) -> Lesson:
        """Return a lesson without secrets; one that had some has another name."""
        if not self._active:
            return lesson
        body = json.loads(lesson.body) if lesson.body else None
        kept = self.value(body)
        return dataclasses.replace(
            lesson,
            statement=self.text(lesson.statement),
            value=self.text(lesson.value),
            reason=self.text(lesson.reason),
            body=lesson.body if kept == body else canonical_json(kept).decode(),
        )

    def found(self, text: str) -> Sequence[tuple[Found, str]]:
        """Return the secrets of a text, each with what stands in its place."""
        if self.known(text):
            return []
        found = replaced(text, self._salt)
        if not found:
            self._learn(text)
        for item, _ in found:
            self._hear(text[item.start : item.end], item.kind)
        return found

    def named(self, text: str, name: str) -> str:
        """Replace a value that only the name of its field shows to be a secret."""
        if not name or not 3 <= len(text) <= 512 or '"' in text or "\\" in text or "\n" in text:
            return text
        before = f'"{name}": "'
        for item in find_secrets(f'{before}{text}"') if self._active else ():
            start, end = item.start - len(before), item.end - len(before)
            if start >= 0:
                self._hear(text[start:end], item.kind)
                return (
                    text[:start] + placeholder(item.kind, text[start:end], self._salt) + text[end:]
                )
        return text

    def known(self, text: str) -> bool:
        """Say whether it is known of a text that it has no secrets."""
        if not self._active:
            return True
        name = _name(text)
        if name in self._clean:
            self._clean.move_to_end(name)
            return True
        return False

    def _learn(self, text: str) -> None:
        self._clean[_name(text)] = None
        if len(self._clean) > _KNOWN:
            self._clean.popitem(last=False)

    def _hear(self, secret: str, kind: str) -> None:
        if self._answered and _PLAIN.fullmatch(secret):
            return  # the model says "your password is wrong" and the like
        self._told.pop(secret, None)
        self._told[secret] = kind
        if len(self._told) > _TOLD:
            del self._told[next(iter(self._told))]

    def _remember(self, turn: Turn) -> None:
        """Add to the turn's secrets those of its conversation, and the other way round."""
        if not turn.conversation:
            return
        talk = (turn.owner, turn.conversation)
        new, self._told = self._told, dict(self._talks.get(talk, {}))
        for secret, kind in new.items():
            self._hear(secret, kind)
        if self._told:
            self._talks[talk] = dict(self._told)
            self._talks.move_to_end(talk)
            if len(self._talks) > _TALKS:
                self._talks.popitem(last=False)


def _name(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
