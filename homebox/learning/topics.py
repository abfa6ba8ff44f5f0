"""Which topic a clause speaks of, and which value it gives: the relations' forms, then free ones.

First come the forms that the language room knows how to ask about and answer; then what else
people say of the things they have ("my 3D printer is a Prusa"). A free form is accepted only where
its value looks like something that lasts, because "my head is spinning" has the same shape as "my
car is blue".
"""

import re
from dataclasses import dataclass
from functools import cache

from homebox.language.phrasing import fill
from homebox.language.preferences import PREFERENCES
from homebox.language.relation_data import ALL, PEOPLE, PETS
from homebox.language.relations import kind_of, relation_for
from homebox.language.values import DAYS, MONTHS
from homebox.learning.clauses import GAP

_VALUE = "(?P<value>.+)"
_NOUN = r"(?P<noun>[\w'-]+(?: [\w'-]+){0,3}?)"
_MONTH = "|".join(MONTHS)

# Wordings of listed topics beyond those that the relations list themselves.
_ALIASES = (
    ("name", r"my (?:full |first )?name is {v}"),
    ("name", r"(?:i am|i'm) (?:called|named) {v}"),
    ("surname", r"my (?:last|family) name is {v}"),
    ("age", r"i am (?P<value>\d{1,3})(?: years old| years of age)?"),
    ("age", r"i (?:will be|turned|just turned) (?P<value>\d{1,3})(?: .*)?"),
    ("birthday", rf"i was born on (?:the )?(?P<value>\d{{1,2}}\.? (?:{_MONTH})|(?:{_MONTH}) \d+)"),
    ("home", r"(?:we live|i live|i reside|i am based|i am staying|i have lived) (?:over )?in {v}"),
    ("home", r"i (?:have )?(?:just )?moved (?:here |over )?(?:to|into) {v}"),
    ("home town", r"i grew up in {v}"),
    ("birthplace", r"(?:i am|i come) (?:originally )?from {v}"),
    ("job", r"(?:i am working|i work|i have worked) (?:\w+ly )?as an? {v}"),
    ("job", r"i am an? (?P<value>(?:[\w-]+ )?[\w-]+) (?:by profession|by trade|for a living)"),
    ("job", r"(?:my (?:profession|occupation|work) is) (?:being )?an? {v}"),
    ("employer", r"(?:i am working|i work|i am employed) (?:at|for|by|with) {v}"),
    ("car", r"i (?:drive|own) (?P<value>(?:an? )?[A-Z0-9][\w-]*(?: [\w-]+)?)"),
    ("car", r"my car is an? {v}"),
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
    ("allergy", r"i am (?:very |really |badly )?allergic to {v}"),
    ("preferred drink", r"i (?:usually |always |mostly )?(?:prefer to )?drink {v}"),
    ("disliked food", r"i (?:really |absolutely )?(?:hate|can't stand|dislike|don't like) {v}"),
    ("wife's name", r"i am married to (?P<value>(?!an? )[\w'-]+), my wife"),
    ("what to call me", r"(?:please )?call me {v}"),
    ("what to call me", r"(?:my friends|friends|people) (?:all )?call me {v}"),
)
# Topics that no relation lists; they are asked by the general frames.
_FREE = (
    ("likings", r"i (?:really |also |just |absolutely )*(?:like|love|enjoy|adore) {v}"),
    (
        "likings",
        r"i am (?:very |really )?(?:fond of|keen on|mad about|a (?:big |huge )?fan of) {v}",
    ),
    ("preference", r"i (?:really |much |usually |generally |always |also )*prefer {v}"),
    ("preference", r"i(?: would|'d) rather (?:have |use |take |get )?{v}"),
    ("diet", r"i am (?:an? )?(?P<value>vegetarian|vegan|pescatarian|pescetarian|coeliac|teetotal)"),
    ("handedness", r"i am (?P<value>left-handed|right-handed|ambidextrous)"),
    ("marital status", r"i am (?P<value>single|married|divorced|widowed|engaged)"),
    ("height", r"i am (?P<value>\d[\d.,]* ?(?:cm|m|metres?|meters?|ft|feet)(?: \d+)?)(?: tall)?"),
    ("eye colour", r"i have (?P<value>blue|brown|green|grey|gray|hazel) eyes"),
    ("blood type", r"my blood (?:type|group) is (?P<value>(?:a|b|ab|o)[+-]?(?: \w+)?)"),
)
_COUNT = re.compile(
    r"^(?:i|we) have (?:got )?(?P<value>\d+|two|three|four|five|six|seven|eight|nine|ten|twelve)"
    r" (?P<noun>[a-z-]+(?: [a-z-]+)?)$",
    re.IGNORECASE,
)
_NAMES = tuple(
    re.compile(f"^{text.format(n=_NOUN, v=_VALUE)}$", re.IGNORECASE)
    for text in (
        "my {n}(?:'s|s') name is {v}",
        "my {n} (?:is|was) (?:called|named) {v}",
        "my {n} goes by(?: the name(?: of)?)? {v}",
        "the name of my {n} is {v}",
        "i have an? {n} (?:called|named) {v}",
        "i have an? {n}(?:,? and)? (?:his|her|its|their) name is {v}",
        "i have an? {n} whose name is {v}",
        "i (?:call|named|have named|call) my {n} {v}",
        "(?P<value>[A-Z].*?) is (?:the name of )?my {n}(?:'s name)?",
    )
)
_ATTRIBUTE = re.compile(
    rf"^my {_NOUN} (?:is|are|will be|'s) (?:now |always |still |actually |on |at )?{_VALUE}$",
    re.IGNORECASE,
)
_COLON = re.compile(rf"^my {_NOUN}: ?{_VALUE}$", re.IGNORECASE)

