"""Walks the ledger and turns what the owner said into lessons: newest wins, nothing is revived.

The one idea: the lessons of a ledger follow from its turns alone, in their order. A lesson is named
by its content and remembers its turns, so that walking twice changes nothing, and only something
said anew brings an undone lesson back. Invariant: reading a turn takes no longer because many
lessons are known.
"""

import dataclasses
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from homebox.learning.lessons.foreign import Foreign
from homebox.learning.lessons.known import Known
from homebox.learning.lessons.teach import sentence_for
from homebox.learning.reading.remembering import REMEMBER, command_of, remembered
from homebox.learning.reading.rule_files import Rules
from homebox.learning.reading.rules import Claim, Refusal, may_correct, read_message
from homebox.memory.clients import CHAT, Part, kind_of_words, parts_of_message, typed_words
from homebox.memory.clients import COMMAND as ORDER
from homebox.memory.ledger import Outline
from homebox.memory.lessons import Lesson
from homebox.memory.provenance import OWNER, may_teach
from homebox.memory.spans import lengths_of, spans_of
from homebox.memory.turns import Message, Turn

FOREIGN = "was worded by a tool, a file or a web page"
EXTRACTED = "extracted "  # a mark of the ledger, before a turn's id: a model has read it
RETRIES = 120  # seconds in which clients ask again
OPENCODE = "ses_"  # how its ids of conversations begin
RECENT = 16  # conversations whose foreign words are at hand


@dataclass(frozen=True)
class Quarantined:
    """A lesson that waits for the owner, and why."""

    lesson: Lesson
    reason: str


@dataclass
class Harvest:
    """What a walk through the ledger found, in the order in which it was told."""

    lessons: list[Lesson] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)  # time of the turn, reason
    known: Known = field(default_factory=Known)

    @property
    def current(self) -> Mapping[str, Sequence[Lesson]]:
        """What holds now, by subject."""
        return self.known.current()

    @property
    def former(self) -> Mapping[str, Sequence[Lesson]]:
        """What held once, by subject."""
        return self.known.former()


@dataclass
class _Conversation:
    """What the walk must remember of one conversation to understand "no, it is Max"."""

    subject: str | None = None
    foreign: Foreign = field(default_factory=Foreign)
    asked: int = 0  # hash of the last prompt
    time: str = ""  # of the last turn


