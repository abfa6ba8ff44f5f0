"""Which words beside "password", "PIN" or "token" are one, and which only speak of it.

The one idea: a sign finds the place, a check decides by what stands there. Each check takes a text,
where the value would begin and how it is connected, and returns where the value begins and ends.
Invariant: a check looks at a few hundred characters at most.
"""

import re
from collections.abc import Callable

from homebox.memory.secret_codes import (
    CLOSING,
    Span,
    account,
    card,
    cvv,
    document,
    national,
    otp,
    sent,
)
from homebox.memory.secret_numbers import looks_random
from homebox.memory.secret_patterns import DOOR, KNOWN_CODE, PLAIN, SENTENCE

Check = Callable[[str, re.Match[str]], "Span | None"]

_LINE = 240  # characters of a line before a value
_ESCAPED = re.compile(r"\\{0,3}(?=[\"'`“„«‘])|[*_]{1,2}(?=[^\s*_])")
# What stands for a value that is put in later.
VARIABLE = re.compile(r"\$\{|\$\w+\Z|\$\(|%\w+%\Z|%[sdr]\b|[{<[]|\*+\Z")
_WORD = re.compile(r"[^\s]{1,256}")
_CODE = re.compile(
    r"[$%{<\[(]|[A-Za-z_][\w.]*[(\[]|(?:os|process|self|config|settings|args|env|this|ctx|req|request"
    r"|options|opts|params|props|data|user|obj|cfg|conf|crypt|Deno|import|vars?|local|secrets)\.\w"
    r"|\*+\Z|[xX]{3,}\Z|\.+\Z|[-=_~#]+\Z|\[secret:|</|!(?:=|\w+\Z)|\|\||&&|[a-z]+://"
)
_NAME = re.compile(
    r"[A-Za-z_][a-z]*(?:_[A-Za-z\d]+)+\Z|[a-z]+(?:[A-Z][a-z]+)+\Z|[A-Za-z_]+(?:\.[A-Za-z_]+)+\Z"
)
_PHRASE = re.compile(r"[A-Za-z]{2,12}(?:[ -][A-Za-z]{2,12}){3,9}")
_PRICE = re.compile(r"[$€£]\d[\d.,]*(?:/\w+)?\Z")
_TIMES = frozenset(("until", "since", "while", "everywhere", "yesterday", "today", "tomorrow"))
_SEED = re.compile(
    r"(?:\d{1,2}[.):]?[ \t]?)?[A-Za-z]{3,8}"
    r"(?:[\s,;]{1,3}(?:\d{1,2}[.):]?[ \t]?)?[A-Za-z]{3,8}){11,23}\b"
)
_CODES = re.compile(
    r"(?:[-*•\d]{1,2}[.)]?[ \t]{1,3})?[\"'`]?(?P<code>[A-Za-z\d]{3,16}(?:-[A-Za-z\d]{3,16}){0,5})"
    r"[\"'`]?[\s,;|]{0,4}"
)
_DIGITS = re.compile(r"[#*]?\d(?:[ .-]?\d){2,11}[#*]?(?![\w%€$£])")
_DOOR = re.compile(r"[#*]?[A-Za-z]?\d(?:[ .-]?\d){2,9}[A-Za-z]?[#*]?(?![\w%€$£]|[.,:]\d|-\w)")
_PAIR = re.compile(r"[\"'`]?[\w.@+-]{2,60}[\"'`]?[ ](?:/|\||:|and)[ ](?=\S)")
_PASSWORD_NEXT = re.compile(r",?[ ](?:[/|][ ]|(?:and )?(?:the )?(?:pw|pass\w*)\b)")
_TOKEN = re.compile(r"[A-Za-z\d+/=_.~:!@#$%^&*-]{8,512}")
_URL = re.compile(r"[^\s\"'<>]{1,200}(?=@)")


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


def line_of(text: str, place: int) -> int:
    """Return where the line of a place begins, or what is looked at of a long one."""
    least = max(0, place - _LINE)
    return max(text.rfind("\n", least, place) + 1, least)


def _unopened(word: str, closing: str) -> bool:
    return word.count({")": "(", "]": "[", "}": "{"}[closing]) < word.count(closing)


def strong(value: str) -> bool:
    """Say whether a word has letters with digits or signs among them, as few other words do."""
    letters = any(c.isalpha() for c in value)
    digits = any(c.isdigit() for c in value)
    signs = any(not c.isalnum() and c not in "'’-./_" for c in value)
    inner = re.search(r"[a-z][A-Z]", value) is not None
    return (len(value) >= 5 and letters and (digits or signs or inner)) or (
        len(value) >= 6 and digits
    )


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
    if re.search(r"[\n(]", match.group()) and not (strong(value) and re.search(r"\d", value)):
        return None
    if re.search(r"\bto\b[ :]*$", match.group()) and not _changed(text, match):
        return None
    if value.lower() in PLAIN or value.lower() in SENTENCE or len(value) < 3:
        return None
    if value[0] == "[" and value.startswith("[secret:"):
        return None
    if quoted:
        return span if _may_be_quoted(value, match.group()) else None
    if (_CODE.match(value) and not _signs(value)) or _PRICE.match(value):
        return None
    worded = re.match(r"[A-Z][a-z]+_[A-Za-z]", value) is not None  # no language writes names so
    named = _NAME.match(value) and not worded and not re.search(r"\d{2}", value) and spoken(value)
    if named or _is_type(value):
        return None
    if strong(value) and "(" not in value[1:]:
        return _before_next(text, span)
    if match["bare"] or (short and not value.isalpha()):
        return None
    return span if _plain_word(text, match, span) else None


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


