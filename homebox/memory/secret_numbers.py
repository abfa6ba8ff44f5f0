"""Secrets that prove themselves: cards, bank accounts and keys, whose letters are no prose.

The one idea: a text is looked at as a row of classes (letter, digit, other), in which candidates
are found by searching for bytes, and only those are looked at closely. Invariant: what is found has
passed a check sum, or is more random than words, names, paths and digests are.
"""

import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

from homebox.memory.secret_patterns import BEFORE_HARMLESS, HARMLESS, JWT, MAKERS
from homebox.memory.secret_signs import LONG, Scan, each_alone, thinned


class Found(NamedTuple):
    """A secret in a text: where it begins, where it ends, what it is."""

    start: int
    end: int
    kind: str


_LEAST = 16  # characters of a run that may hold a key
_MOST = 256  # characters of what is random; longer ones are pictures and the like
_LONG = 4096  # characters of a run from which on only its edges are looked at


def _classes(letters: bytes, digits: bytes, joining: bytes) -> bytes:
    """Return a table that maps latin-1 to one byte for each class; the rest becomes a blank."""
    table = bytearray(b" " * 256)
    for code in range(256):
        text = chr(code)
        if text.isalpha():
            table[code] = letters[0] if code < 128 else 0x78
        elif text.isdigit() and code < 128:
            table[code] = digits[0]
        elif text in "_-.+/=~:":
            table[code] = joining[0]
    return bytes(table)


_SHAPES = _classes(b"a", b"0", b" ")
_RUNS = bytes(0x61 if code in b"a0-" else 0x20 for code in _classes(b"a", b"0", b"-"))
_DIGITS = re.compile(r"\d(?:[ \-.\u00a0\u2009]?\d){11,18}")
_CARD_LENGTHS = (16, 15, 14, 13, 19, 18, 17)
_SSN = re.compile(r"(?!000|666|9\d\d)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\d-])")
_BITLOCKER = re.compile(r"(?:\d{6}-){7}\d{6}(?![\w-])")
# The date until which a card is valid, and what stands on its back.
_BEHIND_CARD = re.compile(
    r"[ ,;.]{1,3}(?:exp\.?(?:ires)?[ ]|valid[ ]\w{1,8}[ ])?(?:0\d|1[0-2])/(?:20)?\d\d[ ,;]{1,3}"
    r"(?:(?:cvc|cvv|code|sec)[ :]{1,2})?(\d{3,4})(?![\w.-])",
    re.IGNORECASE,
)
_IBAN = re.compile(r"[A-Za-z]{2}\d\d(?:[ -]?[A-Za-z\d]){11,30}")
# Country codes and lengths of the IBAN registry (ISO 13616).
_IBAN_LENGTHS = {
    text[:2]: int(text[2:])
    for text in (
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 "
        "DJ27 DK18 DO28 EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 "
        "HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 "
        "MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 "
        "RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 "
        "VG24 XK20 YE30"
    ).split()
}
# Heads after which letters and digits are drawn alike, so that some keys have no digit at all.
_PLAIN_HEADS = re.compile(r"\bA[KS]IA|\bgh[pousr]_|\bhf_(?=[a-z]*[A-Z])(?=[A-Z]*[a-z])[A-Za-z]{30}")
_CHUNK = re.compile(r"[A-Za-z\d+/_-]{20,}={0,2}")
_REGULAR = re.compile(r"[A-Z]?[a-z]{2,}|[A-Z]{3,}|\d{3,}")
_HEX = re.compile(r"(?:0x)?[\da-fA-F-]+=*\Z")