class Harvester:
    """Reads turns one by one, in the order in which they were said.

    `rules` are those of the owner's rule files. `extracted` has what a model found in turns, by
    their ids; it is told after what the rules find there.
    """

    def __init__(
        self,
        rules: Rules = Rules(),  # noqa: B008  # frozen
        extracted: Mapping[str, Sequence[Lesson]] | None = None,
        provenance: bool = True,
    ) -> None:
        """`provenance` off takes everybody's words for the owner's; for control runs only."""
        self.found = Harvest()
        self._rules = rules
        self._extracted = extracted if extracted is not None else {}
        self._provenance = provenance
        self._conversations: dict[str, _Conversation] = {}
        self._recent: dict[str, _Conversation] = {}  # the one that spoke last comes last
        self.telling: set[str] = set()  # ids of turns that gave lessons or were refused some
        self.correcting: set[str] = set()  # talks in which an answer may have been corrected
        self._repeats: set[str] = set()  # ids of turns whose questions were not read again
        self._readings: dict[str, dict[str, list[Claim | Refusal]]] = {}  # by turn and words
        self._known_turns: frozenset[str] = frozenset()  # read by the reader before this one

    def without(
        self,
        talks: Collection[str],
        turns: Iterable[str],
        extracted: Mapping[str, Sequence[Lesson]],
    ) -> "Harvester":
        """Return a reader to whom only `talks` (see `talk_of`) are still to be read again.

        It knows how `turns` of them were understood, so that reading these again is quick. All
        others taught nothing, and how they went stays known. This one is of no use any more.
        """
        reader = Harvester(self._rules, extracted, self._provenance)
        reader._conversations = {
            name: talk for name, talk in self._conversations.items() if name not in talks
        }
        reader._recent = {name: talk for name, talk in self._recent.items() if name not in talks}
        reader.correcting = self.correcting.difference(talks)
        reader._known_turns = frozenset(turns)
        reader._repeats = self._repeats & reader._known_turns
        reader._readings = {
            id: items for id, items in self._readings.items() if id in reader._known_turns
        }
        return reader

    def last_subjects(self) -> Iterator[tuple[str, str]]:
        """Yield the talks in which a topic was spoken of, with the last one."""
        for name, talk in self._conversations.items():
            if talk.subject is not None:
                yield name, talk.subject

    def worded_by_others(self, statement: str, conversation: str) -> bool:
        """Say whether a tool, a file or a web page said this before in a conversation."""
        talk = self._conversations.get(conversation)
        return talk is not None and talk.foreign.said(statement)

    def read(self, turn: Turn) -> list[Lesson]:
        """Add what the owner's words in this turn tell; returns those lessons, in order."""
        if self._provenance and _kind(turn) not in (CHAT, ORDER):
            self.correcting.add(talk_of(turn))
            return []
        told, waiting = len(self.found.lessons), len(self.found.quarantined)
        talk = self._talk(talk_of(turn))
        # A client that asks again, or for several answers, says nothing anew.
        asked = hash(turn.prompt) if turn.prompt else 0
        again = (
            bool(turn.prompt) and asked == talk.asked and _seconds(talk.time, turn.time) < RETRIES
        )
        talk.asked, talk.time = asked, turn.time
        if again:
            self._repeats.add(turn.id)
        for message in turn.messages[-1:] if again else turn.messages:
            self._read(talk, turn, message)
        for lesson in self._extracted.get(turn.id, ()):
            self.tell(dataclasses.replace(lesson, sources=(turn.id,), supersedes=None))
        fresh = self.found.lessons[told:]
        return [*fresh, *(item.lesson for item in self.found.quarantined[waiting:])]

    def _talk(self, name: str) -> _Conversation:
        """Return what is known of a conversation; of those that rest, the words are packed."""
        talk = self._recent.pop(name, None) or self._conversations.get(name)
        if talk is None:
            talk = self._conversations[name] = _Conversation()
        self._recent[name] = talk
        if len(self._recent) > RECENT:
            self._recent.pop(next(iter(self._recent))).foreign.pack()
        return talk

    def tell(self, lesson: Lesson) -> Lesson:
        """Add a lesson that somebody else found in the owner's words; returns it in its place."""
        if lesson.state == "quarantined":
            self.found.quarantined.append(Quarantined(lesson, lesson.reason))
            return lesson
        self.found.lessons.append(self.found.known.placed(lesson))
        return self.found.lessons[-1]

    def _read(self, talk: _Conversation, turn: Turn, message: Message) -> None:
        if not self._provenance:
            self._tell(talk, turn, message.content)
            return
        if message.role == "assistant":
            talk.subject = self.found.known.subject_of_answer(message.content) or talk.subject
            return
        if not may_teach(message.provenance):
            if message.provenance != "system":
                talk.foreign.hear(message.content)
            return
        if message.role != "user":
            return
        typed, foreign = told_by(message, turn.conversation)
        talk.foreign.hear(foreign)
        self._tell(talk, turn, typed)

    def _items(self, turn: Turn, typed: str, command: str, rest: str) -> list[Claim | Refusal]:
        """Return what words say, as it was found out before if it was."""
        items = self._readings.get(turn.id, {}).get(typed)
        if items is not None:
            return items
        if turn.id in self._known_turns and turn.id not in self._repeats:
            return []
        return remembered(rest, self._rules) if command else read_message(typed, self._rules)

    def _tell(self, talk: _Conversation, turn: Turn, typed: str) -> None:
        if may_correct(typed):
            self.correcting.add(talk_of(turn))
        command, rest = command_of(typed)
        obeyed = turn.kind == ORDER or not self._provenance
        if command and (command != REMEMBER or not obeyed):
            return  # what an order says of answers is in the feedback
        items = self._items(turn, typed, command, rest)
        if items:
            self.telling.add(turn.id)
            self._readings.setdefault(turn.id, {})[typed] = items
        for item in items:
            if isinstance(item, Refusal):
                self.found.refused.append((turn.time, item.reason))
                continue
            known = self.found.known
            subject = item.subject or known.holder(item.refuted, talk.subject) or talk.subject
            if subject is not None:
                self._keep(item, subject, talk, turn, outright=bool(command))

    def _keep(
        self, claim: Claim, subject: str, talk: _Conversation, turn: Turn, outright: bool
    ) -> None:
        statement = " ".join(claim.statement.split())
        foreign = not outright and talk.foreign.said(statement)
        reason = FOREIGN if foreign else claim.reason
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
            origin="owner" if outright else "rule",
            reason=reason,
        )
        talk.subject = subject
        if reason:
            self.found.quarantined.append(Quarantined(lesson, reason))
            return
        self.found.lessons.append(self.found.known.placed(lesson, claim.refuted))


def harvest(turns: Iterable[Turn], provenance: bool = True) -> Harvest:
    """Read all turns in order and return every lesson that the owner's words give."""
    harvester = Harvester(provenance=provenance)
    for turn in turns:
        harvester.read(turn)
    return harvester.found


def talk_of(turn: Turn | Outline) -> str:
    """Name the conversation of a turn; one that stands alone is its own."""
    return turn.conversation or turn.id


def told_by(message: Message, conversation: str = "") -> tuple[str, str]:
    """Return what was typed of a user's message, and what files and tools say in it.

    What a client adds besides (times, reminders, its own orders) is in neither.
    """
    if message.provenance == OWNER:
        spans = spans_of(message)
        parts = [Part(message.content[start:end], whose) for start, end, whose in spans]
    else:
        parts = parts_of_message(message.content, lengths_of(message))
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


def _kind(turn: Turn) -> str:
    """Return what a request was for; turns from before this was kept are told by their words."""
    if turn.kind != CHAT:
        return turn.kind
    system = "\n".join(m.content for m in turn.prompt or turn.messages if m.role == "system")
    offered = json.loads(turn.offered) if turn.offered else {}
    return kind_of_words(system, bool(offered.get("tools")))
