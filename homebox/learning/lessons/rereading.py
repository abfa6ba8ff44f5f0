"""What a ledger tells without some turns, by reading again only what could tell something else.

The one idea: a conversation in which nothing was told and nothing is forgotten leaves its reader as
it was, so all but a few conversations need no second look. Invariant: the reader is one that walked
through every turn that stays; where that is not certain, it does.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from homebox.learning.lessons.harvest import Harvester, talk_of
from homebox.learning.lessons.signals import Listener
from homebox.memory.ledger import Ledger, Outline
from homebox.memory.lessons import Lesson
from homebox.memory.turns import Turn


@dataclass(frozen=True)
class Without:
    """A ledger as it is to be, and who read it as it is."""

    ledger: Ledger
    outline: Sequence[Outline]  # of what was not erased yet
    gone: Collection[str]  # ids of the turns that go
    reader: Harvester
    read: int  # up to which number it read
    extracted: Mapping[str, Sequence[Lesson]]  # what a model found in the turns that stay
    subjects: Collection[str]  # of lessons that the turns told, or that go


@dataclass(frozen=True)
class Heard:
    """What is told when a turn was read: by the owner's words in it, and where it stands."""

    number: int
    lessons: tuple[Lesson, ...]


Before = Callable[[Harvester, int], None]  # tells what stands before the turn of that number


def read_again(
    past: Without, begin: Callable[[], None], before: Before
) -> tuple[Harvester, list[Heard], tuple[Lesson, ...]]:
    """Read what must be read; returns the reader, what turns tell, and what opinions tell.

    `before` is called with the new reader before each turn, and once with a number above all;
    `begin` before the first of them, and again if more must be read.
    """
    begin()
    found = _walk(past, _talks(past), before)
    if _subjects(past, past.reader) != _subjects(past, found[0]):
        # What was meant by "no, it is Max" depends on more than its conversation.
        begin()
        found = _walk(past, {talk_of(turn) for turn in past.outline}, before)
    return found


def _walk(
    past: Without, talks: Collection[str], before: Before
) -> tuple[Harvester, list[Heard], tuple[Lesson, ...]]:
    stays = [turn for turn in past.outline if turn.id not in past.gone]
    known = (turn.id for turn in stays if turn.number <= past.read)
    reader = past.reader.without(talks, known, past.extracted)
    opinions = [item for item in past.ledger.feedback() if item.turn not in past.gone]
    listener, rated = Listener(opinions), {item.turn for item in opinions}
    judged = {talk_of(turn) for turn in stays if turn.id in rated or turn.number > past.read}
    judged |= past.reader.correcting
    heard = []
    for number, turn in _turns(past, stays, {*talks, *judged}):
        before(reader, number)
        name = talk_of(turn)
        if name in judged:
            listener.read(turn)
        if name in talks or number > past.read:
            lessons = tuple(reader.read(turn))
            if lessons:
                heard.append(Heard(number, lessons))
    before(reader, past.outline[-1].number + 1 if past.outline else 1)
    return reader, heard, listener.lessons()


def _talks(past: Without) -> set[str]:
    """Name the conversations that may tell something, or something else than they did."""
    telling = past.reader.telling
    named = {
        talk_of(turn)
        for turn in past.outline
        if turn.id in past.gone or turn.id in telling or turn.id in past.extracted
    }
    named |= {name for name, subject in past.reader.last_subjects() if subject in past.subjects}
    return named


def _turns(
    past: Without, stays: Sequence[Outline], talks: Collection[str]
) -> Iterator[tuple[int, Turn]]:
    wanted = [turn for turn in stays if talk_of(turn) in talks or turn.number > past.read]
    numbers = {turn.id: turn.number for turn in wanted}
    for turn in past.ledger.some_turns(numbers):
        yield numbers[turn.id], turn


def _subjects(past: Without, reader: Harvester) -> list[tuple[str, str]]:
    """List what the turns that stay told about, as far as they were read before."""
    there = {turn.id for turn in past.outline if turn.number <= past.read}.difference(past.gone)
    lessons = [*reader.found.lessons, *(item.lesson for item in reader.found.quarantined)]
    return sorted(
        (lesson.sources[-1], lesson.subject)
        for lesson in lessons
        if lesson.sources and lesson.sources[-1] in there
    )
