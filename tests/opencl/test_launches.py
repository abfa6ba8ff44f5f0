"""Merged kernels on OpenCL: the interpreter's bits, and a model's logits as with kernels apart."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from homebox.engine.graph.formats import BF16, Q8, WEIGHTS, Format
from homebox.model.architectures.config_file import parse_config
from homebox.model.decoder.activations import Activations
from homebox.model.decoder.stages import whole
from homebox.model.decoder.transformer import Transformer
from homebox.model.lora import init_adapter
from tests.null.test_simt import Execution
from tests.null.test_simt_launches import feed_forward
from tests.opencl.test_gemv import on_device
from tests.unit.model_files import CONFIG, QWEN3, ArrayWeights, random_weights

if TYPE_CHECKING:
    from homebox.engine.opencl.backend import OpenClDevice

SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
}


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(("kind", "form"), [("int8", Q8), ("bf16", BF16), ("f32", Q8)], ids=str)
def test_a_layers_second_half(
    kind: str, form: Format, rows: int, cl_device: "OpenClDevice"
) -> None:
    (root,) = feed_forward(kind, form, rows, 64, 96)
    (want,) = Execution([root], [], {}, cl_device.backend.target).results()
    assert on_device(cl_device, root).tobytes() == want.tobytes()


@pytest.mark.parametrize("adapted", [0, 1])
@pytest.mark.parametrize(
    ("architecture", "form", "activations"),
    [("qwen3", "q8", "int8"), ("llama", "bf16", "bf16"), ("qwen3", "q8", "f32")],
)
def test_decoding_as_with_kernels_apart(
    architecture: str,
    form: str,
    activations: Activations,
    adapted: int,
    cl_device: "OpenClDevice",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = parse_config({**(QWEN3 if architecture == "qwen3" else CONFIG), **SHAPE})
    weights = ArrayWeights(config, random_weights(config), WEIGHTS[form])

    def logits(off: str) -> np.ndarray:
        monkeypatch.setenv("NOFUSE", off)
        device = whole(config, cl_device)
        cache = "f32" if activations == "f32" else "f16"
        model = Transformer(config, weights, 512, 2, 3, 16, activations, cache, device)
        if adapted:
            model.set_adapter(1, init_adapter(config, 4, 0), 1.0)
        parts = []
        for position in range(3):
            ids = np.array([7, 9], np.int32) + position
            parts.append(model.decode([0, 1], ids, [position] * 2, [adapted, 0]))
        return np.concatenate(parts)

    got, want = logits(""), logits("R5")
    if activations == "int8":  # partial sums of other slices, attention joined in another order
        distance = np.linalg.norm(got - want) / np.linalg.norm(want)
        assert distance < 5e-3
    elif activations == "bf16":
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-2 * np.abs(want).max())
    else:
        np.testing.assert_array_equal(got, want)
