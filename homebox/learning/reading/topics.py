"""Which topic a clause speaks of, and which value it gives.

The language room recognises the sentences that its relations know; here are more wordings of the
same topics, and the doubt: "my head is spinning" has the shape of "my car is blue", so a value is
accepted only where it looks like something that lasts.
"""

import re
from functools import cache

from homebox.language.preferences import PREFERENCES
from homebox.language.relation_data import ONLY, PEOPLE, PETS
from homebox.language.relations import RELATIONS, kind_of, relation_for
from homebox.language.statements import match_preference, match_statement
from homebox.language.values import DAYS, MONTHS
from homebox.learning.reading.clauses import GAP
from homebox.learning.reading.told import Told
from homebox.learning.reading.words import (
    CLAUSAL,
    COUNTED_IN_PASSING,
    LASTING_NOUN,
    MANNER,
    NUMBER_WORD,
    PASSING_NOUN,
    POINTING,
    STATE,
)

_VALUE = "(?P<value>.+)"
_MONTH = "|".join(MONTHS)

# Wordings of listed topics beyond those that the relations list themselves.
_WORDINGS = (
    ("name", r"my (?:full |first )?name is {v}"),
    ("name", r"(?:i am|i'm) (?:called|named) {v}"),
    ("surname", r"my (?:last|family) name is {v}"),
    ("age", r"i am (?P<value>\d{1,3})(?: years old| years of age)?"),
    ("age", r"i (?:will be|turned|just turned) (?P<value>\d{1,3})(?: .*)?"),
    ("birthday", rf"i was born on (?:the )?(?P<value>\d{{1,2}}\.? (?:{_MONTH})|(?:{_MONTH}) \d+)"),
    ("home", r"(?:we live|i live|i reside|i am based|i am staying|i have lived) (?:over )?in {v}"),
    ("home", r"(?:i|we) (?:have )?(?:just )?moved (?:here |over )?(?:to|into) {v}"),
    ("home town", r"i grew up in {v}"),
    ("birthplace", r"(?:i am|i come) (?:originally )?from {v}"),
    ("job", r"(?:i am working|i work|i have worked) (?:\w+ly )?as an? {v}"),
    ("job", r"i am an? (?P<value>(?:[\w-]+ )?[\w-]+) (?:by profession|by trade|for a living)"),
    ("job", r"(?:my (?:profession|occupation|work) is) (?:being )?an? {v}"),
    ("employer", r"(?:i am working|i work|i have worked|i am employed) (?:at|for|by) {v}"),
    ("car", r"i (?:drive|own) (?P<value>(?:an? )?[A-Z0-9][\w-]*(?: [\w-]+)?)"),
    ("football team", r"(?:i support|i am a (?:fan|supporter) of|i root for) {v}"),
    ("language spoken", r"my (?:native|first|mother) (?:language|tongue) is {v}"),
    ("language learned", r"i am (?:currently )?(?:learning|studying) {v}"),
    ("instrument", r"i (?:play|practise|practice) the {v}"),
    ("hobby", r"i (?:do|love doing|enjoy|like doing) (?P<value>[\w-]+ing)"),
    ("bedtime", r"i (?:usually |always |normally )?go to (?:bed|sleep) at {v}"),
    ("lunch time", r"i (?:usually |always |normally )?(?:have|eat) (?:my )?lunch at {v}"),
    ("getting up", r"i (?:usually |always |normally )?(?:get|wake) up at {v}"),
    ("shoe size", r"i (?:wear|have|take) (?:a )?(?:shoe size|size) (?P<value>\d+)(?: shoes)?"),
    ("house number", r"i live at (?:house )?number {v}"),
    ("bus line", r"i (?:always |usually )?take (?:the )?(?:bus|bus line|bus number|line) {v}"),
    ("allergy", r"i (?:can't|cannot|must not|mustn't|am not allowed to) (?:eat|have) (?:any )?{v}"),
    ("alarm time", r"my alarm (?:goes off|rings|is set|is set for|is) (?:at |for )?{v}"),
    ("language learned", r"i have been (?:learning|studying) {v}"),
    ("allergy", r"i am (?:very |really |badly )?allergic to {v}"),
    ("intolerance", r"i am (?P<value>lactose|gluten|fructose|histamine)[ -]intolerant"),
    ("year of birth", r"i was born (?:in )?(?P<value>(?:19|20)\d\d)"),
    ("preferred drink", r"i (?:usually |always |mostly )?(?:prefer to )?drink {v}"),
    (
        "disliked food",
        r"i (?:really |absolutely )?(?:hate|can't stand|dislike|don't like) {v}",
    ),
    ("disliked food", r"i don't eat (?:any )?{v}"),
    ("wife's name", r"i am married to (?P<value>(?!an? )[\w'-]+), my wife"),
    ("what to call me", r"(?:please )?call me {v}"),
    ("what to call me", r"(?:my friends|friends|people) (?:all )?call me {v}"),
    ("what to call me", r"(?:everyone|everybody) calls me {v}"),
    # Topics that no relation lists are asked by the general frames.
    ("liking", r"i (?:really |also |just |absolutely )*(?:like|love|enjoy|adore) {v}"),
    (
        "liking",
        r"i am (?:very |really )?(?:fond of|keen on|mad about|a (?:big |huge )?fan of) {v}",
    ),
    ("preferring", r"i (?:really |much |usually |generally |always |also )*prefer {v}"),
    ("preferring", r"i(?: would|'d) rather (?:have |use |take |get )?{v}"),
    (
        "number of children",
        r"(?:i|we) have (?P<value>\d|two|three|four|five|six|seven) (?:children|kids)",
    ),
    ("diet", r"i am (?:an? )?(?P<value>vegetarian|vegan|pescatarian|pescetarian|coeliac|teetotal)"),
    ("handedness", r"i am (?P<value>left-handed|right-handed|ambidextrous)"),
    ("marital status", r"i am (?P<value>single|married|divorced|widowed|engaged)"),
    ("height", r"i am (?P<value>\d[\d.,]* ?(?:cm|m|metres?|meters?|ft|feet)(?: \d+)?)(?: tall)?"),
    ("eye colour", r"i have (?P<value>blue|brown|green|grey|gray|hazel) eyes"),
    ("blood type", r"my blood (?:type|group) is (?P<value>(?:a|b|ab|o)[+-]?(?: \w+)?)"),
)
_TAIL = re.compile(
    r"(,? (now|fyi|lol|haha|xd|more than anything(?: else)?)|,? (nowadays|these days"
    r"|originally|at the moment|currently|today|by the way|btw|too"
    r"|as well|though"
    r"|please|thanks|ok|okay|you know|actually|again|in case (you|it) (wonder|ask|matters"
    r"|helps)|for years"
    r"|if (you (want to|must) know|that helps|it matters)"
    r"|(last|this) (year|month|week|weekend|spring|summer|autumn|fall|winter)|in \d{4}"
    r"|all the time|of course|indeed|since \d{4}|very much|a lot|so much|most of all)"
    r"|,? (because|but|which|who|where|although|though|whom|that's|with whom|even|, (as|since|so)"
    r"|ever since|and (he|she|it|they|that|this|the))\b.*"
    r"|, (?=[a-z])(?!and |or )(a|an|the|he|she|it|my|our|which|who|one|not|you|in|on|at|by|with|for"
    r"|from|after|like|as|and)\b.*)$"
)
# Words that only add weight; in names they have capitals.
_EMPHASIS = re.compile(
    r"\b(really|very much|absolutely|just|actually|currently|also|truly|definitely|totally"
    r"|still)\s+"
)
# "in Hobart", "for two years": behind a value, not a part of it.
_PHRASE_BEHIND = re.compile(
    r" (in|at|for|with|near|since|from|during|on|every|next to|along with|by) (?!the \w+$).*$"
)
# What people type in a hurry, and how the forms have it.
_HURRIED = tuple(
    (re.compile(pattern, re.IGNORECASE), words)
    for pattern, words in (
        (r"\bfave?(?= \w)", "favourite"),
        (r"\b(?:bday|b-day)\b", "birthday"),
        (r"^(my(?: \w+)?) names (?!of\b|are\b|were\b|is\b)", r"\1 name is "),
        (r"\b(name|birthday|anniversary|job|home)'s (?=\w)", r"\1 is "),
        (r"\bcan ?not\b|\bcant\b", "can't"),
        (r"^(can't|must not|mustn't) (?=(?:eat|have) )", r"I \1 "),
        (r"\bmust not (?=(?:eat|have) )", "mustn't "),
        (rf"\b(?:the )?(\d{{1,2}})(?:st|nd|rd|th) of (?={_MONTH})", r"\1 "),
        (r"^what i (?:really |most |mostly )?(\w+)(?: most)? (?:is|are) (?=\w)", r"I \1 "),
        (r"^(?:my )?fav(?:e|ou?rite)? (\w+): ?(?=\w)", r"my favourite \1 is "),
        (r"^(birthday|anniversary) is (?=\w)", r"my \1 is "),
        (r"^the name of our (?=\w)", "the name of my "),
        (rf"^(my (?:{'|'.join(PETS)}))s called (?=\w)", r"\1 is called "),
        (r"^(?:just |recently )?moved (?=to |into )", "I moved "),
        (
            r"^(wife|husband|partner|son|daughter|dog|cat|boss|mum|mom|dad)'?s name is ",
            r"my \1's name is ",
        ),
    )
)
_DISLIKED_DAY = re.compile(
    rf"i (?:hate|can't stand|dislike|don't like) (?:{'|'.join(DAYS)}|mornings?|winter|summer|spring"
    r"|autumn|meeting)s?\b",
    re.IGNORECASE,
)
_TITLED = re.compile(r"\b(dr|mr|mrs|ms|prof)\.? ([a-z]\w+)$", re.IGNORECASE)
_CLOCK = r"\d{1,2}[:.]\d\d(?: ?[ap]\.?m\.?)?|\d{1,2} ?(?:[ap]\.?m\b\.?|o'clock)"
_CORES = {
    "number": re.compile(r"\d[\d.,]*[a-zA-Z]?\b|\d+"),
    "time": re.compile(_CLOCK, re.IGNORECASE),
}
_BEING = r"(?:,? (?:and |who is |that is |which is )?(?:he|she|it|his name|her name|its name) is"
_NAMED = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(?i:i|we) (?:have|adopted|bought|got|keep|own)(?: an?"
        rf"| the) (?P<noun>[a-z-]+(?: (?!yesterday|today|last|now)[a-z-]+)?)"
        rf"(?: [a-z ]+?)?{_BEING}(?: called| named)?) (?P<value>[A-Z][\w'-]*(?: [A-Z][\w'-]*)*)$",
        r"(?i:my) (?P<noun>[\w' -]{2,30}?) goes by(?: the name)?(?: of)? (?P<value>[A-Z].*)$",
        rf"(?i:my) (?P<noun>{'|'.join((*PEOPLE, *PETS, *ONLY))}),? (?P<value>[A-Z][\w-]+),? [a-z]",
    )
)
# What those who are near the owner like, where they live and work.
_OF_OTHERS = tuple(
    (
        subject,
        re.compile(
            rf"(?i:my) (?P<who>(?:{'|'.join((*PEOPLE, *ONLY, 'mum', 'mom', 'dad'))}"
            rf")(?: [A-Z][\w-]+)?){said}"
        ),
    )
    for subject, said in (
        ("", r"'s (?P<what>(?:least )?favou?rite [a-z]+(?: [a-z]+)?|birthday) is (?P<value>.+)$"),
        ("home", r" lives in (?P<value>[A-Z].*)$"),
        ("employer", r" works (?:at|for) (?P<value>[A-Z].*)$"),
    )
)
_DATE = re.compile(rf"\d|{_MONTH}|easter|christmas|{'|'.join(DAYS)}", re.IGNORECASE)
NOTE = "note"  # the topic of what was to be remembered and has none of its own
# Topics of which several values hold at once.
MANY = frozenset({"liking", "preferring", NOTE})
_PREFERRED = frozenset({"preferred drink", "liking", "preferring"})


