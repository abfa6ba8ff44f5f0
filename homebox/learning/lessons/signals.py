"""What the owner thought of answers, from what was said outright and from how the talk went on.

The one idea: an answer is liked or disliked by what follows it: an opinion, a better text, another
try, "no, I said ...", or the same request in other words. Silence and thanks mean nothing.
Invariants: an answer that was corrected is never a target; an answer that was made with words of
tools, files or web pages in sight is one only after the owner approved it; all of it follows from
the turns that are there, so what is forgotten leaves nothing behind.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from homebox.learning.curriculum import Messages, Pair, Thumb
from homebox.learning.lessons.harvest import FOREIGN, told_by
from homebox.learning.reading.guard import secret_in, suspicion
from homebox.learning.reading.remembering import command_of
from homebox.learning.reading.rules import announces_correction, read_message
from homebox.memory.clients import CHAT
from homebox.memory.feedback import Feedback
from homebox.memory.lessons import Lesson
from homebox.memory.provenance import ASSISTANT, SYSTEM, may_teach
from homebox.memory.store import canonical_json
from homebox.memory.turns import Message, Turn

REGENERATED = 0.5  # weights of LEARNING's table of signals
REPHRASED = 0.3
ALIKE = 0.6  # share of words in common from which a request is the last one again
FEW = 4  # words below which two requests are not compared
MOST_MESSAGES = 8  # of the talk before an answer that are kept with it
MOST_TEXT = 4_000  # characters of them
MOST_PROMPTS = 64
_PROMPT = range(8, 300)  # characters of an earlier question that may be an anchor
T = TypeVar("T")
_ENDED = ("stop", "tool_calls", "length")
_WORD = re.compile(r"[\w']+")
_PLAIN = frozenset(
    "the and for are was you your what which who how why when where can could will would should "
    "does did have has had this that with from about into please name favourite favorite number "
    "one two time note answer".split()
)


@dataclass(frozen=True)
class Signals:
    """What opinions give a learning run."""

    pairs: tuple[Pair, ...] = ()
    thumbs: tuple[Thumb, ...] = ()
    lessons: tuple[Lesson, ...] = ()  # demonstrations and corrections by hindsight
    prompts: tuple[str, ...] = ()


NO_SIGNALS = Signals()


@dataclass
class _Said:
    """An answer, and what was said before it."""

    turn: Turn  # without its prompt
    asked: str  # what the owner typed
    before: list[Message]  # the talk up to the answer
    foreign: bool  # whether words of others were in sight
    place: tuple[int, int]  # of its conversation among all, of itself in that


@dataclass
class _Talk:
    number: int
    messages: list[Message] = field(default_factory=list)  # the last ones
    prompt: int = 0  # hash of the last one
    foreign: bool = False
    count: int = 0  # answers so far
    said: list[_Said] = field(default_factory=list)  # those that what follows may still judge


class Listener:
    """Reads turns in order and judges them; hold one for each learning run.

    Of each conversation only the end is held on to, so a long ledger takes little memory.
    """

    def __init__(self, feedback: Iterable[Feedback] = ()) -> None:
        """`feedback` are the opinions about the turns that will be read."""
        self._opinions = {item.turn: item for item in feedback}
        self._talks: dict[str, _Talk] = {}
        self._found = _Found()
        self._asked: set[str] = set()

    def read(self, turn: Turn) -> None:
        """Add a turn to its conversation."""
        if turn.kind != CHAT or not turn.messages or turn.messages[-1].role != "assistant":
            return
        name = turn.conversation or turn.id
        talk = self._talks.setdefault(name, _Talk(len(self._talks)))
        new = [item for item in turn.messages[:-1] if item.role != "system"]
        prompt = hash(turn.prompt) if turn.prompt else 0
        again = bool(talk.said) and bool(turn.prompt) and talk.prompt == prompt
        talk.prompt, place = prompt, (talk.number, talk.count)
        talk.count += 1
        if again:  # the same request: its answer takes the place of the one before
            last = talk.said[-1]
            talk.messages[-1] = turn.messages[-1]
            said = _Said(_light(turn), last.asked, last.before, last.foreign, place)
        else:
            typed = []
            for message in new:
                if message.role == "user" and may_teach(message.provenance):
                    words, foreign = told_by(message, turn.conversation)
                    typed.append(words)
                    talk.foreign |= bool(foreign.strip())
                else:
                    talk.foreign |= message.provenance not in (ASSISTANT, SYSTEM)
            talk.messages += new
            asked = "\n".join(typed).strip()
            said = _Said(_light(turn), asked, _window(talk.messages), talk.foreign, place)
            talk.messages = [*talk.messages, turn.messages[-1]][-MOST_MESSAGES:]
        if len(said.asked) in _PROMPT:
            self._asked.add(said.asked)
        talk.said.append(said)
        if len(talk.said) > 2:  # what comes later says nothing about the first of them
            self._judge(*talk.said)
            talk.said.pop(0)

    def signals(self, lessons: Sequence[Lesson] = ()) -> Signals:
        """Say what all that was read gives; `prompts` touch none of the owner's `lessons`.

        Call it or `lessons` once, when everything was read.
        """
        return Signals(*self._all().in_order(), _prompts(self._asked, lessons))

    def lessons(self) -> tuple[Lesson, ...]:
        """Return the lessons of `signals` alone, which takes much less than to choose prompts."""
        return _sorted(self._all().lessons)

    def _all(self) -> "_Found":
        """Judge the answers that nothing followed any more, too."""
        for talk in self._talks.values():
            for place, said in enumerate(talk.said):
                self._judge(said, *talk.said[place + 1 :])
        return self._found

    def _judge(self, said: _Said, following: _Said | None = None, *later: _Said) -> None:
        opinion = self._opinions.get(said.turn.id)
        if opinion is not None:
            _outright(self._found, said, opinion)
        elif following is not None:
            _implied(self._found, said, following, bool(later))


def _light(turn: Turn) -> Turn:
    """Return a turn with nothing but its answer."""
    return dataclasses.replace(turn, prompt=(), messages=turn.messages[-1:], token_ids=())


@dataclass
class _Found:
    """What was found, each with its place."""

    pairs: list[tuple[tuple[int, int], Pair]] = field(default_factory=list)
    thumbs: list[tuple[tuple[int, int], Thumb]] = field(default_factory=list)
    lessons: list[tuple[tuple[int, int], Lesson]] = field(default_factory=list)

    def in_order(self) -> tuple[tuple[Pair, ...], tuple[Thumb, ...], tuple[Lesson, ...]]:
        """Return all of it, one conversation after the other."""
        return _sorted(self.pairs), _sorted(self.thumbs), _sorted(self.lessons)


def _sorted(found: list[tuple[tuple[int, int], T]]) -> tuple[T, ...]:
    return tuple(item for _, item in sorted(found, key=lambda each: each[0]))


def _outright(found: _Found, said: _Said, opinion: Feedback) -> None:
    """Read an opinion that was given as one."""
    answer = said.turn.messages[-1]
    if opinion.rating == "good":
        found.lessons.append((said.place, _demonstration(said, opinion.time)))
        if not said.foreign and answer.content:
            found.thumbs.append((said.place, Thumb(_chat(said.before), answer.content, good=True)))
        return
    if answer.content and opinion.rating == "bad":
        found.thumbs.append((said.place, Thumb(_chat(said.before), answer.content, good=False)))
    if opinion.rating == "edited" and not said.foreign and not secret_in(opinion.text):
        found.pairs.append((said.place, Pair(_chat(said.before), opinion.text, answer.content)))
    if opinion.text and not secret_in(opinion.text):
        right = opinion.text if opinion.rating == "edited" else ""
        found.lessons.append(
            (said.place, _hindsight(said, (said.turn.id,), opinion.text, opinion.time, right))
        )


def _implied(found: _Found, said: _Said, following: _Said, went_on: bool) -> None:
    """Read what the owner thought from what came next."""
    answer, other = said.turn.messages[-1].content, following.turn.messages[-1].content
    if said.turn.finish_reason not in _ENDED or not answer:
        return
    if following.before is said.before:
        # Asked for another answer, and went on from that one.
        if went_on and other and other != answer and not said.foreign:
            found.pairs.append((said.place, Pair(_chat(said.before), other, answer, REGENERATED)))
        return
    remark = following.asked
    if not remark or command_of(remark)[0]:
        return
    corrected = announces_correction(remark)
    if not (corrected or _alike(said.asked, remark)) or secret_in(remark):
        return
    if corrected:
        ids = (said.turn.id, following.turn.id)
        found.lessons.append((said.place, _hindsight(said, ids, remark, following.turn.time)))
    else:
        found.thumbs.append(
            (said.place, Thumb(_chat(said.before), answer, good=False, weight=REPHRASED))
        )


def _demonstration(said: _Said, time: str) -> Lesson:
    """Make a lesson of an answer that was as it should be."""
    chat = _shown(said.turn.messages[-1])
    offered = json.loads(said.turn.offered).get("tools", []) if said.turn.offered else []
    body = {"answer": chat, "messages": _chat(said.before), "tools": offered}
    value = said.turn.messages[-1].content or "a call of a tool"
    return _lesson("demonstration", said, (said.turn.id,), time, "a good answer", value, body)


def _hindsight(
    said: _Said, ids: tuple[str, ...], remark: str, time: str, right: str = ""
) -> Lesson:
    """Make a lesson of an answer that was wrong, and of what the owner said to it."""
    body: dict[str, Any] = {
        "bad": said.turn.messages[-1].content,
        "messages": _chat(said.before),
        "remark": remark,
    }
    if right:
        body["answer"] = right
    return _lesson("correction", said, ids, time, remark, right or remark, body)


def _lesson(
    kind: str,
    said: _Said,
    ids: tuple[str, ...],
    time: str,
    statement: str,
    value: str,
    body: dict[str, Any],
) -> Lesson:
    topic = " ".join(said.asked.split())
    name = hashlib.sha256(canonical_json(_chat(said.before))).hexdigest()[:12]
    reason = FOREIGN if said.foreign else suspicion(said.asked) or suspicion(value) or ""
    secret = secret_in(value) or secret_in(canonical_json(body).decode())
    return Lesson(
        kind=kind,
        subject=f"answer to {topic[:60]!r} ({name})",
        statement=" ".join(statement.split())[:200],
        value=" ".join(value.split())[:200],
        sources=ids,
        state="quarantined" if reason or secret else "new",
        time=time,
        origin="feedback",
        reason=reason or ("may hold a secret" if secret else ""),
        body=canonical_json(body).decode(),
    )


def _window(messages: Sequence[Message]) -> list[Message]:
    """Return the last messages of a talk, as many as are short enough; the first is a user's."""
    kept: list[Message] = []
    room = MOST_TEXT
    for message in reversed(messages[-MOST_MESSAGES:]):
        room -= len(message.content)
        if room < 0 and kept:
            break
        kept.append(message)
    kept.reverse()
    while len(kept) > 1 and kept[0].role != "user":
        kept.pop(0)
    return kept


