"""Forgets a lesson, a turn or a conversation: afterwards the box is one that never heard of it.

The one idea: lessons follow from turns, decisions and moves of HEAD (`memory.history`), so what is
left of them is replayed without the forgotten turns. Then the curriculum has the hash that it would
have without them, and so do the weights that the next run builds. Invariant: words and lessons go
in one transaction, or stay. Weights that were built before still know: `Forgotten` names them.
"""

import bisect
import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from homebox.errors import UsageError
from homebox.learning.lessons.harvest import EXTRACTED, Harvester
from homebox.learning.lessons.live import LiveLessons, extracted_lessons, live_lessons
from homebox.learning.lessons.repeats import repeated
from homebox.learning.lessons.rereading import Without, read_again
from homebox.learning.lessons.shown import SHORTEST
from homebox.learning.reading.topics import MANY, NOTE
from homebox.memory.history import Decided, Event, RolledBack, Selected, Told
from homebox.memory.ledger import DECISION, MOVE, Ledger, Outline
from homebox.memory.lessons import ALIVE, Lesson
from homebox.memory.lineage import LEFT, ROLLED_BACK, Lineage
from homebox.memory.manifest import short

Key = tuple[int, int, int]  # after which turn, after which move, what first


@dataclass(frozen=True)
class Target:
    """What is to be forgotten: `kind` is lesson, turn or conversation."""

    kind: str
    name: str
    turns: tuple[str, ...]


@dataclass(frozen=True)
class Forgotten:
    """What is gone, what came back, and what still knows it."""

    kind: str
    name: str
    turns: tuple[str, ...]
    lessons: tuple[Lesson, ...]  # gone
    restored: tuple[Lesson, ...]  # hold again
    repeated: tuple[str, ...]  # other turns that hold the same words
    weights: tuple[str, ...]  # checkpoints that were built from what is gone
    served: bool  # whether one of them is served


def target_of(ledger: Ledger, name: str) -> Target:
    """Find what a name means: a lesson's hash, a turn's id, or their beginning, or a conversation.

    Raises UsageError if nothing, or more than one thing, is called so.
    """
    name = name.strip()
    turns = ledger.outline() if name else []
    if name.startswith("turn_"):
        found = [turn.id for turn in turns if turn.id.startswith(name)]
        if len(found) == 1:
            return Target("turn", found[0], (found[0],))
        raise UsageError(_nothing(name, "turn", [short_turn(id) for id in found]))
    told = tuple(turn.id for turn in turns if turn.conversation == name)
    if told:
        return Target("conversation", name, told)
    lessons = ledger.find_lessons(name.lower()) if len(name) >= SHORTEST else []
    if len(lessons) == 1:
        there = {turn.id for turn in turns}
        return Target(
            "lesson", lessons[0].hash, tuple(id for id in lessons[0].sources if id in there)
        )
    talks = {turn.conversation for turn in turns if turn.conversation.startswith(name)}
    if len(lessons) == 0 and len(talks) == 1 and len(name) >= SHORTEST:
        (talk,) = talks
        told = tuple(turn.id for turn in turns if turn.conversation == talk)
        return Target("conversation", talk, told)
    fits = [short(lesson.hash) for lesson in lessons] or sorted(talks)
    raise UsageError(_nothing(name, "lesson, turn or conversation", fits if name else []))


def said_target(ledger: Ledger, name: str) -> Target:
    """Find the turn of that id, or the turns of that conversation; raises UsageError if none."""
    turns = ledger.outline() if name else []
    if any(turn.id == name for turn in turns):
        return Target("turn", name, (name,))
    told = tuple(turn.id for turn in turns if turn.conversation == name)
    if not told:
        raise UsageError(
            f'the ledger has no turn or conversation {name!r}; "homebox log" lists them'
        )
    return Target("conversation", name, told)


def short_turn(id: str) -> str:
    """Abbreviate a turn's id for a person."""
    return id[:17]


def _nothing(name: str, kind: str, fits: Sequence[str]) -> str:
    what = f"{name!r} fits several: {', '.join(fits[:8])}" if fits else f"no {kind} is {name!r}"
    return f'{what}; "homebox lessons" and "homebox log" list them'


def losing(ledger: Ledger, target: Target, turns: Collection[str]) -> list[Lesson]:
    """List the lessons that go with turns: the one that is meant, and what only they told."""
    gone = set(turns)
    return [
        lesson
        for lesson in ledger.lessons()
        if lesson.hash == target.name or (lesson.sources and gone.issuperset(lesson.sources))
    ]


def repeating(ledger: Ledger, target: Target) -> tuple[str, ...]:
    """List the other turns that hold the same words; see `repeats.repeated`."""
    return repeated(ledger, set(target.turns), losing(ledger, target, target.turns))


