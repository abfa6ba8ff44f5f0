"""Adapters as GGUF files: what is written, what is refused, and hostile ones."""

import dataclasses
import random
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homebox.errors import ModelFormatError
from homebox.model.adapter_files import gguf_lora
from homebox.model.adapter_files.gguf_lora import read_gguf_lora, write_gguf_lora
from homebox.model.architectures.config_file import parse_config
from homebox.model.gguf import GGUFFile
from homebox.model.gguf.writer import write_gguf
from homebox.model.lora import adapter_shapes
from tests.unit.model_files import CONFIG, QWEN3

LLAMA, QWEN = parse_config(CONFIG), parse_config(QWEN3)
FUSED = {"self_attn.qkv_proj": ("q", "k", "v"), "mlp.gate_up_proj": ("gate", "up")}
PHI3 = dataclasses.replace(QWEN, architecture="phi3")
Q = "blk.0.attn_q.weight.lora_a"

Tensors = dict[str, Any]


def ours(config: Any, rank: int = 4) -> Tensors:
    generator = np.random.default_rng(6)
    return {
        name: generator.standard_normal(shape).astype(np.float32)
        for name, shape in adapter_shapes(config, rank).items()
    }


def stored(path: Path) -> tuple[dict[str, Any], Tensors]:
    with GGUFFile(path) as file:
        tensors = {name: tensor.dequantize() for name, tensor in file.tensors.items()}
        return dict(file.metadata), tensors


@pytest.mark.parametrize("config", [LLAMA, QWEN], ids=["llama", "qwen3"])
def test_what_is_written_is_read_bit_for_bit(tmp_path: Path, config: Any) -> None:
    tensors = ours(config)
    (path,) = write_gguf_lora(tmp_path, config, tensors, 8.0, "the-base")
    back = read_gguf_lora(path, config)
    assert (back.rank, back.alpha) == (4, 8.0)
    for name, array in tensors.items():
        np.testing.assert_array_equal(back.tensors[name], array)
    metadata, found = stored(path)
    assert metadata["general.type"] == "adapter"
    assert metadata["general.architecture"] == config.architecture
    assert (metadata["adapter.type"], metadata["adapter.lora.alpha"]) == ("lora", 8.0)
    assert str(tmp_path) not in str(metadata)
    assert len(found) == len(tensors)


def test_the_same_adapter_has_the_same_bytes(tmp_path: Path) -> None:
    files = []
    for name in "ab":
        (tmp_path / name).mkdir()
        files += write_gguf_lora(tmp_path / name, LLAMA, ours(LLAMA), 8.0, "base")
    assert files[0].read_bytes() == files[1].read_bytes()


def test_rows_of_q_and_k_stand_as_in_the_models_file(tmp_path: Path) -> None:
    """Channels j and j + dim / 2 of our rotation are neighbours there; v's stay."""
    tensors = ours(LLAMA)
    _, found = stored(write_gguf_lora(tmp_path, LLAMA, tensors, 8.0, "base")[0])
    q, k = tensors["layers.0.q.B"], tensors["layers.0.k.B"]
    order = [0, 3, 1, 4, 2, 5]  # of a head of 6 channels
    np.testing.assert_array_equal(found["blk.0.attn_q.weight.lora_b"][:6], q[order])
    np.testing.assert_array_equal(found["blk.0.attn_k.weight.lora_b"][6:], k[6:][order])
    np.testing.assert_array_equal(found["blk.0.attn_v.weight.lora_b"], tensors["layers.0.v.B"])
    (tmp_path / "q").mkdir()
    _, plain = stored(write_gguf_lora(tmp_path / "q", QWEN, ours(QWEN), 8.0, "base")[0])
    np.testing.assert_array_equal(plain["blk.0.attn_q.weight.lora_b"], ours(QWEN)["layers.0.q.B"])


