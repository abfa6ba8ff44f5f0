"""A Qwen3 of an owner: learned on, kept in a state, exported by the command, the same in PEFT.

The model is a small one with the layout of Qwen3-0.6B (16 query heads for 8 of keys, wider than the
hidden size, norms of heads, a tied head, bfloat16) with weights drawn here; with PARITY_QWEN06 set
to the directory of a whole one, that. Run by `make parity`.
"""

import gc
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from homebox import cli  # noqa: E402
from homebox.model import load  # noqa: E402
from homebox.model.adapter_files import read_adapter, write_adapter  # noqa: E402
from homebox.model.training.trainer import Batch, LoraTrainer  # noqa: E402
from tests.parity import table  # noqa: E402
from tests.unit.model_files import QWEN3, write_model  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

RANK, ALPHA = 8, 32.0
ROWS, LENGTH, STEPS, RATE = 2, 24, 4, 0.004
COMPARED = 16  # tokens
LOGITS = 1e-4  # greatest difference
EFFECT = 0.05  # least change of a logit by the adapter, lest nothing be compared
LAYOUT = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 32,
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 400,
    "max_position_embeddings": 512,
}


@pytest.fixture(autouse=True, scope="module")
def quiet() -> None:
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = os.environ.get("PARITY_QWEN06")
    if given:
        return Path(given)
    folder = tmp_path_factory.mktemp("qwen3") / "model"
    write_model(folder, {**QWEN3, **LAYOUT}, seed=6, kind="BF16", base=QWEN3)
    return folder


def ids_of(directory: Path, *shape: int, seed: int) -> npt.NDArray[np.int32]:
    vocabulary = json.loads((directory / "config.json").read_text())["vocab_size"]
    return np.random.default_rng(seed).integers(0, vocabulary, shape, np.int32)


def trained(directory: Path, weights: str, numerics: str) -> dict[str, npt.NDArray[np.float32]]:
    """Return an adapter after a few steps on rows of random tokens; the loss must have fallen."""
    model = load(directory, context=64, slots=1, adapters=2, weights=weights)
    trainer = LoraTrainer(model, RANK, ALPHA, ROWS, LENGTH, 1, numerics=numerics)
    text = ids_of(directory, ROWS, LENGTH + 1, seed=1)
    batch = Batch(
        ids=text[:, :-1],
        segment=np.ones((ROWS, LENGTH), np.int32),
        position=np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1)),
        target=np.ascontiguousarray(text[:, 1:]),
        weight=np.full((ROWS, LENGTH), 1 / (ROWS * LENGTH), np.float32),
    )
    losses = [trainer.step(batch, RATE).loss for _ in range(STEPS)]
    assert losses[-1] < losses[0] - 0.05, losses
    return trainer.adapter()


def command(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    """Run a command of homebox; return its result."""
    assert cli.main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("weights", "numerics"), [("f32", "f32"), ("bf16", "f32"), ("bf16", "bf16"), ("q8", "bf16")]
)
def test_what_a_qwen3_learned_says_the_same_in_peft(
    weights: str,
    numerics: str,
    directory: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "PARITY_QWEN06" in os.environ and (weights, numerics) != ("q8", "bf16"):
        pytest.skip("of a whole Qwen3-0.6B only the usual format of weights")
    tensors = trained(directory, weights, numerics)
    gc.collect()
    ours = load(directory, context=64, slots=1, adapters=2, weights="f32", activations="f32")
    write_adapter(tmp_path / "first", "peft", ours.config, tensors, ALPHA, "qwen3")
    box = ("--state", tmp_path / "state", "--model", directory)
    kept = command(capsys, "import", "adapter", tmp_path / "first", "--promote", *box)
    out = command(capsys, "export", "adapter", "--to", tmp_path / "out", *box)
    assert out["weights"] == kept["weights"]
    back = read_adapter(tmp_path / "out", ours.config)
    assert (back.rank, back.alpha) == (RANK, ALPHA)
    assert all(np.array_equal(back.tensors[name], tensors[name]) for name in tensors)

    ids = ids_of(directory, COMPARED, seed=2)
    ours.adapters.add("learned", back.tensors, back.alpha)
    said, base = ours.logits(ids.tolist(), "learned"), ours.logits(ids.tolist())
    assert np.abs(said - base).max() > EFFECT
    del ours
    gc.collect()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    apart = {"base": float(np.abs(logits(theirs, ids) - base).max())}
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "out").eval()
    apart["learned"] = float(np.abs(logits(theirs, ids) - said).max())
    print(f"{directory.name} {weights} {numerics}: {apart}, logits to {np.abs(said).max():.3g}")
    if "PARITY_QWEN06" not in os.environ:
        stored = f"adapter learned on {weights} by {numerics}"
        table.note("qwen3", stored, "PEFT", apart["learned"])
    assert max(apart.values()) < LOGITS


def logits(model: Any, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        out = model(input_ids=torch.tensor(ids[None].astype(np.int64)), use_cache=False).logits
    return np.asarray(out[0].float().numpy(), np.float32)
