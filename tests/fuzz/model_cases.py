"""Model directories that are broken on purpose, as data: one for each known class of harm.

The one idea: a good model is kept in memory as parts; a case changes one, then all is written.
"""

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homebox.errors import HomeboxError, ModelFormatError, ModelNotFoundError
from homebox.model.architectures import ARCHITECTURES, checkpoint, config_file
from homebox.model.architectures.config_file import parse_config
from homebox.model.files import safetensors_reader, tensor_store, weight_files
from homebox.model.files.safetensors_reader import TensorInfo
from homebox.model.loading import loaded_weights
from tests.unit.model_files import CONFIG, file_tensors, pack, random_weights

INDEX = "model.safetensors.index.json"
GATE = "model.layers.0.mlp.gate_proj.weight"  # (40, 24)
NORM = "model.norm.weight"  # the last one
FP8 = {"quant_method": "fp8", "weight_block_size": [16, 16]}
SIZES = {"F32": 4, "F16": 2, "BF16": 2, "U8": 1, "I32": 4, "F8_E4M3": 1, "F8_E8M0": 1}
GPT_OSS: dict[str, Any] = {
    **CONFIG,
    "model_type": "gpt_oss",
    "hidden_size": 32,
    "intermediate_size": 32,
    "head_dim": 8,
    "num_hidden_layers": 1,
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
    "sliding_window": 8,
    "tie_word_embeddings": False,
    "quantization_config": {"quant_method": "mxfp4"},
}

Header = dict[str, Any]


