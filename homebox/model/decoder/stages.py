"""A stage: some layers of a decoder on one device, with all that they need there.

One idea: a model is a row of stages that hand hidden states on through the host, and a model on one
device is a row of one. Every stage has the cache, the adapters and the programs of its own layers;
page tables, slots and positions are the same for all. Invariant: a stage of all layers runs the
programs that a model without stages would run, by the same keys.
"""

import gc
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.device import HOST, Buffer, Device, using
from homebox.engine.graph.ops import Op, Sym
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.capture import Program, Spec, capture
from homebox.engine.runtime.devices import backend_of
from homebox.errors import DeviceError, OutOfDeviceMemoryError
from homebox.model.config import ModelConfig
from homebox.model.decoder.activations import Activations
from homebox.model.decoder.adapter_memory import AdapterMemory, Chosen, rank_bucket
from homebox.model.decoder.block import Decoder, Rows
from homebox.model.decoder.paged_cache import Kind as CacheKind
from homebox.model.decoder.paged_cache import PagedCache
from homebox.model.decoder.pages import PAGE
from homebox.model.decoder.panels import round_up
from homebox.model.weights.placed_weights import PackedMatrices, Tell, weights_on

log = logging.getLogger(__name__)

# Rows of a prefill program; the smallest that holds the chunk is taken. Those above what keeps a
# device busy only make others wait.
CHUNKS = (16, 64, 256, 1024)
BATCHES = (1, 2, 4, 8)  # sequences of a decode program
ADAPTERS = (0, 1, 2, 4)  # adapters of a program
EVERY = 64  # rows of the programs that return something of every row

Inputs = Mapping[str, npt.NDArray[np.generic]]
Making: TypeAlias = Callable[[], Callable[[], None]]  # what it gives keeps what was made


@dataclass(frozen=True, slots=True)
class Kind:
    """What a program is compiled for."""

    batch: int  # sequences
    length: int  # rows of each
    adapters: int  # how many besides the base the rows may use
    every: bool  # logits of all rows, not of each sequence's last
    hidden: bool = False  # the last hidden states instead of logits


@dataclass(frozen=True)
class Part:
    """Which layers run on which device."""

    device: Device
    layers: range


