"""What secrets look like, as data: the makers' own forms, and the words beside other secrets.

The one idea: a form is either so particular that nothing else has it, or it counts only beside a
word that says what it is. Invariant: every pattern is bounded, so that no text takes longer than
its length allows.
"""

import re
from functools import cache
from typing import NamedTuple

# Forms that the makers of keys publish; each begins where no letter or digit stands before it.
_MAKERS = (
    r"sk-(?:proj-|svcacct-|admin-|ant-(?:api|sid|admin)\d\d-|or-v1-|lf-)?[\w-]{16,}",  # OpenAI etc.
    r"(?:gsk|hf|r8|glsa|npm|sbp|ntn|pat|fo1|dckr_pat|shpat|shpss|shpca|shppa|rpa|nvapi)"
    r"[_-][\w-]{20,}",
    r"(?:xai|pplx|tvly|lsv2|glpat|glptt|gldt|glrt|tskey|key|pscale_tkn|NRAK|PMAK|phc|phx|csk)"
    r"[-_](?=[\w-]{0,30}\d)[\w-]{16,}",
    r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}",  # Amazon
    r"gh[pousr]_\w{20,}",
    r"github_pat_\w{22,}",
    r"xox[abeoprs]-[\w.-]{10,}",  # Slack
    r"xapp-\d-[\w-]{10,}",
    r"hooks\.slack\.com/(?:services|workflows)/[\w/]{20,}",
    r"discord(?:app)?\.com/api/webhooks/\d{8,}/[\w-]{20,}",
    r"[MNO][A-Za-z\d_-]{23,27}\.[\w-]{6,7}\.[\w-]{27,45}",  # Discord
    r"(?:sk|rk|pk)_(?:live|test)_\w{10,}",  # Stripe
    r"whsec_[\w+/=]{16,}",
    r"AIza[\w-]{35}",  # Google
    r"GOCSPX-[\w-]{20,}",
    r"ya29\.[\w-]{20,}",
    r"1//0[\w-]{30,}",
    r"SG\.[\w-]{16,32}\.[\w-]{16,64}",  # SendGrid
    r"(?:SK|AC)[0-9a-f]{32}",  # Twilio
    r"pypi-[\w-]{40,}",
    r"do[opr]_v1_[0-9a-f]{32,}",  # DigitalOcean
    r"sq0(?:atp|csp|idp)-[\w-]{20,}",  # Square
    r"EAAA[\w-]{50,}",
    r"\d{8,10}:AA[\w-]{32,34}",  # Telegram
    r"lin_api_\w{20,}",
    r"secret_[A-Za-z\d]{32,}",  # Notion
    r"fig[dou]_[\w-]{20,}",
    r"dapi[0-9a-f]{32}",  # Databricks
    r"hv[sbr]\.[\w-]{20,}",  # Vault
    r"dp\.(?:pt|st|ct|sa|scim|audit)\.\w{20,}",
    r"sntr(?:ys|yu)_[\w+/=-]{20,}",
    r"dt0[a-z]\d\d\.[A-Z\d]{24}\.[A-Z\d]{32,}",
    r"ATATT3[\w=-]{20,}",  # Atlassian
    r"ATCTT3[\w=-]{20,}",
    r"FlyV1 ?[\w+/=,-]{30,}",
    r"AGE-SECRET-KEY-1[A-Z\d]{50,}",
    r"(?:nsec|xprv|yprv|zprv|tprv)1?[a-zA-Z\d]{50,}",  # Nostr, BIP 32
    r"PuTTY-User-Key-File-\d",
    r"hb-[\w-]{20,}",
    r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{0,}",
    r"A3T[A-Z\d]{17}",
    r"oauth2?_[\w-]{24,}",
    r"rnd_\w{20,}",
    r"tfp_\w{30,}",
    r"[\w-]{14}\.atlasv1\.[\w=-]{60,}",
    r"sha256~[\w-]{40,}",  # OpenShift
    r"amzn\.mws\.[0-9a-f-]{36}",
    r"cio[A-Za-z\d]{32}",
    r"EZ[AT]K[A-Za-z\d]{40,}",
    r"duffel_(?:test|live)_[\w-]{30,}",
    r"PRVKEY[\w-]{16,}",
)
MAKERS = re.compile(rf"(?<![A-Za-z\d])(?:{'|'.join(_MAKERS)})")
JWT = re.compile(r"eyJ[\w-]{8,}\.")

