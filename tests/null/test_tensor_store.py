"""Tensors by name from the files of a directory: shards, 8 bit numbers with their scales, names."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homebox.errors import ModelFormatError
from homebox.model.files.quantisation import Quantisation
from homebox.model.files.stored import fp8_blocks
from homebox.model.files.tensor_store import SafetensorsStore
from homebox.model.loading.loader import load_weights
from tests.unit.model_files import pack, write_model

BLOCKS = Quantisation("fp8", (4, 8))
KINDS = {"F32": "<f4", "F16": "<f2", "F8_E4M3": "u1", "F8_E5M2": "u1", "F8_E8M0": "u1", "U8": "u1"}
CODES = np.arange(6 * 10, dtype=np.uint8).reshape(6, 10)
SCALE = np.array([[0.5, 1.7], [3.1, 0.01]], np.float32)


def write(path: Path, tensors: dict[str, tuple[str, Any]]) -> None:
    """Write a file of tensors, each with its type."""
    header, body = {}, b""
    for name, (dtype, array) in tensors.items():
        data = np.asarray(array).astype(KINDS[dtype]).tobytes()
        place = [len(body), len(body) + len(data)]
        header[name] = {"dtype": dtype, "shape": np.shape(array), "data_offsets": place}
        body += data
    path.write_bytes(pack(json.dumps(header).encode(), body))


def store(folder: Path, tensors: dict[str, tuple[str, Any]], how: Quantisation) -> SafetensorsStore:
    write(folder / "model.safetensors", tensors)
    return SafetensorsStore(folder, how)


def test_scales_are_no_tensors_of_their_own(tmp_path: Path) -> None:
    tensors = {
        "a.weight": ("F8_E4M3", CODES),
        "a.weight_scale_inv": ("F32", SCALE),
        "a.activation_scale": ("F32", 0.25),
        "a.input_scale": ("F32", [0.25]),
        "b.weight": ("F16", [[1.5, -2.0]]),
    }
    found = store(tmp_path, tensors, BLOCKS)
    assert dict(found.shapes) == {"a.weight": (6, 10), "b.weight": (1, 2)}
    np.testing.assert_array_equal(found.numbers("a.weight"), fp8_blocks(CODES, SCALE, (4, 8)))
    assert found.numbers("b.weight").dtype == np.float16


def test_a_scale_may_lie_in_another_file(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", {"a.weight": ("F8_E4M3", CODES)})
    write(tmp_path / "b.safetensors", {"a.weight_scale": ("F32", SCALE)})
    index = {"a.weight": "a.safetensors", "a.weight_scale": "b.safetensors"}
    text = json.dumps({"weight_map": index})
    (tmp_path / "model.safetensors.index.json").write_text(text)
    found = SafetensorsStore(tmp_path, BLOCKS)
    np.testing.assert_array_equal(found.numbers("a.weight"), fp8_blocks(CODES, SCALE, (4, 8)))


@pytest.mark.parametrize("kind", ["F8_E8M0", "U8"])
def test_scales_may_be_exponents(tmp_path: Path, kind: str) -> None:
    tensors = {"w": ("F8_E5M2", CODES), "w_scale_inv": (kind, [[127, 126], [130, 0]])}
    found = store(tmp_path, tensors, BLOCKS).numbers("w")
    powers = np.array([[1, 0.5], [8, 2.0**-127]], np.float32)
    np.testing.assert_array_equal(found, fp8_blocks(CODES, powers, (4, 8), "F8_E5M2"))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (6,), (6, 1)])
def test_one_scale_for_all_or_for_each_row(tmp_path: Path, shape: tuple[int, ...]) -> None:
    scale = np.linspace(0.1, 2, max(1, int(np.prod(shape))), dtype=np.float32).reshape(shape)
    found = store(
        tmp_path, {"w": ("F8_E4M3", CODES), "w_scale": ("F32", scale)}, Quantisation("fp8")
    )
    np.testing.assert_array_equal(found.numbers("w"), fp8_blocks(CODES, scale, None))


def test_decoders_of_models_that_see_have_other_names(tmp_path: Path) -> None:
    tensors = {
        "model.language_model.layers.0.x_proj.weight": ("F8_E4M3", CODES),
        "model.language_model.layers.0.x_proj.weight_scale_inv": ("F32", SCALE),
        "model.language_model.layers.0.x_proj.activation_scale": ("F32", 1.0),
        "model.vision_tower.patch.weight": ("F8_E4M3", CODES),
    }
    found = store(tmp_path, tensors, BLOCKS)
    assert set(found.shapes) == {"model.layers.0.x_proj.weight"}
    assert found.numbers("model.layers.0.x_proj.weight").shape == (6, 10)


def test_bytes_are_no_numbers_and_numbers_no_bytes(tmp_path: Path) -> None:
    found = store(tmp_path, {"x_blocks": ("U8", CODES), "y": ("F32", [1.0])}, Quantisation("mxfp4"))
    np.testing.assert_array_equal(found.codes("x_blocks"), CODES)
    with pytest.raises(ModelFormatError, match="x_blocks: type U8 is not supported"):
        found.numbers("x_blocks")
    with pytest.raises(ModelFormatError, match="y: type F32 is not supported"):
        found.codes("y")


def test_a_whole_model_in_8_bits(tmp_path: Path) -> None:
    """Every matrix of a model as 8 bit numbers in blocks: the loader gives number * scale."""
    write_model(tmp_path / "plain")
    plain = load_weights(tmp_path / "plain")
    codes, scales = {}, {}
    tensors: dict[str, tuple[str, Any]] = {}
    dice = np.random.default_rng(1)
    stored = SafetensorsStore(tmp_path / "plain")
    for name, shape in stored.shapes.items():
        if not name.endswith("_proj.weight"):
            tensors[name] = "F32", stored.numbers(name)
            continue
        codes[name] = dice.integers(0, 0x7F, shape, dtype=np.uint8)
        scales[name] = dice.uniform(1e-3, 1, (-(-shape[0] // 16), -(-shape[1] // 16)))
        tensors[name] = "F8_E4M3", codes[name]
        tensors[f"{name}_scale_inv"] = "F32", scales[name]
    write(tmp_path / "model.safetensors", tensors)
    raw = json.loads((tmp_path / "plain" / "config.json").read_text())
    raw["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    found = load_weights(tmp_path)
    assert set(found) == set(plain)
    assert found.base_hash != plain.base_hash
    file_name = "model.layers.1.mlp.down_proj.weight"
    expected = fp8_blocks(codes[file_name], scales[file_name].astype(np.float32), (16, 16))
    np.testing.assert_array_equal(found["layers.1.down"], expected)
    np.testing.assert_array_equal(found["embed"], plain["embed"])
    found.check()