def told(clause: str, small: bool = False) -> Told | None:
    """Read one clause as a claim of the owner about themselves, or return None.

    `small` says that the message was typed without capitals, so that they prove nothing.
    """
    clause = expanded(clause)
    if GAP in clause:
        return None
    named = _in_passing(clause, small) or _of_another(clause, small)
    if _DISLIKED_DAY.match(clause):
        return None
    if named:
        return named
    return _told(clause, small) or _told(_TAIL.sub("", _TAIL.sub("", clause)), small)


def _in_passing(clause: str, small: bool) -> Told | None:
    """Read names told on the way: "my daughter Nkechi ...", "a cat, she is called Calypso"."""
    for pattern in _NAMED:
        match = pattern.match(clause)
        noun = match.group("noun").lower() if match else ""
        if match and not PASSING_NOUN.match(noun):
            value = _value(match.group("value"), "name", small)
            return Told(f"{noun}'s name", value) if value else None
    return None


def _of_another(clause: str, small: bool) -> Told | None:
    """Read what is said of somebody near: "my colleague Ada's favourite flower is freesia"."""
    for subject, pattern in _OF_OTHERS:
        match = pattern.match(clause)
        what = subject or (match.group("what") if match else "")
        value = _value(match.group("value"), _kind(what), small) if match else None
        if match and value and not STATE.match(value):
            return Told(f"{match.group('who')}'s {what}", value)
    return None


