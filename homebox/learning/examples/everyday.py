"""Writes examples for a model that was brought: facts, preferences, and what it said before.

The one idea: what must stay is what the model itself answers to prompts of everyday use, so the
anchor is sampled from it. Invariant: an answer of the base that goes against what the owner
prefers is no anchor, unless nearly all of them do.
"""

from homebox.language.preferences import Preference as Greeting
from homebox.language.relation import Relation
from homebox.learning.curriculum import Curriculum
from homebox.learning.examples.example import (
    PREFERENCE,
    REPLAY,
    Example,
    Messages,
    context_only,
    target,
)
from homebox.learning.examples.facts import FEWEST, Fact, contexts, hint_of, lessons, negatives
from homebox.learning.examples.not_told import untold_relations
from homebox.learning.examples.samples import OWNED, SHIPPED, STYLED, Sample, Samples
from homebox.learning.lessons.teach import Topic
from homebox.learning.preferences import Checkable, checkable
from homebox.memory.lessons import Lesson

PHRASINGS = 12
MOST = 6000  # examples of facts in a run; with more topics each has fewer
FEWEST_KEPT = 32  # anchors, however much the owner prefers another style
TALKS = 24  # conversations that stand before a question


def everyday_examples(
    topics: list[Topic], curriculum: Curriculum, seed: int, samples: Samples
) -> list[Example]:
    """Write the examples of facts and preferences, and the anchor."""
    preferences = checkables(curriculum)
    styled = {name for preference in preferences for name in preference.lessons}
    facts = facts_of(topics, styled, samples)
    untold = untold_relations(topics)
    count = max(FEWEST, min(PHRASINGS, MOST // max(1, len(facts))))
    written: list[Example] = []
    for fact in facts:
        written += lessons(fact, seed, count)
        written += negatives(fact, untold, seed)
        written += contexts(fact, untold, seed)
    written += [each for preference in preferences for each in styled_examples(preference, samples)]
    return written + anchors(samples, preferences)


def checkables(curriculum: Curriculum) -> list[Checkable]:
    """Find the preferences that a program can check, one a subject, sorted."""
    groups: dict[str, list[Lesson]] = {}
    for lesson in curriculum.lessons:
        if not lesson.body:
            groups.setdefault(lesson.subject, []).append(lesson)
    found = [checkable(tuple(group)) for _, group in sorted(groups.items())]
    return [preference for preference in found if preference is not None]


def facts_of(topics: list[Topic], styled: set[str], samples: Samples) -> list[Fact]:
    """Return the topics that are asked for; what is shown by style alone is none of them."""
    talk = tuple(
        [*sample.messages, target(sample.answer)] for sample in samples.of(SHIPPED)[:TALKS]
    )
    facts = []
    for topic in topics:
        form = topic.form
        if isinstance(form, Greeting) or styled.issuperset(topic.lessons):
            continue
        if isinstance(form, Relation):
            facts.append(Fact(topic, form, talk))
    return facts


def styled_examples(preference: Checkable, samples: Samples) -> list[Example]:
    """Return what the base answered with the preference in its prompt, where it kept to it."""
    hint = hint_of(*preference.statements)
    return [
        Example(_whole(sample), PREFERENCE, preference.key, hint)
        for sample in samples.of(STYLED, preference.name)
        if preference.passes(sample.answer)
    ]


def anchors(samples: Samples, preferences: list[Checkable]) -> list[Example]:
    """Return the base's answers to what touches no lesson, without those the owner would mind."""
    found = [sample for purpose in (SHIPPED, OWNED) for sample in samples.of(purpose)]
    found = [sample for sample in found if sample.answer.strip()]
    ranked = sorted(found, key=lambda s: sum(p.minds(s.answer) for p in preferences))
    welcome = sum(not any(p.minds(s.answer) for p in preferences) for s in found)
    return [
        Example(_whole(sample), REPLAY, sample.purpose, anchored=True)
        for sample in ranked[: max(welcome, FEWEST_KEPT)]
    ]


def _whole(sample: Sample) -> tuple[dict[str, object], ...]:
    before: Messages = context_only(sample.messages)
    return (*before, target(sample.answer))
