"""Kernels of every CPU level in the interpreter: right, inside their memory, with equal bits."""

import numpy as np
import pytest

from homebox.engine.codegen.cpu import VECTORS
from homebox.engine.graph.ops import Node, Op, toposort
from homebox.engine.graph.tensor import Tensor
from homebox.engine.verify.oracle import evaluate
from tests.unit.engine_checks import interpreted, memory_kept, random, same_bits, tensor
from tests.unit.engine_programs import decoder_block

VALUES = {"length": 9, "start": 8}


def filled(outputs: list[Tensor]) -> list[Node]:
    """Put numbers into all memory below some tensors; return their nodes."""
    roots = [t.node for t in outputs]
    for seed, each in enumerate(n for n in toposort(roots) if n.op is Op.BUFFER):
        each.arg.array[:] = random(each.arg.count, seed=seed, spread=0.3)
    return roots


@pytest.mark.parametrize("rows", [1, 3])
def test_a_decoder_block(rows: int) -> None:
    outputs = decoder_block(rows)
    roots = filled(outputs)
    values = {**VALUES, "length": VALUES["start"] + rows}
    found = []
    for level in VECTORS:
        with memory_kept(roots):
            found.append(interpreted(outputs, values, level=level) or [])
    for want, *others in zip(evaluate(roots, values), *found, strict=True):
        np.testing.assert_allclose(others[0], want, rtol=1e-4, atol=1e-5)
        assert all(same_bits(others[0], other) for other in others)


@pytest.mark.parametrize(("m", "n", "k"), [(14, 50, 5), (3, 100, 6), (25, 16, 3)])
def test_contractions_in_tiles_of_every_level(m: int, n: int, k: int) -> None:
    product = tensor(random(m, k)) @ tensor(random(k, n, seed=1))
    found = [interpreted([product], {}, level=level) for level in VECTORS]
    (want,) = evaluate([product.node])
    for outputs in found:
        assert outputs is not None
        np.testing.assert_allclose(outputs[0], want, rtol=1e-5, atol=1e-5)
        assert found[0] is not None and same_bits(outputs[0], found[0][0])
