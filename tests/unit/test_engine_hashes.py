"""Generated code changes only when that is meant: kernels against the stored list of hashes."""

import json

import numpy as np

from homebox.engine.codegen.cpu import VECTORS
from homebox.engine.fusion.fuse import partition
from homebox.engine.graph.ops import Node, Op, toposort
from homebox.engine.runtime.plan import order_regions
from tests.unit.engine_checks import check, random
from tests.unit.engine_programs import PROGRAMS, decoder_block
from tests.unit.kernel_hashes import STORED, differences, hashes

REFRESH = "if that was meant, run: python -m tests.unit.kernel_hashes --write"


def test_kernels_are_the_stored_ones() -> None:
    changed = differences(json.loads(STORED.read_text()), hashes())
    assert not changed, "\n".join([*changed, REFRESH])


def test_the_comparison_sees_a_changed_kernel() -> None:
    stored = json.loads(STORED.read_text())
    assert set(stored) == {f"{program} {level}" for program in PROGRAMS for level in VECTORS}
    other = {**stored, "decode avx2": ["0" * 12, *stored["decode avx2"][1:]]}
    assert differences(stored, other) == [
        f"decode avx2: kernels [0] of {len(other['decode avx2'])} changed"
    ]
    shorter = {**stored, "train avx2": stored["train avx2"][1:]}
    assert len(differences(stored, shorter)) == 1


def fill(roots: list[Node]) -> None:
    """Put numbers into all memory below some nodes; whole ones up to 6."""
    for seed, each in enumerate(n for n in toposort(roots) if n.op is Op.BUFFER):
        values = random(each.arg.count, seed=seed, spread=0.3)
        whole = np.random.default_rng(seed).integers(0, 7, each.arg.count)
        each.arg.array[:] = values if each.dtype.is_float else whole


def test_the_programs_are_right() -> None:
    """Hashes of wrong kernels would be worth nothing."""
    for name in PROGRAMS:
        outputs = PROGRAMS[name]()
        fill([t.node for t in outputs])
        values = {"length": 17, "start": 3, "n": 11}
        # Products as bf16 round quantised weights to it.
        near = 5e-4 if name == "packed" else 1e-4
        check(*outputs, values=values, interpret_too=False, rtol=1e-4, atol=near)


def test_kernels_of_a_decoding_step() -> None:
    """How many launches a Llama block takes; weights are packed before."""
    outputs = decoder_block(1)
    cut = partition([outputs[0].contiguous().node])
    packing = sum(r.core is None and r.root.op.name == "COPY" for r in order_regions(cut))
    assert len(cut.regions) - packing == 14
