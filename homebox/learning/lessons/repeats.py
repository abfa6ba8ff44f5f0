"""Where else words stand that are to be forgotten: answers, questions, prompts of other turns.

The one idea: a turn repeats what is forgotten if it shows a message of the owner's again in the
same conversation, or says, anywhere, the sentence of a lesson or the value of a fact, word for
word. Invariant: words are compared whole and without their case, so "tea" is in no "teacher".
"""

import re
from collections.abc import Collection, Iterable

from homebox.memory.ledger import Ledger
from homebox.memory.lessons import Lesson

LEAST = 3  # characters of a value that is looked for; shorter ones are in every text
_WORD = re.compile(r"\w+")


def repeated(ledger: Ledger, gone: Collection[str], lost: Iterable[Lesson]) -> tuple[str, ...]:
    """List turns, but those `gone`, that hold what these said or `lost` lessons say, in order."""
    found: set[str] = set()
    for turn in ledger.some_turns(gone):
        for message in turn.messages:
            if message.role == "user" and message.content:
                found.update(ledger.showing(turn.conversation, message.content))
    phrases = {phrase for lesson in lost for phrase in _phrases(lesson)}
    if phrases:
        spaced = sorted(f" {phrase} " for phrase in phrases)

        def fits(text: str) -> bool:
            plain = f" {_plain(text)} "
            return any(phrase in plain for phrase in spaced)

        # Each phrase is where its longest word is.
        words = {max(phrase.split(), key=len) for phrase in phrases}
        found.update(ledger.holding(words, fits))
    found.difference_update(gone)
    return tuple(turn.id for turn in ledger.outline() if turn.id in found) if found else ()


def _phrases(lesson: Lesson) -> list[str]:
    """Return what of a lesson tells it apart: its sentence, and the value if it is a fact."""
    if lesson.body:
        return []  # the turn that it shows is the one that told it
    found = [_plain(lesson.statement)]
    value = _plain(lesson.value)
    if lesson.kind == "fact" and len(value) >= LEAST:
        found.append(value)
    return [phrase for phrase in found if phrase]


def _plain(text: str) -> str:
    return " ".join(_WORD.findall(text.casefold()))
