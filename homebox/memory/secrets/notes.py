"""Secrets as people note them down: pairs, labels, addresses, answers to the questions of banks.

The one idea: a note has no sentence, but an order of its own, in which the secret has its place.
Invariant: each pattern is bounded and begins at its sign or at most a line before it.
"""

from homebox.memory.secrets.cues import Cue, at_line, cue
from homebox.memory.secrets.values import (
    QUOTED,
    address,
    asked,
    card,
    given,
    lettered,
    owned,
    pair,
    parameter,
    question,
    signed_word,
    spoken,
    told,
    whole,
)

NOTES: tuple[Cue, ...] = (
    cue("otp", "g-", r"G-(?P<value>\d{6})(?!\d)", check=whole),
    cue(
        "password",
        "wifi:",
        r"WIFI:[^\n]{0,120}?\bP:(?P<value>(?:\\.|[^;\n\\]){1,63});",
        check=given,
    ),
    # host:port:database:user:password of PostgreSQL
    cue(
        "password",
        ":5432:|:5433:|:*:",
        r"[\w.*-]{1,80}:(?:\d{1,5}|\*):[^:\s]{1,64}:[^:\s]{1,64}:(?P<value>[^\s:]{3,120})(?=\s|\Z)",
        seek=at_line,
        check=given,
    ),
    # netrc
    cue(
        "password",
        "machine ",
        rf"machine \S{{1,80}}\s+login \S{{1,80}}\s+password {QUOTED}",
        check=given,
    ),
    # user, then password, in one line
    cue(
        "password",
        "login|user|usr|uname|account|acct",
        r"(?:login|user(?:[ -]?name)?|usr|uname|account|acct)[ \t]?(?:is[ ]|[:=]"
        r")?[ \t]?[\"'`]?(?P<user>[\w.@+-]{2,60})"
        r"[\"'`]?(?:[ \t]{0,2}[,;/|][ \t]{0,2}|[ \t]{1,3})(?:and[ ])?(?:the[ ])?"
        r"(?:pw|pwd|psw|pass|passwd|password|secret)\b[ \t]?(?:is[ ]|[:=])?[ \t]?" + QUOTED,
        check=pair,
    ),
    cue(
        "password",
        "acct|account|login",
        r"(?:acct|account|login)\b[^\n.!?;(){}=]{0,30}?[ ][\w.@+-]{2,60}[ ]/[ ](?P<value>\S{5,60})",
        check=lettered,
    ),
    cue(
        "password",
        "ssid",
        r"ssid[ :=]{1,3}[^\s,;/]{1,32}[ ,;/]{1,3}(?:and )?(?:the )?(?:key|pass\w{0,8}|pw|psk|code)?"
        r"(?:[ ]is)?[ :=]{1,3}(?P<value>\S{8,63})",
        check=told,
    ),
    cue(
        "password",
        "hotspot|router key|wifi key|wi-fi key",
        r"(?:hotspot|router|wi-?fi|wlan)(?:['’]s)?(?: key| pass\w{0,8}| pw| code)(?: is|:|=)[ ]?"
        + QUOTED,
        check=told,
    ),
    cue(
        "password",
        "psw|pswd|passw ",
        r"(?:psw|pswd|passw)\b(?:[ ]?(?:is[ ]|[:=])[ ]?|[ ])" + QUOTED,
        check=told,
    ),
    # Parameters of an address
    cue(
        "token",
        "token=|key=|apikey=|appid=|app_id=|sig=|signature=|secret=|auth=|session=|sessionid=|sid="
        "|jwt=|code=|hmac=|credential=|ticket=|otp=",
        r"\w{3,10}=(?P<value>[\w%+/.~=-]{6,2000})",
        check=address,
    ),
    cue(
        "password",
        "pass=|passwd=|password=|pwd=",
        r"(?:pass|passwd|password|pwd)=(?P<value>[^\s&;\"'<>]{4,120})",
        check=parameter,
    ),
    # "steam: heidi_k + sw0rdf1sh!", "wifi for guests — Birchhouse — welcome2birch"
    cue(
        "password",
        " + | / ",
        r"[\w ()]{2,40}: [\w.@+-]{2,60} [+/|] (?P<value>[^\s/|]{6,60})(?=[ \t]*(?:[\r\n]|\Z))",
        seek=at_line,
        check=signed_word,
    ),
    cue(
        "password",
        "wifi|wi-fi|wlan",
        r"(?:wi-?fi|wlan)\b[^\n—–|]{0,40}?[ ][—–|-][ ][^\n—–|]{2,40}?[ ][—–"
        r"|-][ ](?P<value>\S{8,63})"
        r"(?=[ \t]*(?:[\r\n]|\Z))",
        check=told,
    ),
    # Twenty digits on the back of a router
    cue(
        "password",
        "wlan|wifi|wi-fi|network key",
        r"[^\n]{0,120}?(?<!\d)(?<!\d[ -])(?P<value>\d{4}(?: \d{4}){4}|\d{20})(?![\d -]*\d)",
        seek=at_line,
        check=given,
    ),
    cue(
        "hex-key",
        "key ",
        r"key (?:is |= )?(?P<value>[\da-f]{32,64})(?![\w-])",
        check=owned,
    ),
    # Answers to the questions of banks
    cue(
        "password",
        "maiden name|memorable word|security answer|secret answer|security question"
        "|secret word|safe word",
        r"[^\n]{0,100}?(?:maiden name|memorable word|(?:security|secret) (?:answer|word)|safe word"
        r"|security question)\b[^\n.!?]{0,50}?(?:\bis[ ]|[:=][ ]?|['’]s[ ]"
        r")(?P<value>[\w'’-]{4,40})",
        seek=at_line,
        check=question,
    ),
    cue(
        "password",
        "first pet|first car|first school|mother's name|mother’s name",
        r"[^\n]{0,80}?(?:first (?:pet|car|school)|mother['’]s name)\b[^\n.!]{0,40}?"
        r"(?:\bis[ ]|\bwas[ ]|:[ ]|\?[ ]|\banswer[ ]|\bsay[ ])(?-i:(?P<value>[A-Z][\w'’-]{3,40}))"
        r"(?=[^\n]{0,60})",
        seek=at_line,
        check=asked,
    ),
    cue(
        "password",
        "magic word|code word|codeword|safe word|secret word",
        r"(?:magic|code|safe|secret)[ ]?word[ :,]{1,2}(?:is[ ])?[\"'“]?(?P<value>[A-Za-z-]{5,30})"
        r"(?=[\"'”]?[.,!]?[ \t]*(?:\n|\Z))",
        check=spoken,
    ),
    # A card, its date and what stands on its back
    cue(
        "cvv",
        "on the back|on back|on the front|on front",
        r"on (?:the )?(?:back|front)\b(?:[ ]of[ ](?:it|the[ ]card|my[ ]card))?[ ]?(?:(?:is"
        r"|are|says)\b|[:=])?[ ]?(?P<value>\d{3,4})(?![\d\w.-])",
        check=card,
    ),
    # A sort code names a bank, and is printed on cheques; the number behind it is somebody's.
    cue(
        "account",
        "sort code",
        r"sort code\b[^\n\d]{0,12}\d\d[ -]?\d\d[ -]?\d\d(?!\d)[^\n\d.!?]{1,30}"
        r"(?P<value>\d{4}[ -]?\d{4}|\d{6,12})(?![\w-]|[.,]\d)",
    ),
    cue("account", "account ", r"account[ ](?P<value>\d{7,12})(?![\w.-])", check=given),
    cue(
        "recovery-code",
        "recovery|backup code|scratch code|emergency code",
        r"(?:recovery|backup|scratch|emergency)[ -](?:codes?|keys?)\b[^\n.!?\d]{0,24}?[ :]"
        r"(?-i:(?P<value>(?=[A-Z-]{0,20}\d)[A-Z\d]{3,8}(?:-[A-Z\d]{3,8}){1,7}))(?![\w-])",
        check=given,
    ),
    cue(
        "seed-phrase",
        "recovery|wallet|metamask|ledger|trezor",
        r"(?:recovery|wallet|metamask|ledger|trezor)\b[^\n:]{0,30}?:\s{0,3}(?P<value>1[."
        r"):]?[ \t]?[a-z]{3,8}"
        r"(?:[\s,;]{1,3}\d{1,2}[.):]?[ \t]?[a-z]{3,8}){11,23})",
        check=given,
    ),
)
