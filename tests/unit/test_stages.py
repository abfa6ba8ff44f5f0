"""Layers on several devices: the same bits as on one; adapters, copies of pages, lost devices."""

import weakref
from typing import Any

import numpy as np
import pytest

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.device import HOST, Buffer, HostDevice
from homebox.engine.graph.formats import WEIGHTS
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.devices import device_named
from homebox.errors import DeviceLostError, OutOfDeviceMemoryError
from homebox.model.adapters import Adapters
from homebox.model.architectures.config_file import parse_config
from homebox.model.decoder.activations import Activations
from homebox.model.decoder.pages import Pages
from homebox.model.decoder.stages import Part, cuts
from homebox.model.decoder.transformer import Transformer
from homebox.model.weights.placed_weights import memory_of, moved, needed
from tests.parity.cases import BY_NAME
from tests.unit.failing_device import FULL, LOST, Rack
from tests.unit.model_files import CONFIG, ArrayWeights, random_weights
from tests.unit.test_model_transformer import BLOCKS, KINDS, adapter_of, ids_of

LAYERS = 3


def made(
    parts: list[Part] | None,
    raw: dict[str, Any],
    form: str = "f32",
    activations: Activations = "f32",
    cache: str = "f32",
    layers: int = LAYERS,
    **more: Any,
) -> Transformer:
    """Return a model of three layers with an adapter, whole or in parts."""
    config = parse_config({**raw, "num_hidden_layers": layers})
    weights = ArrayWeights(config, random_weights(config), WEIGHTS[form])
    model = Transformer(config, weights, 192, 4, 3, 8, activations, cache, parts, **more)
    model.set_adapter(1, adapter_of(config, 1, 8), 0.5)
    return model


def split(*ends: int, last: int = LAYERS) -> list[Part]:
    """Cut the layers behind each of `ends`, each part on a device of its own."""
    starts = [0, *ends]
    stops = [*ends, last]
    return [
        Part(device_named(f"cpu:{i}"), range(a, b))
        for i, (a, b) in enumerate(zip(starts, stops, strict=True))
    ]


@pytest.mark.parametrize(("form", "activations", "cache"), KINDS)
def test_stages_give_the_bits_of_one(form: str, activations: Activations, cache: str) -> None:
    one = made(None, BLOCKS, form, activations, cache)
    ids = ids_of(100)
    for ends in ((1,), (1, 2)):
        parts = made(split(*ends), BLOCKS, form, activations, cache)
        assert [stage.device.name for stage in parts.stages] == ["cpu:0", "cpu:1", "cpu:2"][
            : len(ends) + 1
        ]
        for adapter in (0, 1):
            wanted = one.all_logits(ids, adapter)
            np.testing.assert_array_equal(parts.all_logits(ids, adapter), wanted)
            for start, end in ((0, 70), (70, 71), (71, 99)):
                found = parts.forward(adapter, start, ids[start:end], adapter)
                np.testing.assert_array_equal(found, wanted[end - 1])
        found = parts.decode([0, 1], ids[[99, 99]], [99, 99], [0, 1])
        for row, adapter in zip(found, (0, 1), strict=True):
            np.testing.assert_array_equal(row, one.all_logits(ids, adapter)[-1])


# Windows and rotations of layers, norms of sums, layers without positions, experts in some.
DIFFERENT = (
    "gemma3",
    "qwen3_moe-mixed",
    "gpt_oss",
    *(pytest.param(name, marks=pytest.mark.whole) for name in ("smollm3", "olmo2")),
)


@pytest.mark.parametrize("name", DIFFERENT)
def test_layers_that_differ_give_the_bits_of_one_device(name: str) -> None:
    """Each row of a prompt, of chunks of it, and of a batch, wherever the layers are cut."""
    config = BY_NAME[name].config
    layers = config["num_hidden_layers"]
    one = made(None, config, layers=layers)
    ids = ids_of(60) % config["vocab_size"]
    wanted = [one.all_logits(ids, adapter) for adapter in (0, 1)]
    for model in (one, made(split(1, last=layers), config, layers=layers)):
        np.testing.assert_array_equal(model.all_logits(ids, 1), wanted[1])
        for start, end in ((0, 14), (14, 50), (50, 51)):
            found = model.forward(1, start, ids[start:end], 1)
            np.testing.assert_array_equal(found, wanted[1][end - 1])
        model.forward(0, 0, ids[:20], 0)
        rows = model.decode([0, 1], ids[[20, 51]], [20, 51], [0, 1])
        np.testing.assert_array_equal(rows[0], wanted[0][20])
        np.testing.assert_array_equal(rows[1], wanted[1][51])


