"""PEFT adapters: what is written, what is understood, what is refused, and hostile ones."""

import contextlib
import json
import math
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homebox.errors import HomeboxError, ModelFormatError, ModelNotFoundError
from homebox.model.adapter_files import peft, peft_config
from homebox.model.adapter_files.modules import Fused, Pair, joined, modules_of, separated
from homebox.model.adapter_files.peft import adapter_in, read_peft, write_peft
from homebox.model.adapter_files.peft_config import parse_peft_config
from homebox.model.architectures.config_file import parse_config
from homebox.model.files.safetensors_reader import parse_header, tensor_in
from homebox.model.lora import adapter_shapes
from tests.parity.cases import BY_NAME
from tests.unit.model_files import CONFIG, pack, rounded, safetensors_bytes

MODEL = parse_config(CONFIG)
FUSED: Fused = {"self_attn.qkv_proj": ("q", "k", "v"), "mlp.gate_up_proj": ("gate", "up")}
MODULES = {
    "self_attn.q_proj": (24, 24),
    "self_attn.k_proj": (12, 24),
    "self_attn.v_proj": (12, 24),
    "self_attn.o_proj": (24, 24),
    "mlp.gate_proj": (40, 24),
    "mlp.up_proj": (40, 24),
    "mlp.down_proj": (24, 40),
}
CONFIG_CASES, FILE_CASES = 30_000, 8_000

Array = np.ndarray[Any, np.dtype[np.float32]]
Tensors = dict[str, Array]


def settings(**changes: Any) -> dict[str, Any]:
    return {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, **changes}


def product(
    module: str, rank: int = 4, layer: int = 0, prefix: str = "base_model.model."
) -> Tensors:
    generator = np.random.default_rng(len(module) + layer)
    rows, columns = MODULES[module]
    name = f"{prefix}model.layers.{layer}.{module}"
    return {
        f"{name}.lora_A.weight": generator.standard_normal((rank, columns)).astype(np.float32),
        f"{name}.lora_B.weight": generator.standard_normal((rows, rank)).astype(np.float32),
    }


def write(folder: Path, config: Mapping[str, Any], tensors: Tensors, kind: str = "F32") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(safetensors_bytes(tensors, kind=kind))
    return folder


def ours(rank: int = 4) -> Tensors:
    generator = np.random.default_rng(5)
    return {
        name: generator.standard_normal(shape).astype(np.float32)
        for name, shape in adapter_shapes(MODEL, rank).items()
    }


def effect(tensors: Mapping[str, Any], alpha: float, name: str) -> Any:
    """Return what is added to a weight, in float64."""
    a, b = (tensors[f"{name}.{half}"].astype(np.float64) for half in "AB")
    return alpha / len(a) * (b @ a)


# -- round trips ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [{}, FUSED], ids=["plain", "fused"])
def test_what_is_written_is_read_bit_for_bit(tmp_path: Path, fused: Fused) -> None:
    tensors = ours()
    paths = write_peft(tmp_path, MODEL, tensors, 8.0, "base", fused)
    assert [path.name for path in paths] == ["adapter_config.json", "adapter_model.safetensors"]
    back = read_peft(tmp_path, MODEL, fused)
    assert (back.rank, back.alpha) == (4, 8.0)
    assert set(back.tensors) == set(tensors)
    for name, array in tensors.items():
        np.testing.assert_array_equal(back.tensors[name], array)


def test_fields_that_are_written(tmp_path: Path) -> None:
    write_peft(tmp_path, MODEL, ours(), 8.0, "the-base", FUSED)
    text = (tmp_path / "adapter_config.json").read_text()
    found = json.loads(text)
    wanted = ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"]
    assert found["target_modules"] == wanted
    assert found["rank_pattern"] == {"self_attn.qkv_proj": 12, "mlp.gate_up_proj": 8}
    assert found["alpha_pattern"] == {"self_attn.qkv_proj": 24, "mlp.gate_up_proj": 16}
    assert (found["r"], found["lora_alpha"]) == (4, 8)
    assert found["base_model_name_or_path"] == "the-base"
    assert str(tmp_path) not in text