# Blocks between lines of dashes; those that are public are no secrets.
PEM = re.compile(r"-----BEGIN ([A-Z\d ]{0,40})-----")
PUBLIC = (
    *("CERTIFICATE", "CERTIFICATE REQUEST", "X509 CRL", "PUBLIC KEY", "RSA PUBLIC KEY"),
    *("PGP PUBLIC KEY BLOCK", "PGP SIGNATURE", "PGP SIGNED MESSAGE", "SSH SIGNATURE"),
)

# Digests, ids and pictures that look as random as keys do.
HARMLESS = re.compile(
    r"(?:sha(?:1|224|256|384|512)|md5|h1|blake[23][bs]?)[-:=]|AAAA[BCE]3NzaC|data:|_+Z[A-Za-z]"
    r"|(?:chatcmpl|call|toolu|msg|resp|run|thread|asst|file|req|ses|fc|rs|item|turn|evt|batch|prt)"
    r"[-_](?=[A-Za-z\d-]{8,}$)"
)
BEFORE_HARMLESS = re.compile(
    r"(?:sha(?:1|224|256|384|512)|md5|h1|blake[23][bs]?)[\s\"':=-]{1,3}$|base64,$"
    r"|integrity[\"'\s:=]{1,4}$|(?:/d/|/file/|/folders/|/commit/|/blob/|watch\?v=|[?&]v=)$"
    r"|(?:ssh-(?:rsa|dss|ed25519)|ecdsa-\S{10,20}) $|SHA256:$|nonce-$",
    re.IGNORECASE,
)

# Between what something is called and what it is.
_ADVERB = (
    r"(?:(?:now|still|currently|just|always|simply|probably|this|changed to|set to|as|to)\b[ :]*)"
)
_IS = (
    r"(?:is|was|are|were|ist|war|est|es|be|become|becomes|equals|reads|says|means|(?:has"
    r"|have) been|(?:should|will|would|must) be)"
)
_NEVER = r"(?P<bare>(?!.).)?"
_STRICT = (
    r"(?:"
    rf"[\"'`\])*]{{0,2}}[ \t]{{1,3}}{_IS}\b[ \t]*[:=]?[ \t]*{_ADVERB}{{0,2}}(?:\n[ \t>]*)?"
    r"|\\{0,3}[\"'`\])*]{0,2}[ \t]{0,12}(?::=|=>|->|==?|[:→–—]|-(?=[ \t]))[ \t]{0,8}"
    r"(?:\r?\n[ \t>]{0,8})?"
    rf"|['’]s[ \t]{{1,3}}{_ADVERB}{{0,2}}"
    r"|[ \t]{0,2}\([ \t]{0,2}|[\"'][ ](?:value|default|content)="
    rf"){_NEVER}"
)
_TO = rf"[ \t]{{1,3}}(?:to|as)\b[ \t]*[:=]?[ \t]*{_NEVER}"
_BARE = r"(?P<bare>[ \t]{1,3})"
# "for the router at home": what a password is for, before what it is.
GAP = (
    r"(?:[ \t]{1,2}(?:for|to|of|on|at|in|from|für|von|pour|over|behind|with|we|i|you|they"
    r"|that|which|he|she|now)\b"
    r"[^\n.:;=!?\"`]{1,60}?)??"
)


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    """Return a pattern that minds no case; made when first needed, for there are some hundred."""
    return re.compile(pattern, re.IGNORECASE)


