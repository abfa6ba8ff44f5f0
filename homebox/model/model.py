"""A loaded model: configuration, tokenizer, chat format, transformer, adapters and KV slots.

The one idea: this is the only object that the rest of homebox holds of a model.
Invariant: the base weights never change; what was learned is a named adapter beside them.
"""

import logging
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Ids
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from homebox.engine.graph.device import HOST, Device
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.devices import device_named
from homebox.engine.runtime.stop_flag import StopFlag
from homebox.errors import ConfigError
from homebox.model.adapters import BASE, Adapters, AdapterSlots, Slots
from homebox.model.chat.formats import chat_format
from homebox.model.decoder.activations import Activations
from homebox.model.embedding import Hidden, embedding
from homebox.model.generation.contract import Forward, MakeChooser, Piece
from homebox.model.generation.generate import run
from homebox.model.generation.request import GenerationRequest
from homebox.model.generation.sampling import Sampler, SamplingParams
from homebox.model.generation.sequence import Sequence
from homebox.model.generation.speculation import Speculation
from homebox.model.generation.stepping import Pace, check_prompt, check_request, step_all
from homebox.model.loading.loader import LoadedModel, LoadedWeights
from homebox.model.loading.open_model import model_name, open_model, open_weights
from homebox.model.passing import Passing, passed
from homebox.model.placement.devices import choose, lost, room_of
from homebox.model.placement.others import NOBODY, Others
from homebox.model.prefixes.disk import DiskPrefixes, disk_prefixes
from homebox.model.prefixes.sharing import Prefixes
from homebox.model.strictmath import Float32
from homebox.model.weights.placed_weights import Tell, moved

if TYPE_CHECKING:
    from homebox.model.decoder.stages import Making, Sizes
    from homebox.model.generation.guide import Guide
    from homebox.model.guides import Wanted
    from homebox.model.placement.plan import Placement
    from homebox.model.weights.packed_layout import Packing

log = logging.getLogger(__name__)

DEFAULT_CONTEXT = 4096
DEFAULT_SLOTS = 8
DEFAULT_ADAPTERS = 8  # with the base
DEFAULT_RANK = 16
AUTO = "auto"


@dataclass(frozen=True)
class PlannedLoad:
    """What `load` is about to do: everything is checked and chosen, nothing taken yet."""

    loaded: LoadedModel
    packing: "Packing"
    sizes: "Sizes"
    cache: str  # of what keys and values are
    placement: "Placement"
    pages: int  # of 64 positions, which conversations and what is kept of them may take


class Computation(Forward, Hidden, AdapterSlots, Protocol):
    """What a model needs of its transformer."""

    def all_logits(self, ids: npt.NDArray[np.int32], adapter: int = 0) -> Float32:
        """Return the logits after each of `ids` in a fresh context, float32 (T, V)."""
        ...

    def hidden(self, ids: npt.NDArray[np.int32], adapter: int = 0) -> Float32:
        """Return the last hidden state of each of `ids` in a fresh context, float32 (T, H)."""
        ...

    def prepare(self) -> bool:
        """Make one program ready; False if all of them are."""
        ...

    def missing(self) -> "Making | None":
        """Return what makes a program on any thread; see `Transformer.missing`."""
        ...


