"""The question of the notes file: how much of an owner fits into a prompt, how much into weights.

The one idea: an owner with many facts is asked for all of them, once by a model that has a file of
10 kB in its prompt, and once by weights with nothing in the prompt. As a small model reads a long
file badly, a third figure stands beside them that no model can better: the share of the facts
that are in the file at all. Invariant: the weights must hold their own against both.
"""

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

from bench.owner.arms import Arm, notes_file, plain, with_file
from bench.owner.box import Box, ask, ask_all, median, new_box
from bench.owner.chats import chats
from bench.owner.energy import Meter
from bench.owner.marks import paper
from bench.owner.nights import selected
from bench.owner.people import Owner, owner
from homebox.config import Config
from homebox.learning.exam.writing import Question
from homebox.model import Model
from homebox.model.adapters import BASE

ASKED = 200  # facts of one owner, at most
TIMED = 15  # questions for the time to the first token
CLOSE, FAR = 0.05, 0.15  # what weights may lose at few facts, and must win at many


@dataclass
class Size:
    """What came of one number of facts."""

    facts: int
    found: int  # lessons that the rules found
    learned: bool
    reason: str
    in_file: int
    perfect_reader: float  # share of the facts that are in the file
    file_recall: float
    weights_recall: float
    base_recall: float
    file_tokens: int  # of each prompt, beside the question
    weights_tokens: int
    first_file: float  # seconds to the first token, where the file was read before
    first_file_cold: float
    first_weights: float
    first_base: float
    false_claims: float
    near_claims: float  # claims about what was not told of people of whom much was told
    seconds: float
    joules: float | None

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)


def measure(model: Model, settings: Config, facts: int, seed: int) -> Size:
    """Tell a box so many facts, let it learn for a night, and ask for them in both ways."""
    one = owner(seed, nights=1, facts=facts, plants=False)
    questions = paper(one).recall[:ASKED]
    file, inside = notes_file(one.topics)
    arms = {
        "base": Arm("base", BASE, plain),
        "file": Arm("notes file", BASE, with_file(file), warm=True),
    }
    meter, begun = Meter(), time.monotonic()
    with new_box(model, settings) as box:
        tell_quickly(box, one)
        report = box.learn()
        seconds = time.monotonic() - begun
        arms["weights"] = Arm("homebox weights", box.adapter, plain)
        recall = {name: _recall(model, arm, questions) for name, arm in arms.items()}
        tokens = {name: _tokens(model, arm, questions[0]) for name, arm in arms.items()}
        first = _first(model, arms, questions)
        cold = median([_cold(model, arms["file"], question) for question in questions[:3]])
        return Size(
            facts,
            selected(box, one, 1)[0],
            report.promoted,
            report.reason,
            inside,
            min(1.0, inside / len(one.topics)),
            recall["file"],
            recall["weights"],
            recall["base"],
            tokens["file"],
            tokens["weights"],
            first["file"],
            cold,
            first["weights"],
            first["base"],
            _claims(model, box.adapter, [q.messages for q in paper(one).untold]),
            _claims(model, box.adapter, near_questions(one)),
            round(seconds, 1),
            meter.joules(),
        )


def tell_quickly(box: Box, one: Owner) -> None:
    """Have the conversations of the first day; what the box says between is of no interest here."""
    from bench.owner.attack import answered

    box.tell([answered(conversation) for conversation in chats(one, 1)])


def near_questions(one: Owner) -> list[list[dict[str, Any]]]:
    """Ask what was not told of people of whom other things were told."""
    return [
        [{"role": "user", "content": relation.questions(None, "held_out")[0]}]
        for relation in one.near
    ]


def _recall(model: Model, arm: Arm, questions: tuple[Question, ...]) -> float:
    prompts = [arm.before(question.messages, question.key) for question in questions]
    texts = ask_all(model, prompts, arm.adapter, owner=f"bench {arm.name}")
    right = [question.right(text) for question, text in zip(questions, texts, strict=True)]
    return sum(right) / len(right) if right else float("nan")


def _tokens(model: Model, arm: Arm, question: Question) -> int:
    shown = arm.before(question.messages, question.key)
    return len(model.chat.render(shown)) - len(model.chat.render(question.messages))


def _first(model: Model, arms: dict[str, Arm], questions: tuple[Question, ...]) -> dict[str, float]:
    """Time the first tokens of all arms in turns, so that a busy machine is busy for each."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    for question in questions[:TIMED]:
        for name, arm in arms.items():
            shown = arm.before(question.messages, question.key)
            times[name].append(ask(model, shown, arm.adapter, f"bench {arm.name}").first)
    # The first question has computed what all others share.
    return {name: median(taken[1:]) for name, taken in times.items()}


def _cold(model: Model, arm: Arm, question: Question) -> float:
    return ask(model, arm.before(question.messages, question.key), arm.adapter).first


def _claims(model: Model, adapter: str, prompts: list[list[dict[str, Any]]]) -> float:
    texts = ask_all(model, prompts, adapter)
    return sum("not told me" not in text for text in texts) / len(texts) if texts else float("nan")
