"""Which lessons a few words speak of: by the words that both have, rare ones counting most.

The one idea: a lesson is found by what it says and by the questions that it answers, without any
model, so that the same words find the same lessons on every machine. Invariant: equal lessons and
words give equal scores, whatever was asked before.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

from homebox.language.preferences import PREFERENCES
from homebox.language.relations import RELATIONS
from homebox.memory.lessons import Lesson

# Words that are in every sentence and tell nothing apart.
COMMON = frozenset(
    "a about again all also always am an and any are as ask at be because been but by call called "
    "can could day did do does doing don for from get give go good had has have he hello her here "
    "hey hi him his how i if in is it its just know let like ll made make many may me mean might "
    "more much must my name named need never no not now of off ok okay old on one only or other "
    "our out over please re remember s say see shall she should so some still t take tell than "
    "thank thanks that the their them then there these they thing things this those time to told "
    "too two up us use ve very want was we were what when where which who whom whose why will with "
    "would write yes you your".split()
)
ASKED = 0.5  # what a word counts that is only in a question about the lesson
_WORD = re.compile(r"\w+")


def words_of(text: str) -> frozenset[str]:
    """Return the words of a text that tell something, in one spelling each."""
    return frozenset(_stem(word) for word in _WORD.findall(text.casefold()) if word not in COMMON)


@lru_cache(maxsize=16_384)
def said_words(lesson: Lesson) -> frozenset[str]:
    """Return the words of what a lesson says."""
    return words_of(f"{lesson.subject} {lesson.statement} {lesson.value}")


@lru_cache(maxsize=1_024)
def asked_words(subject: str) -> frozenset[str]:
    """Return the words of the questions that are usual about a subject, if it is a known one."""
    known = PREFERENCES.get(subject)
    relation = RELATIONS.get(subject)
    if known is not None:
        return words_of(" ".join(known.questions("train")))
    return words_of(" ".join(relation.questions(None, "train"))) if relation else frozenset()


class Relevance:
    """How much lessons have to do with some words."""

    def __init__(self, lessons: Sequence[Lesson]) -> None:
        counts: Counter[str] = Counter()
        for lesson in lessons:
            counts.update(said_words(lesson))
        self._weights = {word: math.log(1 + len(lessons) / n) for word, n in counts.items()}
        self._rare = math.log(1 + max(len(lessons), 1))

    def of(self, lesson: Lesson, words: frozenset[str]) -> float:
        """Return how much; 0 if they have nothing in common."""
        said = said_words(lesson)
        # Added in one order: sums of floats depend on it.
        score = sum(self._weights.get(word, self._rare) for word in sorted(words & said))
        asked = words & asked_words(lesson.subject) - said
        return score + ASKED * sum(self._weights.get(word, self._rare) for word in sorted(asked))


def fitting(lessons: Iterable[Lesson], text: str) -> list[Lesson]:
    """Return the lessons that a text names: by hash, word for word, or by all its words."""
    found = list(lessons)
    name = text.strip().casefold()
    by_hash = [lesson for lesson in found if len(name) >= 8 and lesson.hash.startswith(name)]
    plain = [lesson for lesson in found if name and name in _names(lesson)]
    if by_hash or plain:
        return by_hash or plain
    words = words_of(text)
    return [lesson for lesson in found if words and words <= said_words(lesson)]


def _names(lesson: Lesson) -> set[str]:
    names = (lesson.statement, lesson.statement.rstrip("."), lesson.subject, f"my {lesson.subject}")
    return {each.casefold() for each in names}


def _stem(word: str) -> str:
    """Let "dogs" and "dog" be one word; nothing cleverer, as languages differ."""
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        return word[:-1]
    return word
