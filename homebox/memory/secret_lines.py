"""Finds secrets by what a sentence is about: a way in, and a word that fits no other use.

The one idea: nobody foresees every wording, but a number that counts nothing, or a word that mixes
letters with digits or signs, is a secret in a sentence that speaks of a way in. Three things must
come together: a cue, a connection to the value, and a form. Invariant: from each cue a bounded
number of characters is looked at, so a text takes time in proportion to its length.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from homebox.memory.secret_numbers import Found, View
from homebox.memory.secret_patterns import DOOR, KNOWN_CODE, PLAIN, compiled

# A number as codes are written: alone, in groups, digit by digit, in words.
_DIGIT = r"(?:zero|oh|one|two|three|four|five|six|seven|eight|nine)"
_NUMBER = (
    r"(?:[A-Z]-)?#?\d{4,8}#?|\d{2,4}(?:[ -]\d{2,4}){1,3}|\d(?:[ -]\d){3,7}"
    rf"|{_DIGIT}(?:[ ,-]{{1,2}}{_DIGIT}){{3,7}}"
)
_LETTERED = r"(?=[A-Z-]{0,7}\d)(?=[\d-]{0,7}[A-Z])[A-Z\d]{2,5}-?[A-Z\d]{2,5}"
# Behind a number that counts nothing, its sentence ends or goes on with a small word.
_ALONE = (
    r"(?![\w%€$£°@]|[.,:/]\d|-\w)(?=[\"'`)*#]{0,3}(?:[.,;:!?)]|[ \t]*(?:[\r\n]|\Z)|[ ][-–—(]|[ ]"
    r"(?:and|but|so|or|where|when|to|then|it|it's|its|is|if|again|please|pls|which|now|right|thx"
    r"|thanks|btw|ok|expires?|as|because|lol|left|before|after|first|asap|by|did|didn't|does"
    r"|doesn't|do|into|what|who|why|how|i|you|we|they|he|she|for|on|in|at|from|until|till|works?"
    r"|enter|hash|pound|star|does|came|just|wants|today|this|the|my|your)\b))"
)
_GAP = r"[^\n.!?;(){}<>\[\]=\"|]"
# What stands right before a code: a verb that says it, one that enters it, a mark.
_IS = (
    r"(?:\b(?:is|are|was|were|be|being|its|it['’]?s|says?|said|reads?|shows?|gives?|with|using|use"
    r"|uses|try|tried|enter|entered|dial|press|type|type in|punch in|key in|put in|buzz|got|me|us"
    r"|her|him|them|you|codes?|wants?|pattern|gym|pin|tan|puk|otp|passcode|now|still|then|to|as|came|sent|up|thing|one"
    r"|number|guard|lock|combo|combination|intercom|keypad|lockbox|key safe|padlock|panel|safe"
    r"|from \w+|again)[ ]{1,2}|(?<=\w)['’]s[ ]|[:=,→–—-][ ]{0,2}|\A|\n)[\"'`(]?\Z"
)

# What a sentence speaks of where a lone number in it is a code, and how many digits it has then.
_TOPICS: dict[str, int] = {
    **dict.fromkeys(("passcode", "otp", "2fa", "mfa", "two-factor", "two factor", "puk"), 4),
    **dict.fromkeys(("authenticator", "verif", "one-time", "one time", "steam guard"), 4),
    **dict.fromkeys((" code", "pin", "tan", "unlock", "disarm", "keypad", "intercom"), 4),
    **dict.fromkeys(("combination", "combo", "padlock", "lockbox", "lock box", "key safe"), 4),
    **dict.fromkeys(("authy", "gate number", "gate code", "cupboard lock", "drawer lock"), 3),
    **dict.fromkeys(("keysafe", "bike lock", "screen lock", "bicycle lock", "gym lock"), 4),
    **dict.fromkeys(("alarm panel", "alarm system", "burglar alarm", "phone lock"), 4),
    **dict.fromkeys(("suitcase lock", "luggage lock", "cable lock", "number lock"), 3),
    **dict.fromkeys(("texted", "sms", " text from", "messaged", "digit"), 4),
    **dict.fromkeys(("sign in", "sign-in", "log in", "get in", "gets in", "let in", "buzz"), 4),
    **dict.fromkeys(("emailed", "mailed me", "mailed us", "sent me", "sent us", "just sent"), 6),
    **dict.fromkeys(("door:", "gate:", "opens with", "opened with", "as password"), 4),
    "suitcase is": 3,
    **dict.fromkeys(("padlock is", "padlock:"), 3),
    **dict.fromkeys(("tablet is", "ipad is", "lock screen", "screen pattern"), 4),
    **dict.fromkeys(("whatsapp", "locker", "signal wants", "telegram wants"), 6),
}
_TOPIC = re.compile(
    r"passcodes?|otps?|2fa|mfa|two[- ]factor|puk2?|authenticator|verif\w+|one[- ]time|steam guard"
    r"|[ ]codes?|pins?|tan|unlock\w*|disarm\w*|keypad|intercom|combination|combo|padlock"
    r"|lock ?box|key ?safe|(?:bike|screen|bicycle|gym|phone|suitcase|luggage|cable|number) lock"
    r"|alarm (?:panel|system)|burglar alarm|texted|sms(?:['’]?e?d)?|[ ]text from|messaged"
    r"|e?mailed(?: me| us)?|(?:just )?sent(?: me| us)?|sign[ -]in|log in|gets? in|let in|buzz"
    r"|suitcase is|padlock(?: is|:)|(?:tablet|ipad) is|lock screen|screen pattern|whatsapp|locker"
    r"|(?:signal|telegram) wants|authy|gate (?:number|code)|(?:cupboard|drawer) lock|digits?"
    r"|(?:door|gate):|open(?:s|ed) with|as password",
    re.IGNORECASE,
)
_CODE = re.compile(
    rf"(?<![\w.,:/#&+£€$-])(?<!\w[ ]['’])(?P<value>{_NUMBER}|\d{{3}}){_ALONE}", re.IGNORECASE
)
_BEFORE = re.compile(_IS, re.IGNORECASE)
_BREAK = re.compile(r"[.!?][ ]+(?=\S)(?![Ii]t(?:['’]?s| is)\b|[Tt]hat['’]?s\b)|[(){}<>\[\]=\"|;\n]")
_LAST_WORD = re.compile(r"[\w-]{1,24}[ ]\Z")
_CLOSE = 32  # characters right before a number that say what it is
_MOST_CODES = 8  # numbers of a clause that are looked at
_AHEAD, _BACK = 90, 60  # characters of its sentence behind and before a topic


QUOTES = (*"\"'`_-.$",)  # before a word of a program


class Cue(NamedTuple):
    """A way in that a sentence speaks of, from its sign to the value."""

    kind: str
    signs: tuple[str, ...]
    back: int  # characters before the sign at which the pattern may begin
    pattern: str
    check: str = ""


def _cue(kind: str, signs: str, pattern: str, back: int = 0, check: str = "") -> Cue:
    return Cue(kind, tuple(signs.split("|")), back, pattern, check)


def _cased(kind: str, signs: str, pattern: str, back: int = 0, check: str = "") -> Cue:
    return Cue(kind, tuple(signs.split("|")), back, f"(?-i:{pattern})", check)


CUES: tuple[Cue, ...] = (
    # "the safe opens left 12 right 30 left 8"
    _cue(
        "door-code",
        "combination|combo|safe|lock",
        rf"(?:combination|combo|safe|lock)\b{_GAP}{{0,40}}?"
        r"(?P<value>(?:\b(?:left|right|l|r)[ ]?\d{1,2}\b[ ,-]{0,3}(?:then )?){2,5}"
        r"(?<=\d)|(?:left|right|l|r)[ ]?\d{1,2}(?:[ ,-]{1,3}(?:then )?(?:left|right|l|r"
        r")[ ]?\d{1,2}){1,4}|\d{1,2}[ ](?:left|right)(?:[ ,-]{1,3}(?:then )?\d{1,2}[ ]"
        r"(?:left|right)){1,4})",
    ),
    _cased(
        "otp",
        "steam guard|authenticator|use code|verification code|security code|enter code| code"
        "|confirm:|verify:",
        rf"(?i:steam guard|authenticator|use code|(?:verification|security) code|enter code"
        rf"|[ ]code|confirm(?=:)|verify(?=:))\b"
        rf"[^\n.!?;(){{}}]{{0,24}}?(?:[ :]|\bis )(?P<value>{_LETTERED}){_ALONE}",
        check="signing in",
    ),
    # A word with digits or signs after a password is spoken of.
    _cue(
        "password",
        "password|passphrase|passwd|pw|passwort",
        r"(?:password|passphrase|passwd|pw|passwort)s?\b(?P<rest>[^\n(){}<>\[\]\"]{0,100})",
        check="password",
    ),
    # "log in with admin and Xy7qLm2!", "log on as deploy with Wq8-zz"
    _cue(
        "password",
        "log in|log on|login|logon|log into|sign in|signin|get in|get on|ssh|get into",
        r"(?:log(?:ged|s)?[ -]?(?:in|on|into)|sign[ -]?in|get (?:in|on|into)|ssh)\b"
        rf"{_GAP}{{0,40}}?\b(?:with|as|using|by|user)[ ](?:user(?:name)? "
        rf")?[\"'`]?[\w.@+-]{{2,60}}[\"'`]?"
        r"(?:[ ](?:and|with|/|\+|,)[ ]|[ ]?[/:,][ ]?)(?:the )?(?:pass(?:word)? |pw "
        r")?(?P<rest>\S{4,60})",
        check="word",
    ),
    _cue(
        "password",
        "log in|log on|login|logon|log into|sign in|signin|get in|get on|get into|connect"
        "|opens with|unlocks with|decrypts with|opened with|master is",
        r"(?:log[ -]?(?:in|on|into)|sign[ -]?in|get (?:in|on|into)|connect|opens|unlocks"
        r"|decrypts|opened"
        r"|master)\b"
        rf"{_GAP}{{0,24}}?\b(?:with|using|is)[ ](?P<rest>\S{{6,60}})",
        check="solid",
    ),
    _cue(
        "password",
        "login,|login:|login is|logins|credentials",
        rf"(?:logins?|credentials)\b{_GAP}{{0,30}}?[ ][\w.@+-]{{2,60}}[ ](?:and|with|/"
        rf"|\+)[ ](?P<rest>\S{{6,60}})",
        check="solid",
    ),
    # "the wifi: oak-leaf-2291"
    _cue(
        "password",
        "wifi:|wi-fi:|wlan:|hotspot:|wifi =",
        r"(?:wi-?fi|wlan|hotspot)[ ]?[:=][ ](?P<rest>\S{8,63})(?=[.,]?(?:\s|\Z))",
        check="solid",
    ),
    # "netflix: dana@pollux.example popcorn&chill3"
    _cue(
        "password",
        "@",
        r"@[\w-]{1,60}(?:\.[\w-]{1,30}){0,3}\.[a-z]{2,12}(?:[ ]?[/|,:;][ ]|[ ](?:with|and)[ ]|[ ])"
        r"(?P<rest>[^\s@]{5,60})(?!\S)",
        check="solid",
    ),
    # "root/toor1234", "admin:admin1999"
    _cue(
        "password",
        "admin/|admin:|root/|root:|guest/|guest:|administrator/|administrator:",
        r"(?:admin|root|guest|administrator)[/:](?P<rest>[^\s/:@]{5,60})(?![\S])",
        check="pair",
    ),
    # "changed it from Autumn2023! to Winter2024?"
    _cue(
        "password",
        "changed|switched|rotated|updated",
        rf"(?:changed|switched|rotated|updated"
        rf")\b{_GAP}{{0,30}}?[ ](?:from )?(?P<rest>\S{{6,40}}[ ]to[ ]\S{{6,40}})",
        check="both",
    ),
    # "bitwarden master is correct giraffe battery lamp"
    _cue(
        "password",
        "master is|master:",
        r"master(?: is|:)[ ](?P<value>[a-z]{3,12}(?:[ -][a-z]{3,12}){3,7})"
        r"(?=[.,!]?[ \t]*(?:\n|\Z))",
    ),
    # "google verification 714 082 hurry"
    _cue(
        "otp",
        "verif|2fa|otp|two factor|authenticator",
        r"(?:verification|verify|2fa|otp|two factor|authenticator)\b(?: code)?[ :]{1,2}"
        r"(?P<value>\d{3}[ -]\d{3})(?![\d-])",
    ),
    # "set up the backup with passphrase lantern orbit velvet canyon"
    _cue(
        "password",
        "with passphrase|with the passphrase",
        r"with (?:the )?passphrase[ :]{1,2}(?P<value>[a-z]{3,12}(?:[ -][a-z]{3,12}){3,7})"
        r"(?=[.,!]?[ \t]*(?:\n|\Z))",
    ),
    # "suitcase 0-4-7", "key box by the shed 2094"
    _cue(
        "door-code",
        "suitcase|key box|safe|padlock|locker|luggage",
        r"(?:suitcase|key box|safe|padlock|(?P<own>locker|luggage))\b"
        r"(?: (?:at|by|in|on|of|near) [a-z ]{2,24}?)?[ :]{1,2}"
        r"(?P<value>\d(?:-\d){2,4}|(?(own)(?!)|\d{4,6}))(?=[.,!]?[ \t]*(?:\n|\Z))",
    ),
    # "the cottage network's key, larkspur-hollow"
    _cue(
        "password",
        "wifi|wi-fi|network|hotspot|router|wlan",
        r"(?:wi-?fi|network|hotspot|router|wlan)(?:['’]s)?[ ](?:key|password|pw|code|pass)[,:][ ]"
        r"(?P<value>[a-z]+(?:[-_][a-z]+){1,4})(?=[.!]?[ \t]*(?:\n|\Z))",
    ),
    # "when it asks for a secret answer say Snowball"
    _cue(
        "password",
        "secret answer|security question|security answer|secret question",
        r"(?:secret|security) (?:answer|question)\b[^\n]{0,60}?\b(?:say|answer(?: is)?|put|type)"
        r"[ :]{1,2}(?-i:(?P<value>[A-Z]\w{3,30}))\b",
    ),
    # "his password is his birthday 14071956", "pass on the nas = gigabyteGus"
    _cue(
        "password",
        "birthday",
        r"birthday[ ,:(]{1,3}(?P<value>\d{4}(?:\d\d){0,2})(?!\d)",
        check="spoken of",
    ),
    _cue(
        "password",
        "pass |pw ",
        r"(?:pass|pw) (?:on|for|of|to) [\w ]{2,24} = (?P<value>[^\s=]{5,40})(?=[ \t]*(?:\n|\Z))",
    ),
    # "key for office 365: NKGG6-WBPCC-HXWMY-6DQGJ-CPQVG"
    _cased(
        "license-key",
        "key|activation|licen|voucher|gift|redeem",
        rf"(?i:keys?|activation codes?|licen[cs]e|vouchers?|gift ?cards?|redeem)\b{_GAP}{{0,40}}?"
        r"[ ](?P<value>(?=[A-Z-]{0,30}\d)(?=[\d-]{0,30}[A-Z])[A-Z\d]{4,6}(?:-[A-Z\d]{4,6}){2,5})"
        r"(?![\w-])",
    ),
    _cue(
        "card",
        "gift",
        rf"gift ?card\b{_GAP}{{0,30}}?(?P<value>\d{{4}}(?:[ -]?\d{{3,4}}){{2,4}})(?!\d)",
    ),
    # "it is Vanilla_Sky3 (the password)"
    _cue(
        "password",
        "password)|pw)|pass)",
        r"(?P<rest>\S{5,60})[ ]\((?:(?:that['’]?s|is|the|my|our|his|her|your)[ ]){0,2}(?:\w+[ ])?"
        r"(?:pass|pw|password)\)",
        back=60,
        check="word",
    ),
)
_SIGNING = re.compile(
    r"\b(?:sign|log)(?:ging|ing)?[ -]?in|\bverif|\bconfirm|guard|authenticator", re.I
)
# Words that own a number, or count or date by it.
_COUNTED = re.compile(
    r"\b(?:room|order|page|line|flight|chapter|ticket|invoice|bus|tram|train|gate|platform|seat|table"
    r"|version|port|year|since|until|till|about|around|over|under|nearly|almost|cost|costs|paid|row"
    r"|lines?|error|status|zip|postcode|house|street|model|locker|phone|tel|call|mobile|desk)"
    r"(?:[ ](?:number|no\.?|code|is|was|nr))*[ :#]{1,3}\Z",
    re.IGNORECASE,
)
# What lies between a number and the topic that follows it.
_JOINED = re.compile(r"[^\n.!?;:(){}<>=\"]{0,48}", re.IGNORECASE)
_ROUND = re.compile(r"\d*00\Z|(?:19|20)\d\d\Z")
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


_ANY = re.compile(r"(?<![^\s:=\"'`,;])(?=[^\s:=\"'`,;]{0,64}\d)[^\s:=\"'`,;]{4,128}")
SIGNS = (*_TOPICS, *(sign for cue in CUES for sign in cue.signs))


def nearby(view: View) -> Iterator[Found]:
    """Yield what stands for a way in, in sentences that speak of one."""
    text, lower = view.text, view.lower
    done: set[int] = set()
    for sign, least in _TOPICS.items():
        for place in view.signs(sign):
            yield from _codes(view, sign, least, place, done)
    for cue in CUES:
        for sign in cue.signs:
            for place in view.signs(sign):
                if cue.back:
                    match = compiled(cue.pattern).search(
                        text, max(0, place - cue.back), place + len(sign)
                    )
                elif place and lower[place - 1].isalpha() and lower[place].isalpha():
                    continue
                else:
                    match = compiled(cue.pattern).match(text, place)
                if match is not None:
                    yield from _checked(cue, text, match)


def crowded(view: View) -> Iterator[Found]:
    """Yield every word that mixes letters and digits, and every code, between very many signs."""
    text = view.text
    for begin, end in view.crowds:
        for word in _ANY.finditer(text, begin, min(len(text), end + 64)):
            value = word.group()
            if word.start() < end and (value.isdigit() or mixed(value)):
                yield Found(*word.span(), "password")


def _checked(cue: Cue, text: str, match: re.Match[str]) -> Iterator[Found]:
    if "(?P<rest>" in cue.pattern:
        for start, end in _words(cue.check, text, match):
            yield Found(start, end, cue.kind)
    elif cue.check == "spoken of":
        if re.search(
            r"pass|\bpin\b|\bpw\b|\bcode\b", text[max(0, match.start() - 60) : match.start()]
        ):
            yield Found(*match.span("value"), cue.kind)
    elif cue.check != "signing in" or _opening(text, match):
        yield Found(*match.span("value"), cue.kind)


def _opening(text: str, match: re.Match[str]) -> bool:
    """Say whether a code of letters and digits is spoken of as one that lets someone in."""
    line = text[slice(*_line(text, match))]
    return (
        (_SIGNING.search(line) or DOOR.search(line)) is not None
        and re.search(r"\d\D*\d", match["value"]) is not None
        and KNOWN_CODE.search(text, max(0, match.start() - 30), match.start() + 1) is None
    ) or match.group().lower().startswith("steam")


def _line(text: str, match: re.Match[str]) -> tuple[int, int]:
    """Return where the line of a match begins and ends, or a little beside it."""
    end = text.find("\n", match.end(), match.end() + 60)
    begin = text.rfind("\n", max(0, match.start() - 90), match.start()) + 1
    return max(begin, match.start() - 90), end if end >= 0 else match.end() + 60


def _codes(view: View, sign: str, least: int, place: int, done: set[int]) -> Iterator[Found]:
    """Yield the numbers beside a topic that count nothing and that nothing harmless owns."""
    text = view.text
    begin, end = max(0, place - _BACK), min(len(text), place + _AHEAD)
    if b"0" not in view.shape[begin + 1 : end + 1] and sign != "pin":
        return
    topic = _TOPIC.match(text, place)
    if topic is None or text[topic.end() : topic.end() + 1].isalnum():
        return
    if (
        place
        and text[place].isalnum()
        and (text[place - 1].isalnum() or text[place - 1] in "_-\"'")
    ):
        return
    stop = _BREAK.search(text, topic.end(), end)
    end = stop.start() if stop else end
    for stop in _BREAK.finditer(text, begin, place):
        begin = stop.end()
    if sign == " code" and not _secret_code(text, begin, place):
        return
    codes = _CODE.finditer(text, begin, min(len(text), end + 40))
    for match in islice(codes, _MOST_CODES):
        if match.end() > end:
            break
        if match.start() in done or not _is_code(text, begin, place, match, least):
            continue
        done.add(match.start())
        yield Found(*match.span("value"), _kind(sign))


def _secret_code(text: str, begin: int, place: int) -> bool:
    """Say whether "code" means one that opens something, by the words before it."""
    before = text[max(begin, place - 30) : place].rstrip()
    return KNOWN_CODE.search(before) is None or before.lower().endswith("the")


def _is_code(text: str, begin: int, place: int, match: re.Match[str], least: int) -> bool:
    value = match["value"]
    digits = re.sub(r"\D", "", value)
    if digits and len(digits) < least:
        return False
    before = text[begin : match.start()]
    near = before[-_CLOSE:]
    topic = _LAST_WORD.search(near)
    named = topic is not None and _TOPIC.fullmatch(topic.group().rstrip()) is not None
    if not (named or _BEFORE.search(near)) or _COUNTED.search(near):
        return False
    if match.start() < place and not _JOINED.fullmatch(text, match.end(), place):
        return False
    named_code = re.search(r"[ ]codes?\b", before)  # "the error code they sent me"
    if named_code and not _secret_code(text, begin, begin + named_code.start()):
        return False
    told = text[begin : match.end()].lower()
    return not (_ROUND.fullmatch(value) and not re.search(r"pin|code|unlock|combo", told))


def _kind(sign: str) -> str:
    if sign in ("pin", "unlock", "puk"):
        return "pin"
    return (
        "door-code"
        if re.search("lock|key|comb|disarm|alarm|inter|case|buzz|get|let", sign)
        else "otp"
    )


def _words(check: str, text: str, match: re.Match[str]) -> Iterator[tuple[int, int]]:
    """Yield the words of the rest of a sentence that are passwords."""
    start, rest = match.start("rest"), match["rest"]
    if check == "password":
        if _ABOUT.match(rest) or text[max(0, match.start() - 1) : match.start()] in QUOTES:
            return
        stop = re.search(r"[.!?;][ ](?=[A-Z])|[={|]", rest)
        for each in _SAID.finditer(rest, 0, stop.start() if stop else len(rest)):
            word = each["value"].rstrip(".!?)*")
            loose = each["loose"] is not None
            if solid(word) if loose else mixed(word):
                yield (
                    start + each.start("value"),
                    start + each.start("value") + len(each["value"].rstrip(".)*")),
                )
        return
    if check == "both":
        old, new = rest.split(" to ", 1)
        words = [word.rstrip(".,;:)") for word in (old, new)]
        if all(mixed(word) for word in words) and any(_signed(word) for word in words):
            yield start, start + len(words[0])
            begin = start + len(old) + len(" to ")
            yield begin, begin + len(words[1])
        return
    word = rest.rstrip(".,;:)\"'`")
    word = word[1:] if word[:1] in "\"'`(" else word
    begin = start + rest.find(word)
    good = mixed(word) if check == "word" else solid(word)
    if check == "pair":
        good = good and re.search(r"\d{3}|\d[A-Za-z]|[!$&*#%^?]", word) is not None
        good = good and re.fullmatch(r"[\w!$&*#%^?+-]+", word) is not None
    if good:
        yield begin, begin + len(word)


@lru_cache(4096)
def mixed(word: str) -> bool:
    """Say whether a word mixes letters with digits or signs, as no name or measure does."""
    if len(word) < 5 or word.lower() in PLAIN or _NAMED.fullmatch(word):
        return False
    if re.search(r"://|^[$%<{\[(]|[(){}<>\[\]\\|=]|^\W*\w+\(|^[\w.-]+@[\w-]+\.\w", word):
        return False
    letters = any(c.isalpha() for c in word)
    return letters and (any(c.isdigit() for c in word) or _signed(word))


def solid(word: str) -> bool:
    """Say whether a word is mixed in more than a short number at its end, as products have it."""
    return mixed(word) and not re.fullmatch(
        r"[A-Za-z]+[-_ ]?\d{1,2}|[A-Z]{1,4}[-\d]+[A-Z]{0,2}", word
    )


def _signed(word: str) -> bool:
    return re.search(r"\w[!$&*#@%^?+]", word) is not None
