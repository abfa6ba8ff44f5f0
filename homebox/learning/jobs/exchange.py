"""Brings adapters of other programs into the store, and takes checkpoints out of it.

The one idea: what is imported becomes a checkpoint like a learned one, named by its content, so
that it is served, listed and rolled back the same way. It went through no gate, and its job spec,
its report and its reason say so. Invariant: nothing imported is served unless that was asked for,
and everything that HEAD will name is durable before.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homebox.errors import UnknownWeightsError, UsageError
from homebox.learning.checkpoint import load_adapter, save_adapter, save_spec
from homebox.memory.manifest import BASE, LineageEntry, short
from homebox.memory.state import State
from homebox.memory.store import canonical_json
from homebox.memory.turns import now
from homebox.model.adapter_files import (
    Adapter,
    digest_of,
    format_of,
    read_adapter,
    write_adapter,
)
from homebox.model.config import ModelConfig

UNTESTED = "it passed no gate: nobody tested what it says"


@dataclass(frozen=True)
class Base:
    """The model that adapters belong to."""

    config: ModelConfig
    hash: str
    name: str


@dataclass(frozen=True)
class Imported:
    """What an import gave."""

    weights: str
    files: str  # sha256 over the names and hashes of the files
    format: str
    rank: int
    alpha: float
    name: str
    made_for: str  # what the files say of their base
    promoted: bool
    previous: str  # what was served before
    gate: str = UNTESTED


@dataclass(frozen=True)
class Exported:
    """What an export wrote."""

    weights: str
    format: str
    rank: int
    alpha: float
    files: list[str]


def import_adapter(
    state: State,
    base: Base,
    path: Path,
    name: str = "",
    reason: str = "",
    promote: bool = False,
    most_rank: int = 0,
) -> Imported:
    """Read an adapter's files, keep it as a checkpoint, and serve it if `promote`.

    `most_rank` is the largest rank that the model is served for (0: any). Raises ModelFormatError
    for files that do not fit the base, UsageError for a rank that cannot be served, StateError.
    """
    adapter = read_adapter(path, base.config)
    files = digest_of(path)
    if promote and most_rank and adapter.rank > most_rank:
        raise UsageError(
            f"{path}: rank {adapter.rank} is above the {most_rank} that the model is served for; "
            f"set model.rank to {adapter.rank} in the configuration, and start the daemon again"
        )
    name = name or path.absolute().name
    spec = _spec(base, adapter, files, format_of(path))
    weights = save_adapter(state.store, base.hash, save_spec(state.store, spec), adapter.tensors)
    head = state.lineage.head(base.hash)
    report = {"gate": UNTESTED, "imported": {**spec, "name": name}}
    entry = LineageEntry(
        weights=weights,
        parent=head,
        base=base.hash,
        ledger_root=state.ledger.root(),
        report=state.store.put(canonical_json(report)),
        time=now(),
        reason=reason or f"imported {name} (files {short(files)}, tested by no gate)",
    )
    state.lineage.keep(entry)
    if promote:
        state.lineage.promote(entry)
    return Imported(
        weights=weights,
        files=files,
        format=format_of(path),
        rank=adapter.rank,
        alpha=adapter.alpha,
        name=name,
        made_for=adapter.made_for,
        promoted=promote,
        previous=head,
    )


def _spec(base: Base, adapter: Adapter, files: str, form: str) -> Mapping[str, Any]:
    """Name what determines the checkpoint, where a learned one has its recipe and lessons."""
    return {
        "base": base.hash,
        "files": files,
        "format": form,
        "kind": "import",
        "recipe": {"alpha": adapter.alpha, "rank": adapter.rank},
    }


def export_adapter(state: State, base: Base, name: str, directory: Path, form: str) -> Exported:
    """Write the checkpoint that `name` means into a new or empty directory.

    Raises UnknownWeightsError if there is none, the store's errors, and those of `write_adapter`.
    """
    weights = state.lineage.resolve(base.hash, name, imports=True)
    if weights == BASE:
        raise UnknownWeightsError(
            f"{name!r} is the base itself, which has no adapter; learn or import one, or name one "
            'that "homebox history" lists'
        )
    tensors, alpha = load_adapter(state.store, weights)
    written = write_adapter(directory, form, base.config, tensors, alpha, base.name)
    rank = next(tensor.shape[0] for key, tensor in tensors.items() if key.endswith(".A"))
    return Exported(weights, form, rank, alpha, [str(path) for path in written])
