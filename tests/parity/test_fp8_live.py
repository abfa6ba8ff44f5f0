"""Checkpoints of 8 bit numbers against transformers, which decodes them when it loads them.

Run by `make parity`. `tests/null/test_stored.py` compares with the answers that are kept.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from homebox.model.loading.loader import load_weights  # noqa: E402
from tests.null import test_stored  # noqa: E402
from tests.parity import ours  # noqa: E402
from tests.parity.cases import BY_NAME, LENGTH  # noqa: E402
from tests.parity.peer import stored_tensors  # noqa: E402
from tests.parity.weights import tokens, values, write_directory  # noqa: E402
from tests.unit.model_files import pack  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

LOGITS = 1e-4
BLOCKS = {
    "quant_method": "fp8",
    "activation_scheme": "dynamic",
    "weight_block_size": [16, 8],
    "modules_to_not_convert": ["lm_head"],
}
WHOLE = {
    "quant_method": "fp8",
    "activation_scheme": "static",
    "weight_block_size": None,
    "modules_to_not_convert": ["lm_head"],
}
MODELS = [
    ("llama", BLOCKS),
    ("qwen3", BLOCKS),
    ("qwen3_moe", BLOCKS),
    ("ministral3", WHOLE),
    ("phi3", BLOCKS),
]


def test_the_kept_answers_are_those_of_the_references() -> None:
    assert test_stored.theirs() == json.loads(test_stored.REFERENCE.read_text())


@pytest.mark.parametrize(("name", "how"), MODELS, ids=[name for name, _ in MODELS])
def test_transformers_decodes_the_same_numbers(
    name: str, how: dict[str, Any], tmp_path: Path
) -> None:
    case = BY_NAME[name]
    tensors = stored_tensors(case)
    write_directory(tmp_path, case, tensors)
    header, body = {}, b""
    for tensor in tensors:
        for stored, dtype, array in eight_bits(tensor.name, values(case, tensor), how):
            data = array.tobytes()
            place = [len(body), len(body) + len(data)]
            header[stored] = {"dtype": dtype, "shape": array.shape, "data_offsets": place}
            body += data
    (tmp_path / "model.safetensors").write_bytes(pack(json.dumps(header).encode(), body))
    config = {**case.config, "quantization_config": how}
    (tmp_path / "config.json").write_text(json.dumps(config))

    decoded = transformers.FineGrainedFP8Config(**(rest(how) | {"dequantize": True}))
    peer = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, quantization_config=decoded, attn_implementation="eager"
    )
    theirs = peer.state_dict()
    found = load_weights(tmp_path)
    module = theirs["model.layers.1.self_attn.o_proj.weight"].float().numpy()
    np.testing.assert_array_equal(found["layers.1.o"], module)
    ids = tokens(case.seed, "fp8", LENGTH)
    with torch.no_grad():
        expected = peer(torch.from_numpy(ids).long()[None]).logits[0].float().numpy()
    logits = ours.opened(tmp_path).logits([int(token) for token in ids])
    assert np.abs(logits - expected).max() < LOGITS


def rest(how: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in how.items() if key != "quant_method"}


def eight_bits(name: str, array: Any, how: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """Return what a quantiser stores of a tensor: it as it is, or codes and their scales."""
    if not name.endswith("_proj.weight"):
        return [(name, "F32", array)]
    rows, columns = array.shape
    high, wide = how["weight_block_size"] or array.shape
    grid = array.reshape(rows // high, high, columns // wide, wide)
    scale = np.abs(grid).max(axis=(1, 3)) / np.float32(448)
    divided = (grid / scale[:, None, :, None]).reshape(rows, columns)
    codes = torch.from_numpy(divided).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    if how["weight_block_size"] is None:
        scale = scale.reshape(())
    found = [(name, "F8_E4M3", codes), (f"{name}_scale_inv", "F32", scale)]
    if how["activation_scheme"] == "static":
        module = name.removesuffix("weight")
        found.append((f"{module}activation_scale", "F32", np.float32(0.02)))
    return found
