"""Configurations of every family with values that make no sense: refused, or consistent.

Seeded: the same cases in every run. `pytest -m whole tests/fuzz` runs all of them.
"""

import copy
import json
import math
import random
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homebox.errors import ModelFormatError
from homebox.model.architectures import ARCHITECTURES
from homebox.model.architectures.config_file import decoder_part, parse_config
from homebox.model.config import MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, ModelConfig
from homebox.model.decoder.rope import inverse_frequencies
from homebox.model.files.config_fields import Fields
from homebox.model.files.json_file import parse_json_object
from homebox.model.files.quantisation import quantisation
from homebox.model.loading import loader
from homebox.model.loading.loader import load_weights
from tests.null.test_quantisation import GOOD
from tests.parity.cases import BY_NAME, CASES
from tests.unit.model_files import safetensors_bytes

COUNT = 50_000  # in every run
WHOLE = 200_000
LIMIT = 0.05  # seconds of this thread for a case
TURNED = 200  # one of so many accepted configurations has its rotations computed

NUMBERS: list[Any] = [-1, 0, 1, 2, 3, 4, 7, 8, 16, 31, 64, 96, 128, 1000, 1 << 17, 1 << 20, 1 << 24]
NUMBERS += [1 << 31, 1 << 63, 1 << 64, 10**40, -(1 << 63), 0.0, -0.0, 0.5, 1.0, 1.5, -1.5, 1e-9]
NUMBERS += [1e-300, 1e12, 1e300, -1e300, 5e-324, float("inf"), float("-inf"), float("nan")]
ODD: list[Any] = [*NUMBERS, True, False, None, "", "2", "silu", "yarn", "x" * 5000, "\ud800", "\0"]
ODD += [[], {}, [1], [None], [1, 1, 0], ["full_attention"] * 2, ["sliding_attention"] * 3]
ODD += [[["full_attention"]], [0] * 3000, {"a": {"b": [1]}}, {"rope_type": "yarn"}, [float("nan")]]
ODD += [{"rope_type": ["yarn"]}, {"type": {}}, {"rope_theta": -1}, {"factor": "4"}]
KINDS: list[Any] = [case.config["model_type"] for case in CASES]
KINDS += [
    "evil",
    "gemma4",
    "qwen3_5",
    "Llama",
    "",
    "default",
    "linear",
    "dynamic",
    "llama3",
    "yarn",
]
KINDS += ["longrope", "su", "mrope", "awq", "fp8", "mxfp4", "LlamaForCausalLM"]
# Keys that no configuration of the comparison has.
FURTHER = ["text_config", "architectures", "pad_token_id", "partial_rotary_factor", "clip_qkv"]
FURTHER += ["use_bidirectional_attention", "hidden_activation", "no_rope_layer_interval"]

QUANTISED = [value for value, _ in GOOD.values()]

Config = dict[str, Any]


def all_keys() -> list[str]:
    """Return every key that one of the families knows."""
    keys = {key for case in CASES for key in case.config}
    return sorted(keys | set(FURTHER))


KEYS = all_keys()


def objects(config: Config) -> list[Config]:
    """Return a configuration and the objects in it."""
    found = [config]
    for value in config.values():
        if isinstance(value, dict):
            found += objects(value)
    return found


def odd(dice: random.Random) -> Any:
    """Return an odd value that nobody else holds."""
    return copy.deepcopy(dice.choice(ODD))


def damage(dice: random.Random, config: Config) -> None:
    """Change one value somewhere."""
    place = dice.choice(objects(config))
    kind = dice.randrange(7)
    keys = list(place)
    if kind == 0 or not keys:
        place[dice.choice(KEYS)] = odd(dice)
    elif kind == 1:
        place[dice.choice(keys)] = odd(dice)
    elif kind == 2:
        place[dice.choice(keys)] = dice.choice(NUMBERS)
    elif kind == 3:
        del place[dice.choice(keys)]
    elif kind == 4:
        place[dice.choice(keys)] = dice.choice(KINDS)
    elif kind == 5:
        other = dice.choice(CASES).config
        key = dice.choice(list(other))
        place[key] = copy.deepcopy(other[key])
    else:
        damage_list(dice, place, dice.choice(keys))


