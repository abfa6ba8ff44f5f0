"""Secrets that a text names as such: "password is", "PIN:", "token =".

The one idea: what something is called comes first, then a connection, then the secret; the rows say
what it is called, and the connections are the same for all of them. Invariant: every pattern is
bounded.
"""

import re

from homebox.memory.secrets.codes import (
    account,
    card,
    cvv,
    digits,
    document,
    door,
    national,
    otp,
    place,
    sent,
)
from homebox.memory.secrets.connections import GAP, STRICT, named
from homebox.memory.secrets.cues import Cue, at_name, at_sign, cue, one
from homebox.memory.secrets.passwords import password, short
from homebox.memory.secrets.tokens import argument, bearer, header, key, url
from homebox.memory.secrets.view import Span
from homebox.memory.secrets.vocabulary import CODES, DOOR, DOORS, KEYED
from homebox.memory.secrets.wallets import codes, words


def _key(text: str, match: "re.Match[str]", span: Span) -> str:
    """Tell a key from a token, a licence or a number in hex."""
    said = match.group().lower()
    if re.fullmatch(r"(?:0x)?[\da-fA-F]{32,}", text[span[0] : span[1]]):
        return "hex-key"
    if "token" in said:
        return "token"
    return "license-key" if re.search(r"license|activation|product", said) else "api-key"


def _door(text: str, match: "re.Match[str]", span: Span) -> str:
    """Tell the code of a door from any other."""
    near = text[max(0, match.start() - 60) : match.end()]
    return "door-code" if DOOR.search(near) else "pin"


