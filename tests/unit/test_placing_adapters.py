"""An adapter that is placed layer by layer is the one that is added at once, or nothing."""

import contextlib
from typing import Any

import numpy as np
import pytest

from homebox.errors import BusyError, ModelFormatError, UsageError
from homebox.model.adapters import Adapters
from homebox.model.architectures.config_file import parse_config
from homebox.model.config import ModelConfig
from tests.unit.test_model_transformer import BLOCKS, adapter_of, ids_of, transformer

RANK = 4


def loaded(slots: int = 3) -> tuple[ModelConfig, Any, Adapters]:
    config = parse_config(BLOCKS)
    made = transformer(config)
    for index in (1, 2):
        made.set_adapter(index, None, 0.0)
    return config, made, Adapters(config, made, slots, 8)


def test_placed_step_by_step_it_has_the_bits_of_one_that_was_added() -> None:
    config, made, adapters = loaded()
    ids, tensors = ids_of(70), adapter_of(config, 5, RANK)
    adapters.add("whole", tensors)
    adapters.add("other", adapter_of(config, 6, RANK))
    wanted = {name: made.all_logits(ids, adapters.slot(name)) for name in ("whole", "other")}
    steps = 0
    for _ in adapters.placing("placed", tensors):
        steps += 1
        assert "placed" not in adapters.names()
        # Answers go on meanwhile.
        np.testing.assert_array_equal(made.all_logits(ids, adapters.slot("other")), wanted["other"])
    assert steps == config.num_layers
    assert adapters.names() == ["whole", "other", "placed"]
    np.testing.assert_array_equal(made.all_logits(ids, adapters.slot("placed")), wanted["whole"])


def test_one_that_is_given_up_leaves_nothing() -> None:
    config, made, adapters = loaded(1)
    ids, base = ids_of(40), made.all_logits(ids_of(40))
    for begun in range(config.num_layers + 1):
        with contextlib.closing(adapters.placing("a", adapter_of(config, 7, RANK))) as placing:
            for _ in range(begun):
                next(placing)
        assert adapters.names() == []
        np.testing.assert_array_equal(made.all_logits(ids, 1), base)
    for _ in adapters.placing("a", adapter_of(config, 7, RANK)):
        with pytest.raises(BusyError):
            adapters.add("b", adapter_of(config, 7, RANK))
    assert adapters.names() == ["a"]
    assert (made.all_logits(ids, 1) != base).any()
    adapters.remove("a")
    np.testing.assert_array_equal(made.all_logits(ids, 1), base)


def test_what_came_meanwhile_stays() -> None:
    config, made, adapters = loaded()
    ids, tensors = ids_of(40), adapter_of(config, 8, RANK)
    placing = adapters.placing("a", tensors)
    next(placing)
    adapters.add("a", tensors)
    adapters.remove("a")
    adapters.add("a", tensors)
    wanted = made.all_logits(ids, adapters.slot("a"))
    assert list(placing) == [None] * (config.num_layers - 1)
    assert adapters.names() == ["a"]
    np.testing.assert_array_equal(made.all_logits(ids, adapters.slot("a")), wanted)
    # All three places are free again but that one.
    for name in ("b", "c"):
        list(adapters.placing(name, tensors))
        np.testing.assert_array_equal(made.all_logits(ids, adapters.slot(name)), wanted)
    with pytest.raises(BusyError):
        next(adapters.placing("d", tensors))


def test_memory_may_grow_between_two_steps() -> None:
    config = parse_config(BLOCKS)
    made = transformer(config)
    adapters = Adapters(config, made, 3, 64)
    ids, tensors = ids_of(40), adapter_of(config, 8, RANK)
    for index in (1, 2):
        made.set_adapter(index, None, 0.0)
    adapters.add("whole", tensors)
    wanted = made.all_logits(ids, adapters.slot("whole"))
    for number, _ in enumerate(adapters.placing("placed", tensors)):
        if not number:
            adapters.add("large", adapter_of(config, 9, 32))
    np.testing.assert_allclose(
        made.all_logits(ids, adapters.slot("placed")), wanted, rtol=0, atol=1e-5
    )


def test_what_cannot_be_served_is_refused_before_anything_is_written() -> None:
    config, _, adapters = loaded()
    adapters.add("a", adapter_of(config, 5, RANK))
    for name, tensors, error in (
        ("a", adapter_of(config, 5, RANK), UsageError),
        ("b", adapter_of(config, 5, 16), UsageError),
        ("b", {}, ModelFormatError),
    ):
        with pytest.raises(error):
            next(adapters.placing(name, tensors))
    assert adapters.names() == ["a"]
