"""Walks the ledger and turns what the owner said into lessons: newest wins, nothing is revived.

Every run walks all turns again. A lesson is named by its content and remembers its turns, so that
walking twice changes nothing, and only something said anew brings an undone lesson back.
"""

import dataclasses
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from homebox.language.relation import Relation
from homebox.language.relation_data import ALL
from homebox.learning.rules import Claim, Refusal, read_message
from homebox.learning.teach import form_for, sentence_for
from homebox.learning.topics import MANY
from homebox.memory.clients import CHAT, kind_of_words, parts_of_message, typed_words
from homebox.memory.lessons import Lesson
from homebox.memory.provenance import OWNER, may_teach
from homebox.memory.turns import Message, Turn

FOREIGN = "was worded by a tool, a file or a web page"
RETRIES = 120  # seconds in which clients ask again
OPENCODE = "ses_"  # how its ids of conversations begin
_WORDS = re.compile(r"\w+")


@dataclass(frozen=True)
class Quarantined:
    """A lesson that waits for the owner, and why."""

    lesson: Lesson
    reason: str


@dataclass
class Harvest:
    """What a walk through the ledger found."""

    lessons: list[Lesson] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)  # time of the turn, reason
    current: dict[str, list[Lesson]] = field(default_factory=dict)  # what holds now, by subject
    former: dict[str, list[Lesson]] = field(default_factory=dict)  # what held once


@dataclass
class _Conversation:
    """What the walk must remember of one conversation to understand "no, it is Max"."""

    subject: str | None = None
    foreign: str = ""
    asked: tuple[Message, ...] = ()  # the last prompt
    time: str = ""  # of the last turn


class Harvester:
    """Reads turns one by one, in the order in which they were said."""

    def __init__(self) -> None:
        self.found = Harvest()
        self._conversations: dict[str, _Conversation] = {}

    def read(self, turn: Turn) -> None:
        """Add what the owner's words in this turn tell."""
        if _kind(turn) != CHAT:
            return
        talk = self._conversations.setdefault(turn.conversation or turn.id, _Conversation())
        # A client that asks again, or for several answers, says nothing anew.
        again = (
            bool(turn.prompt)
            and turn.prompt == talk.asked
            and _seconds(talk.time, turn.time) < RETRIES
        )
        talk.asked, talk.time = turn.prompt, turn.time
        for message in turn.messages[-1:] if again else turn.messages:
            _read(self.found, talk, turn, message)


def harvest(turns: Iterable[Turn]) -> Harvest:
    """Read all turns in order and return every lesson that the owner's words give."""
    harvester = Harvester()
    for turn in turns:
        harvester.read(turn)
    return harvester.found


def _read(found: Harvest, talk: _Conversation, turn: Turn, message: Message) -> None:
    if message.role == "assistant":
        talk.subject = subject_of_answer(message.content, found) or talk.subject
        return
    if not may_teach(message.provenance):
        if message.provenance != "system":
            talk.foreign += " " + _normal(message.content)
        return
    if message.role != "user":
        return
    typed, foreign = told_by(message, turn.conversation)
    if foreign:
        talk.foreign += " " + _normal(foreign)
    for item in read_message(typed):
        if isinstance(item, Refusal):
            found.refused.append((turn.time, item.reason))
            continue
        subject = item.subject or _subject_with(item.refuted, talk, found) or talk.subject
        if subject is not None:
            _keep(found, item, subject, talk, turn)


def told_by(message: Message, conversation: str = "") -> tuple[str, str]:
    """Return what was typed of a user's message, and what files and tools say in it.

    What a client adds besides (times, reminders, its own orders) is in neither.
    """
    parts = parts_of_message(message.content, _lengths(message))
    typed = "\n\n".join(part.text for part in parts if part.provenance == OWNER)
    if conversation.startswith(OPENCODE):
        typed = typed_words(typed)
    foreign = [part.text for part in parts if part.provenance not in (OWNER, "system")]
    return typed, "\n".join(foreign)


def _seconds(earlier: str, later: str) -> float:
    try:
        return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
    except (ValueError, TypeError):
        return float("inf")


def _lengths(message: Message) -> list[int]:
    if not message.details:
        return []
    lengths = json.loads(message.details).get("parts")
    known = isinstance(lengths, list) and all(type(length) is int for length in lengths)
    return lengths if known else []


def _kind(turn: Turn) -> str:
    """Return what a request was for; turns from before this was kept are told by their words."""
    if turn.kind != CHAT:
        return turn.kind
    system = "\n".join(m.content for m in turn.prompt or turn.messages if m.role == "system")
    offered = json.loads(turn.offered) if turn.offered else {}
    return kind_of_words(system, bool(offered.get("tools")))


def subject_of_answer(text: str, found: Harvest) -> str | None:
    """Name the topic that an answer of the assistant spoke of last."""
    openings = {relation.opening(None): relation.key for relation in ALL}
    for subject, lessons in found.current.items():
        form = form_for(subject, lessons[-1].value)
        if isinstance(form, Relation):
            openings[form.opening(None)] = subject
    hits = [(text.rfind(opening), len(opening), key) for opening, key in openings.items()]
    place, _, key = max(hits, default=(-1, 0, ""))
    return key if place >= 0 else None


def _subject_with(value: str | None, talk: _Conversation, found: Harvest) -> str | None:
    if value is None:
        return None
    holders = [
        subject
        for subject, lessons in found.current.items()
        if any(lesson.value.casefold() == value.casefold() for lesson in lessons)
    ]
    return talk.subject if talk.subject in holders else (holders[-1] if holders else None)


def _keep(found: Harvest, claim: Claim, subject: str, talk: _Conversation, turn: Turn) -> None:
    statement = " ".join(claim.statement.split())
    reason = FOREIGN if _normal(statement) in talk.foreign else claim.reason
    if claim.subject is None:
        statement = sentence_for(subject, claim.value)
    lesson = Lesson(
        kind=claim.kind,
        subject=subject,
        statement=statement,
        value=claim.value,
        sources=(turn.id,),
        state="quarantined" if reason else "new",
        time=turn.time,
    )
    talk.subject = subject
    if reason:
        found.quarantined.append(Quarantined(lesson, reason))
        return
    found.lessons.append(_placed(found, lesson, claim.refuted))


def _placed(found: Harvest, lesson: Lesson, refuted: str | None) -> Lesson:
    """Put a lesson in the place of what held before; the same thing said again stays one lesson."""
    subject = lesson.subject
    current = found.current.setdefault(subject, [])
    former = found.former.setdefault(subject, [])
    known = next((old for old in (*current, *former) if _same(old, lesson)), None)
    if known is not None:
        lesson = dataclasses.replace(known, sources=lesson.sources, supersedes=None)
    leaving = [old for old in current if not _same(old, lesson)]
    if subject in MANY:
        leaving = [old for old in leaving if refuted and old.value.casefold() == refuted.casefold()]
    if leaving:
        lesson = dataclasses.replace(lesson, supersedes=leaving[-1].hash)
    former[:] = [old for old in former if not _same(old, lesson)] + leaving
    current[:] = [old for old in current if old not in leaving and not _same(old, lesson)]
    current.append(lesson)
    return lesson


def _same(one: Lesson, other: Lesson) -> bool:
    return one.subject == other.subject and one.value.casefold() == other.value.casefold()


def _normal(text: str) -> str:
    return " ".join(_WORDS.findall(text.casefold()))