NAMED: tuple[Cue, ...] = (
    cue(
        "url",
        "://",
        r"://[^\s:/@\"'<>]{0,100}:(?=[^\s\"'<>/]{1,200}@[A-Za-z\d\[$.-])",
        check=one(url),
        seek=at_sign,
    ),
    named(
        "authorization",
        "authorization",
        r"(?:proxy-)?authorization",
        header,
        "",
    ),
    cue(
        "authorization",
        "bearer |basic ",
        r"(?<![a-zA-Z])(?:bearer|basic)[ \t]{1,3}",
        check=one(bearer),
        seek=at_sign,
    ),
    named(
        "pin",
        "pin|nip|passcode",
        r"(?<![^\W_])(?:pin|nip|passcode)(?:[ -]?(?:code|number|no\.?|nr\.?))?s?(?![a-zA-Z])",
        digits,
    ),
    named(
        "door-code",
        "code|combination|combo|alarm|zahlenkombination",
        rf"(?:(?<![a-zA-Z])alarm|(?:code|combination|combo|pin)s?(?![a-zA-Z])"
        rf"(?: (?:for|to|of|on|at) (?:the |my |our |your |his "
        rf"|her )?(?:\w+ ){{0,2}}(?:{DOORS})s?)?)",
        door,
        r"(?:[ \t](?:for|to|of|on|at|in|de|du|del|della|von)\b[^\n.:;=!?\"`]{1,40}?)??",
        naming=_door,
    ),
    named(
        "door-code",
        "keypad|front door|back door|garage|gate|lockbox|lock box|key box|locker|intercom|alarm",
        r"(?<![a-zA-Z])(?:keypad|(?:front|back) door|garage|gate|lock ?box|key box|locker|intercom"
        r"|alarm)(?![a-zA-Z])",
        place,
        "",
    ),
    named(
        "otp",
        "otp|one-time|one time|2fa|two-factor|totp|mfa",
        r"(?<![a-zA-Z])(?:otp|one[- ]time[ -](?:pass(?:word|code)|pin|code)|2fa(?: code| secret)?"
        r"|two-factor(?: code)?|totp(?: secret| code)?|mfa(?: code)?)s?(?![a-zA-Z])",
        otp,
    ),
    named(
        "otp",
        "|".join(f"{name} code" for name in CODES),
        rf"(?:{'|'.join(CODES)})[ -]codes?(?![a-zA-Z])",
        otp,
    ),
    cue(
        "otp",
        "code",
        r"(?:code|passcode)s?\b[^\n.!?:;=]{0,48}?(?:[ ](?:is|was)\b[ ]?:?|[:=])\s{0,3}",
        check=one(sent),
        seek=at_sign,
    ),
    named(
        "cvv",
        "cvv|cvc|csc|security code",
        r"(?<![a-zA-Z])(?:cvv2?|cvc2?|csc|security code)(?: code| number)?(?![a-zA-Z])",
        cvv,
    ),
    cue(
        "recovery-code",
        "recovery|backup|scratch code|emergency code",
        r"(?:recovery|backup|scratch|emergency)[ -](?:codes?"
        r"|keys?)\b[^\n\d]{0,60}?[:\n-]\s{0,4}"
        rf"|(?:recovery|backup|scratch|emergency)[ -](?:codes?|keys?)\b{GAP}{STRICT}",
        check=one(codes),
        seek=at_sign,
    ),
    cue(
        "seed-phrase",
        "seed|phrase|mnemonic|words",
        r"(?:seed(?:[ -]?(?:phrase|words?))?|phrase|mnemonic(?: phrase)?"
        r"|words)\b[^\n]{0,60}?"
        r"(?:[:=\n-]|\b(?:is|are|was|were|reads?)\b)[\s:]{0,4}[\"'`]?",
        check=one(words),
        seek=at_sign,
    ),
    named(
        "password",
        "password|passwd|passwort|kennwort|contraseña|mot de passe|wachtwoord|losenord|lösenord"
        "|hasło|parola|senha|clave|пароль|パスワード|密码",
        r"(?:password|passwd|passwort|kennwort|contraseña|mot de passe|wachtwoord|l[oö]senord|hasło"
        r"|parola|senha|clave|пароль|パスワード|密码)s?(?:_[A-Z\d]{1,12})?(?![a-zA-Z_])",
        password,
    ),
    named(
        "password",
        "pass|pw|pwd|psk|wpa|wifi key|wi-fi key|wlan key|network key|credentials|login|logon",
        r"(?<![^\W_])(?:pass|pw|pwd|psk|passcode|wpa\d?(?:[ -]psk)?(?: key)?"
        r"|(?:wi-?fi|wlan|network) key|credentials?|log(?:in"
        r"|on)s?)(?:_[A-Z\d]{1,12})?(?![a-zA-Z_])",
        short,
    ),
    named(
        "password",
        "passphrase|pass phrase|pass-phrase",
        r"pass[ -]?phrases?(?![a-zA-Z])",
        password,
    ),
    cue(
        "password",
        " -u|--user",
        r"[ ](?-i:-u|--user)[ =]?[\"']?[^\s:\"']{1,100}:",
        check=one(argument),
        seek=at_sign,
    ),
    cue(
        "password",
        " -p| -a ",
        r"[ ](?-i:-p|-a )[ =]?",
        check=one(argument),
        seek=at_sign,
    ),
    named(
        "ssn",
        "ssn|social security|social insurance|sozialversicherung|sin number",
        r"(?<![a-zA-Z])(?:ssn|social (?:security|insurance)(?: (?:number|no\.?|nr\.?|#))?"
        r"|sozialversicherungsnummer|sin number)(?![a-zA-Z])",
        national,
    ),
    named(
        "passport",
        "passport|reisepass|driver|driving licence|driving license|license number|id card"
        "|ausweis|identity card|national id|green card",
        r"(?:passport|reisepass|driver[’']?s?[ -]licen[sc]e|driving licen[sc]e|id[ -]card"
        r"|identity card|national id|green card|(?:personal)?ausweis(?:nummer)?|license number)"
        r"(?:[ -]?(?:number|no\.?|nr\.?|#|id|nummer))?(?![a-zA-Z])",
        document,
    ),
    named(
        "tax-id",
        "tax|tin |ein |tin:|ein:|itin| utr|steuer|national insurance|nino|ni number|codice fiscale",
        r"(?<![a-zA-Z])(?:tax(?:payer)?[ -]?(?:id(?:entification)?|reference|ref|file)?(?: number"
        r"| no\.?| nr\.?)?|tin|ein|itin|utr|nif|steuer(?:-?id|nummer|identifikationsnummer)?"
        r"|national insurance(?: number| no\.?)?|nino|ni number|codice fiscale)(?![a-zA-Z])",
        national,
    ),
    named(
        "account",
        "account n|acct|routing|kontonummer|account #",
        r"(?:account (?:number|no\.?|nr\.?|#)|acct\.?(?: no\.?| number)?|routing(?: number| no\.?)?"
        r"|kontonummer)(?![a-zA-Z])",
        account,
    ),
    named(
        "card",
        "card|visa|mastercard|amex|karte",
        r"(?:card|visa|mastercard|amex|karte)(?:[ -]?(?:number|no\.?|nr\.?|nummer))?(?![a-zA-Z])",
        card,
    ),
    named(
        "key",
        "key|token|secret|credential|_pat",
        rf"(?<![a-zA-Z])(?:(?:\w{{1,40}}[_ .-])?(?:{KEYED}|license|activation|product)[_ -]?"
        r"(?:\w{1,20}[_ -])?(?:keys?|tokens?|secrets?|pat)|\w{0,40}(?:secret|token|credential)s?"
        r"|[A-Z\d_]{0,40}_(?:KEY|TOKEN|SECRET|PAT))(?:_id|_base64|_hex)?(?![a-zA-Z_])",
        key,
        seek=at_name,
        naming=_key,
    ),
    named(
        "authorization",
        "x-api-key|x-auth|api-key|apikey",
        r"x-[a-z-]{0,20}(?:key|token|auth)|api-?key",
        header,
        "",
    ),
    cue(
        "cookie",
        "cookie:|phpsessid|jsessionid|connect.sid",
        r"cookie: ?[^\s=;]{1,60}=|(?:php|j)sess(?:ion)?id[\"']?[:=] ?|connect\.sid=",
        check=one(bearer),
        seek=at_sign,
    ),
)