_PASSING = re.compile(
    r"^(question|point|problem|issue|guess|understanding|mistake|bad|idea|plan|goal|aim|opinion|"
    r"apolog\w+|pleasure|turn|error|bug|fault|advice|answer|view|impression|assumption|intention|"
    r"concern|worry|hope|wish|dream|task|homework|assignment|job here|code|program|function|test|"
    r"query|input|output|example|first|last|next|other|only|whole|own|main|head|stomach|back|tooth|"
    r"mind|time|day|week|life|heart|mood|fear|thing|word|text|message|request|command|prompt|file|"
    r"essay|draft|sentence|paragraph|argument|thesis|conclusion|current \w+|teeth"
    r"|eyes?|hands?|feet)"
    r"$|^(next|last|first|biggest|main|current|real|only|best|final) "
    r"(question|problem|issue|point|idea|guess|concern|worry|mistake|task|step|plan|bet|choice)$",
    re.IGNORECASE,
)
# Nouns whose value may be a plain small word ("my favourite colour is blue", "my diet is vegan").
_LASTING = re.compile(
    r"\b(favou?rite|name|nickname|number|size|colou?r|birthday|anniversary|hobby|job|profession|"
    r"occupation|language|tongue|brand|model|make|type|diet|team|band|genre|instrument|sport|"
    r"subject|degree|school|university|college|street|address|town|city|country|village|flat|car|"
    r"bike|bicycle|phone|laptop|computer|printer|editor|shell|keyboard|camera|guitar|piano|boat|"
    r"religion|nationality|sign|height|weight|age|salary|title|role|employer|company|boss|religion|"
    r"hometown|home town|topping|flavou?r|drink|dish|food|breakfast|lunch|dinner|snack|tea|coffee|"
    r"project|species|breed|day|time|date|appointment|line|route|code name|codename|motto|mascot|"
    r"allergy|unit|units|timezone|time zone|currency|layout|theme|font|season|pet|plant|tree)s?$",
    re.IGNORECASE,
)
_PERSON = re.compile(
    rf"\b({'|'.join(PEOPLE)}|mother|father|mum|mom|dad|wife|husband|partner|girlfriend|boyfriend|"
    r"fianc[eé]e?|grand\w+|niece|nephew|\w+-in-law|stepson|stepdaughter|step\w+|twin"
    r"|kid|child|baby|"
    rf"goddaughter|godson|manager|coach|therapist|vet|{'|'.join(PETS)}|puppy|kitten|pony|budgie|"
    r"canary|gecko|snake|lizard|hedgehog|ferret|guinea pig|pig|goat|hen|chicken|duck|donkey)$",
    re.IGNORECASE,
)
# A state, not a property: what "my X is ..." is mostly followed by.
_STATE = re.compile(
    r"^(not|no|so|very|too|quite|really|just|still|already|always|never|also|all|only|about|like|as"
    r"|out|in|on|off|up|down|over|under|away|back|here|there|gone|done|ready|fine|ok|okay|good|bad"
    r"|great|nice|happy|sad|ill|sick|tired|busy|late|early|sore|hungry|angry|dead|alive|new|old|big"
    r"|small|broken|empty|full|dirty|clean|slow|fast|hot|cold|wet|dry|lost|stuck|wrong|right|better"
    r"|worse|best|worst|important|due|free|safe|sure|afraid|funny|weird|strange|cute"
    r"|beautiful|lovely"
    r"|lazy|loud|quiet|pregnant|young|tall|short|it|that|this|these|those|what|why|how|where|when"
    r"|who|which|whether|if|because|to|for|from|with|by|of|at|my|your|his|her|our|their|mine|yours"
    r"|the|same|different|similar|almost|nearly|probably|maybe|perhaps|currently|getting|being"
    r"|something|nothing|everything|anything|one|none|up to|asking|he|she|they|you|i|we)\b"
    r"|^\w+(ing|ed)\b(?! [A-Z])",
    re.IGNORECASE,
)
_INSIDE = re.compile(
    r"\b(is|are|was|were|will|can|could|would|should|does|did|doesn't|isn't|don't|didn't|i|i'm|me"
    r"|you|he|she|they|it|it's|that|this|these|those|if|unless|whether|when|while|until|than|not"
    r"|what|how|why|maybe|perhaps|probably|your|anymore)\b",
    re.IGNORECASE,
)
_TAIL = re.compile(
    r"(,? (now|nowadays|these days|at the moment|currently|today|by the way|btw|too|as well|though"
    r"|please|thanks|ok|okay|you know|actually|again|in case you (wonder|ask)|for years"
    r"|all the time|of course|indeed|since \d{4}|very much|a lot|so much|most of all)"
    r"|,? (because|but|which|who|where|although|though|whom|that's|with whom|even|, (as|since|so)"
    r"|ever since|and (he|she|it|they|that|this|the))\b.*"
    r"|, (?=[a-z])(?!and |or )(a|an|the|he|she|it|my|our|which|who|one|not|you|in|on|at|by|with|for"
    r"|from|after|like|as|and)\b.*)$"
)
_WEAK_START = re.compile(
    r"^(it|that|this|these|those|them|him|her|you|your|his|its|their|what|how|why|when|where|who"
    r"|whom|which|to|if|being|doing|having|not|no|nothing|something|everything|anything|all|both"
    r"|one|the (idea|way|fact|first|second|last|other|same|new|one|answer|result"
    r"|sound|look|thought)"
    r"|more|less|some|any|another|someone|somebody|everyone|nobody|most|so|very|too|only|either)\b",
    re.IGNORECASE,
)
_NUMBER_WORD = re.compile(
    r"\d|^(zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fifteen"
    r"|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred)",
    re.IGNORECASE,
)
_DATE = re.compile(rf"\d|{_MONTH}|easter|christmas|{'|'.join(DAYS)}", re.IGNORECASE)
MANY = frozenset({"likings", "preference"})


