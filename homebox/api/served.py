"""Which weights the server serves: what "homebox" means now, and who still uses what.

An adapter is resident in the model while somebody uses it. A request takes a lease on one adapter
when it comes in and gives it back when its answer is over, so that a swap or a rollback in between
changes only later requests.

Invariant: adapters are added and removed on the engine thread alone, and none that is leased or
current is ever removed.
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from homebox.errors import BusyError, ModelNotFoundError
from homebox.memory.lineage import Lineage
from homebox.scheduler import Engine

BASE = "base"
CURRENT = "homebox"
KEPT = "homebox@"
RESIDENT = 4

Tensors = Mapping[str, npt.NDArray[np.float32]]
Reader = Callable[[str], tuple[Tensors, float]]  # weights hash -> tensors and alpha


class Adapters(Protocol):
    """The adapters that lie in a model's memory."""

    def add(self, name: str, tensors: Tensors, alpha: float) -> None:
        """Take an adapter in."""
        ...

    def placing(self, name: str, tensors: Tensors, alpha: float) -> Iterator[None]:
        """Take an adapter in step by step; it is there after the last one."""
        ...

    def remove(self, name: str) -> None:
        """Let an adapter go."""
        ...


@dataclass
class Lease:
    """The right to use one adapter; `release` it once."""

    served: "Served"
    weights: str
    held: bool = True

    def release(self) -> None:
        """Give the adapter back."""
        if self.held:
            self.held = False
            self.served.release(self.weights)


class Served:
    """The adapters of one base, by weights hash."""

    def __init__(
        self,
        base: str,
        adapters: Adapters,
        engine: Engine,
        lineage: Lineage,
        read: Reader,
        capacity: int = RESIDENT,
    ) -> None:
        self.base = base
        self.current = BASE
        self._adapters = adapters
        self._engine = engine
        self._lineage = lineage
        self._read = read
        self._capacity = capacity
        self._uses: OrderedDict[str, int] = OrderedDict()  # least recently used first
        self._lock = threading.Lock()

    def resolve(self, model: str) -> str:
        """Give the weights hash, or "base", that a model name means now.

        Raises ModelNotFoundError, UnknownWeightsError or AmbiguousWeightsError.
        """
        if model == CURRENT:
            return self.current
        if model == BASE:
            return BASE
        if model.startswith(KEPT) and len(model) > len(KEPT):
            # What was only imported answers whoever asks for it by its hash.
            return self._lineage.resolve(self.base, model.removeprefix(KEPT), imports=True)
        raise ModelNotFoundError(
            f"The model {model[:200]!r} does not exist; this box serves homebox, "
            "homebox@<weights hash> and base"
        )

    def names(self) -> list[tuple[str, str]]:
        """List the served models as (name, weights), what is served by default first."""
        kept = self._lineage.checkpoints(self.base)
        return [
            (CURRENT, self.current),
            (BASE, BASE),
            *((f"{KEPT}{weights}", weights) for weights in kept),
        ]

    async def acquire(self, model: str) -> Lease:
        """Take a lease on the adapter that `model` names, loading it if it is not resident."""
        with self._lock:
            if model == CURRENT:
                return self._lease(self.current)
        weights = await asyncio.to_thread(self.resolve, model)
        with self._lock:
            if weights == BASE or weights in self._uses:
                return self._lease(weights)
        tensors, alpha = await asyncio.to_thread(self._read, weights)
        return await asyncio.wrap_future(
            self._engine.call(lambda: self._load_and_lease(weights, tensors, alpha))
        )

    def has(self, weights: str) -> bool:
        """Say whether weights lie in the model's memory."""
        return weights == BASE or weights in self._uses

    def placing(self, weights: str, tensors: Tensors, alpha: float) -> Generator[None, None, None]:
        """Take in what will be switched to, so that the switch need not; between answers.

        Runs on the engine thread, every step of it between two of the answers'. Raises BusyError
        if no place is free.
        """
        self._evict(self._capacity)
        if len(self._uses) > self._capacity:
            raise BusyError(f"{len(self._uses)} checkpoints are in use already")
        yield from self._adapters.placing(weights, tensors, alpha)
        with self._lock:
            self._uses.setdefault(weights, 0)

    def switch(self, weights: str) -> None:
        """Make `weights` what "homebox" means. Runs on the engine thread, between two steps."""
        if not self.has(weights):
            self._load(weights, *self._read(weights), self._capacity + 1)
        with self._lock:
            self.current = weights
        self._evict(self._capacity)

    def switch_to_head(self) -> str:
        """Serve what HEAD names; gives its hash. Runs on the engine thread."""
        head = self._lineage.head(self.base)
        if head != self.current:
            self.switch(head)
        return head

    def let_go(self, weights: Iterable[str]) -> None:
        """Remove adapters that are gone for good; answers that run keep theirs to their end.

        Runs on the engine thread.
        """
        with self._lock:
            unused = [w for w in weights if w != self.current and self._uses.get(w) == 0]
            for each in unused:
                del self._uses[each]
        for each in unused:
            self._adapters.remove(each)

    def release(self, weights: str) -> None:
        """Count one user less; what nobody uses is removed when its place is needed."""
        with self._lock:
            if weights in self._uses:
                self._uses[weights] -= 1

    def _lease(self, weights: str) -> Lease:
        """Count one user more; the caller holds the lock."""
        if weights in self._uses:
            self._uses[weights] += 1
            self._uses.move_to_end(weights)
        return Lease(self, weights)

    def _load_and_lease(self, weights: str, tensors: Tensors, alpha: float) -> Lease:
        if weights not in self._uses:
            self._load(weights, tensors, alpha, self._capacity)
        with self._lock:
            return self._lease(weights)

    def _load(self, weights: str, tensors: Tensors, alpha: float, limit: int) -> None:
        """Add an adapter; a swap may exceed the limit of requests by one, as it must not fail."""
        self._evict(limit - 1)
        if len(self._uses) >= limit:
            raise BusyError(f"{len(self._uses)} checkpoints are in use already; try again later")
        self._adapters.add(weights, tensors, alpha)
        with self._lock:
            self._uses[weights] = 0

    def _evict(self, room: int) -> None:
        """Remove unused adapters, the longest unused first, until at most `room` are left."""
        with self._lock:
            unused = [w for w, users in self._uses.items() if not users and w != self.current]
            surplus = unused[: max(len(self._uses) - room, 0)]
            for weights in surplus:
                del self._uses[weights]
        for weights in surplus:
            self._adapters.remove(weights)