def damage_list(dice: random.Random, place: Config, key: str) -> None:
    """Change an entry of a list, or put a value into a list or an object."""
    value = place[key]
    if isinstance(value, list) and value:
        spot = dice.randrange(len(value))
        if dice.random() < 0.5:
            value[spot] = odd(dice)
        else:
            value.insert(spot, dice.choice(value))
    else:
        place[key] = dice.choice([[value], {key: value}, {"rope_type": value}])


def configs(count: int, seed: int) -> Iterator[Config]:
    """Yield configurations of all families, damaged once or more, a few whole ones among them."""
    dice = random.Random(seed)
    for number in range(count):
        config = copy.deepcopy(CASES[number % len(CASES)].config)
        if dice.random() < 0.1:
            config["quantization_config"] = copy.deepcopy(dice.choice(QUANTISED))
        if dice.random() < 0.1:
            config = {"model_type": "evil", "text_config": config}
        for _ in range(dice.choice([0, 1, 1, 1, 1, 2, 2, 3])):
            damage(dice, config)
        yield config


def parse(raw: Config) -> ModelConfig | None:
    """Parse like the loader does; None if it was refused in the right way."""
    try:
        config = parse_config(raw, "fuzz")
        quantisation(decoder_part(raw, "fuzz"), "fuzz")
    except ModelFormatError as error:
        text = str(error)
        assert text.startswith("fuzz: ")
        assert len(text) < 1000
        assert text.isprintable()
        return None
    return config


def check(config: ModelConfig) -> None:
    """Check what all later code takes for granted."""
    assert config.architecture in {one.model_type for one in ARCHITECTURES}
    assert 1 <= config.num_layers <= MAX_LAYERS
    assert len(config.layers) == config.num_layers
    assert 1 <= config.vocab_size <= MAX_VOCAB
    assert 1 <= config.hidden_size <= MAX_WIDTH
    assert config.num_heads % config.num_kv_heads == 0
    assert config.head_dim % 2 == 0
    assert 0 < config.rms_eps <= 1
    assert all(0 <= token < config.vocab_size for token in config.eos_ids)
    for value in (config.embed_scale, config.residual_scale, config.logit_scale):
        assert math.isfinite(value)
        assert value != 0
    for layer in config.layers[:4]:
        assert layer.window is None or layer.window >= 1
        if layer.rope is not None:
            assert 2 <= layer.rope.dim <= config.head_dim
            assert layer.rope.dim % 2 == 0
            assert math.isfinite(layer.rope.theta)
        if layer.sparse:
            assert config.experts is not None
            assert 1 <= config.experts.per_token <= config.experts.count


