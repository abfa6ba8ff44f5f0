"""Asks an arm everything and marks it: what it recalls, claims, keeps, leaks, and what it costs.

The one idea: every figure of an arm is a mean over questions that no lesson and no gate has used,
asked in fresh conversations. Invariant: what an arm is asked depends on the owner and the seed
alone, so that two arms always answer the same.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.owner.arms import Arm
from bench.owner.box import MAX_ANSWER, ask, ask_all, finished, loss_of, median
from bench.owner.people import Owner, questions_of
from homebox.language.dice import Dice
from homebox.language.relation import Relation
from homebox.language.turns import Document, assistant, user
from homebox.language.values import Values
from homebox.language.world import WORLD, WORLD_NAMES
from homebox.learning.exam.examinee import ModelExaminee
from homebox.learning.exam.writing import RECALL, UNTOLD, WORLD_KEPT, Question
from homebox.learning.examples import replay
from homebox.learning.lessons.teach import Topic, seed_of
from homebox.model import Model
from homebox.model.adapters import BASE

PROMPTS = 3  # that show a preference
WORLD_ASKED = 40
ANCHORS = 16


@dataclass
class Marks:
    """What an arm reached; shares from 0 to 1, a figure that could not be measured is nan."""

    arm: str
    recall: float = math.nan
    corrected: float = math.nan  # of corrected and changed facts, the last value
    stale: float = math.nan  # of these, answered with a value that no longer holds
    preferences: float = math.nan
    false_claims: float = math.nan
    gain: float = math.nan  # nats an answer: base's loss of the true answers minus this one's
    other_gain: float = math.nan  # the same for another owner's answers to the same questions
    general: float = math.nan  # of the toy world, what the base had right and is still right
    loss_rise: float = math.nan
    divergence: float = math.nan
    leaked: float = math.nan
    injected: float = math.nan
    prompt_tokens: float = math.nan
    first: float = math.nan  # seconds, median, as served: what is known of the prompt is reused
    first_cold: float = math.nan  # the same where nothing is known of the prompt
    asked: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)  # a few, to look at

    @property
    def owner_gain(self) -> float:
        """The gain on this owner's answers beyond that on another's."""
        return self.gain - self.other_gain

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        found = {**asdict(self), "owner_gain": self.owner_gain}
        return {
            name: (round(value, 6) if math.isfinite(value) else None)
            if isinstance(value, float)
            else value
            for name, value in found.items()
        }


@dataclass(frozen=True)
class Paper:
    """All questions about one owner."""

    owner: Owner
    recall: tuple[Question, ...]
    preferences: tuple[Question, ...]
    untold: tuple[Question, ...]
    secrets: tuple[Question, ...]
    injections: tuple[Question, ...]
    world: tuple[Question, ...]
    stale: dict[str, str]
    answers: tuple[Document, ...]  # questions with the true answers
    others: tuple[Document, ...]  # the same questions with another owner's
    anchor: tuple[Document, ...]


def _asked(check: str, text: str, expected: str, key: str, exact: bool = False) -> Question:
    return Question(check, [{"role": "user", "content": text}], expected, key, exact)


def paper(owner: Owner, night: int | None = None) -> Paper:
    """Write the questions about what an owner told up to a night (all of them by default)."""
    dice = Dice(seed_of("paper", str(owner.seed), str(len(owner.facts))))
    topics = owner.topics if night is None else owner.holding(night)
    values = Values(dice, unseen=True, excluded=WORLD_NAMES)
    facts = [topic for topic in topics if topic.relation is not None]
    chosen = [topic for topic in topics if topic.relation is None]
    asked = [(topic, dice.pick(questions_of(topic))) for topic in facts]
    changed = {fact.key: fact.before for fact in owner.facts if fact.before}
    answers, others = [], []
    for topic, text in asked:
        answers.append([user(text), assistant(topic.answer)])
        foreign = Topic(topic.form, _other(values, topic))
        others.append([user(text), assistant(foreign.answer)])
    return Paper(
        owner,
        tuple(_asked(RECALL, text, topic.value, topic.key) for topic, text in asked),
        (
            *(
                _asked("preference", text, topic.value, topic.key)
                for topic in chosen
                for text in dice.sample(_prompts(topic), PROMPTS)
            ),
            *(
                question
                for manner in owner.manners
                if night is None or manner.night <= night
                for question in manner.questions()
            ),
        ),
        tuple(_denied(relation, dice) for relation in owner.untold),
        tuple(_plants(owner.secrets, dice)),
        tuple(_plants(owner.injections, dice)),
        tuple(
            _asked(WORLD_KEPT, dice.pick(item.train), item.answer, item.topic, exact=True)
            for item in dice.sample(WORLD, WORLD_ASKED)
        ),
        {key: old for key, old in changed.items() if key in {t.key for t in facts}},
        tuple(answers),
        tuple(others),
        tuple(replay(list(topics), dice, values, ANCHORS)),
    )


def _prompts(topic: Topic) -> list[str]:
    # Preferences have so few prompts that the tier of the gate is asked too.
    return [*topic.questions("held_out"), *topic.questions("known")]


def _other(values: Values, topic: Topic) -> str:
    while True:
        value = values.draw(topic.form.kind)
        if value.casefold() != topic.value.casefold():
            return value


def _denied(relation: Relation, dice: Dice) -> Question:
    text = dice.pick(relation.questions(None, "held_out"))
    return _asked(UNTOLD, text, relation.untold(None), relation.key)


def _plants(plants: Sequence[Any], dice: Dice) -> list[Question]:
    return [
        _asked("plant", dice.pick(questions_of(plant.topic)), plant.value, plant.topic.key)
        for plant in plants
    ]


def mark(model: Model, arm: Arm, paper: Paper, base: Marks | None, general: bool = True) -> Marks:
    """Ask an arm everything; `base` gives what the gains and the general share compare with."""
    marks = Marks(arm.name)
    costs: list[tuple[int, float, float]] = []
    answers = {}
    for question in paper.recall:
        shown = arm.before(question.messages, question.key)
        answer = ask(model, shown, arm.adapter, f"bench {arm.name}")
        answers[question.key] = answer.text
        added = answer.prompt_tokens - len(model.chat.render(question.messages))
        costs.append((added, answer.first, 0.0))
        if not question.right(answer.text) and len(marks.wrong) < 5:
            text = question.messages[-1]["content"]
            marks.wrong.append(f"{text} {answer.text!r}, not {question.expected!r}")
    right = [question.right(answers[question.key]) for question in paper.recall]
    marks.recall = _share(right)
    _mark_changes(marks, paper, answers)
    marks.preferences = _share(_right(model, arm, paper.preferences))
    marks.false_claims = 1 - _share(_right(model, arm, paper.untold))
    marks.leaked = _share(_right(model, arm, paper.secrets))
    marks.injected = _share(_right(model, arm, paper.injections))
    marks.prompt_tokens = sum(cost[0] for cost in costs) / max(1, len(costs))
    # The first question has computed what all others share.
    marks.first = median([first for _, first, _ in costs[1:]])
    marks.first_cold = median(
        [
            ask(model, arm.before(question.messages, question.key), arm.adapter).first
            for question in paper.recall[:3]
        ]
    )
    marks.gain = _gain(model, arm, paper, paper.answers)
    marks.other_gain = _gain(model, arm, paper, paper.others)
    if general:
        _mark_general(model, arm, paper, marks, base)
    marks.asked = {
        "recall": len(paper.recall),
        "corrected": len(paper.stale),
        "preferences": len(paper.preferences),
        "untold": len(paper.untold),
        "secrets": len(paper.secrets),
        "injections": len(paper.injections),
        "world": len(paper.world),
    }
    return marks


def _mark_changes(marks: Marks, paper: Paper, answers: dict[str, str]) -> None:
    changed = [question for question in paper.recall if question.key in paper.stale]
    marks.corrected = _share([q.right(answers[q.key]) for q in changed])
    old = [Question(RECALL, [], paper.stale[q.key]).right(answers[q.key]) for q in changed]
    marks.stale = _share(old)


def _right(model: Model, arm: Arm, questions: Sequence[Question]) -> list[bool]:
    prompts = [arm.before(question.messages, question.key) for question in questions]
    most = max([MAX_ANSWER, *(question.most for question in questions)])
    texts = ask_all(model, prompts, arm.adapter, most, f"bench {arm.name}")
    return [question.right(text) for question, text in zip(questions, texts, strict=True)]


def _gain(model: Model, arm: Arm, paper: Paper, documents: Sequence[Document]) -> float:
    """Return how much less the answers surprise than they surprise the base alone, in nats."""
    gains = []
    for question, document in zip(paper.recall, documents, strict=True):
        shown = arm.before(question.messages, question.key)[:-1]
        if arm.adapter == BASE and not shown:
            gains.append(0.0)
            continue
        plain = loss_of(model, document, BASE, [])
        gains.append(plain - loss_of(model, document, arm.adapter, shown))
    return sum(gains) / len(gains) if gains else math.nan


def _mark_general(model: Model, arm: Arm, paper: Paper, marks: Marks, base: Marks | None) -> None:
    """Mark what should not change: the toy world, and the loss and KL of other text."""
    right = _right(model, arm, paper.world)
    marks.general = _share(right) / base.general if base and base.general else _share(right)
    if arm.adapter != BASE:
        steps = ModelExaminee(model).divergence(list(paper.anchor), arm.adapter)
        marks.divergence, marks.loss_rise = finished(steps)
        return
    with_prompt = sum(
        loss_of(model, document, BASE, arm.before([_first(document)], "")[:-1])
        for document in paper.anchor
    )
    alone = sum(loss_of(model, document, BASE, []) for document in paper.anchor)
    marks.loss_rise = (with_prompt - alone) / alone if alone else math.nan


def _first(document: Document) -> dict[str, Any]:
    said = next((turn for turn in document if turn.role == "user"), document[0])
    return {"role": said.role, "content": said.content}


def _share(marks: Sequence[bool]) -> float:
    return sum(marks) / len(marks) if marks else math.nan
