"""Loss and gradients of an adapter against PyTorch and peft, on a llama and on a qwen3.

Needs torch, transformers and peft; none of them is a dependency, so the tests skip without them.
"""

from typing import Any

import numpy as np
import pytest

from homebox.engine.graph import formats
from homebox.model.architectures.config_file import parse_config
from homebox.model.config import PROJECTIONS
from homebox.model.lora import init_adapter
from homebox.model.training.trainer import Batch, LoraTrainer
from tests.unit.model_files import CONFIG, QWEN3, ArrayWeights, random_weights

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

RANK, ALPHA, ROWS, LENGTH = 4, 8.0, 2, 20
MODULES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
NORMS = {
    "attn_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
}


class Base:
    """A base for the trainer from packed arrays."""

    def __init__(self, raw: dict[str, Any], form: str) -> None:
        self.config = parse_config(raw)
        self.packed = ArrayWeights(self.config, random_weights(self.config), formats.WEIGHTS[form])

    def base_tensors(self) -> dict[str, Any]:
        return self.packed.tensors


def peer_of(raw: dict[str, Any], weights: dict[str, Any], adapter: dict[str, Any]) -> Any:
    """Return a peft model with the same weights and adapter, in float32."""
    kinds = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
    }
    config_kind, model_kind = kinds[raw["model_type"]]
    fields = {k: v for k, v in raw.items() if k != "model_type"}
    model = model_kind(config_kind(**fields, attn_implementation="eager")).float()
    found = {}
    for name, value in weights.items():
        *prefix, kind = name.split(".")
        if prefix:
            inner = {**MODULES, **NORMS}[kind]
            found[f"model.layers.{prefix[1]}.{inner}.weight"] = torch.tensor(value)
        else:
            outer = {"embed": "model.embed_tokens.weight", "norm": "model.norm.weight"}
            found[outer.get(kind, "lm_head.weight")] = torch.tensor(value)
    missing = model.load_state_dict(found, strict=False)
    assert set(missing.missing_keys) <= {"lm_head.weight"} and not missing.unexpected_keys
    targets = [m.rsplit(".", 1)[1] for m in MODULES.values()]
    wrapped = peft.get_peft_model(
        model,
        peft.LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=targets),
    )
    for name, parameter in trainable(wrapped).items():
        parameter.data.copy_(torch.tensor(adapter[name]))
    return wrapped


def trainable(wrapped: Any) -> dict[str, Any]:
    """Return the peer's adapter by our names."""
    modules = dict(wrapped.named_modules())
    out = {}
    for name, module in modules.items():
        if not hasattr(module, "lora_A") or not name.endswith("_proj"):
            continue
        layer = name.split(".layers.")[1].split(".")[0]
        kind = next(k for k in PROJECTIONS if name.endswith(MODULES[k]))
        out[f"layers.{layer}.{kind}.A"] = module.lora_A["default"].weight
        out[f"layers.{layer}.{kind}.B"] = module.lora_B["default"].weight
    return out


@pytest.mark.parametrize("raw", [CONFIG, QWEN3], ids=["llama", "qwen3"])
@pytest.mark.parametrize("form", ["f32", "q4"])
def test_loss_and_gradients_are_those_of_peft(raw: dict[str, Any], form: str) -> None:
    base = Base(raw, form)
    rng = np.random.default_rng(1)
    adapter = {
        name: rng.normal(0, 0.2, t.shape).astype(np.float32) if name.endswith("B") else t
        for name, t in init_adapter(base.config, RANK, 1).items()
    }
    ids = rng.integers(0, base.config.vocab_size, (ROWS, LENGTH)).astype(np.int32)
    weight = np.full((ROWS, LENGTH), 1 / (ROWS * (LENGTH - 1)), np.float32)
    weight[:, -1] = 0.0
    batch = Batch(
        ids=ids,
        segment=np.ones((ROWS, LENGTH), np.int32),
        position=np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1)),
        target=np.roll(ids, -1, 1),
        weight=weight,
    )
    trainer = LoraTrainer(base, RANK, ALPHA, ROWS, LENGTH, 0)
    trainer.parameters.load(adapter)
    loss, _ = trainer.accumulate(batch)
    peer = peer_of(raw, base.packed.arrays, adapter)
    tokens = torch.tensor(ids.astype(np.int64))
    wanted = peer(input_ids=tokens, labels=tokens, use_cache=False).loss
    wanted.backward()
    assert np.isclose(loss, float(wanted.detach()), rtol=1e-5)
    gradient = trainer.parameters.gradient()
    for name, parameter in trainable(peer).items():
        want = parameter.grad.numpy()
        error = np.linalg.norm(gradient[name] - want) / np.linalg.norm(want)
        assert error < 1e-4, (name, error)
    assert set(gradient) == set(trainable(peer))
