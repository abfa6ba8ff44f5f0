"""Where else words stand that are to be forgotten: answers, questions, prompts of other turns.

The one idea: a turn repeats what is forgotten if it shows a message of the owner's again in the
same conversation, or says, anywhere, the sentence of a lesson or the value of a fact, word for
word. Invariant: words are compared whole and without their case, so "tea" is in no "teacher".
"""

import re
from collections.abc import Iterable

from homebox.memory.lessons import Lesson
from homebox.memory.turns import Turn

LEAST = 3  # characters of a value that is looked for; shorter ones are in every text
_WORD = re.compile(r"\w+")


class Words:
    """The words of some lessons, and of the turns that are `told_in`."""

    def __init__(self, lessons: Iterable[Lesson]) -> None:
        phrases = {phrase for lesson in lessons for phrase in _phrases(lesson)}
        self._phrases = sorted(f" {phrase} " for phrase in phrases)
        self._said: dict[str, set[str]] = {}  # what the owner said, by conversation
        self._known: dict[str, bool] = {}  # texts that were looked through: prompts repeat

    def told_in(self, turn: Turn) -> None:
        """Count what the owner says in a turn among the words."""
        said = (item.content for item in turn.messages if item.role == "user")
        self._said.setdefault(turn.conversation, set()).update(text for text in said if text)

    def stand_in(self, turn: Turn) -> bool:
        """Say whether a turn holds the words."""
        said = self._said.get(turn.conversation, ())
        if any(item.content in said for item in turn.prompt):
            return True
        return any(self._stand_in(item.content) for item in (*turn.messages, *turn.prompt))

    def _stand_in(self, text: str) -> bool:
        if text not in self._known:
            plain = f" {_plain(text)} "
            self._known[text] = any(phrase in plain for phrase in self._phrases)
        return self._known[text]


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
