"""A model without weights, for tests of what stands around a model.

It answers with what it was told, byte by byte, and says which adapter it ran on. Words in the
last user message change its behaviour: "hold" waits until `release` is set, "boom" fails in the
third step, "endless" never stops, "count N" says N letters, "In the file F replace the word A with
B" calls a tool until there is a result.
"""

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from homebox.errors import EngineError, NoFreeSlotError
from homebox.model.chat.prompt import ChatPrompt
from homebox.model.generation.logprobs import TokenLogprob
from homebox.model.generation.request import GenerationRequest
from homebox.model.generation.stopping import StopFinder

CHUNK = 256  # prompt bytes per prefill step
STOP = 0  # a token that it never says


@dataclass(frozen=True)
class Piece:
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


class FakeTokenizer:
    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def piece_bytes(self, index: int) -> bytes:
        return bytes([index]) if index < 128 else chr(index).encode(errors="replace")

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        return bytes(ids).decode(errors="replace")

    def is_text(self, index: int) -> bool:
        return True


class FakeChat:
    """Keeps what it was given last."""

    given: Sequence[Any] = ()

    def render(
        self,
        messages: list[dict[str, Any]],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] = (),
        **variables: Any,
    ) -> list[int]:
        self.given = [messages, tools, variables]
        text = "".join(f"\x01{m['role']}\x02{m['content']}" for m in messages)
        return list((text + "\x01assistant\x02" * add_generation_prompt).encode())

    def prompt(
        self, messages: list[dict[str, Any]], recall: Any = None, **variables: Any
    ) -> ChatPrompt:
        ids = self.render(messages, **variables)
        return ChatPrompt(ids, stable=0, begun="")


class FakeAdapters:
    def __init__(self) -> None:
        self.loaded: dict[str, Mapping[str, Any]] = {}
        self.placed: list[str] = []  # what came step by step
        self.threads: set[str] = set()

    def add(self, name: str, tensors: Mapping[str, Any], alpha: float = 0.0) -> None:
        self.threads.add(threading.current_thread().name)
        assert name not in self.loaded
        self.loaded[name] = tensors

    def placing(self, name: str, tensors: Mapping[str, Any], alpha: float) -> Iterator[None]:
        self.placed.append(name)
        yield
        self.add(name, tensors, alpha)

    def remove(self, name: str) -> None:
        self.threads.add(threading.current_thread().name)
        del self.loaded[name]

    def names(self) -> list[str]:
        return list(self.loaded)


class FakeSequence:
    def __init__(self, model: "FakeModel", request: GenerationRequest) -> None:
        prompt, sampling, adapter = request.prompt_ids, request.sampling, request.adapter
        self.request = request
        self._model = model
        self._sampling = sampling
        self._unread = len(prompt)
        _, _, self._talk = bytes(prompt).decode(errors="replace").rpartition("\x01user\x02")
        self._asked = self._talk.split("\x01")[0]
        self._steps = self._answer(adapter)
        self._stops = StopFinder(sampling.stop)
        self.prompt_tokens = len(prompt)
        self.cached_tokens = 0
        self.completion_tokens = 0
        self.finished = False
        self.finish_reason: str | None = None
        self.closed = False

    def _answer(self, adapter: str) -> Iterator[str]:
        if self._asked in self._model.answers:
            yield from self._model.answers[self._asked]
            return
        edit = re.search(r"In the file (\S+) replace the word (\w+) with (\w+)", self._asked)
        if edit:
            names = ("path", "oldString", "newString")
            call = {"name": "edit", "arguments": dict(zip(names, edit.groups(), strict=True))}
            done = "\x01tool\x02" in self._talk
            yield from "DONE" if done else f"<tool_call>\n{json.dumps(call)}\n</tool_call>"
            return
        if "endless" in self._asked:
            while True:
                yield "x"
        count = re.search(r"count (\d+)", self._asked)
        if count:
            yield from "a" * int(count.group(1))
            return
        yield from f"<{adapter[:8]}> you said: {self._asked}"

    @property
    def prefilled(self) -> int:
        return self.prompt_tokens - max(self._unread, 0)

    def step(self) -> Piece | None:
        model = self._model
        model.steps += 1
        model.threads.add(threading.current_thread().name)
        assert model.adapters_in_use_are_loaded()
        if model.delay:
            time.sleep(model.delay)
        if self._unread > 0:
            self._unread -= CHUNK
            return None
        if "hold" in self._asked and not model.release.is_set():
            time.sleep(0.001)
            return None
        if "boom" in self._asked and self.completion_tokens == 2:
            raise EngineError("the fake model was told to fail")
        letter = next(self._steps, None)
        if letter is None:
            return self._end(self._stops.flush(), "stop", "")
        self.completion_tokens += 1
        text = self._stops.push(letter)
        if self._stops.stopped:
            return self._end(text, "stop", letter)
        if self.completion_tokens >= (self._sampling.max_tokens or 1 << 30):
            return self._end(text + self._stops.flush(), "length", letter)
        return Piece(text, (ord(letter),), None, self._likely(letter))

    def _likely(self, letter: str) -> tuple[TokenLogprob, ...]:
        count = self._sampling.logprobs
        if count is None or not letter:
            return ()
        return (TokenLogprob(ord(letter), 0.0, ((ord(letter), 0.0), (STOP, -30.0))[:count]),)

    def _end(self, text: str, reason: str, letter: str) -> Piece:
        self.finished = True
        self.finish_reason = reason
        return Piece(text, tuple(map(ord, letter)), reason, self._likely(letter))

    @property
    def stopped_by(self) -> str:
        return self._stops.found

    def close(self) -> None:
        self.closed = True
        self._model.sequences.pop(self, None)


class FakeModel:
    name = "fake"
    base_hash = "ba5e" * 16

    def __init__(self, context: int = 4096, slots: int = 4, delay: float = 0.0) -> None:
        self.context = context
        self.slots = slots
        self.delay = delay
        self.tokenizer = FakeTokenizer()
        self.chat = FakeChat()
        self.adapters = FakeAdapters()
        self.sequences: dict[FakeSequence, str] = {}
        self.release = threading.Event()
        self.threads: set[str] = set()
        self.steps = 0
        self.widest = 0  # the most answers in one step
        self.unprepared = 3
        self.answers: dict[str, str] = {}  # question -> what is said to it

    def start(self, request: GenerationRequest) -> FakeSequence:
        if len(self.sequences) >= self.slots:
            raise NoFreeSlotError(f"all {self.slots} slots are taken")
        assert request.adapter == "base" or request.adapter in self.adapters.loaded
        sequence = FakeSequence(self, request)
        self.sequences[sequence] = request.adapter
        return sequence

    def step(self, sequences: Sequence[FakeSequence]) -> list[Piece | Exception | None]:
        self.widest = max(self.widest, len(sequences))
        outcomes: list[Piece | Exception | None] = []
        for sequence in sequences:
            try:
                outcomes.append(sequence.step())
            except Exception as error:
                outcomes.append(error)
        return outcomes

    def prepare(self) -> bool:
        self.unprepared = max(self.unprepared - 1, 0)
        return self.unprepared > 0

    def adapters_in_use_are_loaded(self) -> bool:
        return set(self.sequences.values()) <= {"base", *self.adapters.loaded}