def spoken(value: str) -> bool:
    """Say whether the parts of a name can be spoken, as in `userName`, and not in `uXdgNkw`."""
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", value)
    mute = sum(not re.search("[aeiouyAEIOUY]", part) for part in parts)
    return mute * 2 < len(parts)


def _is_type(value: str) -> bool:
    found = re.match(r"[A-Z][a-z]+(?:[A-Z][a-z]+)+[\[,)]?", value)
    return found is not None and spoken(value) and not re.search(r"\d", value)


def _may_be_quoted(value: str, before: str) -> bool:
    if value.strip(" .*xX•-_") == "" or (_CODE.match(value) and not _signs(value)):
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


def _before_next(text: str, span: Span) -> Span:
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
    if len(value) < 4 or value.lower() in PLAIN | SENTENCE or _CODE.match(value):
        return None
    user = re.search(r"\d|@|\A\W?(?:admin|root|user|guest|administrator)\b", pair.group(), re.I)
    return span if user or (strong(value) and not (_NAME.match(value) and spoken(value))) else None


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


def digits(text: str, match: re.Match[str]) -> Span | None:
    """Take a number of 3 or more digits; after a bare PIN or a colon, of at least 4."""
    place = match.end() + (text[match.end() : match.end() + 1] in CLOSING)
    found = _DIGITS.match(text, place)
    if found is None:
        return password(text, match) if "passcode" in match.group().lower() else None
    count = sum(c.isdigit() for c in found.group())
    return found.span() if count >= 4 or re.search(r"\b(?:is|was)\b", match.group()) else None


def door(text: str, match: re.Match[str]) -> Span | None:
    """Take a code of doors and alarms, where one is spoken of."""
    place = match.end() + (text[match.end() : match.end() + 1] in CLOSING)
    found = _DOOR.match(text, place)
    if found is None or sum(c.isdigit() for c in found.group()) < 3:
        return None
    least = max(0, match.start() - 60)
    line = max(text.rfind("\n", least, match.start()) + 1, least)
    before = text[line : match.start()]
    if DOOR.search(before) or DOOR.search(match.group()):
        return found.span()
    told = re.search(
        r"\b(?:the|my|our|your|his|her|their)(?: (?!error|status)[a-z]+)?[ ]$", before, re.I
    )
    said = re.search(r"(?:\bis|\bwas|['’]s|\bto)\s*(?:now |still )?$", match.group())
    known = KNOWN_CODE.search(before) and not before.lower().rstrip().endswith("the")
    plain = 4 <= sum(c.isdigit() for c in found.group()) <= 8
    return found.span() if told and said and plain and not known else None


def place(text: str, match: re.Match[str]) -> Span | None:
    """Take the code of a place that is named as a label: "garage: 4711"."""
    found = _DOOR.match(text, match.end())
    label = re.search(r"[:=]\s*$", match.group())
    return found.span() if found and label and len(found.group()) >= 4 else None


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
    end = _before_next(text, (start, found.end()))[1]
    while end > start and text[end - 1] in ".,;:!":
        end -= 1
    value = text[start:end]
    if _CODE.match(value) or value.lower() in PLAIN or re.match(r"(?:\[secret|sha\d+[:-])", value):
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
    return None if _CODE.match(found.group()) or match["bare"] else found.span()


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


def words(text: str, match: re.Match[str]) -> Span | None:
    """Take the words from which a wallet is made again."""
    found = _SEED.match(text, match.end())
    if found is None:
        return None
    said = list(re.finditer(r"[A-Za-z]+", found.group()))
    for count in (24, 21, 18, 15, 12):
        plain = sum(word.group().lower() in SENTENCE for word in said[:count])
        if len(said) >= count and plain <= count // 12:
            return found.start(), found.start() + said[count - 1].end()
    return None


def codes(text: str, match: re.Match[str]) -> Span | None:
    """Take a list of codes for the day on which a key is lost."""
    start = end = 0
    place = match.end()
    while place < match.end() + 800:
        found = _CODES.match(text, place)
        code = found["code"] if found else ""
        if found is None or len(code) < 6 or not re.search(r"\d", code):
            break
        start = start or found.start("code")
        end, place = found.end("code"), found.end()
    return (start, end) if end else None


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        *(
            password,
            short,
            digits,
            door,
            place,
            otp,
            sent,
            cvv,
            national,
            document,
            account,
            card,
            key,
        ),
        *(header, bearer, url, argument, words, codes),
    )
}
