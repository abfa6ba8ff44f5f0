"""Finds made-up words beside a way in: words that no language has and no shop sells.

The one idea: owners who name no password still name what it opens ("netflix is ...") or how it is
used ("i use ... everywhere"), and a word that mixes letters with digits or signs fits nothing else
in such a clause. How mixed it must be depends on how near the clause is to saying "password".
Invariant: from each sign a bounded clause is looked at, so a text takes time in proportion to its
length.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from homebox.memory.secrets.clauses import LEADING, OWNED, USED, clause
from homebox.memory.secrets.view import Found, View
from homebox.memory.secrets.words import made_up, nearly_made_up

# What says that a secret is spoken of.
SAYING = (
    *(
        "passw",
        "passphrase",
        "passcode",
        " pw",
        "log in",
        "logs in",
        "log into",
        "login",
        "logon",
        "log onto",
    ),
    *(
        "sign in",
        "sign-in",
        "the pass ",
        "gets in",
        "get in",
        "rejected",
        "recovery",
        "signs in",
        "signed in",
        "unlock",
        "opens with",
        "vault",
        "credential",
    ),
)
# What is locked, and what is done with secrets.
NAMING = (
    *(
        "wifi",
        "wi-fi",
        "wlan",
        "wireless",
        "network",
        "encrypt",
        "router",
        "hotspot",
        "netflix",
        "spotify",
        "amazon",
    ),
    *("ebay", "paypal", "icloud", "apple id", "gmail", "facebook", "instagram", "whatsapp"),
    *("discord", "vpn", "portal", "account", "laptop", "tablet", "ipad", "doorbell", "printer"),
    *("babycam", "baby monitor", "hulu", "club login", "gym app", "school thing", "locked"),
    *("mailbox", "webmail", "bitwarden", "keepass", "disney", "dropbox", "linkedin", "twitter"),
    *("outlook", "onedrive", "youtube", "intranet", "computer", "nas ", "the app", "bank"),
    *("always use", "is that bad", "is that safe", "strong enough", "shared drive", "steam is"),
    *("everywhere", "for everything", "accepted", "used to work", "still works", "remember "),
    *("for all my", "for all of", "on every site", "reset", "put in ", "type ", "typed "),
)
SIGNS = (*SAYING, *NAMING)
_NEAR = 64  # characters
_MOST_LOOKS = 4  # at signs as near to each other as that
_TOKEN = re.compile(r"[^\s\"'“”`(),;:<>=|\[\]{}]{6,40}")


def made(view: View) -> Iterator[Found]:
    """Yield made-up words in clauses that speak of a way in."""
    done: set[int] = set()
    looked: dict[int, int] = {}
    words: dict[tuple[int, int], _Word] = {}
    for sign in SIGNS:
        saying = sign in SAYING
        for place in view.signs(sign):
            near = place // _NEAR
            looked[near] = looked.get(near, 0) + 1
            if looked[near] <= _MOST_LOOKS:
                yield from _beside(view.text, place, place + len(sign), words, done, saying)


class _Word(NamedTuple):
    """A word without its punctuation."""

    length: int
    made: bool  # beside any sign
    nearly: bool  # beside a sign that says that a secret is spoken of


def _beside(
    text: str,
    place: int,
    end: int,
    words: dict[tuple[int, int], _Word],
    done: set[int],
    saying: bool,
) -> Iterator[Found]:
    begin, last = clause(text, place, end)
    for token in _TOKEN.finditer(text, begin, last):
        span = start, _ = token.span()
        word = words.get(span)
        if word is None:
            word = words[span] = _judged(token.group())
        if not (word.made or (saying and word.nearly)) or start in done:
            continue
        if start == begin and text[begin - 1 : begin].strip():
            continue  # the rest of a word
        if USED.match(text, start + word.length):
            continue
        before = text[begin:start][-40:]
        if LEADING.search(before) and not OWNED.search(before):
            done.add(start)
            yield Found(start, start + word.length, "password")


def _judged(token: str) -> _Word:
    word = token.rstrip(".,!?*_" if not made_up(token) else ".,?*_")
    nearly = nearly_made_up(word)
    return _Word(len(word), made_up(word) or (nearly and not _hyphened(word)), nearly)


def _hyphened(word: str) -> bool:
    return re.search(r"[-_.]", word) is not None and not any(c.isdigit() for c in word)