def test_a_fused_product_of_others_is_cut_by_rows() -> None:
    module = modules_of(MODEL, FUSED)["layers.0.self_attn.qkv_proj"]
    generator = np.random.default_rng(2)
    a = generator.standard_normal((6, 24)).astype(np.float32)
    b = generator.standard_normal((48, 6)).astype(np.float32)
    parts = separated(module, Pair(a, b, 1.0))
    assert [parts[f"layers.0.{name}"].b.shape for name in "qkv"] == [(24, 6), (12, 6), (12, 6)]
    whole = np.concatenate(
        [parts[f"layers.0.{name}"].b @ parts[f"layers.0.{name}"].a for name in "qkv"]
    )
    np.testing.assert_array_equal(whole, b @ a)


def test_joining_multiplies_to_the_same_effect() -> None:
    module = modules_of(MODEL, FUSED)["layers.1.mlp.gate_up_proj"]
    tensors = ours()
    a, b = joined(module, tensors)
    assert (a.shape, b.shape) == ((8, 24), (80, 8))
    for rows, name in ((slice(0, 40), "gate"), (slice(40, 80), "up")):
        wanted = tensors[f"layers.1.{name}.B"] @ tensors[f"layers.1.{name}.A"]
        np.testing.assert_allclose(b[rows] @ a, wanted, rtol=1e-5, atol=1e-5)


# -- what other programs write --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_types_are_widened_exactly(tmp_path: Path, kind: str) -> None:
    tensors = {n: rounded(t, kind) for n, t in product("mlp.up_proj").items()}
    back = read_peft(write(tmp_path / "a", settings(), tensors, kind), MODEL)
    np.testing.assert_array_equal(
        back.tensors["layers.0.up.B"],
        tensors["base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"],
    )


@pytest.mark.parametrize("prefix", ["base_model.model.", ""])
@pytest.mark.parametrize("default", ["", ".default"])
def test_old_names(tmp_path: Path, prefix: str, default: str) -> None:
    tensors = {
        name.replace(".weight", f"{default}.weight"): array
        for name, array in product("mlp.down_proj", prefix=prefix).items()
    }
    back = read_peft(write(tmp_path / "a", settings(), tensors), MODEL)
    assert back.tensors["layers.0.down.A"].any()
    assert not back.tensors["layers.1.down.B"].any()
    assert not back.tensors["layers.0.q.B"].any()


