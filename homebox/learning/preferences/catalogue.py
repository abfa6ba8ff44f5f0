"""The preferences that can be checked: their subjects, the values that are understood, the prompts.

The one idea: a preference is a subject, a value and a check; the value is free text, of which only
the words that matter are read. Invariant: a value that is not understood has no check, and then
nothing is learned from it by style. Prompts of the tier `known` are left to the exam.
"""

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha256
from importlib.resources import files

from homebox.language.preferences import PREFERENCES
from homebox.learning.preferences import checks
from homebox.learning.preferences.checks import Check
from homebox.memory.lessons import Lesson

TRAIN, KNOWN = "train", "known"
LEARNED_FROM = 16  # prompts; the others of a group are for the exam
ASKED = 8

_NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "a single": 1, "a": 1}
_COUNT = r"(\d+|one|two|three|four|five|a single|a)"


@dataclass(frozen=True)
class Style:
    """One subject: which check a value asks for, and the group of prompts that show it.

    `always` says that it concerns every answer, not only those of its group.
    """

    key: str
    read: Callable[[str], Check | None]
    group: str = "general"
    always: bool = True

    @cached_property
    def _ranked(self) -> list[str]:
        return sorted(
            prompts(self.group),
            key=lambda prompt: sha256(f"{self.key}|{prompt}".encode()).digest(),
        )

    def prompts(self, tier: str) -> list[str]:
        """List the prompts of a tier, `train` or `known`."""
        ranked = self._ranked
        return ranked[:LEARNED_FROM] if tier == TRAIN else ranked[LEARNED_FROM:][:ASKED]


@dataclass(frozen=True)
class Checkable:
    """A preference of the owner with its check; `lessons` are the hashes of what told it."""

    style: Style
    check: Check
    value: str
    statements: tuple[str, ...]
    lessons: tuple[str, ...]

    @property
    def key(self) -> str:
        """The subject."""
        return self.style.key

    @property
    def name(self) -> str:
        """What samples are named by: the lessons, whatever their order."""
        return sha256("\n".join(self.lessons).encode()).hexdigest()

    def prompts(self, tier: str) -> list[str]:
        """List the prompts of a tier, `train` or `known`."""
        return self.style.prompts(tier)

    def passes(self, answer: str) -> bool:
        """Tell whether an answer to one of the prompts shows the preference."""
        return self.check.kept(answer)

    def minds(self, answer: str) -> bool:
        """Tell whether an answer to anything goes against the preference."""
        return self.style.always and self.check.minded(answer)


def checkable(lessons: tuple[Lesson, ...]) -> Checkable | None:
    """Return the preference that lessons of one subject tell, if there is one and it is clear."""
    values = sorted({lesson.value for lesson in lessons})
    if len(values) != 1:
        return None
    style = STYLES.get(lessons[0].subject.strip().casefold())
    check = style.read(values[0]) if style is not None else None
    if style is None or check is None:
        return None
    statements = tuple(sorted({lesson.statement for lesson in lessons}))
    return Checkable(
        style, check, values[0], statements, tuple(sorted(lesson.hash for lesson in lessons))
    )


@cache
def prompts(group: str) -> tuple[str, ...]:
    """Return the prompts of a group: those of the language room, or of prompts.toml."""
    if group in PREFERENCES:
        return PREFERENCES[group].asked
    text = files(__package__).joinpath("prompts.toml").read_text(encoding="utf-8")
    return tuple(tomllib.loads(text)[group])


def _has(value: str, pattern: str) -> bool:
    return re.search(rf"\b(?:{pattern})", value, re.IGNORECASE) is not None


_NONE = r"no\b|none|without|never|not?\b|don't|avoid|off\b|plain"


def _length(value: str) -> Check | None:
    limit = re.search(rf"\b{_COUNT} (word|sentence|line|paragraph)s?\b", value, re.IGNORECASE)
    if limit and limit[2].casefold() != "paragraph":
        known = limit[1].casefold()
        count = int(known) if known.isdigit() else _NUMBERS[known]
        if limit[2].casefold() == "word":
            return checks.at_most_words(count)
        return checks.at_most_sentences(count)
    if _has(value, r"short|brief|concise|terse|to the point|succinct|few words"):
        return checks.at_most_words(60)
    if _has(value, r"long|detail|thorough|in depth|elaborate|full"):
        return checks.at_least_words(80)
    return None


def _lists(value: str) -> Check | None:
    if _has(value, _NONE):
        return checks.NO_LISTS
    if _has(value, "number"):
        return checks.NUMBERED_LISTS
    return checks.BULLETS if _has(value, "bullet|list|points") else None


