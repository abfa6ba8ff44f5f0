"""Turns, lessons and a stand-in examinee for the tests of learning."""

from collections.abc import Generator, Sequence

from homebox.language.tools import TOOLS, call
from homebox.language.turns import Document
from homebox.learning.exam.examinee import Answer, Loss
from homebox.learning.exam.questions import Question
from homebox.learning.exam.writing import TOOL
from homebox.learning.lessons.harvest import Harvest, harvest
from homebox.learning.lessons.teach import Topic, topics_of
from homebox.memory.lessons import Lesson
from homebox.memory.turns import Message, Turn

OWNER = (
    "My dog is called Quark.",
    "I live in Zwolle.",
    "My favourite food is okonomiyaki.",
    "I get up at 5:45.",
    "Call me Captain.",
)


def turn(number: int, *messages: tuple[str, str, str] | str, conversation: str = "c") -> Turn:
    """Make a turn; a plain text is the owner's, and an answer is added."""
    said = [
        Message("user", item, "owner") if isinstance(item, str) else Message(*item)
        for item in messages
    ]
    if said[-1].role != "assistant":
        said.append(Message("assistant", "All right.", "assistant"))
    return Turn(
        id=f"turn_{number:024x}",
        conversation=conversation,
        time=f"2026-01-01T00:{number // 60:02}:{number % 60:02}.000Z",
        model="tiny",
        adapter="base",
        sampling={},
        messages=tuple(said),
        finish_reason="stop",
        prompt_tokens=1,
        completion_tokens=1,
    )


def told(*texts: str) -> Harvest:
    """Harvest texts of the owner, each in a turn of one conversation."""
    return harvest([turn(number, text) for number, text in enumerate(texts)])


def held(found: Harvest) -> dict[str, list[str]]:
    """Return what holds, by subject."""
    return {
        subject: [lesson.value for lesson in lessons] for subject, lessons in found.current.items()
    }


def lessons(*texts: str) -> list[Lesson]:
    """Return the lessons that hold after these texts."""
    return [lesson for kept in told(*texts).current.values() for lesson in kept]


def topics(*texts: str) -> list[Topic]:
    """Return the topics of these texts."""
    return topics_of(lessons(*(texts or OWNER)))


class Pupil:
    """Answers every question of an exam as expected, except where it is told to fail."""

    def __init__(
        self,
        wrong: dict[str, float] | None = None,
        divergence: float = 0.01,
        loss_rise: float = 0.0,
        after: float = 0.1,
        other_after: float = 2.0,
        answers: dict[str, str] | None = None,
    ) -> None:
        """`wrong` maps a check to the share of its questions that are answered badly.

        `after` and `other_after` are the loss of the owner's and of others' answers, that of the
        base is 1; `answers` are the candidate's answers by check where they matter.
        """
        self._wrong = wrong or {}
        self._answers = answers or {}
        self._asked: dict[str, int] = {}
        self._divergence = divergence, loss_rise
        self._losses = [after, other_after]
        self.asked: list[tuple[str, Question]] = []

    def answers(
        self, questions: Sequence[Question], adapter: str
    ) -> Generator[int, None, list[Answer]]:
        found = []
        for number, question in enumerate(questions):
            yield number
            self.asked.append((adapter, question))
            text = self._answer(question, adapter)
            found.append(Answer(text, len(text.split())))
        return found

    def _answer(self, question: Question, adapter: str) -> str:
        expected = good_answer(question)
        if adapter == "base":
            return expected
        if question.check in self._answers:
            return self._answers[question.check]
        share = self._wrong.get(question.check, 0.0)
        count = self._asked.get(question.check, 0)
        self._asked[question.check] = count + 1
        bad = int((count + 1) * share + 1e-9) > int(count * share + 1e-9)
        return "The moon is made of Nonsense." if bad else expected

    def divergence(
        self, documents: Sequence[Document], adapter: str
    ) -> Generator[None, None, tuple[float, float]]:
        yield
        return self._divergence

    def losses(
        self, documents: Sequence[Document], adapter: str
    ) -> Generator[None, None, list[Loss]]:
        yield
        nats = 1.0 if adapter == "base" else self._losses.pop(0)
        return [Loss(nats, 4) for _ in documents]


def good_answer(question: Question) -> str:
    """Answer as is expected, also where a tool is to be called."""
    if question.check == TOOL:
        tool = next(tool for tool in TOOLS if tool.name == question.expected)
        return call(tool, "Oslo")
    return question.expected or "I do not know that."