def _chat(messages: Iterable[Message]) -> Messages:
    return [_shown(message) for message in messages]


def _shown(message: Message) -> dict[str, Any]:
    """Return a message as a chat format renders it, without what only the ledger needs."""
    known = ("role", "content", "tool_calls", "tool_call_id", "name")
    return {name: value for name, value in message.as_chat().items() if name in known}


def _alike(one: str, other: str) -> bool:
    """Say whether a request is the last one in other words."""
    words, others = set(_words(one)), set(_words(other))
    if min(len(words), len(others)) < FEW or one == other:
        return False
    return len(words & others) / len(words | others) >= ALIKE


def _words(text: str) -> list[str]:
    return _WORD.findall(text[:MOST_TEXT].casefold())


def _prompts(asked: Iterable[str], lessons: Sequence[Lesson]) -> tuple[str, ...]:
    """Choose earlier questions that touch no lesson, by their hashes alone."""
    touchy = {
        word.removesuffix("'s")
        for lesson in lessons
        if not lesson.body  # these are about answers, and made of questions themselves
        for word in _words(f"{lesson.subject} {lesson.value}")
    } - _PLAIN
    fits: Callable[[str], bool] = lambda text: (  # noqa: E731
        len(text) in _PROMPT
        and "\n" not in text
        and not command_of(text)[0]
        and not any(word.removesuffix("'s") in touchy for word in _words(text) if len(word) > 2)
        and not secret_in(text)
        and suspicion(text) is None
        and not read_message(text)
    )
    # One after the other, as to look at a text takes a while.
    found = islice(filter(fits, sorted(set(asked), key=_name)), MOST_PROMPTS)
    return tuple(sorted(found))


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def listen(
    turns: Iterable[Turn], feedback: Iterable[Feedback], lessons: Sequence[Lesson] = ()
) -> Signals:
    """Read all turns and judge them."""
    listener = Listener(feedback)
    for turn in turns:
        listener.read(turn)
    return listener.signals(lessons)