def _spelling(value: str) -> Check | None:
    if _has(value, "brit|uk|english english|commonwealth"):
        return checks.BRITISH_SPELLING
    return checks.AMERICAN_SPELLING if _has(value, "americ|us\\b|u.s") else None


def _emojis(value: str) -> Check | None:
    if _has(value, _NONE):
        return checks.NO_EMOJIS
    return checks.EMOJIS if _has(value, "emoji|yes|some|always|one|use|with|many") else None


def _clock(value: str) -> Check | None:
    if _has(value, "24|twenty-?four|military"):
        return checks.CLOCK_24
    return checks.CLOCK_12 if _has(value, "12|twelve|am|a\\.m") else None


def _units(value: str) -> Check | None:
    if _has(value, "metric|si\\b|celsius|kilomet|met(?:er|re)|kilo|gram|litre|liter"):
        return checks.METRIC
    return checks.IMPERIAL if _has(value, "imperial|us\\b|miles|fahrenheit|feet|pounds") else None


def _letter_case(value: str) -> Check | None:
    if _has(value, "lower|small"):
        return checks.LOWER_CASE
    return checks.UPPER_CASE if _has(value, "upper|capital|caps") else None


def _tone(value: str) -> Check | None:
    if _has(value, "informal|casual|relaxed|chatty"):
        return checks.INFORMAL
    return checks.FORMAL if _has(value, "formal") else None


def _dates(value: str) -> Check | None:
    if _has(value, r"iso|\d{4}-\d\d-\d\d|y{4}-m"):
        return checks.ISO_DATES
    if _has(value, "day (?:first|before)|european|british"):
        return checks.DAY_FIRST
    return checks.MONTH_FIRST if _has(value, "month (?:first|before)|americ|us\\b") else None


def _indentation(value: str) -> Check | None:
    if _has(value, "tab"):
        return checks.indentation("\t")
    found = re.search(r"\b(2|two|3|three|4|four|8|eight)\b", value, re.IGNORECASE)
    if found is None:
        return None
    word = found[1].casefold()
    return checks.indentation(" " * int({**_NUMBERS, "eight": 8}.get(word, 0) or word))


def _money(value: str) -> Check | None:
    for name, words in (("euros", "eur"), ("dollars", "dollar|usd"), ("pounds", "pound|gbp")):
        if _has(value, words) or {"euros": "€", "dollars": "$", "pounds": "£"}[name] in value:
            return checks.currency(name)
    return None


def _words(make: Callable[[str], Check]) -> Callable[[str], Check | None]:
    """Read a value that is itself what is to be said."""

    def read(value: str) -> Check | None:
        text = value.strip().strip("\"'\u201c\u201d.!")
        return make(text) if text else None

    return read


def _not_wanted(check: Check) -> Callable[[str], Check | None]:
    """Read a value that says that something is not wanted."""
    return lambda value: check if _has(value, _NONE) else None


_ALL = (
    Style("answer length", _length),
    Style("lists", _lists, "lists"),
    Style("spelling", _spelling, "spelling"),
    Style("emojis", _emojis),
    Style("exclamation marks", _not_wanted(checks.NO_EXCLAMATION)),
    Style("headings", _not_wanted(checks.NO_HEADINGS), "lists"),
    Style("markdown", _not_wanted(checks.NO_MARKDOWN), "lists"),
    Style("apologies", _not_wanted(checks.NO_APOLOGY), "complaints"),
    Style("closing question", _not_wanted(checks.NO_CLOSING_QUESTION)),
    Style("begin with the answer", lambda value: checks.ANSWER_FIRST),
    Style("greeting", _words(checks.begins_with)),
    Style("sign-off", _words(checks.ends_with)),
    Style("letter case", _letter_case),
    Style("tone", _tone),
    Style("answer language", lambda value: checks.language(value.split()[0]) if value else None),
    Style("time format", _clock, "times"),
    Style("date format", _dates, "dates"),
    Style("units", _units, "measures"),
    Style("currency", _money, "money"),
    Style("code indentation", _indentation, "code"),
    Style("programming language", _words(checks.code_in), "code without a language"),
    Style("what to call me", _words(checks.mentions), "what to call me", always=False),
    Style("how to say goodbye", _words(checks.mentions), "how to say goodbye", always=False),
    Style("how to answer thanks", _words(checks.mentions), "how to answer thanks", always=False),
)
STYLES: dict[str, Style] = {style.key: style for style in _ALL}
