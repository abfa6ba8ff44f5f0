"""Finds made-up words beside a way in: words that no language has and no shop sells.

The one idea: owners who name no password still name what it opens ("netflix is ...") or how it is
used ("i use ... everywhere"), and a word that mixes letters with digits or signs fits nothing else
in such a clause. How mixed it must be depends on how near the clause is to saying "password".
Invariant: from each sign a bounded clause is looked at, so a text takes time in proportion to its
length.
"""

import re
from collections.abc import Iterator

from homebox.memory.secret_lines import mixed
from homebox.memory.secret_numbers import Found, View
from homebox.memory.secret_patterns import PLAIN, SENTENCE
from homebox.memory.secret_signs import each_alone

# What says that a secret is spoken of.
_SAYING = (
    *(
        "passw",
        "passphrase",
        "passcode",
        " pw",
        "log in",
        "logs in",
        "log into",
        "login",
        "logon",
        "log onto",
    ),
    *(
        "sign in",
        "sign-in",
        "the pass ",
        "gets in",
        "get in",
        "rejected",
        "recovery",
        "signs in",
        "signed in",
        "unlock",
        "opens with",
        "vault",
        "credential",
    ),
)
# What is locked, and what is done with secrets.
_NAMING = (
    *("wifi", "wi-fi", "wlan", "network", "router", "hotspot", "netflix", "spotify", "amazon"),
    *("ebay", "paypal", "icloud", "apple id", "gmail", "facebook", "instagram", "whatsapp"),
    *("discord", "vpn", "portal", "account", "laptop", "tablet", "ipad", "doorbell", "printer"),
    *("babycam", "baby monitor", "hulu", "club login", "gym app", "school thing", "locked"),
    *("mailbox", "webmail", "bitwarden", "keepass", "disney", "dropbox", "linkedin", "twitter"),
    *("outlook", "onedrive", "youtube", "intranet", "computer", "nas ", "the app", "bank"),
    *("always use", "is that bad", "is that safe", "strong enough", "shared drive", "steam is"),
    *("everywhere", "for everything", "accepted", "used to work", "still works", "remember "),
    *("for all my", "for all of", "on every site", "reset", "put in ", "type ", "typed "),
)
_SPELLING = (
    *("all lowercase", "all lower case", "all caps", "all uppercase", "no spaces", "one word"),
    *("lower case", "lowercase", "with a capital", "capital "),
)
SIGNS = (*_SAYING, *_NAMING, *_SPELLING, "pw?", "password?", "passwort?", "passphrase?")

