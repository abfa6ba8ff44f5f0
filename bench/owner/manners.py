"""What an owner wants of all answers, each with a program that checks it: for models that can.

The built-in model knows no such manners; it has the three preferences of its language room. The
one idea: a manner is a sentence that the owner types and a subject whose check homebox ships, so
adherence is counted, not judged. Invariant: whether the rules find the sentence plays no part here.
"""

from dataclasses import dataclass

from homebox.language.dice import Dice
from homebox.learning.exam.questions import Question
from homebox.learning.preferences import Checkable, checkable
from homebox.memory.lessons import Lesson

COUNT = 8
PROMPTS = 3  # for each
WORDS = 160  # tokens of an answer

_MANNERS = (
    ("answer length", "2 sentences", "Please keep your answers to at most two sentences."),
    ("emojis", "none", "Please never use emojis."),
    ("exclamation marks", "none", "Please don't use exclamation marks."),
    ("spelling", "British", "I prefer British spelling."),
    ("apologies", "none", "Never apologise."),
    ("headings", "none", "Don't use headings."),
    ("units", "metric", "Please use metric units."),
    ("time format", "24 hours", "I prefer the 24-hour clock."),
    ("currency", "euros", "Always give prices in euros."),
    ("lists", "numbered", "I prefer numbered lists."),
    ("markdown", "none", "Don't use markdown."),
)


@dataclass(frozen=True)
class Manner:
    """One manner and the night before which it is told."""

    sentence: str
    check: Checkable
    night: int

    def questions(self) -> list[Question]:
        """Return questions whose answers show it."""
        return [
            Question(
                "preference",
                [{"role": "user", "content": prompt}],
                "",
                self.check.key,
                judge=self.check.passes,
                most=WORDS,
            )
            for prompt in self.check.prompts("known")[:PROMPTS]
        ]


def manners(dice: Dice, nights: int) -> tuple[Manner, ...]:
    """Draw eight manners, told one after the other over the nights."""
    found = []
    for number, (subject, value, sentence) in enumerate(dice.sample(_MANNERS, COUNT)):
        check = checkable((Lesson("preference", subject, sentence, value),))
        if check is None:
            raise ValueError(f"no program checks {subject!r}: {value!r}")
        found.append(Manner(sentence, check, 1 + number * nights // COUNT))
    return tuple(found)