class Files:
    """A good model in memory that a case breaks and then writes."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder = folder
        self.config = dict(config)
        self.tensors: dict[str, tuple[str, list[int], bytes]] = {}
        self.raw: dict[str, bytes] = {}  # files as they are
        self.index: dict[str, Any] | None = None
        self.shards: dict[str, set[str]] = {}  # file -> its tensors; without them all in one
        self.change: Callable[[Header], object] = lambda header: None
        self.text: Callable[[bytes], bytes] = lambda header: header
        self.after = b""  # bytes after the last tensor

    def put(self, name: str, dtype: str, shape: list[int], data: bytes | None = None) -> None:
        """Put a tensor in, of zeros if nothing else is said."""
        size = SIZES[dtype] * int(np.prod(shape, dtype=np.int64))
        self.tensors[name] = dtype, shape, bytes(size) if data is None else data

    def file(self, names: set[str] | None = None) -> bytes:
        """Return a safetensors file of some tensors."""
        header, body = {}, b""
        for name, (dtype, shape, data) in self.tensors.items():
            if names is not None and name not in names:
                continue
            place = [len(body), len(body) + len(data)]
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": place}
            body += data
        self.change(header)
        return pack(self.text(json.dumps(header).encode()), body + self.after)

    def write(self) -> None:
        """Write the directory."""
        self.folder.mkdir()
        shards = self.shards or {"model.safetensors": set(self.tensors)}
        files = {name: self.file(names) for name, names in shards.items()}
        files["config.json"] = json.dumps(self.config).encode()
        if self.index is not None:
            files[INDEX] = json.dumps({"weight_map": self.index}).encode()
        for name, data in {**files, **self.raw}.items():
            (self.folder / name).write_bytes(data)

    def shard(self) -> None:
        """Cut the model into two files and an index."""
        names = sorted(self.tensors)
        first, second = set(names[:5]), set(names[5:])
        self.shards = {"a.safetensors": first, "b.safetensors": second}
        self.index = {n: "a.safetensors" if n in first else "b.safetensors" for n in names}


Switch = Callable[[pytest.MonkeyPatch], object]


@dataclass(frozen=True)
class Case:
    """What is broken, how the refusal reads, and which check finds it."""

    make: Callable[[Files], object]
    message: str
    off: Switch | None = None  # switches the check off; None: there is no single place for it
    config: dict[str, Any] = field(default_factory=lambda: CONFIG)
    error: type[HomeboxError] = ModelFormatError


def off(module: Any, name: str, value: Any) -> Switch:
    return lambda monkeypatch: monkeypatch.setattr(module, name, value)


def trusting(name: str, entry: Any, where: str) -> TensorInfo:
    """Take an entry of a header as it is."""
    return TensorInfo(entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])


def entry(name: str, **changes: Any) -> Callable[[Files], object]:
    """Change the entry of a tensor in the header."""
    return lambda files: setattr(files, "change", lambda header: header[name].update(changes))


def moved(name: str, begin: int, end: int) -> Callable[[Files], object]:
    """Move the offsets of a tensor."""

    def change(header: Header) -> None:
        offsets = header[name]["data_offsets"]
        header[name]["data_offsets"] = [offsets[0] + begin, offsets[1] + end]

    return lambda files: setattr(files, "change", change)


def header_text(change: Callable[[bytes], bytes]) -> Callable[[Files], object]:
    return lambda files: setattr(files, "text", change)


def lengths(length: int, data: bytes) -> Callable[[Files], object]:
    """Write a file with this length of the header."""
    whole = length.to_bytes(8, "little") + data
    return lambda files: files.raw.update({"model.safetensors": whole})


def long_header(files: Files) -> None:
    """Make a header of 17 MiB that would be good otherwise."""
    files.text = lambda header: header + b" " * (17 << 20)


def named_twice(header: bytes) -> bytes:
    first = header.index(b'"model.norm.weight"')
    return header[:-1] + b", " + header[first:-1].split(b"}")[0] + b"}}"


def indexed(name: Any) -> Callable[[Files], object]:
    """Let the index of a sharded model name another file for one tensor."""

    def make(files: Files) -> None:
        files.shard()
        outside = files.folder.parent / "outside.safetensors"
        outside.write_bytes(files.file({NORM}))
        files.shards["b.safetensors"] -= {NORM}
        target = str(outside) if name == "absolute" else name
        assert files.index is not None
        files.index[NORM] = target

    return make


def linked(files: Files) -> None:
    """Put a link in place of a shard, to a file that lies outside."""
    files.shard()
    outside = files.folder.parent / "outside.safetensors"
    outside.write_bytes(files.file(files.shards.pop("b.safetensors")))
    (files.folder.parent / "link").symlink_to(outside)


def twice(files: Files) -> None:
    files.shard()
    files.shards["a.safetensors"] |= {NORM}


def unlisted(files: Files) -> None:
    files.shard()
    assert files.index is not None
    del files.index[NORM]


def elsewhere(files: Files) -> None:
    files.shard()
    assert files.index is not None
    files.index[NORM] = "a.safetensors"


def quantised(files: Files, scale: list[int] | None, dtype: str = "F32") -> None:
    """Store one weight in 8 bits, with a scale of this shape."""
    files.config["quantization_config"] = FP8
    files.put(GATE, "F8_E4M3", [40, 24])
    if scale is not None:
        files.put(f"{GATE}_scale_inv", dtype, scale)


def number(value: float) -> Callable[[Files], object]:
    """Put one number into a weight."""

    def make(files: Files) -> None:
        array = np.ones((40, 24), np.float32)
        array[39, 23] = value
        files.put(GATE, "F32", [40, 24], array.tobytes())

    return make


def code_of_nan(files: Files) -> None:
    quantised(files, [3, 2])
    ones = np.ones((3, 2), np.float32).tobytes()
    files.put(GATE, "F8_E4M3", [40, 24], bytes(959) + b"\x7f")
    files.put(f"{GATE}_scale_inv", "F32", [3, 2], ones)


def experts(files: Files, blocks: list[int] | None, scales: list[int] | None) -> None:
    """Store gpt-oss' experts in MXFP4, the first product with these shapes."""
    module = "model.layers.0.mlp.experts.gate_up_proj"
    files.put("model.layers.0.mlp.experts.down_proj_blocks", "U8", [2, 32, 1, 16])
    files.put("model.layers.0.mlp.experts.down_proj_scales", "U8", [2, 32, 1])
    if blocks is not None:
        files.put(f"{module}_blocks", "U8", blocks)
    if scales is not None:
        files.put(f"{module}_scales", "U8", scales)