@dataclass(frozen=True)
class Told:
    """One topic with its value; `kind` is "fact" or "preference"."""

    subject: str
    value: str
    kind: str = "fact"


@dataclass(frozen=True)
class _Form:
    subject: str
    value_kind: str
    pattern: re.Pattern[str]
    strict: bool  # the form is also how passing states are told: ask more of the value


def told(clause: str, small: bool = False) -> Told | None:
    """Read one clause as a claim of the owner about themselves, or return None.

    `small` says that the message was typed without capitals, so that they prove nothing.
    """
    clause = _TAIL.sub("", _TAIL.sub("", expanded(clause)))
    if GAP in clause:
        return None
    for form in _forms():
        match = form.pattern.match(clause)
        value = match and _value(match.group("value"), form.value_kind, small, form.strict)
        if value:
            kind = "preference" if form.subject in PREFERENCES else "fact"
            if form.subject in MANY or form.subject == "preferred drink":
                kind = "preference"
            return Told(form.subject, value, kind)
    return _free_name(clause, small) or _count(clause) or _attribute(clause, small)


def expanded(clause: str) -> str:
    """Write contractions out, as the forms have them."""
    clause = re.sub(r"\bi'?m\b", "I am", clause, flags=re.IGNORECASE)
    clause = re.sub(r"\b(i|we)'?ve (got )?", r"\1 have ", clause, flags=re.IGNORECASE)
    clause = re.sub(r"\b(i|we) (have )?got (?=an? )", r"\1 have ", clause, flags=re.IGNORECASE)
    clause = re.sub(r"^we have (?=an? )", "I have ", clause, flags=re.IGNORECASE)
    clause = re.sub(r"\bcannot\b|\bcan not\b", "can't", clause, flags=re.IGNORECASE)
    clause = re.sub(r"\b(do not|dont)\b", "don't", clause, flags=re.IGNORECASE)
    clause = re.sub(r"^(our|me) (?!and)", "my ", clause, flags=re.IGNORECASE)
    return re.sub(r"(?<=\w)'s (called|named)\b", r" is \1", clause)


