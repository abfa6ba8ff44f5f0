"""Which numbers beside "code", "card" or "passport" are secret, and which only stand there.

The one idea: the word beside it says what a number is, so that a check only looks at its form.
Invariant: a check looks at a few hundred characters at most.
"""

import re

from homebox.memory.secrets.numbers import luhn
from homebox.memory.secrets.passwords import password
from homebox.memory.secrets.view import Span
from homebox.memory.secrets.vocabulary import DOOR, KNOWN_CODE
from homebox.memory.secrets.words import CLOSING

_OTP = re.compile(r"(?:[A-Z]-)?\d(?:[ -]?\d){3,8}(?![\w%-])|(?=[A-Z\d]{0,7}\d)[A-Z\d]{6,8}(?!\w)")
_SENT = re.compile(
    r"\b(?:texted|sms|messaged|e-?mailed|sent|text message|by (?:text|mail|e-?mail|phone)"
    r"|from the (?:text|mail|e-?mail|message))\b",
    re.IGNORECASE,
)
_SENT_CODE = re.compile(
    r"(?:(?:[A-Z]-)?\d(?:[ -]?\d){3,8}|(?=[A-Za-z]{0,9}\d)[A-Za-z\d]{5,10}|[A-Z]{5,8})"
    r"(?=[\"'`]?[.,;!?)]{0,2}[ \t\r]{0,8}(?:\n|\Z|[ ](?:and|but|so|please|can)\b)|[.,;!?] )"
)
_BASE32 = re.compile(
    r"[A-Z2-7]{4}(?:[ -]?[A-Z2-7]{4}){3,15}(?!\w)|[a-z2-7]{4}(?: [a-z2-7]{4}){3,15}(?!\w)"
)
_CVV = re.compile(r"\d{3,4}(?![\d.-])")
_NATIONAL = re.compile(
    r"(?=(?:[A-Z./ -]{0,4}\d){6})[A-Z]{0,6}[ -]?\d(?:[ ./-]?[\dA-Z]){6,15}(?!\w)", re.IGNORECASE
)
_DOCUMENT = re.compile(
    r"(?=(?:[A-Z -]{0,6}\d){5})(?=(?:[ -]?[A-Z\d]){6})"
    r"[A-Z\d]{1,19}(?:[ -](?=[A-Z]{0,4}\d)[A-Z\d]{1,12}|[ -][A-Z]{1,2}(?=\W|\Z)){0,6}(?!\w)",
    re.IGNORECASE,
)
_ACCOUNT = re.compile(r"\d(?:[ -]?\d){5,16}(?!\w)")
_DIGITS = re.compile(r"[#*]?\d(?:[ .-]?\d){2,11}[#*]?(?![\w%€$£])")
_DOOR = re.compile(r"[#*]?[A-Za-z]?\d(?:[ .-]?\d){2,9}[A-Za-z]?[#*]?(?![\w%€$£]|[.,:]\d|-\w)")


def digits(text: str, match: re.Match[str]) -> Span | None:
    """Take a number of 3 or more digits; after a bare PIN or a colon, of at least 4."""
    place = match.end() + (text[match.end() : match.end() + 1] in CLOSING)
    found = _DIGITS.match(text, place)
    if found is None:
        return password(text, match) if "passcode" in match.group().lower() else None
    count = sum(map(str.isdigit, found.group()))
    return found.span() if count >= 4 or re.search(r"\b(?:is|was)\b", match.group()) else None


def door(text: str, match: re.Match[str]) -> Span | None:
    """Take a code of doors and alarms, where one is spoken of."""
    place = match.end() + (text[match.end() : match.end() + 1] in CLOSING)
    found = _DOOR.match(text, place)
    if found is None or sum(map(str.isdigit, found.group())) < 3:
        return None
    least = max(0, match.start() - 60)
    line = max(text.rfind("\n", least, match.start()) + 1, least)
    before = text[line : match.start()]
    if before.lower().endswith("sort "):
        return None  # it names a bank
    if DOOR.search(before) or DOOR.search(match.group()):
        return found.span()
    told = re.search(
        r"\b(?:the|my|our|your|his|her|their)(?: (?!error|status)[a-z]+)?[ ]$", before, re.I
    )
    said = re.search(r"(?:\bis|\bwas|['’]s|\bto)\s*(?:now |still )?$", match.group())
    known = KNOWN_CODE.search(before) and not before.lower().rstrip().endswith("the")
    plain = 4 <= sum(map(str.isdigit, found.group())) <= 8
    return found.span() if told and said and plain and not known else None


def place(text: str, match: re.Match[str]) -> Span | None:
    """Take the code of a place that is named as a label: "garage: 4711"."""
    found = _DOOR.match(text, match.end())
    label = re.search(r"[:=]\s*$", match.group())
    return found.span() if found and label and len(found.group()) >= 4 else None


def otp(text: str, match: re.Match[str]) -> Span | None:
    """Take a code that is used once, or the secret from which such codes are made."""
    place = match.end() + (text[match.end() : match.end() + 1] in CLOSING)
    found = _BASE32.match(text, place) or _OTP.match(text, place)
    return found.span() if found else None


def sent(text: str, match: re.Match[str]) -> Span | None:
    """Take a code of which it is said that it came by text message or mail."""
    least = max(0, match.start() - 60)
    line = max(text.rfind("\n", least, match.start()) + 1, least)
    before = text[line : match.start()]
    if not _SENT.search(before + match.group()) or (
        KNOWN_CODE.search(before) and not before.lower().rstrip().endswith("the")
    ):
        return None
    place = match.end() + (text[match.end() : match.end() + 1] in CLOSING)
    found = _SENT_CODE.match(text, place)
    return found.span() if found and not _speakable(found.group()) else None


def _speakable(code: str) -> bool:
    """Say whether a code may as well be a word: letters alone with vowels among them."""
    return code.isalpha() and not re.search(r"[B-DF-HJ-NP-TV-XZ]{4}|\A[^AEIOUY]+\Z", code)


def cvv(text: str, match: re.Match[str]) -> Span | None:
    """Take the three or four digits on the back of a card."""
    found = _CVV.match(text, match.end())
    return found.span() if found else None


def national(text: str, match: re.Match[str]) -> Span | None:
    """Take a number by which a state knows a person."""
    found = _NATIONAL.match(text, match.end())
    return found.span() if found else None


def document(text: str, match: re.Match[str]) -> Span | None:
    """Take the number of a passport, licence or card."""
    found = _DOCUMENT.match(text, match.end())
    return found.span() if found else None


def account(text: str, match: re.Match[str]) -> Span | None:
    """Take the number of a bank account."""
    found = _ACCOUNT.match(text, match.end())
    return found.span() if found else None


def card(text: str, match: re.Match[str]) -> Span | None:
    """Take any number with a card's check digit where a card is spoken of."""
    found = re.compile(r"\d(?:[ .-]?\d){11,18}(?!\d)").match(text, match.end())
    return found.span() if found and luhn(re.sub(r"\D", "", found.group())) else None
