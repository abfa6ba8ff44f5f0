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

from homebox.memory.secret_numbers import Found, View, keys, numbers
from homebox.memory.secret_patterns import (
    CONTEXTS,
    DOOR,
    ENTERED,
    FROM_TO,
    OPENS,
    PEM,
    PUBLIC,
    REVERSED,
    REVERSED_SIGNS,
    SENTENCE,
)
from homebox.memory.secret_values import CHECKS, strong, value_at

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
_BLANKS = re.compile(r"\\n|[\s-]")
_PHRASE = re.compile(r"^[ \t>]*((?:[a-z]{3,8} ){11,23}[a-z]{3,8})[ \t.]*$", re.MULTILINE)
_LENGTHS = (12, 15, 18, 21, 24)  # words of a phrase (BIP 39)
_BEFORE = re.compile(r"[\"'`(]?([^\s\"'`()]{3,80})[\"'`)]?,?$")
_MOST_WORDS = 24  # of a secret, when a text is searched for one


def find_secrets(text: str) -> list[Found]:
    """Return the secrets of a text in their order; they do not overlap.

    Takes time in proportion to the length, whatever the text.
    """
    if len(text) < 4:
        return []
    view = View(text)
    found = [*_blocks(text), *numbers(view), *keys(view), *_phrases(view), *_told(view)]
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
    """Return the first 12 hex digits of HMAC-SHA256 of a secret, without its blanks and dashes."""
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
            yield piece
            yield piece.strip(".,;:!?'\"`*_()[]{}<>")
    bare = [word.strip(".,;:!?'\"`*_()[]{}<>") for word in words]
    for start in range(len(words)):
        for end in range(start + 2, min(start + _MOST_WORDS, len(words)) + 1):
            yield "".join(bare[start:end])


def _blocks(text: str) -> Iterator[Found]:
    place = text.find("-----BEGIN ")
    while place >= 0:
        begin = PEM.match(text, place)
        end = place + 1
        if begin:
            name = begin.group(1).strip()
            close = f"-----END {begin.group(1)}-----"
            stop = text.find(close, begin.end())
            end = stop + len(close) if stop >= 0 else _cut_off(text, begin.end())
            kind = "public" if name in PUBLIC else "pem"
            yield Found(place, end, kind)
        place = text.find("-----BEGIN ", end)


def _cut_off(text: str, place: int) -> int:
    """Return where the lines of a block without an end stop looking like its content."""
    lines = re.compile(r"(?:[A-Za-z\d+/=:, -]{0,80}(?:\r?\n|\\n|\Z)){0,200}")
    match = lines.match(text, place)
    return match.end() if match else place


def _phrases(view: View) -> Iterator[Found]:
    for match in _PHRASE.finditer(view.text):
        words = match.group(1).split()
        if len(words) in _LENGTHS and not SENTENCE & set(words):
            yield Found(match.start(1), match.end(1), "seed-phrase")


def _told(view: View) -> Iterator[Found]:
    """Yield what words beside it say to be secret."""
    text, lower = view.text, view.lower
    for context in CONTEXTS:
        check = CHECKS[context.value]
        match_at = context.pattern
        done: set[int] = set()
        for sign in context.signs:
            place = lower.find(sign)
            while place >= 0:
                match = _matched(match_at, text, place, context.kind)
                if match is not None and match.end() not in done:
                    done.add(match.end())
                    span = check(text, match)
                    if span is not None:
                        yield Found(*span, _kind(context.kind, text, match, span))
                place = lower.find(sign, place + len(sign))
    yield from _turned(view)


def _matched(pattern: re.Pattern[str], text: str, place: int, kind: str) -> "re.Match[str] | None":
    """Match at a sign, or, where the pattern begins with words before it, a little earlier."""
    if kind != "key":
        return pattern.match(text, place)
    start = place
    least = max(0, place - 48)
    while start > least and (text[start - 1].isalnum() or text[start - 1] in "_-."):
        start -= 1
    if start > least and text[start - 1] == " ":
        word = start - 1
        while word > least and text[word - 1].isalpha():
            word -= 1
        match = pattern.match(text, word)
        if match is not None:
            return match
    return pattern.match(text, start)