class WideDevice(HostDevice):
    """As many units as a card has."""

    busy_rows = 1024


def test_a_device_with_many_units_takes_longer_chunks() -> None:
    one = made(None, BLOCKS)
    wide = made([Part(WideDevice("cpu:9"), range(LAYERS))], BLOCKS)
    assert (one.prefill_chunk, one.shared_chunk) == (256, 64)
    assert (wide.prefill_chunk, wide.shared_chunk) == (1024, 256)
    ids = ids_of(150)
    whole, parts = wide.forward(0, 0, ids, 0), one.forward(0, 0, ids, 0)
    np.testing.assert_array_equal(whole, parts)


def test_an_untied_head_lies_with_the_last_layers() -> None:
    raw = {**CONFIG, "tie_word_embeddings": False}
    one, parts = made(None, raw), made(split(2), raw)
    ids = ids_of(20)
    np.testing.assert_array_equal(parts.all_logits(ids), one.all_logits(ids))
    first, last = (set(stage.weights.tensors) for stage in parts.stages)
    assert "embed" in first and "embed" not in last
    assert "head" in last and "head" not in first
    assert not any(name.startswith("layers.2.") for name in first)


def test_every_stage_has_memory_on_its_device_only() -> None:
    parts = made(split(1), BLOCKS)
    for stage in parts.stages:
        tensors = [*stage.weights.tensors.values(), *stage.cache.memory]
        assert stage.adapters is not None
        buffers = [memory_of(t) for t in tensors] + list(stage.adapters.buffers.values())
        buffers += stage.decoder.buffers.values()
        assert len(stage.decoder.buffers) == 2
        assert {buffer.device.name for buffer in buffers} == {stage.device.name}
        assert len(stage.cache.memory) == len(stage.layers)


def test_a_kept_past_is_kept_in_all_stages() -> None:
    model = made(split(1), BLOCKS)
    ids, others = ids_of(100), ids_of(100, seed=1)
    model.forward(0, 0, ids[:70], 0)
    kept = model.snapshot(0)
    wanted = model.forward(0, 70, ids[70:], 0)
    model.restore(1, kept)
    model.forward(1, 70, others[70:], 0)  # writes to a copy of the page that both began with
    model.restore(0, kept)
    np.testing.assert_array_equal(model.forward(0, 70, ids[70:], 0), wanted)
    # Without the copies in the second stage the past would be the other one's.
    model = made(split(1), BLOCKS)
    model.stages[1].cache.copy_page = lambda source, target: None  # type: ignore[method-assign]
    model.forward(0, 0, ids[:70], 0)
    kept = model.snapshot(0)
    model.restore(1, kept)
    assert np.any(model.forward(1, 70, ids[70:], 0) != wanted)


def test_a_larger_rank_and_an_emptied_slot_reach_all_stages() -> None:
    one, parts = made(None, BLOCKS), made(split(1), BLOCKS)
    ids = ids_of(20)
    for index, rank in ((2, 12), (1, None)):
        tensors = None if rank is None else adapter_of(one.config, index, rank)
        for model in (one, parts):
            model.set_adapter(index, tensors, 0.5)
    for index in (0, 1, 2):
        np.testing.assert_array_equal(parts.all_logits(ids, index), one.all_logits(ids, index))
    np.testing.assert_array_equal(parts.all_logits(ids, 1), parts.all_logits(ids, 0))


# Weights


