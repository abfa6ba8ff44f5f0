"""How an endpoint says an answer: as one document, or as the events of a stream.

The one idea: what an answer is, is the same for all endpoints (`exchange.py`); a shape only says
it. Invariant: the events of a stream, put together as the endpoint's clients do, are the document.
"""

from typing import Any, Protocol

from homebox.api.exchange import Step
from homebox.errors import HomeboxError


class Shape(Protocol):
    """Says one exchange; called are begin, then step and silence, then end or failure."""

    def begin(self) -> bytes:
        """Return the first events of a stream; may be empty."""
        ...

    def step(self, step: Step) -> bytes:
        """Return the events for what came of a choice; may be empty."""
        ...

    def silence(self) -> bytes:
        """Return an event that changes nothing, and shows that somebody is there."""
        ...

    def end(self) -> bytes:
        """Return the last events, when every choice has ended and was written down."""
        ...

    def failure(self, error: HomeboxError) -> bytes:
        """Return the last events of a stream that broke."""
        ...

    def whole(self) -> dict[str, Any]:
        """Return the document, when every choice has ended."""
        ...
