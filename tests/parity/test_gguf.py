"""GGUF files of every architecture and type against what llama.cpp said about them.

The live comparison, which writes what is read here, is in test_gguf_live.py.
"""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gguf")

from tests.parity import ours, reference
from tests.parity.cases import BLOCKS_CASES, GGUF_CASES, LENGTH, TYPES, WIDE, Case
from tests.parity.gguf_files import write_gguf
from tests.parity.weights import tokens

EXACT = {"Q8_0": "q8", "Q4_0": "q4"}


@pytest.mark.parametrize("case", GGUF_CASES, ids=lambda case: case.name)
def test_architecture(case: Case, tmp_path: Path) -> None:
    known = reference.read_llama(case, "F32")
    assert known.config == case.config
    write_gguf(tmp_path / "model.gguf", case, known.tensors)
    model = ours.opened(tmp_path / "model.gguf")
    compare(model, case, known)
    (chosen, *_) = ours.greedy(model, ours.prompts(case))
    assert chosen == known.greedy


@pytest.mark.parametrize("kind", TYPES)
def test_type(kind: str, tmp_path: Path) -> None:
    known = reference.read_llama(WIDE, kind)
    write_gguf(tmp_path / "model.gguf", WIDE, known.tensors, kind)
    write_gguf(tmp_path / "plain.gguf", WIDE, known.tensors, kind, plain=True)
    model, plain = (ours.opened(tmp_path / f"{name}.gguf") for name in ("model", "plain"))
    compare(model, WIDE, known)
    ids = tokens(WIDE.seed, "logits", LENGTH).tolist()
    assert np.array_equal(plain.logits(ids), model.logits(ids))
    if kind in EXACT:
        served = ours.opened(tmp_path / "model.gguf", weights=EXACT[kind])
        starts = ours.prompts(WIDE)
        assert ours.greedy(served, starts) == ours.greedy(plain, starts)


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        *((case, "Q8_0") for case in BLOCKS_CASES),
        *((case, "Q4_0") for case in BLOCKS_CASES if case.name in ("qwen3_moe", "phi3")),
    ],
    ids=lambda part: part if isinstance(part, str) else part.name,
)
def test_blocks_are_served_as_they_are(case: Case, kind: str, tmp_path: Path) -> None:
    tensors = reference.read_llama(case, "F32").tensors
    write_gguf(tmp_path / "model.gguf", case, tensors, kind)
    write_gguf(tmp_path / "plain.gguf", case, tensors, kind, plain=True)
    served = ours.opened(tmp_path / "model.gguf", weights=EXACT[kind])
    plain = ours.opened(tmp_path / "plain.gguf")
    ids = tokens(case.seed, "logits", LENGTH).tolist()
    # Keys and values of packed models are kept in float16.
    assert reference.distance(served.logits(ids), plain.logits(ids)) < 5e-3


def compare(model: ours.Model, case: Case, known: reference.LlamaReference) -> None:
    ids = tokens(case.seed, "logits", LENGTH).tolist()
    found = model.logits(ids)[list(reference.FEW)]
    assert reference.distance(found, known.logits) < reference.bound(case, known.kind)
