"""What an exam asks of answers that the owner showed, where nothing was told that could be asked.

The one idea: a shown answer is compared with another one to the same prompt, the one that was wrong
if that is known, behind the prompt as it was never learned: typed in another way. Invariant: what
is not learned is not asked, so opinions that are too few for training are none here.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from homebox.language.phrasing import lower_first
from homebox.language.turns import Document, Turn, assistant, user
from homebox.learning.curriculum import Curriculum, Messages
from homebox.learning.examples.samples import HINDSIGHT, NO_SAMPLES, Samples
from homebox.learning.examples.shown import bodies
from homebox.learning.training.choices import FEWEST_PAIRS, FEWEST_THUMBS

ELSE = "I am not sure what you mean by that."  # in place of an answer that nobody knows
ROLES = ("system", "user", "assistant")


class Shown(NamedTuple):
    """An answer that was shown, what it answers, and the one that was wrong ("" if unknown)."""

    messages: Messages
    answer: str
    wrong: str = ""


def shown_in(curriculum: Curriculum, samples: Samples = NO_SAMPLES) -> list[Shown]:
    """List the answers that a run learns from what was shown, each once.

    `samples` have what the base answers by hindsight.
    """
    found: dict[str, Shown] = {}
    for each in _shown(curriculum, samples):
        if each.answer.strip() and each.answer != each.wrong and _plain(each.messages):
            found.setdefault(repr((each.messages, each.answer)), each)
    return list(found.values())


def teaches(curriculum: Curriculum) -> bool:
    """Say whether a run may learn anything from what was shown."""
    corrected = any(body.get("remark") for _, body in bodies(curriculum, "correction"))
    return corrected or bool(shown_in(curriculum))


def opinions_too_few(curriculum: Curriculum) -> str:
    """Say why opinions alone are not learned; empty if there are none, or enough."""
    pairs, thumbs = len(curriculum.pairs), len(curriculum.thumbs)
    if not pairs and not thumbs:
        return ""
    return (
        f"there is nothing to learn yet: {pairs + thumbs} opinions say nothing that could be "
        f"learned by themselves, as that takes {FEWEST_PAIRS} pairs of answers, or "
        f'{FEWEST_THUMBS} opinions with good ones among them; "/good" and "/fix TEXT" teach at once'
    )


def shown_documents(shown: list[Shown]) -> list[tuple[Document, Document]]:
    """Write each shown answer, and another one to the same prompt, for their losses."""
    pairs = []
    for place, each in enumerate(shown):
        others = (other.answer for other in (*shown[place + 1 :], *shown[:place]))
        wrong = each.wrong or next((text for text in others if text != each.answer), ELSE)
        talk = _asked_otherwise(each.messages)
        pairs.append(([*talk, assistant(each.answer)], [*talk, assistant(wrong)]))
    return pairs


def _shown(curriculum: Curriculum, samples: Samples) -> Iterator[Shown]:
    for _, body in bodies(curriculum, "demonstration"):
        answer = body.get("answer")
        text = answer.get("content") if isinstance(answer, dict) else answer
        yield Shown(body["messages"], str(text or ""))
    for lesson, body in bodies(curriculum, "correction"):
        guessed = (sample.answer for sample in samples.of(HINDSIGHT, lesson.hash))
        answer = str(body.get("answer") or next(guessed, ""))
        yield Shown(body["messages"], answer, str(body.get("bad") or ""))
    if len(curriculum.pairs) >= FEWEST_PAIRS:
        yield from (Shown(each.messages, each.chosen, each.rejected) for each in curriculum.pairs)
    if len(curriculum.thumbs) >= FEWEST_THUMBS:
        good = (each for each in curriculum.thumbs if each.good)
        yield from (Shown(each.messages, each.answer) for each in good)


def _plain(messages: Messages) -> bool:
    """Whether a talk can be compared: words alone, the user's last."""
    return (
        bool(messages)
        and messages[-1].get("role") == "user"
        and all(each.get("role") in ROLES and not each.get("tool_calls") for each in messages)
        and all(isinstance(each.get("content"), str) for each in messages)
    )


def _asked_otherwise(messages: Messages) -> Document:
    """Return a talk whose last question is typed as no example has it."""
    talk = [_turn(each) for each in messages]
    text = talk[-1].content
    hurried = lower_first(text).rstrip("?.!")
    return [*talk[:-1], user(hurried if hurried.strip() and hurried != text else f"So, {text}")]


def _turn(message: dict[str, Any]) -> Turn:
    return Turn(str(message["role"]), str(message["content"]))
