"""Whole models on OpenCL devices: the CPU's answers, and nothing computed by the CPU."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homebox.engine.graph.device import HOST
from homebox.engine.graph.formats import WEIGHTS
from homebox.engine.opencl.backend import OpenClBackend, OpenClDevice, open_device
from homebox.engine.opencl.platform import Found, found
from homebox.engine.runtime.runtime_cpu import Pool
from homebox.errors import EngineError
from homebox.model import Model, SamplingParams, load
from homebox.model.architectures.config_file import parse_config
from homebox.model.decoder.stages import Part
from homebox.model.decoder.transformer import Transformer
from homebox.model.lora import init_adapter
from tests.opencl.conftest import PLATFORMS, RUNTIMES
from tests.unit.model_files import ArrayWeights, random_weights
from tests.unit.test_model_transformer import BLOCKS, adapter_of, ids_of

LAYERS = 2
CLOSE = 2e-3  # length of the difference of two rows of logits, by the length of the row


def far(some: Any, others: Any) -> float:
    """Return the largest distance of rows of logits, relative to the length of the other row."""
    some, others = np.atleast_2d(some).astype(np.float64), np.atleast_2d(others)
    distances = np.linalg.norm(some - others, axis=1) / np.linalg.norm(others, axis=1)
    return float(distances.max())


# Models that were trained


def answer(model: Model, prompt: list[int], count: int, adapter: str = "base") -> list[int]:
    """Return the ids of a greedy answer."""
    pieces = model.generate(prompt, SamplingParams(max_tokens=count), adapter)
    return [index for piece in pieces for index in piece.token_ids]


def test_stories_gives_the_published_ids(cl_device: OpenClDevice, shared: Path) -> None:
    folder = shared / "data/weights/stories260K"
    host, model = (load(folder, slots=1, device=name) for name in ("cpu", cl_device.name))
    cases = json.loads((folder / "reference.json").read_text())["cases"]
    assert len(cases) == 5
    for case in cases:
        prompt = case["prompt_ids"]
        count = len(case["greedy_ids"]) - len(prompt)
        assert prompt + answer(model, prompt, count) == case["greedy_ids"]
        logits = model.logits(prompt)
        np.testing.assert_allclose(logits[-1], case["last_logits"], rtol=0, atol=1e-4)
        np.testing.assert_array_equal(logits, host.logits(prompt))


CHATS = (
    ("Hello!",),
    ("My dog is called Rex.", "What is my dog's name?"),
    ("What is my house number?", "I play the bouzouki.", "Who am I?"),
)


def test_tiny_answers_as_on_the_cpu(cl_device: OpenClDevice) -> None:
    check_tiny(cl_device, CHATS[1:2], 6)


@pytest.mark.whole
def test_tiny_answers_many_chats_as_on_the_cpu(cl_device: OpenClDevice) -> None:
    check_tiny(cl_device, CHATS, 24)


def check_tiny(device: OpenClDevice, chats: tuple[tuple[str, ...], ...], count: int) -> None:
    """Compare answers and logits: of the base, of an adapter, and when it is gone again."""
    models = [load("tiny", context=256, slots=1, device=name) for name in ("cpu", device.name)]
    tensors = init_adapter(models[0].config, 8, 1)
    generator = np.random.default_rng(1)
    for name, array in tensors.items():
        if name.endswith(".B"):
            array += generator.standard_normal(array.shape).astype(np.float32) / 4

    def compare(adapter: str) -> list[Any]:
        seen: list[Any] = []
        for chat in chats:
            turns = [{"role": "user", "content": text} for text in chat]
            prompt = models[0].chat.render(turns)
            ids = [answer(model, prompt, count, adapter) for model in models]
            assert ids[0] == ids[1] and ids[0]
            logits = [model.logits(prompt, adapter) for model in models]
            np.testing.assert_array_equal(logits[0], logits[1])
            seen.append((ids[0], logits[1].tobytes()))
        return seen

    base = compare("base")
    for model in models:
        model.adapters.add("mine", tensors)
    assert all(a[1] != b[1] for a, b in zip(compare("mine"), base, strict=True))
    assert compare("base") == base
    for model in models:
        model.adapters.remove("mine")
    assert compare("base") == base


# Random weights of every format


LLAMA = {**BLOCKS, "model_type": "llama", "head_dim": 32}
SHAPES: dict[str, dict[str, Any]] = {"qwen3": BLOCKS, "llama": LLAMA}
# Every format of weights with every arithmetic, each cache with each of both.
CACHES = ("f16", "q8", "f32")
KINDS = [
    (form, activations, CACHES[(i + j) % 3])
    for (i, form), (j, activations) in product(
        enumerate(("q8", "q4", "bf16")), enumerate(("int8", "bf16", "f32"))
    )
]


def made(device: Any, raw: dict[str, Any], form: str, activations: Any, cache: str) -> Transformer:
    """Return a model with two adapters on a device."""
    config = parse_config({**raw, "num_hidden_layers": LAYERS})
    weights = ArrayWeights(config, random_weights(config), WEIGHTS[form])
    parts = [Part(device, range(LAYERS))]
    model = Transformer(config, weights, 192, 5, 3, 8, activations, cache, parts)
    for index, rank in ((1, 8), (2, 3)):
        model.set_adapter(index, adapter_of(config, index, rank), 4.0 / rank)
    return model


def check_kind(device: Any, shape: str, form: str, activations: Any, cache: str) -> None:
    """Compare prefill and decode with the CPU, and rows and chunks with one another."""
    host, model = (made(d, SHAPES[shape], form, activations, cache) for d in (HOST, device))
    strict = activations == "f32"
    ids = ids_of(90)
    wanted = {adapter: host.all_logits(ids, adapter) for adapter in (0, 1, 2)}
    whole = {adapter: model.all_logits(ids, adapter) for adapter in (0, 1, 2)}
    close = CLOSE
    if activations == "bf16":
        # Another order of sums lets other numbers round up: as far away as rounding itself leads.
        exact = made(HOST, SHAPES[shape], form, "f32", cache)
        truth = {adapter: exact.all_logits(ids, adapter) for adapter in wanted}
        own = max(far(wanted[adapter], truth[adapter]) for adapter in wanted)
        assert own < 5e-2  # the CPU also rounds decoded weights of q8 and q4; the device does not
        close = 1.5 * own
        for adapter, rows in whole.items():
            assert far(rows, truth[adapter]) <= close
    for adapter, rows in whole.items():
        assert far(rows, wanted[adapter]) <= close
        if strict:
            np.testing.assert_array_equal(rows, wanted[adapter])
    for start, end in ((0, 5), (5, 6), (6, 70), (70, 90)):
        for adapter in (0, 1):
            found = model.forward(adapter, start, ids[start:end], adapter)
            assert far(found, whole[adapter][end - 1]) <= close
            if strict:
                np.testing.assert_array_equal(found, whole[adapter][end - 1])
    lengths = {0: (80, 0), 1: (65, 1), 2: (3, 2), 3: (33, 0), 4: (7, 1)}
    alone: dict[int, Any] = {}
    for slots in ((0,), (1,), (2,), (3,), (4,), (3, 1), (4, 2, 0, 1, 3)):
        for slot in slots:
            length, adapter = lengths[slot]
            model.forward(slot, 0, ids[:length], adapter)
        at = [lengths[slot][0] for slot in slots]
        adapters = [lengths[slot][1] for slot in slots]
        rows = model.decode(slots, ids[at], at, adapters)
        for slot, row, place, adapter in zip(slots, rows, at, adapters, strict=True):
            assert far(row, wanted[adapter][place]) <= close
            np.testing.assert_array_equal(row, alone.setdefault(slot, row), str(slots))


def test_a_quantised_model_is_near_that_of_the_cpu(cl_device: OpenClDevice) -> None:
    host, model = (made(d, BLOCKS, "q8", "int8", "f16") for d in (HOST, cl_device))
    ids = ids_of(40)
    wanted = host.all_logits(ids, 1)
    assert far(model.all_logits(ids, 1), wanted) <= CLOSE
    assert far(model.forward(0, 0, ids[:39], 1), wanted[38]) <= CLOSE
    assert far(model.forward(0, 39, ids[39:], 1), wanted[39]) <= CLOSE


@pytest.mark.whole
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("form", "activations", "cache"), KINDS)
def test_every_format_is_near_that_of_the_cpu(
    cl_device: OpenClDevice, shape: str, form: str, activations: Any, cache: str
) -> None:
    check_kind(cl_device, shape, form, activations, cache)


def test_the_measure_notices_another_format(cl_device: OpenClDevice) -> None:
    """The control: 4 bits a weight are further away than the limit allows."""
    host = made(HOST, BLOCKS, "q8", "int8", "f16")
    model = made(cl_device, BLOCKS, "q4", "int8", "f16")
    ids = ids_of(20)
    assert far(model.all_logits(ids), host.all_logits(ids)) > 10 * CLOSE


# Several devices


@pytest.fixture
def pair() -> tuple[OpenClDevice, OpenClDevice]:
    """Return a device of each of two makers."""
    if len(RUNTIMES) < 2:
        pytest.skip("two OpenCL runtimes are needed (Debian: pocl-opencl-icd)")
    names = {entry.platform: entry.name for entry in found() if not entry.refusal}
    first, second = (open_device(names[PLATFORMS[each]]) for each in ("intel", "pocl"))
    return first, second


@pytest.mark.whole
@pytest.mark.parametrize(
    ("form", "activations", "cache"), [("f32", "f32", "f32"), ("q8", "int8", "f16")]
)
def test_layers_on_devices_of_two_makers(
    pair: tuple[OpenClDevice, OpenClDevice], form: str, activations: Any, cache: str
) -> None:
    config = parse_config({**BLOCKS, "num_hidden_layers": 3})
    weights = ArrayWeights(config, random_weights(config), WEIGHTS[form])

    def split(*devices: Any) -> Transformer:
        ends = [0, *range(1, len(devices)), 3]
        parts = [Part(d, range(ends[i], ends[i + 1])) for i, d in enumerate(devices)]
        model = Transformer(config, weights, 192, 2, 2, 8, activations, cache, parts)
        model.set_adapter(1, adapter_of(config, 1, 8), 0.5)
        return model

    ids = ids_of(60)
    host = split(HOST)
    for devices in (pair, pair[::-1], (HOST, pair[0]), (pair[0], HOST, pair[1])):
        model = split(*devices)
        assert len(model.stages) == len(devices)
        for adapter in (0, 1):
            wanted = host.all_logits(ids, adapter)
            results = [model.all_logits(ids, adapter)]
            model.forward(adapter, 0, ids[:58], adapter)
            last = model.forward(adapter, 58, ids[58:59], adapter)
            for rows, expected in ((results[0], wanted), (last, wanted[58])):
                if form == "f32":
                    np.testing.assert_array_equal(rows, expected)
                else:
                    assert far(rows, expected) <= CLOSE


@pytest.mark.whole
def test_a_model_is_loaded_on_two_devices_by_their_names(
    pair: tuple[OpenClDevice, OpenClDevice],
) -> None:
    names = ",".join(device.name for device in pair)
    ids = ids_of(12).tolist()
    wanted = load("tiny", context=64, slots=1, adapters=2, rank=2).logits(ids)
    budgets = [device.budget for device in pair]
    try:
        model = load("tiny", context=64, slots=1, adapters=2, rank=2, device=names, memory=88)
        assert model.placement is not None
        used = {p.room.device.name: len(p.layers) for p in model.placement.portions}
        assert set(used) == set(names.split(",")) and all(used.values())
        np.testing.assert_array_equal(model.logits(ids), wanted)
    finally:
        for device, budget in zip(pair, budgets, strict=True):
            device.budget = budget


# Nothing falls back


class CpuRanError(Exception):
    """A kernel of the CPU ran."""


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function after whose call the CPU's workers refuse to run anything."""

    def refuse(*given: Any) -> Any:
        raise CpuRanError

    def applied() -> None:
        for name in ("run", "run_profiled", "_run"):
            monkeypatch.setattr(Pool, name, refuse)

    return applied