def _told(clause: str, small: bool) -> Told | None:
    for preference, said in match_preference(clause):
        value = _value(said, preference.kind, small)
        if value:
            return Told(preference.key, value, "preference")
    for subject, pattern in _wordings():
        match = pattern.match(clause)
        if match and " more than any other " not in match.group("value"):
            value = _value(match.group("value"), _kind(subject), small)
            if value:
                return Told(subject, value, _lesson_kind(subject))
    return _listed(clause, small)


def _listed(clause: str, small: bool) -> Told | None:
    """Ask the language room, and doubt what it finds."""
    for match in match_statement(clause):
        if match.who is not None:
            continue
        subject = _spelled(match.relation.key)
        value = _value(match.value, match.relation.kind, small)
        if value is None:
            return None
        if subject not in RELATIONS and not _lasting(subject, value):
            return None
        if _bare(clause, value) and STATE.match(value) and not value[0].isupper():
            return None
        return Told(subject, value, _lesson_kind(subject))
    return None


def _spelled(subject: str) -> str:
    """Use the listed spelling of a topic where only the other one is listed."""
    british = subject.replace("favorite", "favourite").replace("color", "colour")
    return british if subject not in RELATIONS and british in RELATIONS else subject


def _lasting(noun: str, value: str) -> bool:
    if noun.startswith("number of "):
        return not COUNTED_IN_PASSING.search(noun)
    if noun.endswith("'s name"):
        noun = noun.removesuffix("'s name")
        return not (PASSING_NOUN.match(noun) or CLAUSAL.search(noun))
    if PASSING_NOUN.match(noun) or CLAUSAL.search(noun) or STATE.match(value):
        return False
    proper = kind_of(value) != "thing" or re.match(r"an? [A-Z]", value)
    return bool(proper or LASTING_NOUN.search(noun))


