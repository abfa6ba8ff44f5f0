"""A model that answers by script, so that whole learning runs can be tested without a compiler."""

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from homebox.engine.runtime.stop_flag import StopFlag
from homebox.language.tools import TOOLS, call
from homebox.learning.exam.paper import Paper
from homebox.learning.exam.writing import TOOL, Question
from homebox.learning.examples import messages_of
from homebox.learning.training.opinions import Opinions
from homebox.learning.training.recipes import Recipe
from homebox.model.architectures.config_file import parse_config
from homebox.model.chat.formats import Rendered
from homebox.model.config import ModelConfig
from homebox.model.generation.request import GenerationRequest
from homebox.model.training.distillation import TOP
from homebox.model.training.teacher import Asked, Opinion
from homebox.model.training.trainer import Batch, StepResult

Mind = Callable[[Question, str], str]


@dataclass
class Piece:
    text: str
    token_ids: tuple[int, ...] = (0,)
    finish_reason: str | None = None


class FakeSequence:
    def __init__(self, text: str) -> None:
        self._pieces = text.split(" ")
        self._at = 0
        self.closed = False
        self.reading = False

    @property
    def finished(self) -> bool:
        return self._at >= len(self._pieces)

    def step(self, most: int = 0) -> Piece:
        self._at += 1
        text = (" " if self._at > 1 else "") + self._pieces[self._at - 1]
        return Piece(text, finish_reason="stop" if self.finished else None)

    def close(self) -> None:
        self.closed = True


class FakeAdapters:
    def __init__(self) -> None:
        self.resident: dict[str, Mapping[str, Any]] = {}

    def add(self, name: str, tensors: Mapping[str, Any], alpha: float = 32.0) -> None:
        self.resident[name] = tensors

    def remove(self, name: str) -> None:
        from homebox.errors import ModelNotFoundError

        if name not in self.resident:
            raise ModelNotFoundError(name)
        del self.resident[name]

    def names(self) -> list[str]:
        return list(self.resident)


