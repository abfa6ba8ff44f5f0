"""Tells of an answer whether it keeps to a preference, by its letters alone.

The one idea: a check has two sides. `kept` needs evidence (times written with 24 hours), `minded`
needs a plain breach ("5 pm"); most answers show neither. Invariant: no answer is both.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from homebox.learning.preferences.spellings import AMERICAN, BRITISH

Judge = Callable[[str], bool]


@dataclass(frozen=True)
class Check:
    """`kept(answer)`: the answer shows the preference; `minded(answer)`: it goes against it."""

    kept: Judge
    minded: Judge


_CODE = re.compile(r"```(\w*)[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
_BULLET = re.compile(r"^\s*[-*\u2022+] +\S", re.MULTILINE)
_NUMBERED = re.compile(r"^\s*\d+[.)] +\S", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6} |^\*\*[^*\n]+\*\*:?\s*$", re.MULTILINE)
_MARKDOWN = re.compile(r"^#{1,6} |\*\*\S|^\s*[-*+] +\S|`|^\|.*\|", re.MULTILINE)
_EMOJI = re.compile(
    "[\U0001f300-\U0001faff\U0001f1e6-\U0001f1ff\u2600-\u27bf\u2b50\u2b55\u231a\u231b\u23e9-\u23f3]"
)
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*|\d[\d.,:]*")
_SENTENCE_END = re.compile(r"[.!?\u2026](?=[\s\"')\]]|$)")
_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|Mr|Mrs|Dr|etc|vs|No(?=\. ?\d)|St|a\.m|p\.m)\.", re.I)
_FILLER = re.compile(
    r"\W*(sure|certainly|of course|absolutely|great question|good question|great|okay|ok|well"
    r"|yes,? of course|i'd be happy|i would be happy|i'm happy|happy to"
    r"|thank you for|thanks for|as an ai"
    r"|here is|here's|here are|let's|let me|that's a|that is a|i understand|definitely)\b",
    re.IGNORECASE,
)
_SORRY = re.compile(
    r"\b(sorry|apolog(?:y|ies|i[sz]e\w*)|my (?:mistake|bad)|forgive me|regret)\b", re.IGNORECASE
)
_TIME_24 = re.compile(r"\b(?:[01]?\d|2[0-3])[:.h][0-5]\d\b(?! ?[ap]\.?m\b)", re.IGNORECASE)
_AFTERNOON = re.compile(r"\b(?:1[3-9]|2[0-3])[:.h][0-5]\d\b")
_TIME_12 = re.compile(r"\b\d{1,2}(?:[:.][0-5]\d)? ?[ap]\.?m\b", re.IGNORECASE)
_METRIC = re.compile(
    r"\d[\d,. ]*(?:°? ?C|km/h|km|cm|mm|m|kg|g|ml|l|litres?|liters?|met(?:re|er)s?"
    r"|kilomet(?:re|er)s?"
    r"|centimet(?:re|er)s?|millimet(?:re|er)s?|kilograms?|kilos?|grams?|millilit(?:re|er)s?"
    r"|degrees celsius)\b"
)
_IMPERIAL = re.compile(
    r"\d[\d,./ ]*(?:°? ?F|mph|miles?|mi|feet|foot|ft|inch(?:es)?|yards?|lbs?|pounds?|ounces?|oz"
    r"|gallons?|pints?|cups?|degrees fahrenheit)\b",
)
_ISO_DATE = re.compile(r"\b\d{4}-\d{2}-\d{2}\b")
_MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_DAY_FIRST = re.compile(rf"\b\d{{1,2}}(?:st|nd|rd|th)? (?:of )?{_MONTH}\b")
_MONTH_FIRST = re.compile(rf"\b{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?\b(?!\d)")
_DOTTED_DATE = re.compile(r"\b\d{1,2}\.\d{1,2}\.\d{4}\b")
_STOP_WORDS = {
    "english": "the and is of to in that it for with you are this",
    "german": "der die das und ist ein eine nicht zu den mit von sie auf für im",
    "french": "le la les et est un une des pas que pour dans vous du sur",
    "spanish": "el la los las y es un una de que para en no con por",
    "dutch": "de het een en is van niet dat op te met voor je zijn",
    "italian": "il la che di e un una per non è con del sono gli le",
    "portuguese": "o a os as e um uma de que para não com em do da",
}
_CURRENCY = {
    "euros": r"€|\bEUR\b|\beuros?\b",
    "dollars": r"\$|\bUSD\b|\bdollars?\b",
    "pounds": r"£|\bGBP\b|\bpounds?\b",
}


def words_in(text: str) -> int:
    """Count the words outside code."""
    return len(_WORD.findall(_CODE.sub(" ", text)))


def sentences_in(text: str) -> int:
    """Count the sentences; a text without an end is one, and so is every line that has none."""
    plain = _ABBREVIATION.sub("", _CODE.sub(" ", text))
    lines = [line for line in plain.splitlines() if line.strip()]
    return sum(max(1, len(_SENTENCE_END.findall(line.strip()))) for line in lines)


def at_most_words(limit: int) -> Check:
    """Check for a short answer."""
    return Check(lambda a: 0 < words_in(a) <= limit, lambda a: words_in(a) > limit)


def at_least_words(limit: int) -> Check:
    """Check for a long answer; one that is a little shorter is not minded."""
    return Check(lambda a: words_in(a) >= limit, lambda a: False)


def at_most_sentences(limit: int) -> Check:
    """Check for an answer of few sentences."""
    return Check(
        lambda a: bool(a.strip()) and sentences_in(a) <= limit, lambda a: sentences_in(a) > limit
    )


def _either(found: re.Pattern[str], other: re.Pattern[str]) -> Check:
    """Check that one form occurs and the other one does not."""
    return Check(
        lambda a: bool(found.search(a)) and not other.search(a), lambda a: bool(other.search(a))
    )


def _without(found: re.Pattern[str]) -> Check:
    """Check that something does not occur."""
    return Check(lambda a: bool(a.strip()) and not found.search(a), lambda a: bool(found.search(a)))


def _with(found: re.Pattern[str], least: int = 1) -> Check:
    """Check that something occurs; an answer without it is not minded."""
    return Check(lambda a: len(found.findall(a)) >= least, lambda a: False)


BULLETS = _with(_BULLET, 2)
NUMBERED_LISTS = _with(_NUMBERED, 2)
NO_LISTS = _without(re.compile(f"{_BULLET.pattern}|{_NUMBERED.pattern}", re.MULTILINE))
NO_HEADINGS = _without(_HEADING)
NO_MARKDOWN = _without(_MARKDOWN)
NO_EMOJIS = _without(_EMOJI)
EMOJIS = _with(_EMOJI)
NO_EXCLAMATION = _without(re.compile("!"))
NO_APOLOGY = _without(_SORRY)
CLOCK_24 = _either(_TIME_24, _TIME_12)
CLOCK_12 = _either(_TIME_12, _AFTERNOON)
METRIC = _either(_METRIC, _IMPERIAL)
IMPERIAL = _either(_IMPERIAL, _METRIC)
ISO_DATES = _either(
    _ISO_DATE,
    re.compile(f"{_DAY_FIRST.pattern}|{_MONTH_FIRST.pattern}|{_DOTTED_DATE.pattern}"),
)
DAY_FIRST = _either(_DAY_FIRST, re.compile(f"{_MONTH_FIRST.pattern}|{_ISO_DATE.pattern}"))
MONTH_FIRST = _either(_MONTH_FIRST, re.compile(f"{_DAY_FIRST.pattern}|{_ISO_DATE.pattern}"))


def _ends_asking(answer: str) -> bool:
    return answer.rstrip(" *_\n\"'").endswith("?")


NO_CLOSING_QUESTION = Check(lambda a: bool(a.strip()) and not _ends_asking(a), _ends_asking)


def _begins_idly(answer: str) -> bool:
    return bool(_FILLER.match(answer))


ANSWER_FIRST = Check(lambda a: bool(a.strip()) and not _begins_idly(a), _begins_idly)

_CONTRACTED = re.compile(
    r"\b\w+(?:n't|'(?:ll|re|ve|m|d))\b|\b(?:it|that|here|there|what|let)'s\b"
    r"|\b(?:gonna|wanna|gotta|yeah|yep|nope|hey|cool|awesome|stuff|kinda|guys)\b",
    re.IGNORECASE,
)


def _casual(answer: str) -> bool:
    return bool(_CONTRACTED.search(answer.replace("\u2019", "'")))


FORMAL = Check(lambda a: bool(a.strip()) and not _casual(a), _casual)
INFORMAL = Check(_casual, lambda a: False)


def _letters(answer: str) -> str:
    return "".join(letter for letter in _CODE.sub(" ", answer) if letter.isalpha())


LOWER_CASE = Check(
    lambda a: bool(_letters(a)) and _letters(a) == _letters(a).lower(),
    lambda a: _letters(a) != _letters(a).lower(),
)
UPPER_CASE = Check(
    lambda a: bool(_letters(a)) and _letters(a) == _letters(a).upper(),
    lambda a: _letters(a) != _letters(a).upper(),
)


def _spelled(words: frozenset[str], answer: str) -> bool:
    return not words.isdisjoint(_WORD.findall(answer.casefold()))


BRITISH_SPELLING = Check(
    lambda a: _spelled(BRITISH, a) and not _spelled(AMERICAN, a), lambda a: _spelled(AMERICAN, a)
)
AMERICAN_SPELLING = Check(
    lambda a: _spelled(AMERICAN, a) and not _spelled(BRITISH, a), lambda a: _spelled(BRITISH, a)
)


def mentions(text: str) -> Check:
    """Check that a name or a phrase occurs as a word."""
    found = re.compile(rf"(?<!\w){re.escape(text)}(?!\w)", re.IGNORECASE)
    return _with(found)


def begins_with(text: str) -> Check:
    """Check the first words."""
    wanted = _plain(text)
    return Check(lambda a: _plain(a).startswith(wanted), lambda a: False)


def ends_with(text: str) -> Check:
    """Check the last words; marks around them do not count."""
    wanted = _plain(text)
    return Check(lambda a: _plain(a).endswith(wanted), lambda a: False)


def _plain(text: str) -> str:
    return " ".join(_WORD.findall(text.casefold()))


def language(name: str) -> Check | None:
    """Check which language an answer is in, by its commonest words; None for an unknown one."""
    if name.casefold() not in _STOP_WORDS:
        return None

    def share(answer: str, known: str) -> int:
        common = set(known.split())
        return sum(word.casefold() in common for word in _WORD.findall(_CODE.sub(" ", answer)))

    def kept(answer: str) -> bool:
        scores = {lang: share(answer, known) for lang, known in _STOP_WORDS.items()}
        best = max(scores.values())
        winners = [lang for lang, score in scores.items() if score == best]
        return best > 0 and winners == [name.casefold()]

    def minded(answer: str) -> bool:
        scores = {lang: share(answer, known) for lang, known in _STOP_WORDS.items()}
        mine = scores.pop(name.casefold())
        return max(scores.values()) >= 3 + 2 * mine

    return Check(kept, minded)


def currency(name: str) -> Check | None:
    """Check which money an answer speaks of; None for an unknown one."""
    if name not in _CURRENCY:
        return None
    others = "|".join(form for other, form in _CURRENCY.items() if other != name)
    return _either(re.compile(_CURRENCY[name]), re.compile(others))


def indentation(unit: str) -> Check:
    """Check the smallest indentation of code in an answer: a tab, or some spaces."""

    def units(answer: str) -> set[str]:
        lines = [line for _, code in _CODE.findall(answer) for line in code.splitlines()]
        leads = [line[: len(line) - len(line.lstrip(" \t"))] for line in lines if line.strip()]
        leads = [lead for lead in leads if lead]
        return {min(leads, key=len)} if leads else set()

    def kept(answer: str) -> bool:
        return units(answer) == {unit}

    def minded(answer: str) -> bool:
        return bool(units(answer)) and units(answer) != {unit}

    return Check(kept, minded)


def code_in(name: str) -> Check:
    """Check the language that blocks of code are labelled with."""

    def labels(answer: str) -> set[str]:
        return {label.casefold() for label, _ in _CODE.findall(answer) if label}

    wanted = name.casefold()
    return Check(lambda a: wanted in labels(a), lambda a: bool(labels(a) - {wanted, "text"}))