class Context(NamedTuple):
    """A word beside which something is secret, and what that something may be."""

    kind: str
    signs: tuple[str, ...]  # in lower case; the pattern is tried where one stands
    patterns: tuple[str, ...]  # from the sign to the value, tried in this order
    value: str  # the name of the check that a value must pass
    head: str = ""  # what every one of the patterns begins with


def _context(kind: str, signs: str, words: str, value: str, gap: str = GAP) -> Context:
    always = gap.removesuffix("??")  # what lies between is looked over last
    forms = (_STRICT, _TO, *([f"{always}{_STRICT}", f"{always}{_TO}"] if gap else []), _BARE)
    patterns = tuple(f"(?:{words}){form}" for form in forms)
    return Context(kind, tuple(signs.split("|")), patterns, value, f"(?:{words})")


_DOORS = (
    r"door|alarm|gate|garage|safe|locker|vault|entry|entrance|building|lock ?box|key ?box|key ?safe"
    r"|keypad|burglar|house|elevator|apartment|flat|shed|bike|lock|padlock|suitcase|office|lobby"
    r"|intercom|cabin|storage|luggage|gym|cellar|basement|porch|stairwell|parking"
)
_KEYED = (
    r"api|access|secret|private|priv|signing|encryption|encrypt|master|auth|account|client|service"
    r"|session|refresh|bot|webhook|deploy|personal|bearer|jwt|app|application|storage|shared"
    r"|consumer|subscription|wallet|hmac|aes|ssh|root|admin|server|bearer auth|oauth|id"
    r"|pre-?shared|vpn|developer|live|test|prod|production|security|verification|cookie|crypto|host|age|wireguard"
)

_CODES = (
    *("verification", "confirmation", "security", "login", "log-in", "sign-in", "authentication"),
    *("auth", "access", "sms", "authenticator", "activation", "authorization", "unlock"),
    *("transfer", "delivery", "pickup", "reset"),
)