def _bare(clause: str, value: str) -> bool:
    """Say whether the clause has the form in which passing states are told too."""
    return bool(re.search(rf"\b(is|are|am) {re.escape(value)}$", clause, re.IGNORECASE))


def _lesson_kind(subject: str) -> str:
    return "preference" if subject in PREFERENCES or subject in _PREFERRED else "fact"


def expanded(clause: str) -> str:
    """Write contractions out, as the forms have them."""
    clause = _EMPHASIS.sub("", clause)
    for pattern, words in _HURRIED:
        clause = pattern.sub(words, clause)
    clause = re.sub(r"\bi['’ ]?m\b", "I am", clause, flags=re.IGNORECASE)
    clause = re.sub(r"\b(i|we)'?ve (got )?", r"\1 have ", clause, flags=re.IGNORECASE)
    clause = re.sub(r"\b(i|we) (have )?got (?=an? )", r"\1 have ", clause, flags=re.IGNORECASE)
    clause = re.sub(r"^we have (?=an? )", "I have ", clause, flags=re.IGNORECASE)
    clause = re.sub(r"\b(do not|dont)\b", "don't", clause, flags=re.IGNORECASE)
    clause = re.sub(r"^(our|me) (?!and)", "my ", clause, flags=re.IGNORECASE)
    clause = re.sub(r"^(my \w+)s name is\b", r"\1's name is", clause, flags=re.IGNORECASE)
    clause = _TITLED.sub(lambda match: f"{match[1].title()} {match[2].title()}", clause)
    return re.sub(r"(?<=\w)'s (called|named)\b", r" is \1", clause)


