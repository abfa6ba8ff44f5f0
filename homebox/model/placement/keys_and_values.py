"""How much memory keys and values get: what they are kept as, and how many pages there are.

One idea: a pool of pages serves all conversations and keeps what they leave, so its size is what a
model takes of a device, whoever talks. Invariant: the pool holds one whole context at least.

On the host memory is taken when it is touched, and kept prefixes touch all of the pool in the end;
so that a pool for all slots does not fill the machine, only a part of what is free is used.
"""

from homebox.engine.graph.formats import BLOCK
from homebox.errors import ConfigError, OutOfDeviceMemoryError
from homebox.model.config import ModelConfig
from homebox.model.decoder.activations import Activations
from homebox.model.decoder.paged_cache import KINDS, Kind, page_bytes
from homebox.model.decoder.pages import PAGE
from homebox.model.placement.plan import Placement, Request, amount

AUTO = "auto"
MIB = 1 << 20


def cache_kind(activations: Activations) -> str:
    """Return what keys and values are kept as: nothing is rounded where activations are not."""
    return "f32" if activations == "f32" else "f16"


def choose_kind(config: ModelConfig, activations: Activations, asked: str) -> str:
    """Return one of `KINDS`; raises ConfigError for another one, or one that the model cannot."""
    if asked == AUTO:
        return cache_kind(activations)
    if asked not in KINDS:
        raise ConfigError(f"model.kv must be one of {', '.join((AUTO, *KINDS))}, not {asked!r}")
    if asked == "q8" and config.head_dim % BLOCK:
        raise ConfigError(
            f"model.kv = q8 needs heads of a multiple of {BLOCK} channels, this model has "
            f"{config.head_dim}; use f16"
        )
    return asked


def kind_named(name: str) -> Kind:
    """Return the kind of a name that `choose_kind` gave."""
    return "q8" if name == "q8" else KINDS[name]


def pool_of(config: ModelConfig, kind: Kind, mib: int, context: int | None) -> int:
    """Return the pages that `mib` MiB (0: not said) hold, 0 for as many as all slots can fill.

    Raises OutOfDeviceMemoryError if they do not hold the context that was asked for.
    """
    if not mib:
        return 0
    page = config.num_layers * page_bytes(config, kind)
    pages = mib * MIB // page
    needed = -(-(context or PAGE) // PAGE)
    if pages < needed:
        raise OutOfDeviceMemoryError(
            f"model.kv_memory = {mib} MiB holds keys and values of {pages * PAGE} tokens, one "
            f"context has {needed * PAGE} ({amount(needed * page)}); what would help: a larger "
            "model.kv_memory, a shorter context (--context), model.kv = q8"
        )
    return pages


def pages_used(request: Request, placement: Placement) -> int:
    """Return how many pages conversations and what is kept of them may take."""
    sizes = request.sizes
    if sizes.pool or not all(portion.room.host for portion in placement.portions):
        return sizes.pages
    free = [portion.room.free for portion in placement.portions if portion.room.free is not None]
    if not free:
        return sizes.pages
    taken = sum(portion.bytes.total - portion.bytes.cache for portion in placement.portions)
    config = request.config
    page = config.num_layers * page_bytes(config, sizes.cache)
    room = max(max(free) - taken, 0) // page
    # Half of it: files, other programs and training need memory too. But agents ask for a title
    # beside their work, and set aside a whole context for each.
    wanted = max(room // 2, min(2 * sizes.per_slot, room * 9 // 10))
    return min(max(wanted, sizes.per_slot), sizes.pages)