_BEFORE, _BEHIND = 64, 72  # characters of a clause before and behind its sign
_MOST_LOOKS = 4  # at signs as near to each other as that
_STOP = re.compile(r"[.!?;][ ](?=\S)|[\n(){}<>=|]")
# What leads to the word: a verb, a mark, or that the clause begins with it.
_LEADING = re.compile(
    r"(?:\b(?:is|was|its|it['’]?s|be|use|used|uses|using|try|tried|type|typed|enter|entered|put in"
    r"|needs?|wants?|takes?|accepted|accepts|remember|with|now|then|again|still|to|from|and|or|say"
    r"|says|set|told them|gave (?:it|them|him|her)|would|is|runs on|just|really|actually|simply"
    r"|pw|pass|password|passcode|passphrase|guess|think|about"
    r"|login|one|thing|for (?:the|my|our) \w+|pw['’]s)[ ]|[,:–—-][ ]|\w['’]s[ ]|\A[ ]?)[\"'“`(]?\Z",
    re.IGNORECASE,
)
# What a word beside them is instead: somebody's or something's name.
_OWNED = re.compile(
    r"\b(?:user(?:name)?|channel|profile|repo|user ?id|login name|handle|nick(?:name)?|account"
    r"|gamertag|ssid|e-?mail|id"
    r"|network|named?|called|version|model|branch|commit|release|tag|ticket|order|invoice|file"
    r"|folder|serial|flight|room|host(?:name)?|server|variable|function|class|package|device)"
    r"(?:['’]s)?(?:[ ](?:name|number|id|no))?"
    r"(?:[ ]on[ ]\w+)?(?:[ ](?:is|was|to|now|are|with)|[:,])*[ ][\"'“`(]?\Z",
    re.IGNORECASE,
)
# Behind a name of which the password follows.
_USED = re.compile(r"[\"'`]?,?[ ](?:[/|+][ ]|(?:and )?(?:the )?(?:pw|pass|password|passwd)\b)")
_TOKEN = re.compile(r"[^\s\"'“”`(),;:<>=|\[\]{}]{6,40}")
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
    r"|[A-Za-z]{3,}[-_.]\d{1,4}[-_.][A-Za-z]{3,}"
)
_JOINED = re.compile(r"[A-Z][a-z]+(?:_[A-Za-z]+){1,4}")
_PLAIN_BEFORE = re.compile(
    r"(?:\b(?:is|with|use|type|say|to|it['’]?s)|[:,])[ ][\"'“`]?(?P<value>[A-Za-z]{4,24})"
    r"[\"'”`]?,?[ ]"
    r"(?:(?:but|and|in|it['’]?s|with|as)[ ])?\Z"
)
_PLAIN_BEHIND = re.compile(r"\?[ ]{1,2}(?P<value>[A-Za-z]{5,24})[.!]?(?=\s*(?:\n|\Z))")
_ANSWERS = frozenset(("sorry", "thanks", "please", "nothing", "really", "maybe", "again", "hello"))
# A letter's place taken by a digit, as in "h0neyBadger"; and a sign within a word.
_LEET = re.compile(rb"a0{1,2}aa")
_SIGN = re.compile(rb"[A-Za-z\d][!&#$%*^][A-Za-z\d]")
_WHOLE = re.compile(r"(?<![^\s\"'“`(])[^\s\"'“”`(),;:<>=|/\\\[\]{}]{8,40}(?=[\s\"'”`),;:.?!]|\Z)")
_REPLACED = re.compile(r"[A-Za-z](?:0{1,2}|[1357@$]{1,2}|8(?=er))[a-z]{2}")
_JOINING = re.compile(r"[a-z]{3,}[!&#$%*^][A-Za-z\d]|[a-z]{3,}\d*[!&#$%*^]\d")
_NUMBERED = re.compile(r"[A-Za-z]+#\d+")
_PROSE = re.compile(r"[(){}<>=|\\\[\]]|::|->|\w\(")
_WORDS = re.compile(r"\b[a-z]{2,}\b")
_PAIR = re.compile(r"(?P<value>[^\s:/,;(){}=<>\[\]\"'`|]{7,40}?)(?=[.,;!?]?(?:[\s)\"'`]|\Z))")
_USER = re.compile(
    r"(?:\A|[\s\"'(])(?!(?:https?|sha\d+|docker|image|tag|file|line|v|rev)\Z)"
    r"[a-z][\w.@+-]{1,30}\Z"
)


def made(view: View) -> Iterator[Found]:
    """Yield made-up words in clauses that speak of a way in, and behind a user's name."""
    done: set[int] = set()
    looked: dict[int, int] = {}
    for sign in (*_SAYING, *_NAMING):
        saying = sign in _SAYING
        for place in view.signs(sign):
            near = place // _BEFORE
            looked[near] = looked.get(near, 0) + 1
            if looked[near] <= _MOST_LOOKS:
                yield from _beside(view.text, place, place + len(sign), done, saying)
    yield from _unmistakable(view)
    yield from _plain(view)
    yield from _pairs(view)


def _beside(text: str, place: int, end: int, done: set[int], saying: bool) -> Iterator[Found]:
    begin, last = _clause(text, place, end)
    for token in _TOKEN.finditer(text, begin, last):
        if token.start() in done or (token.start() == begin and text[begin - 1 : begin].strip()):
            continue
        word = token.group().rstrip(".,!?*_" if not _made(token.group()) else ".,?*_")
        if not (_made(word) or (_nearly(word) and (saying or not _hyphened(word)))):
            continue
        before = text[begin : token.start()][-40:]
        if _USED.match(text, token.start() + len(word)):
            continue
        if _LEADING.search(before) and not _OWNED.search(before):
            done.add(token.start())
            yield Found(token.start(), token.start() + len(word), "password")


