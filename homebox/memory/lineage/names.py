"""Which weights a name means: the beginning of one hash, as a person types it."""

from collections.abc import Collection, Sequence
from typing import NoReturn

from homebox.errors import AmbiguousWeightsError, UnknownWeightsError
from homebox.memory.manifest import short


def word_of(name: str) -> str:
    """Return a name without what may stand before it: "homebox@", "sha256:"."""
    return name.strip().lower().removeprefix("homebox@").removeprefix("sha256:")


def find(name: str, kept: Sequence[str], gone: Collection[str]) -> str:
    """Return the one of the `kept` weights, the oldest first, that begins with a name.

    Raises UnknownWeightsError, which says so if they are `gone`, or AmbiguousWeightsError; both
    name the candidates.
    """
    word = word_of(name)
    found = [weights for weights in kept if word and weights.startswith(word)]
    if len(found) == 1:
        return found[0]
    went = [weights for weights in gone if word and weights.startswith(word)]
    if len(went) == 1 and not found:
        refuse_gone(went[0])
    candidates = ", ".join(short(weights) for weights in found or ["base", *kept[-8:]])
    if found:
        raise AmbiguousWeightsError(f"{name!r} fits several checkpoints: {candidates}")
    raise UnknownWeightsError(
        f"no checkpoint of this model is called {name!r}; there are: {candidates}"
        + ("" if kept else " (nothing was learned yet)")
    )


def refuse_gone(weights: str) -> NoReturn:
    """Say that weights were let go of."""
    raise UnknownWeightsError(
        f"the weights {short(weights)} knew what was forgotten, so they were let go of for good; "
        '"homebox history" lists what is there'
    )