def test_a_fused_module_has_its_multiple_in_b(tmp_path: Path) -> None:
    tensors = ours(PHI3)
    (path,) = write_gguf_lora(tmp_path, PHI3, tensors, 8.0, "base", FUSED)
    metadata, found = stored(path)
    a, b = (found[f"blk.1.attn_qkv.weight.lora_{half}"] for half in "ab")
    assert (a.shape, b.shape) == ((12, 64), (256, 12))
    # llama.cpp counts alpha / the rank of each product.
    effect = metadata["adapter.lora.alpha"] / len(a) * b @ a
    wanted = 2.0 * tensors["layers.1.k.B"] @ tensors["layers.1.k.A"]
    np.testing.assert_allclose(effect[128:192], wanted, rtol=1e-4, atol=1e-4)
    back = read_gguf_lora(path, PHI3, FUSED)
    for name in ("q", "v", "gate", "up", "down"):
        product = back.alpha / back.rank * back.tensors[f"layers.0.{name}.B"]
        wanted = 2.0 * tensors[f"layers.0.{name}.B"]
        np.testing.assert_allclose(product[:, : wanted.shape[1]], wanted, rtol=1e-6)


def test_an_architecture_without_a_name_is_refused(tmp_path: Path) -> None:
    config = dataclasses.replace(LLAMA, architecture="new")
    with pytest.raises(ModelFormatError, match="new models have no GGUF-LoRA; export it as peft"):
        write_gguf_lora(tmp_path, config, ours(LLAMA), 8.0, "base")


# -- what is refused -------------------------------------------------------------------------------

Change = Callable[[dict[str, Any], Tensors], None]


def meta(key: str, value: Any) -> Change:
    return lambda metadata, tensors: metadata.update({key: value})


def cut(name: str, part: slice) -> Change:
    return lambda metadata, tensors: tensors.update({name: tensors[name][part]})


def named(new: str) -> Change:
    return lambda metadata, tensors: tensors.update({new: tensors.pop(Q)})


def nan(metadata: Mapping[str, Any], tensors: Tensors) -> None:
    tensors[Q][0, 0] = np.inf


def nothing(metadata: Mapping[str, Any], tensors: Tensors) -> None:
    pass


BAD: dict[str, tuple[Change, str]] = {
    "a model": (
        meta("general.type", "model"),
        "general.type: 'model', must be 'adapter'; give the",
    ),
    "no type": (lambda m, t: m.pop("general.type"), "general.type: missing, must be 'adapter'"),
    "another architecture": (
        meta("general.architecture", "qwen2"),
        "general.architecture: 'qwen2', must be 'llama'; use the base",
    ),
    "another kind": (meta("adapter.type", "control_vector"), "adapter.type: 'control_vector'"),
    "alpha 0": (meta("adapter.lora.alpha", 0.0), "adapter.lora.alpha: must be a number"),
    "alpha infinite": (meta("adapter.lora.alpha", float("inf")), "adapter.lora.alpha: must be"),
    "alpha text": (meta("adapter.lora.alpha", "8"), "adapter.lora.alpha: must be a number"),
    "no alpha": (lambda m, t: m.pop("adapter.lora.alpha"), "adapter.lora.alpha: must be a number"),
    "aLoRA": (meta("adapter.alora.invocation_tokens", 3), "aLoRA. are not supported"),
    "half": (lambda m, t: t.pop(Q), "attn_q.weight.lora_a: is missing"),
    "norms": (named("blk.0.attn_norm.weight"), "attn_norm.weight: the base adapts no such tensor"),
    "embeddings": (named("token_embd.weight.lora_a"), "token_embd.weight.lora_a: the base adapts"),
    "experts": (named("blk.0.ffn_up_exps.weight.lora_a"), "ffn_up_exps.weight.lora_a: the base"),
    "a layer too many": (named("blk.2.attn_q.weight.lora_a"), "blk.2.attn_q.weight.lora_a: the"),
    "another width": (cut(Q, np.s_[:, :8]), r"lora_a: shape \[4, 8\], must be \[4, 24\]"),
    "another rank": (cut(Q, np.s_[:3]), r"lora_b: shape \[24, 4\], must be \[24, 3\]"),
    "one axis": (cut(Q, np.s_[0]), r"shape \[24\], must be|rank 24"),
    "infinity": (nan, "attn_q.weight.lora_a: holds NaN or infinity"),
    "empty": (lambda m, t: t.clear(), "tensors: holds none of an adapter"),
}


