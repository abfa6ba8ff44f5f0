"""Secrets by what a sentence is about: a way in, and a word or number that fits no other use.

The one idea: nobody foresees every wording, but three things come together where a secret is told:
a cue, a connection to the value, and a form. Invariant: from each cue a bounded number of
characters is looked at.
"""

from homebox.memory.secrets.cues import Cue, around, at_sign, cue
from homebox.memory.secrets.numerals import ALONE
from homebox.memory.secrets.rests import (
    both,
    changed,
    opening,
    paired,
    said,
    spoken_of,
    word_that_is,
)
from homebox.memory.secrets.words import made_up, mixed, solid

_LETTERED = r"(?=[A-Z-]{0,7}\d)(?=[\d-]{0,7}[A-Z])[A-Z\d]{2,5}-?[A-Z\d]{2,5}"
_GAP = r"[^\n.!?;(){}<>\[\]=\"|]"

SENTENCES: tuple[Cue, ...] = (
    # "changed my password from a to b"
    cue(
        "password",
        "pass|pw|pin|code|comb|key|token",
        r"(?:password|passwort|pw|pin|passcode|code|combination|combo|key|token)\b[^\n.!?]{0,40}?"
        r"\bfrom[ ][\"'`]?(?P<old>\S{3,80}?)[\"'`]?[ ](?:in)?to[ ][\"'`]?(?P<new>\S{3,80})",
        seek=at_sign,
        check=changed,
    ),
    # "the safe opens left 12 right 30 left 8"
    cue(
        "door-code",
        "combination|combo|safe|lock|vault",
        rf"(?:combination|combo|safe|lock|vault)\b{_GAP}{{0,40}}?"
        r"(?P<value>(?:\b(?:left|right|l|r)[ ]?(?:to )?\d{1,2}\b[ ,-]{0,3}(?:then )?){2,5}"
        r"(?<=\d)|(?:left|right|l|r)[ ]?\d{1,2}(?:[ ,-]{1,3}(?:then )?(?:left|right|l|r"
        r")[ ]?\d{1,2}){1,4}|\d{1,2}[ ](?:left|right)(?:[ ,-]{1,3}(?:then )?\d{1,2}[ ]"
        r"(?:left|right)){1,4})",
    ),
    cue(
        "otp",
        "steam guard|authenticator|use code|verification code|security code|enter code| code"
        "|confirm:|verify:",
        rf"(?-i:(?i:steam guard|authenticator|use code|(?:verification|security) code|enter code"
        rf"|[ ]code|confirm(?=:)|verify(?=:))\b"
        rf"[^\n.!?;(){{}}]{{0,24}}?(?:[ :]|\bis )(?P<value>{_LETTERED}){ALONE})",
        check=opening,
    ),
    # A word with digits or signs after a password is spoken of.
    cue(
        "password",
        "password|passphrase|passwd|pw|passwort",
        r"(?:password|passphrase|passwd|pw|passwort)s?\b(?P<rest>[^\n(){}<>\[\]\"]{0,100})",
        check=said,
    ),
    # "log in with admin and Xy7qLm2!", "log on as deploy with Wq8-zz"
    cue(
        "password",
        "log in|log on|login|logon|log into|sign in|signin|get in|get on|ssh|get into",
        r"(?:log(?:ged|s)?[ -]?(?:in|on|into)|sign[ -]?in|get (?:in|on|into)|ssh)\b"
        rf"{_GAP}{{0,40}}?\b(?:with|as|using|by|user)[ ](?:user(?:name)? "
        rf")?[\"'`]?[\w.@+-]{{2,60}}[\"'`]?"
        r"(?:[ ](?:and|with|/|\+|,)[ ]|[ ]?[/:,][ ]?)(?:the )?(?:pass(?:word)? |pw "
        r")?(?P<rest>\S{4,60})",
        check=word_that_is(mixed),
    ),
    cue(
        "password",
        "log in|log on|login|logon|log into|sign in|signin|get in|get on|get into|connect"
        "|opens with|unlocks with|decrypts with|opened with|master is",
        r"(?:log[ -]?(?:in|on|into)|sign[ -]?in|get (?:in|on|into)|connect|opens|unlocks"
        r"|decrypts|opened"
        r"|master)\b"
        rf"{_GAP}{{0,24}}?\b(?:with|using|is)[ ](?P<rest>\S{{6,60}})",
        check=word_that_is(solid),
    ),
    cue(
        "password",
        "login,|login:|login is|logins|credentials",
        rf"(?:logins?|credentials)\b{_GAP}{{0,30}}?[ ][\w.@+-]{{2,60}}[ ](?:and|with|/"
        rf"|\+)[ ](?P<rest>\S{{6,60}})",
        check=word_that_is(solid),
    ),
    # "creds for the staging box: deploy hunter3hunter3", "auth: mailer, Zx81Spectrum!"
    cue(
        "password",
        "cred|auth:|login",
        rf"(?:creds?|credentials?|auth|logins?)\b{_GAP}{{0,30}}?:[ ]"
        r"[\w.@+-]{2,40}(?:,|[ ][/+|])?[ ]"
        r"(?P<rest>[^\s/|]{7,60})(?=\s|\Z)",
        check=word_that_is(made_up),
    ),
    # "the wifi: oak-leaf-2291"
    cue(
        "password",
        "wifi:|wi-fi:|wlan:|hotspot:|wifi =",
        r"(?:wi-?fi|wlan|hotspot)[ ]?[:=][ ](?P<rest>\S{8,63})(?=[.,]?(?:\s|\Z))",
        check=word_that_is(solid),
    ),
    # "netflix: dana@pollux.example popcorn&chill3"
    cue(
        "password",
        "@",
        r"@[\w-]{1,60}(?:\.[\w-]{1,30}){0,3}\.[a-z]{2,12}(?:[ ]?[/|,:;][ ]|[ ](?:with|and)[ ]|[ ])"
        r"(?P<rest>[^\s@]{5,60})(?!\S)",
        check=word_that_is(solid),
    ),
    # "root/toor1234", "admin:admin1999"
    cue(
        "password",
        "admin/|admin:|root/|root:|guest/|guest:|administrator/|administrator:",
        r"(?:admin|root|guest|administrator)[/:](?P<rest>[^\s/:@]{5,60})(?![\S])",
        check=word_that_is(paired),
    ),
    # "changed it from Autumn2023! to Winter2024?"
    cue(
        "password",
        "changed|switched|rotated|updated",
        rf"(?:changed|switched|rotated|updated"
        rf")\b{_GAP}{{0,30}}?[ ](?:from )?(?P<rest>\S{{6,40}}[ ]to[ ]\S{{6,40}})",
        check=both,
    ),
    # "bitwarden master is correct giraffe battery lamp"
    cue(
        "password",
        "master is|master:",
        r"master(?: is|:)[ ](?P<value>[a-z]{3,12}(?:[ -][a-z]{3,12}){3,7})"
        r"(?=[.,!]?[ \t]*(?:\n|\Z))",
    ),
    # "google verification 714 082 hurry"
    cue(
        "otp",
        "verif|2fa|otp|two factor|authenticator",
        r"(?:verification|verify|2fa|otp|two factor|authenticator)\b(?: code)?[ :]{1,2}"
        r"(?P<value>\d{3}[ -]\d{3})(?![\d-])",
    ),
    # "set up the backup with passphrase lantern orbit velvet canyon"
    cue(
        "password",
        "with passphrase|with the passphrase",
        r"with (?:the )?passphrase[ :]{1,2}(?P<value>[a-z]{3,12}(?:[ -][a-z]{3,12}){3,7})"
        r"(?=[.,!]?[ \t]*(?:\n|\Z))",
    ),
    # "suitcase 0-4-7", "key box by the shed 2094"
    cue(
        "door-code",
        "suitcase|key box|safe|padlock|locker|luggage",
        r"(?:suitcase|key box|safe|padlock|(?P<own>locker|luggage))\b"
        r"(?: (?:at|by|in|on|of|near) [a-z ]{2,24}?)?[ :]{1,2}"
        r"(?P<value>\d(?:-\d){2,4}|(?(own)(?!)|\d{4,6}))(?=[.,!]?[ \t]*(?:\n|\Z))",
    ),
    # "the cottage network's key, larkspur-hollow"
    cue(
        "password",
        "wifi|wi-fi|network|hotspot|router|wlan",
        r"(?:wi-?fi|network|hotspot|router|wlan)(?:['’]s)?[ ](?:key|password|pw|code|pass)[,:][ ]"
        r"(?P<value>[a-z]+(?:[-_][a-z]+){1,4})(?=[.!]?[ \t]*(?:\n|\Z))",
    ),
    # "when it asks for a secret answer say Snowball"
    cue(
        "password",
        "secret answer|security question|security answer|secret question",
        r"(?:secret|security) (?:answer|question)\b[^\n]{0,60}?\b(?:say|answer(?: is)?|put|type)"
        r"[ :]{1,2}(?-i:(?P<value>[A-Z]\w{3,30}))\b",
    ),
    # "his password is his birthday 14071956", "pass on the nas = gigabyteGus"
    cue(
        "password",
        "birthday",
        r"birthday[ ,:(]{1,3}(?P<value>\d{4}(?:\d\d){0,2})(?!\d)",
        check=spoken_of,
    ),
    cue(
        "password",
        "pass |pw ",
        r"(?:pass|pw) (?:on|for|of|to) [\w ]{2,24} = (?P<value>[^\s=]{5,40})(?=[ \t]*(?:\n|\Z))",
    ),
    # "key for office 365: NKGG6-WBPCC-HXWMY-6DQGJ-CPQVG"
    cue(
        "license-key",
        "key|activation|licen|voucher|gift|redeem",
        rf"(?-i:(?i:keys?|activation codes?|licen[cs]e|vouchers?|gift ?cards?|redeem)\b"
        rf"{_GAP}{{0,40}}?"
        r"[ ](?P<value>(?=[A-Z-]{0,30}\d)(?=[\d-]{0,30}[A-Z])[A-Z\d]{4,6}(?:-[A-Z\d]{4,6}){2,5})"
        r"(?![\w-]))",
    ),
    cue(
        "card",
        "gift",
        rf"gift ?card\b{_GAP}{{0,30}}?(?P<value>\d{{4}}(?:[ -]?\d{{3,4}}){{2,4}})(?!\d)",
    ),
    # "it is Vanilla_Sky3 (the password)"
    cue(
        "password",
        "password)|pw)|pass)",
        r"(?P<rest>\S{5,60})[ ]\((?:(?:that['’]?s|is|the|my|our|his|her|your)[ ]){0,2}(?:\w+[ ])?"
        r"(?:pass|pw|password)\)",
        seek=around(60, 9),
        check=word_that_is(mixed),
    ),
)