class Model:
    """A model that answers.

    Everything that computes or takes memory of it (`start`, `Sequence.step`, `Sequence.close`,
    `logits`, `adapters.add`, `adapters.remove`) is for the one thread that owns it.
    """

    def __init__(
        self,
        name: str,
        loaded: LoadedModel,
        transformer: Computation,
        context: int,
        slots: int = DEFAULT_SLOTS,
        adapters: int = DEFAULT_ADAPTERS,
        rank: int = DEFAULT_RANK,
        packed: Mapping[str, Tensor] | None = None,
        placement: "Placement | None" = None,
    ) -> None:
        self.name = name
        self.config = loaded.config
        self.tokenizer = loaded.tokenizer
        self.weights = loaded.weights  # float32 arrays, named as in config.weight_shapes()
        self.packed = packed  # the weights that are served, where these are not float32
        self.placement = placement  # None: on the CPU
        self.kept = ""  # what the numbers of the files became, for a person
        self.type = "f32"  # how most weights are kept
        self.base_hash = loaded.base_hash
        self.context = context
        self.transformer = transformer
        self.chat = chat_format(self.tokenizer, self.config.bos_id, self.config.eos_ids)
        self.stop_ids = frozenset((*self.config.eos_ids, *self.chat.stop_ids))
        self.adapters = Adapters(self.config, transformer, adapters - 1, rank)
        self.slots = Slots(slots)
        self.prefixes = Prefixes(getattr(transformer, "pages", None))
        self.disk: DiskPrefixes | None = None  # prefixes that outlive the process
        self.sampler: MakeChooser = Sampler
        self.speculation = Speculation()
        self.pace = Pace()
        self.interrupt = StopFlag()  # set: training pauses between two launches
        self._tensors: dict[str, Tensor] | None = None
        self._copies: dict[Device, dict[str, Tensor]] = {}  # for training, by device

    def base_tensors(self) -> dict[str, Tensor]:
        """Return the base's weights as frozen tensors, made at the first call (for training).

        Float32 weights are those of `weights`; others are the packed matrices that are served, with
        q, k and v stacked as "qkv".
        """
        if self._tensors is None and self.packed is not None:
            self._tensors = dict(self.packed)
        elif self._tensors is None:
            self._tensors = {
                name: Tensor.from_numpy(array, frozen=True) for name, array in self.weights.items()
            }
        return self._tensors

    def tensors_on(self, device: Device) -> dict[str, Tensor]:
        """Return what `base_tensors` does in memory of a device; what is served there is shared."""
        if device is HOST:
            return self.base_tensors()
        if device not in self._copies:
            served = getattr(self.transformer, "served_on", lambda _: None)(device)
            if served is None or self.packed is None:
                served = moved(self.base_tensors(), device)
            self._copies = {known: t for known, t in self._copies.items() if not lost(known)}
            self._copies[device] = dict(served)
        return self._copies[device]

    def training_devices(self) -> tuple[Device, ...]:
        """Return the devices that can hold the whole base, the one that serves first.

        Where layers are spread over devices because none holds them all, that is the CPU.
        """
        if self.placement is None:
            return (HOST,)
        return tuple(device_named(name) for name in self.placement.training)

    def forget_copies(self) -> None:
        """Give back the base's weights that lie on devices for training only."""
        self._copies.clear()

    def logits(self, ids: Ids[int], adapter: str = BASE) -> Float32:
        """Return the logits after each of `ids` in a fresh context, float32 (T, V)."""
        check_prompt(ids, self.config.vocab_size, self.context + 1)
        index = self.adapters.take(adapter)
        try:
            return self.transformer.all_logits(np.array(ids, dtype=np.int32), index)
        finally:
            self.adapters.give_back(index)

    def passed(self, ids: Ids[int], adapter: str = BASE) -> Passing:
        """Compute what `logits` does part by part; see `passing.passed`."""
        return passed(self, ids, adapter)

    def embedding(self, ids: Ids[int], adapter: str = BASE) -> Iterator[Float32 | None]:
        """Compute the mean of the last hidden states of `ids` step by step; see `embedding`."""
        return embedding(self, ids, adapter)

    def embed(self, ids: Ids[int], adapter: str = BASE) -> Float32:
        """Return the mean of the last hidden states of `ids`, float32 (hidden_size,)."""
        return next(vector for vector in self.embedding(ids, adapter) if vector is not None)

    def start(self, request: GenerationRequest) -> Sequence:
        """Begin a generation that its owner steps; on the thread that owns the model.

        It begins with what is there of its prompt, if it has an owner, and has all the memory for
        keys and values that it may need. Raises ContextLengthError, RequestError,
        ModelNotFoundError (no such adapter), and NoFreeSlotError while others have that memory.
        """
        self.prefixes.refuse_again(request)
        check_request(request, self.config.vocab_size, self.context)
        index = self.adapters.take(request.adapter)
        try:
            slot = self.slots.take()
        except BaseException:
            self.adapters.give_back(index)
            raise

        def release() -> None:
            try:
                self.prefixes.end(slot)
                if self.disk is not None:
                    self.disk.end(slot)
            finally:
                self.transformer.release(slot)
                self.slots.give_back(slot)
                self.adapters.give_back(index)

        count = len(request.prompt_ids)
        most = request.sampling.max_tokens
        positions = self.context if most is None else min(count + most, self.context)
        try:
            cached = self.prefixes.begin(slot, request, positions)
            return Sequence(
                self.transformer,
                self.tokenizer,
                request,
                slot=slot,
                adapter=index,
                context=self.context,
                stop_ids=self.stop_ids,
                on_close=release,
                cached=cached,
                restored=self._restored(slot, request, cached),
                on_taken=partial(self._taken, slot),
                sampler=self.sampler,
                guesses=self.speculation.statistics if self.speculation.on else None,
            )
        except BaseException:
            release()
            raise

    def guide(self, wanted: "Wanted") -> "Guide | None":
        """Return what holds an answer to what is wanted of it; see `guides.guide_for`."""
        from homebox.model.guides import guide_for

        return guide_for(self.tokenizer, self.stop_ids, wanted, self.config.vocab_size)

    def keep_prefixes(self, budget: int) -> None:
        """Keep what stays the same in prompts on disk too, in at most `budget` bytes (0: nothing).

        It lies in the cache folder, and is used by the next process that serves the same model.
        """
        self.disk = disk_prefixes(self, budget) if budget else None

    def forget_prefixes(self) -> None:
        """Let go of all prompts that are kept, in memory and on disk; on the model's thread."""
        self.prefixes.clear()
        if self.disk is not None:
            self.disk.forget()

    def _restored(self, slot: int, request: GenerationRequest, cached: int) -> Iterator[int] | None:
        """Return what brings in more of a prompt than the `cached` ids, if that is kept."""
        if self.disk is None or not self.prefixes.enabled:
            return None
        return self.disk.begin(slot, self.prefixes.space_of(request), request, cached)

    def _taken(self, slot: int, ids: Ids[int]) -> None:
        self.prefixes.taken(slot, ids)
        if self.disk is not None:
            self.disk.taken(slot, len(ids))

    def prepare(self) -> bool:
        """Do a part of what can be done while nothing else is; False if nothing is left to do.

        That is what the first answers would wait for, then what the next process can begin with.
        """
        return self.transformer.prepare() or (self.disk is not None and self.disk.idle())

    def missing(self) -> "Making | None":
        """Return what makes a program on any thread; see `Transformer.missing`."""
        return self.transformer.missing()

    def reserve(self) -> bool:
        """Do a part of what `prepare` does if that takes memory of a device; False at the end.

        Whoever is about to take the rest of that memory lets answers have theirs first.
        """
        if self.placement is None or all(p.room.host for p in self.placement.portions):
            return False
        return self.transformer.prepare()

    def step(self, sequences: Ids[Sequence]) -> list[Piece | Exception | None]:
        """Step several sequences at once; see `stepping.step_all`."""
        outcomes = step_all(self.transformer, sequences, self.pace)
        if self.disk is not None:
            self.disk.advance()
        return outcomes

    def generate(
        self, prompt_ids: Ids[int], sampling: SamplingParams, adapter: str = BASE
    ) -> Iterator[Piece]:
        """Yield the pieces of one answer."""
        return run(self.start(GenerationRequest(prompt_ids, sampling, adapter)))


