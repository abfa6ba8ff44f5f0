"""Model directories of known shapes with numbers drawn by lot: speed depends on shapes alone.

A directory is complete once it has its config.json, which is written last; a complete one is kept
for the next run. Weights are cut from one block of normal bfloat16 numbers, each tensor from
another place, so that writing takes no longer than the disk.
"""

import itertools
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from homebox.engine.codegen.cache import cache_root
from homebox.engine.graph.formats import WEIGHTS
from homebox.errors import HomeboxError
from homebox.model.architectures.config_file import parse_config
from homebox.model.config import ModelConfig
from homebox.model.loading.loader import file_name_of

BLOCK = 1 << 24  # numbers that are drawn
RESERVE = 1 << 30  # bytes of the disk that stay free
_STEP = 7_368_787  # between the places that tensors begin at; a prime
_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
)
SHAPES = {
    "Qwen3-0.6B": (1024, 3072, 28, 16, 8, 128, 151936),
    "Qwen3-4B": (2560, 9728, 36, 32, 8, 128, 151936),
    "quick": (256, 512, 2, 4, 2, 64, 4096),
}

Bits = npt.NDArray[np.uint16]


def settings(name: str) -> dict[str, Any]:
    """Return the config.json of a shape."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        **dict(zip(_KEYS, SHAPES[name], strict=True)),
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "max_position_embeddings": 40960,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "torch_dtype": "bfloat16",
        "use_sliding_window": False,
        "max_window_layers": SHAPES[name][2],
    }


def made(folder: Path, names: Sequence[str], types: Sequence[str]) -> dict[str, Path]:
    """Return the directory of each shape, and make those that are missing.

    Raises HomeboxError before anything is written if the disk has no room for them and for their
    weights in `types`.
    """
    found = {name: folder / name for name in names}
    missing = [name for name in names if not complete(found[name], settings(name))]
    folder.mkdir(parents=True, exist_ok=True)
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    check_room(folder, root, missing, names, types)
    for name in missing:
        write(found[name], settings(name))
    return found


def check_room(
    folder: Path, cache: Path, missing: Sequence[str], names: Sequence[str], types: Sequence[str]
) -> None:
    """Raise HomeboxError if the models or what is packed of them would fill a disk."""
    sizes = {name: parse_config(settings(name)).parameters for name in names}
    models = sum(2 * sizes[name] for name in missing)
    per_number = sum(WEIGHTS[form].unit_bytes / WEIGHTS[form].unit for form in types)
    packed = int(sum(sizes.values()) * per_number)
    if folder.stat().st_dev == cache.stat().st_dev:
        needed = {folder: models + packed}
    else:
        needed = {folder: models, cache: packed}
    for place, size in needed.items():
        free = shutil.disk_usage(place).free
        if size + RESERVE > free:
            raise HomeboxError(
                f"{place} has {free / 1e9:.1f} GB free, and {(size + RESERVE) / 1e9:.1f} GB are "
                f"needed for {', '.join(names)}: name another folder with --models (packed "
                "weights: HOMEBOX_CACHE_DIR), or fewer models with --shapes"
            )


def complete(directory: Path, wanted: dict[str, Any]) -> bool:
    """Whether a directory holds this shape, written to the end."""
    try:
        return bool(json.loads((directory / "config.json").read_text("utf-8")) == wanted)
    except (OSError, ValueError):
        return False


def write(directory: Path, wanted: dict[str, Any], seed: int = 0) -> None:
    """Write a model directory; numbers are those of `seed`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").unlink(missing_ok=True)
    config = parse_config(wanted)
    header, size = _header(config)
    path = directory / "model.safetensors"
    block = _drawn(seed, min(BLOCK, 2 * max(math.prod(s) for s in config.weight_shapes().values())))
    with path.open("wb") as file:
        file.write(header)
        for number, (name, shape) in enumerate(config.weight_shapes().items()):
            if name.endswith("norm"):
                np.full(shape, 0x3F80, np.uint16).tofile(file)  # 1.0
                continue
            at, left = number * _STEP % len(block), math.prod(shape)
            while left:
                piece = block[at : at + left]
                piece.tofile(file)
                at, left = 0, left - len(piece)
    if path.stat().st_size != size:
        raise HomeboxError(f"{path} has {path.stat().st_size} bytes and should have {size}")
    (directory / "config.json").write_text(json.dumps(wanted, indent=1), "utf-8")


def _header(config: ModelConfig) -> tuple[bytes, int]:
    """Return the beginning of a safetensors file, and the size of all of it."""
    shapes = config.weight_shapes()
    ends = list(itertools.accumulate(2 * math.prod(shape) for shape in shapes.values()))
    entries = {
        file_name_of(name): {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
        for (name, shape), start, end in zip(shapes.items(), [0, *ends], ends, strict=False)
    }
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, 8 + len(text) + ends[-1]


def _drawn(seed: int, count: int) -> Bits:
    """Return normal numbers of the usual size of weights, as bfloat16."""
    numbers = np.random.default_rng(seed).standard_normal(count, np.float32) * np.float32(0.02)
    return (numbers.view(np.uint32) >> 16).astype(np.uint16)
