"""Finds plain words of which it is said how they are written, and answers to "password?".

The one idea: only of a secret does anybody say "all lower case, no spaces". Invariant: a clause is
looked at, and one word of it taken.
"""

import re
from collections.abc import Iterator

from homebox.memory.secrets.clauses import clause
from homebox.memory.secrets.made import NAMING, SAYING
from homebox.memory.secrets.view import Found, View
from homebox.memory.secrets.vocabulary import PLAIN, SENTENCE

_SPELLING = (
    *("all lowercase", "all lower case", "all caps", "all uppercase", "no spaces", "one word"),
    *("lower case", "lowercase", "with a capital", "capital "),
)
_ASKING = ("pw?", "password?", "passwort?", "passphrase?")
SIGNS = (*_SPELLING, *_ASKING)
_PLAIN_BEFORE = re.compile(
    r"(?:\b(?:is|with|use|type|say|to|it['’]?s)|[:,])[ ][\"'“`]?(?P<value>[A-Za-z]{4,24})"
    r"[\"'”`]?,?[ ]"
    r"(?:(?:but|and|in|it['’]?s|with|as)[ ])?\Z"
)
_PLAIN_BEHIND = re.compile(r"\?[ ]{1,2}(?P<value>[A-Za-z]{5,24})[.!]?(?=\s*(?:\n|\Z))")
_ANSWERS = frozenset(("sorry", "thanks", "please", "nothing", "really", "maybe", "again", "hello"))


def spelled(view: View) -> Iterator[Found]:
    """Yield plain words of which it is said how they are written, and answers to "password?"."""
    text, lower = view.text, view.lower
    for sign in _SPELLING:
        for place in view.signs(sign):
            begin, _ = clause(text, place, place)
            match = _PLAIN_BEFORE.search(text, begin, place)
            if match and any(each in lower[begin:place] for each in (*SAYING, *NAMING)):
                yield from _unless_plain(match)
    for sign in _ASKING:
        for place in view.signs(sign):
            match = _PLAIN_BEHIND.match(text, place + len(sign) - 1)
            if match:
                yield from _unless_plain(match)


def _unless_plain(match: re.Match[str]) -> Iterator[Found]:
    value = match["value"].lower()
    if value not in PLAIN and value not in SENTENCE and value not in _ANSWERS:
        yield Found(*match.span("value"), "password")
