"""What the engine thread needs of a model, of its answers, and of whoever watches them."""

from collections.abc import Sequence
from typing import Any, Protocol

from homebox.model.generation.logprobs import TokenLogprob
from homebox.model.generation.request import GenerationRequest


class Chunk(Protocol):
    """What one step of a sequence gives."""

    @property
    def text(self) -> str:
        """New text, which may be empty."""
        ...

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The tokens that came, with a stop token."""
        ...

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]:
        """How likely they were, if that was asked for."""
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
    def stopped_by(self) -> str:
        """The stop text that ended it; empty if none did."""
        ...

    @property
    def prompt_tokens(self) -> int:
        """How many tokens the prompt has."""
        ...

    @property
    def cached_tokens(self) -> int:
        """How many of them were there before it began."""
        ...

    @property
    def prefilled(self) -> int:
        """How many of them are read, with those that were there."""
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

    def start(self, request: GenerationRequest) -> Running:
        """Take a slot and begin an answer; raises NoFreeSlotError."""
        ...

    def step(self, sequences: Sequence[Any]) -> Sequence[Chunk | Exception | None]:
        """Make tokens for each answer whose prompt is read, and read a chunk of the first other.

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


class Observer(Protocol):
    """Hears how answers go, on the engine thread; its methods must return at once, and not raise.

    Times are in seconds.
    """

    def first_token(self, seconds: float) -> None:
        """Hear how long it took from the request to the first token."""
        ...

    def token(self, seconds: float) -> None:
        """Hear of another token, and how long after the one before it came.

        Tokens of one step come together: only the first of them took time.
        """
        ...

    def ended(self, prompt: int, cached: int, completion: int) -> None:
        """Hear that an answer that had begun ended, and of its tokens."""
        ...
