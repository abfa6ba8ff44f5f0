"""Finds secrets by the form around them: pairs, commands, addresses, files of settings.

The one idea: where a program wants a secret, its own grammar says which word it is, so no word of
any language is needed. Each form is a sign, a pattern and, where the form alone would take too
much, a check of the value. Invariant: each pattern is bounded and begins at its sign or at most a
line before it.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from homebox.memory.secret_lines import solid
from homebox.memory.secret_numbers import Found, View
from homebox.memory.secret_patterns import PLAIN, SENTENCE, compiled
from homebox.memory.secret_values import VARIABLE

_LINE = 200  # characters before a sign at which the pattern of a form may begin


class Form(NamedTuple):
    """A form of which one part, the group `value`, is secret."""

    kind: str
    signs: tuple[str, ...]
    pattern: str
    line: bool = False  # the pattern begins with the line, not with the sign
    check: str = ""


def _form(kind: str, signs: str, pattern: str, line: bool = False, check: str = "") -> Form:
    return Form(kind, tuple(signs.split("|")), pattern, line, check)


_QUOTED = (
    r"(?:(?P<quote>[\"'])(?P<value>[^\"'\n]{4,120})(?P=quote)|(?P<word>[^\s\"'<>|;&$]\S{3,119}))"
)
_FLAG = r"[^\n|]{0,150}?\s"
FORMS: tuple[Form, ...] = (
    _form("otp", "g-", r"G-(?P<value>\d{6})(?!\d)", check="whole"),
    _form("password", "wifi:", r"WIFI:[^\n]{0,120}?\bP:(?P<value>(?:\\.|[^;\n\\]){1,63});"),
    # host:port:database:user:password of PostgreSQL
    _form(
        "password",
        ":5432:|:5433:|:*:",
        r"[\w.*-]{1,80}:(?:\d{1,5}|\*):[^:\s]{1,64}:[^:\s]{1,64}:(?P<value>[^\s:]{3,120})(?=\s|\Z)",
        line=True,
    ),
    # netrc
    _form("password", "machine ", rf"machine \S{{1,80}}\s+login \S{{1,80}}\s+password {_QUOTED}"),
    # user, then password, in one line
    _form(
        "password",
        "login|user|usr|uname|account|acct",
        r"(?:login|user(?:[ -]?name)?|usr|uname|account|acct)[ \t]?(?:is[ ]|[:=]"
        r")?[ \t]?[\"'`]?(?P<user>[\w.@+-]{2,60})"
        r"[\"'`]?(?:[ \t]{0,2}[,;/|][ \t]{0,2}|[ \t]{1,3})(?:and[ ])?(?:the[ ])?"
        r"(?:pw|pwd|psw|pass|passwd|password|secret)\b[ \t]?(?:is[ ]|[:=])?[ \t]?" + _QUOTED,
        check="pair",
    ),
    _form(
        "password",
        "acct|account|login",
        r"(?:acct|account|login)\b[^\n.!?;(){}=]{0,30}?[ ][\w.@+-]{2,60}[ ]/[ ](?P<value>\S{5,60})",
        check="mixed",
    ),
    _form(
        "password",
        "ssid",
        r"ssid[ :=]{1,3}[^\s,;/]{1,32}[ ,;/]{1,3}(?:and )?(?:the )?(?:key|pass\w{0,8}|pw|psk|code)?"
        r"(?:[ ]is)?[ :=]{1,3}(?P<value>\S{8,63})",
        check="told",
    ),
    _form(
        "password",
        "hotspot|router key|wifi key|wi-fi key",
        r"(?:hotspot|router|wi-?fi|wlan)(?:['’]s)?(?: key| pass\w{0,8}| pw| code)(?: is|:|=)[ ]?"
        + _QUOTED,
        check="told",
    ),
    _form(
        "password",
        "psw|pswd|passw ",
        r"(?:psw|pswd|passw)\b(?:[ ]?(?:is[ ]|[:=])[ ]?|[ ])" + _QUOTED,
        check="told",
    ),
    # Parameters of an address
    _form(
        "token",
        "token=|key=|apikey=|appid=|app_id=|sig=|signature=|secret=|auth=|session=|sessionid=|sid="
        "|jwt=|code=|hmac=|credential=|ticket=|otp=",
        r"\w{3,10}=(?P<value>[\w%+/.~=-]{6,2000})",
        check="address",
    ),
    _form(
        "password",
        "pass=|passwd=|password=|pwd=",
        r"(?:pass|passwd|password|pwd)=(?P<value>[^\s&;\"'<>]{4,120})",
        check="parameter",
    ),
    # "steam: heidi_k + sw0rdf1sh!", "wifi for guests — Birchhouse — welcome2birch"
    _form(
        "password",
        " + | / ",
        r"[\w ()]{2,40}: [\w.@+-]{2,60} [+/|] (?P<value>[^\s/|]{6,60})(?=[ \t]*(?:[\r\n]|\Z))",
        line=True,
        check="solid",
    ),
    _form(
        "password",
        "wifi|wi-fi|wlan",
        r"(?:wi-?fi|wlan)\b[^\n—–|]{0,40}?[ ][—–|-][ ][^\n—–|]{2,40}?[ ][—–"
        r"|-][ ](?P<value>\S{8,63})"
        r"(?=[ \t]*(?:[\r\n]|\Z))",
        check="told",
    ),
    # Twenty digits on the back of a router
    _form(
        "password",
        "wlan|wifi|wi-fi|network key",
        r"[^\n]{0,120}?(?<!\d)(?<!\d[ -])(?P<value>\d{4}(?: \d{4}){4}|\d{20})(?![\d -]*\d)",
        line=True,
    ),
    _form(
        "hex-key",
        "key ",
        r"key (?:is |= )?(?P<value>[\da-f]{32,64})(?![\w-])",
        check="owned",
    ),
    # Commands
    _form(
        "password",
        "-pass|-pwd|-token|-secret|-api|-auth|-access",
        r"-(?:pass|password|passwd|pwd|passphrase|token|secret|api-?key|auth-token|access-key"
        r"|secret-key)(?:=|[ ]{1,2})" + _QUOTED,
        check="argument",
    ),
    _form(
        "password",
        "mosquitto_|ipmitool|unzip|zip ",
        rf"(?:mosquitto_\w+|ipmitool|unzip|zip)\b(?-i:{_FLAG}-P[ ]?){_QUOTED}",
        check="told",
    ),
    _form(
        "password",
        "ldap",
        rf"ldap(?:search|modify|add|delete|whoami|passwd)\b(?-i:{_FLAG}-w[ ]?){_QUOTED}",
        check="told",
    ),
    _form("password", "ssh-keygen", rf"ssh-keygen\b(?-i:{_FLAG}-[NP][ ]?){_QUOTED}", check="told"),
    _form(
        "password",
        "keytool|jarsigner",
        rf"(?:keytool|jarsigner)\b{_FLAG}-(?:storepass|keypass)[ ]{_QUOTED}",
        check="told",
    ),
    _form("password", "wpa_passphrase", rf"wpa_passphrase[ ]\S{{1,40}}[ ]{_QUOTED}", check="told"),
    _form("password", "nmcli", rf"nmcli\b{_FLAG}password[ ]{_QUOTED}", check="told"),
    _form("password", "lftp", rf"lftp\b{_FLAG}-u[ ]?\w[\w.@-]{{0,40}},{_QUOTED}", check="told"),
    _form(
        "password",
        "sqlplus",
        r"sqlplus[ ](?:-\w+[ ])?\w[\w.-]{0,40}/(?P<value>[^\s@/]{3,60})",
        check="told",
    ),
    _form("password", "<(echo", r"<\(echo[ ](?:-n[ ])?(?P<value>[^\s)]{4,80})\)", check="told"),
    _form("password", "password=", r"password=(?P<value>[^\s,;\"']{4,80})", check="mounted"),
    _form("password", "sudo -s", rf"[^\n]{{0,100}}?echo[ ]{_QUOTED}[ ]?\|[ ]?sudo -S", line=True),
    _form(
        "password", "sqlcmd|bcp ", rf"(?:sqlcmd|bcp)\b(?-i:{_FLAG}-P[ ]?){_QUOTED}", check="told"
    ),
    _form(
        "password",
        "smbclient|cifs|rpcclient",
        rf"(?:smbclient|rpcclient|cifs)\b{_FLAG}-U[ ]?[^\s%]{{1,60}}%{_QUOTED}",
    ),
    _form(
        "password",
        "htpasswd",
        rf"htpasswd[ ]+(?:-\w+[ ]+){{0,4}}-\w*b\w*[ ]+(?:-\w+[ ]+)*\S+[ ]+\S+[ ]+{_QUOTED}",
    ),
    _form("password", "net use", rf"net use\b{_FLAG}/user:\S{{1,60}}[ ]+{_QUOTED}"),
    _form("password", "net user", rf"net user[ ]+\S{{1,60}}[ ]+{_QUOTED}", check="mixed"),
    _form(
        "password",
        "chpasswd",
        r"[^\n]{0,60}?[\"']?\w[\w.-]{0,40}:(?P<value>[^\s\"':|]{4,80}"
        r")[\"']?[ ]?\|[ ]?(?:sudo )?chpasswd",
        line=True,
    ),
    _form("password", "pass:", r"pass:(?P<value>[^\s\"']{4,120})", check="told"),
    _form(
        "password",
        "xfreerdp|rdesktop",
        rf"(?:xfreerdp|rdesktop)\b{_FLAG}(?:/p:|-p[ ])(?P<value>\S{{4,80}})",
    ),
    _form(
        "password", "convertto-securestring", rf"convertto-securestring[ ](?:-string[ ])?{_QUOTED}"
    ),
    # Settings whose names say it, in capitals: the value may be any word.
    _form(
        "api-key",
        "_secret=|_passphrase=|_pass=|_pwd=|_password=|_secret_key=|_salt=",
        rf"(?-i:_(?:SECRET|PASSPHRASE|PASS|PWD|PASSWORD|SECRET_KEY|SALT))=(?:{_QUOTED})(?=\s|\Z)",
        check="told",
    ),
    # Answers to the questions of banks
    _form(
        "password",
        "maiden name|memorable word|security answer|secret answer|security question"
        "|secret word|safe word",
        r"[^\n]{0,100}?(?:maiden name|memorable word|(?:security|secret) (?:answer|word)|safe word"
        r"|security question)\b[^\n.!?]{0,50}?(?:\bis[ ]|[:=][ ]?|['’]s[ ]"
        r")(?P<value>[\w'’-]{4,40})",
        line=True,
        check="question",
    ),
    # A card, its date and what stands on its back
    _form(
        "cvv",
        "on the back|on back|on the front|on front",
        r"on (?:the )?(?:back|front)\b(?:[ ]of[ ](?:it|the[ ]card|my[ ]card))?[ ]?(?:(?:is"
        r"|are|says)\b|[:=])?[ ]?(?P<value>\d{3,4})(?![\d\w.-])",
        check="card",
    ),
    _form("account", "account ", r"account[ ](?P<value>\d{7,12})(?![\w.-])"),
    _form(
        "recovery-code",
        "recovery|backup code|scratch code|emergency code",
        r"(?:recovery|backup|scratch|emergency)[ -](?:codes?|keys?)\b[^\n.!?\d]{0,24}?[ :]"
        r"(?-i:(?P<value>(?=[A-Z-]{0,20}\d)[A-Z\d]{3,8}(?:-[A-Z\d]{3,8}){1,7}))(?![\w-])",
    ),
    _form(
        "seed-phrase",
        "recovery|wallet|metamask|ledger|trezor",
        r"(?:recovery|wallet|metamask|ledger|trezor)\b[^\n:]{0,30}?:\s{0,3}(?P<value>1[."
        r"):]?[ \t]?[a-z]{3,8}"
        r"(?:[\s,;]{1,3}\d{1,2}[.):]?[ \t]?[a-z]{3,8}){11,23})",
    ),
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


SIGNS = tuple(sign for form in FORMS for sign in form.signs)


def formed(view: View) -> Iterator[Found]:
    """Yield the secrets that stand where a form has its secret."""
    text = view.text
    for form in FORMS:
        for sign in form.signs:
            for place in view.signs(sign):
                start = place
                if form.line:
                    start = max(
                        text.rfind("\n", max(0, place - _LINE), place) + 1, place - _LINE, 0
                    )
                span = _value(form, text, start, place)
                if span is not None:
                    yield Found(*span, form.kind)


def _value(form: Form, text: str, start: int, place: int) -> tuple[int, int] | None:
    match = compiled(form.pattern).match(text, start)
    if match is None or (start and text[start - 1].isalnum() and text[start].isalnum()):
        return None
    name = "value" if match["value"] is not None else "word"
    begin, end = match.span(name)
    if form.check == "whole":
        return match.span()
    quoted = "quote" in match.groupdict() and match["quote"] is not None
    while not quoted and end > begin and text[end - 1] in ".,;:)\"'`":
        end -= 1
    value = text[begin:end]
    return (begin, end) if _holds(form.check, value, match) else None


def _holds(check: str, value: str, match: re.Match[str]) -> bool:
    """Say whether the value of a form is a secret, and not what stands in for one."""
    if check == "card":
        before = match.string[max(0, match.start() - 60) : match.start("value")]
        return _CARD.search(before) is not None
    if len(value) < 3 or VARIABLE.match(value) or _STANDIN.search(value):
        return False
    if check == "told":
        if match.groupdict().get("quote") and re.search(r"\d", value) and " " not in value:
            return True
        return value.lower() not in PLAIN and not re.search(r"[(){}]|\$\{|^[-.]|\w=\w", value)
    if check == "pair":
        if value.lower() in PLAIN or match["user"].lower() in SENTENCE | PLAIN | {"name", "names"}:
            return False
        plain = re.fullmatch(r"[A-Za-z_.]+|[a-z]+-[a-z]+", value) is not None
        named = len(match["user"]) < 4 or re.search(r"[\d.@_]", match["user"]) is not None
        return not re.search(r"[()\[\]{}=]", value) and (not plain or named)
    if check == "argument":
        before = match.string[max(0, match.start() - 60) : match.start()]
        return (
            _FLAGGED.search(before) is not None
            and len(value) >= 4
            and value.lower() not in PLAIN
            and not re.search(r"[(){}<>]|\A[-A-Z_]+\Z|\A[.,/-]", value)
            and (re.search(r"[\d\W]", value) is not None or match.group().count("=") > 0)
        )
    if check == "owned":
        before = match.string[max(0, match.start() - 16) : match.start()].lower()
        return (
            re.search(r"(?:cache|public|primary|foreign|sort|hash|dict|object)[ ]\Z", before)
            is None
        )
    if check == "mounted":
        before = match.string[max(0, match.start() - 80) : match.start()]
        return re.search(r"-o[ ]\S*user(?:name)?=[^\s,]+,\Z", before) is not None
    if check == "parameter":
        before = match.string[max(0, match.start() - 60) : match.start()]
        return re.search(r"[?&][\w-]*\Z|literal=[\w-]*\Z", before) is not None
    if check == "solid":
        return solid(value) and re.search(r"\w[!$&*#@%^?+]|\d[A-Za-z]", value) is not None
    if check == "mixed":
        return re.search(r"\d", value) is not None and re.search(r"[A-Za-z]", value) is not None
    if check == "address":
        before = match.string[max(0, match.start() - 40) : match.start()]
        return (
            re.search(r"[?&][\w-]*\Z", before) is not None
            and re.search(r"\d", value) is not None
            and (len(value) >= 16 or re.search(r"[A-Za-z]", value) is not None)
        )
    if check == "question":
        return _BANK.search(match.group()) is not None and value.lower() not in PLAIN
    return True
