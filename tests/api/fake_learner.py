"""A learner without training: it keeps a checkpoint made of the ledger's turns and promotes it."""

import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from homebox.config import Config
from homebox.hosting.parts import Parts
from homebox.memory.ledger import Ledger
from homebox.memory.lineage import Lineage
from homebox.memory.manifest import LineageEntry, Manifest
from homebox.memory.store import Store, canonical_json
from homebox.memory.turns import now
from tests.api.fake_model import FakeModel

TENSORS = 6


@dataclass(frozen=True)
class Progress:
    stage: str
    done: int
    total: int
    text: str


@dataclass(frozen=True)
class Report:
    promoted: bool
    weights: str
    previous: str
    lines: list[str]
    data: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


def save(store: Store, base: str, seed: int) -> str:
    """Keep a checkpoint of several tensors, so that there is time to die between them."""
    job = store.put(canonical_json({"seed": seed}))
    names = {
        f"layers.{i}.q.A": store.put(np.full((64, 64), seed * 100 + i, np.float32).tobytes())
        for i in range(TENSORS)
    }
    return Manifest(base, names, job).save(store)


def read(store: Store, weights: str) -> tuple[dict[str, np.ndarray], float]:
    manifest = Manifest.load(store, weights)
    tensors = {
        name: np.frombuffer(store.get(item), np.float32).reshape(64, 64)
        for name, item in manifest.adapter.items()
    }
    seeds = {int(tensor[0, 0]) // 100 for tensor in tensors.values()}
    assert len(tensors) == TENSORS, "a checkpoint with a part missing is served"
    assert len(seeds) == 1, "a mixture of two checkpoints is served"
    return tensors, 32.0


def run(
    model: FakeModel,
    ledger: Ledger,
    store: Store,
    lineage: Lineage,
    settings: Config,
    dry_run: bool = False,
) -> Generator[Progress, None, Report]:
    head = lineage.head(model.base_hash)
    told = [m.content for t in ledger.turns() for m in t.messages if m.provenance == "owner"]
    if dry_run:
        return Report(False, head, head, told or ["no lessons"], reason="dry run")
    for step in range(settings.learning.steps):
        yield Progress("train", step, settings.learning.steps, f"step {step}")
        time.sleep(0.001)
    if not told or told[-1] == "teach nothing":
        return Report(False, head, head, ["nothing was learned"], reason="nothing was said")
    seed = len(lineage.history(model.base_hash)) + 1
    weights = save(store, model.base_hash, seed)
    lineage.promote(
        LineageEntry(
            weights=weights,
            parent=head,
            base=model.base_hash,
            ledger_root=ledger.root(),
            report=store.put(canonical_json({"seed": seed})),
            time=now(),
            reason=f"learned {seed}",
        )
    )
    return Report(True, weights, head, [f"learned {len(told)}; weights {weights[:12]}"])


def parts(model: FakeModel | None = None) -> Parts:
    return Parts(lambda config: model or FakeModel(config.model.context or 4096), run, read)
