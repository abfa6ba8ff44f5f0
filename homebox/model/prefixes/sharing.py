"""What answers share: how a slot begins with keys and values that are there, and leaves its own.

The one idea: a prompt is looked up among those of the same owner (a digest of the key) and the same
weights; an answer without an owner looks nothing up and leaves nothing. Invariant: a slot has all
pages that it can ever need set aside before its answer begins, or the answer does not begin.
"""

import hashlib
import logging
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from homebox.errors import NoFreeSlotError
from homebox.model.adapters import BASE
from homebox.model.decoder.pages import PAGE, Pages
from homebox.model.generation.request import GenerationRequest
from homebox.model.prefixes.misses import Misses, Space
from homebox.model.prefixes.statistics import HIT, SHORT, PrefixStatistics
from homebox.model.prefixes.tree import Match, PrefixTree

log = logging.getLogger("homebox.prefixes")

Int32 = npt.NDArray[np.int32]

_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass
class _Use:
    """A slot that shares."""

    space: Space
    conversation: str
    ids: Int32  # whose keys and values it holds, as far as it told


class Prefixes:
    """The prefixes of a model; belongs to the engine thread. Without `pages` nothing is shared."""

    def __init__(self, pages: Pages | None) -> None:
        self._pages = pages
        self.tree = PrefixTree(pages) if pages is not None else None
        self.enabled = True
        self._misses = Misses()
        self._uses: dict[int, _Use] = {}
        self._cleared = -math.inf  # when all was forgotten last
        self._statistics = PrefixStatistics()
        self._refused: tuple[GenerationRequest, int, str] | None = None
        if pages is not None:
            pages.forget = self._forget

    def begin(self, slot: int, request: GenerationRequest, positions: int) -> int:
        """Let a slot begin with what is there of a prompt; return how many positions that is.

        Sets the pages aside that it needs to grow to `positions`. Raises ContextLengthError if the
        pool can never hold them, NoFreeSlotError if it cannot now; the slot is then empty.
        """
        try:
            return self._begin(slot, request, positions)
        except NoFreeSlotError as error:
            if self._pages is not None:
                self._refused = (request, self._pages.returns, str(error))
            raise

    def _begin(self, slot: int, request: GenerationRequest, positions: int) -> int:
        if self._pages is None or self.tree is None:
            return 0
        self._pages.mark(slot, request.owner)
        space = self.space_of(request) if self.enabled else None
        if space is None:
            self._pages.reserve(slot, positions)
            return 0
        ids = np.array(request.prompt_ids, np.int32)
        match = self._take(slot, self.tree.match(space, ids), positions)
        self._uses[slot] = _Use(space, request.conversation, ids[: match.length])
        self._tell(space, request.conversation, ids, match.length)
        return match.length

    def refuse_again(self, request: GenerationRequest) -> None:
        """Raise NoFreeSlotError for what was refused last, unless memory came back since.

        Who waits asks in every round; that must not take time from those who are answered.
        """
        if self._pages is not None and self._refused is not None:
            refused, returns, text = self._refused
            if refused is request and returns == self._pages.returns:
                raise NoFreeSlotError(text)

    def taken(self, slot: int, ids: Sequence[int]) -> None:
        """Hear which ids' keys and values a slot holds by now, and keep its full pages."""
        use = self._uses.get(slot)
        if use is not None and self.tree is not None:
            use.ids = np.array(ids, np.int32)
            self.tree.keep(use.space, use.ids, slot)
            whole = use.ids[: len(use.ids) // PAGE * PAGE]
            self._misses.read(use.space, use.conversation, whole)

    def end(self, slot: int) -> None:
        """Keep what a slot holds, also of its last page; the slot is about to be given back."""
        use = self._uses.pop(slot, None)
        if use is not None and self.tree is not None:
            self.tree.keep(use.space, use.ids, slot, partial=True)
            self._misses.read(use.space, use.conversation, use.ids)

    def clear(self) -> None:
        """Forget all prefixes and prompts; what running answers use stays theirs.

        They leave nothing behind any more, nor does what was asked until now.
        """
        self._cleared = time.monotonic()
        self._uses.clear()
        if self.tree is not None:
            self.tree.clear()
        self._misses.forget()

    def _forget(self) -> None:
        """Hear that the pool's memory was lost."""
        if self.tree is not None:
            self.tree.forget()
        self._misses.forget()

    def space_of(self, request: GenerationRequest) -> Space | None:
        """Return where a prompt is looked up; None: nowhere.

        Weights that have no hash for a name may be others tomorrow, so nothing of them is kept; nor
        of prompts that were begun before all was forgotten, as they may hold the words.
        """
        known = request.adapter == BASE or _HASH.fullmatch(request.adapter)
        if request.owner is None or not known or request.asked <= self._cleared:
            return None
        return Space(request.owner, request.adapter)

    @property
    def statistics(self) -> PrefixStatistics:
        """The counts by now; any thread may ask."""
        found = replace(self._statistics, reasons=dict(self._statistics.reasons))
        if self._pages is not None and self.tree is not None:
            found.evictions = self.tree.evictions
            found.copies = self._pages.copies
            found.kept_pages = len(self.tree)
            found.idle_pages = self._pages.idle_pages
        return found

    def _take(self, slot: int, match: Match, positions: int) -> Match:
        """Give a slot its pages, and set the others aside."""
        assert self._pages is not None
        for found in dict.fromkeys((match, match.whole_pages)):
            self._pages.share(slot, found.pages, found.length)
            try:
                self._pages.reserve(slot, positions)
                return found
            except NoFreeSlotError as error:
                # A page that is not full is copied: that takes one more than to compute it anew.
                refused = error
            except BaseException:
                self._pages.free(slot)
                raise
        self._pages.free(slot)
        raise refused

    def _tell(self, space: Space, conversation: str, ids: Int32, reused: int) -> None:
        """Count a prompt, and say why no more of it was there."""
        reason, text = self._misses.explain(space, conversation, ids, reused)
        self._misses.remember(space, conversation, ids, reused)
        statistics = self._statistics
        statistics.lookups += 1
        statistics.asked += len(ids)
        statistics.reused += reused
        statistics.reasons[reason] += 1
        if reason != HIT:
            # A client may name a conversation by what is said in it.
            name = f" of conversation {_digest(conversation)}" if conversation else ""
            why = f"{reason}: {text}" if text else reason
            level = logging.DEBUG if reason == SHORT else logging.INFO
            counts = f"{reused:,}", f"{len(ids):,}"
            log.log(level, "%s of %s tokens%s were there; %s", *counts, name, why)


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:12]
