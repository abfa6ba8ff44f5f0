"""Whole model directories of every family in which configuration and tensors no longer agree.

Each reader's own fuzzing breaks a file's form; here every file is well formed, and what one says of
another is wrong. Seeded: the same cases in every run.
"""

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homebox.errors import ModelFormatError
from homebox.model.architectures.config_file import architecture_of, parse_config
from homebox.model.loading import loader
from homebox.model.loading.loader import load_weights
from tests.fuzz.test_config_fuzz import damage, objects
from tests.parity.cases import CASES, Case
from tests.unit.model_files import pack

COUNT = 640
SIZES = {"F32": 4, "F16": 2, "BF16": 2, "U8": 1, "F8_E4M3": 1, "F8_E8M0": 1, "I32": 4, "I64": 8}
FP8 = {"quant_method": "fp8", "weight_block_size": [16, 16]}

Tensors = dict[str, tuple[str, tuple[int, ...]]]  # type and shape
Config = dict[str, Any]


def tensors_of(case: Case) -> Tensors:
    """Return the type and shape of every tensor of a family's checkpoint."""
    config = parse_config(case.config)
    packed: set[str] = set()
    if case.mxfp4:
        modules = (f"model.layers.{i}.mlp.experts." for i in range(config.num_layers))
        packed = {f"{module}gate_up_proj_blocks" for module in modules}
    found = architecture_of(case.config).origins(config, packed)
    sources = [source for origin in found.values() for source in origin.sources]
    return {s.name: ("U8" if s.raw else case.stored, tuple(s.shape)) for s in sources}


WHOLE = {case.name: tensors_of(case) for case in CASES}


def quantise(dice: random.Random, config: Config, tensors: Tensors) -> None:
    """Store some matrices in 8 bits."""
    config["quantization_config"] = copy.deepcopy(FP8)
    for name in dice.sample(sorted(tensors), min(4, len(tensors))):
        dtype, shape = tensors[name]
        if dtype != "U8" and len(shape) == 2:
            tensors[name] = "F8_E4M3", shape
            grid = (-(-shape[0] // 16), -(-shape[1] // 16))
            tensors[f"{name}_scale_inv"] = dice.choice(["F32", "BF16", "F8_E8M0"]), grid


def disagree(dice: random.Random, config: Config, tensors: Tensors) -> None:
    """Change one tensor, or one value of the configuration."""
    kind = dice.randrange(8)
    name = dice.choice(sorted(tensors))
    dtype, shape = tensors[name]
    if kind == 0:
        tensors[name] = dice.choice(list(SIZES)), shape
    elif kind == 1 and shape:
        axis = dice.randrange(len(shape))
        size = dice.choice([0, 1, 2, 16, 32, 48, shape[axis] + 1, shape[axis] * 2])
        tensors[name] = dtype, (*shape[:axis], size, *shape[axis + 1 :])
    elif kind == 2:
        tensors[name] = dtype, dice.choice([(), shape[::-1], (1, *shape), shape[1:], (0,)])
    elif kind == 3:
        del tensors[name]
    elif kind == 4:
        ending = dice.choice(["_scale", "_scale_inv", "_blocks", "_scales", ".bias", "x"])
        tensors[f"{name}{ending}"] = dice.choice(list(SIZES)), dice.choice([shape, (), (1, 1)])
    elif kind == 5:
        sizes = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
        sizes += [
            "num_key_value_heads",
            "vocab_size",
            "head_dim",
            "num_experts",
            "num_local_experts",
        ]
        sizes += ["moe_intermediate_size"]
        places = [each for each in objects(config) if set(sizes) & set(each)]
        if places:
            place = dice.choice(places)
            key = dice.choice([size for size in sizes if size in place])
            place[key] = dice.choice([1, 2, 3, 4, 8, 16, 32, 48, 64, 80, 96, 128])
    else:
        damage(dice, config)


def directories(count: int, seed: int) -> Iterator[tuple[Config, Tensors]]:
    """Yield what to write; one in eight is whole."""
    dice = random.Random(seed)
    for number in range(count):
        case = CASES[number % len(CASES)]
        config, tensors = copy.deepcopy(case.config), dict(WHOLE[case.name])
        if dice.random() < 0.3 and not case.mxfp4:
            quantise(dice, config, tensors)
        for _ in range(dice.choice([0, 1, 1, 1, 1, 1, 2, 3])):
            if tensors:
                disagree(dice, config, tensors)
        yield config, tensors


def write(folder: Path, config: Config, tensors: Tensors) -> None:
    """Write a directory of ones."""
    header, body = {}, b""
    for name, (dtype, shape) in tensors.items():
        count = int(np.prod(shape, dtype=np.int64))
        ones = {"F32": b"\0\0\x80\x3f", "BF16": b"\x80\x3f", "F16": b"\0\x3c"}
        data = ones.get(dtype, b"\x38" * SIZES[dtype]) * count
        header[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(pack(json.dumps(header).encode(), body))


def outcome(folder: Path) -> bool:
    """Load a directory and read every weight; False if it was refused in the right way."""
    try:
        weights = load_weights(folder)
        shapes = weights.config.weight_shapes()
        for name in weights:
            array = weights.stored(name)
            assert array.shape == shapes[name]
            assert array.dtype.str[1:] in ("f4", "f2", "u2")
        weights.check_tied_head()
    except ModelFormatError as error:
        assert str(error).startswith(str(folder))
        assert len(str(error)) < 1500
        return False
    return True


def test_whole_directories_of_every_family_are_read(tmp_path: Path) -> None:
    for case in CASES:
        write(tmp_path, case.config, WHOLE[case.name])
        assert outcome(tmp_path), case.name


def test_directories_that_disagree_are_refused(tmp_path: Path) -> None:
    seen = {True: 0, False: 0}
    for config, tensors in directories(COUNT, 51):
        write(tmp_path, config, tensors)
        seen[outcome(tmp_path)] += 1
    assert seen[True] > COUNT // 8
    assert seen[False] > COUNT // 4


@pytest.mark.parametrize("check", ["check_names", "check_shapes"])
def test_control_without_the_checks_there_are_crashes(
    check: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, check, lambda *_: None)
    with pytest.raises((AssertionError, KeyError, ValueError, IndexError)):
        for config, tensors in directories(COUNT, 51):
            write(tmp_path, config, tensors)
            outcome(tmp_path)


@pytest.mark.whole
def test_many_directories_that_disagree(tmp_path: Path) -> None:
    for config, tensors in directories(COUNT * 20, 52):
        write(tmp_path, config, tensors)
        outcome(tmp_path)