def changed(folder: Path, change: Change) -> Path:
    """Write an adapter, change what is in the file, write it anew."""
    (path,) = write_gguf_lora(folder, LLAMA, ours(LLAMA), 8.0, "base")
    metadata, tensors = stored(path)
    change(metadata, tensors)
    write_gguf(path, metadata, tensors)
    return path


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_named(case: str, tmp_path: Path) -> None:
    change, message = BAD[case]
    path = changed(tmp_path, change)
    with pytest.raises(ModelFormatError, match=message) as caught:
        read_gguf_lora(path, LLAMA)
    assert str(caught.value).startswith(f"{path}: ")


def test_the_adapter_that_the_bad_ones_are_made_of_is_good(tmp_path: Path) -> None:
    assert read_gguf_lora(changed(tmp_path, nothing), LLAMA).rank == 4


def test_half_precision_is_widened_and_part_of_the_modules_is_enough(tmp_path: Path) -> None:
    def halved(metadata: dict[str, Any], tensors: Tensors) -> None:
        kept = {n: t.astype(np.float16) for n, t in tensors.items() if ".ffn_down." in n}
        tensors.clear()
        tensors.update(kept)

    back = read_gguf_lora(changed(tmp_path, halved), LLAMA)
    wanted = ours(LLAMA)["layers.1.down.A"].astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(back.tensors["layers.1.down.A"], wanted)
    assert not back.tensors["layers.0.q.B"].any()


def test_the_writer_refuses_what_the_format_cannot_hold(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    for tensors in ({"x": np.zeros(3)}, {"n" * 64: np.zeros(3, np.float32)}):
        with pytest.raises(ModelFormatError, match="cannot be written"):
            write_gguf(path, {}, tensors)
    with pytest.raises(ModelFormatError, match="key: -1 does not fit into uint32"):
        write_gguf(path, {"key": -1}, {})


# -- fuzz ------------------------------------------------------------------------------------------


def fuzzed(data: bytes, places: list[int], dice: random.Random) -> bytes:
    """Change what a file says at some places, or its length."""
    out = bytearray(data)
    for _ in range(dice.randrange(1, 3)):
        place = min(dice.choice(places), len(out) - 1)
        kind = dice.randrange(4)
        if kind == 0:
            out[place] ^= 1 << dice.randrange(8)
        elif kind == 1 and place + 8 <= len(out):
            odd = dice.choice([0, 1, 3, 4, 24, 2**31, 2**32 - 1, 2**63, 2**64 - 1])
            out[place : place + 8] = struct.pack("<Q", odd)
        elif kind == 2:
            out[place : place + 5] = dice.choice([b"lora_", b"blk.1", b".down", b"\0\0\0\0\0"])
        else:
            del out[dice.randrange(place, len(out)) :]
    return bytes(out)


def outcomes(folder: Path, count: int) -> tuple[int, int]:
    """Count fuzzed files that were refused and accepted; any other error is raised."""
    (path,) = write_gguf_lora(folder, LLAMA, ours(LLAMA, 1), 8.0, "base")
    data = path.read_bytes()
    start = data.index(b"blk.0")
    header = list(range(4, start + 2400))
    dice = random.Random(4)
    refused = accepted = 0
    for _ in range(count):
        path.write_bytes(fuzzed(data, header, dice))
        try:
            adapter = read_gguf_lora(path, LLAMA)
        except ModelFormatError as error:
            refused += 1
            assert len(str(error)) < 600
            continue
        accepted += 1
        assert all(np.isfinite(tensor).all() for tensor in adapter.tensors.values())
        assert adapter.rank <= 256
    return refused, accepted


def test_fuzzed_files_are_refused_or_whole(tmp_path: Path) -> None:
    refused, accepted = outcomes(tmp_path, 1000)
    assert refused > 500
    assert accepted > 10


def test_control_without_the_check_of_shapes_something_else_breaks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = gguf_lora._pair

    def unchecked(file: Any, key: str, module: Any, halves: Any, alpha: float) -> Any:
        values = {half: tensor.dequantize() for half, tensor in halves.items()}
        return gguf_lora.Pair(values["a"], values["b"], alpha / len(values["a"]))

    monkeypatch.setattr(gguf_lora, "_pair", unchecked)
    path = changed(tmp_path, cut(Q, np.s_[:, :8]))
    with pytest.raises(ValueError, match="broadcast"):
        read_gguf_lora(path, LLAMA)
    monkeypatch.setattr(gguf_lora, "_pair", real)
    with pytest.raises(ModelFormatError):
        read_gguf_lora(path, LLAMA)
