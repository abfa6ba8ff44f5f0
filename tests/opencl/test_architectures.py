"""Every family on OpenCL devices: the CPU's bits, serving with an adapter and training one."""

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homebox.engine.graph.device import HOST, Device
from homebox.engine.opencl.backend import OpenClDevice
from homebox.model import Model, load
from homebox.model.lora import adapter_shapes
from homebox.model.training.trainer import Batch, LoraTrainer
from tests.opencl.test_whole_model import SHAPES, CpuRanError, check_kind, made, use
from tests.opencl.test_whole_model import poison as poison
from tests.parity import reference
from tests.parity.cases import ALPHA, BY_NAME, CHUNK, CONTEXT, RANK, ROWS, TRAINED
from tests.parity.weights import adapter_values, batch_ids, tokens, write_directory
from tests.unit.test_model_transformer import BLOCKS, ids_of

# Each has something that the others have not; llama and qwen3 are those of test_whole_model.
FAMILIES = (
    "gemma3-caps",
    "gpt_oss",
    "mistral",
    "ministral3-sliding",
    "qwen2",
    "qwen3_moe-mixed",
    "gpt_oss-mxfp4",
    "phi3-partial",
    "phi3-longrope-long",
    "smollm3",
    "olmo2",
    "granite",
)
LENGTHS = (41, 17, 7)  # what sequences of a batch hold; the first is longer than two chunks


def quickly(*quick: str) -> list[Any]:
    """Return the families of which `make test` runs only the quick ones."""
    return [
        name if name in quick else pytest.param(name, marks=pytest.mark.whole) for name in FAMILIES
    ]


@pytest.fixture
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return the directory of a family's small model, named as its case."""
    case = BY_NAME[request.param]
    folder = tmp_path / case.name
    write_directory(folder, case, reference.read(case).tensors)
    return folder


def opened(directory: Path, device: Device) -> Model:
    """Return a model on a device, strict, with an adapter in slot 1."""
    model = load(
        directory,
        context=CONTEXT,
        slots=len(LENGTHS),
        adapters=2,
        rank=RANK,
        weights="f32",
        activations="f32",
        device=device.name,
    )
    model.adapters.add("mine", adapter_of(model))
    return model


def adapter_of(model: Model) -> dict[str, Any]:
    """Return an adapter whose B is not zero."""
    shapes = adapter_shapes(model.config, RANK)
    return {name: adapter_values(1, name, shape) for name, shape in shapes.items()}


def served(model: Model) -> list[Any]:
    """Return logits: of prompts by chunks, of a batch with and without the adapter, of all rows."""
    run, ids = model.transformer, tokens(1, "served", len(LENGTHS), CONTEXT)
    found = []
    for slot, length in enumerate(LENGTHS):
        for start in range(0, length, CHUNK):
            part = ids[slot, start : min(start + CHUNK, length)]
            found.append(run.forward(slot, start, part, 1))
    rows = [int(ids[slot, length]) for slot, length in enumerate(LENGTHS)]
    found += [*run.decode([0, 1, 2], np.array(rows, np.int32), LENGTHS, [1, 0, 1])]
    return [*found, model.logits(ids[0, :64].tolist(), "mine")]


def trained(model: Model, case: str, device: Device) -> tuple[float, dict[str, Any]]:
    """Return the loss of a batch and its gradient by the adapter."""
    trainer = LoraTrainer(model, RANK, ALPHA, ROWS, TRAINED, 0, device=device)
    trainer.parameters.load(adapter_of(model))
    ids, targets = batch_ids(BY_NAME[case])
    place = np.tile(np.arange(TRAINED, dtype=np.int32), (ROWS, 1))
    batch = Batch(
        ids=ids,
        segment=np.ones(ids.shape, np.int32),
        position=place,
        target=targets,
        weight=np.full(ids.shape, 1 / ids.size, np.float32),
    )
    loss, _ = trainer.accumulate(batch)
    return loss, trainer.parameters.gradient()


@pytest.mark.parametrize("directory", quickly("gemma3-caps", "gpt_oss"), indirect=True)
def test_serving_has_the_bits_of_the_cpu(cl_device: OpenClDevice, directory: Path) -> None:
    wanted, found = (served(opened(directory, device)) for device in (HOST, cl_device))
    for i, (one, other) in enumerate(zip(wanted, found, strict=True)):
        np.testing.assert_array_equal(other, one, str(i))


@pytest.mark.parametrize("directory", quickly("gpt_oss"), indirect=True)
def test_a_gradient_has_the_bits_of_the_cpu(cl_device: OpenClDevice, directory: Path) -> None:
    (loss, wanted), (other, found) = (
        trained(opened(directory, device), directory.name, device) for device in (HOST, cl_device)
    )
    assert np.isfinite(loss) and other == loss
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, name)
        assert np.any(value), name


# Mixtures in formats that round

MIXED: dict[str, Any] = {
    **BLOCKS,
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "decoder_sparse_step": 1,
    "norm_topk_prob": True,
}


@pytest.mark.whole
@pytest.mark.parametrize(
    ("form", "activations", "cache"),
    [("q8", "int8", "f16"), ("bf16", "bf16", "f16"), ("q4", "f32", "q8")],
)
def test_experts_in_every_arithmetic_are_near_those_of_the_cpu(
    cl_device: OpenClDevice,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    activations: Any,
    cache: str,
) -> None:
    # Where numbers are rounded all experts are taken: near a tie a rounding takes another one.
    every = {} if activations == "f32" else {"num_experts": 4, "num_experts_per_tok": 4}
    monkeypatch.setitem(SHAPES, "mixed", {**MIXED, **every})
    check_kind(cl_device, "mixed", form, activations, cache)


def test_the_cpu_computes_nothing_of_experts(cl_device: OpenClDevice, poison: Any) -> None:
    model, other = (made(d, MIXED, "q8", "int8", "f16") for d in (cl_device, HOST))
    poison()
    use(model)
    with pytest.raises(CpuRanError):  # the control
        other.forward(0, 0, ids_of(5), 0)


@pytest.mark.whole
def test_what_a_mixture_takes_is_what_was_planned(cl_device: OpenClDevice, tmp_path: Path) -> None:
    case = BY_NAME["qwen3_moe-mixed"]
    write_directory(tmp_path / case.name, case, reference.read(case).tensors)
    gc.collect()  # what earlier tests left must not be freed meanwhile
    before = cl_device.used_bytes
    model = opened(tmp_path / case.name, cl_device)
    served(model)
    assert model.placement is not None
    (portion,) = model.placement.portions
    assert portion.bytes.weights <= cl_device.used_bytes - before <= portion.bytes.total
