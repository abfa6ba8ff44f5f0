"""Puts together all that one exam asks, and says what it does not ask and why.

The one idea: the paper is written once a run, before anybody sits it, from what was learned and
from what was kept out. Invariant: the same curriculum, evidence, seed and model give the same
paper; a part without questions is on it either as a reason or as a check that fails.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from homebox.language.dice import Dice
from homebox.language.turns import Document, assistant, user
from homebox.language.values import Values
from homebox.language.world import WORLD_NAMES
from homebox.learning.curriculum import Curriculum
from homebox.learning.exam.evidence import Evidence
from homebox.learning.exam.general import general_questions
from homebox.learning.exam.limits import Amounts
from homebox.learning.exam.probes import planted_questions, secret_questions
from homebox.learning.exam.questions import Question
from homebox.learning.exam.shown import shown_documents, shown_in
from homebox.learning.exam.tool_requests import tool_questions
from homebox.learning.exam.writing import PREFERENCE, another_value, exam_questions, write_exam
from homebox.learning.examples import replay, speaks_toy_language
from homebox.learning.examples.everyday import checkables, facts_of
from homebox.learning.examples.samples import NO_SAMPLES, Samples
from homebox.learning.lessons.teach import Topic, seed_of
from homebox.model import Model

STYLED = 128  # tokens of an answer that is to show a preference


@dataclass(frozen=True)
class Pairing:
    """The answer to one question, as the owner's lesson has it and as somebody else's might."""

    own: Document
    other: Document


@dataclass(frozen=True)
class Paper:
    """All that is asked; `anchor` is empty where the base's own answers are the anchor."""

    questions: tuple[Question, ...]
    pairings: tuple[Pairing, ...] = ()
    anchor: tuple[Document, ...] = ()
    anchors: int = 0  # of the base's own answers, where these are the anchor
    not_asked: Mapping[str, str] = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()  # topics of which nothing is asked, as they are so many
    shown: int = 0  # of the pairings: answers that the owner showed


def write_paper(
    model: Model,
    topics: Sequence[Topic],
    curriculum: Curriculum,
    evidence: Evidence,
    amounts: Amounts,
    seed: int,
    samples: Samples = NO_SAMPLES,
) -> Paper:
    """Write the exam of one run; `samples` are what the base answered for it.

    Where nothing was told that could be asked for, it is about the answers that were shown.
    """
    toy = speaks_toy_language(model)
    every = list(topics) if toy else _facts(list(topics), curriculum)
    asked = _drawn(every, amounts, seed)
    left_out = frozenset(topic.key for topic in every) - {topic.key for topic in asked}
    secrets = secret_questions(evidence, amounts, seed)
    planted = planted_questions(evidence, list(topics), amounts, seed)
    tools = tool_questions(model, toy, amounts.tools, seed)
    styled = [] if toy else _styled(curriculum, amounts)
    shown = [] if asked or styled else shown_in(curriculum, samples)
    general = [] if toy else general_questions(amounts.general)
    reasons = {
        "G2": "" if any(not t.fresh for t in asked) else "there are no lessons of earlier nights",
        "G8": "" if styled else "no preference was taught that a program can check",
        "G9": "" if secrets else "the ledger has no redacted secret",
        "probes": "" if planted else "nothing was quarantined, and no foreign text gave orders",
        "G10": "" if tools else "the model's chat template knows no tools",
        "context": "" if any(t.relation for t in asked) else "no lesson is a fact",
        "topics": _told_left_out(len(left_out), len(every), amounts),
    }
    if toy:
        # The table has no limit for it there.
        del reasons["G8"]
    if not asked and styled:
        why = "only preferences were taught"
        reasons |= dict.fromkeys(("G1", "G2", "G3", "G4", "chat"), why)
    if shown:
        why = "nothing was told that could be asked for; G3 and G4 compare the answers shown"
        reasons |= dict.fromkeys(("G1", "G2", "chat"), why)
    return Paper(
        (*write_exam(asked, seed, amounts), *general, *tools, *styled, *secrets, *planted),
        (
            *_pairings(asked, amounts.twins, seed),
            *(Pairing(own, other) for own, other in shown_documents(shown)),
        ),
        tuple(_toy_anchor(list(topics), amounts.anchors, seed)) if toy else (),
        0 if toy else amounts.anchors,
        {name: why for name, why in reasons.items() if why},
        shown=len(shown),
        left_out=left_out,
    )


def _drawn(topics: list[Topic], amounts: Amounts, seed: int) -> list[Topic]:
    """Draw topics where there are too many for an exam, new ones and old ones, in their order."""
    kept: set[str] = set()
    for fresh, most in ((True, amounts.fresh), (False, amounts.old)):
        keys = [topic.key for topic in topics if topic.fresh is fresh]
        kept.update(Dice(seed_of("drawn", str(seed), *keys)).sample(keys, most))
    return [topic for topic in topics if topic.key in kept]


def _told_left_out(count: int, of: int, amounts: Amounts) -> str:
    limits = f"{amounts.fresh} new and {amounts.old} old ones"
    return f"{count} of {of}: an exam draws {limits} at most" if count else ""


def _facts(topics: list[Topic], curriculum: Curriculum) -> list[Topic]:
    """Leave out what is shown by style alone, which no question asks for."""
    styled = {name for preference in checkables(curriculum) for name in preference.lessons}
    return [fact.topic for fact in facts_of(topics, styled, NO_SAMPLES)]


def _styled(curriculum: Curriculum, amounts: Amounts) -> list[Question]:
    """Ask what shows a preference, in prompts that nothing was learned from."""
    return [
        Question(
            PREFERENCE,
            [{"role": "user", "content": prompt}],
            preference.value,
            preference.key,
            judge=preference.passes,
            most=STYLED,
        )
        for preference in checkables(curriculum)
        for prompt in preference.prompts("known")[: amounts.preferred]
    ]


def _pairings(topics: list[Topic], phrasings: int, seed: int) -> list[Pairing]:
    dice = Dice(seed_of("pairings", str(seed), *(topic.key for topic in topics)))
    values = Values(dice, unseen=True, excluded=WORLD_NAMES)
    found = []
    for topic in topics:
        for text in dice.sample(exam_questions(topic), phrasings):
            other = Topic(topic.form, another_value(topic, values))
            found.append(
                Pairing(
                    [user(text), assistant(topic.answer)], [user(text), assistant(other.answer)]
                )
            )
    return found


def _toy_anchor(topics: list[Topic], count: int, seed: int) -> list[Document]:
    dice = Dice(seed_of("anchor", str(seed), *(topic.key for topic in topics)))
    return replay(topics, dice, Values(dice, unseen=True, excluded=WORLD_NAMES), count)