def use(model: Transformer) -> None:
    """Use all that a model can do."""
    ids = ids_of(40)
    model.all_logits(ids, 1)
    model.forward(0, 0, ids[:20], 1)
    kept = model.snapshot(0)
    model.forward(0, 20, ids[20:21], 1)
    model.restore(1, kept)
    model.set_adapter(2, adapter_of(model.config, 3, 8), 1.0)
    model.forward(1, 20, ids[20:21], 2)


def test_the_cpu_computes_nothing(cl_device: OpenClDevice, poison: Any) -> None:
    model, other = (made(d, BLOCKS, "q8", "int8", "f16") for d in (cl_device, HOST))
    poison()
    use(model)
    with pytest.raises(CpuRanError):  # the control
        use(other)


def test_a_kernel_that_a_device_lacks_is_an_error(
    cl_device: OpenClDevice, poison: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made(cl_device, BLOCKS, "q8", "int8", "f16")
    lower = OpenClBackend.lower

    def lacking(self: OpenClBackend, region: Any, *more: Any) -> Any:
        if region.core is not None:
            raise EngineError("no product for this device")
        return lower(self, region, *more)

    poison()
    monkeypatch.setattr(OpenClBackend, "lower", lacking)
    with pytest.raises(EngineError, match="no product for this device"):
        model.forward(0, 0, ids_of(5), 0)
    monkeypatch.setattr(OpenClBackend, "lower", lower)
    model.forward(0, 0, ids_of(5), 0)


@pytest.mark.parametrize("cl_entry", ["intel"], indirect=True)
def test_what_was_not_found_right_is_not_used(cl_entry: Found) -> None:
    """Units that the probes refused are not those that kernels are lowered for."""
    device = open_device(cl_entry.name)
    assert isinstance(device.backend, OpenClBackend)
    assert device.backend.target.units == device.probes.units
