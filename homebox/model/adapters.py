"""Keeps track of the adapters and KV slots of a loaded model.

The one idea: names (weights hashes) outside, small slot numbers inside the kernels.
Invariant: a slot is handed out again only after the last sequence that used it was closed, so an
answer ends on the adapter that it began with.
"""

import threading
from collections.abc import Generator, Iterator, Mapping
from typing import Protocol

from homebox.errors import BusyError, ModelNotFoundError, NoFreeSlotError, UsageError
from homebox.model.config import ModelConfig
from homebox.model.lora import DEFAULT_ALPHA, check_adapter
from homebox.model.strictmath import Float32

BASE = "base"


class AdapterSlots(Protocol):
    """The part of the transformer that holds adapters."""

    def set_adapter(self, index: int, tensors: dict[str, Float32] | None, scale: float) -> None:
        """Fill adapter slot `index` (1 and up), or empty it."""
        ...

    def placing(self, index: int, tensors: dict[str, Float32], scale: float) -> Iterator[None]:
        """Fill an empty adapter slot step by step."""
        ...


class Adapters:
    """The adapters that are resident beside the base; may be used from several threads."""

    def __init__(
        self, config: ModelConfig, transformer: AdapterSlots, slots: int, max_rank: int
    ) -> None:
        self._config = config
        self._transformer = transformer
        self._max_rank = max_rank
        self._lock = threading.RLock()
        self._free = list(range(slots, 0, -1))
        self._slot_of: dict[str, int] = {}
        self._users: dict[int, int] = {}
        self._removed: set[int] = set()

    def names(self) -> list[str]:
        """Return the resident adapters' names, oldest first; the base is not among them."""
        with self._lock:
            return list(self._slot_of)

    def add(self, name: str, tensors: Mapping[str, Float32], alpha: float = DEFAULT_ALPHA) -> None:
        """Make an adapter resident under `name`; its effect is scaled by alpha / rank.

        Raises ModelFormatError for wrong tensors, UsageError for a name in use, BusyError if all
        places are taken.
        """
        rank = self._checked(name, tensors)
        with self._lock:
            index = self._place(name)
            self._transformer.set_adapter(index, dict(tensors), alpha / rank)
            self._slot_of[name] = self._free.pop()

    def placing(
        self, name: str, tensors: Mapping[str, Float32], alpha: float = DEFAULT_ALPHA
    ) -> Generator[None, None, None]:
        """Do what `add` does in short steps, between which the model may be used.

        The adapter is resident after the last one; a generator that is closed before leaves
        nothing. If one of that name was added meanwhile, that one stays.
        """
        rank = self._checked(name, tensors)
        with self._lock:
            index = self._place(name)
            self._free.pop()
        try:
            yield from self._transformer.placing(index, dict(tensors), alpha / rank)
            with self._lock:
                if name not in self._slot_of:
                    self._slot_of[name] = index
                    return
            self._release(index)
        except BaseException:
            self._release(index)
            raise

    def remove(self, name: str) -> None:
        """Forget an adapter; sequences that use it finish on it, then its place is free."""
        with self._lock:
            index = self._slot_of.pop(name, None)
            if index is None:
                raise ModelNotFoundError(f"no adapter {name} is resident")
            if self._users.get(index):
                self._removed.add(index)
            else:
                self._release(index)

    def slot(self, name: str) -> int:
        """Return the slot number of a resident adapter; 0 for the base."""
        with self._lock:
            if name == BASE:
                return 0
            if name not in self._slot_of:
                raise ModelNotFoundError(f"no adapter {name} is resident")
            return self._slot_of[name]

    def take(self, name: str) -> int:
        """Return the slot number of an adapter and hold it until `give_back`."""
        with self._lock:
            index = self.slot(name)
            self._users[index] = self._users.get(index, 0) + 1
            return index

    def give_back(self, index: int) -> None:
        """End one `take`."""
        with self._lock:
            self._users[index] -= 1
            if index in self._removed and not self._users[index]:
                self._removed.discard(index)
                self._release(index)

    def _checked(self, name: str, tensors: Mapping[str, Float32]) -> int:
        """Return the rank of an adapter that the model can serve."""
        rank = check_adapter(self._config, tensors)
        if rank > self._max_rank:
            raise UsageError(
                f"adapter {name}: rank {rank} is above the {self._max_rank} that the model was "
                f"loaded for; set model.rank to {rank} in the configuration"
            )
        return rank

    def _place(self, name: str) -> int:
        """Return the slot that a new adapter will have; the caller holds the lock."""
        if name == BASE or name in self._slot_of:
            raise UsageError(f"adapter {name} is resident already; remove it first")
        if not self._free:
            raise BusyError(
                f"{len(self._slot_of)} adapters are resident and no place is free; remove one"
            )
        return self._free[-1]

    def _release(self, index: int) -> None:
        self._transformer.set_adapter(index, None, 0.0)
        self._free.append(index)


class Slots:
    """The KV slots of running sequences."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._lock = threading.Lock()
        self._free = list(range(count - 1, -1, -1))

    @property
    def free(self) -> int:
        """How many slots nobody has."""
        with self._lock:
            return len(self._free)

    def take(self) -> int:
        """Return a free slot; raises NoFreeSlotError."""
        with self._lock:
            if not self._free:
                raise NoFreeSlotError(f"all {self.count} sequences are running; try again later")
            return self._free.pop()

    def give_back(self, slot: int) -> None:
        """Return a slot to the free ones."""
        with self._lock:
            self._free.append(slot)