def test_ranks_and_factors_of_modules_are_brought_together(tmp_path: Path) -> None:
    tensors = product("self_attn.q_proj", 2) | product("mlp.down_proj", 6) | product("mlp.up_proj")
    patterns = {
        "rank_pattern": {"q_proj": 2, "layers.0.mlp.down_proj": 6},
        "alpha_pattern": {"^model.layers.0.mlp.up_proj": 32, "up_proj": 1},
    }
    back = read_peft(write(tmp_path / "a", settings(**patterns), tensors), MODEL)
    assert back.rank == 6
    for module, name, scale in (
        ("self_attn.q_proj", "q", 8 / 2),
        ("mlp.down_proj", "down", 8 / 6),
        ("mlp.up_proj", "up", 32 / 4),
    ):
        stem = f"base_model.model.model.layers.0.{module}.lora_"
        wanted = scale * tensors[f"{stem}B.weight"].astype(float) @ tensors[f"{stem}A.weight"]
        found = effect(back.tensors, back.alpha, f"layers.0.{name}")
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_rslora_divides_by_the_root(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", settings(use_rslora=True), product("mlp.up_proj"))
    assert read_peft(folder, MODEL).alpha / 4 == 8 / math.sqrt(4)


def test_what_the_files_say_of_their_base_is_told(tmp_path: Path) -> None:
    told = {"base_model_name_or_path": "a/base\x1b[2J\n" + "x" * 200}
    adapter = read_peft(write(tmp_path / "a", settings(**told), product("mlp.up_proj")), MODEL)
    assert adapter.made_for == ("a/base[2J" + "x" * 200)[:100]
    plain = write(tmp_path / "b", settings(base_model_name_or_path=3), product("mlp.up_proj"))
    assert read_peft(plain, MODEL).made_for == ""


def test_dense_layers_between_experts_do_not_go_to_peft(tmp_path: Path) -> None:
    """PEFT takes the names of their modules for those of the experts."""
    model = parse_config(BY_NAME["qwen3_moe-mixed"].config)
    tensors = {name: np.ones(shape, np.float32) for name, shape in adapter_shapes(model, 4).items()}
    with pytest.raises(ModelFormatError, match=r"PEFT cannot adapt the dense layers .* as gguf"):
        write_peft(tmp_path, model, tensors, 8.0, "base")
    for name in tensors:
        if ".gate." in name or ".up." in name or ".down." in name:
            tensors[name][:] = 0
    write_peft(tmp_path, model, tensors, 8.0, "base")
    targets = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    assert targets == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert read_peft(tmp_path, model).tensors["layers.1.o.B"].all()


# -- what is refused ------------------------------------------------------------------------------

Q = "base_model.model.model.layers.0.self_attn.q_proj"
FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "another kind": ({"peft_type": "IA3"}, "peft_type: 'IA3' is not supported, only LORA"),
    "no kind": ({"peft_type": None}, "peft_type: None is not supported"),
    "a classifier": ({"task_type": "SEQ_CLS"}, "task_type: 'SEQ_CLS' is not supported"),
    "DoRA": ({"use_dora": True}, "use_dora: True: DoRA is not supported"),
    "Conv1D": ({"fan_in_fan_out": True}, "fan_in_fan_out: True: transposed layers"),
    "biases": ({"bias": "all"}, "bias: 'all' is not supported, only none"),
    "biases of B": ({"lora_bias": True}, "lora_bias: True: biases of B"),
    "whole modules": ({"modules_to_save": ["lm_head"]}, "modules_to_save: a list of 1: whole"),
    "experts": ({"target_parameters": ["experts.up"]}, "target_parameters: a list of 1: adapters"),
    "embeddings": ({"trainable_token_indices": [1]}, "trainable_token_indices: a list of 1"),
    "PiSSA": ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights: 'pissa_niter_4' changes"),
    "aLoRA": ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens: a list of 2"),
    "repeated layers": ({"layer_replication": [[0, 2]]}, "layer_replication: a list of 1"),
    "the future": ({"use_xlora": {"k": 1}}, "use_xlora: an object of 1: a field that is not known"),
    "rank 0": ({"r": 0}, "r: must be a whole number from 1 to 4096, not 0"),
    "rank true": ({"r": True}, "r: must be a whole number from 1 to 4096, not True"),
    "rank huge": ({"r": 10**30}, "r: must be .* not a huge number"),
    "alpha 0": ({"lora_alpha": 0}, "lora_alpha: must be a number from 1e-06 to 1e.06, not 0"),
    "alpha text": ({"lora_alpha": "8"}, "lora_alpha: must be a number"),
    "patterns listed": ({"rank_pattern": [1]}, "rank_pattern: must be an object"),
    "slow pattern": ({"alpha_pattern": {"(a+)+$": 1}}, r"alpha_pattern: '\(a\+\)\+\$': only names"),
    "pattern's rank": ({"rank_pattern": {"q_proj": -1}}, "rank_pattern: q_proj: must be a whole"),
    "pattern's alpha": (
        {"alpha_pattern": {"q_proj": None}},
        "alpha_pattern: q_proj: must be a num",
    ),
    "rslora text": ({"use_rslora": "yes"}, "use_rslora: must be true or false, not 'yes'"),
}


@pytest.mark.parametrize("case", FIELDS)
def test_bad_fields_are_named(case: str) -> None:
    changes, message = FIELDS[case]
    with pytest.raises(ModelFormatError, match=message) as caught:
        parse_peft_config(settings(**changes), "evil.json")
    assert str(caught.value).startswith("evil.json: ")
    assert len(str(caught.value)) < 300
    assert ";" in str(caught.value) or "must be" in str(caught.value)  # what to do


