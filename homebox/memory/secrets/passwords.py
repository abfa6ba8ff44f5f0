"""Which words beside "password" or "login" are one, and which only speak of it.

The one idea: a sign finds the place, a check decides by what stands there. Each check takes a text
and what matched in it up to where the value would begin, and returns where that begins and ends.
Invariant: a check looks at a few hundred characters at most.
"""

import re
from functools import lru_cache

from homebox.memory.secrets.view import Span
from homebox.memory.secrets.vocabulary import PLAIN, SENTENCE
from homebox.memory.secrets.words import CLOSING, spoken, strong, value_at

_LINE = 240  # characters of a line before a value
PROGRAM = re.compile(
    r"[$%{<\[(]|[A-Za-z_][\w.]*[(\[]|(?:os|process|self|config|settings|args|env|this|ctx|req|request"
    r"|options|opts|params|props|data|user|obj|cfg|conf|crypt|Deno|import|vars?|local|secrets)\.\w"
    r"|\*+\Z|[xX]{3,}\Z|\.+\Z|[-=_~#]+\Z|\[secret:|</|!(?:=|\w+\Z)|\|\||&&|[a-z]+://"
)
NAME = re.compile(
    r"[A-Za-z_][a-z]*(?:_[A-Za-z\d]+)+\Z|[a-z]+(?:[A-Z][a-z]+)+\Z|[A-Za-z_]+(?:\.[A-Za-z_]+)+\Z"
)
_PHRASE = re.compile(r"[A-Za-z]{2,12}(?:[ -][A-Za-z]{2,12}){3,9}")
_PRICE = re.compile(r"[$€£]\d[\d.,]*(?:/\w+)?\Z")
_TO = re.compile(r"\bto\b[ :]*$")
_TIMES = frozenset(("until", "since", "while", "everywhere", "yesterday", "today", "tomorrow"))
_PAIR = re.compile(r"[\"'`]?[\w.@+-]{2,60}[\"'`]?[ ](?:/|\||:|and)[ ](?=\S)")
_PASSWORD_NEXT = re.compile(r",?[ ](?:[/|][ ]|(?:and )?(?:the )?(?:pw|pass\w*)\b)")


def line_of(text: str, place: int) -> int:
    """Return where the line of a place begins, or what is looked at of a long one."""
    least = max(0, place - _LINE)
    return max(text.rfind("\n", least, place) + 1, least)


def _quoted(text: str, start: int) -> bool:
    return text[start - 1 : start] in CLOSING


def password(text: str, match: re.Match[str], short: bool = False) -> Span | None:
    """Take what a person or a file gives as password, and none of what they say about it."""
    place = match.end()
    phrase = None if match["bare"] else _phrase(text, place, match.group())
    if phrase is not None:
        return phrase
    span = value_at(text, place)
    if span is None:
        return None
    value = text[span[0] : span[1]]
    quoted = _quoted(text, span[0])
    # In the next line, or in brackets, stand other things as well.
    said = match.group()
    if ("\n" in said or "(" in said) and not (strong(value) and any(map(str.isdigit, value))):
        return None
    if _TO.search(said) and not _changed(text, match):
        return None
    if value.lower() in PLAIN or value.lower() in SENTENCE or len(value) < 3:
        return None
    if value[0] == "[" and value.startswith("[secret:"):
        return None
    if quoted:
        return span if _may_be_quoted(value, said) else None
    if _in_program(value):
        return None
    if strong(value) and "(" not in value[1:]:
        return before_next(text, span)
    if match["bare"] or (short and not value.isalpha()):
        return None
    return span if _plain_word(text, match, span) else None


@lru_cache(4096)
def _in_program(value: str) -> bool:
    """Say whether a value is a piece of a program, a name in one, or a price."""
    if (PROGRAM.match(value) and not _signs(value)) or _PRICE.match(value):
        return True
    worded = re.match(r"[A-Z][a-z]+_[A-Za-z]", value) is not None  # no language writes names so
    named = NAME.match(value) and not worded and not re.search(r"\d{2}", value) and spoken(value)
    return bool(named) or _is_type(value)


def _phrase(text: str, place: int, before: str) -> Span | None:
    """Take four or more words that make no sentence, up to where one goes on."""
    quoted = text[place : place + 1] in CLOSING
    match = _PHRASE.match(text, place + quoted)
    if match is None:
        return None
    found: list[re.Match[str]] = []
    for word in re.finditer("[A-Za-z]+", match.group()):
        if word.group().lower() in SENTENCE | _TIMES:
            break
        found.append(word)
    words = [word.group().lower() for word in found]
    plain = sum(word in PLAIN or word.endswith(("ed", "ing", "ly")) for word in words)
    named = "phrase" in before.lower() or quoted
    if len(words) < 4 or sum(map(len, words)) < 3 * len(words) or plain > (2 if named else 1):
        return None
    return match.start(), match.start() + found[-1].end()


def _changed(text: str, match: re.Match[str]) -> bool:
    before = text[max(0, match.start() - 60) : match.end()]
    return (
        re.search(r"\b(?:re)?(?:set|chang|updat|rotat|switch)\w*\b[^\n.!?]*$", before, re.I)
        is not None
    )


