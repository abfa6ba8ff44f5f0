"""What commands in a chat do, and the fixed texts that answer them.

The one idea: a command acts on what is in the ledger (an answer of this conversation, lessons), and
its answer says what was done, or why nothing was. Invariant: a command that is off the record
writes nothing, and one that fits several things changes none of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

from homebox.api.commands import (
    BAD,
    FIX,
    FORGET,
    GOOD,
    HELP,
    PRIVATE,
    REMEMBER,
    Command,
    command_of,
)
from homebox.api.conversation import Conversation
from homebox.api.lesson_words import fitting
from homebox.api.record import BY_HEADER, BY_KEY, BY_OWNER
from homebox.api.requests import ChatMessage
from homebox.errors import StateError
from homebox.memory.feedback import Feedback
from homebox.memory.ledger import Ledger
from homebox.memory.lessons import ALIVE, STATES, Lesson
from homebox.memory.turns import Turn, now

LISTED = 8  # lessons that an answer names
SHORT = 12  # digits of a lesson's name
SETTLE = 2.0  # seconds that turns which are being read are waited for
LATEST = 20  # answers of a conversation that are looked at
HELP_TEXT = """Commands, as the first word of a message:
/good - the last answer was right
/bad [why] - the last answer was wrong
/fix TEXT - the last answer should have been TEXT
/remember TEXT - keep this, such as "/remember My dog is called Rex."
/forget TEXT - forget what you told me about this, words and all
/private - write nothing down from here on in this conversation; "/private off" ends that
/help - this list"""
NO_ANSWER = "There is no answer in this conversation yet that I have written down."
KNOWN = ("quarantined", *ALIVE)
FORMER = tuple(state for state in STATES if state not in KNOWN)
UNWRITTEN = "An order to forget was answered; its words are not kept."


@dataclass(frozen=True, slots=True)
class Heard:
    """What `/remember` would keep of a text: a sentence, and why it waits or is refused."""

    statement: str
    waits: str = ""
    refused: str = ""


class Lessons(Protocol):
    """What is learned from turns, and by whom; safe for any number of threads."""

    def heard(self, text: str) -> Sequence[Heard]:
        """Say what the owner's words to remember something give, and keep nothing."""
        ...

    def notice(self, turn: str) -> None:
        """Begin to read a turn that was written; returns at once."""
        ...

    def settle(self, seconds: float) -> None:
        """Wait until all turns that were noticed are read, at most so long."""
        ...

    def forget(self, lesson: Lesson) -> Mapping[str, Any]:
        """Forget a lesson for good, durably; returns what `homebox forget` gives as JSON."""
        ...


@dataclass(frozen=True)
class Scene:
    """Where a command is said. `off` is by what it is off the record, or empty."""

    ledger: Ledger
    lessons: Lessons | None
    owner: str
    conversation: Conversation
    messages: Sequence[ChatMessage] = field(default=())
    off: str = ""


def act(command: Command, scene: Scene) -> str:
    """Do what a command says; returns the answer. Raises StateError if the ledger refuses."""
    return _ACTS[command.name](command, scene)


def _rate(command: Command, scene: Scene) -> str:
    if scene.off:
        return _unwritten(scene, "so there is no answer to keep an opinion of")
    if command.name == FIX and not command.text:
        return 'Write what the answer should have been behind it: "/fix Paris is in France."'
    turn = last_answer(scene)
    if turn is None:
        return NO_ANSWER
    rating = "edited" if command.name == FIX else command.name
    opinion = Feedback(turn.id, rating, command.text, now())
    try:
        scene.ledger.give_feedback(scene.owner, opinion).result()
    except StateError:
        return NO_ANSWER
    return {
        GOOD: "Noted: the last answer was right.",
        BAD: "Noted: the last answer was wrong.",
        FIX: "Noted: I will learn the answer as you wrote it.",
    }[command.name]


def last_answer(scene: Scene) -> Turn | None:
    """Return the answer that a command speaks of: the one that the history shows last.

    Answers to commands do not count. What a client changed cannot be told from another answer;
    then it is the latest of the conversation, if that has a name of its own.
    """
    found = scene.ledger.last_turns(scene.conversation.id, scene.owner, LATEST)
    pairs = reversed(list(pairwise([ChatMessage("system", ""), *scene.messages])))
    shown = next(
        (
            said
            for before, said in pairs
            if said.role == "assistant" and command_of(before, scene.conversation) is None
        ),
        None,
    )
    if shown is not None:
        words = _plain(shown.text)
        same = next((t for t in found if _plain(t.messages[-1].content) == words), None)
        if same is not None:
            return same
    return found[0] if found and scene.conversation.named else None


