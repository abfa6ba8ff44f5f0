"""What a sentence speaks of where a lone number in it is a code, and how many digits it has then.

The one idea: a topic is a way in, or how its code came; which number is the code, `lone` decides.
Invariant: every sign begins a topic.
"""

from homebox.memory.secrets.cues import Cue, at_sign, cue
from homebox.memory.secrets.lone import beside

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
