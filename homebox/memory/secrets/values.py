"""Which value of a form is a secret, and which stands in for one.

The one idea: a form says where its secret would stand, in the group `value` or `word`, so only that
one word is judged. Invariant: a test looks at the value and at the hundred characters before it.
"""

import re
from collections.abc import Callable, Iterable

from homebox.memory.secrets.cues import Check
from homebox.memory.secrets.view import Span, View
from homebox.memory.secrets.vocabulary import PLAIN, SENTENCE, VARIABLE
from homebox.memory.secrets.words import solid

# A value between quotation marks, or a word.
QUOTED = (
    r"(?:(?P<quote>[\"'])(?P<value>[^\"'\n]{4,120})(?P=quote)|(?P<word>[^\s\"'<>|;&$]\S{3,119}))"
)
_STANDIN = re.compile(
    r"your|example|placeholder|change|insert|replace|dummy|redacted|secret:|x{3,}|\.{3}|\*{2,}|^test$"
    r"|^none$|^null$|^true$|^false$|^\d{1,3}$|here\b",
    re.IGNORECASE,
)
_FLAGGED = re.compile(r"(?:\A|[\s\"'])-(?:-[a-z]{1,20}){0,3}\Z", re.IGNORECASE)
_BANK = re.compile(
    r"\bbank|\bsecurity|\breset|\bverif|\baccount|\blogin|memorable|secret|\bsafe word", re.I
)
_CARD = re.compile(r"\b(?:card|cvv|cvc|visa|amex|mastercard|digits?|code|number)\b", re.IGNORECASE)


def _value_if(test: "Callable[[str, re.Match[str]], bool]") -> Check:
    """Return the check that takes the value of a form, without its punctuation, if a test holds."""

    def check(view: View, match: re.Match[str]) -> Iterable[Span]:
        start, end = match.span("value" if match["value"] is not None else "word")
        if match.groupdict().get("quote") is None:
            while end > start and view.text[end - 1] in ".,;:)\"'`":
                end -= 1
        value = view.text[start:end]
        if len(value) < 3 or VARIABLE.match(value) or _STANDIN.search(value):
            return ()
        return ((start, end),) if test(value, match) else ()

    return check


def whole(view: View, match: re.Match[str]) -> Iterable[Span]:
    """Take all that matched."""
    return (match.span(),)


def card(view: View, match: re.Match[str]) -> Iterable[Span]:
    """Take what stands on a card, where one was spoken of."""
    return (match.span("value"),) if _CARD.search(_before(match, 60, "value")) else ()


def _before(match: re.Match[str], length: int, group: str | int = 0) -> str:
    return match.string[max(0, match.start() - length) : match.start(group)]


@_value_if
def given(value: str, match: re.Match[str]) -> bool:
    """Take any value."""
    return True


@_value_if
def told(value: str, match: re.Match[str]) -> bool:
    """Take a value that is no plain word and no piece of a program."""
    if match.groupdict().get("quote") and re.search(r"\d", value) and " " not in value:
        return True
    return value.lower() not in PLAIN and not re.search(r"[(){}]|\$\{|^[-.]|\w=\w", value)


@_value_if
def pair(value: str, match: re.Match[str]) -> bool:
    """Take the password of a pair, if its user is one."""
    user = match["user"]
    if value.lower() in PLAIN or user.lower() in SENTENCE | PLAIN | {"name", "names"}:
        return False
    plain = re.fullmatch(r"[A-Za-z_.]+|[a-z]+-[a-z]+", value) is not None
    named = len(user) < 4 or re.search(r"[\d.@_]", user) is not None
    return not re.search(r"[()\[\]{}=]", value) and (not plain or named)


@_value_if
def argument(value: str, match: re.Match[str]) -> bool:
    """Take what follows an option of a command."""
    return (
        _FLAGGED.search(_before(match, 60)) is not None
        and len(value) >= 4
        and value.lower() not in PLAIN
        and not re.search(r"[(){}<>]|\A[-A-Z_]+\Z|\A[.,/-]", value)
        and (re.search(r"[\d\W]", value) is not None or match.group().count("=") > 0)
    )


@_value_if
def owned(value: str, match: re.Match[str]) -> bool:
    """Take a key, unless it is one of those that programs sort or cache by."""
    before = _before(match, 16).lower()
    return re.search(r"(?:cache|public|primary|foreign|sort|hash|dict|object)[ ]\Z", before) is None


@_value_if
def mounted(value: str, match: re.Match[str]) -> bool:
    """Take the password of a share, behind its user."""
    return re.search(r"-o[ ]\S*user(?:name)?=[^\s,]+,\Z", _before(match, 80)) is not None


@_value_if
def parameter(value: str, match: re.Match[str]) -> bool:
    """Take the password among the parameters of an address."""
    return re.search(r"[?&][\w-]*\Z|literal=[\w-]*\Z", _before(match, 60)) is not None


@_value_if
def address(value: str, match: re.Match[str]) -> bool:
    """Take the token among the parameters of an address."""
    return (
        re.search(r"[?&][\w-]*\Z", _before(match, 40)) is not None
        and re.search(r"\d", value) is not None
        and (len(value) >= 16 or re.search(r"[A-Za-z]", value) is not None)
    )


@_value_if
def signed_word(value: str, match: re.Match[str]) -> bool:
    """Take a word that has signs or a digit before letters."""
    return solid(value) and re.search(r"\w[!$&*#@%^?+]|\d[A-Za-z]", value) is not None


@_value_if
def lettered(value: str, match: re.Match[str]) -> bool:
    """Take a word of letters and digits."""
    return re.search(r"\d", value) is not None and re.search(r"[A-Za-z]", value) is not None


@_value_if
def question(value: str, match: re.Match[str]) -> bool:
    """Take the answer to the question of a bank."""
    return _BANK.search(match.group()) is not None and value.lower() not in PLAIN


@_value_if
def asked(value: str, match: re.Match[str]) -> bool:
    """Take the answer to a question that somebody asks who wants to know whom he speaks to."""
    line = match.string[match.start() : match.end() + 60].split("\n")[0]
    return value.lower() not in PLAIN and (
        _BANK.search(line) is not None
        or re.search(r"\b(?:they|it|who) asks?\b", line, re.I) is not None
    )


@_value_if
def spoken(value: str, match: re.Match[str]) -> bool:
    """Take a word that is to be said, where somebody says or tells it."""
    before = _before(match, 40).rpartition("\n")[2]
    said = re.search(r"\b(?:say|tell|give|use|with|is)\b", before, re.I)
    return said is not None and value.lower() not in PLAIN | SENTENCE
