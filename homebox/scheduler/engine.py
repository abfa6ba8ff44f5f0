"""The engine thread: everything that touches the model is a small step taken here.

The one idea: tokens for each running answer, all computed together, with one prefill chunk of an
answer that still reads its prompt, then at most one micro-step of learning, then whatever was
handed to `call`. The event loop of the server only submits and listens.

Invariant: one thread owns the model, and nothing waits for longer than one round of answers plus
one micro-step of learning, which `interrupt` cuts short as soon as somebody waits.
"""

import concurrent.futures
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from homebox.errors import BusyError, HomeboxError, NoFreeSlotError
from homebox.model.generation.request import GenerationRequest
from homebox.scheduler.contract import Interrupt, Observer, Runner, Running
from homebox.scheduler.generation import CANCELLED, ERROR, End, Generation
from homebox.scheduler.learning import Learning
from homebox.scheduler.turns import Place, Turns

T = TypeVar("T")

# While answers run, learning gets one micro-step after this many times its own duration.
ANSWERS_PER_LEARNING = 4.0
GUEST_BEAT = 0.01  # seconds between two looks while all memory is a guest's
IDLE_BEAT = 1.0  # seconds between two signs of life while there is nothing to do


@dataclass
class Engine:
    """Owns the model and the thread it runs on.

    `max_active` answers run at once, `max_waiting` more may queue. `heartbeat` is called on every
    round, so that a watchdog sees a hang of the model itself. `interrupt` is set while somebody
    waits or answers run: learning then pauses in the middle of a micro-step. `observer` hears how
    answers go.
    """

    model: Runner
    max_active: int = 4
    max_waiting: int = 64
    heartbeat: Callable[[], None] = field(default=lambda: None)
    interrupt: Interrupt | None = None
    observer: Observer | None = None

    def __post_init__(self) -> None:
        self.failure: BaseException | None = None
        self.learning: Learning | None = None
        self._condition = threading.Condition()  # its lock may be taken twice
        self._waiting: deque[Place] = deque()
        self._active: list[Place] = []
        self._turns = Turns()
        self._guests = 0  # who hold memory besides answers and learning
        self._full = False  # there was no memory for the next one, and nothing was given back since
        self._calls: deque[tuple[Callable[[], Any], concurrent.futures.Future[Any]]] = deque()
        self._stopping = False
        self._asked = time.monotonic()  # when somebody was there last
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

    def answers(self) -> list[Generation]:
        """List the answers that run or wait; for the engine thread, between two of its steps."""
        with self._condition:
            return [place.generation for place in (*self._active, *self._waiting)]

    @property
    def idle(self) -> float:
        """Seconds since the last answer ended or was asked for; 0 while there is one."""
        return 0.0 if any(self.load) else time.monotonic() - self._asked

    def submit(self, request: GenerationRequest) -> Generation:
        """Queue an answer; raises BusyError if the queue is full.

        For several choices submit the same prompt several times, with `SamplingParams.for_choice`:
        the prompt is read once if the model shares prefixes.
        """
        generation = Generation(request, self._wake)
        with self._condition:
            self._refuse_if_dead()
            if len(self._waiting) >= self.max_waiting:
                raise BusyError(
                    f"{len(self._waiting)} requests are waiting already; try again later"
                )
            self._asked = time.monotonic()
            self._waiting.append(Place(generation))
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

    @contextlib.contextmanager
    def guest(self) -> Iterator[None]:
        """Count somebody who holds memory of the model between calls: answers wait for it."""
        with self._condition:
            self._guests += 1
        try:
            yield
        finally:
            # Behind all that was called before, so behind what gives the memory back.
            with contextlib.suppress(HomeboxError):
                self.call(self._guest_left)

    def _guest_left(self) -> None:
        self._guests -= 1

    def learn(self, steps: Generator[Any, None, Any]) -> Learning:
        """Begin a run whose every `next` is one micro-step; raises BusyError if one runs."""
        with self._condition:
            self._refuse_if_dead()
            if self.learning is not None:
                raise BusyError('learning is running already; "homebox status" shows how far it is')
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

    def pause_learning(self, reason: str) -> Learning | None:
        """Take no micro-step of the learning run, if any, until `resume_learning`.

        It keeps its memory; answers go on. Gives the run.
        """
        with self._condition:
            if self.learning is not None:
                self.learning.pause_reason = reason
                self._wake(interrupt=True)
            return self.learning

    def resume_learning(self) -> Learning | None:
        """Let a paused learning run go on. Gives the run, if any."""
        with self._condition:
            if self.learning is not None:
                self.learning.pause_reason = ""
                self._wake()
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
        learning = self.learning is not None and self.learning.runnable
        return bool(self._stopping or self._calls or self._waiting or self._active or learning)

    # -- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            unprepared = True
            while not self._stopping:
                idle = False
                with self._condition:
                    if not self._has_work():
                        idle = not self._condition.wait(IDLE_BEAT)
                    elif self._full and not (self._active or self._calls or self.learning):
                        self._condition.wait(GUEST_BEAT)
                self.heartbeat()
                if idle and unprepared:
                    unprepared = self._prepare()
                self._round()
                # A new adapter may come, and answers leave prefixes.
                unprepared = unprepared or bool(self._active) or self.learning is not None
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
            self._full = False
        self._admit()
        begun = time.perf_counter()
        self._advance()
        self._owed += time.perf_counter() - begun
        learning = self.learning
        if learning is None or not learning.runnable:
            return
        if not self._active or self._owed >= ANSWERS_PER_LEARNING * learning.seconds:
            self._owed = 0.0
            self._settle_interrupt()
            tell = learning.step()
            self._full = False
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

    # -- answers --------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Start waiting answers while there is room, in order.

        One for which there is no memory waits on, and all behind it; one whose prompt is being read
        for another lets others pass.
        """
        if not self._waiting:
            return
        self._drop_cancelled()
        for place in list(self._waiting):
            if len(self._active) >= self.max_active or self._full:
                return
            if place.waits(self._active):
                continue
            generation = place.generation
            try:
                sequence = self.model.start(generation.request)
            except NoFreeSlotError as error:
                # A learning run holds a slot now and then, for its exams.
                if self._active or self._guests or self.learning is not None:
                    self._full = True
                    return
                self._waiting.remove(place)
                generation.fail(error)
            except BaseException as error:
                self._waiting.remove(place)
                generation.fail(error)
            else:
                self._waiting.remove(place)
                place.sequence = sequence
                self._active.append(place)

    def _drop_cancelled(self) -> None:
        """Clear the queue of those who left it, so that their places are free again."""
        with self._condition:
            gone = [place for place in self._waiting if place.generation.cancelled]
            for place in gone:
                self._waiting.remove(place)
        for place in gone:
            self._full = False  # the one behind it may need less
            place.generation.deliver(End(CANCELLED, len(place.generation.prompt_ids), 0))

    def _advance(self) -> None:
        """Take one step of all answers together, and let go of those for which it was the last."""
        for place in [place for place in self._active if place.generation.cancelled]:
            self._let_go(place, CANCELLED)
        if not self._active:
            return
        active = self._turns.order(self._active)
        outcomes = self.model.step([place.sequence for place in active])
        now = time.perf_counter()
        for place, outcome in zip(active, outcomes, strict=True):
            if isinstance(outcome, Exception):
                self._let_go(place, outcome)
                continue
            if outcome is not None and (outcome.token_ids or outcome.text):
                place.generation.deliver(outcome)
                if self.observer is not None:
                    self._observe(self.observer, place, len(outcome.token_ids), now)
            if place.sequence is not None and place.sequence.finished:
                self._let_go(place, place.sequence.finish_reason or "stop")

    def _observe(self, observer: Observer, place: Place, count: int, now: float) -> None:
        if place.last:
            observer.token(now - place.last)
        else:
            observer.first_token(now - place.generation.submitted)
        for _ in range(count - 1):
            observer.token(0.0)
        place.last = now

    def _let_go(self, place: Place, reason: str | Exception) -> None:
        """End an answer: close it and tell its reader why."""
        self._active.remove(place)
        self._asked = time.monotonic()
        self._full = False
        sequence = place.sequence
        if sequence is None:
            return
        place.sequence = None  # nobody waits for it any more
        try:
            sequence.close()
        except Exception as error:
            reason = error if isinstance(reason, str) else reason
        end = _end(sequence, reason if isinstance(reason, str) else ERROR)
        # Counted first: whoever has the answer finds it in the counts.
        if self.observer is not None:
            self.observer.ended(end.prompt_tokens, end.cached_tokens, end.completion_tokens)
        if isinstance(reason, str):
            place.generation.deliver(end)
        else:
            place.generation.fail(reason, end)

    def _abandon_all(self) -> None:
        """Tell everybody who still waits that nothing more will come."""
        with self._condition:
            self._stopping = True
            learning, self.learning = self.learning, None
        for place in [*self._active, *self._waiting]:
            end = End(CANCELLED, len(place.generation.prompt_ids), 0)
            if place.sequence is not None:
                with contextlib.suppress(Exception):
                    place.sequence.close()
                end = _end(place.sequence, CANCELLED)
            if self.failure is not None:
                place.generation.fail(self.failure)
            else:
                place.generation.deliver(end)
        self._active.clear()
        self._waiting.clear()
        while self._calls:
            self._calls.popleft()[1].cancel()
        if learning is not None:
            learning.stop_reason = "homebox is shutting down; nothing was promoted"
            tell = learning.step()
            if tell is not None:
                tell()


def _end(sequence: Running, reason: str) -> End:
    return End(
        reason,
        sequence.prompt_tokens,
        sequence.completion_tokens,
        sequence.cached_tokens,
        sequence.stopped_by,
    )


def _settle(future: "concurrent.futures.Future[T]", function: Callable[[], T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)
