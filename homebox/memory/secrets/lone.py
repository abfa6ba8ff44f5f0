"""Which numbers of a sentence are codes: those that count nothing and that nothing else owns.

The one idea: beside a topic such as "gate code" a number is secret if a small word says it or it
stands right behind the topic, unless a room, an order or a year is what it numbers. Invariant: of a
topic's clause some 150 characters and eight numbers at most are looked at.
"""

import re
from collections.abc import Iterator
from itertools import islice

from homebox.memory.secrets.cues import Check
from homebox.memory.secrets.view import Span
from homebox.memory.secrets.vocabulary import KNOWN_CODE

# A number as codes are written: alone, in groups, digit by digit, in words.
_DIGIT = r"(?:zero|oh|one|two|three|four|five|six|seven|eight|nine)"
_NUMBER = (
    r"(?:[A-Z]-)?#?\d{4,8}#?|\d{2,4}(?:[ -]\d{2,4}){1,3}|\d(?:[ -]\d){3,7}"
    rf"|{_DIGIT}(?:[ ,-]{{1,2}}{_DIGIT}){{3,7}}"
)
# Behind a number that counts nothing, its sentence ends or goes on with a small word.
ALONE = (
    r"(?![\w%€$£°@]|[.,:/]\d|-\w)(?=[\"'`)*#]{0,3}(?:[.,;:!?)]|[ \t]*(?:[\r\n]|\Z)|[ ][-–—(]|[ ]"
    r"(?:and|but|so|or|where|when|to|then|it|it's|its|is|if|again|please|pls|which|now|right|thx"
    r"|thanks|btw|ok|expires?|as|because|lol|left|before|after|first|asap|by|did|didn't|does"
    r"|doesn't|do|into|what|who|why|how|i|you|we|they|he|she|for|on|in|at|from|until|till|works?"
    r"|enter|hash|pound|star|does|came|just|wants|today|this|the|my|your)\b))"
)
# What stands right before a code: a verb that says it, one that enters it, a mark.
_IS = (
    r"(?:\b(?:is|are|was|were|be|being|its|it['’]?s|says?|said|reads?|shows?|gives?|with|using|use"
    r"|uses|try|tried|enter|entered|dial|press|type|type in|punch in|key in|put in|buzz|got|me|us"
    r"|her|him|them|you|codes?|wants?|pattern|gym|pin|tan|puk|otp|passcode|now|still|then|to|as|came|sent|up|thing|one"
    r"|number|guard|lock|combo|combination|intercom|keypad|lockbox|key safe|padlock|panel|safe"
    r"|from \w+|again)[ ]{1,2}|(?<=\w)['’]s[ ]|[:=,→–—-][ ]{0,2}|\A|\n)[\"'`(]?\Z"
)
_CODE = re.compile(
    rf"(?<![\w.,:/#&+£€$-])(?<!\w[ ]['’])(?P<value>{_NUMBER}|\d{{3}}){ALONE}", re.IGNORECASE
)
_BEFORE = re.compile(_IS, re.IGNORECASE)
_BREAK = re.compile(r"[.!?][ ]+(?=\S)(?![Ii]t(?:['’]?s| is)\b|[Tt]hat['’]?s\b)|[(){}<>\[\]=\"|;\n]")
_LAST_WORD = re.compile(r"[\w-]{1,24}[ ]\Z")
_DIGITS = re.compile("[0-9]")
_CLOSE = 32  # characters right before a number that say what it is
_MOST_CODES = 8  # numbers of a clause that are looked at
_AHEAD, _BACK = 90, 60  # characters of its sentence behind and before a topic
# Words that own a number, or count or date by it.
_COUNTED = re.compile(
    r"\b(?:room|order|page|line|flight|chapter|ticket|invoice|bus|tram|train|gate|platform|seat|table"
    r"|version|port|year|since|until|till|about|around|over|under|nearly|almost|cost|costs|paid|row"
    r"|lines?|error|status|zip|postcode|house|street|model|locker|phone|tel|call|mobile|desk)"
    r"(?:[ ](?:number|no\.?|code|is|was|nr))*[ :#]{1,3}\Z",
    re.IGNORECASE,
)
# What lies between a number and the topic that follows it.
_JOINED = re.compile(r"[^\n.!?;:(){}<>=\"]{0,48}", re.IGNORECASE)
_ROUND = re.compile(r"\d*00\Z|(?:19|20)\d\d\Z")
_ASKED = re.compile(r"pin|code|unlock|combo")
_NAMED_CODE = re.compile(r"[ ]codes?\b")


def beside(least: int) -> Check:
    """Return the check of a topic whose codes have so many digits at least."""

    def check(text: str, match: re.Match[str]) -> Iterator[Span]:
        place = match.start()
        if _within(text, match):
            return
        begin, end = max(0, place - _BACK), min(len(text), place + _AHEAD)
        topic = match.group().lower()
        if not topic.startswith("pin") and _DIGITS.search(text, begin, end) is None:
            return
        begin, end = _clause(text, begin, match, end)
        if topic.startswith(" code") and not _secret_code(text, begin, place):
            return
        codes = _CODE.finditer(text, begin, min(len(text), end + 40))
        for code in islice(codes, _MOST_CODES):
            if code.end() > end:
                break
            if _is_code(text, begin, match, code, least):
                yield code.span("value")

    return check


def _within(text: str, topic: re.Match[str]) -> bool:
    """Say whether what looks like a topic is part of a word or name."""
    start, after = topic.start(), text[topic.end() : topic.end() + 1]
    if after.isalnum():
        return True
    before = text[start - 1] if start else ""
    return text[start].isalnum() and (before.isalnum() or before in tuple("_-\"'"))


def _clause(text: str, begin: int, topic: re.Match[str], end: int) -> tuple[int, int]:
    """Return where the clause of a topic begins and ends, within bounds."""
    stop = _BREAK.search(text, topic.end(), end)
    for each in _BREAK.finditer(text, begin, topic.start()):
        begin = each.end()
    return begin, stop.start() if stop else end


def _secret_code(text: str, begin: int, place: int) -> bool:
    """Say whether "code" means one that opens something, by the words before it."""
    before = text[max(begin, place - 30) : place].rstrip()
    return KNOWN_CODE.search(before) is None or before.lower().endswith("the")


def _is_code(text: str, begin: int, topic: re.Match[str], code: re.Match[str], least: int) -> bool:
    digits = sum(c.isdigit() for c in code["value"])
    if digits and digits < least:
        return False
    before = text[begin : code.start()]
    near = before[-_CLOSE:]
    word = _LAST_WORD.search(near)
    named = word is not None and topic.re.fullmatch(word.group().rstrip()) is not None
    if not (named or _BEFORE.search(near)) or _COUNTED.search(near):
        return False
    if code.start() < topic.start() and not _JOINED.fullmatch(text, code.end(), topic.start()):
        return False
    other = _NAMED_CODE.search(before)  # "the error code they sent me"
    if other and not _secret_code(text, begin, begin + other.start()):
        return False
    told = text[begin : code.end()].lower()
    return not (_ROUND.fullmatch(code["value"]) and not _ASKED.search(told))
