"""Runs the decoder: prefill of one sequence in chunks, decoding of several at once.

The one idea: a program is compiled for a number of rows and reads everything else, tokens, places,
page tables and adapters, from its inputs; so a handful of programs serves every mix of requests.
Layers may be spread over devices (`stages`); what sequences hold is known here, for all of them.
Invariant: a row's logits have the same bits whether it came alone, in a chunk or in a batch.
"""

import gc
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from homebox.engine.graph.device import HOST, Device
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.capture import Program
from homebox.engine.runtime.devices import device_named
from homebox.errors import DeviceError, DeviceLostError, EngineError
from homebox.model.config import ModelConfig
from homebox.model.decoder.activations import Activations
from homebox.model.decoder.adapter_memory import AdapterMemory
from homebox.model.decoder.paged_cache import KINDS, PagedCache
from homebox.model.decoder.pages import PAGE, Pages, Snapshot
from homebox.model.decoder.stages import (
    ADAPTERS,
    BATCHES,
    EVERY,
    Inputs,
    Making,
    Part,
    Sizes,
    Stage,
    chunks_for,
    cuts,
    whole,
)
from homebox.model.decoder.stages import Kind as Kind
from homebox.model.strictmath import Float32
from homebox.model.weights.placed_weights import PackedMatrices, Tell

log = logging.getLogger(__name__)

PATIENCE = 60.0  # seconds before a device that could not be opened again is tried once more

Int32 = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]


