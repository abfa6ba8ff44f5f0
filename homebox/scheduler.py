"""The engine thread: the one place where the model runs.

Everything that touches the model is a small step taken here: one token for each running answer, all
computed together, with one prefill chunk of an answer that still reads its prompt, then at most one
micro-step of learning, then whatever was handed to `call`. The event loop of the server only
submits and listens.

Invariant: one thread owns the model, and nothing waits for longer than one round of answers plus
one micro-step of learning, which `interrupt` cuts short as soon as somebody waits.
"""

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

from homebox.errors import BusyError, HomeboxError, LearningError, NoFreeSlotError
from homebox.model.generation.sampling import SamplingParams

T = TypeVar("T")

# While answers run, learning gets one micro-step after this many times its own duration.
ANSWERS_PER_LEARNING = 4.0
IDLE_BEAT = 1.0  # seconds between two signs of life while there is nothing to do
CANCELLED = "cancelled"
ERROR = "error"


class Chunk(Protocol):
    """What one step of a sequence gives; the last one carries the reason of the end."""

    @property
    def text(self) -> str:
        """New text, which may be empty."""
        ...


class Running(Protocol):
    """One answer in the making, stepped by the engine thread."""

    @property
    def finished(self) -> bool:
        """Whether the last step was taken."""
        ...

    @property
    def finish_reason(self) -> str | None:
        """Why it ended: "stop" or "length"."""
        ...

    @property
    def prompt_tokens(self) -> int:
        """How many tokens the prompt has."""
        ...

    @property
    def completion_tokens(self) -> int:
        """How many tokens were made so far."""
        ...

    def close(self) -> None:
        """Give the slot back."""
        ...


class Runner(Protocol):
    """The part of a model that the engine thread needs."""

    def start(self, prompt_ids: Sequence[int], sampling: SamplingParams, adapter: str) -> Running:
        """Take a slot and begin an answer; raises NoFreeSlotError."""
        ...

    def step(self, sequences: Sequence[Any]) -> Sequence[Chunk | Exception | None]:
        """Make one token for each answer whose prompt is read, and read a chunk of the first other.

        Gives for each answer what came, None, or what broke it.
        """
        ...

    def prepare(self) -> bool:
        """Do a part of what the first answers would wait for; False if nothing is left to do."""
        ...


class Interrupt(Protocol):
    """Asks a computation that is running to pause soon; any thread may."""

    def set(self) -> None:
        """Ask for a pause."""
        ...

    def clear(self) -> None:
        """Let computations run on."""
        ...


@dataclass(frozen=True)
class End:
    """Why and where an answer ended."""

    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class Generation:
    """One answer as the server sees it: `next` for text, `cancel` to stop, `end` when it is over.

    Made by `Engine.submit`. All public methods belong to the event loop that submitted.
    """

    def __init__(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        adapter: str,
        wake: Callable[[], None],
    ) -> None:
        self.prompt_ids = prompt_ids
        self.sampling = sampling
        self.adapter = adapter
        self.end: End | None = None
        self.cancelled = False
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._unread: list[str] = []
        self._last: End | BaseException | None = None
        self._arrived = asyncio.Event()
        self._announced = False  # the event is set, or will be in the loop's next turn
        self._wake = wake

    async def next(self, patience: float | None = None) -> str | None:
        """Give the text that came, "" after `patience` seconds without any, None at the end.

        A reader who is slower than the model gets several tokens at once. Raises what broke the
        generation, once.
        """
        if self.end is not None:
            return None
        await asyncio.sleep(0)  # where text is always at hand, the loop's other tasks run here
        try:
            async with asyncio.timeout(patience):
                await self._arrived.wait()
        except TimeoutError:
            return ""
        with self._lock:
            text, last = "".join(self._unread), self._last
            self._unread.clear()
            if last is None:
                self._arrived.clear()
                self._announced = False
        if text or last is None:
            return text
        if isinstance(last, BaseException):
            self.end = End(ERROR, len(self.prompt_ids), 0)
            raise last
        self.end = last
        return None

    def cancel(self) -> None:
        """Stop before the next step; the end then comes with the reason "cancelled"."""
        self.cancelled = True
        self._wake()

    async def drain(self) -> str:
        """Wait until the engine let go of this answer; give the text that was not read yet."""
        rest = []
        with contextlib.suppress(Exception):
            while (text := await self.next()) is not None:
                rest.append(text)
        return "".join(rest)

    def deliver(self, item: str | End | BaseException) -> None:
        """Hand text or the end to the event loop; called by the engine thread."""
        with self._lock:
            if isinstance(item, str):
                self._unread.append(item)
            else:
                self._last = item
            if self._announced:
                return  # one wake-up is enough, however far behind the reader is
            self._announced = True
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._arrived.set)