def nan(tensors: Tensors) -> Tensors:
    tensors[f"{Q}.lora_A.weight"][1, 2] = np.nan
    return tensors


def renamed(new: str, old: str = f"{Q}.lora_A.weight") -> Callable[[Tensors], Tensors]:
    return lambda tensors: {(new if n == old else n): t for n, t in tensors.items()}


TENSORS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "empty": (lambda t: {}, "tensors: holds none of an adapter"),
    "half": (lambda t: dict(list(t.items())[:1]), "lora_B of layers.0.self_attn.q_proj is missing"),
    "NaN": (nan, "q_proj.lora_A.weight: holds NaN or infinity"),
    "turned": (
        lambda t: {n: np.ascontiguousarray(a.T) for n, a in t.items()},
        r"lora_A.weight: shape \[24, 4\], must be \[4, 24\]",
    ),
    "another rank": (
        lambda t: product("self_attn.q_proj", 8),
        r"lora_A.weight: shape \[8, 24\], must be \[4, 24\] for this base and the rank 4",
    ),
    "another base": (
        lambda t: {n: np.concatenate([a, a], 1 if "_A" in n else 0) for n, a in t.items()},
        r"shape \[4, 48\], must be \[4, 24\].*use the base that the adapter was made for",
    ),
    "a layer too many": (
        lambda t: product("mlp.up_proj", layer=2),
        "layers.2.mlp.up_proj.lora_A.weight: the base has no such module; adapters are for q_proj",
    ),
    "leading zero": (
        renamed(Q.replace("layers.0", "layers.00") + ".lora_A.weight"),
        "the base has no such module",
    ),
    "experts": (
        renamed("base_model.model.model.layers.0.mlp.experts.3.up_proj.lora_A.weight"),
        "experts and routers are not adapted",
    ),
    "embedding": (
        renamed("base_model.model.model.embed_tokens.lora_embedding_A"),
        "adapters of embeddings and heads are not supported",
    ),
    "head": (
        renamed("base_model.model.lm_head.lora_A.weight"),
        "adapters of embeddings and heads are not supported",
    ),
    "magnitudes": (renamed(f"{Q}.lora_magnitude_vector"), "DoRA is not supported"),
    "a bias": (renamed(f"{Q}.bias"), "no matrix of a LoRA adapter"),
    "one matrix twice": (
        lambda t: {**t, **product("self_attn.q_proj", prefix="")},
        "the same matrix as base_model",
    ),
}


@pytest.mark.parametrize("case", TENSORS)
def test_bad_tensors_are_named(case: str, tmp_path: Path) -> None:
    change, message = TENSORS[case]
    folder = write(tmp_path / "evil", settings(), change(product("self_attn.q_proj")))
    with pytest.raises(ModelFormatError, match=message) as caught:
        read_peft(folder, MODEL)
    assert str(caught.value).startswith(f"{folder / 'adapter_model.safetensors'}: ")


def test_the_adapter_that_the_bad_ones_are_made_of_is_good(tmp_path: Path) -> None:
    assert read_peft(write(tmp_path / "good", settings(), product("self_attn.q_proj")), MODEL)


def test_a_rank_above_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", settings(r=257), product("self_attn.q_proj", 257))
    with pytest.raises(ModelFormatError, match="rank 257 is above the 256 allowed"):
        read_peft(folder, MODEL)


