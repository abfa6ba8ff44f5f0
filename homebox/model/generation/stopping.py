"""Finds stop texts in text that arrives in pieces.

The one idea: text that could be the beginning of a stop text is held back until it is decided.
Invariant: what is given out, and whether and where it stops, does not depend on how the text was
cut into pieces.
"""

from collections.abc import Sequence


class StopFinder:
    """Passes text through up to the stop text that is complete first (the longest, if several)."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = ""  # the stop text that was complete

    @property
    def stopped(self) -> bool:
        """Whether a stop text is complete."""
        return bool(self.found)

    def push(self, text: str) -> str:
        """Return the text that is certainly part of the answer after `text` has arrived.

        Sets `found` when a stop text is complete; what follows is dropped.
        """
        if self.stopped:
            return ""
        text = self._held + text
        found = [(text.find(stop), stop) for stop in self._stops]
        ends = [(start + len(stop), start, stop) for start, stop in found if start >= 0]
        if ends:
            _, start, self.found = min(ends)
            self._held = ""
            return text[:start]
        held = self._held_length(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """Return the text held back, once no more can arrive."""
        held, self._held = self._held, ""
        return held

    def _held_length(self, text: str) -> int:
        """Return the length of the longest end of `text` with which some stop text begins."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            end = text[len(text) - length :]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
