"""Every family on OpenCL devices: the CPU's bits, serving with an adapter and training one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homebox.engine.graph.device import HOST, Device
from homebox.engine.opencl.backend import OpenClDevice
from homebox.model import Model, load
from homebox.model.lora import adapter_shapes
from homebox.model.training import Batch, LoraTrainer
from tests.parity import reference
from tests.parity.cases import ALPHA, BY_NAME, CHUNK, CONTEXT, RANK, ROWS, TRAINED
from tests.parity.weights import adapter_values, batch_ids, tokens, write_directory

# Each has something that the others have not; llama and qwen3 are those of test_whole_model.
QUICK = ("gemma3-caps", "gpt_oss")
REST = (
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
FAMILIES = [*QUICK, *(pytest.param(name, marks=pytest.mark.whole) for name in REST)]
LENGTHS = (41, 17, 7)  # what sequences of a batch hold; the first is longer than two chunks


@pytest.fixture(params=FAMILIES)
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
    trainer = LoraTrainer(model, RANK, ALPHA, ROWS, TRAINED, 0, anchored=False, device=device)
    trainer.parameters.load(adapter_of(model))
    ids, targets = batch_ids(BY_NAME[case])
    place = np.tile(np.arange(TRAINED, dtype=np.int32), (ROWS, 1))
    batch = Batch(
        ids=ids,
        segment=np.ones(ids.shape, np.int32),
        position=place,
        target=targets,
        weight=np.full(ids.shape, 1 / ids.size, np.float32),
        anchor=np.zeros(ids.shape, np.float32),
    )
    loss, _ = trainer.accumulate(batch)
    return loss, trainer.parameters.gradient()


def test_serving_has_the_bits_of_the_cpu(cl_device: OpenClDevice, directory: Path) -> None:
    wanted, found = (served(opened(directory, device)) for device in (HOST, cl_device))
    for i, (one, other) in enumerate(zip(wanted, found, strict=True)):
        np.testing.assert_array_equal(other, one, str(i))


def test_a_gradient_has_the_bits_of_the_cpu(cl_device: OpenClDevice, directory: Path) -> None:
    (loss, wanted), (other, found) = (
        trained(opened(directory, device), directory.name, device) for device in (HOST, cl_device)
    )
    assert np.isfinite(loss) and other == loss
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, name)
        assert np.any(value), name