def forget(ledger: Ledger, lineage: Lineage, target: Target, everywhere: bool = False) -> Forgotten:
    """Forget for good; `everywhere` also erases other turns that repeat the words.

    Raises StateError if the disk refuses; nothing has changed then.
    """
    live = live_lessons(ledger)
    with live.lock:
        live.catch_up()
        lineage.settle()
        before = {lesson.hash: lesson for lesson in ledger.lessons()}
        gone = set(target.turns)
        repeats = repeated(ledger, gone, losing(ledger, target, gone))
        if everywhere:
            gone.update(repeats)
            repeats = ()
        dropped = target.name if target.kind == "lesson" else ""
        outline = ledger.outline()
        events, reader = _history(ledger, lineage, live, outline, gone, dropped)
        names = {
            lesson.hash for event in events if isinstance(event, Told) for lesson in event.lessons
        }
        marks = [mark for mark in ledger.marks(DECISION) if mark.split()[-1] not in names]
        marks += [mark for mark in ledger.marks(EXTRACTED) if mark.split()[-1] in gone]
        try:
            ledger.forget(sorted(gone), events, MANY, marks)
        except BaseException:
            live.begin_anew()  # it may have been forgotten, and only its log not be empty
            raise
        live.begin_anew(reader, outline[-1].id if outline else None)
    after = {lesson.hash: lesson for lesson in ledger.lessons()}
    lost = tuple(lesson for name, lesson in before.items() if name not in after)
    restored = tuple(
        lesson
        for name, lesson in after.items()
        if lesson.state in ALIVE and name in before and before[name].state not in ALIVE
    )
    weights, served = _knowing(lineage, {lesson.hash for lesson in lost})
    return Forgotten(
        target.kind,
        target.name,
        tuple(sorted(gone)),
        lost,
        restored,
        repeats,
        weights,
        served,
    )


def _history(
    ledger: Ledger,
    lineage: Lineage,
    live: LiveLessons,
    outline: Sequence[Outline],
    gone: set[str],
    dropped: str,
) -> tuple[list[Event], Harvester]:
    """Tell everything that happened but the forgotten turns, in order; and who read the rest."""
    place = {turn.id: turn.number for turn in outline}
    past = Without(
        ledger=ledger,
        outline=outline,
        gone=gone,
        reader=live.reader,
        read=live.read_to,
        extracted=_extracted(ledger, gone, dropped),
        subjects={
            lesson.subject
            for lesson in ledger.lessons()
            if lesson.hash == dropped or not gone.isdisjoint(lesson.sources)
        },
    )
    orphans = _orphans(ledger, place, dropped)
    waiting: list[tuple[int, Lesson]] = []
    alone: list[tuple[Key, Event]] = []

    def before(reader: Harvester, number: int) -> None:
        """Tell what turns told that were erased, each in its place."""
        while waiting and waiting[0][0] < number:
            at, lesson = waiting.pop(0)
            alone.append(((at, -1, 0), Told((reader.tell(lesson),))))

    def begin() -> None:
        waiting[:] = orphans
        alone.clear()

    reader, heard, judged = read_again(past, begin, before)
    events = [*alone, *(((each.number, -1, 0), Told(each.lessons)) for each in heard)]
    for lesson in judged:
        events.append(((_number_at(outline, lesson.time), -1, 1), Told((lesson,))))
    events += _moves(ledger, lineage, outline)
    events += _decisions(ledger)
    events.sort(key=lambda item: item[0])
    return [event for _, event in events], reader


def _extracted(ledger: Ledger, gone: set[str], dropped: str) -> dict[str, list[Lesson]]:
    """Return what a model found in the turns that stay."""
    return {
        turn: [lesson for lesson in lessons if lesson.hash != dropped]
        for turn, lessons in extracted_lessons(ledger).items()
        if turn not in gone
    }


def _orphans(ledger: Ledger, place: Mapping[str, int], dropped: str) -> list[tuple[int, Lesson]]:
    """List lessons whose turns were erased while the lessons were to stay, by those turns."""
    found = []
    for lesson in ledger.lessons():
        lost = [id for id in lesson.sources if id not in place]
        if not lost or lesson.hash == dropped:
            continue
        state = "quarantined" if lesson.reason else "new"
        kept = dataclasses.replace(lesson, state=state, sources=tuple(lost), supersedes=None)
        found.append((ledger.number(lost[-1]), kept))
    return sorted(found, key=lambda item: item[0])


def _moves(
    ledger: Ledger, lineage: Lineage, outline: Sequence[Outline]
) -> Iterator[tuple[Key, Event]]:
    lines = lineage.reflog()
    if not lines:
        return
    roots, marks = ledger.positions(), ledger.marks(MOVE)
    for line in lines:
        if not line["done"]:
            continue
        number = line["number"]
        position = marks.get(f"{MOVE}{number}", _number_at(outline, line["time"]))
        if line["kind"] == LEFT:
            continue  # no lesson followed it
        if line["kind"] == ROLLED_BACK:
            yield (position, number, 0), RolledBack(line["old"], line["new"])
            continue
        entry = lineage.entry(line["entry"])
        chosen = roots.get(entry.ledger_root, position)
        imported = not entry.lessons
        left_out = frozenset({NOTE})
        yield (chosen, number, -1), Selected(line["new"], line["old"], imported, left_out)


def _decisions(ledger: Ledger) -> Iterator[tuple[Key, Event]]:
    for mark, position in ledger.marks(DECISION).items():
        _, _, moves, state, name = mark.split()
        yield (position, int(moves), 1), Decided(name, state)


def _number_at(outline: Sequence[Outline], time: str) -> int:
    """Return the number of the last turn that was written by then."""
    place = bisect.bisect_right(outline, time, key=lambda turn: turn.time)
    return outline[place - 1].number if place else 0


def _knowing(lineage: Lineage, lost: set[str]) -> tuple[tuple[str, ...], bool]:
    """Name the checkpoints that were built from lost lessons, and say whether one is served."""
    heads = set(lineage.heads().values())
    lessons = lineage.lessons() if lost else {}
    found = [
        str(line["new"])
        for line in lineage.reflog()
        if line["done"] and not lost.isdisjoint(lessons.get(line["number"], ()))
    ]
    names = tuple(dict.fromkeys(found))
    return names, not heads.isdisjoint(names)
