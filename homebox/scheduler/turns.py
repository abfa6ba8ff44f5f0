"""Whose turn it is: who waits for whom before it begins, and whose prompt is read next.

The one idea: a prompt that begins like one that is being read right now waits until the common part
is there, as it then need not be computed twice (several choices, a title beside the first answer,
subagents). Invariant: an answer waits for at most one other, which itself runs, and of those that
read no one is passed over twice in a row by one that came later.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from homebox.scheduler.contract import Running
from homebox.scheduler.generation import Generation

PAGE = 64  # ids whose keys and values answers share, or not, as a whole

Ids = npt.NDArray[np.int64]


class Place:
    """An answer that waits or runs."""

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self.sequence: Running | None = None  # None: it waits
        self.last = 0.0  # when its latest token came
        self.leader: Place | None = None  # whom it waits for, or waited for
        self.common = 0  # ids that it shares with its leader, in whole pages
        self.turn = 0  # of the latest time that its prompt was read
        self._ids: Ids | None = None

    @property
    def ids(self) -> Ids:
        """The ids of the prompt."""
        if self._ids is None:
            self._ids = np.asarray(self.generation.prompt_ids, dtype=np.int64)
        return self._ids

    @property
    def unread(self) -> int:
        """How much of the prompt of a running answer is still to be read."""
        if self.sequence is None or self.sequence.finished:
            return 0
        return max(self.sequence.prompt_tokens - self.sequence.prefilled, 0)

    def waits(self, running: Sequence["Place"]) -> bool:
        """Whether it should begin later, because somebody reads what it would have to read too."""
        if self.generation.request.owner is None:
            return False  # shares nothing
        if self.leader is None:
            self._choose_leader(running)
        leader = self.leader
        if leader is None or leader.sequence is None or leader.sequence.finished:
            return False
        return leader.sequence.prefilled < self.common

    def _choose_leader(self, running: Sequence["Place"]) -> None:
        request = self.generation.request
        for other in running:
            theirs = other.generation.request
            if other.sequence is None or not other.unread:
                continue
            if (theirs.owner, theirs.adapter) != (request.owner, request.adapter):
                continue
            # The last id of a prompt is always computed, for what follows it.
            common = min(shared(self.ids, other.ids), len(self.ids) - 1) // PAGE * PAGE
            if common > max(other.sequence.prefilled // PAGE * PAGE, self.common):
                self.leader, self.common = other, common


def shared(left: Ids, right: Ids) -> int:
    """Return how many first ids two prompts have in common."""
    count = min(len(left), len(right))
    different = np.flatnonzero(left[:count] != right[:count])
    return int(different[0]) if len(different) else count


class Turns:
    """Chooses whose prompt is read: by turns the one that is done soonest, and who waited most."""

    def __init__(self) -> None:
        self._count = 0

    def order(self, running: list[Place]) -> list[Place]:
        """Return all that run, first the one whose prompt is to be read in this step."""
        reading = [place for place in running if place.unread]
        if len(reading) < 2:
            return list(running)
        self._count += 1
        if self._count % 2:
            chosen = min(reading, key=lambda place: place.unread)
        else:
            chosen = min(reading, key=lambda place: place.turn)
        chosen.turn = self._count
        return [chosen, *(place for place in running if place is not chosen)]
