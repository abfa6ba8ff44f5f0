"""Examples from what the owner showed: answers put right by hindsight, and turns that were good.

The one idea: the owner's remark says what the answer should have been told before, so the base
answers again with it in its prompt, and the answer is learned without it. Invariant: the answer
that was wrong is never a target, and of a conversation only its last answer is one.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from homebox.learning.curriculum import Curriculum
from homebox.learning.examples.example import (
    CORRECTION,
    DEMONSTRATION,
    Example,
    Message,
    Messages,
    context_only,
    target,
)
from homebox.learning.examples.samples import HINDSIGHT, Samples
from homebox.memory.lessons import Lesson
from homebox.memory.store import canonical_json


def remark_hint(remark: str) -> str:
    """Write the owner's remark as a teacher reads it before it answers."""
    return (
        "An earlier answer to this was wrong. The user then said:\n"
        f"- {' '.join(remark.split())}\n"
        "Answer so that this is right, without mentioning the earlier answer."
    )


def corrections(curriculum: Curriculum, samples: Samples) -> list[Example]:
    """Return each conversation with the answer that it should have had."""
    examples = []
    for lesson, body in bodies(curriculum, "correction"):
        own = body.get("answer")
        answers = [sample.answer for sample in samples.of(HINDSIGHT, lesson.hash)]
        answer = own if isinstance(own, str) and own.strip() else next(iter(answers), "")
        if not answer.strip() or _same(answer, str(body.get("bad", ""))):
            continue
        messages = (*context_only(body["messages"]), target(answer))
        hint = remark_hint(str(body.get("remark") or lesson.statement))
        examples.append(Example(messages, CORRECTION, source_of(body["messages"]), hint))
    return examples


def demonstrations(curriculum: Curriculum) -> list[Example]:
    """Return each turn that the owner took for good, calls of tools included."""
    examples = []
    for _, body in bodies(curriculum, "demonstration"):
        answer = body.get("answer")
        if isinstance(answer, str):
            answer = target(answer)
        if not isinstance(answer, dict) or not (answer.get("content") or answer.get("tool_calls")):
            continue
        last: Message = {**answer, "role": "assistant", "train": True}
        messages = (*context_only(body["messages"]), last)
        tools = tuple(body.get("tools") or ())
        examples.append(Example(messages, DEMONSTRATION, source_of(body["messages"]), tools=tools))
    return examples


def bodies(curriculum: Curriculum, kind: str) -> Iterator[tuple[Lesson, dict[str, Any]]]:
    """Yield the lessons of a kind that show a conversation, with what they show.

    A body that cannot be read teaches nothing.
    """
    for lesson in curriculum.lessons:
        if lesson.kind != kind or not lesson.body:
            continue
        try:
            body = json.loads(lesson.body)
        except ValueError:
            continue
        if isinstance(body, dict) and _readable(body.get("messages")):
            yield lesson, body


def source_of(messages: Messages) -> str:
    """Name the conversation that messages belong to: those of one begin alike."""
    first = next((item for item in messages if item.get("role") == "user"), {})
    return "conversation " + hashlib.sha256(canonical_json(first.get("content"))).hexdigest()


def _readable(messages: object) -> bool:
    return (
        isinstance(messages, list)
        and bool(messages)
        and all(isinstance(item, dict) and isinstance(item.get("role"), str) for item in messages)
    )


def _same(one: str, other: str) -> bool:
    return " ".join(one.split()).casefold() == " ".join(other.split()).casefold()
