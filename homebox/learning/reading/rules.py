"""Reads what the owner said and finds what can be learned from it, by rules.

`read_message` looks at one message alone. It would rather miss a lesson than take one from a
question, a quotation, a supposition or a text that somebody else wrote.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from homebox.learning.reading.clauses import Clause, owner_clauses
from homebox.learning.reading.guard import secret_in, suspicion
from homebox.learning.reading.manners import wished
from homebox.learning.reading.rule_files import NO_RULES, Rules
from homebox.learning.reading.told import Told
from homebox.learning.reading.topics import expanded, plain_value, told
from homebox.memory.secrets.finding import SIGN

_LEAD = re.compile(
    r"^(?:(?:oh|hey|hi|hello|hiya|well|so|ok|okay|and|also|but|yes|yeah|btw|fyi|ps"
    r"|p\.s|now|then|see"
    r"|good (?:morning|evening|day)|(?:hi|hello|hey)(?: there| homebox)|homebox"
    r"|you know|as you know"
    r"|by the way|fun fact|for the record|to be clear|for your (?:notes|information)|in fact"
    r"|just so you know|so you know|in case (?:you wonder|you wondered|it matters|it helps)"
    r"|one more thing|another (?:thing|fact)|about me|update|listen|look|remember|remember this"
    r"|pls|plz|originally|lol|oh well"
    r"|note|please note|note this|please|reminder|important|honestly|personally|as for me"
    r"|(?:a |some )?(?:quick |short |brief |little )?(?:intro|introduction|info|news|background)"
    r"|to introduce myself|let me introduce myself|nice to meet you|it so happens that"
    r"|(?:please |also |and |do )*(?:remember|note|don't forget|keep in mind|bear in mind"
    r"|make a note|know|memorise|memorize|store|save|write down)(?: that)?"
    r"|you should (?:also )?(?:know|remember)(?: that)?"
    r"|(?:i )?(?:just )?(?:want(?:ed)?|would like|'d "
    r"like) (?:you to (?:know|remember|note)|to (?:tell you|say|mention|add))(?: that)?"
    r"|i should (?:mention|say|add|tell you)(?: that)?|let me tell you(?: that)?"
    r"|i (?:have|ve) told you(?: before)? that|i forgot to (?:say|mention)(?: that)?"
    r"|thanks|thank you|great|nice|cool|sure|the truth is(?: that)?|new fact|heads up)"
    r"(?:[,:!.–-]+ ?| ))",
    re.IGNORECASE,
)
_CORRECTIONS = (
    r"(?:no|nope|nah|sorry|wait|oops|actually|correction|wrong|not quite|scratch that|ah|hm+"
    r"|my mistake|my bad|excuse me|i was wrong|i made a mistake|i misspoke|that has changed|that "
    r"changed|that's (?:not|in)correct|that's wrong|that is wrong|that's not (?:right|true|correct)"
    r"|that is not (?:right|true|correct)|that isn't (?:right|true|correct)"
    r"|you got (?:that|it) wrong"
    r"|things have changed|not any ?more|as of today|as i said"
    r"|(?:i meant|i mean|i said|i told you)(?= (?:my|i)\b))"
)
_CORRECTING = re.compile(rf"^(?:{_CORRECTIONS}(?:[,:!.;–-]+ ?| |$))", re.IGNORECASE)
_MAY_CORRECT = re.compile(rf"\b{_CORRECTIONS}\b", re.IGNORECASE)
_REFUTED = re.compile(
    r",? (?:and )?(?:not|instead of|rather than|no longer) (?:in |at |as |on |an? |the |called )?"
    r"(?P<old>[^,]{1,60})$",
    re.IGNORECASE,
)
_ELLIPTIC = tuple(
    re.compile(text, re.IGNORECASE)
    for text in (
        r"^not (?P<old>[^,]{1,60}?)(?:,? but|,? it is|,? it's|,) "
        r"(?:it is |it's )?(?P<new>.{1,60})$",
        r"^(?:it is|it's|that is|that's|its|it should be|that should be|it was|they are"
        r"|he is|she is"
        r"|he's|she's|the (?:right |correct )?(?:answer|name|one|value|number|time|date|place) is"
        r"|i meant|i mean|i said|i told you|make that|make it|change (?:it|that) to) "
        r"(?:called |named |now |actually |in fact |in )?"
        r"(?P<new>.{1,60})$",
    )
)
_NO_LONGER = re.compile(
    r"^(?P<topic>my .{2,40}?) (?:is|was) (?:no longer|not) (?P<old>.{1,60}?)(?:,? but"
    r"|,| any ?more,?)"
    r" (?:it is |it's |but )?(?P<new>.{1,60})$",
    re.IGNORECASE,
)
_NEGATED = re.compile(
    r"^my .{2,40}? (?:is|was|are|has)(?:n't| not| never| no longer)\b|^i(?: am"
    r"|'m) (?:not|never|no)\b"
    r"|^i (?:have|was|had) (?:no|not|never)\b|^i (?:haven't|wasn't|hadn't|didn't"
    r"|won't|never (?!eat))"
    r"|\b(?:neither|nor|nobody|isn't|aren't)\b|\bno longer\b|\bany ?more$",
    re.IGNORECASE,
)
_HEDGED = re.compile(
    r"\b(if|whether|unless|wish|could|might|perhaps|probably|possibly|maybe|supposedly|allegedly"
    r"|apparently|i (?:think|guess|believe|suppose|assume|hope|doubt|wonder|forgot|imagine)"
    r"|not sure|in case|as if|as though|used to|some ?day|one day|next year|hopefully|almost|nearly"
    r"|let's|would (?:be|have|like|love|want|call|live|say)|what about|want to|wants|going to be"
    r"|(?:i|he|she|it|they|we) may|may be|told me|says?|said|asked|claims?|according|thinks?"
    r"|believes?|pretend\w*|once (?:i|my)|when i was"
    r"|as a (?:child|kid|boy|girl)|back then|until|ago|tomorrow|tonight)\b",
    re.IGNORECASE,
)
_HEDGE_ALLOWED = re.compile(
    r"\bwould rather\b|\bi would like you to\b|\b(?:friends|people|they) (?:all )?call me\b"
    r"|\bin case (?:it|you) (?:matters|helps|wonder|ask)\b"
    r"|\bsay .+ when(?: i say)?\b|\bwhen i .*\bsay\b|\bplease say\b|\bto say\b|\bif i thank\b",
    re.IGNORECASE,
)
_QUESTION = re.compile(
    r"^(who|what|whom|whose|which|where|when|why|how|is|are|am|was|were|do|does|did|can|could|will"
    r"|would|should|shall|have you|has|had|may|might|isn't|aren't|don't you|tell me|remind me|guess"
    r"|do you|what's|who's|where's|when's|how's)\b",
    re.IGNORECASE,
)
_SMALL_I = re.compile(r"(?<![\w.])i(?:'?m|'?ve|'?d)?(?= \w)")  # who types so types no capitals
# "No emojis": here "no" does not correct what was said before.
_BANNED = re.compile(
    r"(?<!\w)no (?:more )?(?!more\b|longer\b|i\b|my\b|we\b|our\b|it\b|that\b|not\b|the\b|use\b"
    r"|please\b|always\b|never\b|keep\b|call\b)[\w -]{3,40}$",
    re.IGNORECASE,
)
_REPLACED = re.compile(rf"{re.escape(SIGN)}[\w:-]{{1,80}}\]")
_INSTRUCTION_WHEN = re.compile(r"^when i .*\bsay\b", re.IGNORECASE)


@dataclass(frozen=True)
class Claim:
    """Something the owner said of themselves, fit for a lesson.

    `subject` is None where only a new value was given ("no, it is Max"); `refuted` is the value
    that the owner denied; `reason` says why it must wait in quarantine, or is empty.
    """

    kind: str
    subject: str | None
    value: str
    statement: str
    refuted: str | None = None
    reason: str = ""


@dataclass(frozen=True)
class Refusal:
    """Something said that must not become a lesson; its text is not kept."""

    reason: str


def read_message(text: str, rules: Rules = NO_RULES) -> list[Claim | Refusal]:
    """Return what one message of the owner claims, in order; `rules` are the owner's own."""
    text = _REPLACED.sub("[secret]", text)  # its colons would end the clause
    small = text.islower() or _SMALL_I.search(text) is not None
    found: list[Claim | Refusal] = []
    corrected = False
    clauses = owner_clauses(text)
    while clauses and clauses[-1].question:
        clauses.pop()  # claims nothing, and no clause follows that it might correct
    for clause in clauses:
        if "[secret]" in clause.text or secret_in(clause.text):
            if not clause.question:
                found.append(Refusal("secret"))
            continue
        body, here = _without_leads(clause.text)
        corrected = corrected or here
        claim = _claim(Clause(body, clause.question), corrected, small, rules, clause.text)
        if claim is not None:
            found.append(claim)
        if body:
            corrected = False
    return found


