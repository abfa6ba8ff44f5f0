"""Recognises what people tell about themselves: sentences to relations and values.

Every told form of every relation is a pattern; behind them stand general ones ("my X is Y") that
build a relation for subjects nobody has listed. Longer wordings win, values must look like what
the relation asks for, and a sentence that only might be a fact ("my back is sore") is left alone.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from homebox.language.phrasing import fill
from homebox.language.preferences import PREFERENCES, Preference
from homebox.language.relation import Relation
from homebox.language.relation_data import ALL, ONLY, PEOPLE, PETS
from homebox.language.relations import RELATIONS, relation_for
from homebox.language.values import CAPITALISED_KINDS, DAYS, LANGUAGES, MONTHS, THINGS


class Match(NamedTuple):
    """A fact found in a sentence; `who` is None for the owner."""

    relation: Relation
    who: str | None
    value: str


class Correction(NamedTuple):
    """A new value for whatever was spoken of last, and the old one where it was named."""

    new: str
    old: str | None


_SPLIT = re.compile(
    r"(?<!\bMr\.)(?<!\bMrs\.)(?<!\bMs\.)(?<!\bDr\.)(?<!\bSt\.)(?<=[.!?])\s+|\s*[\n;]\s*"
)
_TAIL = re.compile(
    r"(?:,? (?:and )?(?:btw|by the way|too|as well|though|actually|now|these days|"
    r"last (?:year|month|week)|by now|for now|at the moment|if you want to know|you know|"
    r"in case you wonder|please|homebox)"
    r"|, (?:and )?not [^,]+)$",
    re.IGNORECASE,
)
_JOIN = re.compile(
    r",? (?:and|but|while) (?=(?:my|I|I'm|I've|I’m|I’ve|the name of my)\b)", re.IGNORECASE
)
_LEAD = re.compile(
    r"(?:(?:btw|by the way|just so you know|just to let you know|fyi|for your notes|for the record|"
    r"(?:please )?(?:remember|note|know|keep in mind)(?: that)?|(?:please )?don't forget(?: that)?|"
    r"you should know(?: that)?|i want you to know(?: that)?|i wanted to tell you(?: that)?|"
    r"oh|hey|hi|hello|so|listen|and|also|well|ok|okay|yes|actually|anyway|homebox|in fact|now|"
    r"no|sorry|i was wrong|that has changed|one more thing|in case you wonder|thanks|please"
    r")\b[,:.!]*\s+)",
    re.IGNORECASE,
)
_EXPAND = (
    (re.compile(r"\bI[’']m\b", re.IGNORECASE), "I am"),
    (re.compile(r"\bI[’']ve got\b", re.IGNORECASE), "I have"),
    (re.compile(r"\bI[’']ve\b", re.IGNORECASE), "I have"),
    (re.compile(r"\bI[’']d\b", re.IGNORECASE), "I would"),
    (re.compile(r"[’']s (called|named)\b", re.IGNORECASE), r" is \1"),
    (re.compile(r"[’']s got (an?)\b", re.IGNORECASE), r" has \1"),
    (re.compile(r"\bit[’']s\b", re.IGNORECASE), "it is"),
    (re.compile(r"\bcan not\b", re.IGNORECASE), "cannot"),
    (re.compile("’"), "'"),
)
_NUMBERS = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "twenty thirty forty fifty noon midnight half quarter"
).split()
_NUMBER = re.compile(rf"\d|\b(?:{'|'.join(_NUMBERS)})", re.IGNORECASE)
_WHO = rf"(?P<who>(?!(?:{'|'.join((*DAYS, *MONTHS))})\b)[A-Z][\w'-]*(?: [A-Z][\w-]*)?)"
_VALUE = r"(?P<value>\S.*?)"
_MARK_WHO, _MARK_VALUE = "\x01", "\x02"
_DOUBTFUL = re.compile(
    r"(?:not|very|so|too|really|quite|just|still|always|never|a bit|in|on|at|to|from|with|about|"
    r"going|getting|being|here|there|that|what|how|why|because|when|if|where|who)\b",
    re.IGNORECASE,
)
_STATE = re.compile(r"\w+(?:ing|ed)")
_PRONOUNS = frozenset("it this that there he she you him her them me us".split())
_NATION = re.compile(r"\w+(?:ish|ese|ian|can|iot|eek|wiss)")
_NOBODY = frozenset(
    "i he she it we you they this that these those there here the a an my your his her its our "
    "their who what which where when how everybody nobody somebody today about".split()
) | {word.lower() for word in (*DAYS, *MONTHS)}
_ADJECTIVES = frozenset(
    "ill sick sore tired happy sad late early broken fine good bad great big small old new young "
    "nice lovely hungry angry busy ready full empty dead gone slow fast hot cold wet dry dirty "
    "clean wrong right sweet cute funny lazy loud quiet here away back home asleep awake "
    "beautiful wonderful terrible horrible expensive cheap better worse ok okay mine yours "
    "important difficult easy hard boring mad pregnant married single alive upset".split()
)
_JOB = re.compile(r"\w+(?:er|or|ist|ian|man|woman|ant|smith|wright|eer|medic|nurse|cook|chef|vet)")


def match_statement(text: str) -> list[Match]:
    """Find the facts that a message tells, in order; questions tell none."""
    found: list[Match] = []
    for sentence in sentences(text):
        match = _match_listed(sentence) or _match_general(sentence)
        if match:
            found.append(match)
    return found


def match_preference(text: str) -> list[tuple[Preference, str]]:
    """Find the preferences that a message tells ("Call me ...")."""
    found = []
    for sentence in sentences(text, keep=("please",)):
        for preference, pattern in _preference_patterns():
            match = pattern.fullmatch(sentence)
            if match:
                found.append((preference, _tidy(match["value"])))
                break
    return found


def match_correction(text: str) -> Correction | None:
    """Read "No, it is Z, not Y." and its kin; the subject is whatever was spoken of last."""
    sentence = _expand(text.strip().rstrip(".!"))
    for pattern in _CORRECTIONS:
        match = pattern.fullmatch(sentence)
        if match:
            old = match.groupdict().get("old")
            return Correction(_tidy(match["value"]), _tidy(old) if old else None)
    return None


_OLD = r"(?P<old>[^,]+)"
_CORRECTIONS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?:(?:no|sorry|actually)[,.]? )+(?:it is|that is|i said|i meant) {_VALUE},? not {_OLD}",
        rf"(?:it is|that is|i said|i meant) {_VALUE},? not {_OLD}",
        rf"(?:(?:no|sorry)[,.]? )+not {_OLD}(?:, but|,| but) (?:it is )?{_VALUE}",
        rf"(?:(?:no|sorry|actually)[,.]? )+(?:it is|i meant|i said) {_VALUE}",
        rf"i meant {_VALUE}",
        rf"(?:no, )?{_VALUE}, not {_OLD}",
    )
)


def sentences(text: str, keep: tuple[str, ...] = ()) -> Iterator[str]:
    """Cut a message into plain statements without leads, contractions and full stops.

    `keep` names leads that belong to the statement.
    """
    for part in _SPLIT.split(text.strip()):
        if part.endswith("?"):
            continue
        for piece in _JOIN.split(part):
            sentence = _expand(piece.strip())
            while lead := _LEAD.match(sentence):
                if sentence[: lead.end()].strip(" ,:.!").lower() in keep:
                    break
                sentence = sentence[lead.end() :]
            sentence = sentence.strip().rstrip(".!, ")
            while tail := _TAIL.search(sentence):
                sentence = sentence[: tail.start()].rstrip(".!, ")
            if sentence:
                yield sentence


def _expand(text: str) -> str:
    for pattern, words in _EXPAND:
        text = pattern.sub(words, text)
    return " ".join(text.split())


def _tidy(value: str) -> str:
    return value.strip().strip("\"'“”‘’`*").rstrip(".!,").strip()


# ---- the listed relations


class _Pattern(NamedTuple):
    relation: Relation
    expression: re.Pattern[str]
    strict: bool
    needed: str  # in small letters: what a sentence must hold, which is quicker to see


@cache
def _patterns() -> tuple[_Pattern, ...]:
    """Compile every told form, the one with most words of its own first."""
    rated = []
    for relation in ALL:
        for form in (*relation.told, *relation.loose):
            strict = form in relation.loose or _is_loose(form)
            for who in (None, _MARK_WHO):
                if who and relation.owner_only:
                    continue
                sentence = _expand(fill(form, who, _MARK_VALUE))
                expression = _compile(sentence)
                pattern = _Pattern(relation, expression, strict, _needed(sentence))
                rated.append((len(sentence), pattern))
    rated.sort(key=lambda entry: -entry[0])
    return tuple(pattern for _, pattern in rated)


def _is_loose(form: str) -> bool:
    # "my sister is ill" and "he is my friend" have the shape of these.
    return re.fullmatch(r"(\{my\} [\w ]+ is \{v\}|\{v\} is \{my\} [\w ]+)", form) is not None


def _compile(sentence: str) -> re.Pattern[str]:
    parts = re.split(f"([{_MARK_WHO}{_MARK_VALUE}])", sentence)
    seen_who = False
    text = ""
    for part in parts:
        if part == _MARK_VALUE:
            text += _VALUE
        elif part == _MARK_WHO:
            text += "(?P=who)" if seen_who else _WHO
            seen_who = True
        else:
            literal = re.escape(part)
            # A value may begin with a vowel, and so "a" may be "an".
            literal = re.sub(r"(\\ |^)a\\ $", r"\1an?\\ ", literal)
            text += f"(?i:{literal})"
    return re.compile(text)


def _needed(sentence: str) -> str:
    """Return the longest words of a form that every sentence of its kind has."""
    parts = re.split(f"[{_MARK_WHO}{_MARK_VALUE}]", sentence)
    # A value may begin with a vowel, and so "a" may be "an".
    return max((re.sub(r"(^| )a $", "", part) for part in parts), key=len).lower()


def _match_listed(sentence: str) -> Match | None:
    small = sentence.lower()
    for relation, expression, strict, needed in _patterns():
        if needed not in small:
            continue
        match = expression.fullmatch(sentence)
        if not match:
            continue
        value, who = _tidy(match["value"]), match.groupdict().get("who")
        if relation.owner_only and strict and not _names_somebody(value):
            continue
        if value and _is_person(who) and _suits(value, relation.kind, strict):
            return Match(relation, who, value)
    return None


def _names_somebody(value: str) -> bool:
    """Say whether "I am <value>" gives a name, not a state or a nationality."""
    return value[:1].isupper() and value not in LANGUAGES and not _NATION.fullmatch(value)


def _is_person(who: str | None) -> bool:
    return who is None or not any(word.lower() in _NOBODY for word in who.split())


def _suits(value: str, kind: str, strict: bool) -> bool:
    """Say whether a value can be of this kind; `strict` where the sentence proves little."""
    words = value.split()
    if len(words) > 6 or value.lower() in _PRONOUNS:
        return False
    if kind == "day":
        return any(day.lower() in value.lower() for day in DAYS)
    if kind in ("number", "time"):
        return bool(_NUMBER.search(value)) and len(words) <= 4
    if kind == "date":
        return bool(_NUMBER.search(value)) or any(m.lower() in value.lower() for m in MONTHS)
    if kind == "place" and any(letter.isdigit() for letter in value):
        return False
    if strict and kind in CAPITALISED_KINDS:
        plain = len(words) == 1 and value.isalpha() and not _looks_like_a_state(value)
        return value[0].isupper() or plain
    return not _DOUBTFUL.match(value)


def _looks_like_a_state(value: str) -> bool:
    doubtful = _DOUBTFUL.match(value) or _STATE.fullmatch(value)
    return value.lower() in _ADJECTIVES or bool(doubtful)


@cache
def _preference_patterns() -> tuple[tuple[Preference, re.Pattern[str]], ...]:
    return tuple(
        (preference, _compile(_expand(form.replace("{v}", _MARK_VALUE))))
        for preference in PREFERENCES.values()
        for form in preference.told
    )


# ---- subjects that nobody has listed

_OWNED = rf"(?:(?i:my)|{_WHO}'s)"
_HAS = rf"(?:(?i:I (?:have|own|keep))|{_WHO} (?:has|owns|keeps))"
_NOUN = r"(?P<noun>[\w'-]+(?: [\w'-]+){0,4}?)"
_NAMED = tuple(
    re.compile(pattern)
    for pattern in (
        rf"{_OWNED} {_NOUN}'s name is {_VALUE}",
        rf"{_OWNED} {_NOUN} is (?:called|named) {_VALUE}",
        rf"{_HAS} (?:an?|the|one|another) {_NOUN} (?:that is |which is )?(?:called|named) {_VALUE}",
        rf"(?i:the name of) {_OWNED} {_NOUN} is {_VALUE}",
        rf"{_VALUE} is the name of {_OWNED} {_NOUN}",
        rf"(?i:I (?:call|named)) my {_NOUN} {_VALUE}",
    )
)
_IS = re.compile(rf"{_OWNED} {_NOUN}(?: is|:)(?: now)? {_VALUE}")
_IS_MINE = re.compile(rf"{_VALUE} is {_OWNED} {_NOUN}")
_AM_A = re.compile(r"I am an? (?P<value>\w+(?: \w+){0,2})", re.IGNORECASE)
_WORK_AS = re.compile(r"I work as (?:the )?(?P<value>\w+(?: \w+){0,3})", re.IGNORECASE)
_WORK_IN = re.compile(r"I work in (?P<value>\w+(?: \w+){0,3})", re.IGNORECASE)
_AM_OLD = re.compile(r"I am (?P<value>\d{1,3})", re.IGNORECASE)
_HAVE = re.compile(
    rf"I have (?P<value>\d+|{'|'.join(_NUMBERS[:20])}) (?P<noun>[\w'-]+(?: \w+)?s)", re.IGNORECASE
)
_IN_PASSING = re.compile(
    rf"(?i:my) (?P<noun>{'|'.join((*PETS, *PEOPLE, *ONLY))}),? (?P<value>[A-Z][\w-]+),? "
    r"(?:is|was|has|lives|works|likes|loves|came|comes|turned|says|told|and)\b",
)
_CHOSEN = ("favourite", "favorite", "preferred", "usual", "best", "least favourite")


def _match_general(sentence: str) -> Match | None:
    for expression in _NAMED:
        match = expression.fullmatch(sentence)
        if match and len(match["value"].split()) <= 5:
            noun = match["noun"]
            relation = RELATIONS.get(noun) or relation_for(f"{noun}'s name")
            return Match(relation, match.groupdict().get("who"), _tidy(match["value"]))
    match = _IN_PASSING.match(sentence)
    if match:
        return Match(RELATIONS[f"{match['noun'].lower()}'s name"], None, match["value"])
    found = _match_owner(sentence) or _match_attribute(sentence)
    return found if found and _is_person(found.who) else None


def _match_owner(sentence: str) -> Match | None:
    """Match what only makes sense in the first person."""
    match = _AM_OLD.fullmatch(sentence)
    if match:
        return Match(RELATIONS["age"], None, match["value"])
    match = _AM_A.fullmatch(sentence) or _WORK_AS.fullmatch(sentence)
    if match:
        value = match["value"]
        if match.re is _WORK_AS or value in THINGS["job"] or _JOB.fullmatch(value.split()[-1]):
            return Match(RELATIONS["job"], None, value)
        return None
    match = _WORK_IN.fullmatch(sentence)
    if match:
        return Match(relation_for("field of work"), None, match["value"])
    match = _HAVE.fullmatch(sentence)
    if match:
        return Match(relation_for(f"number of {match['noun']}", "1"), None, match["value"])
    return None


def _match_attribute(sentence: str) -> Match | None:
    match = _IS.fullmatch(sentence)
    mine = None if match else _IS_MINE.fullmatch(sentence)
    match = match or mine
    if not match:
        return None
    noun, value = match["noun"], _tidy(match["value"])
    if noun.lower().endswith((" name", "'s name")) or noun.lower().startswith(_CHOSEN):
        doubtful = len(value.split()) > 8
    elif mine:
        doubtful = not value[:1].isupper() or value.lower() in ("he", "she", "this", "that", "it")
    else:
        proper = any(letter.isupper() or letter.isdigit() for letter in value)
        doubtful = len(value.split()) > 6 or (_looks_like_a_state(value) and not proper)
        doubtful = doubtful or (not proper and f"{noun}'s name" in RELATIONS)
    if not value or doubtful:
        return None
    if value[:1].isupper() and f"{noun}'s name" in RELATIONS:
        return Match(RELATIONS[f"{noun}'s name"], match.groupdict().get("who"), value)
    return Match(relation_for(noun, value), match.groupdict().get("who"), value)


__all__ = ["Correction", "Match", "match_correction", "match_preference", "match_statement"]