class Transformer:
    """A decoder with its base weights, cache and adapters; see the module's note.

    Slots 0 .. slots - 1 hold sequences. `context` is the most positions that one may fill, `rank`
    the largest rank of an adapter, `adapters` their number with the base. `parts` says which layers
    run where, by default all on the CPU; `weights` lie on the host, `tell` hears how many of their
    bytes were copied. `reopen` gives a device that was lost anew. `pool` is the number of pages
    that devices have memory for, by default enough for all slots; `most` of them are used.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: PackedMatrices,
        context: int,
        slots: int = 8,
        adapters: int = 8,
        rank: int = 16,
        activations: Activations = "f32",
        cache: str = "f32",
        parts: Sequence[Part] | None = None,
        tell: Tell | None = None,
        reopen: Callable[[str], Device] | None = None,
        pool: int = 0,
        most: int = 0,
    ) -> None:
        self.config = config
        self.context = context
        self.slots = slots
        self.weights = weights
        self._own_slot = slots  # for all_logits
        self._parts = tuple(parts or whole(config))
        self._sizes = Sizes(
            context,
            slots + 1,
            adapters,
            activations,
            "q8" if cache == "q8" else KINDS[cache],
            chunks_for(part.device for part in self._parts),
            pool,
        )
        self.pages = Pages(
            self._sizes.slots,
            context,
            self._copy_page,
            count=min(most or self._sizes.pages, self._sizes.pages),
            clear_page=self._clear_page,
        )
        self.prefill_chunk, self.shared_chunk = self._sizes.chunks[-1], self._sizes.chunks[-2]
        self._reopen = reopen or device_named
        self._resident: dict[int, tuple[Mapping[str, np.ndarray], float]] = {}
        self._known_cuts: dict[int, list[int]] = {}
        self._lost = ""  # what was said when a device was lost
        self._forgotten: set[int] = set()  # slots whose sequences a lost device took along
        self._retry_at = 0.0
        self._build(tell)

    def _build(self, tell: Tell | None = None) -> None:
        """Put everything on the devices."""
        self.stages = [
            Stage(self.config, self.weights, part, self._sizes, tell) for part in self._parts
        ]
        self.pages.reset()

    def _copy_page(self, source: int, target: int) -> None:
        self._everywhere(lambda cache: cache.copy_page(source, target))

    def _clear_page(self, page: int) -> None:
        self._everywhere(lambda cache: cache.clear_page(page))

    def _everywhere(self, action: Callable[[PagedCache], None]) -> None:
        """Do something with the keys and values of all stages."""
        try:
            for stage in self.stages:
                action(stage.cache)
        except DeviceLostError as error:
            self._lose(error)
            raise

    @property
    def adapters(self) -> AdapterMemory | None:
        """The adapters' memory of the first stage, once there was one."""
        return self.stages[0].adapters if self.stages else None

    @property
    def cache_bytes(self) -> int:
        """The bytes of all keys and values."""
        return sum(stage.cache.nbytes for stage in self.stages)

    @property
    def page_bytes(self) -> int:
        """The bytes of the keys and values of 64 positions."""
        return self.cache_bytes // self._sizes.pages

    @property
    def positions(self) -> int:
        """How many positions there are keys and values for."""
        return self._sizes.pages * self.stages[0].cache.PAGE

    def served_on(self, device: Device) -> Mapping[str, Tensor] | None:
        """Return the weights by name if all of them lie on this device."""
        if len(self.stages) == 1 and self.stages[0].device is device:
            return self.stages[0].weights.tensors
        return None

    # -- running --------------------------------------------------------------------------------

    def forward(self, slot: int, position: int, ids: Int32, adapter: int) -> Float32:
        """Process `ids` (at most `prefill_chunk`) from `position` on; return the last logits (V,).

        What the slot holds from `position` on is forgotten first. Raises DeviceError; after
        DeviceLostError what all slots held is gone, and the next call opens the device anew.
        """
        if len(ids) == 1:
            (logits,) = self.decode([slot], ids, [position], [adapter])
        else:
            self._revive()
            self._return_to(slot, position)
            at = 0
            for count in self._cuts(len(ids)):
                (logits,) = self._chunk(slot, ids[at : at + count], adapter, every=False)
                at += count
        return np.array(logits, np.float32)

    def _cuts(self, count: int) -> list[int]:
        """Return how many ids of a chunk to take in at once."""
        if count not in self._known_cuts:
            # Reading the weights takes as long as some rows, of which a wide device has more.
            fixed = max(part.device.busy_rows for part in self._parts) // 6
            self._known_cuts[count] = cuts(count, self._sizes.chunks, fixed)
        return self._known_cuts[count]

    def decode(
        self, slots: Sequence[int], ids: Int32, positions: Sequence[int], adapters: Sequence[int]
    ) -> Float32:
        """Process one id for each of several slots at its position; return the logits (B, V).

        A slot may have several rows in a row, at positions that follow each other: each sees those
        before it, as all keys are written before any is read.
        """
        self._revive()
        parts = []
        for start, end in self._batches(adapters):
            part = slice(start, end)
            parts.append(self._step(slots[part], ids[part], positions[part], adapters[part]))
        return np.concatenate(parts)

    def _batches(self, adapters: Sequence[int]) -> list[tuple[int, int]]:
        """Cut rows into batches that a program can hold."""
        cuts = [0]
        for i in range(1, len(adapters)):
            used = set(adapters[cuts[-1] : i + 1]) - {0}
            if i - cuts[-1] == BATCHES[-1] or len(used) > ADAPTERS[-1]:
                cuts.append(i)
        return list(pairwise([*cuts, len(adapters)]))

    def all_logits(self, ids: Int32, adapter: int = 0) -> Float32:
        """Return the logits after each of `ids` in a fresh context, (T, V)."""
        return self._of_every(ids, adapter, self.config.vocab_size, hidden=False)

    def hidden(self, ids: Int32, adapter: int = 0) -> Float32:
        """Return the last hidden state of each of `ids` in a fresh context, (T, hidden_size).

        It is what the head reads: the state after the last norm.
        """
        return self._of_every(ids, adapter, self.config.hidden_size, hidden=True)

    def hidden_part(self, slot: int, position: int, ids: Int32, adapter: int) -> Float32:
        """Return the last hidden states of at most 64 ids at a position of a slot, (T, H)."""
        self._revive()
        self._return_to(slot, position)
        found = self._chunk(slot, ids, adapter, every=True, hidden=True)
        return np.array(found[: len(ids)], np.float32)

    def _of_every(self, ids: Int32, adapter: int, width: int, hidden: bool) -> Float32:
        slot = self._own_slot
        self._revive()
        self.release(slot)
        parts = [np.zeros((0, width), np.float32)]
        try:
            self.pages.mark(slot, object())  # nobody's: whoever asked before asked for himself
            self.pages.reserve(slot, len(ids))
            for i in range(0, len(ids), EVERY):
                part = ids[i : i + EVERY]
                found = self._chunk(slot, part, adapter, every=True, hidden=hidden)
                parts.append(found[: len(part)].copy())
        finally:
            self.release(slot)
        return np.concatenate(parts)

    def truncate(self, slot: int, length: int) -> None:
        """Forget what a slot holds from position `length` on."""
        self.pages.truncate(slot, length)

    def release(self, slot: int) -> None:
        """Give the memory of a slot back."""
        self._forgotten.discard(slot)
        self.pages.free(slot)

    def snapshot(self, slot: int) -> Snapshot:
        """Keep what a slot holds, until `pages.drop`."""
        return self.pages.snapshot(slot)

    def restore(self, slot: int, snapshot: Snapshot) -> None:
        """Let a slot hold what was kept."""
        self.pages.restore(slot, snapshot)

    # -- pages that come from elsewhere ---------------------------------------------------------

    def read_page(self, page: int) -> Bytes:
        """Return what a page holds in all layers, uint8 (page_bytes,), a copy."""
        parts = [part for stage in self.stages for part in stage.cache.read_page(page)]
        return np.concatenate(parts)

    def put_page(self, slot: int, position: int, content: Bytes) -> None:
        """Let a slot hold what `read_page` gave at `position` and the 63 after it, and no more.

        `position` is a multiple of 64. Raises what `forward` does for want of memory or a device.
        """
        self._revive()
        self._return_to(slot, position)
        page = self.pages.append(slot, PAGE)[0] // PAGE
        at = 0
        try:
            for stage in self.stages:
                size = stage.cache.nbytes // self._sizes.pages
                stage.cache.write_page(page, content[at : at + size])
                at += size
        except DeviceLostError as error:
            self._lose(error)
            raise

    def numerics(self) -> str:
        """Return what decides the bytes of pages besides weights, adapter and ids."""
        parts = [(stage.layers, stage.numerics()) for stage in self.stages]
        return repr((self.config, self._sizes.per_slot, self._sizes.activations, parts))

    def set_adapter(
        self, index: int, tensors: Mapping[str, np.ndarray] | None, scale: float
    ) -> None:
        """Put an adapter into a slot (1 ..), or clear it; slot 0 is the base and stays empty.

        Raises DeviceError if it does not fit; one for a device that is lost comes with that.
        """
        self._resident.pop(index, None)
        if tensors is not None and any(part.device is not HOST for part in self._parts):
            self._resident[index] = (tensors, scale)
        if self._lost:
            return  # comes with the device
        try:
            for stage in self.stages:
                stage.set_adapter(index, tensors, scale)
        except DeviceLostError as error:
            self._lose(error)
        except DeviceError:
            self._resident.pop(index, None)
            if tensors is not None:
                raise

    def placing(
        self, index: int, tensors: Mapping[str, np.ndarray], scale: float
    ) -> Iterator[None]:
        """Put an adapter into an empty slot step by step, of which each takes a layer's time.

        Nothing may name the slot before the last step. Raises what `set_adapter` does.
        """
        stages = self.stages
        try:
            for stage in stages:
                yield from stage.placing(index, tensors, scale)
        except DeviceLostError as error:
            self._lose(error)
        if self.stages is not stages or self._lost:
            self.set_adapter(index, tensors, scale)
        elif any(part.device is not HOST for part in self._parts):
            self._resident[index] = (tensors, scale)

    def _return_to(self, slot: int, position: int) -> None:
        """Forget what a slot holds from `position` on; raises EngineError if there is a gap."""
        if slot in self._forgotten and position:
            raise DeviceLostError(
                "the device that held this conversation was lost and opened anew; ask again"
            )
        if position > self.pages.length(slot):
            raise EngineError(
                f"slot {slot} holds {self.pages.length(slot)} tokens; none can come at {position}"
            )
        self.pages.truncate(slot, position)

    def _chunk(
        self, slot: int, ids: Int32, adapter: int, every: bool, hidden: bool = False
    ) -> Float32:
        """Run a chunk of one sequence at its end; return what the program gives."""
        count = len(ids)
        length = EVERY if every else next(size for size in self._sizes.chunks if count <= size)
        start = self.pages.length(slot)
        places = self.pages.append(slot, count)
        adapted = int(adapter > 0 and self.adapters is not None)
        positions = np.arange(start, start + count, dtype=np.int32)
        inputs: Inputs = {
            "ids": padded(ids, length, 0),
            "positions": padded(positions, length, -1)[None],
            "places": padded(places, length, -1),
            "tables": self.pages.tables[slot][None],
        }
        values = {"adapter0": adapter} if adapted else {}
        kind = Kind(1, length, adapted, every, hidden)
        return self._run(kind, inputs, {**values, "count": count})

    def _step(
        self, slots: Sequence[int], ids: Int32, positions: Sequence[int], adapters: Sequence[int]
    ) -> Float32:
        """Run one row for each of at most 8 slots."""
        count = len(slots)
        size = next(size for size in BATCHES if count <= size)
        places = []
        for slot, position in zip(slots, positions, strict=True):
            self._return_to(slot, position)
            places.append(self.pages.append(slot, 1)[0])
        used = sorted(set(adapters) - {0}) if self.adapters is not None else []
        places_for = next(n for n in ADAPTERS if len(used) <= n)
        tables = np.zeros((size, self.pages.per_slot), np.int32)
        tables[:count] = self.pages.tables[list(slots)]
        inputs: Inputs = {
            "ids": padded(ids, size, 0),
            "positions": padded(positions, size, -1)[:, None],
            "places": padded(places, size, -1),
            "tables": tables,
            "adapters": padded(adapters, size, 0),
        }
        used += [0] * (places_for - len(used))
        values = {f"adapter{i}": index for i, index in enumerate(used)}
        return self._run(Kind(size, 1, places_for, False), inputs, values)[:count].copy()

    def _run(self, kind: Kind, inputs: Inputs, values: Mapping[str, int]) -> Float32:
        """Send rows through all stages; return the last one's output."""
        found: Float32 = np.zeros(0, np.float32)
        try:
            for stage in self.stages:
                found = stage.run(kind, {**inputs, "hidden": found}, values)
        except DeviceLostError as error:
            self._lose(error)
            raise
        return found

    # -- devices that are lost ------------------------------------------------------------------

    def _lose(self, error: DeviceError) -> None:
        """Note that a device is gone, and with it all that sequences had in memory."""
        # The text alone: the error holds on to stages, whose memory is needed for the new ones.
        self._lost = str(error)
        self.pages.lost = True
        log.warning("%s; it is opened anew for the next request", self._lost)
        self._forgotten |= {
            slot for slot in range(self._sizes.slots) if self.pages.length(slot) > 0
        }

    def _revive(self) -> None:
        """Open lost devices again and load everything anew; raises DeviceLostError if it fails."""
        if not self._lost:
            return
        names = ", ".join(dict.fromkeys(part.device.name for part in self._parts))
        if time.monotonic() < self._retry_at:
            raise DeviceLostError(
                f"{names} was lost and could not be used again ({self._lost}); choose another "
                "--device, or mend the driver and restart homebox"
            )
        self._retry_at = time.monotonic() + PATIENCE
        self.stages = []  # gives back what is left of them
        gc.collect()
        try:
            self._parts = tuple(Part(self._reopen(p.device.name), p.layers) for p in self._parts)
            self._build()
            for index, (tensors, scale) in self._resident.items():
                for stage in self.stages:
                    stage.set_adapter(index, tensors, scale)
        except DeviceError as error:
            self._lost = str(error)
            raise DeviceLostError(
                f"{names} was lost and could not be opened again: {error}"
            ) from error
        self._lost = ""
        log.warning("%s was opened anew", names)

    # -- programs -------------------------------------------------------------------------------

    def prepare(self) -> bool:
        """Make one program ready that answers will ask for; False if all of them are."""
        adapters = int(self.adapters is not None)
        kinds = [Kind(size, 1, adapters, False) for size in BATCHES]
        kinds += [Kind(1, length, adapters, False) for length in self._sizes.chunks]
        for stage in () if self._lost else self.stages:
            missing = [kind for kind in kinds if kind not in stage.programs]
            if missing:
                self._ready(stage, missing[0])
                return True
        return False

    def missing(self) -> Making | None:
        """Return what makes a program that base or adapter will ask for; None if there are all.

        It may run on any thread; what it gives then is for the thread that owns the transformer.
        """
        kinds = [Kind(size, 1, n, False) for n in (0, 1) for size in BATCHES]
        kinds += [Kind(1, length, n, False) for n in (0, 1) for length in self._sizes.chunks]
        for stage in () if self._lost else self.stages:
            for kind in kinds:
                if kind not in stage.programs and (stage.adapters or not kind.adapters):
                    return stage.making(kind)
        return None

    def _ready(self, stage: Stage, kind: Kind) -> None:
        try:
            stage.program(kind)
        except DeviceLostError as error:
            self._lose(error)  # now, and not at the cost of the next request
            raise

    def program(self, kind: Kind, stage: int = 0) -> Program:
        """Return a stage's program of a kind, compiling it at first use."""
        return self.stages[stage].program(kind)


def padded(values: Sequence[int] | Int32, size: int, value: int) -> Int32:
    """Return int32 (size,): the values, then as many of `value` as are missing."""
    out = np.full(size, value, np.int32)
    out[: len(values)] = values
    return out