def _signs(value: str) -> bool:
    """Say whether a value that begins like a program is a password after all: $ecret, !4you."""
    return (
        bool(re.match(r"[$!%][A-Za-z\d]", value))
        and bool(re.search(r"\d|[^\w$]", value[1:]))
        and (re.search(r"[a-z]", value) is not None and not re.match(r"[$%]\w+[%)\]}]?\Z", value))
    )


def _is_type(value: str) -> bool:
    found = re.match(r"[A-Z][a-z]+(?:[A-Z][a-z]+)+[\[,)]?", value)
    return found is not None and spoken(value) and not re.search(r"\d", value)


def _may_be_quoted(value: str, before: str) -> bool:
    if value.strip(" .*xX•-_") == "" or (PROGRAM.match(value) and not _signs(value)):
        return False
    words = value.split()
    if len(words) > 1:
        # A text of a program, unless it has the look of a phrase.
        sentence = {word.lower().strip(".,:;!?") for word in words} & (SENTENCE | PLAIN)
        return not sentence and (len(words) >= 4 or strong(value))
    if re.fullmatch(
        r"(?:[a-z]+[_-])*(?:pass(?:word|wd|phrase)?|pw|pwd|secret|token|key)s?\d?", value, re.I
    ):
        return False
    return len(value) >= 4


def before_next(text: str, span: Span) -> Span:
    """End a value where the next setting of the same line begins."""
    start, end = span
    following = re.search(
        r"[;&,](?=[A-Za-z_ ]{2,30}=)|[\"'](?=[,}\]]|$)|\\[\"'nr]|</", text[start:end]
    )
    return (start, start + following.start()) if following and following.start() > 2 else span


def _plain_word(text: str, match: re.Match[str], span: Span) -> bool:
    """Say whether a word of letters alone is a password, by how it is told."""
    value, after = text[span[0] : span[1]], text[span[1] : span[1] + 2]
    connection = match.group()[-4:]
    if not 4 <= len(value) <= 40 or not value.isalpha():
        return value.isdigit() and len(value) >= 4
    if (after[:1] and after[0] in "([=") or re.match(r"\.\w", after):
        return False
    ends = not after or after[0] in ".!\n\r;" or (after[0] == "," and after[1:2] == " ")
    if "=" in connection:
        line = line_of(text, match.start())
        words = text[line : match.start()].replace("export ", "").strip(" \t#-")
        key = match.group().rstrip(" =")
        begins = not words or re.fullmatch(r"[A-Z\d_]+", words) is not None
        return (
            begins
            and (not after or after[0] in "\n\r")
            and (key.isupper() or " " not in connection)
        )
    said = re.search(r"(?:is|was|to|ist|es|est|['’]s)\s*(?:\w+[ ])?$", match.group()) is not None
    mine = re.search(
        r"\b(?:my|our|his|her|their|the|mein|unser|mi|mon|wi-?fi|wlan|new|old|your)\b[^\n.!?]{0,40}$",
        text[max(0, match.start() - 60) : match.start()],
        re.IGNORECASE,
    )
    if said:
        passive = re.search(r"(?:ed|ing|ly|ble)\Z", value) is not None
        return (
            mine is not None and (not passive or value[0].isupper()) and (ends or after[0] == " ")
        )
    return ends or not after.strip()


def short(text: str, match: re.Match[str]) -> Span | None:
    """Take a password after "pass" or "pw", which mean other things as well."""
    word = match.group().lower()
    if word.startswith(("log", "cred")):
        second = _second(text, match)
        if second is not None:
            return second
    if word.startswith(("pass", "log", "cred")):
        span = value_at(text, match.end())
        value = text[span[0] : span[1]] if span else ""
        if span and not word.startswith("pass") and _PASSWORD_NEXT.match(text, span[1]):
            return None  # a user's name
        if not strong(value) or (
            not re.search(r"\d", value) and not _quoted(text, match.end() + 1)
        ):
            return password(text, match) if _labelled(text, match) else None
    return password(text, match, short=not word.startswith("pw"))


def _second(text: str, match: re.Match[str]) -> Span | None:
    """Take the password of "admin / hunter2"."""
    pair = None if match["bare"] else _PAIR.match(text, match.end())
    span = value_at(text, pair.end()) if pair else None
    if pair is None or span is None:
        return None
    value = text[span[0] : span[1]]
    if len(value) < 4 or value.lower() in PLAIN | SENTENCE or PROGRAM.match(value):
        return None
    user = re.search(r"\d|@|\A\W?(?:admin|root|user|guest|administrator)\b", pair.group(), re.I)
    return span if user or (strong(value) and not (NAME.match(value) and spoken(value))) else None


def _labelled(text: str, match: re.Match[str]) -> bool:
    """Say whether "pass" stands as a label on its line: "pass: swordfish"."""
    line = line_of(text, match.start())
    before = text[line : match.start()]
    return (
        bool(
            re.fullmatch(
                r"[\s>*#-]*(?:[A-Z\d_]*_)?(?:my |the |wi-?fi |user:? ?\S* ?[,/]? ?)?", before
            )
        )
        and bool(re.search(r"[:=]\s*$", match.group()))
        and "log" not in match.group().lower()
    )
