"""Which numbers of a sentence are codes: those that count nothing and that nothing else owns.

The one idea: beside a topic such as "gate code" a number is secret if a small word says it or it
stands right behind the topic, unless a room, an order or a year is what it numbers. Invariant: of a
topic's clause some 150 characters and eight numbers at most are looked at.
"""

import re
from collections.abc import Iterator

from homebox.memory.secrets.cues import Check
from homebox.memory.secrets.numerals import Numeral
from homebox.memory.secrets.view import Span, View
from homebox.memory.secrets.vocabulary import KNOWN_CODE

# What stands right before a code: a verb that says it, one that enters it, a mark.
_IS = (
    r"(?:\b(?:is|are|was|were|be|being|its|it['’]?s|says?|said|reads?|shows?|gives?|with|using|use"
    r"|uses|try|tried|enter|entered|dial|press|type|type in|punch in|key in|put in|buzz|got|me|us"
    r"|her|him|them|you|codes?|wants?|pattern|gym|pin|tan|puk|otp|passcode|now|still|then|to|as|came|sent|up|thing|one"
    r"|number|guard|lock|combo|combination|intercom|keypad|lockbox|key safe|padlock|panel|safe"
    r"|from \w+|again)[ ]{1,2}|(?<=\w)['’]s[ ]|[:=,→–—-][ ]{0,2}|\A|\n)[\"'`(]?\Z"
)
_BEFORE = re.compile(_IS, re.IGNORECASE)
_BREAK = re.compile(r"[.!?][ ]+(?=\S)(?![Ii]t(?:['’]?s| is)\b|[Tt]hat['’]?s\b)|[(){}<>\[\]=\"|;\n]")
# Without these no number is long enough.
_DIGITS = re.compile(r"[0-9]{2}|[0-9][ -][0-9]")
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
_ASKED = re.compile(r"pin|code|unlock|combo", re.IGNORECASE)
_NAMED_CODE = re.compile(r"[ ]codes?\b")


def beside(least: int) -> Check:
    """Return the check of a topic whose codes have so many digits at least."""

    def check(view: View, match: re.Match[str]) -> Iterator[Span]:
        text, place = view.text, match.start()
        if _within(text, match):
            return
        begin, end = max(0, place - _BACK), min(len(text), place + _AHEAD)
        topic = match.group().lower()
        # Those that are spelt in words are looked for beside this topic alone.
        if not topic.startswith("pin") and _DIGITS.search(text, begin, end) is None:
            return
        codes = view.numerals.between(begin, end)
        if not codes:
            return
        begin, end = _clause(text, begin, match, end)
        if topic.startswith(" code") and not _secret_code(text, begin, place):
            return
        taken = view.numerals.taken.setdefault(check, set())
        left = _MOST_CODES
        for code in codes:
            start = code.start
            if start < begin:
                continue
            if code.end > end or not left:
                return
            left -= 1
            if start in taken or 0 < code.digits < least:
                continue
            if _is_code(view, begin, match, code):
                taken.add(start)
                yield start, code.end

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
    if _BREAK.search(text, begin, end) is None:
        return begin, end
    stop = _BREAK.search(text, topic.end(), end)
    for each in _BREAK.finditer(text, begin, topic.start()):
        begin = each.end()
    return begin, stop.start() if stop else end


def _secret_code(text: str, begin: int, place: int) -> bool:
    """Say whether "code" means one that opens something, by the words before it."""
    before = text[max(begin, place - 30) : place].rstrip()
    return KNOWN_CODE.search(before) is None or before.lower().endswith("the")


def _is_code(view: View, begin: int, topic: re.Match[str], code: Numeral) -> bool:
    text, start = view.text, code.start
    if start < topic.start() and not _JOINED.fullmatch(text, code.end, topic.start()):
        return False
    length = min(_CLOSE, start - begin)
    judged = view.numerals.judged
    said = judged.get((start, length))
    if said is None:
        said = judged[start, length] = _is_said(text[start - length : start], topic.re)
    if not said:
        return False
    other = _NAMED_CODE.search(text, begin, start)  # "the error code they sent me"
    if other and not _secret_code(text, begin, other.start()):
        return False
    return not code.round or _ASKED.search(text, begin, code.end) is not None


def _is_said(near: str, topic: re.Pattern[str]) -> bool:
    """Say whether what stands right before a number tells it, and owns or counts none by it."""
    if near.endswith(" "):
        word = _last_word(near[:-1])
        if topic.fullmatch(word):
            return _COUNTED.search(f" {word} ") is None
    return _BEFORE.search(near) is not None and _COUNTED.search(near) is None


def _last_word(near: str) -> str:
    start = len(near)
    while start and (near[start - 1].isalnum() or near[start - 1] in "_-"):
        start -= 1
    return near[start:]
