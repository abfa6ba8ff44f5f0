"""`fit`: the type and the context with which a model fits into the memory that is free.

The one idea: the plan of the loader itself is asked, candidate after candidate, from the one that
is wanted most to the one that takes least; the first that it takes is the answer. What the owner
says is not a candidate but a condition. Invariant: nothing is loaded, and what is returned was
planned to fit.

Agents need 16k of context and work best with 32k, so fewer conversations at once are given up
before context is, and precision before the context falls below 16k.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from homebox.errors import OutOfDeviceMemoryError
from homebox.model.loading.loader import LoadedModel
from homebox.model.model import PlannedLoad
from homebox.model.placement.others import NOBODY, Others

WANTED, LEAST = 32_768, 16_384  # tokens of context
_SHORT = (8192, 4096, 2048)  # what is tried if even `LEAST` does not fit
_FEWEST = 2  # conversations: an agent asks for a title beside its work

Plan = Callable[[str, int, int], PlannedLoad]  # takes type, context and slots


@dataclass(frozen=True)
class Fit:
    """How a model is to be loaded."""

    type: str  # "auto" stays auto
    context: int
    slots: int
    plan: PlannedLoad
    opened: LoadedModel | None = None  # for `load`, which need not open it again
    reason: str = ""  # what had to be given up, and why

    def lines(self) -> list[str]:
        """Return the choice and where it goes, for people."""
        return [*self.choice_lines(), *self.plan.placement.table()]

    def choice_lines(self) -> list[str]:
        """Return what was chosen, for people."""
        form, loaded = self.plan.packing, self.plan.loaded
        first = (
            f"type {form} (--type), context {self.context} of the model's "
            f"{loaded.config.max_positions} (--context), {self.slots} conversations at once "
            "(model.slots)"
        )
        return [first, *([self.reason] if self.reason else [])]


@dataclass(frozen=True)
class Asked:
    """What the owner said; "auto" and None leave it to the fit."""

    type: str = "auto"
    context: int | None = None
    slots: int = 8


def fit(asked: Asked, most: int, plan: Plan) -> Fit:
    """Return the best that fits; `most` is the longest context that the model was made for.

    Raises OutOfDeviceMemoryError if nothing does, with the numbers of the smallest, and what `plan`
    raises else.
    """
    first: OutOfDeviceMemoryError | None = None
    last: OutOfDeviceMemoryError | None = None
    for kind, context, slots in _candidates(asked, most):
        try:
            found = plan(kind, context, slots)
        except OutOfDeviceMemoryError as error:
            first, last = first or error, error
            continue
        reason = "" if first is None else f"not more, because {_why(first)}"
        return Fit(kind, context, slots, found, reason=reason)
    raise last or OutOfDeviceMemoryError("nothing was tried")


def fit_model(
    path: str | Path,
    asked: Asked,
    rank: int,
    activations: str = "auto",
    device: str = "auto",
    memory: int = 0,
    kv: str = "auto",
    kv_memory: int = 0,
    others: Others = NOBODY,
) -> Fit:
    """Return how a model's files are loaded best; raises as `fit` and `plan_load`."""
    from homebox.model.loading.open_model import open_model
    from homebox.model.model import plan_load

    opened = open_model(path)
    most = opened.config.max_positions

    def plan(kind: str, context: int, slots: int) -> PlannedLoad:
        return plan_load(
            path,
            context,
            slots,
            rank=rank,
            weights=kind,
            activations=activations,
            device=device,
            memory=memory,
            kv=kv,
            kv_memory=kv_memory,
            others=others,
            opened=opened,
        )

    return replace(fit(asked, most, plan), opened=opened)


def _candidates(asked: Asked, most: int) -> Iterator[tuple[str, int, int]]:
    """Yield types with contexts and slots, the best first."""
    kinds = ["auto", "q8", "q4"] if asked.type == "auto" else [asked.type]
    slots = [asked.slots]
    while slots[-1] > _FEWEST:
        slots.append(max(slots[-1] // 2, _FEWEST))
    good = [asked.context] if asked.context else sorted({min(most, WANTED), min(most, LEAST)})[::-1]
    short = [] if asked.context else [size for size in _SHORT if size < min(most, LEAST)]
    for contexts in (good, *([size] for size in short)):
        for kind in kinds:
            for context in contexts:
                for count in slots:
                    yield kind, context, count


def _why(error: OutOfDeviceMemoryError) -> str:
    return str(error).partition("; what would help")[0]
