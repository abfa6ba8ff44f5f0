"""Runs the decoder: prefill of one sequence in chunks, decoding of several at once.

The one idea: a program is compiled for a number of rows and reads everything else, tokens, places,
page tables and adapters, from its inputs; so a handful of programs serves every mix of requests.
Invariant: a row's logits have the same bits whether it came alone, in a chunk or in a batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.device import Buffer
from homebox.engine.graph.ops import Sym
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.capture import Program, Spec, capture
from homebox.errors import EngineError
from homebox.model.activations import Activations
from homebox.model.adapter_memory import AdapterMemory, Chosen, rank_bucket
from homebox.model.block import Decoder, PackedMatrices, Rows
from homebox.model.config import ModelConfig
from homebox.model.paged_cache import KINDS, PagedCache
from homebox.model.paged_cache import Kind as CacheKind
from homebox.model.pages import PAGE, Pages, Snapshot
from homebox.model.panels import round_up
from homebox.model.strictmath import Float32

CHUNKS = (16, 64, 256)  # rows of a prefill program; the smallest that holds the chunk is taken
BATCHES = (1, 2, 4, 8)  # sequences of a decode program
ADAPTERS = (0, 1, 2, 4)  # adapters of a program
EVERY = 64  # rows of the program that returns all logits

Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Kind:
    """What a program is compiled for."""

    batch: int  # sequences
    length: int  # rows of each
    adapters: int  # how many besides the base the rows may use
    every: bool  # logits of all rows, not of each sequence's last


class Transformer:
    """A decoder with its base weights, cache and adapters; see the module's note.

    Slots 0 .. slots - 1 hold sequences. `context` is the most positions that one may fill, `rank`
    the largest rank of an adapter, `adapters` their number with the base.
    """

    prefill_chunk = CHUNKS[-1]
    shared_chunk = CHUNKS[1]

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
    ) -> None:
        self.config = config
        self.context = context
        self.slots = slots
        self.weights = weights
        self._own_slot = slots  # for all_logits
        per_slot = -(-context // PAGE)
        kind: CacheKind = "q8" if cache == "q8" else KINDS[cache]
        self.cache = PagedCache(config, (slots + 1) * per_slot, kind)
        self.pages = Pages(slots + 1, context, self.cache.copy_page)
        self.decoder = Decoder(config, weights, self.cache, round_up(context, PAGE), activations)
        self._adapter_slots = adapters
        self._most_rank = rank
        self.adapters: AdapterMemory | None = None
        self._programs: dict[Kind, Program] = {}

    # -- running --------------------------------------------------------------------------------

    def forward(self, slot: int, position: int, ids: Int32, adapter: int) -> Float32:
        """Process `ids` (at most `prefill_chunk`) from `position` on; return the last logits (V,).

        What the slot holds from `position` on is forgotten first.
        """
        if len(ids) == 1:
            (logits,) = self.decode([slot], ids, [position], [adapter])
        else:
            self._return_to(slot, position)
            (logits,) = self._chunk(slot, ids, adapter, every=False)
        return np.array(logits, np.float32)

    def decode(
        self, slots: Sequence[int], ids: Int32, positions: Sequence[int], adapters: Sequence[int]
    ) -> Float32:
        """Process one id for each of several slots at its position; return the logits (B, V)."""
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
        slot = self._own_slot
        self.pages.free(slot)
        parts = [np.zeros((0, self.config.vocab_size), np.float32)]
        for i in range(0, len(ids), EVERY):
            part = ids[i : i + EVERY]
            parts.append(self._chunk(slot, part, adapter, every=True)[: len(part)].copy())
        self.pages.free(slot)
        return np.concatenate(parts)

    def release(self, slot: int) -> None:
        """Give the memory of a slot back."""
        self.pages.free(slot)

    def snapshot(self, slot: int) -> Snapshot:
        """Keep what a slot holds, until `pages.drop`."""
        return self.pages.snapshot(slot)

    def restore(self, slot: int, snapshot: Snapshot) -> None:
        """Let a slot hold what was kept."""
        self.pages.restore(slot, snapshot)

    def set_adapter(
        self, index: int, tensors: Mapping[str, np.ndarray] | None, scale: float
    ) -> None:
        """Put an adapter into a slot (1 ..), or clear it; slot 0 is the base and stays empty."""
        if tensors is not None:
            self._make_room(tensors["layers.0.q.A"].shape[0])
        if self.adapters is not None:
            self.adapters.write(index, tensors, scale)

    def _return_to(self, slot: int, position: int) -> None:
        """Forget what a slot holds from `position` on; raises EngineError if there is a gap."""
        if position > self.pages.length(slot):
            raise EngineError(
                f"slot {slot} holds {self.pages.length(slot)} tokens; none can come at {position}"
            )
        self.pages.truncate(slot, position)

    def _make_room(self, rank: int) -> None:
        """Lay out the adapters' memory for a rank; programs are compiled anew if it grows."""
        if self.adapters is not None and rank <= self.adapters.rank:
            return
        larger = AdapterMemory(self.config, self._adapter_slots, rank_bucket(rank))
        if self.adapters is not None:
            larger.take_over(self.adapters)
        self.adapters = larger
        self._programs = {k: p for k, p in self._programs.items() if not k.adapters}

    def _chunk(self, slot: int, ids: Int32, adapter: int, every: bool) -> Float32:
        """Run a chunk of one sequence at its end; return the program's logits."""
        count = len(ids)
        length = EVERY if every else next(size for size in CHUNKS if count <= size)
        start = self.pages.length(slot)
        places = self.pages.append(slot, count)
        adapted = int(adapter > 0 and self.adapters is not None)
        kind = Kind(1, length, adapted, every)
        program = self.program(kind)
        program.set_input("ids", padded(ids, length, 0))
        positions = np.arange(start, start + count, dtype=np.int32)
        program.set_input("positions", padded(positions, length, -1)[None])
        program.set_input("places", padded(places, length, -1))
        program.set_input("tables", self.pages.tables[slot][None])
        values = {"adapter0": adapter} if adapted else {}
        program.run(values if every else {**values, "count": count})
        return program.output(0).numpy()

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
        program = self.program(Kind(size, 1, places_for, False))
        program.set_input("ids", padded(ids, size, 0))
        program.set_input("positions", padded(positions, size, -1)[:, None])
        program.set_input("places", padded(places, size, -1))
        tables = np.zeros((size, self.pages.per_slot), np.int32)
        tables[:count] = self.pages.tables[list(slots)]
        program.set_input("tables", tables)
        if used:
            program.set_input("adapters", padded(adapters, size, 0))
        used += [0] * (places_for - len(used))
        program.run({f"adapter{i}": index for i, index in enumerate(used)})
        return program.output(0).copy()[:count]

    # -- programs -------------------------------------------------------------------------------

    def prepare(self) -> bool:
        """Make one program ready that answers will ask for; False if all of them are."""
        adapters = int(self.adapters is not None)
        kinds = [Kind(size, 1, adapters, False) for size in BATCHES]
        kinds += [Kind(1, length, adapters, False) for length in CHUNKS]
        missing = [kind for kind in kinds if kind not in self._programs]
        if missing:
            self.program(missing[0])
        return bool(missing)

    def program(self, kind: Kind) -> Program:
        """Return the program of a kind, compiling it at first use."""
        if kind not in self._programs:
            self._programs[kind] = self._capture(kind)
        return self._programs[kind]

    def _capture(self, kind: Kind) -> Program:
        count = kind.batch * kind.length
        chunk = kind.length > 1
        rows = Sym("count", 1, count)
        most = self._adapter_slots - 1
        chosen = tuple(Sym(f"adapter{i}", 0, most) for i in range(kind.adapters))
        inputs = {
            "ids": Spec((count,), dt.i32),
            "positions": Spec((kind.batch, kind.length), dt.i32),
            "places": Spec((count,), dt.i32),
            "tables": Spec((kind.batch, self.pages.per_slot), dt.i32),
        }
        if kind.adapters and not chunk:
            inputs["adapters"] = Spec((count,), dt.i32)
        syms = list(chosen)
        if chunk and not kind.every:
            syms.append(rows)

        def step(
            ids: Tensor,
            positions: Tensor,
            places: Tensor,
            tables: Tensor,
            adapters: Tensor | None = None,
        ) -> list[Tensor]:
            last = (Tensor.variable(rows) + -1).reshape((1,)) if rows in syms else None
            place = Rows(positions, places, tables, Chosen(chosen, adapters), last)
            return [self.decoder.logits(ids, place, self.adapters)]

        name = f"{'chunk' if chunk else 'decode'} {count}" + "+lora" * kind.adapters
        memory = self._memory(kind)
        return capture(step, inputs, syms, name, self._key(kind) if memory else None, memory)

    def _key(self, kind: Kind) -> str:
        """Return what decides a program's graph, save for source code and machine."""
        rank = self.adapters.rank if kind.adapters and self.adapters is not None else 0
        parts = (
            self.config,
            self.weights.form.name,
            self.decoder.activations,
            (self.cache.dtype.name, self.cache.quantised),
            (self.pages.per_slot, self.cache.pages),
            (self._adapter_slots, rank),
            kind,
        )
        return repr(parts)

    def _memory(self, kind: Kind) -> dict[str, Buffer]:
        """Return all memory of a program, by names that are the same in every process."""
        if not self.weights.buffers:
            return {}
        found = {**self.weights.buffers}
        found |= {f"kv:{layer}": t.buffer for layer, t in enumerate(self.cache.memory)}
        found |= {"rope:cos": self.decoder.cos.buffer, "rope:sin": self.decoder.sin.buffer}
        if kind.adapters and self.adapters is not None:
            found |= self.adapters.buffers
        return found


def padded(values: Sequence[int] | Int32, size: int, value: int) -> Int32:
    """Return int32 (size,): the values, then as many of `value` as are missing."""
    out = np.full(size, value, np.int32)
    out[: len(values)] = values
    return out
