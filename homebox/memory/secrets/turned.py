"""Secrets that stand before the word that says what they are: "hunter2 is my password".

The one idea: where such a word stands, the last "is", "as" or comma before it is looked for, and
what stands before that. Invariant: a hundred and eighty characters before a word are looked at.
"""

import re
from collections.abc import Iterator

from homebox.memory.secrets.view import Found, View
from homebox.memory.secrets.words import spoken, strong

SIGNS = (
    *("pass", "pw", "pin", "code", "otp", "comb", "key", "token", "secret", "ssn", "login", "cred"),
)
_REVERSED = re.compile(
    r"(?:[ ](?:is|was|are|=|as|for|works as)[ ](?:still |now |currently |also |again )?|, )"
    r"(?:my|our|your|the|his|her|their|a)\b(?P<what>[^\n.!?;:]{0,60}?)\b(?:password|passwort"
    r"|passcode"
    r"|passphrase|pin|code|otp|combination|combo|pw|key|token|secret|ssn|login|credentials)\b"
    r"(?![-_\w])",
    re.IGNORECASE,
)
_REVERSED_SIGNS = (" is ", " as ", " was ", " are ", ", my ", ", our ")
_BEFORE = re.compile(r"[\"'`(]?([^\s\"'`()]{3,80})[\"'`)]?,?\Z")
_NUMBER = re.compile(r"(?:[A-Z]-)?\d(?:[ -]?\d){3,8}\Z")
_PROGRAM = re.compile(
    r"[A-Za-z]+(?:\.[A-Za-z_]+)+|[a-z]+(?:_[a-z\d]+)+|[A-Z]?[a-z]+(?:[A-Z][a-z]+)+|[\dA-F]+"
)
_WINDOW = 90  # characters before a root


def turned(view: View) -> Iterator[Found]:
    """Yield the secrets that are named after they are told."""
    text, lower = view.text, view.lower
    for word in SIGNS:
        for place in view.signs(word):
            before = lower[max(0, place - _WINDOW) : place]
            for sign in _REVERSED_SIGNS:
                start = before.rfind(sign)
                match = _REVERSED.match(text, place - len(before) + start) if start >= 0 else None
                span = _said_before(text, match) if match else None
                if span is not None and match is not None:
                    yield Found(*span, _kind(match.group().lower()))


def _kind(what: str) -> str:
    return "pin" if what.endswith("pin") else "otp" if "code" in what else "password"


def _said_before(text: str, match: "re.Match[str]") -> tuple[int, int] | None:
    what = match.group().lower()
    number = _NUMBER.search(text, max(0, match.start() - 24), match.start())
    if number and any(each in what for each in ("code", "pin", "comb", "otp")):
        return number.span()
    before = _BEFORE.search(text, max(0, match.start() - 84), match.start())
    if before is None:
        return None
    value = before.group(1).strip(".,;:!?")
    said = re.search(r"pass|pw|login|cred", what) is not None
    quoted = said and text[before.start() : before.start(1)] in ('"', "'", "`")
    if not (strong(value) or (quoted and len(value) >= 4)) or re.search(
        r"[(){}=<>/\\]|&\w*;", value
    ):
        return None
    if (_PROGRAM.fullmatch(value) and spoken(value)) or not (said or re.search(r"\d", value)):
        return None
    start = before.start(1)
    return start, start + len(value)
