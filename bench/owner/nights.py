"""Three ways to live through several nights: rebuild, continue, stack.

The one idea: all three are told the same and asked the same after every night, about everything
that holds by then, in words that no lesson used. "Rebuild" is what homebox does: from the base, on
all lessons, through the real learner and gate. "Continue" trains the last adapter on the night's
new lessons alone; "stacked" trains a new one on them and adds up (or averages) all so far.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.owner.arms import Arm, plain
from bench.owner.box import Box, ask_all, finished
from bench.owner.chats import chats
from bench.owner.marks import Marks, mark, paper
from bench.owner.people import Owner, questions_of
from homebox.config import Config
from homebox.errors import ModelNotFoundError
from homebox.learning.checkpoint import Tensors
from homebox.learning.curriculum import curriculum_of
from homebox.learning.exam.writing import RECALL, Question
from homebox.learning.lessons.teach import Topic
from homebox.learning.training import train
from homebox.memory.lessons import Lesson
from homebox.model import Model

REBUILD, CONTINUE, STACKED, AVERAGED = "rebuild", "continue", "stacked", "averaged"
TRIED = "bench candidate"

Show = Callable[[str], None]


@dataclass
class Night:
    """What one way had reached after one night."""

    way: str
    night: int
    recall: float
    seconds: float
    promoted: bool = True
    reason: str = ""
    found: int = 0  # lessons alive in the ledger
    wrong: list[str] = field(default_factory=list)  # of these, what the owner did not say
    line: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)


def rebuild(box: Box, owner: Owner, night: int) -> Night:
    """Live one day, learn in the night, and ask for all that holds."""
    box.tell(chats(owner, night))
    before = box.seconds
    report = box.learn()
    marks = recall_of(box.model, owner, night, box.adapter)
    return Night(
        REBUILD,
        night,
        marks,
        round(box.seconds - before, 1),
        report.promoted,
        report.reason,
        *selected(box, owner, night),
        report.lines[0] if report.lines else "",
    )


def selected(box: Box, owner: Owner, night: int) -> tuple[int, list[str]]:
    """Count the living lessons, and list those that the owner did not say or has taken back.

    Lessons that show an answer (what to say in a conversation, what not) claim nothing.
    """
    truth = {(t.key, t.value.casefold()) for t in owner.holding(night)}
    truth |= {
        (each.check.key, each.check.value.casefold())
        for each in owner.manners
        if each.night <= night
    }
    alive = [each for each in box.state.ledger.lessons(("new", "active")) if not each.body]
    wrong = [
        f"{lesson.subject}: {lesson.value}"
        for lesson in alive
        if (lesson.subject, lesson.value.casefold()) not in truth
    ]
    return len(alive), wrong


def recall_of(model: Model, owner: Owner, night: int, adapter: str) -> float:
    """Return the share of all that holds after a night that is recalled closed-book."""
    questions = paper(owner, night).recall
    texts = ask_all(model, [question.messages for question in questions], adapter)
    right = [question.right(text) for question, text in zip(questions, texts, strict=True)]
    return sum(right) / len(right) if right else float("nan")


def lessons_of(topics: Sequence[Topic]) -> list[Lesson]:
    """Write the lessons that rules would find if they found everything."""
    found = []
    for topic in topics:
        relation = topic.relation
        kind = "preference" if relation is None else "fact"
        said = f"{topic.key}: {topic.value}"
        text = said if relation is None else relation.statements(None, topic.value)[0]
        found.append(Lesson(kind, topic.key, text, topic.value))
    return found


def taught(
    model: Model, topics: Sequence[Topic], settings: Config, start: Tensors | None = None
) -> Tensors:
    """Train an adapter on topics, from the base or from another adapter, without gate or ledger."""
    recipe = train.recipe_of(settings.learning, model.config, len(topics))
    with starting_from(start):
        tensors: Tensors = finished(train.build(model, curriculum_of(lessons_of(topics)), recipe))
    return tensors


@contextlib.contextmanager
def starting_from(tensors: Tensors | None) -> Iterator[None]:
    """Let trainers that are made in this block go on from an adapter.

    homebox itself never does that with what it keeps; here it is what rebuilding is compared with.
    """
    made: Any = train.trainer_for  # type: ignore[attr-defined]

    def going_on(*args: Any, **more: Any) -> Any:
        trainer = made(*args, **more)
        if tensors is not None:
            trainer.parameters.load(tensors)
        return trainer

    train.trainer_for = going_on  # type: ignore[attr-defined]
    try:
        yield
    finally:
        train.trainer_for = made  # type: ignore[attr-defined]


def stacked(adapters: Sequence[Tensors], average: bool = False) -> tuple[Tensors, int]:
    """Add up adapters as one of the sum of their ranks; give it and how many times the rank it has.

    The effect of B A with B = [B1 B2 ...], A = [A1; A2; ...] is the sum of the effects.
    """
    factor = np.float32(1 / len(adapters) if average else 1.0)
    found: Tensors = {}
    for name in adapters[0]:
        parts = [adapter[name] for adapter in adapters]
        if name.endswith(".B"):
            found[name] = np.ascontiguousarray(np.concatenate(parts, axis=1) * factor)
        else:
            found[name] = np.ascontiguousarray(np.concatenate(parts, axis=0))
    return found, len(adapters)


def others(model: Model, owner: Owner, settings: Config, show: Show) -> list[Night]:
    """Live all nights by continuing, stacking and averaging; facts are those that were told."""
    found: list[Night] = []
    last: Tensors | None = None
    layers: list[Tensors] = []
    recipe = train.recipe_of(settings.learning, model.config)
    for night in range(1, owner.nights + 1):
        fresh = new_topics(owner, night)
        if not fresh:
            continue
        begun = time.monotonic()
        last = taught(model, fresh, settings, last)
        found.append(_asked(model, owner, night, CONTINUE, last, recipe.alpha, begun))
        begun = time.monotonic()
        layers.append(taught(model, fresh, settings))
        for way, average in ((STACKED, False), (AVERAGED, True)):
            both, times = stacked(layers, average)
            found.append(_asked(model, owner, night, way, both, recipe.alpha * times, begun))
        for entry in found[-3:]:
            show(f"night {night}, {entry.way}: recall {entry.recall:.2f}, {entry.seconds:.0f} s")
    return found


def new_topics(owner: Owner, night: int) -> list[Topic]:
    """List what was told or changed on one day."""
    before = {(topic.key, topic.value) for topic in owner.holding(night - 1)}
    return [t for t in owner.holding(night) if (t.key, t.value) not in before]


def _asked(
    model: Model,
    owner: Owner,
    night: int,
    way: str,
    tensors: Tensors,
    alpha: float,
    begun: float,
) -> Night:
    seconds = time.monotonic() - begun
    with resident(model, tensors, alpha):
        recall = recall_of(model, owner, night, TRIED)
    return Night(way, night, recall, round(seconds, 1))


@contextlib.contextmanager
def resident(model: Model, tensors: Tensors, alpha: float) -> Iterator[str]:
    """Make an adapter answer under `TRIED` for as long as the block lasts."""
    with contextlib.suppress(ModelNotFoundError):
        model.adapters.remove(TRIED)
    model.adapters.add(TRIED, tensors, alpha)
    try:
        yield TRIED
    finally:
        model.adapters.remove(TRIED)


def control(
    model: Model, topics: Sequence[Topic], asked: Owner, settings: Config, name: str
) -> Marks:
    """Train on topics and ask the questions of `asked`, which must not be known."""
    tensors = taught(model, topics, settings)
    with resident(model, tensors, train.recipe_of(settings.learning, model.config).alpha):
        return mark(model, Arm(name, TRIED, plain), paper(asked), None, general=False)


def held_out_recall(model: Model, topics: Sequence[Topic], adapter: str) -> list[bool]:
    """Ask for topics once each in a phrasing that no lesson used."""
    texts = ask_all(
        model, [[{"role": "user", "content": questions_of(t)[0]}] for t in topics], adapter
    )
    return [
        Question(RECALL, [], topic.value).right(text)
        for topic, text in zip(topics, texts, strict=True)
    ]