def test_the_host_copies_nothing_and_a_device_copies_once() -> None:
    config = parse_config({**BLOCKS, "num_hidden_layers": 1})
    weights = ArrayWeights(config, random_weights(config), WEIGHTS["q8"])
    model = Transformer(config, weights, 64, 1)
    assert model.stages[0].weights is weights
    told: list[tuple[int, int]] = []
    other = device_named("cpu:1")
    model = Transformer(
        config, weights, 64, 1, parts=[Part(other, range(1))], tell=lambda *n: told.append(n)
    )
    total = sum(memory_of(t).nbytes for t in weights.tensors.values())
    assert told[-1] == (total, total)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    for name, tensor in model.stages[0].weights.tensors.items():
        assert memory_of(tensor).device is other
        assert memory_of(tensor).frozen
        np.testing.assert_array_equal(
            memory_of(tensor).read(), memory_of(weights.tensors[name]).read()
        )


def test_what_shares_memory_shares_its_copy() -> None:
    memory = Buffer(1024, dt.u8, device=HOST)
    memory.write(np.arange(1024, dtype=np.uint32).astype(np.uint8))
    memory.frozen = True
    whole = tensor_over(memory)
    tensors = {
        "part": tensor_over(memory.part(0, 256)),
        "whole": whole,
        "again": whole,
        "end": tensor_over(memory.part(512, 512)),
    }
    found = moved(tensors, device_named("cpu:1"))
    copies = {name: memory_of(t) for name, t in found.items()}
    assert len({id(b.block) for b in copies.values()}) == 1
    for name, copy in copies.items():
        np.testing.assert_array_equal(copy.read(), memory_of(tensors[name]).read())
    assert moved(found, device_named("cpu:1"))["end"].node is found["end"].node


def test_each_weight_is_needed_by_somebody() -> None:
    for tied in (True, False):
        config = parse_config({**CONFIG, "num_hidden_layers": 4, "tie_word_embeddings": tied})
        names = [*config.weight_shapes(), "head"]
        for name in names:
            users = [r for r in (range(1), range(1, 3), range(3, 4)) if needed(config, name, r)]
            wanted = 2 if name == "embed" and tied else 1
            assert len(users) == wanted, name


def tensor_over(buffer: Buffer) -> Tensor:
    from homebox.engine.graph.ops import Op, node

    return Tensor(node(Op.BUFFER, buffer.dtype, (buffer.count,), (), buffer))


# Devices that fail


def test_a_page_that_cannot_be_copied_is_not_taken() -> None:
    def failing_copy(source: int, target: int) -> None:
        raise OutOfDeviceMemoryError("no room")

    pages = Pages(2, 64, failing_copy)
    pages.append(0, 10)
    kept = pages.snapshot(0)
    free = pages.free_pages
    with pytest.raises(OutOfDeviceMemoryError):
        pages.append(0, 1)
    assert (pages.free_pages, pages.length(0)) == (free, 10)
    pages.drop(kept)
    pages.free(0)
    assert pages.free_pages == pages.count


def failing() -> tuple[Transformer, Rack]:
    rack = Rack()
    parts = [Part(HOST, range(1)), Part(rack.named("cl:0"), range(1, LAYERS))]
    return made(parts, BLOCKS, reopen=rack.named), rack


def test_a_lost_device_takes_conversations_along_and_no_adapters() -> None:
    model, rack = failing()
    ids = ids_of(40)
    wanted = [model.all_logits(ids, adapter) for adapter in (0, 1)]
    model.forward(0, 0, ids[:20], 1)
    model.forward(1, 0, ids[:10], 0)
    rack.device.fail(LOST)
    with pytest.raises(DeviceLostError):
        model.forward(0, 20, ids[20:30], 1)
    # A conversation that was in memory is told so, in each way to go on with it.
    for call in (
        lambda: model.forward(1, 10, ids[10:20], 0),
        lambda: model.decode([1], ids[10:11], [10], [0]),
    ):
        with pytest.raises(DeviceLostError, match="ask again"):
            call()
    for slot in (0, 1):
        model.release(slot)
    for adapter in (0, 1):
        np.testing.assert_array_equal(model.all_logits(ids, adapter), wanted[adapter])
        found = model.forward(adapter, 0, ids[:30], adapter)
        np.testing.assert_array_equal(found, wanted[adapter][29])
    assert len(rack.opened) == 2