@cache
def _wordings() -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple(
        (subject, re.compile(f"^{text.replace('{v}', _VALUE)}$", re.IGNORECASE))
        for subject, text in _WORDINGS
    )


def _kind(subject: str) -> str:
    return PREFERENCES[subject].kind if subject in PREFERENCES else relation_for(subject).kind


def plain_value(text: str) -> str | None:
    """Clean a value whose topic is not known; None if it cannot be one."""
    value = _value(text, "thing", False)
    return None if value is None or (STATE.match(value) and value[0].islower()) else value


def _value(text: str, kind: str, small: bool) -> str | None:
    """Clean a value and check that it can be one of its kind."""
    value = _TAIL.sub("", _TAIL.sub("", text)).strip(" \"'“”.,!?")
    if kind in _CORES:
        core = _CORES[kind].search(value)
        value = core.group() if core else value
    else:
        value = _PHRASE_BEHIND.sub("", value)
    if kind == "name":
        value = re.sub(r"^an? ", "", value)
    if not value or len(value.split()) > 8 or GAP in value or POINTING.match(value):
        return None
    if not value[0].isupper() and (CLAUSAL.search(value) or MANNER.match(value)):
        return None
    return _named(value, kind, small) if _fits(value, kind, small) else None


def _named(value: str, kind: str, small: bool) -> str:
    """Give a name its capitals where the owner typed none at all."""
    if small and kind in ("name", "place", "language") and value.islower():
        return " ".join(word[:1].upper() + word[1:] for word in value.split())
    return value


def _fits(value: str, kind: str, small: bool) -> bool:
    words = value.split()
    if kind in ("name", "place", "language"):
        proper = bool(re.match(r"(an? |the )?([a-z]+ )?[A-Z\d]", value))
        named = proper or small or len(words) == 1
        return named and len(words) <= 5 and (proper or not STATE.match(value))
    if kind == "number":
        return bool(NUMBER_WORD.search(value)) and len(words) <= 4
    if kind == "time":
        return bool(NUMBER_WORD.search(value) or re.match("noon|midnight", value, re.IGNORECASE))
    if kind == "date":
        return bool(_DATE.search(value))
    if kind == "day":
        return any(day.lower() in value.lower() for day in DAYS)
    return len(words) <= (4 if kind in ("job", "instrument", "plant", "animal") else 8)
