"""Numbers that prove themselves: cards, bank accounts, social security numbers.

The one idea: candidates are found by the shape of a text, and only those are looked at closely.
Invariant: what is found has passed a check sum, or has a form that nothing else has.
"""

import re
from collections.abc import Iterator

from homebox.memory.secrets.view import Found, View

_DIGITS = re.compile(r"\d(?:[ \-.\u00a0\u2009]?\d){11,18}")
_CARD_LENGTHS = (16, 15, 14, 13, 19, 18, 17)
_SSN = re.compile(r"(?!000|666|9\d\d)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\d-])")
_AHV = re.compile(r"756\.(\d{4})\.(\d{4})\.(\d\d)(?![\w.])")
_NINO = re.compile(r"[A-Z]{2} \d\d \d\d \d\d [A-D](?!\w)")
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
    # Swiss: a number of the European Article Numbering (GS1), country 756; British: letters around.
    for place in view.places(b" 000 0000 0000 00 "):
        match = _AHV.match(text, place)
        if match and _ean(re.sub(r"\D", "", match.group())):
            yield Found(*match.span(), "ssn")
    for place in view.places(b" aa 00 00 00 a "):
        match = _NINO.match(text, place)
        if match:
            yield Found(*match.span(), "tax-id")
    for place in view.places(b" aa00"):
        end = _iban_end(text, place)
        if end:
            yield Found(place, end, "iban")


def _ean(digits: str) -> bool:
    """Check the last digit of an article number (GS1 General Specifications, 7.9)."""
    odd, even = sum(map(int, digits[::2])), sum(map(int, digits[1::2]))
    return (odd + 3 * even) % 10 == 0


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
        if _card_form(number) and luhn(number) and len(set(number)) > 1:
            return end
    return 0


def _card_form(digits: str) -> bool:
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


def _iban_end(text: str, start: int) -> int:
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