def _unmistakable(view: View) -> Iterator[Found]:
    """Yield words in a sentence that are passwords by their form alone."""
    text, done = view.text, 0
    leet = (match.start() - 1 for match in _LEET.finditer(view.shape))
    signed = (match.start() for match in _SIGN.finditer(view.latin))
    for place in sorted((*leet, *signed)):
        if place < done:
            continue
        begin = place
        while begin > max(0, place - 40) and not text[begin - 1].isspace():
            begin -= 1
        token = _WHOLE.search(text, begin, min(len(text), place + 44))
        done = place + 2
        if token is None or not token.start() <= place < token.end():
            continue
        done = token.end()
        word = token.group().rstrip(".,?!" if not _JOINING.search(token.group()) else ".,?")
        if _by_form(word) and _in_prose(text, token.start(), token.end()):
            yield Found(token.start(), token.start() + len(word), "password")


def _by_form(word: str) -> bool:
    if not _made(word) or sum(c.islower() for c in word) < 4 or _NUMBERED.fullmatch(word):
        return False
    return _REPLACED.search(word) is not None or (
        _JOINING.search(word) is not None and any(c.isdigit() for c in word)
    )


def _in_prose(text: str, start: int, end: int) -> bool:
    """Say whether a word stands in a sentence, and is nobody's name there."""
    begin = max(text.rfind("\n", max(0, start - 80), start) + 1, start - 80, 0)
    stop = text.find("\n", end, end + 60)
    line = text[begin : stop if stop >= 0 else end + 60]
    before = text[begin:start]
    return (
        len(_WORDS.findall(line)) >= 3
        and _PROSE.search(line) is None
        and _LEADING.search(before[-40:]) is not None
        and _OWNED.search(before[-40:]) is None
        and _USED.match(text, end) is None
    )


def _clause(text: str, place: int, end: int) -> tuple[int, int]:
    """Return where the clause around a sign begins and ends."""
    begin, last = max(0, place - _BEFORE), min(len(text), end + _BEHIND)
    for stop in _STOP.finditer(text, begin, place):
        begin = stop.end()
    stopped = _STOP.search(text, end, last)
    return begin, stopped.start() + 1 if stopped else last


def _made(word: str) -> bool:
    """Say whether a word mixes letters, digits and signs as nothing else does."""
    if not mixed(word) or _sold(word) or sum(c.isalpha() for c in word) < 2:
        return False
    if re.search(r"[/\\@]|\.\w{1,4}\Z|'", word) or word.isupper():
        return False
    signed = _SIGNED.search(word) is not None and any(c.isdigit() for c in word)
    inner = len(word) >= 7 and _INNER.search(word) is not None
    return signed or inner or _CASED.match(word) is not None


def _nearly(word: str) -> bool:
    """Say whether a word is one with a number behind it, or some joined by marks."""
    worded = mixed(word) and not _sold(word) and _WORDED.fullmatch(word) is not None
    return worded or _JOINED.fullmatch(word) is not None


def _hyphened(word: str) -> bool:
    return re.search(r"[-_.]", word) is not None and not any(c.isdigit() for c in word)


def _sold(word: str) -> bool:
    return _PRODUCT.fullmatch(word) is not None or _CODED.fullmatch(word) is not None


def _plain(view: View) -> Iterator[Found]:
    """Yield plain words of which it is said how they are written, and answers to "password?"."""
    text, lower = view.text, view.lower
    for sign in _SPELLING:
        for place in view.signs(sign):
            begin, _ = _clause(text, place, place)
            match = _PLAIN_BEFORE.search(text, begin, place)
            if match and any(each in lower[begin:place] for each in (*_SAYING, *_NAMING)):
                yield from _unless_plain(match)
    for sign in ("pw?", "password?", "passwort?", "passphrase?"):
        for place in view.signs(sign):
            match = _PLAIN_BEHIND.match(text, place + len(sign) - 1)
            if match:
                yield from _unless_plain(match)


def _unless_plain(match: re.Match[str]) -> Iterator[Found]:
    value = match["value"].lower()
    if value not in PLAIN and value not in SENTENCE and value not in _ANSWERS:
        yield Found(*match.span("value"), "password")


def _pairs(view: View) -> Iterator[Found]:
    """Yield what stands behind a user's name and a colon, if it is made up."""
    text = view.text
    for place in each_alone(text, ":"):
        if not (text[place + 1 : place + 2].isalnum() and text[place - 1 : place].isalnum()):
            continue
        match = _PAIR.match(text, place + 1)
        if match and _made(match["value"]) and _USER.search(text, max(0, place - 32), place):
            yield Found(*match.span("value"), "password")
