"""A box in this process: a state in a temporary folder, a loaded model, the real learner and gate.

The one idea: everything goes the way that it goes in a daemon, without the daemon: turns through
the ledger with the provenance that the API writes, nights through `learner.run`, answers through
the model's own chat format. Invariant: no answer is asked for in a conversation that tells it,
unless an arm's prompt says so.
"""

import contextlib
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.owner.chats import Conversation
from homebox import learner
from homebox.config import Config
from homebox.language.turns import Document
from homebox.learning.checkpoint import load_adapter
from homebox.learning.examples import messages_of
from homebox.learning.report import Progress, Report
from homebox.memory.provenance import provenance_of
from homebox.memory.state import State, open_state
from homebox.memory.turns import Message
from homebox.model import GenerationRequest, Model, SamplingParams
from homebox.model.adapters import BASE

Messages = list[dict[str, Any]]

MAX_ANSWER = 48
TOGETHER = 6  # answers


@dataclass(frozen=True)
class Answer:
    """One answer, and what it cost."""

    text: str
    prompt_tokens: int
    first: float  # seconds to the first piece
    seconds: float


@dataclass
class Box:
    """One owner's state beside a model that several boxes may share."""

    model: Model
    state: State
    settings: Config = field(default_factory=Config)
    adapter: str = BASE
    seconds: float = 0.0  # of all learning

    def tell(self, conversations: Sequence[Conversation]) -> list[str]:
        """Have conversations with the served weights; return the ids of the turns."""
        ids = []
        for number, conversation in enumerate(conversations):
            name = f"{self.state.ledger.count()}-{number}"
            said: list[Message] = []
            for exchange in conversation:
                prompt = [*said, *exchange.added]
                answer = exchange.answer or self._spoken(prompt)
                ids.append(self._logged(name, prompt, exchange.added, answer))
                said = [*prompt, answer]
        return ids

    def _spoken(self, prompt: Sequence[Message]) -> Message:
        text = ask(self.model, [message.as_chat() for message in prompt], self.adapter).text
        return Message("assistant", text, provenance_of("assistant"))

    def _logged(
        self, name: str, prompt: Sequence[Message], added: Sequence[Message], answer: Message
    ) -> str:
        return self.state.ledger.append(
            conversation=name,
            model=self.model.name,
            adapter=self.adapter,
            sampling={},
            messages=(*added, answer),
            prompt=prompt,
            finish_reason="stop",
            prompt_tokens=1,
            completion_tokens=1,
        )

    def learn(self) -> Report:
        """Run one night and serve what it promoted."""
        begun = time.monotonic()
        state = self.state
        run = learner.run(self.model, state.ledger, state.store, state.lineage, self.settings)
        report: Report = finished(run, _refusals_told)
        self.seconds += time.monotonic() - begun
        if report.promoted:
            before, self.adapter = self.adapter, report.weights
            if before != BASE:
                self.model.adapters.remove(before)
            self.model.adapters.add(self.adapter, *load_adapter(state.store, report.weights))
        return report

    def close(self) -> None:
        """Take the adapter out of the model; the state is closed by whoever opened it."""
        if self.adapter != BASE:
            self.model.adapters.remove(self.adapter)
            self.adapter = BASE


@contextlib.contextmanager
def new_box(model: Model, settings: Config | None = None) -> Iterator[Box]:
    """Make a box that nobody told anything, for as long as the block lasts."""
    with (
        tempfile.TemporaryDirectory(prefix="homebox-owner-") as folder,
        open_state(Path(folder, "state")) as state,
    ):
        # What is kept of earlier exams must not come from another run.
        settings = settings or Config()
        paths = dataclasses.replace(settings.paths, cache=str(Path(folder, "cache")))
        box = Box(model, state, dataclasses.replace(settings, paths=paths))
        try:
            yield box
        finally:
            box.close()


def _refusals_told(progress: Progress) -> None:
    """Say why a candidate was refused: the next one takes longer."""
    if progress.stage == "retry":
        print(progress.text, file=sys.stderr, flush=True)


def finished(steps: Iterator[Any], seen: Callable[[Any], None] = lambda _: None) -> Any:
    """Run a generator to its end, showing what it yields, and return what it returns."""
    while True:
        try:
            seen(next(steps))
        except StopIteration as over:
            return over.value


def ask(
    model: Model, messages: Sequence[dict[str, Any]], adapter: str, owner: str | None = None
) -> Answer:
    """Answer greedily; with an `owner`, a prompt's known beginning is not computed again."""
    prompt = model.chat.render(list(messages))
    room = max(1, min(MAX_ANSWER, model.context - len(prompt)))
    begun = time.perf_counter()
    request = GenerationRequest(prompt, SamplingParams(max_tokens=room), adapter, owner)
    sequence = model.start(request)
    pieces, first = [], 0.0
    try:
        while not sequence.finished:
            piece = sequence.step()
            if piece is not None:
                first = first or time.perf_counter() - begun
                pieces.append(piece.text)
    finally:
        sequence.close()
    return Answer("".join(pieces), len(prompt), first, time.perf_counter() - begun)


def ask_all(
    model: Model,
    prompts: Sequence[Sequence[dict[str, Any]]],
    adapter: str,
    most: int = MAX_ANSWER,
    owner: str | None = None,
) -> list[str]:
    """Answer many prompts, several at once, which changes no bit of them."""
    texts = [""] * len(prompts)
    waiting = list(enumerate(prompts))[::-1]
    active: list[tuple[int, Any]] = []
    try:
        while waiting or active:
            while waiting and len(active) < TOGETHER:
                number, messages = waiting.pop()
                ids = model.chat.render(list(messages))
                sampling = SamplingParams(max_tokens=max(1, min(most, model.context - len(ids))))
                request = GenerationRequest(ids, sampling, adapter, owner)
                active.append((number, model.start(request)))
            outcomes = model.step([sequence for _, sequence in active])
            for (number, _), outcome in zip(active, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    raise outcome
                texts[number] += outcome.text if outcome is not None else ""
            for _, sequence in (each for each in active if each[1].finished):
                sequence.close()
            active = [each for each in active if not each[1].finished]
    finally:
        for _, sequence in active:
            sequence.close()
    return texts


def loss_of(model: Model, document: Document, adapter: str, before: Messages) -> float:
    """Return the negative log-likelihood of a document's answers, in nats."""
    rendered = model.chat.render_training([*before, *messages_of(document)])
    places = np.flatnonzero(np.array(rendered.mask[1:], dtype=np.bool_))
    targets = np.array(rendered.ids, dtype=np.int64)[places + 1]
    found, loss = 0, 0.0
    with contextlib.closing(model.passed(rendered.ids, adapter)) as passed:
        for at, logits in passed:
            inside = np.flatnonzero((places >= at) & (places < at + len(logits)))
            scores = logits[places[inside] - at].astype(np.float64)
            scores -= scores.max(axis=-1, keepdims=True)
            normal = np.log(np.exp(scores).sum(axis=-1))
            loss += float(np.sum(normal - scores[np.arange(len(inside)), targets[inside]]))
            found += len(inside)
    return loss if found else float("nan")


def median(values: Sequence[float]) -> float:
    """Return the median; not a number without values."""
    return statistics.median(values) if values else float("nan")