def may_claim(clause: str) -> bool:
    """Say whether a clause can be a claim: it asks, supposes and denies nothing."""
    text = expanded(clause)
    return not (_hypothetical(text) or _NEGATED.search(text))


def announces_correction(text: str) -> bool:
    """Say whether a message begins by telling that what was said before is wrong."""
    clauses = owner_clauses(text)
    if not clauses or clauses[0].question:
        return False
    rest, correcting = _without_leads(clauses[0].text)
    return correcting and bool(rest or len(clauses) > 1)


def may_correct(text: str) -> bool:
    """Say whether `announces_correction` could be true of a text that holds this one."""
    return (
        _MAY_CORRECT.search(" ".join(text.replace("’", "'").replace("‘", "'").split())) is not None
    )


def _without_leads(text: str) -> tuple[str, bool]:
    """Strip "by the way", "no, sorry" and the like; say whether a correction was announced."""
    correcting = False
    while True:
        shorter = _LEAD.sub("", text, count=1)
        if shorter == text or not shorter:
            shorter = _CORRECTING.sub("", text, count=1)
            if shorter == text:
                return text.strip(" ,"), correcting
            correcting = True
        text = re.sub(
            r"^that (?!(?:is|was|has|had|will|would|can|means|makes|changed)\b)",
            "",
            shorter.lstrip(" ,.!"),
            flags=re.IGNORECASE,
        )


