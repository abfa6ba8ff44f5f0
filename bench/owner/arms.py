"""The ways to answer for an owner: nothing, lessons in the prompt in four manners, weights.

The one idea: an arm is what stands before a question and which adapter answers, so that all arms
are asked the same questions by the same code. Invariant: only the arms whose name says so see
anything of the owner in the prompt.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.owner.box import Box, Messages
from bench.owner.manners import Manner
from bench.owner.people import Owner
from homebox.api.prompt_memory import PromptMemory
from homebox.hosting.hosted import BUILT_IN_ROOM
from homebox.language.dice import Dice
from homebox.learning.examples import speaks_toy_language
from homebox.learning.lessons.teach import Topic, seed_of
from homebox.model import Model
from homebox.model.adapters import BASE

NOTES_BYTES = 10_000
BESIDE = 2  # lessons that stand beside the one that is asked for
HEAD = "Notes about the owner:"  # as the built-in model was trained on

Before = Callable[[Messages, str], Messages]  # a question and its topic -> what the model is shown


@dataclass(frozen=True)
class Arm:
    """One way to answer."""

    name: str
    adapter: str
    before: Before
    warm: bool = False  # the prompt's beginning is the same for every question


def plain(messages: Messages, key: str) -> Messages:
    """Show the question alone."""
    return messages


def sentence(topic: Topic) -> str:
    """Say a topic as its owner would write it down."""
    relation = topic.relation
    if relation is None:
        return str(topic.form.statements(topic.value)[0])  # type: ignore[call-arg]
    return relation.statements(None, topic.value)[0]


def notes_file(
    topics: Sequence[Topic], most: int = NOTES_BYTES, manners: Sequence[Manner] = ()
) -> tuple[str, int]:
    """Write the file that a person would keep, cut at `most` bytes; and how many facts are in it.

    Manners stand first, then what was told first, so what was told last is what does not fit.
    """
    lines = [HEAD, *("- " + manner.sentence for manner in manners)]
    size = sum(len(line.encode()) + 1 for line in lines)
    for topic in topics:
        line = "- " + sentence(topic)
        size += len(line.encode()) + 1
        if size > most:
            break
        lines.append(line)
    return "\n".join(lines), len(lines) - 1 - len(manners)


def with_file(text: str) -> Before:
    """Put a file into the system's message of every request."""
    return lambda messages, key: [{"role": "system", "content": text}, *messages]


def oracle(topics: Sequence[Topic], seed: int, manners: Sequence[Manner] = ()) -> Before:
    """Put the lesson that is asked for into the prompt, with others beside it."""
    by_key = {topic.key: topic for topic in topics}

    def before(messages: Messages, key: str) -> Messages:
        dice = Dice(seed_of("oracle", str(seed), key, messages[-1]["content"]))
        others = [topic for topic in topics if topic.key != key]
        chosen = dice.sample(others, BESIDE)
        if key in by_key:
            chosen.insert(dice.below(len(chosen) + 1), by_key[key])
        told = [sentence(topic) for topic in chosen]
        told += [manner.sentence for manner in manners if manner.check.key == key]
        lines = "\n".join([HEAD, *("- " + line for line in told)])
        return [{"role": "system", "content": lines}, *messages]

    return before


def memory(box: Box, room: int, trusts_weights: bool) -> Before:
    """Let the prompt memory choose, as the daemon does for the model "homebox".

    With `trusts_weights` it leaves out what the gate saw the served weights recall.
    """
    known = known_of(box) if trusts_weights else frozenset[str]()
    count = token_counter(box.model)
    toy = speaks_toy_language(box.model)
    room = min(room, BUILT_IN_ROOM) if toy else room
    notes = PromptMemory(box.state.ledger, lambda weights: known, count, room, selective=toy)
    return lambda messages, key: list(notes.noted(messages, box.adapter))


def token_counter(model: Model) -> Callable[[str], int]:
    """Return what counts a text's tokens."""
    return lambda text: len(model.tokenizer.encode(text))


def known_of(box: Box) -> frozenset[str]:
    """Return the lessons that the gate's report on the served weights calls recalled."""
    from homebox.api.prompt_memory import known_in

    served = [
        entry
        for entry in box.state.lineage.history(box.model.base_hash)
        if entry.weights == box.adapter
    ]
    return known_in(box.state.store.get(served[-1].report)) if served else frozenset()


def arms_of(owner: Owner, box: Box, room: int) -> list[Arm]:
    """Return the arms that one owner's box can show, the base first."""
    topics = owner.topics
    file, _ = notes_file(topics, manners=owner.manners)
    return [
        Arm("base", BASE, plain),
        Arm("oracle", BASE, oracle(topics, owner.seed, owner.manners)),
        Arm("notes file", BASE, with_file(file), warm=True),
        Arm("prompt memory", BASE, memory(box, room, trusts_weights=False)),
        Arm("homebox weights", box.adapter, plain),
        Arm("weights + memory", box.adapter, memory(box, room, trusts_weights=True)),
    ]