def test_adapters_come_and_go_while_a_device_is_lost() -> None:
    model, rack = failing()
    ids = ids_of(10)
    base = model.all_logits(ids)
    rack.device.fail(LOST)
    with pytest.raises(DeviceLostError):
        model.all_logits(ids)
    model.set_adapter(1, None, 0.0)
    model.set_adapter(2, adapter_of(model.config, 2, 8), 0.5)
    assert not model.prepare()
    np.testing.assert_array_equal(model.all_logits(ids, 1), base)
    assert np.any(model.all_logits(ids, 2) != base)


def test_an_adapter_that_comes_when_a_device_is_lost_comes_with_the_next_one() -> None:
    model, rack = failing()
    ids = ids_of(10)
    base = model.all_logits(ids)
    rack.device.lost = "cl:0 was lost"
    model.set_adapter(2, adapter_of(model.config, 2, 16), 0.5)  # asks for memory
    assert np.any(model.all_logits(ids, 2) != base)
    assert len(rack.opened) == 2


def test_what_lay_on_a_lost_device_is_gone_before_it_is_opened_anew() -> None:
    model, rack = failing()
    ids = ids_of(10)
    model.all_logits(ids)
    before = weakref.ref(model.stages[1])
    there: list[bool] = []
    opened = model._reopen

    def reopen(name: str) -> Any:
        there.append(before() is not None)
        return opened(name)

    model._reopen = reopen
    rack.device.fail(LOST)
    with pytest.raises(DeviceLostError):
        model.all_logits(ids)
    model.all_logits(ids)
    assert there == [False, False]


def test_a_device_that_is_lost_while_programs_are_made_ready_costs_no_request() -> None:
    model, rack = failing()
    ids = ids_of(10)
    wanted = model.all_logits(ids)
    rack.device.lost = "cl:0 was lost"
    with pytest.raises(DeviceLostError):
        while model.prepare():
            pass
    np.testing.assert_array_equal(model.all_logits(ids), wanted)


def test_a_full_device_gives_the_memory_of_programs_back() -> None:
    model, rack = failing()
    ids = ids_of(30)
    wanted = model.all_logits(ids)
    kept = model.forward(0, 0, ids[:20], 0)
    assert model.stages[1].programs
    rack.device.fail(FULL)
    with pytest.raises(OutOfDeviceMemoryError):
        model.all_logits(ids)
    assert not model.stages[1].programs and model.stages[0].programs
    np.testing.assert_array_equal(model.all_logits(ids), wanted)
    # Others go on with what they have in memory.
    found = model.forward(0, 20, ids[20:30], 0)
    np.testing.assert_array_equal(found, wanted[29])
    np.testing.assert_array_equal(kept, wanted[19])


def test_an_adapter_that_does_not_fit_takes_no_place() -> None:
    model, rack = failing()
    adapters = Adapters(model.config, model, 1, 64)
    larger = adapter_of(model.config, 3, 32)
    allocate = rack.device.allocate

    def full(nbytes: int, dense: bool) -> Any:
        raise OutOfDeviceMemoryError("no room")

    rack.device.allocate = full  # type: ignore[method-assign]
    with pytest.raises(OutOfDeviceMemoryError):
        adapters.add("new", larger)
    assert adapters.names() == []
    rack.device.allocate = allocate  # type: ignore[method-assign]
    adapters.add("new", larger)
    assert adapters.slot("new") == 1


def test_chunks_are_cut_so_that_few_rows_are_computed_for_nothing() -> None:
    chunks, fixed = (16, 64, 256), 42
    for count in range(1, 257):
        found = cuts(count, chunks, fixed)
        assert sum(found) == count
        cost = sum(next(size for size in chunks if rows <= size) + fixed for rows in found)
        assert cost <= next(size for size in chunks if count <= size) + fixed
    assert [cuts(count, chunks, fixed) for count in (64, 80, 128, 200)] == [
        [64],
        [64, 16],
        [64, 64],
        [200],
    ]
    assert cuts(80, chunks, 2730) == [80]  # where the weights take longer than the rows
    model, ids = made(None, BLOCKS), ids_of(100)
    np.testing.assert_array_equal(model.forward(0, 0, ids[:80], 1), model.all_logits(ids, 1)[79])
    assert sorted(kind.length for kind in model.stages[0].programs if not kind.every) == [16, 64]