def load(
    path: str | Path,
    context: int | None = None,
    slots: int = DEFAULT_SLOTS,
    adapters: int = DEFAULT_ADAPTERS,
    rank: int = DEFAULT_RANK,
    weights: str = AUTO,
    activations: str = AUTO,
    device: str = HOST.name,
    memory: int = 0,
    kv: str = AUTO,
    kv_memory: int = 0,
    tell: Tell | None = None,
    others: Others = NOBODY,
    opened: LoadedModel | None = None,
) -> Model:
    """Load a Hugging Face directory, a GGUF file, or the built-in model by the name "tiny".

    `context` is the number of positions (prompt and answer) that a sequence may fill; by default
    as many as the model was made for, at most 4096. `weights` is f32, bf16, q8 or q4, by default
    f32 for small models, for others q8 or, of a GGUF file, what loses least (`gguf_format`).
    `activations` is f32, bf16 or int8, by default what is fastest for the weights: f32 for f32,
    bf16 for bf16, int8 for q8 and q4. `device` is "cpu", "cl:0", several with commas, or "auto" for
    the best GPU; `memory` the most MiB to take of each (0: what is free). `kv` is what keys and
    values are kept as: f32, f16, bf16 or q8, by default f32 for f32 activations, else f16;
    `kv_memory` the MiB for all of them (0: for all slots). `tell` hears how many bytes of the
    weights are packed, and then how many are on devices; `others` says what models that are loaded
    already have, `opened` is what `open_model` gave for `path`, if that was called.
    Raises ModelNotFoundError, ModelFormatError, ConfigError for what the model cannot have, and
    DeviceError before anything is loaded if a device cannot be used or the model does not fit.
    """
    # Late: reading files needs no compiler.
    from homebox.model.decoder.transformer import Transformer
    from homebox.model.loading.gguf_format import kept_as
    from homebox.model.weights.packed_weights import pack_model

    found = plan_load(
        path,
        context,
        slots,
        adapters,
        rank,
        weights,
        activations,
        device,
        memory,
        kv,
        kv_memory,
        others,
        opened,
    )
    loaded, packing, sizes = found.loaded, found.packing, found.sizes
    for line in found.placement.table():
        log.info("%s", line)
    source = loaded.weights if isinstance(loaded.weights, LoadedWeights) else open_weights(path)
    packed = pack_model(source, packing, tell)
    transformer = Transformer(
        loaded.config,
        packed,
        sizes.context,
        slots,
        adapters,
        rank,
        activations=sizes.activations,
        cache=found.cache,
        parts=found.placement.parts,
        tell=tell,
        pool=sizes.pool,
        most=found.pages,
    )
    form = packing.form.name
    served = None if form == "f32" else packed.tensors
    size, name = sizes.context, model_name(path)
    model = Model(name, loaded, transformer, size, slots, adapters, rank, served, found.placement)
    model.kept = (
        f"weights as {kept_as(loaded.weights, packing)}; multiplied with {sizes.activations}"
    )
    model.type = form
    return model


