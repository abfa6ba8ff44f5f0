"""What a checkpoint is: JSON naming every input and output by hash.

The one idea: the weights hash is the sha256 of the canonical manifest, so whoever knows the hash
knows the base, every tensor and the job that made them. Invariant: nothing with a clock or a row
number is in a manifest; those stand in the lineage entry, which has a hash of its own.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from homebox.errors import StateError, UnknownWeightsError
from homebox.memory.store import Store, canonical_json, is_name

BASE = "base"  # in place of a weights hash: nothing learned
_TENSOR = re.compile(r"[A-Za-z0-9_.\-]{1,200}")


@dataclass(frozen=True)
class Manifest:
    """One checkpoint; raises StateError if a field is not what it must be."""

    base: str  # sha256 over the base model's files
    adapter: dict[str, str]  # tensor name -> object
    job: str  # object: the job spec (recipe, lesson-set hash, seed, numerics version, alpha)

    def __post_init__(self) -> None:
        _require("base", self.base)
        _require("job", self.job)
        for tensor, name in self.adapter.items():
            if not _TENSOR.fullmatch(tensor):
                raise StateError(f"a manifest cannot hold a tensor called {tensor!r}")
            _require(tensor, name)

    @property
    def hash(self) -> str:
        """The weights hash."""
        return hashlib.sha256(canonical_json(dataclasses.asdict(self))).hexdigest()

    def save(self, store: Store) -> str:
        """Keep the manifest durably and return the weights hash."""
        return store.put(canonical_json(dataclasses.asdict(self)))

    @classmethod
    def load(cls, store: Store, weights: str) -> "Manifest":
        """Read a manifest; raises the store's errors, or UnknownWeightsError if it is none."""
        data = store.get(weights)
        try:
            fields = json.loads(data)
            manifest = cls(**fields)
            if canonical_json(fields) == data:
                return manifest
        except (ValueError, TypeError, AttributeError, StateError) as error:
            raise UnknownWeightsError(f"object {weights[:12]} is no manifest: {error}") from error
        raise UnknownWeightsError(f"object {weights[:12]} is no manifest: not in canonical form")


@dataclass(frozen=True)
class LineageEntry:
    """One promotion: which weights followed which, on what ground; an object with its own hash."""

    weights: str
    parent: str  # weights hash or "base"
    base: str
    ledger_root: str  # the ledger's chain when the lessons were selected
    report: str  # object: the gate's report
    time: str  # ISO 8601 in UTC
    reason: str
    lessons: tuple[str, ...] = ()  # hashes of all lessons that the weights were built from

    def __post_init__(self) -> None:
        for field in ("weights", "base", "ledger_root", "report"):
            _require(field, getattr(self, field))
        if self.parent != BASE:
            _require("parent", self.parent)
        for lesson in self.lessons:
            _require("lesson", lesson)

    def as_json(self) -> dict[str, Any]:
        """Return the entry as the store keeps it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "LineageEntry":
        """Rebuild an entry from `as_json`; raises StateError."""
        try:
            return cls(**{**fields, "lessons": tuple(fields["lessons"])})
        except (TypeError, KeyError) as error:
            raise StateError(f"a lineage entry is damaged: {error}") from error


def short(weights: str) -> str:
    """Abbreviate a weights hash for a person; "base" stays."""
    return weights[:12]


def _require(field: str, name: object) -> None:
    if not is_name(name):
        raise StateError(f"{field} must be a hash (64 hexadecimal digits), not {name!r}")