def _kind(kind: str, text: str, match: "re.Match[str]", span: tuple[int, int]) -> str:
    """Name a secret more closely than its context does."""
    value, said = text[span[0] : span[1]], match.group().lower()
    if kind == "key":
        if re.fullmatch(r"(?:0x)?[\da-fA-F]{32,}", value):
            return "hex-key"
        if "token" in said:
            return "token"
        return "license-key" if re.search(r"license|activation|product", said) else "api-key"
    if kind == "door-code":
        near = text[max(0, match.start() - 60) : match.end()]
        return "door-code" if DOOR.search(near) else "pin"
    return kind


def _turned(view: View) -> Iterator[Found]:
    """Yield secrets that stand before the word that says what they are, or between others."""
    text, lower = view.text, view.lower
    for sign in REVERSED_SIGNS:
        place = lower.find(sign)
        while place >= 0:
            match = REVERSED.match(text, place)
            span = _said_before(text, match) if match else None
            if span is not None and match is not None:
                kind = "otp" if "code" in match.group().lower() else "password"
                yield Found(*span, "pin" if match.group().lower().endswith("pin") else kind)
            place = lower.find(sign, place + len(sign))
    for sign in (" from ",):
        place = lower.find(sign)
        while place >= 0:
            near = max(0, place - 60)
            for match in FROM_TO.finditer(text, near, min(len(text), place + 180)):
                for name in ("old", "new"):
                    span = value_at(text, match.start(name))
                    if span and _secretive(text[span[0] : span[1]]):
                        yield Found(*span, "password")
            place = lower.find(sign, place + len(sign))
    yield from _entered(view)


def _secretive(value: str) -> bool:
    return strong(value) or (value.isdigit() and 4 <= len(value) <= 8)


def _said_before(text: str, match: "re.Match[str]") -> tuple[int, int] | None:
    before = _BEFORE.search(text, max(0, match.start() - 84), match.start())
    if before is None:
        return None
    value = before.group(1).strip(".,;:!?")
    number = re.search(
        r"(?:[A-Z]-)?\d(?:[ -]?\d){3,8}\Z", text[max(0, match.start() - 24) : match.start()]
    )
    if (number and "code" in match.group().lower()) or (number and "pin" in match.group().lower()):
        return match.start() - len(number.group()), match.start()
    told = re.search(r"pass|pw|login", match.group(), re.IGNORECASE) is not None
    quoted = told and text[before.start() : before.start(1)] in ('"', "'", "`")
    if not (strong(value) or (quoted and len(value) >= 4)) or re.search(r"[(){}=<>/&\\\\]", value):
        return None
    if re.fullmatch(r"[\dA-F]+", value) or not (told or re.search(r"\d", value)):
        return None
    if re.fullmatch(
        r"[A-Za-z]+(?:\.[A-Za-z_]+)+|[a-z]+(?:_[a-z\d]+)+|[A-Z]?[a-z]+(?:[A-Z][a-z]+)+", value
    ):
        return None
    start = before.start(1)
    return start, start + len(value)


def _entered(view: View) -> Iterator[Found]:
    text, lower = view.text, view.lower
    for match_in, signs in (
        (ENTERED, ("enter ", "dial ", "punch in ", "type ", "use ", "key in ", "press ", "input ")),
        (OPENS, (" open", " unlock", " disarm", " works ")),
    ):
        for sign in signs:
            place = lower.find(sign)
            while place >= 0:
                near = max(0, place - 50) if match_in is OPENS else place
                window = min(len(text), place + 120)
                match = (
                    match_in.search(text, near, window)
                    if match_in is OPENS
                    else match_in.match(text, place)
                )
                if match:
                    yield Found(*match.span("value"), "door-code")
                place = lower.find(sign, place + len(sign))


def _apart(text: str, found: list[Found]) -> list[Found]:
    """Join what overlaps, and leave out what is public or a digest already."""
    public = [(item.start, item.end) for item in found if item.kind == "public"]
    if SIGN in text:
        public += [match.span() for match in PLACEHOLDER.finditer(text)]
    public.sort()
    starts = [start for start, _ in public]
    apart: list[Found] = []
    for item in sorted(found, key=lambda item: (item.start, -item.end)):
        index = bisect.bisect_right(starts, item.end - 1) - 1
        if item.kind == "public" or (index >= 0 and public[index][1] > item.start):
            continue
        if apart and item.start < apart[-1].end:
            last = apart[-1]
            apart[-1] = Found(last.start, max(last.end, item.end), last.kind)
        else:
            apart.append(item)
    return apart
