"""Which topic a clause speaks of, and which value it gives.

The language room recognises the sentences that its relations know; here are more wordings of the
same topics, and the doubt: "my head is spinning" has the shape of "my car is blue", so a value is
accepted only where it looks like something that lasts.
"""

import re
from functools import cache

from homebox.language.preferences import PREFERENCES
from homebox.language.relations import RELATIONS, kind_of, relation_for
from homebox.language.statements import match_preference, match_statement
from homebox.language.values import DAYS
from homebox.learning.reading.clauses import GAP
from homebox.learning.reading.told import Told
from homebox.learning.reading.wordings import (
    BY_COLON,
    HURRIED,
    MONTH,
    NAMED,
    OF_OTHERS,
    PLAINLY,
    WORDINGS,
)
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
_DATE = re.compile(rf"\d|{MONTH}|easter|christmas|{'|'.join(DAYS)}", re.IGNORECASE)
NOTE = "note"  # the topic of what was to be remembered and has none of its own
# Topics of which several values hold at once.
MANY = frozenset({"liking", "preferring", NOTE})
_PREFERRED = frozenset({"preferred drink", "liking", "preferring"})


def told(clause: str, small: bool = False) -> Told | None:
    """Read one clause as a claim of the owner about themselves, or return None.

    `small` says that the message was typed without capitals, so that they prove nothing.
    """
    clause = _plainly(expanded(clause))
    if GAP in clause:
        return None
    named = _in_passing(clause, small) or _of_another(clause, small)
    if _DISLIKED_DAY.match(clause):
        return None
    if named:
        return named
    return _told(clause, small) or _told(_TAIL.sub("", _TAIL.sub("", clause)), small)


def _plainly(clause: str) -> str:
    """Say "as for my bus line, it is 42" and the like as "my bus line is 42"."""
    for pattern in PLAINLY:
        match = pattern.match(clause)
        if match:
            return f"{match['topic']} is {match['value']}"
    match = BY_COLON.match(clause)
    if match and match["what"] in RELATIONS:
        return f"{match['topic']} is {match['value']}"
    return clause


def _in_passing(clause: str, small: bool) -> Told | None:
    """Read names told on the way: "my daughter Nkechi ...", "a cat, she is called Calypso"."""
    for pattern in NAMED:
        match = pattern.match(clause)
        noun = match.group("noun").lower() if match else ""
        if match and not PASSING_NOUN.match(noun):
            value = _value(match.group("value"), "name", small)
            return Told(f"{noun}'s name", value) if value else None
    return None


def _of_another(clause: str, small: bool) -> Told | None:
    """Read what is said of somebody near: "my colleague Ada's favourite flower is freesia"."""
    for subject, pattern in OF_OTHERS:
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
    for pattern, words in HURRIED:
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
        for subject, text in WORDINGS
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
