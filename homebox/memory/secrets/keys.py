"""Secrets whose letters are no prose: keys in their makers' forms, and what looks random.

The one idea: only long runs of what keys consist of are looked at closely. Invariant: what is found
is more random than words, names, paths and digests are, or has a maker's form.
"""

import itertools
import re
from collections.abc import Iterator

from homebox.memory.secrets.makers import JWT, MAKERS
from homebox.memory.secrets.view import Found, View

SIGNS = ("akia",)  # the one form that may have no digit
_MOST = 256  # characters of what is random; longer ones are pictures and the like
_LONG = 4096  # characters of a run from which on only its edges are looked at
# Heads after which letters and digits are drawn alike, so that some keys have no digit at all.
_PLAIN_HEADS = re.compile(r"\bA[KS]IA|\bgh[pousr]_|\bhf_(?=[a-z]*[A-Z])(?=[A-Z]*[a-z])[A-Za-z]{30}")
_CHUNK = re.compile(r"[A-Za-z\d+/_-]{20,}={0,2}")
_REGULAR = re.compile(r"[A-Z]?[a-z]{2,}|[A-Z]{3,}|\d{3,}")
_HEX = re.compile(r"(?:0x)?[\da-fA-F-]+=*\Z")
# Digests, ids and pictures that look as random as keys do.
_HARMLESS = re.compile(
    r"(?:sha(?:1|224|256|384|512)|md5|h1|blake[23][bs]?)[-:=]|AAAA[BCE]3NzaC|data:|_+Z[A-Za-z]"
    r"|(?:chatcmpl|call|toolu|msg|resp|run|thread|asst|file|req|ses|fc|rs|item|turn|evt|batch|prt)"
    r"[-_](?=[A-Za-z\d-]{8,}$)"
)
_BEFORE_HARMLESS = re.compile(
    r"(?:sha(?:1|224|256|384|512)|md5|h1|blake[23][bs]?)[\s\"':=-]{1,3}$|base64,$"
    r"|integrity[\"'\s:=]{1,4}$|(?:/d/|/file/|/folders/|/commit/|/blob/|watch\?v=|[?&]v=)$"
    r"|(?:ssh-(?:rsa|dss|ed25519)|ecdsa-\S{10,20}) $|SHA256:$|nonce-$",
    re.IGNORECASE,
)


def keys(view: View) -> Iterator[Found]:
    """Yield keys in their makers' forms, and what looks random."""
    text, shape = view.text, view.shape
    for start in view.signs(*SIGNS):
        match = MAKERS.match(text, start)
        if match:
            yield Found(match.start(), match.end(), "api-key")
    for start, end in view.runs():
        if b"0" not in shape[start + 1 : end + 1]:
            if _PLAIN_HEADS.search(text, start, end):
                for match in MAKERS.finditer(text, start, end):
                    yield Found(match.start(), match.end(), "api-key")
            continue
        if end - start > _LONG and "_" not in text[start:end] and "-" not in text[start:end]:
            continue  # a picture or the like
        for match in MAKERS.finditer(text, start, end):
            yield Found(match.start(), match.end(), "jwt" if JWT.match(match[0]) else "api-key")
        for match in _CHUNK.finditer(text, start, end):
            if match.end() - match.start() <= _MOST and _is_secret(text, match):
                yield Found(match.start(), match.end(), "high-entropy")


def looks_random(chunk: str) -> bool:
    """Say whether letters and digits stand as no name, path, number or digest has them."""
    plain = re.sub(r"[^A-Za-z\d]", "", chunk)
    if len(plain) < 20 or _HEX.match(chunk):
        return False
    digits = sum(c.isdigit() for c in plain)
    if digits < 1 or digits > 0.6 * len(plain):
        return False
    both = plain.lower() != plain and plain.upper() != plain
    if not both and (len(plain) < 30 or _changes(plain) < 0.3 or _ends_in_hex(chunk)):
        return False
    regular = sum(len(piece) for piece in _REGULAR.findall(chunk))
    return regular <= 0.8 * len(plain) and len(set(plain)) >= min(12, len(plain) // 2)


def _changes(plain: str) -> float:
    """Return the share of neighbours of which one is a digit and the other is none."""
    pairs = itertools.pairwise(plain)
    return sum(one.isdigit() != other.isdigit() for one, other in pairs) / len(plain)


def _ends_in_hex(chunk: str) -> bool:
    """Say whether a chunk is a name with a digest, such as a file of a build."""
    return any(len(part) >= 7 and _HEX.match(part) for part in re.split(r"[-_/]", chunk)[1:])


def _is_secret(text: str, match: re.Match[str]) -> bool:
    start, end = match.span()
    chunk = match.group()
    if text[end : end + 1] == "." and text[end + 1 : end + 4].isalpha() and "/" in chunk:
        return False  # the name of a file
    if not looks_random(chunk) or _HARMLESS.match(chunk):
        return False
    if _BEFORE_HARMLESS.search(text, max(0, start - 24), start) or _many_lines(text, start, end):
        return False
    # A path has names between its slashes; what is random has not.
    names = re.findall(r"(?:^|/)([A-Z]?[a-z]{3,}|[a-z\d]+(?:[-_][a-z\d]+)+)(?=/|$)", chunk)
    return not names


def _many_lines(text: str, start: int, end: int) -> bool:
    """Say whether a chunk is one line of many alike: a file in base64."""
    length = end - start
    if length < 57 or text[end : end + 1] not in ("\n", "\r"):
        return False
    newline = text.find("\n", end, end + 2) + 1
    beside = text[newline : newline + length]
    behind = text[max(0, start - 1 - length) : max(0, start - 1)]
    return any(
        len(line) == length and re.fullmatch(r"[A-Za-z\d+/]+={0,2}", line)
        for line in (beside, behind)
    )
