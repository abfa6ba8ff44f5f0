"""Puts a digest in the place of every secret of a text, before anything is written.

The one idea: what was typed once must never come back, so only the fact that it was there stays,
with a digest that no one can turn back without the ledger's salt and that tells the same secret
again. Invariant: redacting twice is redacting once; words beside a secret stay as they are.
"""

import hashlib
import hmac
import re
from collections.abc import Collection, Iterator

from homebox.memory.secrets.finding import SIGN, find_secrets
from homebox.memory.secrets.makers import PEM
from homebox.memory.secrets.view import Found

_BLANKS = re.compile(r"\\n|[\s,-]")
_CLOSING = ".,;:!?'\"`*_()[]{}<>"
_MOST_WORDS = 24  # of a secret, when a text is searched for one


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
