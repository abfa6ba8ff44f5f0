"""What transformers and PEFT say about a case: logits, greedy ids, the gradient of an adapter.

Everything in float32 with attention written out. What depends on the number of positions gets all
that are served, by padding at the end, which no earlier place sees.
"""

import copy
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import peft
import torch
import transformers
from safetensors import safe_open
from transformers.masking_utils import eager_mask
from transformers.models.gemma3 import modeling_gemma3 as gemma

from tests.parity.cases import ALPHA, CONTEXT, FP8_BLOCK, NEW, RANK, Case
from tests.parity.weights import Stored, adapter_values

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

# Our names of projections in the module of each name; several: one below the other.
MODULES = {
    "self_attn.q_proj": ("q",),
    "self_attn.k_proj": ("k",),
    "self_attn.v_proj": ("v",),
    "self_attn.qkv_proj": ("q", "k", "v"),
    "self_attn.o_proj": ("o",),
    "mlp.gate_proj": ("gate",),
    "mlp.up_proj": ("up",),
    "mlp.gate_up_proj": ("gate", "up"),
    "mlp.down_proj": ("down",),
}


def kind_of(case: Case) -> Any:
    """Return the class that makes the reference's models of this kind."""
    if "text_config" in case.config:
        return transformers.AutoModelForImageTextToText
    return transformers.AutoModelForCausalLM


