"""Adapters in PEFT and llama.cpp themselves: ours there, theirs here; leaves adapters.json.

Run by `make parity`.
"""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from homebox.model.adapter_files import read_adapter, write_adapter  # noqa: E402
from homebox.model.model import Model  # noqa: E402
from homebox.model.training.trainer import Batch, LoraTrainer  # noqa: E402
from tests.parity import adapters, ours, reference, table  # noqa: E402
from tests.parity.adapters import FOREIGN, OURS, Foreign, own  # noqa: E402
from tests.parity.cases import (  # noqa: E402
    ALPHA,
    BY_NAME,
    GGUF_CASES,
    LENGTH,
    RANK,
    ROWS,
    TRAINED,
    Case,
)
from tests.parity.peer import Peer, stored_tensors  # noqa: E402
from tests.parity.weights import adapter_values, batch_ids, tokens, write_directory  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

LOGITS = 1e-4  # greatest difference
EFFECT = 0.05  # least change of a logit by an adapter, lest nothing be compared


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def opened(name: str, folder: Path) -> tuple[Case, Peer, Model]:
    case = BY_NAME[name]
    write_directory(folder, case, stored_tensors(case))
    return case, Peer(case, folder), ours.opened(folder)


def compared(case: Case, model: Model, theirs: Any) -> float:
    """Return the greatest difference of logits; the adapter "x" must change some of them."""
    ids = tokens(case.seed, "logits", LENGTH)
    found = model.logits(ids.tolist(), "x")
    assert np.abs(found - model.logits(ids.tolist())).max() > EFFECT
    return float(np.abs(found - theirs(ids)).max())


@pytest.mark.parametrize("name", OURS)
def test_our_adapter_in_peft(name: str, tmp_path: Path) -> None:
    case, peer, model = opened(name, tmp_path / "model")
    tensors = own(model.config, case.seed)
    model.adapters.add("x", tensors, ALPHA)
    folder = tmp_path / "adapter"
    paths = write_adapter(folder, "peft", model.config, tensors, ALPHA, "base")
    peer.model = peft.PeftModel.from_pretrained(peer.model, folder).eval()
    apart = compared(case, model, peer.logits)
    table.note(name, "adapter of ours", "PEFT", logits=apart)
    logits = peer.logits(tokens(case.seed, "logits", LENGTH))
    entry = {"files": adapters.digest(paths), "logits": adapters.coded(logits)}
    adapters.note(f"out {name}", entry)
    assert apart < LOGITS


def test_a_trained_adapter_in_peft(tmp_path: Path) -> None:
    case, peer, model = opened("qwen3", tmp_path / "model")
    trainer = LoraTrainer(model, RANK, ALPHA, ROWS, TRAINED, 1)
    ids, targets = batch_ids(case)
    batch = Batch(
        ids=ids,
        segment=np.ones(ids.shape, np.int32),
        position=np.tile(np.arange(TRAINED, dtype=np.int32), (ROWS, 1)),
        target=targets,
        weight=np.full(ids.shape, 1 / ids.size, np.float32),
    )
    for _ in range(8):
        trainer.step(batch, 0.01)
    tensors = trainer.adapter()
    model.adapters.add("x", tensors, ALPHA)
    write_adapter(tmp_path / "adapter", "peft", model.config, tensors, ALPHA, "base")
    peer.model = peft.PeftModel.from_pretrained(peer.model, tmp_path / "adapter").eval()
    assert compared(case, model, peer.logits) < LOGITS


@pytest.mark.parametrize("foreign", FOREIGN, ids=lambda foreign: foreign.name)
def test_an_adapter_of_peft_here(foreign: Foreign, tmp_path: Path) -> None:
    case, peer, model = opened(foreign.case, tmp_path / "model")
    wrapped = made(peer, foreign)
    folder = tmp_path / "adapter"
    wrapped.save_pretrained(folder)
    adapter = read_adapter(folder, model.config)
    model.adapters.add("x", adapter.tensors, adapter.alpha)
    apart = compared(case, model, peer.logits)
    table.note(foreign.case, f"adapter of PEFT ({foreign.name})", "PEFT", logits=apart)
    remember(foreign, folder, peer.logits(tokens(case.seed, "logits", LENGTH)))
    assert apart < LOGITS


def made(peer: Peer, foreign: Foreign) -> Any:
    """Wrap the model of a peer with an adapter whose numbers are drawn by the names in its file."""
    usual = {"r": RANK, "lora_alpha": ALPHA, "task_type": "CAUSAL_LM"}
    wrapped = peft.get_peft_model(peer.model, peft.LoraConfig(**{**usual, **foreign.options}))
    for name, weight in wrapped.named_parameters():
        if "lora_" in name:
            values = adapter_values(1, name.replace(".default", ""), tuple(weight.shape))
            weight.data[:] = torch.tensor(values)
    peer.model = wrapped.eval()
    return wrapped


def remember(foreign: Foreign, folder: Path, logits: Any) -> None:
    """Keep what PEFT wrote and said."""
    import json

    from safetensors import safe_open

    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "base"
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    with safe_open(folder / "adapter_model.safetensors", "np") as file:
        shapes = {n: list(file.get_slice(n).get_shape()) for n in sorted(file.keys())}
    logits = adapters.coded(logits)
    tensors = adapters.shapes_of(shapes)
    adapters.note(f"in {foreign.name}", {"config": config, "tensors": tensors, "logits": logits})


@pytest.mark.parametrize("case", GGUF_CASES, ids=lambda case: case.name)
def test_our_adapter_in_llama_cpp(case: Case, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    llama_cpp = pytest.importorskip("llama_cpp")
    from tests.parity.gguf_files import write_gguf
    from tests.parity.llama_peer import LlamaPeer

    write_gguf(tmp_path / "base.gguf", case, stored_tensors(case))
    model = ours.opened(tmp_path / "base.gguf")
    tensors = own(model.config, case.seed)
    model.adapters.add("x", tensors, ALPHA)
    (path,) = write_adapter(tmp_path / "a", "gguf", model.config, tensors, ALPHA, "base")
    peer = LlamaPeer(tmp_path / "base.gguf")
    loaded = llama_cpp.llama_adapter_lora_init(peer.model._model.model, str(path).encode())
    assert loaded
    one = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(loaded)
    scales = (ctypes.c_float * 1)(1.0)
    assert llama_cpp.llama_set_adapters_lora(peer.model._ctx.ctx, one, 1, scales) == 0
    apart = compared(case, model, peer.logits)
    peer.close()
    table.note(case.name, "adapter of ours", "llama.cpp", logits=apart)
    adapters.note(f"gguf {case.name}", {"files": adapters.digest([path])})
    assert apart < reference.bound(case, "F32")
    back = read_adapter(path, model.config)
    model.adapters.remove("x")
    model.adapters.add("x", back.tensors, back.alpha)
    assert compared(case, model, lambda ids: found(model, ids, tensors)) < LOGITS


def found(model: Model, ids: Any, tensors: Any) -> Any:
    """Return the logits with an adapter as it was before it went out."""
    model.adapters.remove("x")
    model.adapters.add("x", tensors, ALPHA)
    return model.logits(ids.tolist(), "x")