CONTEXTS: tuple[Context, ...] = (
    _context(
        "password",
        "password|passwd|passwort|kennwort|contraseña|mot de passe|wachtwoord|losenord|lösenord"
        "|hasło|parola|senha|пароль|password|パスワード|密码",
        r"(?:password|passwd|passwort|kennwort|contraseña|mot de passe|wachtwoord|l[oö]senord|hasło"
        r"|parola|senha|пароль|パスワード|密码)s?(?:_[A-Z\d]{1,12})?(?![a-zA-Z_])",
        "password",
    ),
    _context(
        "password",
        "pass|pw|pwd|psk|wpa|wifi key|wi-fi key|wlan key|network key|credentials|login|logon",
        r"(?<![^\W_])(?:pass|pw|pwd|psk|passcode|wpa\d?(?:[ -]psk)?(?: key)?"
        r"|(?:wi-?fi|wlan|network) key|credentials?|log(?:in"
        r"|on)s?)(?:_[A-Z\d]{1,12})?(?![a-zA-Z_])",
        "short",
    ),
    _context(
        "password",
        "passphrase|pass phrase|pass-phrase",
        r"pass[ -]?phrases?(?![a-zA-Z])",
        "password",
    ),
    _context(
        "pin",
        "pin|nip|passcode",
        r"(?<![^\W_])(?:pin|nip|passcode)(?:[ -]?(?:code|number|no\.?|nr\.?))?s?(?![a-zA-Z])",
        "digits",
    ),
    _context(
        "door-code",
        "code|combination|combo|alarm|zahlenkombination",
        rf"(?:(?<![a-zA-Z])alarm|(?:code|combination|combo|pin)s?(?![a-zA-Z])"
        rf"(?: (?:for|to|of|on|at) (?:the |my |our |your |his "
        rf"|her )?(?:\w+ ){{0,2}}(?:{_DOORS})s?)?)",
        "door",
        r"(?:[ \t](?:for|to|of|on|at|in)\b[^\n.:;=!?\"`]{1,40}?)??",
    ),
    _context(
        "door-code",
        "keypad|front door|back door|garage|gate|lockbox|lock box|key box|locker|intercom|alarm",
        r"(?<![a-zA-Z])(?:keypad|(?:front|back) door|garage|gate|lock ?box|key box|locker|intercom"
        r"|alarm)(?![a-zA-Z])",
        "place",
        "",
    ),
    _context(
        "otp",
        "otp|one-time|one time|2fa|two-factor|totp|mfa",
        r"(?<![a-zA-Z])(?:otp|one[- ]time[ -](?:pass(?:word|code)|pin|code)|2fa(?: code| secret)?"
        r"|two-factor(?: code)?|totp(?: secret| code)?|mfa(?: code)?)s?(?![a-zA-Z])",
        "otp",
    ),
    _context(
        "otp",
        "|".join(f"{name} code" for name in _CODES),
        rf"(?:{'|'.join(_CODES)})[ -]codes?(?![a-zA-Z])",
        "otp",
    ),
    Context(
        "otp",
        ("code",),
        (r"(?:code|passcode)s?\b[^\n.!?:;=]{0,48}?(?:[ ](?:is|was)\b[ ]?:?|[:=])\s{0,3}",),
        "sent",
    ),
    _context(
        "cvv",
        "cvv|cvc|csc|security code",
        r"(?<![a-zA-Z])(?:cvv2?|cvc2?|csc|security code)(?: code| number)?(?![a-zA-Z])",
        "cvv",
    ),
    _context(
        "ssn",
        "ssn|social security|social insurance|sozialversicherung|sin number",
        r"(?<![a-zA-Z])(?:ssn|social (?:security|insurance)(?: (?:number|no\.?|nr\.?|#))?"
        r"|sozialversicherungsnummer|sin number)(?![a-zA-Z])",
        "national",
    ),
    _context(
        "passport",
        "passport|reisepass|driver|driving licence|driving license|license number|id card"
        "|ausweis|identity card|national id|green card",
        r"(?:passport|reisepass|driver[’']?s?[ -]licen[sc]e|driving licen[sc]e|id[ -]card"
        r"|identity card|national id|green card|(?:personal)?ausweis(?:nummer)?|license number)"
        r"(?:[ -]?(?:number|no\.?|nr\.?|#|id|nummer))?(?![a-zA-Z])",
        "document",
    ),
    _context(
        "tax-id",
        "tax|tin |ein |tin:|ein:|itin| utr|steuer|national insurance|nino|ni number|codice fiscale",
        r"(?<![a-zA-Z])(?:tax(?:payer)?[ -]?(?:id(?:entification)?|reference|ref|file)?(?: number"
        r"| no\.?| nr\.?)?|tin|ein|itin|utr|nif|steuer(?:-?id|nummer|identifikationsnummer)?"
        r"|national insurance(?: number| no\.?)?|nino|ni number|codice fiscale)(?![a-zA-Z])",
        "national",
    ),
    _context(
        "account",
        "account n|acct|routing|sort code|kontonummer|account #",
        r"(?:account (?:number|no\.?|nr\.?|#)|acct\.?(?: no\.?| number)?|routing(?: number| no\.?)?"
        r"|sort code|kontonummer)(?![a-zA-Z])",
        "account",
    ),
    _context(
        "card",
        "card|visa|mastercard|amex|karte",
        r"(?:card|visa|mastercard|amex|karte)(?:[ -]?(?:number|no\.?|nr\.?|nummer))?(?![a-zA-Z])",
        "card",
    ),
    _context(
        "key",
        "key|token|secret|credential|_pat",
        rf"(?<![a-zA-Z])(?:(?:\w{{1,40}}[_ .-])?(?:{_KEYED}|license|activation|product)[_ -]?"
        r"(?:\w{1,20}[_ -])?(?:keys?|tokens?|secrets?|pat)|\w{0,40}(?:secret|token|credential)s?"
        r"|[A-Z\d_]{0,40}_(?:KEY|TOKEN|SECRET|PAT))(?:_id|_base64|_hex)?(?![a-zA-Z_])",
        "key",
    ),
    _context(
        "authorization",
        "authorization|x-api-key|x-auth|api-key|apikey",
        r"(?:proxy-)?authorization|x-[a-z-]{0,20}(?:key|token|auth)|api-?key",
        "header",
        "",
    ),
    Context(
        "authorization",
        ("bearer ", "basic "),
        (r"(?<![a-zA-Z])(?:bearer|basic)[ \t]{1,3}",),
        "bearer",
    ),
    Context(
        "cookie",
        ("cookie:", "phpsessid", "jsessionid", "connect.sid"),
        (r"cookie: ?[^\s=;]{1,60}=|(?:php|j)sess(?:ion)?id[\"']?[:=] ?|connect\.sid=",),
        "bearer",
    ),
    Context(
        "url",
        ("://",),
        (r"://[^\s:/@\"'<>]{0,100}:(?=[^\s\"'<>/]{1,200}@[A-Za-z\d\[$.-])",),
        "url",
    ),
    Context(
        "password",
        (" -u", "--user"),
        (r"[ ](?-i:-u|--user)[ =]?[\"']?[^\s:\"']{1,100}:",),
        "argument",
    ),
    Context(
        "password",
        (" -p", " -a "),
        (r"[ ](?-i:-p|-a )[ =]?",),
        "argument",
    ),
    Context(
        "seed-phrase",
        ("seed", "phrase", "mnemonic", "words"),
        (
            r"(?:seed(?:[ -]?(?:phrase|words?))?|phrase|mnemonic(?: phrase)?"
            r"|words)\b[^\n]{0,60}?"
            r"(?:[:=\n-]|\b(?:is|are|was|were|reads?)\b)[\s:]{0,4}[\"'`]?",
        ),
        "words",
    ),
    Context(
        "recovery-code",
        ("recovery", "backup", "scratch code", "emergency code"),
        (
            r"(?:recovery|backup|scratch|emergency)[ -](?:codes?"
            r"|keys?)\b[^\n\d]{0,60}?[:\n-]\s{0,4}"
            rf"|(?:recovery|backup|scratch|emergency)[ -](?:codes?|keys?)\b{GAP}{_STRICT}",
        ),
        "codes",
    ),
)
# "hunter2 is my password": the value comes first.
REVERSED = re.compile(
    r"(?:[ ](?:is|was|are|=|as|for|works as)[ ](?:still |now |currently |also |again )?|, )"
    r"(?:my|our|your|the|his|her|their|a)\b(?P<what>[^\n.!?;:]{0,60}?)\b(?:password|passwort"
    r"|passcode"
    r"|passphrase|pin|code|otp|combination|combo|pw|key|token|secret|ssn|login|credentials)\b"
    r"(?![-_\w])",
    re.IGNORECASE,
)
REVERSED_SIGNS = (" is ", " as ", " was ", " are ", ", my ", ", our ")
# "changed my password from a to b"
FROM_TO = re.compile(
    r"(?:password|passwort|pw|pin|passcode|code|combination|combo|key|token)\b[^\n.!?]{0,40}?"
    r"\bfrom[ ][\"'`]?(?P<old>\S{3,80}?)[\"'`]?[ ](?:in)?to[ ][\"'`]?(?P<new>\S{3,80})",
    re.IGNORECASE,
)
# "enter 4711 at the gate", "use 482910 to sign in", "punch in 7733#"
ENTERED = re.compile(
    r"(?<![a-z])(?:enter|dial|punch in|type in|type|use|key in|press|input|with)[ ](?:the )?"
    r"(?:code[ :]{1,2}|pin[ :]{1,2})?[\"'`]?"
    r"(?P<value>[#*]?\d(?:[ -]?\d){3,8}[#*]?)[\"'`]?[ ](?:\w+[ ]){0,4}?(?:alarm|gate|door"
    r"|garage|keypad"
    r"|safe|lock|panel|lift|buzzer|entry|get in|disarm|unlock|log in|sign in|verify|confirm"
    r"|open|login|locker|lobby|elevator"
    r"|intercom|vault|padlock|entrance|lockbox|shed|burglar)\b",
    re.IGNORECASE,
)
# "the safe opens with 12-34-56"
OPENS = re.compile(
    rf"(?<![a-z])(?:{_DOORS})\b[^\n.!?]{{0,30}}?\b(?:opens?|unlocks?|disarms?|is opened|works?)"
    r"[ ](?:\w+[ ])?(?:with|by|using"
    r"|on)[ ](?:the )?(?:code )?[\"'`]?(?P<value>[#*]?\d(?:[ -]?\d){3,8}[#*]?)",
    re.IGNORECASE,
)
DOOR = re.compile(rf"(?<![a-z])(?:{_DOORS}|front|security|gate)\b", re.IGNORECASE)
# Codes that everybody may know.
KNOWN_CODE = re.compile(
    r"(?:error|status|exit|zip|postal|post|area|country|dial(?:l?ing)?|source|bar|qr|color|colour"
    r"|http|return|response|product|item|discount|promo|coupon|booking|flight|tracking|dress|morse"
    r"|char(?:acter)?|key|scan|op|byte|machine|building code|unicode|language|currency|airport|icd"
    r"|course|model|part|error-|lines of|close|reason|signal|fault|engine|swift|sort|plus"
    r"|class|cost|event|rgb|hex"
    r"|warning|trouble|billing|procedure|stock|lot|unit|department|pantone|iata|naics|train|gift|voucher"
    r"|referral|legacy|python|my own|gl|the)[ -]?$",
    re.IGNORECASE,
)
# What follows "password is" or "password:" in words and programs that tell none.
PLAIN = frozenset(
    """
    a about above active actually after again all already also always an and any anything as asked
    at auto available back bad be because been before being below between blank both but by bytes
    bool boolean can cannot case char chars confirmation correct could current default different
    do does doesn done each either else empty encrypted enough entered equal error even every
    exactly expired false few field file fine first float for form found from generated get given
    good gone great hard hash hashed have hello help here hidden how i if important in incorrect
    input int integer invalid is it its just kept known last like list load local login long lost
    low mandatory may me mine missing more most must my name needed needs never new next nil no
    none not nothing null number object of off ok okay old on once one only optional or other our
    out over param part password passed placeholder plain please policy possible prompt protected
    provided public quite random read really redacted required reset resets right safe same saved
    secret secure seen sent set shared short should shown so some something specified still stored
    str string strong supplied sure text than that the their them then there these they this those
    to today token too true two type typed undefined unique unknown unset up us use used user valid
    value variable verified very visible was we weak what when where whether which who why will
    with within without word words would wrong yes yet you your optional[str] secretstr field's
    manager managers recovery authentication protection fields page reset? login? username email
    changeme todo tbd n/a na xxx xxxx secrets env environment config keyring vault bitwarden
    1password keepass lastpass stronger simple easy difficult useless bogus enabled disabled ready
    under mostly based visible. part-of nullable varchar any. self cls args kwargs const let var
    return import def class function async await new. key keys signing case-sensitive
    """.split()
)
# Words of sentences, which no phrase of a wallet or password has.
SENTENCE = frozenset(
    """
    the and for are was were not you his her its our your that's they them this these those with
    have has had been will would could should from into about there their what when where which
    who how why than then because but or so if is it in on of to a an as at be by do my we me he
    she no too any can did does
    """.split()
)