class Learning:
    """One learning run on the engine thread: its latest progress, its listeners, its result."""

    def __init__(self, steps: Generator[Any, None, Any]) -> None:
        self.steps = steps
        self.progress: Any = None
        self.result: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.result.set_running_or_notify_cancel()  # nobody who waits for it can cancel it
        self.seconds = 0.0  # of the latest micro-step
        self.stop_reason: str | None = None
        self._listeners: list[Callable[[Any], None]] = []

    def listen(self, listener: Callable[[Any], None]) -> Callable[[], None]:
        """Call `listener` on the engine thread with every progress; gives what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def step(self) -> "Callable[[], None] | None":
        """Take one micro-step; when the run is over, give what tells its result."""
        begun = time.perf_counter()
        try:
            if self.stop_reason is not None:
                self.steps.close()
                raise LearningError(self.stop_reason)
            self.progress = next(self.steps)
        except StopIteration as done:
            return partial(self.result.set_result, done.value)
        except BaseException as error:
            return partial(self.result.set_exception, error)
        self.seconds = time.perf_counter() - begun
        for listener in list(self._listeners):
            listener(self.progress)
        return None


@dataclass
class Engine:
    """Owns the model and the thread it runs on.

    `max_active` answers run at once, `max_waiting` more may queue. `heartbeat` is called on every
    round, so that a watchdog sees a hang of the model itself. `interrupt` is set while somebody
    waits or answers run: learning then pauses in the middle of a micro-step.
    """

    model: Runner
    max_active: int = 4
    max_waiting: int = 64
    heartbeat: Callable[[], None] = field(default=lambda: None)
    interrupt: Interrupt | None = None

    def __post_init__(self) -> None:
        self.failure: BaseException | None = None
        self.learning: Learning | None = None
        self._condition = threading.Condition()  # its lock may be taken twice
        self._waiting: deque[Generation] = deque()
        self._active: list[tuple[Generation, Running]] = []
        self._calls: deque[tuple[Callable[[], Any], concurrent.futures.Future[Any]]] = deque()
        self._stopping = False
        self._owed = 0.0  # seconds of answering since the last micro-step of learning
        self._thread = threading.Thread(target=self._run, name="homebox-engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """End every answer as cancelled, stop learning, and join the thread."""
        self._stopping = True
        self._wake(interrupt=True)
        if self._thread.ident is not None:
            self._thread.join(timeout)

    @property
    def load(self) -> tuple[int, int]:
        """How many answers run and how many wait."""
        return len(self._active), len(self._waiting)

    def submit(
        self, prompt_ids: Sequence[int], sampling: SamplingParams, adapter: str = "base"
    ) -> Generation:
        """Queue an answer to `prompt_ids` (T,); raises BusyError if the queue is full."""
        generation = Generation(prompt_ids, sampling, adapter, self._wake)
        with self._condition:
            self._refuse_if_dead()
            if len(self._waiting) >= self.max_waiting:
                raise BusyError(
                    f"{len(self._waiting)} requests are waiting already; try again later"
                )
            self._waiting.append(generation)
            self._wake(interrupt=True)
        return generation

    def call(self, function: Callable[[], T]) -> "concurrent.futures.Future[T]":
        """Run `function` on the engine thread between two steps."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        with self._condition:
            self._refuse_if_dead()
            self._calls.append((function, future))
            self._wake(interrupt=True)
        return future

    def learn(self, steps: Generator[Any, None, Any]) -> Learning:
        """Begin a run whose every `next` is one micro-step; raises BusyError if one runs."""
        with self._condition:
            self._refuse_if_dead()
            if self.learning is not None:
                raise BusyError("learning is running already; wait for it to end")
            self.learning = Learning(steps)
            self._owed = 0.0
            self._condition.notify()
            return self.learning

    def stop_learning(self, reason: str) -> Learning | None:
        """Ask the learning run, if any, to end before its next micro-step."""
        with self._condition:
            if self.learning is not None:
                self.learning.stop_reason = reason
                self._wake(interrupt=True)
            return self.learning

    def _refuse_if_dead(self) -> None:
        if self.failure is not None:
            raise HomeboxError(f"the engine thread has died: {self.failure}; restart homebox")
        if self._stopping:
            raise BusyError("homebox is shutting down")

    def _wake(self, interrupt: bool = False) -> None:
        with self._condition:
            if interrupt and self.interrupt is not None:
                self.interrupt.set()
            self._condition.notify()

    def _has_work(self) -> bool:
        return bool(self._stopping or self._calls or self._waiting or self._active or self.learning)

    def _run(self) -> None:
        try:
            unprepared = True
            while not self._stopping:
                idle = False
                with self._condition:
                    if not self._has_work():
                        idle = not self._condition.wait(IDLE_BEAT)
                self.heartbeat()
                if idle and unprepared:
                    unprepared = self._prepare()
                self._round()
                unprepared = unprepared or self.learning is not None  # a new adapter may come
        except BaseException as error:
            self.failure = error
        finally:
            self._abandon_all()

    def _prepare(self) -> bool:
        """Use idle time for what the first answers would wait for; whether there is more of it."""
        try:
            return self.model.prepare()
        except Exception:
            return False  # the answer that needs it will meet the same error, and can tell

    def _round(self) -> None:
        while self._calls:
            function, future = self._calls.popleft()
            _settle(future, function)
        self._admit()
        begun = time.perf_counter()
        self._advance()
        self._owed += time.perf_counter() - begun
        learning = self.learning
        if learning is None:
            return
        if not self._active or self._owed >= ANSWERS_PER_LEARNING * learning.seconds:
            self._owed = 0.0
            self._settle_interrupt()
            tell = learning.step()
            if tell is not None:
                # Whoever hears that it is over may begin the next one at once.
                self.learning = None
                tell()

    def _settle_interrupt(self) -> None:
        """Let learning run on if nobody is there; under the lock, so that nobody is overlooked."""
        if self.interrupt is None:
            return
        with self._condition:
            if self._active or self._waiting or self._calls or self._stopping:
                self.interrupt.set()
            else:
                self.interrupt.clear()

    def _admit(self) -> None:
        """Start waiting answers while there is room; an answer for which there is none waits on."""
        self._drop_cancelled()
        while self._waiting and len(self._active) < self.max_active:
            generation = self._waiting.popleft()
            try:
                sequence = self.model.start(
                    generation.prompt_ids, generation.sampling, generation.adapter
                )
            except NoFreeSlotError as error:
                # A learning run holds a slot now and then, for its exams.
                if self._active or self.learning is not None:
                    self._waiting.appendleft(generation)
                    return
                generation.deliver(error)
            except BaseException as error:
                generation.deliver(error)
            else:
                self._active.append((generation, sequence))

    def _drop_cancelled(self) -> None:
        """Clear the queue of those who left it, so that their places are free again."""
        with self._condition:
            gone = [generation for generation in self._waiting if generation.cancelled]
            for generation in gone:
                self._waiting.remove(generation)
        for generation in gone:
            generation.deliver(End(CANCELLED, len(generation.prompt_ids), 0))

    def _advance(self) -> None:
        """Take one step of all answers together, and let go of those for which it was the last."""
        for generation, sequence in list(self._active):
            if generation.cancelled:
                self._let_go(generation, sequence, CANCELLED)
        active = list(self._active)
        if not active:
            return
        outcomes = self.model.step([sequence for _, sequence in active])
        # The next round begins with another answer: prompts are read by turns.
        self._active.append(self._active.pop(0))
        for (generation, sequence), outcome in zip(active, outcomes, strict=True):
            if isinstance(outcome, Exception):
                self._let_go(generation, sequence, outcome)
                continue
            if outcome is not None and outcome.text:
                generation.deliver(outcome.text)
            if sequence.finished:
                self._let_go(generation, sequence, sequence.finish_reason or "stop")

    def _let_go(self, generation: Generation, sequence: Running, reason: str | Exception) -> None:
        """End an answer: close it and tell its reader why."""
        self._active.remove((generation, sequence))
        try:
            sequence.close()
        except Exception as error:
            reason = error if isinstance(reason, str) else reason
        if isinstance(reason, str):
            end = End(reason, sequence.prompt_tokens, sequence.completion_tokens)
            generation.deliver(end)
        else:
            generation.deliver(reason)

    def _abandon_all(self) -> None:
        """Tell everybody who still waits that nothing more will come."""
        with self._condition:
            self._stopping = True
            learning, self.learning = self.learning, None
        for generation, sequence in self._active:
            with contextlib.suppress(Exception):
                sequence.close()
            generation.deliver(
                self.failure or End(CANCELLED, sequence.prompt_tokens, sequence.completion_tokens)
            )
        self._active.clear()
        for generation in self._waiting:
            generation.deliver(self.failure or End(CANCELLED, len(generation.prompt_ids), 0))
        self._waiting.clear()
        while self._calls:
            self._calls.popleft()[1].cancel()
        if learning is not None:
            learning.stop_reason = "homebox is shutting down; nothing was promoted"
            tell = learning.step()
            if tell is not None:
                tell()


def _settle(future: "concurrent.futures.Future[T]", function: Callable[[], T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)


def run_inline(steps: Iterator[Any], listener: Callable[[Any], None]) -> Any:
    """Run a learning generator here and now, without an engine thread; gives its return value."""
    while True:
        try:
            listener(next(steps))
        except StopIteration as done:
            return done.value
