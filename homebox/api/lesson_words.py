"""Which lessons a few words speak of: by the words that both have, rare ones counting most.

The one idea: a lesson is found by what it says and by the questions that it answers, without any
model, so that the same words find the same lessons on every machine. Invariant: equal lessons and
words give equal scores, whatever was asked before.
"""

import math
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from homebox.language.preferences import PREFERENCES
from homebox.language.relations import RELATIONS
from homebox.memory.lessons import Lesson

# Words that are in every sentence and tell nothing apart.
COMMON = frozenset(
    "a about again all also always am an and any are as ask at be because been but by call called "
    "can could day did do does doing don for from give had has have he hello her here "
    "hey hi him his how i if in is it its just know let ll made make many may me mean might "
    "more much must my no not now of off ok okay on one only or other "
    "our out please re remember s say see shall she should so some still t take tell than "
    "thank thanks that the their them then there these they thing things this those to told "
    "too two us use ve very want was we were what when where which who whom whose why will with "
    "would write yes you your".split()
)
FEW = 8  # lessons that may have a word in common before it tells nothing apart
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
    if relation is None:
        return frozenset()
    return words_of(" ".join(relation.questions(None, "train") + relation.questions(None, "known")))


class Relevance:
    """How much lessons have to do with some words: an index, made once for a list of lessons."""

    def __init__(self, lessons: Sequence[Lesson]) -> None:
        self._count = len(lessons)
        found: dict[str, list[tuple[int, float]]] = {}
        for number, lesson in enumerate(lessons):
            said = said_words(lesson)
            for word in said:
                found.setdefault(word, []).append((number, 1.0))
            for word in asked_words(lesson.subject) - said:
                found.setdefault(word, []).append((number, ASKED))
        most = max(len(lessons) // 2, FEW)
        self._places = {word: places for word, places in found.items() if len(places) <= most}

    def ranked(self, words: frozenset[str]) -> list[int]:
        """Return the places of the lessons that have to do with words, first those that have most.

        Of equal ones that comes first which stands later in the list.
        """
        scores: dict[int, float] = {}
        for word in sorted(words):  # sums of floats depend on their order
            places = self._places.get(word, ())
            weight = math.log(1 + self._count / len(places)) if places else 0.0
            for number, share in places:
                scores[number] = scores.get(number, 0.0) + share * weight
        return sorted(scores, key=lambda number: (-scores[number], -number))


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
