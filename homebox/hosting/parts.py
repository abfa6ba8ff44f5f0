"""What a daemon is made of besides its configuration: how to load, learn, and read adapters.

The one idea: the daemon knows models and learners by what they do for it, so that tests bring
small ones. Invariant: nothing that needs a compiler is imported before a model is loaded.
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from homebox.api.served import Adapters
from homebox.api.service import Prompter
from homebox.config import Config
from homebox.model.generation.request import GenerationRequest
from homebox.scheduler import Chunk, Running

if TYPE_CHECKING:
    from homebox.hub.fit import Fit as FittedModel

TELL_SECONDS = 2.0  # between two lines about loading

Tell = Callable[[int, int], None]  # bytes of the weights that are ready, and of how many
Learner = Callable[..., Generator[Any, None, Any]]
ReadAdapter = Callable[..., tuple[Any, float]]


class Chat(Protocol):
    """Turns messages into token ids."""

    @property
    def prompt(self) -> Prompter:
        """Gives a prompt."""
        ...


class ServedModel(Protocol):
    """What the daemon needs of a model."""

    @property
    def name(self) -> str:
        """How people call it."""
        ...

    @property
    def config(self) -> Any:
        """Its shape, which adapters must fit."""
        ...

    @property
    def base_hash(self) -> str:
        """sha256 over configuration, weights and tokenizer."""
        ...

    @property
    def context(self) -> int:
        """Tokens of prompt and answer together."""
        ...

    @property
    def chat(self) -> Chat:
        """The chat format."""
        ...

    @property
    def adapters(self) -> Adapters:
        """What can be resident beside the base."""
        ...

    def start(self, request: GenerationRequest) -> Running:
        """Begin an answer."""
        ...

    def step(self, sequences: Sequence[Any]) -> Sequence[Chunk | Exception | None]:
        """Take one step of several answers together."""
        ...

    def prepare(self) -> bool:
        """Do a part of what the first answers would wait for."""
        ...


class Outcome(Protocol):
    """The report of a learning run."""

    @property
    def promoted(self) -> bool:
        """Whether HEAD moved."""
        ...


class Fit(Protocol):
    """Finds out whether a model could be loaded if others gave back what they have."""

    def __call__(self, config: Config, returned: Mapping[str, int]) -> str:
        """Return the base hash, or raise what `load` would; `returned` is bytes by device."""
        ...


def load_model(
    config: Config, taken: Mapping[str, int] | None = None, tell: Tell | None = None
) -> Any:
    """Load the configured model beside models that have `taken` bytes by device.

    What the configuration leaves open is chosen to fit, and said. Raises what `homebox.model.load`
    does.
    """
    from homebox.model.model import load
    from homebox.model.placement.others import Others

    options, found = _options(config, taken or {})
    for line in found.choice_lines() if found is not None else ():
        print(f"homebox: {line}", file=sys.stderr, flush=True)
    others = Others(taken or {}, stays=True)
    model = load(config.model.path, **options, tell=tell or loading(), others=others)
    model.speculation.on = config.model.speculation
    model.keep_prefixes(config.model.prefix_disk << 20)
    return model


def check_fit(config: Config, returned: Mapping[str, int]) -> str:
    """Open and plan the configured model as if others had given back what they have.

    Returns its base hash; raises what `load_model` does.
    """
    from homebox.model.model import plan_load
    from homebox.model.placement.others import Others

    options, found = _options(config, returned)
    if found is not None:
        return found.plan.loaded.base_hash
    others = Others(returned, stays=False)
    return plan_load(config.model.path, **options, others=others).loaded.base_hash


def _options(
    config: Config, returned: Mapping[str, int]
) -> "tuple[dict[str, Any], FittedModel | None]":
    """Return how the configured model is loaded, and how that was chosen if it was.

    It is chosen as if other models had given back the bytes that they have, so that it does not
    depend on which was served before.
    """
    from homebox.hub.fit import Asked, fit_model
    from homebox.model.loading.open_model import BUILT_IN
    from homebox.model.placement.others import Others

    model = config.model
    fixed: dict[str, Any] = {
        "rank": most_rank(config),
        "activations": model.activations,
        "device": model.device,
        "memory": model.memory,
        "kv": model.kv,
        "kv_memory": model.kv_memory,
    }
    context = model.context or None
    if model.path == BUILT_IN:
        kept = {"context": context, "slots": model.slots, "weights": model.weights}
        return {**fixed, **kept}, None
    others = Others(returned, stays=False)
    asked = Asked(model.weights, context, model.slots)
    found = fit_model(model.path, asked, **fixed, others=others)
    kept = {"context": found.context, "slots": found.slots, "weights": found.type}
    return {**fixed, **kept, "opened": found.opened}, found


@dataclass(frozen=True)
class Parts:
    """What a daemon is made of; tests bring their own.

    `load` takes the configuration and, if `fit` is there, keywords of `load_model` too.
    """

    load: Callable[..., Any]
    learn: Learner
    read_adapter: ReadAdapter
    fit: Fit | None = None


def real_parts() -> Parts:
    """Give the parts that a user gets; imported late, because a compiler comes with them."""
    from homebox import learner
    from homebox.learning.checkpoint import load_adapter

    return Parts(load_model, learner.run, load_adapter, check_fit)


def most_rank(config: Config) -> int:
    """Return the largest rank of adapters that the configured model is served for."""
    from homebox.learning.training.recipes import most_rank as most_learned

    return max(config.model.rank, most_learned(config.learning))


def loading() -> Tell:
    """Return what says how much of the weights is packed, or on a device, where that takes long."""
    last = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= TELL_SECONDS:
            last = time.monotonic()
            text = f"{done >> 20} of {total >> 20} MiB of weights are ready"
            print(f"homebox: {text}", file=sys.stderr, flush=True)

    return tell


def plain(value: Any) -> Any:
    """Turn a dataclass into what JSON can carry; other values stay."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value