def plan_load(
    path: str | Path,
    context: int | None = None,
    slots: int = DEFAULT_SLOTS,
    adapters: int = DEFAULT_ADAPTERS,
    rank: int = DEFAULT_RANK,
    weights: str = AUTO,
    activations: str = AUTO,
    device: str = HOST.name,
    memory: int = 0,
    kv: str = AUTO,
    kv_memory: int = 0,
    others: Others = NOBODY,
    opened: LoadedModel | None = None,
) -> PlannedLoad:
    """Open a model's files and decide everything that `load` does, without doing it.

    Takes the arguments of `load` and raises the same.
    """
    from homebox.model.decoder.pages import PAGE
    from homebox.model.decoder.stages import Sizes, chunks_for
    from homebox.model.loading.gguf_format import served_packing
    from homebox.model.placement.keys_and_values import (
        choose_kind,
        kind_named,
        pages_used,
        pool_of,
    )
    from homebox.model.placement.plan import Request, plan

    loaded = opened or open_model(path)
    size = choose_context(loaded.config.max_positions, context)
    host = room_of(HOST, memory)
    free = others.alone(host, memory).free
    packing = served_packing(loaded.config, loaded.weights, weights, free)
    arithmetic = choose_activations(packing.form.name, activations)
    cache = choose_kind(loaded.config, arithmetic, kv)
    kind = kind_named(cache)
    pool = pool_of(loaded.config, kind, kv_memory, context)
    if pool:
        size = min(size, pool * PAGE)
    loaded = replace(loaded, config=loaded.config.serving(size))
    choice = others.choice(choose(device, memory), memory)
    chunks = chunks_for(room.device for room in choice.rooms)
    sizes = Sizes(size, slots + 1, adapters, arithmetic, kind, chunks, pool)
    # Beside another model the CPU is no way out of a full card: that one can go first.
    fallback = None if others.bytes and others.stays else others.room(host, memory)
    request = Request(loaded.config, packing, sizes, rank)
    placement = plan(request, choice, fallback)
    pages = pages_used(request, placement)
    return PlannedLoad(loaded, packing, sizes, cache, placement, pages)


def choose_activations(weights: str, asked: str) -> Activations:
    """Return the arithmetic for weights of a format; raises ConfigError for an unknown one."""
    usual: dict[str, Activations] = {"f32": "f32", "bf16": "bf16", "q8": "int8", "q4": "int8"}
    kinds: dict[str, Activations] = {AUTO: usual[weights], "f32": "f32", "bf16": "bf16"}
    kinds |= {"int8": "int8"}
    if asked not in kinds:
        raise ConfigError(f"activations must be one of {', '.join(kinds)}, not {asked!r}")
    return kinds[asked]


def choose_context(max_positions: int, asked: int | None) -> int:
    """Return the context to use; raises ConfigError if the model cannot have the one asked for."""
    if asked is None:
        return min(max_positions, DEFAULT_CONTEXT)
    if not 2 <= asked <= max_positions:
        raise ConfigError(f"context must be from 2 to the model's {max_positions}, not {asked}")
    return asked