def stored_tensors(case: Case) -> list[Stored]:
    """Return what transformers writes for a fresh model of this configuration."""
    config = copy.deepcopy(case.config)  # it is changed
    config.pop("quantization_config", None)
    made = transformers.AutoConfig.for_model(**config)
    model = kind_of(case).from_config(made, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        with safe_open(Path(folder) / "model.safetensors", "np") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in sorted(file.keys())}
    found = []
    for name, shape in sorted(shapes.items()):
        if case.mxfp4 and name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            count, inputs, outputs = shape
            blocks = (count, outputs, inputs // 32)
            found.append(Stored(f"{name}_blocks", (*blocks, 16), "U8"))
            found.append(Stored(f"{name}_scales", blocks, "U8"))
        elif case.fp8 and name.endswith("_proj.weight"):
            found.append(Stored(name, shape, "F8_E4M3"))
            blocks = tuple(-(-size // FP8_BLOCK) for size in shape)
            found.append(Stored(f"{name}_scale_inv", blocks, "F32"))
        else:
            found.append(Stored(name, shape, case.stored))
    return found


def capped(module: Any, *inputs: Any, **named: Any) -> Any:
    """Do Gemma's own attention with the cap of the configuration, which its layers leave out."""
    return gemma.eager_attention_forward(
        module, *inputs, softcap=module.attn_logit_softcapping, **named
    )


transformers.AttentionInterface.register("capped", capped)
transformers.AttentionMaskInterface.register("capped", eager_mask)


class Bare(torch.nn.Module):
    """A model without its configuration, so that PEFT takes the names of modules as they are."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, **inputs: Any) -> Any:
        return self.inner(**inputs)


class Peer:
    """The reference's model of a directory."""

    def __init__(self, case: Case, directory: Path) -> None:
        self.case = case
        self.model = kind_of(case).from_pretrained(
            directory,
            dtype=torch.bfloat16 if case.mxfp4 or case.fp8 else torch.float32,
            attn_implementation="capped" if "attn_logit_softcapping" in case.text else "eager",
        )
        self.model = self.model.float().eval()

    def logits(self, ids: Int32) -> Float32:
        """Return the logits after each id."""
        with torch.no_grad():
            out = self.model(input_ids=self._padded(ids[None]), use_cache=False).logits
        return np.asarray(out[0, : len(ids)].numpy(), np.float32)

    def hidden(self, ids: Int32) -> Float32:
        """Return the last hidden state of each id."""
        padded = self._padded(ids[None])
        with torch.no_grad():
            out = self.model(input_ids=padded, use_cache=False, output_hidden_states=True)
        return np.asarray(out.hidden_states[-1][0, : len(ids)].numpy(), np.float32)

    def greedy(self, prompt: Int32) -> tuple[Int32, float]:
        """Return the likeliest ids after a prompt, and the least lead of one over the next."""
        ids, lead = list(prompt), math.inf
        for _ in range(NEW):
            last = np.sort(self.logits(np.array(ids, np.int32))[-1])
            lead = min(lead, float(last[-1] - last[-2]))
            ids.append(int(self.logits(np.array(ids, np.int32))[-1].argmax()))
        return np.array(ids[len(prompt) :], np.int32), lead

    def generated(self, prompt: Int32) -> Int32:
        """Return the ids of the reference's own loop with its cache."""
        out = self.model.generate(
            torch.tensor(prompt[None].astype(np.int64)),
            attention_mask=torch.ones((1, len(prompt)), dtype=torch.int64),
            max_new_tokens=NEW,
            do_sample=False,
            pad_token_id=0,
        )
        return np.asarray(out[0, len(prompt) :].numpy(), np.int32)

    def router_gap(self, ids: Int32) -> float:
        """Return the least lead of a chosen expert over the next one that was not chosen."""
        gaps: list[float] = []

        def see(module: Any, inputs: Any, output: Any) -> None:
            scores = inputs[0].reshape(-1, module.weight.shape[1]) @ module.weight.T
            scores = scores + getattr(module, "bias", 0) if hasattr(module, "bias") else scores
            chosen = self.model.config.num_experts_per_tok
            ordered = scores.sort(-1, descending=True).values
            gaps.append(float((ordered[:, chosen - 1] - ordered[:, chosen]).min()))

        hooks = [
            module.register_forward_hook(see)
            for name, module in self.model.named_modules()
            if name.endswith(("mlp.gate", "mlp.router"))
        ]
        self.logits(ids)
        for hook in hooks:
            hook.remove()
        return min(gaps, default=math.inf)

    def _padded(self, ids: Int32) -> torch.Tensor:
        out = np.zeros((len(ids), CONTEXT if self.case.grows else ids.shape[1]), np.int64)
        out[:, : ids.shape[1]] = ids
        return torch.tensor(out)

    # -- adapters -------------------------------------------------------------------------------

    def gradient(self, ids: Int32, targets: Int32) -> tuple[float, dict[str, Float32]]:
        """Return the mean cross-entropy and its gradient, by our names of an adapter's tensors.

        A module that holds several projections gets an adapter of as many times the rank, whose A
        are ours one below the other and whose B has ours as blocks.
        """
        modules = dict(self._adapted())
        wide = {name: len(parts) * RANK for name, parts in modules.items()}
        wrapped = peft.get_peft_model(
            Bare(self.model),
            peft.LoraConfig(
                r=RANK,
                lora_alpha=ALPHA,
                lora_dropout=0.0,
                target_modules=list(modules),
                rank_pattern=wide,
                alpha_pattern={name: ALPHA / RANK * rank for name, rank in wide.items()},
            ),
        )
        found = {name: self.model.get_submodule(name) for name in modules}
        places = [place for name in modules for place in self._places(name, found[name])]
        for ours, weight, index in places:
            data = torch.zeros_like(weight[index])
            data += torch.tensor(adapter_values(self.case.seed, ours, tuple(data.shape)))
            weight.data[index] = data
        loss = self._loss(wrapped, ids, targets)
        loss.backward()
        return float(loss.detach()), {
            ours: np.asarray(weight.grad[index].numpy(), np.float32)
            for ours, weight, index in places
        }

    def _loss(self, model: Any, ids: Int32, targets: Int32) -> torch.Tensor:
        logits = model(input_ids=self._padded(ids), use_cache=False).logits[:, : ids.shape[1]]
        wanted = torch.tensor(targets.astype(np.int64)).reshape(-1)
        return torch.nn.functional.cross_entropy(logits.reshape(len(wanted), -1), wanted)

    def _adapted(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        for name, module in self.model.named_modules():
            kind = ".".join(name.split(".")[-2:])
            if kind in MODULES and isinstance(module, torch.nn.Linear) and "vision" not in name:
                yield name, MODULES[kind]

    def _places(self, name: str, module: Any) -> Iterator[tuple[str, torch.Tensor, Any]]:
        """Yield our tensor's name, the parameter and the part of it that holds ours."""
        layer = name.split("layers.")[1].split(".")[0]
        parts = MODULES[".".join(name.split(".")[-2:])]
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        b.data.zero_()
        at = 0
        for number, part in enumerate(parts):
            rows = slice(number * RANK, (number + 1) * RANK)
            height = self._height(part, b.shape[0], len(parts))
            yield f"layers.{layer}.{part}.A", a, (rows, slice(None))
            yield f"layers.{layer}.{part}.B", b, (slice(at, at + height), rows)
            at += height

    def _height(self, part: str, outputs: int, parts: int) -> int:
        config = self.model.config.get_text_config()
        if parts != 3:
            return outputs // parts
        width = (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        heads = config.num_attention_heads if part == "q" else config.num_key_value_heads
        return int(width * heads)
