"""Numbers that open something, by what is done with them and where.

The one idea: a number stands between a deed and a place: somebody enters it at a gate, a safe opens
with it, it opens the garage, a panel wants it. Such a number counts nothing, so its sentence ends
behind it or goes on with a small word. Invariant: each pattern is bounded and begins at its sign or
at most fifty characters before it.
"""

import re
from collections.abc import Iterable

from homebox.memory.secrets.cues import Cue, around, at_sign, behind_number, cue, near_number
from homebox.memory.secrets.numerals import ALONE, ROUND
from homebox.memory.secrets.view import Span, View
from homebox.memory.secrets.vocabulary import DOORS

_CODE = r"(?P<value>[#*]?\d(?:[ -]?\d){3,8}[#*]?)"
# One that is not said to be entered: its digits in groups or not, or as a dial is turned.
_LONE = r"(?P<value>\d{4,8}|\d{1,2}(?:-\d{1,2}){2,4}|\d(?:[ -]\d){3,7}|\d{2,4}[ -]\d{2,4})"
# A place, with nothing behind it that ends a clause.
_PLACE = re.compile(rf"\b(?:{DOORS}|room|store|machine)\b[^\n.!?;]{{0,32}}\Z", re.IGNORECASE)
_THE = r"(?:(?:the|our|my|your|his|her|their|a)[ ])?"


def _unless_round(view: View, match: re.Match[str]) -> Iterable[Span]:
    """Take a number that is no year and no estimate."""
    return () if ROUND.fullmatch(match["value"]) else (match.span("value"),)


def _of_a_place(view: View, match: re.Match[str]) -> Iterable[Span]:
    """Take a number that a place before it wants."""
    place = _PLACE.search(view.text, max(0, match.start() - 48), match.start())
    return _unless_round(view, match) if place else ()


ENTERED: tuple[Cue, ...] = (
    # "enter 4711 at the gate", "use 482910 to sign in", "punch 7733# into the panel"
    cue(
        "door-code",
        "enter |dial |punch |tap |type |use |uses |key |press |input ",
        r"(?<![a-z])(?:enter|dial|(?:punch|tap|type|key)(?: in)?|uses?|press|input|with)[ ]"
        r"(?:the )?(?:code[ :]{1,2}|pin[ :]{1,2})?[\"'`]?"
        rf"{_CODE}[\"'`]?[ ](?:\w+[ ]){{0,4}}?(?:alarm|gate|door|garage|keypad|safe|lock|panel|lift"
        r"|buzzer|entry|get in|disarm|unlock|log in|sign in|verify|confirm|open|login|locker|lobby"
        r"|elevator|intercom|vault|padlock|entrance|lockbox|shed|burglar)\b",
        seek=at_sign,
    ),
    # "the safe opens with 12-34-56"
    cue(
        "door-code",
        " open| unlock| disarm| works ",
        rf"(?<![a-z])(?:{DOORS})\b[^\n.!?]{{0,30}}?\b(?:opens?|unlocks?|disarms?|is opened|works?)"
        rf"[ ](?:\w+[ ])?(?:with|by|using|on)[ ](?:the )?(?:code )?[\"'`]?{_CODE}",
        seek=near_number,
    ),
)
PLACES: tuple[Cue, ...] = (
    # "the little box opens on 3308", and in other languages
    cue(
        "door-code",
        "opens |unlocks |ffnet |entsperrt |geht mit |ouvre avec |se abre con |si apre con ",
        r"(?:(?:opens|unlocks)[ ](?:up[ ])?(?:on|with|to)|ffnet[ ](?:\w+[ ]){0,2}?mit"
        r"|entsperrt[ ](?:\w+[ ]){0,2}?mit|geht mit|ouvre avec|se abre con|si apre con)[ ]"
        r"(?:(?:the|le|el|il|dem)[ ])?(?:(?:code|codice|c[oó]digo)[ ])?"
        rf"{_LONE}(?:[#*]|{ALONE}|[ ]auf\b)",
        check=_unless_round,
        seek=at_sign,
    ),
    # "the shed takes 1-9-8-4", "the bike room wants 6603"
    cue(
        "door-code",
        " takes | wants | needs | turns | turning | accepts | asks for | you need | will have ",
        r"[ ](?:takes|wants|needs|turns|turning|accepts|asks for|you need|will have)[ ](?:the )?"
        rf"{_LONE}(?:{ALONE}|(?=[ ](?:followed|these|starting|clockwise|nowadays)\b))",
        check=_of_a_place,
        seek=at_sign,
    ),
    # "0915 opens the garage", "7702 lets the dog walker through the back gate"
    cue(
        "door-code",
        " opens | unlocks | disarms | lets | gets ",
        rf"(?<![\w.,:/#-])(?<!\d[ ]){_LONE}[#*]?[ ](?:opens|unlocks|disarms|(?:lets|gets)[ ]"
        rf"(?:\w+[ ]){{1,4}}?(?:in|into|through|past|inside))[ ]{_THE}(?:\w+[ ]){{0,2}}?"
        rf"(?:{DOORS})\b",
        check=_unless_round,
        seek=behind_number,
    ),
    # "4920 followed by the star key"
    cue(
        "door-code",
        " followed by | then the | and the | plus the ",
        rf"(?<![\w.,:/#-]){_LONE}[ ](?:followed by|then|and|plus)[ ](?:the[ ])?"
        r"(?:star|hash|pound|asterisk)\b",
        seek=behind_number,
    ),
    # "1312#": nothing else is written so
    cue(
        "door-code",
        "#",
        r"(?<![\w.,:/#&=+-])(?P<value>\*?\d{3,8}#)(?=[.,;!?)\"']{0,2}(?:\s|\Z))",
        seek=around(10, 3),
    ),
    # "what I key in on the cash machine is 6174"
    cue(
        "pin",
        "cash card|cash machine|cashpoint|bank card|debit card",
        r"(?:cash|bank|debit)[ ]?(?:card|machine|point)\b[^\n.!?\d]{0,24}?"
        rf"(?:\bis|:|\bwants|\btakes)[ ](?P<value>\d{{4,6}}){ALONE}",
        check=_unless_round,
    ),
)
