"""Mixtures of experts on OpenCL devices beside the CPU: who is chosen, results, gradients."""

from collections.abc import Callable

import numpy as np
import pytest

from homebox.engine.graph.device import using
from homebox.engine.graph.formats import F32, Q4, Format
from homebox.engine.graph.tensor import Tensor
from homebox.engine.opencl.backend import OpenClDevice
from homebox.engine.runtime.capture import Spec, capture
from homebox.model.decoder.activations import rounded
from homebox.model.decoder.experts import Mixture
from homebox.model.decoder.routing import block_of
from tests.unit.test_experts import GPT_OSS, Array, layer, rows, unrounded, weights_of

ROWS = {1: 1, 6: 4, 12: 8, 40: 16}  # rows of the batch -> rows of a block


def results(
    count: int, form: Format, rounding: Callable[[Tensor], Tensor], backwards: bool
) -> list[Array]:
    """Return the layer's results, and the gradient of its input."""
    mixed: Mixture = layer(GPT_OSS, weights_of(GPT_OSS, 64), rounding, form)

    def run(x: Tensor, g: Tensor) -> list[Tensor]:
        if not backwards:
            return [mixed.forward(x) + g]
        result, kept = mixed.forward_kept(x)
        return [result, mixed.backward(kept, g)]

    x, g = rows(count, 64), rows(count, 64, seed=2)
    return list(capture(run, {"x": Spec(x.shape), "g": Spec(g.shape)}, [])(x=x, g=g))


@pytest.mark.parametrize("count", ROWS)
def test_strict_results_have_the_bits_of_the_cpu(cl_device: OpenClDevice, count: int) -> None:
    assert block_of(count * GPT_OSS.per_token, GPT_OSS.count) == ROWS[count]
    wanted = results(count, F32, unrounded, backwards=True)
    with using(cl_device):
        found = results(count, F32, unrounded, backwards=True)
    for one, other in zip(wanted, found, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("count", [1, 40])
def test_whole_numbers_give_nearly_the_same(cl_device: OpenClDevice, count: int) -> None:
    (wanted,) = results(count, Q4, lambda x: rounded(x, "int8"), backwards=False)
    with using(cl_device):
        (found,) = results(count, Q4, lambda x: rounded(x, "int8"), backwards=False)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
