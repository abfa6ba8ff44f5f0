"""What a word looks like: mixed as passwords are, or a name, a measure, a product.

The one idea: a secret word mixes letters with digits or signs; how much of that is asked for
depends on how near its sentence is to saying "password", so there are several tests, from the
mildest on. Invariant: each test looks at one word alone.
"""

import re
from functools import lru_cache

from homebox.memory.secrets.view import Span
from homebox.memory.secrets.vocabulary import PLAIN

CLOSING = {'"': '"', "'": "'", "`": "`", "“": "”", "„": "“", "«": "»", "‘": "’"}
_ESCAPED = re.compile(r"\\{0,3}(?=[\"'`“„«‘])|[*_]{1,2}(?=[^\s*_])")
_WORD = re.compile(r"[^\s]{1,256}")
# Names that mix letters and digits as passwords do.
_NAMED = re.compile(
    r"(?:sha|md|utf|base|python|py|ipv|oauth|http|aes|rsa|win|windows|wpa|argon|bcrypt|pbkdf|log"
    r"|x|ed|h|mp|k|s|ec|u|fido|web|usb|rev|v|ver|version|room|step|level|day|week|gpt-?|qwen|llama"
    r"|iphone|galaxy|pixel|ubuntu|debian|fedora|office|es|vue|angular|php|java|node|sql|db|vm|pc)"
    r"-?\d[\w.]{0,4}|\d+(?:st|nd|rd|th|x|px|ms|kb|mb|gb|tb|k|m|kg|g|cm|mm|km|h|min|hrs?|am|pm|[a-z]{1,2})"
    r"|1password|2fa|4k|keepass\w*|[A-Z]{2,8}-\d+|v?\d+(?:\.\d+)+[\w.-]*|[\w-]+\.[a-z]{2,4}|c\+\+"
    r"|[A-Za-z]+/[A-Za-z/]+|[A-Za-z]+(?:['’&-][A-Za-z]+)+|\d[\d.,:/-]*|[A-Za-z]+[+?!]*",
    re.IGNORECASE,
)
_PROGRAM = re.compile(r"://|^[$%<{\[(]|[(){}<>\[\]\\|=]|^\W*\w+\(|^[\w.-]+@[\w-]+\.\w")
_SHORT = re.compile(r"[A-Za-z]+[-_ ]?\d{1,2}|[A-Z]{1,4}[-\d]+[A-Z]{0,2}")
_WITH_SIGN = re.compile(r"\w[!$&*#@%^?+]")
_ADDRESS = re.compile(r"[/\\@]|\.\w{1,4}\Z|'")
_PRODUCT = re.compile(
    r"(?:fritz|thinkpad|macbook|iphone|ipad|galaxy|pixel|xbox|surface"
    r"|ryzen|core|intel|nvidia|geforce|radeon|kindle|echo|canon|nikon|sony|bravia|laserjet|deskjet"
    r"|inspiron|latitude|elitebook|archlinux|raspberry|raspbian|centos|alpine|kernel|postgres|mysql"
    r"|redis|nginx|python|numpy|torch|cuda|llama|qwen|gemma|mistral|chatgpt|claude)\S{0,8}",
    re.IGNORECASE,
)
_CODED = re.compile(r"[A-Z]{1,6}-?\d+[A-Za-z]{0,3}")
_SIGNED = re.compile(r"[^\W_][!$&*#%^?+][^\W_]|[^\W\d_]\S*\d\S*[!$&*#%^?]\Z|\d\S*[^\W\d_][!$#*]\Z")
_CASED = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*\d)")
_INNER = re.compile(r"[A-Za-z]\d{1,2}[A-Za-z]{2}|[A-Za-z]{2}\d{1,2}[A-Za-z]")
_WORDED = re.compile(
    r"[A-Za-z]{4,}(?:[-_.][A-Za-z]{2,})*[-_.]?\d{2,6}|(?:[A-Za-z]{3,}[-_.]){2,4}\d{1,6}"
    r"|(?:[A-Za-z]{3,}[-_.]){1,3}\d{1,4}(?:[-_.][A-Za-z]{3,}){1,3}|[a-z]{3,}-\d{3,5}-[a-z]"
)
_INNER_CASE = re.compile(r"[a-z][A-Z]")
_JOINED = re.compile(r"[A-Z][a-z]+(?:_[A-Za-z]+){1,4}")


def value_at(text: str, place: int) -> Span | None:
    """Return the quoted text or the word that begins at a place, without its punctuation."""
    escape = _ESCAPED.match(text, place)
    start = escape.end() if escape else place
    closing = CLOSING.get(text[start : start + 1])
    if closing:
        start += 1
        end = text.find(closing, start, start + 200)
        line = text.find("\n", start, start + 200)
        if end > start and (line < 0 or end < line):
            while end > start and text[end - 1] == "\\":
                end -= 1
            return start, end
    word = _WORD.match(text, start)
    if word is None:
        return None
    end = word.end()
    while end > start:
        last = text[end - 1]
        if last in ".,;:!?'\"`“”’»*_\\>|" or (last in ")]}" and _unopened(text[start:end], last)):
            end -= 1
        else:
            break
    return (start, end) if end > start else None


def _unopened(word: str, closing: str) -> bool:
    return word.count({")": "(", "]": "[", "}": "{"}[closing]) < word.count(closing)


@lru_cache(4096)
def strong(value: str) -> bool:
    """Say whether a word has letters with digits or signs among them, as few other words do."""
    if any(map(str.isdigit, value)):
        return len(value) >= 6 or (len(value) == 5 and any(map(str.isalpha, value)))
    signs = any(not c.isalnum() and c not in "'’-./_" for c in value)
    letters = any(map(str.isalpha, value))
    return len(value) >= 5 and letters and (signs or _INNER_CASE.search(value) is not None)


def spoken(value: str) -> bool:
    """Say whether the parts of a name can be spoken, as in `userName`, and not in `uXdgNkw`."""
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", value)
    mute = sum(not re.search("[aeiouyAEIOUY]", part) for part in parts)
    return mute * 2 < len(parts)


@lru_cache(4096)
def mixed(word: str) -> bool:
    """Say whether a word mixes letters with digits or signs, as no name or measure does."""
    if len(word) < 5 or word.lower() in PLAIN or _NAMED.fullmatch(word):
        return False
    if _PROGRAM.search(word) or not any(map(str.isalpha, word)):
        return False
    return any(map(str.isdigit, word)) or signed(word)


def solid(word: str) -> bool:
    """Say whether a word is mixed in more than a short number at its end, as products have it."""
    return mixed(word) and _SHORT.fullmatch(word) is None


def signed(word: str) -> bool:
    """Say whether a word has a sign as passwords have it."""
    return _WITH_SIGN.search(word) is not None


@lru_cache(4096)
def made_up(word: str) -> bool:
    """Say whether a word mixes letters, digits and signs as nothing else does."""
    if not mixed(word) or _sold(word) or sum(map(str.isalpha, word)) < 2:
        return False
    if _ADDRESS.search(word) or word.isupper():
        return False
    signed = _SIGNED.search(word) is not None and any(map(str.isdigit, word))
    inner = len(word) >= 7 and _INNER.search(word) is not None
    return signed or inner or _CASED.match(word) is not None


def nearly_made_up(word: str) -> bool:
    """Say whether a word is one with a number behind it, or some joined by marks."""
    worded = mixed(word) and not _sold(word) and _WORDED.fullmatch(word) is not None
    return worded or _JOINED.fullmatch(word) is not None


def _sold(word: str) -> bool:
    return _PRODUCT.fullmatch(word) is not None or _CODED.fullmatch(word) is not None
