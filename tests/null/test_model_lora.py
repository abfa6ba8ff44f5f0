"""LoRA tensors: shapes, the recorded start values, and what is refused."""

import hashlib
from typing import Any

import numpy as np
import pytest

from homebox.errors import ModelFormatError
from homebox.model.architectures.config_file import parse_config
from homebox.model.generation.sampling import Generator
from homebox.model.lora import adapter_shapes, check_adapter, init_adapter
from tests.unit.model_files import CONFIG

MODEL = parse_config(CONFIG)


def test_shapes() -> None:
    shapes = adapter_shapes(MODEL, 4)
    assert len(shapes) == 2 * 7 * 2
    assert shapes["layers.0.k.A"] == (4, 24)
    assert shapes["layers.0.k.B"] == (12, 4)
    assert shapes["layers.1.down.A"] == (4, 40)


def test_start_values_follow_the_documented_formula() -> None:
    tensors = init_adapter(MODEL, 4, seed=9)
    name = "layers.1.down.A"
    state = int.from_bytes(hashlib.sha256(f"homebox lora 9 {name}".encode()).digest()[:8], "little")
    generator = Generator(state)
    for found in tensors[name].reshape(-1)[:50]:
        value = (2 * (generator.next() >> 40) + 1 - (1 << 24)) / (1 << 24)
        assert found == np.float32(value / 40**0.5)
    assert not tensors["layers.1.down.B"].any()


def test_start_values_spread_evenly() -> None:
    values = init_adapter(MODEL, 64, seed=1)["layers.0.gate.A"] * np.sqrt(24)
    assert np.abs(values).max() <= 1
    assert abs(values.mean()) < 0.05
    assert abs(values.var() - 1 / 3) < 0.03
    assert len(np.unique(values)) > 1500


def test_start_values_have_recorded_bits() -> None:
    tensors = init_adapter(MODEL, 4, seed=1)
    digest = hashlib.sha256(b"".join(array.tobytes() for array in tensors.values())).hexdigest()
    assert digest == RECORDED
    other = init_adapter(MODEL, 4, seed=2)
    assert not np.array_equal(other["layers.0.q.A"], tensors["layers.0.q.A"])


RECORDED = "d205a8aef9646f8333e3a4bff72e73ba2733f0414eadc36c591a5391af876ef9"


def test_a_complete_adapter_is_accepted() -> None:
    assert check_adapter(MODEL, init_adapter(MODEL, 4, seed=1)) == 4


def broken(name: str, value: Any) -> dict[str, Any]:
    tensors: dict[str, Any] = dict(init_adapter(MODEL, 4, seed=1))
    if value is None:
        del tensors[name]
    else:
        tensors[name] = value
    return tensors


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layers.0.q.A", None),
        ("layers.1.up.B", None),
        ("layers.2.q.A", np.zeros((4, 24), np.float32)),
        ("layers.0.q.A", np.zeros((4, 25), np.float32)),
        ("layers.0.q.A", np.zeros((0, 24), np.float32)),
        ("layers.0.q.A", np.zeros((24,), np.float32)),
        ("layers.0.q.A", np.zeros((300, 24), np.float32)),
        ("layers.0.k.B", np.zeros((12, 5), np.float32)),
        ("layers.0.k.B", np.zeros((12, 4), np.float64)),
        ("layers.0.k.B", np.full((12, 4), np.nan, np.float32)),
    ],
)
def test_wrong_tensors_are_named(name: str, value: Any) -> None:
    with pytest.raises(ModelFormatError, match=name.replace(".", r"\.")):
        check_adapter(MODEL, broken(name, value))


@pytest.mark.parametrize("rank", [0, -1, 1000])
def test_wrong_ranks_are_refused(rank: int) -> None:
    with pytest.raises(ModelFormatError, match="rank"):
        init_adapter(MODEL, rank, seed=0)
