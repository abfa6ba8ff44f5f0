"""Leaves out what is there twice, and what one source gives too much of.

The one idea: a topic that was told fifty times is not fifty times as much to learn, and one long
conversation is not what its owner is. Invariant: what is left out depends on the examples alone,
not on the order of the lessons that they came from.
"""

from collections import Counter

from homebox.learning.examples.example import (
    CONTEXT,
    CORRECTION,
    DEMONSTRATION,
    LESSON,
    NEGATIVE,
    PREFERENCE,
    Example,
    Examples,
)

# Examples of one source in a pool. A conversation shows a few turns; a topic has its phrasings.
CAPS = {LESSON: 24, NEGATIVE: 8, CONTEXT: 8, PREFERENCE: 24, CORRECTION: 4, DEMONSTRATION: 4}
TWICE, TOO_MANY = "there already", "more than one source may give"


def curated(examples: list[Example], exempt: str = "") -> Examples:
    """Keep each example once and at most so many of a source; `exempt` is a source without cap.

    The source that is exempt is kept as it is: its writer balances it.
    """
    kept: list[Example] = []
    left_out: Counter[str] = Counter()
    known: set[str] = set()
    counts: Counter[tuple[str, str]] = Counter()
    for example in _ordered(examples):
        if exempt and example.source == exempt:
            kept.append(example)
            continue
        group = (example.pool, example.source)
        if example.key in known:
            left_out[TWICE] += 1
        elif counts[group] >= CAPS.get(example.pool, len(examples)):
            left_out[TOO_MANY] += 1
        else:
            known.add(example.key)
            counts[group] += 1
            kept.append(example)
    return Examples(tuple(kept), left_out)


def _ordered(examples: list[Example]) -> list[Example]:
    """Put what was shown in the order of its content; what was written has an order already."""
    shown = [e for e in examples if e.pool in (CORRECTION, DEMONSTRATION)]
    written = [e for e in examples if e.pool not in (CORRECTION, DEMONSTRATION)]
    return [*written, *sorted(shown, key=lambda example: example.key)]
