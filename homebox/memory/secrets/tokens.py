"""Which values beside "key", "token" or in an address are secret, and which are put in later.

The one idea: programs write what they are given with little around it, so a value counts unless it
is a name, a path, a version or stands for another. Invariant: a check looks at a few hundred
characters at most, a token at two thousand.
"""

import re

from homebox.memory.secrets.keys import looks_random
from homebox.memory.secrets.passwords import PROGRAM, before_next, line_of
from homebox.memory.secrets.view import Span
from homebox.memory.secrets.vocabulary import PLAIN, VARIABLE
from homebox.memory.secrets.words import strong, value_at

_TOKEN = re.compile(r"[A-Za-z\d+/=_.~:!@#$%^&*-]{8,512}")
_URL = re.compile(r"[^\s\"'<>]{1,200}(?=@)")


def key(text: str, match: re.Match[str]) -> Span | None:
    """Take a key or token that a file or a person names as one."""
    span = value_at(text, match.end())
    if span is None:
        return None
    start, end = span
    found = _TOKEN.match(text, start, end)
    if found is None or re.search(
        r"public|foreign|primary|cache|sort|dict|lookup", match.group(), re.I
    ):
        return None
    end = before_next(text, (start, found.end()))[1]
    while end > start and text[end - 1] in ".,;:!":
        end -= 1
    value = text[start:end]
    if (
        PROGRAM.match(value)
        or value.lower() in PLAIN
        or re.match(r"(?:\[secret|sha\d+[:-])", value)
    ):
        return None
    if re.fullmatch(r"(?:0x)?[\da-fA-F]{32,}", value):
        return (start, end)
    digits_, letters = re.search(r"\d", value), re.search(r"[A-Za-z]", value)
    if not (digits_ and letters) or len(value) < 10 or _ordinary(value):
        return None
    return (
        None
        if match["bare"] and not (looks_random(value) or (strong(value) and len(value) >= 16))
        else (start, end)
    )


def _ordinary(value: str) -> bool:
    """Say whether a value is a name, path or version, digits included."""
    if re.match(r"(?:https?|file|s3|git)://|[~./]|[\w-]+(?:\.[\w-]+)+(?:/|\Z)(?=[^A-Z]*\Z)", value):
        return True
    words = re.sub(r"[A-Z]?[a-z]{3,}|[A-Z]{3,}", "", value)
    return (
        len(re.sub(r"[^A-Za-z]", "", words)) <= 1
        and len(re.sub(r"\D", "", words)) <= 3
        and "-" in value
    ) or bool(
        re.fullmatch(r"[a-z]+(?:[_.-][a-z\d]+)*\d?", value) and not re.search(r"\d[a-z]+\d", value)
    )


def header(text: str, match: re.Match[str]) -> Span | None:
    """Take what stands in a header that says who asks."""
    scheme = re.compile(r"[\"'`]?(?:(?:bearer|basic|token|digest|apikey|negotiate)\s{1,3})?", re.I)
    place = scheme.match(text, match.end())
    start = place.end() if place else match.end()
    found = re.compile(r"[A-Za-z\d+/=_.~:-]{6,2048}").match(text, start)
    if found is None or not re.search(r"\d|[a-z][A-Z]|=\Z", found.group()):
        return None
    return None if PROGRAM.match(found.group()) or match["bare"] else found.span()


def bearer(text: str, match: re.Match[str]) -> Span | None:
    """Take a token behind the word that announces it."""
    found = re.compile(r"[\"'`]?([A-Za-z\d+/=_.~%-]{8,2048})").match(text, match.end())
    if found is None:
        return None
    value = found.group(1)
    random = re.search(r"\d", value) and re.search(r"[A-Za-z]", value)
    cased = re.search(r"[a-z][A-Z]", value[1:]) and re.search(r"=\Z", value)
    plain = re.fullmatch(r"[A-Za-z]+-?\d{0,2}", value)
    return found.span(1) if (random or cased) and not plain else None


def url(text: str, match: re.Match[str]) -> Span | None:
    """Take the password of an address."""
    found = _URL.match(text, match.end())
    if found is None:
        return None
    value = found.group()
    if (
        value.lower() in PLAIN
        or VARIABLE.match(value)
        or re.match(r"x{3,}\Z|pass\Z|\d{1,5}/", value)
        or value.startswith("//")
    ):
        return None
    return found.span()


def argument(text: str, match: re.Match[str]) -> Span | None:
    """Take a password that a command is given."""
    line = line_of(text, match.start())
    before = text[max(line, match.start() - 200) : match.start()]
    programs = (
        r"\b(?:curl|wget|https?|mysql\w*|mariadb|sshpass|redis-cli"
        r"|mongo\w*|docker login|az|ldap\w+|smbclient|psql|7z|zip|htpasswd)\b"
    )
    if not re.search(programs, before):
        return None
    if match.group().strip().startswith("-p") and not re.search(
        r"mysql|mariadb|sshpass|docker|mongo|7z|az\b", before
    ):
        return None
    if re.search(r"mysql|mariadb", before) and match.group()[-1] in " =":
        return None  # what follows behind a blank is the name of a database
    if match.group().strip().startswith("-a") and "redis" not in before:
        return None
    span = value_at(text, match.end())
    value = text[span[0] : span[1]] if span else ""
    return (
        None
        if len(value) < 4
        or value.startswith(("$", "<", "-"))
        or (value.isdigit() and len(value) < 5)
        else span
    )
