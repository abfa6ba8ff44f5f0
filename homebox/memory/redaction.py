"""Finds secrets in texts and puts a digest in their place, before anything is written.

The one idea: what was typed once must never come back, so only the fact that it was there stays,
with a digest that no one can turn back without the ledger's salt and that tells the same secret
again. Invariant: redacting twice is redacting once; words beside a secret stay as they are.
"""

import bisect
import hashlib
import hmac
import re
from collections.abc import Collection, Iterator

from homebox.memory import secret_forms, secret_lines, secret_made, secret_words
from homebox.memory.secret_forms import formed
from homebox.memory.secret_lines import crowded, nearby
from homebox.memory.secret_made import made
from homebox.memory.secret_numbers import Found, View, keys, numbers
from homebox.memory.secret_patterns import PEM, PUBLIC
from homebox.memory.secret_phrases import phrases
from homebox.memory.secret_signs import Scan
from homebox.memory.secret_words import told

__all__ = [
    "Found",
    "digest_of",
    "find_secrets",
    "placeholder",
    "redacted",
    "replaced",
    "reproduced",
]

SIGN = "[secret:"
PLACEHOLDER = re.compile(r"\[secret:[a-z-]{1,20}:([0-9a-f]{12})\]")
_BLANKS = re.compile(r"\\n|[\s,-]")
BEGIN, END = "-----BEGIN ", "-----END "
PUBLISHED = "public"
_LINES = re.compile(r"(?:[A-Za-z\d+/=:, -]{0,80}(?:\r?\n|\\n|\Z)){1,400}")
_CLOSING = ".,;:!?'\"`*_()[]{}<>"
_MOST_WORDS = 24  # of a secret, when a text is searched for one


_SCAN = Scan(
    [*secret_words.SIGNS, *secret_lines.SIGNS, *secret_forms.SIGNS, *secret_made.SIGNS, "akia"]
)


def find_secrets(text: str) -> list[Found]:
    """Return the secrets of a text in their order; they do not overlap.

    Takes time in proportion to the length, whatever the text.
    """
    if len(text) < 4:
        return []
    view = View(text, _SCAN)
    found = [*_blocks(text), *numbers(view), *keys(view), *phrases(view), *told(view)]
    found += [*nearby(view), *formed(view), *made(view), *crowded(view)]
    return _apart(text, found)


def replaced(text: str, salt: bytes) -> list[tuple[Found, str]]:
    """Return the secrets of a text, each with what stands in its place."""
    return [
        (item, placeholder(item.kind, text[item.start : item.end], salt))
        for item in find_secrets(text)
    ]


def redacted(text: str, salt: bytes) -> str:
    """Return a text with `[secret:KIND:DIGEST]` in the place of every secret."""
    pieces, place = [], 0
    for item, instead in replaced(text, salt):
        pieces += [text[place : item.start], instead]
        place = item.end
    return "".join([*pieces, text[place:]]) if pieces else text


def placeholder(kind: str, secret: str, salt: bytes) -> str:
    """Return what stands in the place of a secret."""
    return f"{SIGN}{kind}:{digest_of(secret, salt)}]"


def digest_of(secret: str, salt: bytes) -> str:
    """Return 12 hex digits of HMAC-SHA256 of a secret without blanks, commas and dashes."""
    plain = _BLANKS.sub("", secret).encode("utf-8", "replace")
    return hmac.new(salt, plain, hashlib.sha256).hexdigest()[:12]


def reproduced(text: str, salt: bytes, digests: Collection[str]) -> bool:
    """Say whether a text has a word, line or up to 24 words in a row with one of the digests.

    Takes time in proportion to the length of the text, which an answer of a model bounds.
    """
    wanted = frozenset(digests)
    return bool(wanted) and any(digest_of(each, salt) in wanted for each in _candidates(text))


def _candidates(text: str) -> Iterator[str]:
    for item in find_secrets(text):
        yield text[item.start : item.end]
    for block in PEM.finditer(text):
        yield text[block.start() :].strip()
    words = text.split()
    for word in words:
        for piece in {word, *re.split(r"[=:,;\"'`()<>\[\]{}@/|]+", word)}:
            yield from _with_and_without(piece)
    bare = [word.strip(_CLOSING) for word in words]
    for start in range(len(words)):
        for end in range(start + 2, min(start + _MOST_WORDS, len(words)) + 1):
            yield "".join(bare[start:end])


def _with_and_without(word: str) -> Iterator[str]:
    """Yield a word as it stands, and with ever fewer of the marks around it.

    A mark at its end may be the secret's or the sentence's, so each number of them is tried.
    """
    opened = word.lstrip(_CLOSING)
    for piece in {word, opened}:
        yield piece
        for place in range(
            len(piece) - 1, max(len(piece.rstrip(_CLOSING)), len(piece) - 8) - 1, -1
        ):
            yield piece[:place]
    yield opened.rstrip(_CLOSING)


def _blocks(text: str) -> Iterator[Found]:
    """Yield private keys between lines of dashes, and what is public between such lines."""
    place, close = text.find(BEGIN), 0
    while place >= 0:
        begin = PEM.match(text, place)
        end = place + 1
        if begin:
            if 0 <= close < begin.end():
                close = text.find(END, begin.end())
            end = _block_end(text, begin, close)
            yield Found(place, end, PUBLISHED if begin.group(1).strip() in PUBLIC else "pem")
        place = text.find(BEGIN, end)


def _block_end(text: str, begin: "re.Match[str]", close: int) -> int:
    """Return where a block ends, or, if that is not there, what looks like its content."""
    end = f"{END}{begin.group(1)}-----"
    if close >= 0 and text.startswith(end, close):
        return close + len(end)
    match = _LINES.match(text, begin.end())
    return match.end() if match else begin.end()


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
