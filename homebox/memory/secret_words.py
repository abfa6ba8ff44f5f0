"""Finds what the words beside it say to be secret.

The one idea: a few roots, such as "pass" and "code", are searched for as plain text, which is fast;
only where one stands are patterns tried, each from a fixed place. Invariant: what is done at one
place takes a bounded time, so a text takes time in proportion to its length.
"""

import re
from collections.abc import Iterator

from homebox.memory.secret_numbers import Found, View
from homebox.memory.secret_patterns import (
    CONTEXTS,
    DOOR,
    ENTERED,
    FROM_TO,
    OPENS,
    REVERSED,
    REVERSED_SIGNS,
    Context,
    compiled,
)
from homebox.memory.secret_values import CHECKS, VARIABLE, spoken, strong, value_at

_BEFORE = re.compile(r"[\"'`(]?([^\s\"'`()]{3,80})[\"'`)]?,?\Z")
_NUMBER = re.compile(r"(?:[A-Z]-)?\d(?:[ -]?\d){3,8}\Z")
_PROGRAM = re.compile(
    r"[A-Za-z]+(?:\.[A-Za-z_]+)+|[a-z]+(?:_[a-z\d]+)+|[A-Z]?[a-z]+(?:[A-Z][a-z]+)+|[\dA-F]+"
)
_ENTERING = ("enter ", "dial ", "punch in ", "type ", "use ", "key in ", "press ", "input ")
_OPENING = (" open", " unlock", " disarm", " works ")
# Roots before which a value may stand: "hunter2 is my password".
_LAST = (
    *("pass", "pw", "pin", "code", "otp", "comb", "key", "token", "secret", "ssn", "login", "cred"),
)
_WINDOW = 90  # characters before a root


def _rooted() -> dict[str, list[tuple[str, int, Context]]]:
    """Map each sign that contains no other to those that contain it, with its place in them."""
    signs = {sign for context in CONTEXTS for sign in context.signs} | {*_LAST}
    roots = [sign for sign in signs if not any(o in sign for o in signs if o != sign)]
    found: dict[str, list[tuple[str, int, Context]]] = {root: [] for root in sorted(roots)}
    for context in CONTEXTS:
        for sign in context.signs:
            root = min(
                (each for each in roots if each in sign), key=lambda each: (-len(each), each)
            )
            found[root].append((sign, sign.index(root), context))
    return found


_ROOTED = _rooted()
SIGNS = (*_ROOTED, *_ENTERING, *_OPENING)


def told(view: View) -> Iterator[Found]:
    """Yield passwords, codes, keys and the like that a text names as such."""
    lower = view.lower
    for root, contexts in _ROOTED.items():
        turns = root in _LAST
        for place in view.signs(root):
            for sign, offset, context in contexts:
                if len(sign) == len(root) or lower.startswith(sign, place - offset):
                    yield from _in_context(view.text, place - offset, context)
            if turns:
                yield from _turned(view, place)
    yield from _entered(view)


def _in_context(text: str, place: int, context: Context) -> Iterator[Found]:
    starts = _starts(text, place) if context.kind == "key" else [place]
    if context.head:
        head = compiled(context.head)
        starts = [start for start in starts if head.match(text, start)]
    for pattern in context.patterns if starts else ():
        matches = (compiled(pattern).match(text, start) for start in starts)
        match = next((each for each in matches if each is not None), None)
        span = CHECKS[context.value](text, match) if match is not None else None
        if match is not None and span is not None:
            yield Found(*span, _kind(context.kind, text, match, span))
            return


def _starts(text: str, place: int) -> list[int]:
    """Return where the name of a key may begin: at its own word, or at the word before it."""
    start = place
    least = max(0, place - 48)
    while start > least and (text[start - 1].isalnum() or text[start - 1] in "_-."):
        start -= 1
    if start > least and text[start - 1] == " ":
        word = start - 1
        while word > least and text[word - 1].isalpha():
            word -= 1
        return [word, start]
    return [start]


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


def _turned(view: View, place: int) -> Iterator[Found]:
    """Yield secrets that stand before the word that says what they are, or after its "from"."""
    text, lower = view.text, view.lower
    before = lower[max(0, place - _WINDOW) : place]
    for sign in REVERSED_SIGNS:
        start = before.rfind(sign)
        match = REVERSED.match(text, place - len(before) + start) if start >= 0 else None
        span = _said_before(text, match) if match else None
        if span is not None and match is not None:
            what = match.group().lower()
            kind = "pin" if what.endswith("pin") else "otp" if "code" in what else "password"
            yield Found(*span, kind)
    if " from " in lower[place : place + 60]:
        match = FROM_TO.match(text, place)
        for name in ("old", "new") if match else ():
            span = value_at(text, match.start(name)) if match else None
            if span and _secretive(text[span[0] : span[1]]):
                yield Found(*span, "password")


def _secretive(value: str) -> bool:
    return (strong(value) and not VARIABLE.match(value)) or (
        value.isdigit() and 4 <= len(value) <= 8
    )


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


def _entered(view: View) -> Iterator[Found]:
    """Yield codes that are entered somewhere, and those that open something."""
    text = view.text
    for sign in _ENTERING:
        for place in view.signs(sign):
            match = ENTERED.match(text, place)
            if match:
                yield Found(*match.span("value"), "door-code")
    for sign in _OPENING:
        for place in view.signs(sign):
            if any(each.isdigit() for each in text[place : place + 40]):
                match = OPENS.search(text, max(0, place - 50), place + 120)
                if match:
                    yield Found(*match.span("value"), "door-code")