class FakeChat:
    """Makes one id of every word."""

    def __init__(self) -> None:
        self.words: dict[str, int] = {}
        self.prompts: dict[tuple[int, ...], str] = {}

    def render(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> list[int]:
        ids = self.render_training(messages).ids
        self.prompts[tuple(ids)] = key_of(messages)
        return ids

    def render_training(self, messages: Sequence[Mapping[str, Any]]) -> Rendered:
        ids: list[int] = []
        mask: list[bool] = []
        for message in messages:
            words = [f"<{message['role']}>", *message["content"].split(), "<end>"]
            learn = message["role"] == "assistant" and message.get("train", True)
            ids += [self.words.setdefault(word, len(self.words)) for word in words]
            mask += [False] + [learn] * (len(words) - 1)
        return Rendered(ids, mask, ())


def by_heart(question: Question, adapter: str) -> str:
    """Answer as is expected."""
    if question.check == TOOL:
        tool = next(tool for tool in TOOLS if tool.name == question.expected)
        return call(tool, "Oslo")
    return question.expected


def key_of(messages: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps([[message["role"], message["content"]] for message in messages])


class FakeModel:
    """Answers the questions of an exam as `mind` says.

    Its logits are the same for all adapters, but that what the owner told is expected by all of
    them except the base.
    """

    name = "tiny"
    base_hash = "b" * 64
    context = 4096

    def __init__(self, mind: Mind | None = None, drift: float = 0.0) -> None:
        self.mind = mind or by_heart
        self.drift = drift
        self.interrupt = StopFlag()
        self.chat = FakeChat()
        self.adapters = FakeAdapters()
        self.questions: dict[str, Question] = {}
        self.sequences: list[FakeSequence] = []
        self.told: set[tuple[int, ...]] = set()
        self.forgotten = 0
        self.slots = SimpleNamespace(count=8)
        self.tokenizer = SimpleNamespace(special={}, settings=SimpleNamespace(template=""))
        self.kept, self.type, self.placement = "", "f32", None
        self.config: ModelConfig = parse_config(
            {
                "model_type": "llama",
                "vocab_size": 64,
                "hidden_size": 8,
                "intermediate_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "max_position_embeddings": 4096,
                "rms_norm_eps": 1e-5,
            }
        )

    def reserve(self) -> bool:
        return False

    def missing(self) -> None:
        return None

    def passed(
        self, ids: Sequence[int], adapter: str = "base"
    ) -> Generator[tuple[int, np.ndarray], None, None]:
        logits = self.logits(ids, adapter)
        for at in range(0, len(ids), 8):
            yield at, logits[at : at + 8]

    def forget_copies(self) -> None:
        self.forgotten += 1

    def learn(self, paper: Paper) -> None:
        """Hear what will be asked, and what of it the owner told."""
        self.questions = {key_of(question.messages): question for question in paper.questions}
        own = (self.chat.render_training(messages_of(each.own)).ids for each in paper.pairings)
        self.told = {tuple(ids) for ids in own}

    def start(self, request: GenerationRequest) -> FakeSequence:
        assert request.adapter == "base" or request.adapter in self.adapters.resident
        assert request.owner is None  # exams share nothing
        prompt = self.chat.prompts[tuple(request.prompt_ids)]
        question = self.questions.get(prompt) or Question("", [], "All right.")
        self.sequences.append(FakeSequence(self.mind(question, request.adapter)))
        return self.sequences[-1]

    def step(self, sequences: Sequence[FakeSequence]) -> list[Piece]:
        return [sequence.step() for sequence in sequences]

    def logits(self, ids: Sequence[int], adapter: str = "base") -> np.ndarray:
        size = len(self.chat.words)
        logits = np.random.default_rng(len(ids)).standard_normal((len(ids), size))
        if adapter != "base":
            logits += self.drift * np.random.default_rng(1).standard_normal(logits.shape)
            if tuple(ids) in self.told:
                logits[np.arange(len(ids) - 1), ids[1:]] += 20.0
        return logits.astype(np.float32)


class FakeTrainer:
    """Counts its steps; the tensors that it returns follow from seed, rate and steps."""

    made: ClassVar["list[FakeTrainer]"] = []
    loss = 0.5

    def __init__(
        self,
        model: object,
        rank: int,
        alpha: float,
        rows: int,
        length: int,
        seed: int,
        parts: int = 1,
        numerics: str = "f32",
        **more: Any,
    ) -> None:
        self.parts = parts
        self.numerics = numerics
        self.rank, self.seed, self.shape = rank, seed, (rows, length)
        self.rates: list[float] = []
        self.anchors: list[float] = []
        FakeTrainer.made.append(self)

    def steps(self, batch: Batch, rate: float, stop: StopFlag) -> Generator[None, None, StepResult]:
        yield from ()  # nobody interrupts
        return self.step(batch, rate)

    def step(self, batch: Batch, rate: float) -> StepResult:
        assert batch.ids.shape == self.shape
        self.rates.append(rate)
        assert batch.teaching is not None
        self.anchors.append(float(batch.teaching.anchor.sum()))
        return StepResult(FakeTrainer.loss, 0.01, 1.0)

    def state(self) -> dict[str, np.ndarray]:
        return {"rates": np.array(self.rates)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        self.rates = [float(rate) for rate in state["rates"]]

    def adapter(self) -> dict[str, np.ndarray]:
        dice = np.random.default_rng([self.seed, len(self.rates), int(max(self.rates) * 1e6)])
        shapes = {"layers.0.q.A": (self.rank, 8), "layers.0.q.B": (8, self.rank)}
        return {name: dice.random(shape, dtype=np.float32) for name, shape in shapes.items()}


class FakeTeacher:
    """Has no opinion."""

    def opinions(
        self, documents: Sequence[Asked], stop: StopFlag
    ) -> Generator[None, None, list[Opinion]]:
        yield from ()  # nobody interrupts
        shapes = [(len(document.places), TOP) for document in documents]
        return [Opinion(np.full(s, -1, np.int32), np.zeros(s, np.float32)) for s in shapes]


def fake_opinions(model: object, recipe: Recipe) -> Opinions:
    """Stand for `opinions_of`."""
    return Opinions(FakeTeacher(), recipe.distil, recipe.kl)  # type: ignore[arg-type]