@dataclass(frozen=True)
class Sizes:
    """What all stages of a model have in common."""

    context: int  # positions that a sequence may fill
    slots: int  # sequences
    adapters: int  # with the base
    activations: Activations
    cache: CacheKind
    chunks: tuple[int, ...]  # of CHUNKS, see `chunks_for`
    pool: int = 0  # pages of all sequences together; 0: as many as all can fill

    @property
    def per_slot(self) -> int:
        """Pages of a sequence."""
        return -(-self.context // PAGE)

    @property
    def pages(self) -> int:
        """Pages of all sequences."""
        return self.pool or self.slots * self.per_slot


def chunks_for(devices: Iterable[Device]) -> tuple[int, ...]:
    """Return the rows of prefill programs for a model on these devices."""
    most = max(device.busy_rows for device in devices)
    return tuple(rows for rows in CHUNKS if rows <= most)


def cuts(count: int, chunks: tuple[int, ...], fixed: int) -> list[int]:
    """Return the rows to take in by one program each, `count` in all, so that it is soonest done.

    A program takes the time of all its rows, also of those that are not used, and of `fixed` more.
    `count` is at most the largest of `chunks`.
    """
    best: list[tuple[int, list[int]]] = [(0, [])]
    for rows in range(1, count + 1):
        ways = [(best[max(rows - size, 0)], size) for size in chunks]
        cost, parts, size = min((b[0] + size + fixed, b[1], size) for b, size in ways)
        best.append((cost, [*parts, min(size, rows)]))
    return sorted(best[count][1], reverse=True)


def whole(config: ModelConfig, device: Device = HOST) -> tuple[Part, ...]:
    """Return the parts of a model that is on one device."""
    return (Part(device, range(config.num_layers)),)


class Stage:
    """The layers of one part."""

    def __init__(
        self,
        config: ModelConfig,
        weights: PackedMatrices,
        part: Part,
        sizes: Sizes,
        tell: Tell | None = None,
    ) -> None:
        self.config, self.sizes = config, sizes
        self.device, self.layers = part.device, part.layers
        self.weights = weights_on(self.device, config, weights, self.layers, tell)
        with using(self.device):
            self.cache = PagedCache(config, sizes.pages, sizes.cache, self.layers)
            self.decoder = Decoder(
                config,
                self.weights,
                self.cache,
                round_up(sizes.context, PAGE),
                sizes.activations,
                self.layers,
            )
        self.adapters: AdapterMemory | None = None
        self.programs: dict[Kind, Program] = {}

    # -- adapters -------------------------------------------------------------------------------

    def set_adapter(
        self, index: int, tensors: Mapping[str, np.ndarray] | None, scale: float
    ) -> None:
        """Put an adapter into a slot (1 ..), or clear it; slot 0 is the base and stays empty."""
        if tensors is not None:
            self._make_room(_rank(tensors))
        if self.adapters is not None:
            self.adapters.write(index, tensors, scale)

    def placing(
        self, index: int, tensors: Mapping[str, np.ndarray], scale: float
    ) -> Iterator[None]:
        """Put an adapter into an empty slot, which no row names yet, a layer at every step."""
        self._make_room(_rank(tensors))
        for layer in self.layers:
            # The memory may grow between two steps; what was written goes along.
            if self.adapters is not None:
                self.adapters.write_layer(index, layer, tensors, scale)
            yield

    def _make_room(self, rank: int) -> None:
        """Lay out the adapters' memory for a rank; programs are compiled anew if it grows."""
        if self.adapters is not None and rank <= self.adapters.rank:
            return
        with using(self.device):
            larger = AdapterMemory(self.config, self.sizes.adapters, rank_bucket(rank), self.layers)
        if self.adapters is not None:
            larger.take_over(self.adapters)
        self.adapters = larger
        self.programs = {k: p for k, p in self.programs.items() if not k.adapters}

    # -- running --------------------------------------------------------------------------------

    def run(self, kind: Kind, inputs: Inputs, values: Mapping[str, int]) -> np.ndarray:
        """Run a program; return its output, readable until the next run of the same kind.

        Inputs that it does not have are left out. After a DeviceError the stage can be used again,
        as far as its device can.
        """
        try:
            program = self.program(kind)
            for name in program.inputs:
                program.set_input(name, inputs[name])
            program.run(values)
            return program.output(0).numpy()
        except OutOfDeviceMemoryError:
            # Each program has memory of its own; the next one may do with what others gave back.
            self.forget_programs()
            raise
        except DeviceError:
            self.abandon(kind)
            raise

    def abandon(self, kind: Kind) -> None:
        """Let a program that broke off begin anew the next time."""
        if kind in self.programs:
            self.programs[kind].abandon()

    def forget_programs(self) -> None:
        """Give the memory of all programs back; they are loaded from the disk when needed."""
        self.programs.clear()
        gc.collect()

    # -- programs -------------------------------------------------------------------------------

    def program(self, kind: Kind) -> Program:
        """Return the program of a kind, compiling it at first use."""
        if not self.decoder.last:
            kind = replace(kind, hidden=False)  # hidden states come out in any case
        if kind not in self.programs:
            with using(self.device):
                self.programs[kind] = self._capture(kind)
        return self.programs[kind]

    def making(self, kind: Kind) -> Making:
        """Return what makes a program on any thread, and gives what keeps it on the owner's."""
        adapters = self.adapters

        def make() -> Callable[[], None]:
            with using(self.device):
                program = self._capture(kind)

            def keep() -> None:
                if self.adapters is adapters:  # else it reads memory that is no longer theirs
                    self.programs.setdefault(kind, program)

            return keep

        return make

    def _capture(self, kind: Kind) -> Program:
        count = kind.batch * kind.length
        chunk = kind.length > 1
        rows = Sym("count", 1, count)
        most = self.sizes.adapters - 1
        chosen = tuple(Sym(f"adapter{i}", 0, most) for i in range(kind.adapters))
        inputs = {"ids": Spec((count,), dt.i32)}
        if not self.decoder.first:
            inputs = {"hidden": Spec((count, self.config.hidden_size))}
        inputs |= {
            "positions": Spec((kind.batch, kind.length), dt.i32),
            "places": Spec((count,), dt.i32),
            "tables": Spec((kind.batch, self.sizes.per_slot), dt.i32),
        }
        if kind.adapters and not chunk:
            inputs["adapters"] = Spec((count,), dt.i32)
        syms = list(chosen)
        if chunk and not kind.every and self.decoder.last:
            syms.append(rows)

        def step(
            positions: Tensor,
            places: Tensor,
            tables: Tensor,
            adapters: Tensor | None = None,
            **source: Tensor,
        ) -> list[Tensor]:
            (x,) = source.values()
            last = (Tensor.variable(rows) + -1).reshape((1,)) if rows in syms else None
            place = Rows(positions, places, tables, Chosen(chosen, adapters), last)
            return [self.decoder.run(x, place, self.adapters, kind.hidden)]

        name = f"{'chunk' if chunk else 'decode'} {count}" + "+lora" * kind.adapters
        name += " hidden" * kind.hidden
        if len(self.layers) < self.config.num_layers:
            name += f" layers {self.layers.start}-{self.layers.stop - 1}"
        memory = self._memory(kind)
        return capture(step, inputs, syms, name, self._key(kind) if memory else None, memory)

    def _key(self, kind: Kind) -> str:
        """Return what decides a program's graph, save for source code and machine."""
        rank = self.adapters.rank if kind.adapters and self.adapters is not None else 0
        parts: tuple[object, ...] = (
            self.config,
            self.weights.form.name,
            self._other_formats(),
            self.decoder.activations,
            (self.cache.dtype.name, self.cache.quantised),
            (self.sizes.per_slot, self.cache.pages),
            (self.sizes.adapters, rank),
            kind,
        )
        if len(self.layers) < self.config.num_layers:
            parts += (self.layers,)
        return repr(parts)

    def numerics(self) -> tuple[object, ...]:
        """Return what decides the bits of keys and values besides weights and source code."""
        cache = (self.cache.dtype.name, self.cache.quantised, self.cache.page_size)
        identity = backend_of(self.device).identity
        return (identity, self.weights.form.name, self._other_formats(), cache)

    def _other_formats(self) -> list[tuple[str, str]]:
        """Return the matrices that are not in the format of most."""
        nodes = [(name, tensor.node) for name, tensor in sorted(self.weights.tensors.items())]
        form = self.weights.form
        return [(name, str(n.arg)) for name, n in nodes if n.op is Op.UNPACK and n.arg is not form]

    def _memory(self, kind: Kind) -> dict[str, Buffer]:
        """Return all memory of a program, by names that are the same in every process."""
        if not self.weights.buffers:
            return {}
        found = {**self.weights.buffers}
        caches = zip(self.layers, self.cache.memory, strict=True)
        found |= {f"kv:{layer}": t.buffer for layer, t in caches}
        found |= self.decoder.buffers
        if kind.adapters and self.adapters is not None:
            found |= self.adapters.buffers
        return found


def _rank(tensors: Mapping[str, np.ndarray]) -> int:
    return int(next(tensor.shape[0] for name, tensor in tensors.items() if name.endswith(".A")))
