"""What a sentence speaks of where a lone number in it is a code, and how many digits it has then.

The one idea: a topic is a way in, or how its code came; which number is the code, `lone` decides.
Invariant: every sign begins a topic.
"""

from homebox.memory.secrets.cues import Cue, at_sign, cue, near_number
from homebox.memory.secrets.lone import beside
from homebox.memory.secrets.vocabulary import DOORS

_TOPIC = (
    r"passcodes?|otps?|2fa|mfa|two[- ]factor|puk2?|authenticator|verif\w+|one[- ]time|steam guard"
    r"|[ ]codes?|pins?|tan|unlock\w*|disarm\w*|keypad|intercom|combination|combo|padlock"
    r"|lock ?box|key ?safe|(?:bike|screen|bicycle|gym|phone|suitcase|luggage|cable|number) lock"
    r"|alarm (?:panel|system)|burglar alarm|texted|sms(?:['’]?e?d)?|[ ]text from|messaged"
    r"|e?mailed(?: me| us)?|(?:just )?sent(?: me| us)?|sign[ -]in|log in|gets? in|let in|buzz"
    r"|suitcase is|padlock(?: is|:)|(?:tablet|ipad) is|lock screen|screen pattern|whatsapp|locker"
    r"|(?:signal|telegram) wants|authy|gate (?:number|code)|(?:cupboard|drawer) lock|digits?"
    r"|(?:door|gate):|open(?:s|ed) with|as password"
)


def _topic(kind: str, least: int, signs: str) -> Cue:
    return cue(kind, signs, _TOPIC, check=beside(least), seek=at_sign)


TOPICS: tuple[Cue, ...] = (
    # "enter 4711 at the gate", "use 482910 to sign in", "punch in 7733#"
    cue(
        "door-code",
        "enter |dial |punch in |type |use |key in |press |input ",
        r"(?<![a-z])(?:enter|dial|punch in|type in|type|use|key in|press|input|with)[ ](?:the )?"
        r"(?:code[ :]{1,2}|pin[ :]{1,2})?[\"'`]?"
        r"(?P<value>[#*]?\d(?:[ -]?\d){3,8}[#*]?)[\"'`]?[ ](?:\w+[ ]){0,4}?(?:alarm|gate|door"
        r"|garage|keypad"
        r"|safe|lock|panel|lift|buzzer|entry|get in|disarm|unlock|log in|sign in|verify|confirm"
        r"|open|login|locker|lobby|elevator"
        r"|intercom|vault|padlock|entrance|lockbox|shed|burglar)\b",
        seek=at_sign,
    ),
    # "the safe opens with 12-34-56"
    cue(
        "door-code",
        " open| unlock| disarm| works ",
        rf"(?<![a-z])(?:{DOORS})\b[^\n.!?]{{0,30}}?\b(?:opens?|unlocks?|disarms?|is opened|works?)"
        r"[ ](?:\w+[ ])?(?:with|by|using"
        r"|on)[ ](?:the )?(?:code )?[\"'`]?(?P<value>[#*]?\d(?:[ -]?\d){3,8}[#*]?)",
        seek=near_number,
    ),
    _topic(
        "otp",
        4,
        "passcode|otp|2fa|mfa|two-factor|two factor|authenticator|verif|one-time"
        "|one time|steam guard| code|tan|texted|sms| text from|messaged|digit|sign in"
        "|sign-in|log in|door:|gate:|opens with|opened with|as password",
    ),
    _topic(
        "pin",
        4,
        "puk|pin|unlock",
    ),
    _topic(
        "door-code",
        4,
        "disarm|keypad|intercom|combination|combo|padlock|lockbox|lock box|key safe"
        "|keysafe|bike lock|screen lock|bicycle lock|gym lock|alarm panel|alarm system"
        "|burglar alarm|phone lock|get in|gets in|let in|buzz|tablet is|lock screen",
    ),
    _topic(
        "otp",
        4,
        "ipad is|screen pattern",
    ),
    _topic(
        "otp",
        3,
        "authy|gate number|gate code",
    ),
    _topic(
        "door-code",
        3,
        "cupboard lock|drawer lock|suitcase lock|luggage lock|cable lock|number lock"
        "|suitcase is|padlock is|padlock:",
    ),
    _topic(
        "otp",
        6,
        "emailed|mailed me|mailed us|sent me|sent us|just sent|whatsapp|signal wants"
        "|telegram wants",
    ),
    _topic(
        "door-code",
        6,
        "locker",
    ),
)
