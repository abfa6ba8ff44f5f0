"""Words that are no secrets, and what is opened or told by codes and keys.

The one idea: every table asks the same few questions about a word, so their answers stand in one
place. Invariant: all words are in lower case.
"""

import re

# What is opened by a code, and what a key or token is called by.
DOORS = (
    r"door|alarm|gate|garage|safe|locker|vault|entry|entrance|building|lock ?box|key ?box|key ?safe"
    r"|keypad|burglar|house|elevator|apartment|flat|shed|bike|lock|padlock|suitcase|office|lobby"
    r"|intercom|cabin|storage|luggage|gym|cellar|basement|porch|stairwell|parking"
    r"|(?:haus)?t[uü]r|tresor|porte|portail|immeuble|puerta|portal|portone|cancello"
)
KEYED = (
    r"api|access|secret|private|priv|signing|encryption|encrypt|master|auth|account|client|service"
    r"|session|refresh|bot|webhook|deploy|personal|bearer|jwt|app|application|storage|shared"
    r"|consumer|subscription|wallet|hmac|aes|ssh|root|admin|server|bearer auth|oauth|id"
    r"|pre-?shared|vpn|developer|live|test|prod|production|security|verification|cookie|crypto|host|age|wireguard"
)
CODES = (
    *("verification", "confirmation", "security", "login", "log-in", "sign-in", "authentication"),
    *("auth", "access", "sms", "authenticator", "activation", "authorization", "unlock"),
    *("transfer", "delivery", "pickup", "reset"),
)
DOOR = re.compile(rf"(?<![a-z])(?:{DOORS}|front|security|gate)\b", re.IGNORECASE)
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
    trop très zu sehr falsch muy demasiado troppo molto
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
# What stands for a value that is put in later.
VARIABLE = re.compile(r"\$\{|\$\w+\Z|\$\(|%\w+%\Z|%[sdr]\b|[{<[]|\*+\Z")
