"""One answer between two threads: the engine delivers, the event loop reads.

The one idea: whatever came since the last reading is given out at once, so that a slow reader costs
neither memory nor time. Invariant: every text and every token is read exactly once, in order, and
the end after all of them; one wake-up of the loop is under way at most.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from homebox.model.generation.logprobs import TokenLogprob
from homebox.model.generation.request import GenerationRequest
from homebox.model.generation.sampling import SamplingParams
from homebox.scheduler.contract import Chunk
from homebox.scheduler.deadline import Deadline

CANCELLED = "cancelled"
ERROR = "error"


@dataclass(frozen=True, slots=True)
class Said:
    """What came since the last reading: text, its tokens, and how likely they were.

    Text may come later than its tokens: a character may be made of several, and what could be the
    beginning of a stop text is held back. With neither, nothing came in time.
    """

    text: str = ""
    ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


NOTHING = Said()


@dataclass(frozen=True, slots=True)
class End:
    """Why and where an answer ended."""

    finish_reason: str  # "stop", "length", CANCELLED or ERROR
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0  # of the prompt, which were not computed again
    stopped_by: str = ""  # the stop text that ended it


class Generation:
    """One answer as the server sees it: `next` for text, `cancel` to stop, `end` when it is over.

    Made by `Engine.submit`. All public methods belong to the event loop that submitted, except
    `deliver` and `fail`. `ids` are the tokens of all that was read, with the stop token.
    """

    def __init__(self, request: GenerationRequest, wake: Callable[[], None]) -> None:
        self.request = request
        self.submitted = time.perf_counter()
        self.ids: list[int] = []
        self.end: End | None = None
        self.cancelled = False
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._unread: list[Chunk] = []
        self._last: End | None = None
        self._failure: BaseException | None = None
        self._followers: list[Callable[[bool], None]] = []
        self._announced = False  # something is there to be read, and the loop was or is told
        self._waiter: asyncio.Future[None] | None = None
        self._deadline = Deadline(self._rouse)
        self._wake = wake

    @property
    def prompt_ids(self) -> Sequence[int]:
        """The ids of the prompt."""
        return self.request.prompt_ids

    @property
    def sampling(self) -> SamplingParams:
        """How tokens are chosen."""
        return self.request.sampling

    async def next(self, patience: float | None = None) -> Said | None:
        """Give what came, an empty `Said` after `patience` seconds without any, None at the end.

        A reader who is slower than the model gets several tokens at once. Raises what broke the
        generation, once.
        """
        if self.end is not None:
            return None
        if self._announced:
            await asyncio.sleep(0)  # where text is always at hand, the loop's other tasks run here
        elif not await self._arrival(patience):
            return NOTHING
        with self._lock:
            unread, self._unread = self._unread, []
            last, failure = self._last, self._failure
            if last is None:
                self._announced = False
        if unread or last is None:
            said = _joined(unread)
            self.ids += said.ids
            return said
        self.end = last
        self._deadline.close()
        if failure is not None:
            raise failure
        return None

    async def _arrival(self, patience: float | None) -> bool:
        """Wait until there is something to be read; False if nothing came in time."""
        # A future: asyncio's own events and time-outs cost more than all else here.
        self._waiter = self._loop.create_future()
        if patience is not None:
            self._deadline.set(patience)
        try:
            await self._waiter
        finally:
            self._waiter = None
            self._deadline.drop()
        return self._announced

    def _rouse(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def cancel(self) -> None:
        """Stop before the next step; the end then comes with the reason "cancelled"."""
        self.cancelled = True
        self._wake()

    async def drain(self) -> str:
        """Wait until the engine let go of this answer; give the text that was not read yet."""
        rest = []
        with contextlib.suppress(Exception):
            while (said := await self.next()) is not None:
                rest.append(said.text)
        return "".join(rest)

    # -- the engine thread ----------------------------------------------------------------------

    def when_over(self, tell: Callable[[bool], None]) -> None:
        """Call `tell` with whether the answer broke, when it is over."""
        self._followers.append(tell)

    def deliver(self, item: Chunk | End) -> None:
        """Hand a chunk or the end to the event loop."""
        if isinstance(item, End):
            for tell in self._followers:
                tell(self._failure is not None)
        with self._lock:
            if isinstance(item, End):
                self._last = item
            else:
                self._unread.append(item)
            if self._announced:
                return  # one wake-up is enough, however far behind the reader is
            self._announced = True
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._rouse)

    def fail(self, error: BaseException, end: End | None = None) -> None:
        """Hand what broke the answer to the event loop; it comes after all that was delivered."""
        self._failure = error
        self.deliver(end or End(ERROR, len(self.prompt_ids), 0))


def unasked(request: GenerationRequest) -> Generation:
    """Return an answer without a word, for which no engine is asked."""
    generation = Generation(request, lambda: None)
    generation.deliver(End("length", len(request.prompt_ids), 0))
    return generation


@dataclass(frozen=True, slots=True)
class _Words:
    """A text that no model wrote, as the engine would hand it on."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


def scripted(request: GenerationRequest, text: str) -> Generation:
    """Return an answer of fixed words, for which no engine is asked; it has no tokens."""
    generation = Generation(request, lambda: None)
    generation.deliver(_Words(text))
    generation.deliver(End("stop", len(request.prompt_ids), 0))
    return generation


def _joined(chunks: list[Chunk]) -> Said:
    if len(chunks) == 1:
        (chunk,) = chunks
        return Said(chunk.text, chunk.token_ids, chunk.logprobs)
    return Said(
        "".join(chunk.text for chunk in chunks),
        tuple(index for chunk in chunks for index in chunk.token_ids),
        tuple(each for chunk in chunks for each in chunk.logprobs),
    )
