"""What of a sentence that speaks of a way in is the secret.

The one idea: the row has found the cue, so here only the form of words is judged, the milder the
closer they stand to it. Invariant: the rest of a sentence is a hundred characters at most.
"""

import re
from collections.abc import Callable, Iterable, Iterator

from homebox.memory.secrets.cues import Check
from homebox.memory.secrets.view import Span, View
from homebox.memory.secrets.vocabulary import DOOR, KNOWN_CODE, VARIABLE
from homebox.memory.secrets.words import mixed, signed, solid, strong, value_at

_SIGNING = re.compile(
    r"\b(?:sign|log)(?:ging|ing)?[ -]?in|\bverif|\bconfirm|guard|authenticator", re.I
)
# What follows "password" where it is the name of something else.
_ABOUT = re.compile(
    r"[ -](?:manager|polic|reset|field|hash|prompt|generator|length|rule|file|store|vault|strength"
    r"|check|box|input|form|page|screen|based|protect|less|must|should|needs?|has to|can)",
    re.IGNORECASE,
)
_SAID = re.compile(
    r"(?:\b(?:is|was|be|its|it['’]?s|use|used|try|tried|with|now|still|again)[ ]"
    r"|(?P<loose>[:,–—][ ]|->[ ]|=[ ]))[\"'`]?(?P<value>[^\s,;:\"'`]{5,60})"
)
_QUOTES = (*"\"'`_-.$",)  # before a word of a program
_TWO_DIGITS = re.compile(r"\d\D*\d")
_PASSWORD = re.compile(r"pass|\bpin\b|\bpw\b|\bcode\b")
_STOP = re.compile(r"[.!?;][ ](?=[A-Z])|[={|]")
_NUMBERED = re.compile(r"\d{3}|\d[A-Za-z]|[!$&*#%^?]")
_ONE_WORD = re.compile(r"[\w!$&*#%^?+-]+")


def opening(view: View, match: re.Match[str]) -> Iterable[Span]:
    """Take a code of letters and digits of which it is said that it lets someone in."""
    text = view.text
    line = text[slice(*_line(text, match))]
    code = match.span("value")
    if match.group().lower().startswith("steam"):
        return (code,)
    let_in = (_SIGNING.search(line) or DOOR.search(line)) is not None
    known = KNOWN_CODE.search(text, max(0, match.start() - 30), match.start() + 1) is not None
    return (code,) if let_in and _TWO_DIGITS.search(match["value"]) and not known else ()


def _line(text: str, match: re.Match[str]) -> tuple[int, int]:
    """Return where the line of a match begins and ends, or a little beside it."""
    end = text.find("\n", match.end(), match.end() + 60)
    begin = text.rfind("\n", max(0, match.start() - 90), match.start()) + 1
    return max(begin, match.start() - 90), end if end >= 0 else match.end() + 60


def spoken_of(view: View, match: re.Match[str]) -> Iterable[Span]:
    """Take the value where a password was spoken of before."""
    before = view.text[max(0, match.start() - 60) : match.start()]
    return (match.span("value"),) if _PASSWORD.search(before) else ()


def said(view: View, match: re.Match[str]) -> Iterator[Span]:
    """Take the words behind "password" that are said to be one."""
    start, rest = match.start("rest"), match["rest"]
    if _ABOUT.match(rest) or view.text[max(0, match.start() - 1) : match.start()] in _QUOTES:
        return
    stop = _STOP.search(rest)
    for each in _SAID.finditer(rest, 0, stop.start() if stop else len(rest)):
        word = each["value"].rstrip(".!?)*")
        if solid(word) if each["loose"] is not None else mixed(word):
            end = each.start("value") + len(each["value"].rstrip(".)*"))
            yield start + each.start("value"), start + end


def both(view: View, match: re.Match[str]) -> Iterator[Span]:
    """Take an old password and a new one."""
    start, rest = match.start("rest"), match["rest"]
    old, new = rest.split(" to ", 1)
    words = [word.rstrip(".,;:)") for word in (old, new)]
    if all(mixed(word) for word in words) and any(signed(word) for word in words):
        yield start, start + len(words[0])
        begin = start + len(old) + len(" to ")
        yield begin, begin + len(words[1])


def word_that_is(test: Callable[[str], bool]) -> Check:
    """Return the check of a row whose rest is one word, of a form that the test knows."""

    def check(view: View, match: re.Match[str]) -> Iterable[Span]:
        rest = match["rest"]
        word = rest.rstrip(".,;:)\"'`")
        word = word[1:] if word[:1] in "\"'`(" else word
        begin = match.start("rest") + rest.find(word)
        return ((begin, begin + len(word)),) if test(word) else ()

    return check


def paired(word: str) -> bool:
    """Say whether a word behind a user's name is a password."""
    return (
        solid(word) and _NUMBERED.search(word) is not None and _ONE_WORD.fullmatch(word) is not None
    )


def changed(view: View, match: re.Match[str]) -> Iterator[Span]:
    """Take what a password was, and what it became."""
    text = view.text
    for name in ("old", "new"):
        span = value_at(text, match.start(name))
        if span and _secretive(text[span[0] : span[1]]):
            yield span


def _secretive(value: str) -> bool:
    return (strong(value) and not VARIABLE.match(value)) or (
        value.isdigit() and 4 <= len(value) <= 8
    )
