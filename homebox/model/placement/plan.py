"""Plans where the layers of a model go, from numbers alone, before anything is loaded.

One idea: what a model takes follows from its shape: weights by format, keys and values by context
and slots, adapters by rank, programs by rows. If one device holds it all, it goes there; else
contiguous layers go to as few devices as hold them, in proportion to their free memory.
Invariant: a plan that is returned fits; what cannot fit is refused here with all numbers.

Programs keep memory of their own, each for its rows. Their estimate counts, for all rows of all
programs that may exist at once, every vector of one layer, of a mixture those of all slots that its
pairs may need, the logits that are returned, and what attention keeps of its parts while decoding.
It is an upper bound: vectors share memory over time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

from homebox.engine.graph.device import HOST
from homebox.engine.graph.formats import WEIGHTS, Format
from homebox.errors import OutOfDeviceMemoryError
from homebox.model.config import ModelConfig
from homebox.model.decoder.adapter_memory import adapter_bytes
from homebox.model.decoder.paged_cache import page_bytes
from homebox.model.decoder.pages import PAGE
from homebox.model.decoder.panels import round_up
from homebox.model.decoder.routing import block_of, most_blocks
from homebox.model.decoder.stages import ADAPTERS, BATCHES, EVERY, Part, Sizes
from homebox.model.placement.devices import Choice, Room
from homebox.model.weights.packed_layout import Packing, Segment, packing_of, segments_of
from homebox.model.weights.placed_weights import needed

RESERVE = 64 << 20  # bytes that a driver may need beside ours
_SPLIT = 256  # keys of a part of attention while decoding
_MOST_SPLITS = 32
_LEAST_CONTEXT = 512


@dataclass(frozen=True)
class Bytes:
    """What a stage takes of a device."""

    weights: int = 0
    cache: int = 0
    adapters: int = 0
    programs: int = 0
    reserve: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, each.name) for each in fields(self))

    def __add__(self, other: "Bytes") -> "Bytes":
        pairs = ((each.name, getattr(self, each.name)) for each in fields(self))
        return Bytes(**{name: mine + getattr(other, name) for name, mine in pairs})


@dataclass(frozen=True)
class Request:
    """A model as it is to be loaded."""

    config: ModelConfig
    form: Format | Packing
    sizes: Sizes  # with the slot of the model itself
    rank: int

    def of(self, layers: range, host: bool = False) -> Bytes:
        """Return what some layers take; on the host, where memory counts when it is touched."""
        c, sizes = self.config, self.sizes
        pages = self._pages(host)
        return Bytes(
            weights=sum(s.nbytes for s in self.segments if needed(c, s.name, layers)),
            cache=len(layers) * pages * page_bytes(c, sizes.cache),
            adapters=0 if host else sum(self._adapters(layer) for layer in layers),
            programs=self._programs(layers),
            reserve=0 if host else RESERVE,
        )

    def largest(self, layers: range) -> int:
        """Return the bytes of the largest piece of memory that some layers need."""
        c = self.config
        pieces = [s.nbytes for s in self.segments if needed(c, s.name, layers)]
        return max(*pieces, self.sizes.pages * page_bytes(c, self.sizes.cache))

    def layer(self, layer: int, host: bool = False) -> int:
        """Return what one more layer takes, this one."""
        weights = sum(s.nbytes for s in self.segments if s.name.startswith(f"layers.{layer}."))
        cache = self._pages(host) * page_bytes(self.config, self.sizes.cache)
        return weights + cache + (0 if host else self._adapters(layer))

    def _pages(self, host: bool) -> int:
        """Return the pages that are counted; on the host one context is enough to begin with."""
        return self.sizes.per_slot if host and not self.sizes.pool else self.sizes.pages

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The weights' pieces."""
        return segments_of(self.config, self.form)[0]

    def _adapters(self, layer: int) -> int:
        return adapter_bytes(self.config, self.sizes.adapters, self.rank, layer)

    def _programs(self, layers: range) -> int:
        c = self.config
        chunk_rows = 2 * (sum(self.sizes.chunks) + EVERY)  # with and without an adapter
        decode_rows = len(ADAPTERS) * sum(BATCHES)
        query = c.num_heads * c.head_dim
        key = c.num_kv_heads * c.head_dim
        sparse = [c.layers[layer].sparse for layer in layers]
        vectors = 5 * c.hidden_size + 3 * query + 4 * key
        vectors += 0 if all(sparse) else 3 * c.intermediate_size
        splits = min(-(-self.sizes.context // _SPLIT), _MOST_SPLITS)
        parts = c.num_heads * splits * (round_up(c.head_dim) + 2)
        numbers = (chunk_rows + decode_rows) * vectors + decode_rows * parts
        if any(sparse):
            numbers += 2 * sum(self._mixture(rows) for rows in (*self.sizes.chunks, EVERY))
            numbers += len(ADAPTERS) * sum(self._mixture(rows) for rows in BATCHES)
        if layers.stop == c.num_layers:
            outputs = 2 * EVERY + 2 * len(self.sizes.chunks) + decode_rows
            numbers += 2 * outputs * c.vocab_size
        return 4 * numbers

    def _mixture(self, rows: int) -> int:
        """Return the numbers that a mixture keeps of so many rows: logits, choice, slots."""
        experts = self.config.experts
        if experts is None:
            return 0
        pairs = rows * experts.per_token
        block = block_of(pairs, experts.count)
        slots = block * most_blocks(pairs, experts.count, block)
        # A slot's operand, its result, gate, up, what goes into down, and that rounded.
        each = 2 * self.config.hidden_size + 4 * experts.inner + 2
        return slots * each + rows * 4 * experts.count + 4 * pairs


@dataclass(frozen=True)
class Portion:
    """Some layers on a device: what they take, and what was free."""

    room: Room
    layers: range
    bytes: Bytes
    largest: int = 0  # bytes of its largest piece of memory


@dataclass(frozen=True)
class Placement:
    """Where a model goes. `reason` says why, if the devices were chosen and not named."""

    portions: tuple[Portion, ...]
    rooms: tuple[Room, ...]  # all that may be used, also for training
    reason: str = ""

    @property
    def parts(self) -> tuple[Part, ...]:
        """Layers by device, as the transformer takes them."""
        return tuple(Part(p.room.device, p.layers) for p in self.portions)

    @property
    def device(self) -> str:
        """The names of the devices that hold layers."""
        return ",".join(portion.room.device.name for portion in self.portions)

    @property
    def training(self) -> tuple[str, ...]:
        """The names of the devices that training may use: those that hold the whole base.

        The device that serves comes first. None does if layers are spread: then it is the CPU.
        """
        if len(self.portions) > 1:
            return (HOST.name,)
        first = self.portions[0]
        names = [first.room.device.name]
        for room in self.rooms:
            fits = room.free is None or first.bytes.weights <= room.free
            whole = room.largest is None or first.largest <= room.largest
            if room.device.name not in names and fits and whole:
                names.append(room.device.name)
        return tuple(names)

    def table(self) -> list[str]:
        """Return the plan for people, a line for each device."""
        lines = [self.reason] if self.reason else []
        for portion in self.portions:
            size, layers = portion.bytes, portion.layers
            free = "" if portion.room.free is None else f" of {amount(portion.room.free)} free"
            lines.append(
                f"{portion.room.device.name} ({portion.room.title}): layers {layers.start} to "
                f"{layers.stop - 1}, {amount(size.total)}{free} (weights {amount(size.weights)}, "
                f"keys and values {amount(size.cache)}, adapters {amount(size.adapters)}, "
                f"programs {amount(size.programs)})"
            )
        names = self.training
        if len(names) > 1:
            lines.append(f"training: {', '.join(names)}, for parts of a step (learning.parts)")
        elif names[0] != self.device:
            lines.append(f"training: {names[0]}, because no device holds the whole model")
        return lines


def plan(request: Request, choice: Choice, host: Room | None = None) -> Placement:
    """Return where the layers go; raises OutOfDeviceMemoryError if they fit nowhere.

    An automatic choice may go to `host` instead, and says so.
    """
    found = _fitting(request, choice.rooms)
    if found is not None:
        return Placement(found, choice.rooms, choice.reason)
    if choice.automatic and host is not None and not choice.rooms[0].host:
        found = _fitting(request, (host,))
        if found is not None:
            short = _refusal(request, choice.rooms)
            return Placement(found, (host,), f"auto: the CPU, because {short}")
    raise OutOfDeviceMemoryError(_refusal(request, choice.rooms))


def _fitting(request: Request, rooms: Sequence[Room]) -> tuple[Portion, ...] | None:
    """Return portions on as few devices as hold the model; None if all of them do not."""
    by_room = sorted(rooms, key=lambda room: -(room.free or 0))
    for room in rooms:
        portion = _portion(request, room, range(request.config.num_layers))
        if _holds(request, portion):
            return (portion,)
    for count in range(2, min(len(rooms), request.config.num_layers) + 1):
        chosen = [room for room in rooms if room in by_room[:count]]
        found = _shared(request, chosen)
        if found is not None:
            return found
    return None


def _portion(request: Request, room: Room, layers: range) -> Portion:
    return Portion(room, layers, request.of(layers, room.host), request.largest(layers))


def _holds(request: Request, portion: Portion) -> bool:
    room = portion.room
    fits = room.free is None or portion.bytes.total <= room.free
    return fits and (room.largest is None or portion.largest <= room.largest)


def _shared(request: Request, rooms: Sequence[Room]) -> tuple[Portion, ...] | None:
    """Cut the layers in proportion to what each device has left for them.

    Where layers differ and that does not fit, each device takes as many as it holds.
    """
    free = _free(request, rooms)
    for cut in (_proportional, _filling):
        shares = cut(request, rooms, free)
        if shares is None:
            continue
        portions, at = [], 0
        for room, share in zip(rooms, shares, strict=True):
            portions.append(_portion(request, room, range(at, at + share)))
            at += share
        fits = (p.bytes.total <= most for p, most in zip(portions, free, strict=True))
        if all(fits) and all(_holds(request, p) for p in portions):
            return tuple(portions)
    return None


def _free(request: Request, rooms: Sequence[Room]) -> list[int]:
    """Return what each device may give.

    Devices whose memory is the host's get at most equal shares of it: each says it is all free.
    """
    sharing = sum(room.shared for room in rooms)
    found = []
    for room in rooms:
        free = room.free
        if free is None:
            free = request.of(range(request.config.num_layers)).total
        if room.shared:
            free = min(free, (free if room.pool is None else room.pool) // sharing)
        found.append(free)
    return found


def _proportional(request: Request, rooms: Sequence[Room], free: Sequence[int]) -> list[int] | None:
    """Return how many layers each device gets, as if all were as large as they are on average."""
    layers, count = request.config.num_layers, len(rooms)
    edges = [0, *[1] * (count - 2), layers - 1]
    most = []
    for room, edge, each in zip(rooms, edges, free, strict=True):
        fixed = request.of(range(edge, edge + 1), room.host).total - request.layer(edge, room.host)
        one = -(-sum(request.layer(i, room.host) for i in range(layers)) // layers)
        most.append(min((each - fixed) // one, layers))
    if min(most) < 1 or sum(most) < layers:
        return None
    return in_proportion(layers, most)


def _filling(request: Request, rooms: Sequence[Room], free: Sequence[int]) -> list[int] | None:
    """Return as many layers as each device holds, one after the other; None if some are left."""
    layers = request.config.num_layers
    if len({request.layer(i) for i in range(layers)}) == 1:
        return None  # all that fits was found in proportion
    shares, at = [], 0
    for i, (room, most) in enumerate(zip(rooms, free, strict=True)):
        end = at
        while end < layers - (len(rooms) - i - 1):
            if request.of(range(at, end + 1), room.host).total > most:
                break
            end += 1
        if end == at:
            return None
        shares.append(end - at)
        at = end
    return shares if at == layers else None


def in_proportion(total: int, most: Sequence[int]) -> list[int]:
    """Cut `total` into whole parts near the ratio of `most`, each from 1 to its own most."""
    whole = sum(most)
    shares = [max(1, total * each // whole) for each in most]
    # The largest remainders first; by place where they are equal.
    order = sorted(range(len(most)), key=lambda i: (-(total * most[i] % whole), i))
    while sum(shares) != total:
        step = 1 if sum(shares) < total else -1
        for i in order:
            if sum(shares) != total and 1 <= shares[i] + step <= most[i]:
                shares[i] += step
    return shares


# -- refusals -------------------------------------------------------------------------------------


def _refusal(request: Request, rooms: Sequence[Room]) -> str:
    """Say what is needed, what is free, and what would help."""
    size = request.of(range(request.config.num_layers), all(room.host for room in rooms))
    sizes = request.sizes
    positions = f"{sizes.pool} x {PAGE}" if sizes.pool else f"{sizes.slots} x {sizes.context}"
    need = (
        f"the model needs {amount(size.total)}: weights ({request.form}) {amount(size.weights)}, "
        f"keys and values of {positions} positions {amount(size.cache)}, "
        f"adapters {amount(size.adapters)}, programs {amount(size.programs + size.reserve)}"
    )
    free = ", ".join(
        f"{room.device.name} ({room.title}) has {amount(room.free or 0)} free"
        + (" within model.memory" if room.budgeted else "")
        + _piece(request, room)
        for room in rooms
    )
    help_with = _help(request, rooms)
    if any(room.budgeted for room in rooms):
        help_with.append("a larger model.memory")
    others = "another --device" if len(rooms) == 1 else "further devices"
    return f"{need}; {free}; what would help: {', '.join([*help_with, others])}"


def _piece(request: Request, room: Room) -> str:
    """Mention the limit of one piece of memory, if that is what is in the way."""
    wanted = request.largest(range(request.config.num_layers))
    if room.largest is None or wanted <= room.largest:
        return ""
    return f", at most {amount(room.largest)} in one piece of which {amount(wanted)} is needed"


def _help(request: Request, rooms: Sequence[Room]) -> list[str]:
    """Find smaller settings that fit."""
    found = []
    now = _per_number(packing_of(request.form).form)
    smaller = [form for form in WEIGHTS.values() if _per_number(form) < now]
    for form in sorted(smaller, key=_per_number, reverse=True):
        if _fitting(replace(request, form=form), rooms) is not None:
            found.append(f"weights {form} (--type {form})")
            break
    context = request.sizes.context // 2
    while context >= _LEAST_CONTEXT:
        shorter = replace(request, sizes=replace(request.sizes, context=context))
        if _fitting(shorter, rooms) is not None:
            found.append(f"a context of {context} (--context {context})")
            break
        context //= 2
    for slots in (4, 2, 1):
        fewer = replace(request, sizes=replace(request.sizes, slots=slots + 1))
        if slots + 1 < request.sizes.slots and _fitting(fewer, rooms) is not None:
            found.append(f"model.slots = {slots}")
            break
    return found


def _per_number(form: Format) -> float:
    return form.unit_bytes / form.unit


def amount(nbytes: int) -> str:
    """Write a number of bytes for people."""
    if nbytes >= 10**9:
        return f"{nbytes / 1e9:.2f} GB"
    return f"{nbytes / 1e6:.1f} MB"