def test_types_that_are_no_numbers_of_an_adapter_are_refused(tmp_path: Path) -> None:
    header = {f"{Q}.lora_{half}.weight": shape for half, shape in (("A", [4, 24]), ("B", [24, 4]))}
    entries = {
        name: {"dtype": "I8", "shape": shape, "data_offsets": [96 * i, 96 * (i + 1)]}
        for i, (name, shape) in enumerate(header.items())
    }
    folder = write(tmp_path / "a", settings(), {})
    data = pack(json.dumps(entries).encode(), bytes(192))
    (folder / "adapter_model.safetensors").write_bytes(data)
    with pytest.raises(
        ModelFormatError, match="type I8 is not supported; supported: F32, F16, BF16"
    ):
        read_peft(folder, MODEL)


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt", "adapter_model.pth"])
def test_a_pickle_is_never_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings()))
    (tmp_path / name).write_bytes(b"cposix\nsystem\n(S'touch ran'\ntR.")
    (tmp_path / name).chmod(0)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(ModelFormatError, match=f"{name}: format: a pickle can run any program"):
            read_peft(path, MODEL)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="is no directory; give the folder"):
        read_peft(tmp_path / "absent", MODEL)
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings()))
    with pytest.raises(ModelNotFoundError, match=r"adapter_model\.safetensors does not exist"):
        read_peft(tmp_path, MODEL)


# -- fuzz -----------------------------------------------------------------------------------------

ODD = [
    *(-1, 0, 1, 2**31, 2**64, 10**400, 1e308, 1e-300, 1.5, True, None, "4", "", [], {}, [[]]),
    *({"q_proj": 3}, {"": 1}, {"q_proj": "x"}, "pissa", "\ud800", "x" * 3000, {"a" * 300: 1}),
]
NAMES = [
    *("q_proj", "layers.0.self_attn.q_proj", "^model.layers.1.mlp.up_proj", "proj", "k.proj"),
    *(r"layers\.1\.mlp\.down_proj$", "o_proj$", "layers.1", "down_proj"),
]


def fuzzed_settings(dice: random.Random) -> dict[str, Any]:
    """Return a good configuration with a few odd values."""
    config = settings(
        use_rslora=dice.random() < 0.3,
        rank_pattern={name: dice.randrange(1, 7) for name in dice.sample(NAMES, dice.randrange(3))},
        alpha_pattern={name: dice.choice([1, 4.5, 32]) for name in dice.sample(NAMES, 2)},
    )
    keys = [
        *config,
        *peft_config._REFUSED,
        *peft_config._NEUTRAL,
        "bias",
        "init_lora_weights",
        "new",
    ]
    for _ in range(dice.choice([0, 0, 1, 1, 2])):
        config[dice.choice(keys)] = dice.choice(ODD)
    return config


def scale_in_peft(config: Mapping[str, Any], module: str) -> float:
    """Compute the factor as PEFT does, with regular expressions."""

    def found(patterns: Mapping[str, Any], usual: Any) -> Any:
        for key, value in (patterns or {}).items():
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        return usual

    rank = found(config["rank_pattern"], config["r"])
    alpha = found(config["alpha_pattern"], config["lora_alpha"])
    return float(alpha / math.sqrt(rank) if config["use_rslora"] else alpha / rank)


def test_fuzzed_configurations_are_refused_or_mean_what_peft_takes_them_for() -> None:
    dice = random.Random(3)
    accepted = 0
    for _ in range(CONFIG_CASES):
        raw = fuzzed_settings(dice)
        with contextlib.suppress(ModelFormatError):
            read = parse_peft_config(raw, "fuzz")
            accepted += 1
            module = f"model.layers.{dice.randrange(2)}.{dice.choice(list(MODULES))}"
            assert read.scale_of(module) == pytest.approx(scale_in_peft(raw, module), rel=1e-12)
    assert CONFIG_CASES // 4 < accepted < CONFIG_CASES * 3 // 4


class InMemory:
    """What `SafetensorsFile` is, without a file."""

    def __init__(self, data: bytes) -> None:
        self.path = Path("fuzz")
        self._data = data
        self._start = 8 + int.from_bytes(data[:8], "little")
        if self._start > len(data):
            raise ModelFormatError("header length")
        header = data[8 : self._start]
        self.tensors, _ = parse_header(header, len(data) - self._start, "fuzz")

    def view(self, name: str) -> Any:
        return tensor_in(self._data, self._start, self.tensors[name])


