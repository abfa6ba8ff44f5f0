"""Finds words that are passwords by their form alone, in a sentence or behind a user's name.

The one idea: a letter whose place a digit takes, or a sign within a word, is in no other word of a
sentence. Invariant: such places are found by one pass over the shape of a text.
"""

import re
from collections.abc import Iterator

from homebox.memory.secrets.clauses import LEADING, OWNED, USED
from homebox.memory.secrets.signs import each_alone
from homebox.memory.secrets.view import Found, View
from homebox.memory.secrets.words import made_up

# A letter's place taken by a digit, as in "h0neyBadger"; and a sign within a word.
_LEET = re.compile(rb"a0{1,2}aa")
_SIGN = re.compile(rb"[A-Za-z\d][!&#$%*^][A-Za-z\d]")
_WHOLE = re.compile(r"(?<![^\s\"'“`(])[^\s\"'“”`(),;:<>=|/\\\[\]{}]{8,40}(?=[\s\"'”`),;:.?!]|\Z)")
# Three groups or more, of which the digits and letters stand together.
_GROUP = re.compile(rb"-(?=[A-Za-z\d]{3,6}(?![A-Za-z\d]))\d{1,3}[A-Za-z]")
_GROUPS = re.compile(r"[A-Za-z\d]{2,6}(?:-[A-Za-z\d]{3,6}){2,6}")
_HEX = re.compile(r"[\da-fA-F-]+")
_REPLACED = re.compile(r"[A-Za-z](?:0{1,2}|[1357@$]{1,2}|8(?=er))[a-z]{2}")
_JOINING = re.compile(r"[a-z]{3,}[!&#$%*^][A-Za-z\d]|[a-z]{3,}\d*[!&#$%*^]\d")
_NUMBERED = re.compile(r"[A-Za-z]+#\d+")
_PROSE = re.compile(r"[(){}<>=|\\\[\]]|::|->|\w\(")
_WORDS = re.compile(r"\b[a-z]{2,}\b")
_PAIR = re.compile(r"(?P<value>[^\s:/,;(){}=<>\[\]\"'`|]{7,40}?)(?=[.,;!?]?(?:[\s)\"'`]|\Z))")
_USER = re.compile(
    r"(?:\A|[\s\"'(])(?!(?:https?|sha\d+|docker|image|tag|file|line|v|rev)\Z)"
    r"[a-z][\w.@+-]{1,30}\Z"
)


def unmistakable(view: View) -> Iterator[Found]:
    """Yield words in a sentence that are passwords by their form alone."""
    text, done = view.text, 0
    leet = (match.start() - 1 for match in _LEET.finditer(view.shape))
    signed = (match.start() for match in _SIGN.finditer(view.latin))
    grouped = (match.start() for match in _GROUP.finditer(view.latin))
    for place in sorted((*leet, *signed, *grouped)):
        if place < done:
            continue
        begin = place
        while begin > max(0, place - 40) and not text[begin - 1].isspace():
            begin -= 1
        token = _WHOLE.search(text, begin, min(len(text), place + 44))
        done = place + 2
        if token is None or not token.start() <= place < token.end():
            continue
        done = token.end()
        word = token.group().rstrip(".,?!" if not _JOINING.search(token.group()) else ".,?")
        if (_by_form(word) or _in_groups(word)) and _in_prose(text, token.start(), token.end()):
            yield Found(token.start(), token.start() + len(word), "password")


def _by_form(word: str) -> bool:
    if not made_up(word) or sum(c.islower() for c in word) < 4 or _NUMBERED.fullmatch(word):
        return False
    return _REPLACED.search(word) is not None or (
        _JOINING.search(word) is not None and any(c.isdigit() for c in word)
    )


def _in_groups(word: str) -> bool:
    """Say whether a word is letters and digits in groups, as keys are printed."""
    if not _GROUPS.fullmatch(word) or _HEX.fullmatch(word):
        return False
    return sum(not each.isalpha() and not each.isdigit() for each in word.split("-")) >= 2


def _in_prose(text: str, start: int, end: int) -> bool:
    """Say whether a word stands in a sentence, and is nobody's name there."""
    begin = max(text.rfind("\n", max(0, start - 80), start) + 1, start - 80, 0)
    stop = text.find("\n", end, end + 60)
    line = text[begin : stop if stop >= 0 else end + 60]
    before = text[begin:start]
    return (
        len(_WORDS.findall(line)) >= 3
        and _PROSE.search(line) is None
        and LEADING.search(before[-40:]) is not None
        and OWNED.search(before[-40:]) is None
        and USED.match(text, end) is None
    )


def paired(view: View) -> Iterator[Found]:
    """Yield what stands behind a user's name and a colon or stroke, if it is made up."""
    text = view.text
    for place in each_alone(text, " / "):
        match = _PAIR.match(text, place + 3)
        if match and _by_form(match["value"]) and _USER.search(text, max(0, place - 32), place):
            yield Found(*match.span("value"), "password")
    for place in each_alone(text, ":"):
        if not (text[place + 1 : place + 2].isalnum() and text[place - 1 : place].isalnum()):
            continue
        match = _PAIR.match(text, place + 1)
        if match and made_up(match["value"]) and _USER.search(text, max(0, place - 32), place):
            yield Found(*match.span("value"), "password")
