"""Finds the secrets of a text.

The one idea: every way of finding is a function from a text to places; what they find is put in
order, joined where it overlaps, and left out where it is public. Invariant: a text takes time in
proportion to its length, whatever stands in it.
"""

import bisect
import re
from collections.abc import Iterator

from homebox.memory.secrets import keys, made, spelled, turned
from homebox.memory.secrets.commands import COMMANDS
from homebox.memory.secrets.cues import Index
from homebox.memory.secrets.doors import ENTERED, PLACES
from homebox.memory.secrets.makers import PUBLISHED, blocks
from homebox.memory.secrets.named import NAMED
from homebox.memory.secrets.notes import NOTES
from homebox.memory.secrets.numbers import numbers
from homebox.memory.secrets.sentences import SENTENCES
from homebox.memory.secrets.signs import Scan
from homebox.memory.secrets.topics import TOPICS
from homebox.memory.secrets.unmistakable import paired, unmistakable
from homebox.memory.secrets.view import Found, View
from homebox.memory.secrets.wallets import phrases
from homebox.memory.secrets.words import mixed

SIGN = "[secret:"
PLACEHOLDER = re.compile(r"\[secret:[a-z-]{1,20}:([0-9a-f]{12})\]")
_ANY = re.compile(r"(?<![^\s:=\"'`,;])(?=[^\s:=\"'`,;]{0,64}\d)[^\s:=\"'`,;]{4,128}")
# Where two rows find the same, it is called what the first of them calls it.
INDEX = Index((*NAMED, *ENTERED, *TOPICS, *PLACES, *SENTENCES, *NOTES, *COMMANDS))
SCAN = Scan((*INDEX.signs, *turned.SIGNS, *made.SIGNS, *spelled.SIGNS, *keys.SIGNS))


def find_secrets(text: str) -> list[Found]:
    """Return the secrets of a text in their order; they do not overlap.

    Takes time in proportion to the length, whatever the text.
    """
    if len(text) < 4:
        return []
    view = View(text, SCAN)
    found = [*blocks(text), *numbers(view), *keys.keys(view), *phrases(view)]
    found += [*INDEX.found(view), *turned.turned(view), *made.made(view), *unmistakable(view)]
    found += [*spelled.spelled(view), *paired(view), *crowded(view)]
    return _apart(text, found)


def crowded(view: View) -> Iterator[Found]:
    """Yield every word that mixes letters and digits, and every code, between very many signs."""
    text = view.text
    for begin, end in view.crowds:
        for word in _ANY.finditer(text, begin, min(len(text), end + 64)):
            value = word.group()
            if word.start() < end and (value.isdigit() or mixed(value)):
                yield Found(*word.span(), "password")


def _apart(text: str, found: list[Found]) -> list[Found]:
    """Join what overlaps, and leave out what is public or a digest already."""
    public = [(item.start, item.end) for item in found if item.kind == PUBLISHED]
    if SIGN in text:
        public += [match.span() for match in PLACEHOLDER.finditer(text)]
    public.sort()
    starts = [start for start, _ in public]
    apart: list[Found] = []
    for item in sorted(found, key=lambda item: (item.start, -item.end)):
        index = bisect.bisect_right(starts, item.end - 1) - 1
        if item.kind == PUBLISHED or (index >= 0 and public[index][1] > item.start):
            continue
        if apart and item.start < apart[-1].end:
            last = apart[-1]
            apart[-1] = Found(last.start, max(last.end, item.end), last.kind)
        else:
            apart.append(item)
    return apart