def fuzzed_file(dice: random.Random) -> tuple[dict[str, Any], bytes]:
    """Return settings and a file that fits them, or is broken."""
    config = settings(r=dice.randrange(1, 5))
    if dice.random() < 0.5:
        config |= {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"layers.1.mlp.up_proj": 2}}
    tensors: Tensors = {}
    for _ in range(dice.randrange(1, 4)):
        module = dice.choice(list(MODULES))
        rank = 3 if "q_proj" in module and "rank_pattern" in config else config["r"]
        tensors |= product(module, rank, dice.randrange(2))
    data = bytearray(safetensors_bytes(tensors))
    if dice.random() < 0.3:
        return config, bytes(data)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    body = bytes(data[8 + length :])
    name = dice.choice(list(header))
    kind = dice.randrange(6)
    if kind == 0:
        header[name]["shape"][dice.randrange(2)] = dice.choice([-1, 0, 1, 5, 2**40, 2**63])
    elif kind == 1:
        header[name]["shape"].reverse()
    elif kind == 2:
        words = ["lora_A", "lora_B", "layers.1", "layers.9", "mlp", "q_proj", ".weight", "default"]
        header[name.replace(dice.choice(words), dice.choice(words))] = header.pop(name)
    elif kind == 3:
        header[name]["dtype"] = dice.choice(["F16", "BF16", "I32", "F8_E4M3", "F64"])
    elif kind == 4:
        body = body[:-4] + dice.choice([b"\0\0\xc0\x7f", b"\0\0\x80\xff", b"", b"\0" * 8])
    else:
        del header[name]
    return config, pack(json.dumps(header).encode(), body)


def read_fuzzed(config: Mapping[str, Any], data: bytes) -> Any:
    """Return what is read, or None if it was refused."""
    try:
        return adapter_in(InMemory(data), parse_peft_config(config, "fuzz"), MODEL, {})
    except HomeboxError as error:
        assert isinstance(error, ModelFormatError)
        assert len(str(error)) < 500
        return None


PLAIN: dict[str, Any] = {"rank_pattern": {}, "alpha_pattern": {}, "use_rslora": False}


def broken_effects(count: int) -> tuple[int, int, int]:
    """Count cases that were refused, accepted, and accepted with another effect than the file's."""
    dice = random.Random(8)
    refused = accepted = wrong = 0
    for _ in range(count):
        config, data = fuzzed_file(dice)
        adapter = read_fuzzed(config, data)
        if adapter is None:
            refused += 1
            continue
        accepted += 1
        stored = InMemory(data)
        for name in stored.tensors:
            whole, _, _ = name.removeprefix("base_model.model.").partition(".lora_")
            a, b = (stored.view(f"base_model.model.{whole}.lora_{h}.weight") for h in "AB")
            if len(a.shape) != 2 or a.dtype != np.float32 or b.dtype != np.float32:
                continue
            wanted = scale_in_peft(
                {"rank_pattern": {}, "alpha_pattern": {}, "use_rslora": False, **config}, whole
            ) * (b.astype(np.float64) @ a)
            layer, module = whole.split(".")[2], whole.split(".")[-1].removesuffix("_proj")
            found = effect(adapter.tensors, adapter.alpha, f"layers.{layer}.{module}")
            wrong += not np.allclose(found, wanted, rtol=1e-4, atol=1e-4)
    return refused, accepted, wrong


def test_fuzzed_files_are_refused_or_have_the_effect_that_they_say() -> None:
    refused, accepted, wrong = broken_effects(FILE_CASES)
    assert accepted > FILE_CASES // 5
    assert refused > FILE_CASES // 3
    assert wrong == 0


def test_control_without_the_patterns_effects_would_be_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peft_config, "_fits", lambda pattern, module: "q_proj" in module)
    assert broken_effects(300)[2] > 10


def test_control_without_the_check_of_numbers_nan_gets_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = write(tmp_path / "a", settings(), nan(product("self_attn.q_proj")))
    monkeypatch.setattr(peft, "finite", lambda stored: True)
    # The second check, of the adapter as a whole, still refuses it.
    with pytest.raises(ModelFormatError, match=r"layers\.0\.q\.A: holds NaN"):
        read_peft(folder, MODEL)
