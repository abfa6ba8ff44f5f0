"""Says why a prompt was not found to a longer extent.

The one idea: the last prompts of each conversation are remembered, and a new one is compared with
what it had in common with them, not with what was found. Invariants: what is remembered is bounded,
in prompts and in ids, and belongs to one owner and adapter each; what is said has no word of a
prompt, as it goes to a log that nothing is ever forgotten from.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from homebox.model.prefixes.statistics import DIFFERS, EVICTED, HIT, NEW, SHORT, UNREAD, WEIGHTS

Int32 = npt.NDArray[np.int32]

MOST_CONVERSATIONS = 128
MOST_IDS = 2_000_000
PROMPTS = 2  # of a conversation: agents ask for a title, too
SHORTEST = 64  # ids below which a prompt is not worth a reason


@dataclass(frozen=True, slots=True)
class Space:
    """Whose prefixes, and of which weights; nothing is shared between two of them."""

    owner: str
    adapter: str


@dataclass(eq=False)
class _Prompt:
    ids: Int32
    read: int  # how many of them were computed or found


class Misses:
    """The last prompts."""

    def __init__(self) -> None:
        self._known: OrderedDict[Hashable, list[_Prompt]] = OrderedDict()
        self._ids = 0
        self._adapters: OrderedDict[tuple[str, str], str] = OrderedDict()

    def explain(self, space: Space, conversation: str, ids: Int32, reused: int) -> tuple[str, str]:
        """Return one of `statistics.REASONS` and a text, for a prompt that `reused` so many."""
        before = self._nearest(space, conversation, ids)
        if before is None:
            other = self._adapters.get((space.owner, conversation)) if conversation else None
            if other is not None and other != space.adapter:
                return WEIGHTS, f"the weights changed from {short(other)} to {short(space.adapter)}"
            if len(ids) < SHORTEST:
                return SHORT, f"the prompt has only {len(ids)} tokens"
            return NEW, ""
        common = common_length(before.ids, ids)
        possible = min(common, len(ids) - 1)
        if reused < min(possible, before.read):
            missing = min(possible, before.read) - reused
            return EVICTED, f"{missing:,} tokens that were there had to make room"
        if reused < possible:
            return UNREAD, f"the prompt before it was read up to token {before.read:,} only"
        if common < min(len(before.ids), len(ids)):
            was, now = (len(each) - common for each in (before.ids, ids))
            return DIFFERS, f"at token {common:,}, where {was:,} followed and now {now:,} do"
        return HIT, ""

    def remember(self, space: Space, conversation: str, ids: Int32, reused: int) -> None:
        """Note a prompt as the last one of its conversation."""
        key = _key(space, conversation, ids)
        prompts = self._known.setdefault(key, [])
        self._known.move_to_end(key)
        before = self._nearest(space, conversation, ids)
        if before is not None and 2 * common_length(before.ids, ids) >= len(before.ids):
            prompts.remove(before)
            self._ids -= len(before.ids)
        prompts.append(_Prompt(ids, reused))
        self._ids += len(ids)
        if len(prompts) > PROMPTS:
            self._ids -= len(prompts.pop(0).ids)
        while len(self._known) > MOST_CONVERSATIONS or (
            self._ids > MOST_IDS and len(self._known) > 1
        ):
            _, gone = self._known.popitem(last=False)
            self._ids -= sum(len(prompt.ids) for prompt in gone)
        self._adapters[space.owner, conversation] = space.adapter
        self._adapters.move_to_end((space.owner, conversation))
        if len(self._adapters) > MOST_CONVERSATIONS:
            self._adapters.popitem(last=False)

    def read(self, space: Space, conversation: str, ids: Int32) -> None:
        """Note that keys and values of these ids are there, of a prompt or with its answer."""
        prompt = self._nearest(space, conversation, ids)
        if prompt is not None:
            prompt.read = max(prompt.read, common_length(prompt.ids, ids))

    def forget(self) -> None:
        """Forget all prompts."""
        self._known.clear()
        self._adapters.clear()
        self._ids = 0

    def _nearest(self, space: Space, conversation: str, ids: Int32) -> _Prompt | None:
        """Return the prompt that begins most like this one; of equal ones the latest."""
        prompts = self._known.get(_key(space, conversation, ids), [])
        return max(reversed(prompts), key=lambda p: common_length(p.ids, ids), default=None)


def _key(space: Space, conversation: str, ids: Int32) -> Hashable:
    """Return what a prompt is remembered by; without a conversation, how it begins."""
    return space, conversation or ids[:SHORTEST].tobytes()


def common_length(first: Int32, second: Int32) -> int:
    """Return how many ids two prompts have in common from their beginning on."""
    count = min(len(first), len(second))
    differ = first[:count] != second[:count]
    return int(differ.argmax()) if differ.any() else count


def short(adapter: str) -> str:
    """Write the name of weights for people."""
    return adapter[:12]