def turns(config: ModelConfig) -> None:
    """Check that what a rotation is made of are numbers."""
    for rope in {layer.rope for layer in config.layers}:
        if rope is not None:
            for context in (1, 64, config.max_positions):
                frequencies = inverse_frequencies(rope, context)
                assert frequencies.shape == (rope.dim // 2,)
                assert np.isfinite(frequencies).all()
                assert (frequencies >= 0).all()


def test_damaged_configurations_are_refused_or_consistent() -> None:
    accepted = refused = 0
    families = set()
    for raw in configs(COUNT, 41):
        config = parse(raw)
        if config is None:
            refused += 1
            continue
        accepted += 1
        check(config)
        families.add(config.architecture)
        if accepted % TURNED == 0:
            turns(config)
    assert families == {parse_config(case.config).architecture for case in CASES}
    assert accepted > COUNT // 10
    assert refused > COUNT // 4


def test_every_number_of_every_field() -> None:
    """Each field of each family takes each odd value once, alone."""
    for case in CASES:
        for place, key in fields_of(case.config):
            for value in ODD:
                raw = copy.deepcopy(case.config)
                target = raw
                for name in place:
                    target = target[name]
                target[key] = value
                config = parse(raw)
                if config is not None:
                    check(config)


def fields_of(config: Config, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    for key, value in config.items():
        yield place, key
        if isinstance(value, dict):
            yield from fields_of(value, (*place, key))


def test_damaged_texts_are_refused_or_objects() -> None:
    dice = random.Random(42)
    good = 0
    for number in range(COUNT // 4):
        data = bytearray(json.dumps(CASES[number % len(CASES)].config).encode())
        for _ in range(dice.choice([1, 1, 2])):
            spot = dice.randrange(len(data))
            if dice.random() < 0.5:
                data[spot] ^= 1 << dice.randrange(8)
            else:
                data[spot:spot] = dice.choice(
                    [b"{", b"]", b",", b"1e999", b"NaN", b"\xff", b"\\u00"]
                )
        try:
            raw = parse_json_object(bytes(data), "fuzz")
        except ModelFormatError as error:
            assert str(error).startswith("fuzz: ")
            continue
        good += 1
        parse(raw)
    assert good > COUNT // 40


# Sizes at their limits: what they cost must not grow with what they promise.
GREATEST: dict[str, Config] = {
    "layers": {"num_hidden_layers": MAX_LAYERS},
    "vocabulary": {"vocab_size": MAX_VOCAB},
    "experts": {"num_hidden_layers": MAX_LAYERS, "num_experts": 1024, "num_local_experts": 1024},
    "windows": {"layer_types": ["full_attention"] * 30_000},
    "factors": {"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0] * 30_000}},
    "stops": {"eos_token_id": list(range(30_000))},
    "sparse": {"num_hidden_layers": MAX_LAYERS, "mlp_only_layers": list(range(30_000))},
}


@pytest.mark.parametrize("name", GREATEST)
def test_great_sizes_take_little_memory(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(
        safetensors_bytes({"model.norm.weight": np.ones(64, np.float32)})
    )
    for case in {case.architecture: case for case in CASES}.values():
        raw = {**case.config, **GREATEST[name]}
        if name != "windows":
            raw.pop("layer_types", None)
        assert peak_of_loading(raw, tmp_path) < 32 << 20, case.name


def peak_of_loading(raw: Config, folder: Path) -> int:
    """Return how many bytes are allocated at most while a model is refused."""
    (folder / "config.json").write_text(json.dumps(raw))
    tracemalloc.start()
    try:
        with pytest.raises(ModelFormatError):
            load_weights(folder)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_control_without_the_count_experts_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = {**BY_NAME["qwen3_moe"].config, "num_hidden_layers": 40, "num_experts": 1024}
    one = safetensors_bytes({"model.norm.weight": np.ones(64, np.float32)})
    (tmp_path / "model.safetensors").write_bytes(one)
    assert peak_of_loading(raw, tmp_path) < 16 << 20
    monkeypatch.setattr(loader, "check_counts", lambda *_: None)
    assert peak_of_loading(raw, tmp_path) > 16 << 20


def test_control_without_the_bounds_nonsense_gets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def loose(self: Fields, name: str, low: int, high: int, default: int | None = None) -> Any:
        value = self.raw.get(name)
        return default if value is None else value

    monkeypatch.setattr(Fields, "integer", loose)
    with pytest.raises((AssertionError, ArithmeticError, TypeError, ValueError, MemoryError)):
        for raw in configs(2000, 41):
            config = parse(raw)
            if config is not None:
                check(config)


def test_cases_are_the_same_in_every_run() -> None:
    assert repr(list(configs(60, 1))) == repr(list(configs(60, 1))) != repr(list(configs(60, 2)))


@pytest.mark.whole
def test_all_cases_are_quick() -> None:
    slowest = 0.0
    for raw in configs(WHOLE, 43):
        begin = time.thread_time()
        config = parse(raw)
        slowest = max(slowest, time.thread_time() - begin)
        if config is not None:
            check(config)
    assert slowest < LIMIT
