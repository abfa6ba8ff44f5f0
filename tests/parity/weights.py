"""Draws the weights of a case and writes its directory; needs none of the peers.

Invariant: a tensor is a function of (seed, name, shape, type) in integer arithmetic, so a directory
has the same bytes wherever and whenever it is made.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from homebox.model.lora import uniform
from homebox.model.tokenizer.sentencepiece_file import BYTE, CONTROL, NORMAL, UNKNOWN
from tests.parity.cases import ROWS, TRAINED, Case
from tests.unit.model_files import rounded

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Stored:
    """A tensor of a safetensors file."""

    name: str
    shape: tuple[int, ...]
    kind: str  # F32, F16, BF16, F8_E4M3 or U8


def drawn(seed: int, name: str, shape: tuple[int, ...]) -> Array:
    """Return float64 numbers in (-1, 1)."""
    key = hashlib.sha256(f"homebox parity {seed} {name}".encode()).digest()[:8]
    count = int(np.prod(shape, dtype=np.int64))
    return uniform(int.from_bytes(key, "little"), count).reshape(shape)


def tokens(seed: int, name: str, *shape: int) -> npt.NDArray[np.int32]:
    """Return token ids of the vocabulary of 96, without the first three."""
    values = (drawn(seed, f"ids {name}", shape) + 1) / 2
    return (3 + np.floor(values * 93)).astype(np.int32)


def values(case: Case, tensor: Stored) -> Array:
    """Return a tensor's numbers: float32 that its type can hold, or bytes as they are."""
    unit = drawn(case.seed, tensor.name, tensor.shape)
    if tensor.name.endswith("_scales"):
        return (122 + np.floor(unit * 1.5)).astype(np.uint8)
    if tensor.name.endswith("_scale_inv"):
        return ((12 + np.floor(unit * 4)) / 64).astype(np.float32)
    if tensor.kind == "F8_E4M3":
        number = np.floor((unit + 1) * 32).astype(np.uint8)  # a sign, 2 bits of 4, 3 bits
        return (number & 32) << 2 | 0x20 | number & 31
    if tensor.kind == "U8":
        return np.floor((unit + 1) * 128).astype(np.uint8)
    center, width = _spread(case, tensor)
    return rounded((center + width * unit).astype(np.float32), tensor.kind)


def _spread(case: Case, tensor: Stored) -> tuple[float, float]:
    """Return the middle of a tensor's numbers and how far they reach."""
    name = tensor.name
    one = 0.0 if case.architecture == "gemma3_text" else 1.0
    if name.endswith("model.norm.weight") and case.text["tie_word_embeddings"]:
        return one - 1.0, 3.0  # of both signs, lest each token be followed by itself
    if "norm" in name.rsplit(".", 2)[-2]:
        return one, 0.4
    if name.endswith("sinks"):
        return 0.5, 2.0
    if name.endswith("bias"):
        return 0.0, 0.5
    if name.endswith(("mlp.gate.weight", "router.weight")):
        return 0.0, 0.8
    if "embed_tokens" in name:
        scaled = case.architecture in ("gemma3_text", "granite")
        return 0.0, 0.2 if scaled else 0.5
    narrower = math.sqrt(64 / case.text["hidden_size"])
    return 0.0, (0.35 if name.endswith("lm_head.weight") else 0.3) * narrower


def write_directory(directory: Path, case: Case, tensors: Iterable[Stored]) -> None:
    """Write the model of a case as a checkpoint of Hugging Face."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(case.config, indent=1))
    (directory / "tokenizer.model").write_bytes(vocabulary(case.text["vocab_size"]))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = bytearray()
    for tensor in tensors:
        data = packed(values(case, tensor), tensor.kind)
        offsets = [len(body), len(body) + len(data)]
        header[tensor.name] = {
            "dtype": tensor.kind,
            "shape": list(tensor.shape),
            "data_offsets": offsets,
        }
        body += data
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + bytes(body)
    (directory / "model.safetensors").write_bytes(data)


def packed(array: Array, kind: str) -> bytes:
    """Return numbers as a safetensors type stores them."""
    if kind == "BF16":
        return (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return array.astype({"F32": "<f4", "F16": "<f2"}.get(kind, "u1")).tobytes()


def vocabulary(size: int) -> bytes:
    """Return a sentencepiece model of single characters; tests speak in ids."""
    pieces = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)]
    pieces += [(chr(0x30 + i), NORMAL) for i in range(size - len(pieces))]
    assert BYTE not in {kind for _, kind in pieces}
    out = bytearray()
    for rank, (text, kind) in enumerate(pieces):
        inner = _field(1, text.encode()) + b"\x15" + np.float32(-rank).tobytes()
        inner += bytes([0x18, kind])
        out += _field(1, inner)
    # trainer_spec: model_type = bpe, vocab_size; normalizer_spec: name, no prefix.
    out += _field(2, bytes([0x18, 2, 0x20, size]))
    out += _field(3, _field(1, b"identity") + bytes([0x18, 0, 0x20, 0, 0x28, 1]))
    return bytes(out)


def _field(number: int, data: bytes) -> bytes:
    """Return a length-delimited field of protocol buffers; lengths below 128 take one byte."""
    assert len(data) < 128
    return bytes([number << 3 | 2, len(data)]) + data


def batch_ids(case: Case) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return (ids, targets) of the batch whose gradient is compared, each (ROWS, TRAINED)."""
    ids = tokens(case.seed, "trained", ROWS, TRAINED)
    return ids, tokens(case.seed, "targets", ROWS, TRAINED)


def adapter_values(seed: int, name: str, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Return the numbers of an adapter's tensor; B is not zero, so that A has a gradient."""
    reach = 0.3 if name.endswith(".B") else 0.2
    return (drawn(seed, f"adapter {name}", shape) * reach).astype(np.float32)