@cache
def _forms() -> tuple[_Form, ...]:
    forms: list[_Form] = []
    for relation in ALL:
        for template in dict.fromkeys((*relation.told, *relation.loose)):
            strict = (relation.kind == "name" and template.endswith("} is {v}")) or (
                template in relation.loose or bool(re.search(r"\} [\w ]+ is \{v\}$", template))
            )
            forms.append(_Form(relation.key, relation.kind, _compiled(template), strict))
    for preference in PREFERENCES.values():
        for template in preference.told:
            forms.append(_Form(preference.key, preference.kind, _compiled(template), False))
    # The longest fixed wording first: "my X is called V" must not be read as "my X is V".
    forms.sort(key=lambda form: -len(form.pattern.pattern))
    for rows in (_ALIASES, _FREE):
        for subject, text in rows:
            kind = _kind(subject)
            pattern = re.compile(f"^{text.replace('{v}', _VALUE)}$", re.IGNORECASE)
            forms.append(_Form(subject, kind, pattern, False))
    return tuple(forms)


def _kind(subject: str) -> str:
    if subject in PREFERENCES:
        return PREFERENCES[subject].kind
    return "name" if subject == "name" else relation_for(subject).kind


def _compiled(template: str) -> re.Pattern[str]:
    text = expanded(fill(template, None, GAP))
    pattern = re.escape(text).replace(re.escape(GAP), _VALUE)
    pattern = pattern.replace(r"favourite", "favou?rite").replace("colour", "colou?r")
    return re.compile(f"^{pattern.replace(r' a ' + _VALUE, ' an? ' + _VALUE)}$", re.IGNORECASE)


def _value(text: str, kind: str, small: bool, strict: bool) -> str | None:
    """Clean a value and check that it can be one of its kind."""
    value = text.strip(" \"'“”.,!?")
    words = value.split()
    if not words or len(words) > 8 or GAP in value or _WEAK_START.match(value):
        return None
    if _INSIDE.search(" ".join(words)) and not value[0].isupper():
        return None
    if not _fits(value, kind, small):
        return None
    if strict and kind == "name" and not value[0].isupper():
        return value.title() if small and len(words) == 1 and not _STATE.match(value) else None
    if strict and _STATE.match(value) and not value[0].isupper():
        return None
    if small and kind in ("name", "place", "language") and value.islower():
        return " ".join(word[:1].upper() + word[1:] for word in words)
    return value


def _fits(value: str, kind: str, small: bool) -> bool:
    words = value.split()
    if kind in ("name", "place", "language"):
        first = re.sub(r"^(the|a|an) (?=[A-Z])", "", value)
        named = first[0].isupper() or first[0].isdigit() or (small or len(words) == 1)
        return named and len(words) <= 5 and not _STATE.match(first if small else value.lower())
    if kind == "number":
        return bool(_NUMBER_WORD.search(value)) and len(words) <= 4
    if kind == "time":
        return bool(_NUMBER_WORD.search(value) or re.match("noon|midnight", value, re.IGNORECASE))
    if kind == "date":
        return bool(_DATE.search(value))
    if kind == "day":
        return value.rstrip("s").capitalize() in DAYS or value.capitalize() in DAYS
    return len(words) <= (4 if kind in ("job", "instrument", "plant", "animal") else 8)


def _free_name(clause: str, small: bool) -> Told | None:
    for pattern in _NAMES:
        match = pattern.match(clause)
        if match and not _PASSING.match(match.group("noun")):
            value = _value(match.group("value"), "name", small, False)
            noun = match.group("noun").removesuffix("'s").lower()
            if value and not _INSIDE.search(noun):
                return Told(f"{noun}'s name", value)
    return None


def _count(clause: str) -> Told | None:
    match = _COUNT.match(clause)
    if match is None or re.search(
        r"\b(questions?|minutes?|hours?|days?|weeks?|problems?|issues?|errors?|options?|things?"
        r"|points?|ideas?|choices?|files?|lines?|left|meetings?|exams?|tests?|more|times?)\b",
        match.group("noun"),
        re.IGNORECASE,
    ):
        return None
    return Told(f"number of {match.group('noun').lower()}", match.group("value"))


def _attribute(clause: str, small: bool) -> Told | None:
    match = _COLON.match(clause) or _ATTRIBUTE.match(clause)
    if match is None:
        return None
    noun = match.group("noun").lower()
    value = _value(match.group("value"), "thing", small, True)
    if value is None or _PASSING.match(noun) or _INSIDE.search(noun):
        return None
    if _PERSON.search(noun):
        named = value[0].isupper() and len(value.split()) <= 3
        return Told(f"{noun}'s name", value) if named else None
    proper = kind_of(value) != "thing" or bool(re.match(r"an? [A-Z]", value))
    return Told(noun, value) if proper or _LASTING.search(noun) else None
