"""How a box stands, as people and programs are told: what it holds, and what it learned last.

Invariant: nothing here needs a model, so that who only asks waits for none to be imported.
"""

from collections.abc import Mapping
from typing import Any

from homebox.memory.lineage import Lineage
from homebox.memory.manifest import BASE
from homebox.memory.state import State


def memory_status(state: State) -> dict[str, Any]:
    """Count what a state holds, as plain JSON."""
    lessons: dict[str, int] = {}
    for lesson in state.ledger.lessons():
        lessons[lesson.state] = lessons.get(lesson.state, 0) + 1
    return {"state": str(state.path), "turns": state.ledger.count(), "lessons": lessons}


def learned_of(lineage: Lineage, base: str) -> dict[str, Any] | None:
    """Say what was learned last for a base: weights, time and number of lessons; None if nothing.

    `served` is false if these weights were left by a rollback, `gone` true if they were let go of.
    """
    history = lineage.history(base)
    if not history:
        return None
    last = history[-1]
    return {
        "weights": last.weights,
        "time": last.time,
        "lessons": len(last.lessons),
        "reason": last.reason,
        "served": last.weights == lineage.head(base),
        "gone": last.weights in lineage.gone(),
    }


def bare_line(lineage: Lineage, base: str) -> str:
    """Say that a base is served bare though the box learned something; "" if that is not so."""
    others = {line["base"] for line in lineage.reflog()} - {base}
    if lineage.head(base) != BASE or not others or lineage.checkpoints(base):
        return ""
    return (
        "what was learned belongs to another base model; "
        '"homebox learn --now" teaches it to this one'
    )


def notes_line(notes: Mapping[str, int]) -> str:
    """Say what lessons take of each prompt, and what the weights save."""
    lessons = "1 lesson" if notes["lessons"] == 1 else f"{notes['lessons']} lessons"
    return (
        f"{lessons} as notes ({notes['tokens']} tokens a request); "
        f"{notes['known']} known by the weights ({notes['saved_tokens']} tokens saved a request)"
    )