class Bomb:
    """What a pickle may do: here it only writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "ran")


def pickled(files: Files) -> None:
    files.shards = {"unused.txt": set()}
    files.raw["pytorch_model.bin"] = pickle.dumps(Bomb(files.folder.parent / "ran"))


def loose_json(data: bytes, where: str) -> Any:
    return json.loads(data)


LAYOUT = off(safetensors_reader, "check_layout", lambda *_: None)
ENTRY = off(safetensors_reader, "_tensor", trusting)
PLAIN = off(safetensors_reader, "_is_plain_file_name", lambda name: True)

CASES: dict[str, Case] = {
    # The length before the header.
    "header length beyond the file": Case(lengths(1 << 20, b"{}"), "do not fit into a file of 10"),
    "header length of 64 bits": Case(lengths(2**64 - 1, b"{}"), "header length: .* is above"),
    "header above 16 MiB": Case(
        long_header, "is above 16777216", off(safetensors_reader, "MAX_HEADER_BYTES", 1 << 40)
    ),
    "header of no length": Case(lengths(0, b""), "header: does not begin with an object"),
    "file of 3 bytes": Case(
        lambda files: files.raw.update({"model.safetensors": b"abc"}), "has only 3 bytes"
    ),
    "empty file": Case(
        lambda files: files.raw.update({"model.safetensors": b""}), "has only 0 bytes"
    ),
    # The header's text.
    "header cut off": Case(header_text(lambda text: text[:-1]), "header: not JSON"),
    "header not UTF-8": Case(
        header_text(lambda text: text.replace(b"model.norm", b"model.n\xff\xfem")), "not UTF-8"
    ),
    "header names a tensor twice": Case(
        header_text(named_twice),
        "the key 'model.norm.weight' occurs twice",
        off(safetensors_reader, "parse_json_object", loose_json),
    ),
    "header nested deeply": Case(
        header_text(lambda text: b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        "nested too deeply|exactly dtype",
    ),
    "header of many values": Case(
        header_text(lambda text: b'{"a":[' + b"[]," * 400_000 + b"[]]}"), "JSON values"
    ),
    "metadata of numbers": Case(
        lambda files: setattr(files, "change", lambda h: h.update(__metadata__={"a": 1})),
        "__metadata__: must map names to texts",
        off(safetensors_reader, "_metadata", lambda value, where: value),
    ),
    # A tensor's entry.
    "unknown type": Case(
        entry(NORM, dtype="Q99"),
        f"'{NORM}': dtype: unknown type 'Q99'",
        off(safetensors_reader, "_BITS", {**safetensors_reader._BITS, "Q99": 32}),
    ),
    "type of another size": Case(
        entry(NORM, dtype="F16"), f"'{NORM}': data_offsets: 96 bytes do not hold F16", LAYOUT
    ),
    "whole numbers": Case(entry(NORM, dtype="I32"), f"{NORM}: type I32 is not supported"),
    "negative sizes": Case(entry(NORM, shape=[-4, -6]), f"'{NORM}': shape: every size", ENTRY),
    "fractional size": Case(entry(NORM, shape=[24.0]), f"'{NORM}': shape: every size", ENTRY),
    "product beyond 64 bits": Case(
        entry(NORM, shape=[1 << 40, 1 << 24, 24]), f"'{NORM}': data_offsets: .* do not hold", LAYOUT
    ),
    "offsets reversed": Case(moved(NORM, 96, -96), f"'{NORM}': data_offsets: outside", LAYOUT),
    "tensors overlap": Case(moved(NORM, -4, -4), "data_offsets: overlap with the tensor", LAYOUT),
    "hole": Case(moved(NORM, 4, 4), "data_offsets: (leave a hole|outside)", LAYOUT),
    "beyond the file": Case(moved(NORM, 0, 1 << 40), f"'{NORM}': data_offsets: outside", LAYOUT),
    "bytes left over": Case(
        lambda files: setattr(files, "after", bytes(8)), "8 bytes after the last tensor", LAYOUT
    ),
    # The index and the files.
    "index leaves the directory": Case(
        indexed("../outside.safetensors"), "'../outside.safetensors' is no plain file name", PLAIN
    ),
    "index names an absolute path": Case(indexed("absolute"), "is no plain file name", PLAIN),
    "index names a number": Case(indexed(3), f"'{NORM}': 3 is no plain file name", PLAIN),
    "index names itself": Case(indexed(INDEX), "is no plain file name", PLAIN),
    "index names a NUL": Case(indexed("a\0.safetensors"), "is no plain file name", PLAIN),
    "index is a list": Case(
        lambda files: files.raw.update({INDEX: b'{"weight_map":[]}'}), "weight_map: must name 1"
    ),
    "link out of the directory": Case(
        linked,
        "b.safetensors: is a link to .*outside.safetensors, outside of the model's directory",
        off(weight_files, "_inside", lambda directory, name: directory / name),
    ),
    "shard is missing": Case(
        indexed("c.safetensors"), "c.safetensors does not exist", error=ModelNotFoundError
    ),
    "tensor in two shards": Case(twice, f"{NORM}: also in a.safetensors"),
    "tensor that the index does not name": Case(unlisted, f"{NORM}: not in {INDEX}"),
    "tensor in another shard": Case(elsewhere, f"weight_map: {NORM}: not in a.safetensors"),
    "two names for one tensor": Case(
        lambda files: files.put("model.language_model.norm.weight", "F32", [24]),
        "model.language_model.norm.weight: is the same as .*model.norm.weight",
    ),
    "weights that can run code": Case(
        pickled, "pytorch_model.bin: is a pickle, which can run any code and is never opened"
    ),
    # Weights and configuration.
    "unknown architecture": Case(
        lambda files: files.config.update(architectures=["EvilForCausalLM"]),
        "architectures: .*EvilForCausalLM.*supported.*llama.*granite",
        off(config_file, "named", lambda name: ARCHITECTURES[0]),
    ),
    "unknown kind": Case(
        lambda files: files.config.update(model_type="evil"),
        "model_type: .*evil.*supported.*llama.*granite",
    ),
    "configuration of another size": Case(
        lambda files: files.config.update(intermediate_size=48),
        r"shape \[40, 24\] does not fit the configuration, which asks for \[48, 24\]",
    ),
    "NaN": Case(
        number(np.nan), f"{GATE}: holds NaN", off(loaded_weights, "finite", lambda array: True)
    ),
    "infinity": Case(
        number(np.inf), f"{GATE}: holds NaN", off(loaded_weights, "finite", lambda array: True)
    ),
    # 8 and 4 bits.
    "fp8 without a scale": Case(
        lambda files: quantised(files, None), f"{GATE}: type F8_E4M3 has no scale; one is needed"
    ),
    "fp8 that the configuration does not name": Case(
        lambda files: files.put(GATE, "F8_E4M3", [40, 24]),
        f"{GATE}: type F8_E4M3 needs a quantization_config of method fp8",
    ),
    "fp8 with a scale of another shape": Case(
        lambda files: quantised(files, [2, 3]),
        rf"{GATE}_scale_inv: shape \[2, 3\] does not fit \[40, 24\] in blocks of \[16, 16\]",
        off(tensor_store, "scale_grid", lambda *_: (16, 16)),
    ),
    "fp8 with two scales": Case(
        lambda files: (quantised(files, [3, 2]), files.put(f"{GATE}_scale", "F32", [3, 2])),
        f"{GATE}: type F8_E4M3 has two scales",
    ),
    "fp8 with whole numbers as scale": Case(
        lambda files: quantised(files, [3, 2], "I32"),
        "type I32 is not supported for a scale",
        off(tensor_store, "_SCALES", ("I32",)),
    ),
    "code of NaN": Case(
        code_of_nan, f"{GATE}: holds NaN", off(loaded_weights, "finite", lambda array: True)
    ),
    "unknown quantisation": Case(
        lambda files: files.config.update(quantization_config={"quant_method": "awq"}),
        "quantization_config: quant_method: 'awq' is not supported; supported: fp8",
    ),
    "mxfp4 blocks without scales": Case(
        lambda files: experts(files, [2, 64, 1, 16], None),
        "gate_up_proj_scales .*missing",
        config=GPT_OSS,
    ),
    "mxfp4 rows that are no whole blocks": Case(
        lambda files: (
            files.config.update(hidden_size=48),
            experts(files, [2, 64, 1, 16], [2, 64, 1]),
        ),
        "gate_up_proj.* missing",
        off(checkpoint, "MX_BLOCK", 16),
        config=GPT_OSS,
    ),
    "mxfp4 blocks of another shape": Case(
        lambda files: experts(files, [2, 64, 16, 1], [2, 64, 1]),
        r"gate_up_proj_blocks: shape \[2, 64, 16, 1\] does not fit",
        config=GPT_OSS,
    ),
}


def build(case: Case, folder: Path) -> None:
    files = Files(folder, case.config)
    for name, array in weights_of(case.config).items():
        files.put(name, "F32", list(array.shape), array.tobytes())
    case.make(files)
    files.write()
    link = folder.parent / "link"
    if link.is_symlink():
        link.rename(folder / "b.safetensors")


def weights_of(config: dict[str, Any]) -> dict[str, Any]:
    if config is GPT_OSS:
        return gpt_oss_tensors()
    return file_tensors(random_weights(parse_config(config)))


def gpt_oss_tensors() -> dict[str, Any]:
    """Return a checkpoint of gpt-oss without its experts."""
    layer, expert = "model.layers.0.", "model.layers.0.mlp.experts."
    shapes = {
        "model.embed_tokens.weight": (400, 32),
        NORM: (32,),
        "lm_head.weight": (400, 32),
        f"{layer}input_layernorm.weight": (32,),
        f"{layer}post_attention_layernorm.weight": (32,),
        f"{layer}self_attn.sinks": (4,),
        f"{layer}mlp.router.weight": (2, 32),
        f"{layer}mlp.router.bias": (2,),
        f"{expert}gate_up_proj_bias": (2, 64),
        f"{expert}down_proj_bias": (2, 32),
    }
    for name, rows, columns in (("q", 32, 32), ("k", 16, 32), ("v", 16, 32), ("o", 32, 32)):
        shapes[f"{layer}self_attn.{name}_proj.weight"] = (rows, columns)
        shapes[f"{layer}self_attn.{name}_proj.bias"] = (rows,)
    return {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