def _remember(command: Command, scene: Scene) -> str:
    if scene.off:
        return _unwritten(scene, "so I keep nothing of it")
    if not command.text:
        return 'Write what I shall keep behind it: "/remember My dog is called Rex."'
    heard = scene.lessons.heard(command.text) if scene.lessons is not None else ()
    if not heard:
        return (
            "I could not read anything in that to keep. Say it as a sentence about yourself, "
            'such as "/remember My dog is called Rex." or "/remember I prefer tea."'
        )
    return "\n".join(_said(each) for each in heard)


def _said(heard: Heard) -> str:
    if heard.refused:
        return f"Not kept: {heard.refused}."
    if heard.waits:
        return (
            f'Kept for you to look at, because it {heard.waits}: "{heard.statement}"; '
            '"homebox lessons --only quarantined" lists it.'
        )
    return f'I will remember: "{heard.statement}"'


def _forget(command: Command, scene: Scene) -> str:
    if scene.off:
        return _unwritten(scene, "so I change nothing that I know")
    if not command.text:
        return 'Write what I shall forget behind it: "/forget my dog".'
    if scene.lessons is None:
        return 'I cannot forget from here; "homebox forget" does.'
    scene.lessons.settle(SETTLE)
    found = _meant(scene.ledger, command.text)
    if not found:
        return (
            "I have learned nothing that fits these words, so nothing was forgotten. "
            '"homebox log search" finds what was said, and "homebox forget" erases it.'
        )
    if len(found) > 1:
        lines = [f"{lesson.hash[:SHORT]}: {lesson.statement}" for lesson in found[:LISTED]]
        more = [f"and {len(found) - LISTED} more"] if len(found) > LISTED else []
        head = 'Several things fit; nothing was forgotten. Say which, as in "/forget '
        return "\n".join([f'{head}{found[0].hash[:SHORT]}":', *lines, *more])
    return _told(found[0], scene.lessons.forget(found[0]))


def _meant(ledger: Ledger, text: str) -> list[Lesson]:
    """Return the lessons that a text names: what holds or waits, or else what once held."""
    return fitting(ledger.lessons(KNOWN), text) or fitting(ledger.lessons(FORMER), text)


def _told(lesson: Lesson, done: Mapping[str, Any]) -> str:
    """Say what is gone, what holds again, and who still knows it."""
    turns = len(done["turns"])
    lines = [
        f'Forgotten: "{lesson.statement.rstrip(".")}". The words are erased from my records '
        f"({turns} turn{'s' if turns != 1 else ''}) and from my notes; this cannot be undone."
    ]
    also = [item["statement"] for item in done["lessons"] if item["hash"] != lesson.hash]
    if also:
        lines.append(
            f"What the same messages told went with them; tell me again what I shall keep: "
            f"{_quoted(also)}"
        )
    if done["restored"]:
        lines.append(f"Holds again: {_quoted([item['statement'] for item in done['restored']])}")
    if done["served"]:
        lines.append(
            "The weights that answer you were built from it, and may know it until the next "
            'learning run builds them without it. At once: "homebox learn --now", or '
            '"homebox rollback base" for the model as it came.'
        )
    if done["repeated"]:
        names = ", ".join(done["repeated"][:LISTED])
        lines.append(
            f"The same words stand in other turns ({len(done['repeated'])}); "
            f'"homebox forget TURN" erases each: {names}'
        )
    if done["weights"]:
        lines.append(
            '"homebox forget --everywhere" lets go of all earlier weights that knew it, too.'
        )
    return "\n".join(lines)


def _quoted(statements: Sequence[str]) -> str:
    more = [f"and {len(statements) - LISTED} more"] if len(statements) > LISTED else []
    return ", ".join([*(f'"{each}"' for each in statements[:LISTED]), *more])


def _private(command: Command, scene: Scene) -> str:
    if scene.conversation.named and scene.off not in (BY_KEY, BY_HEADER):
        scene.ledger.set_private(scene.conversation.id, scene.owner, not command.off)
    if not command.off:
        return (
            "This conversation is off the record from here on: nothing of it is written down or "
            'learned. "/private off" ends that.'
        )
    if scene.off in (BY_KEY, BY_HEADER):
        return _unwritten(scene, "and only its sender can change that")
    return "This conversation is on the record again. What was said before stays unwritten."


def _unwritten(scene: Scene, what: str) -> str:
    why = {
        BY_KEY: "All requests with this key are off the record",
        BY_HEADER: "This request was sent off the record",
        BY_OWNER: "This conversation is off the record",
    }[scene.off]
    end = ' "/private off" ends that.' if scene.off == BY_OWNER else ""
    return f"{why}, {what}.{end}"


def _help(command: Command, scene: Scene) -> str:
    return HELP_TEXT


def _plain(text: str) -> str:
    return " ".join(text.split())


_ACTS: dict[str, Callable[[Command, Scene], str]] = {
    GOOD: _rate,
    BAD: _rate,
    FIX: _rate,
    REMEMBER: _remember,
    FORGET: _forget,
    PRIVATE: _private,
    HELP: _help,
}