def _claim(clause: Clause, correcting: bool, small: bool, rules: Rules, whole: str) -> Claim | None:
    """Read a clause without its leads; `whole` has them, as "no emojis" needs its "no"."""
    banned = _BANNED.search(whole)
    if banned:
        clause, correcting = Clause(whole[banned.start() :], clause.question), False
    text = expanded(clause.text)
    if clause.question or (_QUESTION.match(text) and not _INSTRUCTION_WHEN.match(text)):
        return None
    listed = rules.read(clause.text) or wished(text)
    if listed is not None:
        return _finished(listed, clause.text, None, correcting)
    if _hypothetical(text):
        return None
    moved = _NO_LONGER.match(text)
    if moved:
        return _moved(moved, clause.text, small)
    for attempt, refuted in _readings(text):
        if _NEGATED.search(attempt):
            continue
        claim = told(attempt, small)
        if claim is not None:
            return _finished(claim, clause.text, refuted, correcting)
        elliptic = _elliptic(attempt, refuted, correcting, clause.text, small)
        if elliptic is not None:
            return elliptic
    return None


def _hypothetical(text: str) -> bool:
    if _QUESTION.match(text) and not _INSTRUCTION_WHEN.match(text):
        return True
    return bool(_HEDGED.search(_HEDGE_ALLOWED.sub("", text)))


def _readings(text: str) -> Iterator[tuple[str, str | None]]:
    """Yield the clause without its ", not Y" and the Y, then the clause as it stands."""
    match = _REFUTED.search(text)
    if match and match.start() > 0:
        yield text[: match.start()], match.group("old").strip()
    else:
        yield text, None


def _moved(match: re.Match[str], statement: str, small: bool) -> Claim | None:
    claim = told(f"{match.group('topic')} is {match.group('new')}", small)
    return None if claim is None else _finished(claim, statement, match["old"].strip(), True)


def _elliptic(
    text: str, refuted: str | None, correcting: bool, statement: str, small: bool
) -> Claim | None:
    if not correcting and refuted is None and not text.lower().startswith("not "):
        return None
    for pattern in _ELLIPTIC:
        match = pattern.match(text)
        if match:
            old = match.groupdict().get("old") or refuted
            return _elliptic_claim(match.group("new"), old, statement, small)
    short = len(text.split()) <= 3 and (correcting and refuted is not None)
    return _elliptic_claim(text, refuted, statement, small) if short else None


def _elliptic_claim(value: str, old: str | None, statement: str, small: bool) -> Claim | None:
    new = plain_value(value)
    if new is None:
        return None
    if small and new.islower():
        new = new.title()
    return Claim("correction", None, new, statement, old, suspicion(statement) or "")


def _finished(claim: Told, statement: str, refuted: str | None, correcting: bool) -> Claim:
    kind = "correction" if correcting or refuted is not None else claim.kind
    reason = suspicion(statement) or ""
    return Claim(kind, claim.subject, claim.value, statement, refuted, reason)