class View:
    """A text, and what is searched in it."""

    def __init__(self, text: str, scan: Scan | None = None) -> None:
        self.text = text
        lower = text.lower()
        if len(lower) != len(text):  # a few letters have two small ones
            lower = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
        self.lower = lower
        # Where signs stand so close together that the ones behind are not looked at one by one.
        self.crowds: list[tuple[int, int]] = []
        self._signs: dict[str, list[int]] = {}
        if scan and len(text) >= LONG:
            self._signs, self.crowds = thinned(scan.places(lower), len(text))
        self.latin = text.encode("latin-1", "replace")
        # A blank before, so that what stands first is found like the rest.
        self.shape = b" " + self.latin.translate(_SHAPES) + b" "

    def signs(self, sign: str) -> list[int]:
        """Return where a sign in lower case stands."""
        places = self._signs.get(sign)
        return each_alone(self.lower, sign) if places is None else places

    def places(self, shape: bytes) -> Iterator[int]:
        """Yield where a shape that begins with a blank stands, behind that blank."""
        place = self.shape.find(shape)
        while place >= 0:
            yield place
            place = self.shape.find(shape, place + 1)

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yield start and end of the long runs of what keys consist of."""
        runs = self.latin.translate(_RUNS) + b" "
        place = runs.find(b"a" * _LEAST)
        while place >= 0:
            end = runs.find(b" ", place)
            yield place, end
            place = runs.find(b"a" * _LEAST, end)


def numbers(view: View) -> Iterator[Found]:
    """Yield cards, social security numbers and IBANs."""
    text = view.text
    done = 0
    for place in view.places(b" 0000"):
        if place < done:
            continue
        end = _card_end(text, place)
        if end:
            yield Found(place, end, "card")
            done = end
            behind = _BEHIND_CARD.match(text, end)
            if behind:
                yield Found(*behind.span(1), "cvv")
    for place in view.places(b" 000000 000000 000000 "):
        match = _BITLOCKER.match(text, place)
        if match:
            yield Found(*match.span(), "recovery-code")
    for place in view.places(b" 000 00 0000 "):
        match = _SSN.match(text, place)
        if match and not (place and text[place - 1] in "-."):
            yield Found(place, match.end(), "ssn")
    for place in view.places(b" aa00"):
        end = iban_end(text, place)
        if end:
            yield Found(place, end, "iban")


def keys(view: View) -> Iterator[Found]:
    """Yield keys in their makers' forms, and what looks random."""
    text, shape = view.text, view.shape
    for start in view.signs("akia"):  # the one form that may have no digit
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
    if not looks_random(chunk) or HARMLESS.match(chunk):
        return False
    if BEFORE_HARMLESS.search(text, max(0, start - 24), start) or _many_lines(text, start, end):
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


def luhn(digits: str) -> bool:
    """Check the last digit of a card's number (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        number = int(digit) * (1 + place % 2)
        total += number - 9 if number > 9 else number
    return total % 10 == 0


def _card_end(text: str, start: int) -> int:
    """Return where the number of a card that begins at `start` ends, or 0 if none does."""
    match = _DIGITS.match(text, start)
    if match is None or (start and (text[start - 1] in "._-+/" or text[start - 1].isalnum())):
        return 0
    places = [place for place in range(start, match.end()) if text[place].isdigit()]
    digits = "".join(text[place] for place in places)
    for length in _CARD_LENGTHS:
        end = places[length - 1] + 1 if length <= len(places) else 0
        if not end or text[end : end + 1].isalnum() or re.match(r"[._-]\w", text[end : end + 2]):
            continue
        number = digits[:length]
        if card_form(number) and luhn(number) and len(set(number)) > 1:
            return end
    return 0


def card_form(digits: str) -> bool:
    """Say whether a number begins and is as long as those that issuers of cards give out."""
    length, first = len(digits), int(digits[:4])
    if digits[0] == "4":
        return length in (13, 16, 19)
    if 5100 <= first < 5600 or 2221 <= first <= 2720:
        return length == 16
    if digits[:2] in ("34", "37"):
        return length == 15
    if digits[:2] in ("36", "38", "39") or 3000 <= first < 3060:
        return length == 14
    if 3528 <= first < 3590 or digits[0] == "6":
        return 16 <= length <= 19
    return digits[:2] in ("50", "56", "57", "58") and length >= 13


def iban_end(text: str, start: int) -> int:
    """Return where the IBAN that begins at `start` ends, or 0 if none does (ISO 13616)."""
    match = _IBAN.match(text, start)
    length = _IBAN_LENGTHS.get(text[start : start + 2].upper(), 0)
    if match is None or not length:
        return 0
    place, signs = start, ""
    while place < match.end() and len(signs) < length:
        signs += text[place] if text[place].isalnum() else ""
        place += 1
    if len(signs) < length or text[place : place + 1].isalnum() or not signs.isascii():
        return 0
    turned = (signs[4:] + signs[:4]).upper()
    return place if int("".join(str(int(sign, 36)) for sign in turned)) % 97 == 1 else 0
