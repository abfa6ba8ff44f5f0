"""From which tensors of a checkpoint each of our weights is made.

The one idea: an `Origin` names stored tensors with the shapes that they must have, and how one
weight comes out of them; most are one tensor as it is. Invariant: shapes and names are decided from
the configuration and the names that are present, before any number is read.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from homebox.model.config import ATTENTION, MLP, ModelConfig
from homebox.model.files.stored import MX_BLOCK, Stored, mxfp4, widened

Shape = tuple[int, ...]
Make = Callable[[Sequence[np.ndarray]], Stored]

TOP = {"embed": "model.embed_tokens.weight", "norm": "model.norm.weight", "head": "lm_head.weight"}
MODULES = {**{n: f"self_attn.{n}_proj" for n in ATTENTION}, **{n: f"mlp.{n}_proj" for n in MLP}}
LAYER = {
    **{name: f"{module}.weight" for name, module in MODULES.items()},
    **{f"{name}_bias": f"{module}.bias" for name, module in MODULES.items()},
    "attn_norm": "input_layernorm.weight",
    "mlp_norm": "post_attention_layernorm.weight",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    "sinks": "self_attn.sinks",
    "router": "mlp.gate.weight",
}


@dataclass(frozen=True)
class Source:
    """A stored tensor and its shape; `raw` ones are bytes that are decoded by the origin."""

    name: str
    shape: Shape
    raw: bool = False


@dataclass(frozen=True)
class Origin:
    """The stored tensors of a weight; `make` gets them in order, None: the only one as it is.

    `rows` says which rows of the only tensor, in which order; None: all.
    """

    sources: tuple[Source, ...]
    make: Make | None = None
    rows: slice | npt.NDArray[np.int64] | None = None


ExpertOrigins = Callable[[str, ModelConfig, set[str]], dict[str, Origin]]


@dataclass(frozen=True)
class Names:
    """How a family names the tensors of its checkpoints.

    `layer` are names after `prefix` other than `LAYER`; `fused` modules hold several projections
    one below the other; norms are stored less `norm_offset`; `experts` gives the origins of a
    sparse layer's weights. Where `interleaved`, the halves of each head's rows of q and k take
    turns, as rotary positions of pairs want them.
    """

    layer: Mapping[str, str] = field(default_factory=dict)
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    norm_offset: float = 0.0
    experts: ExpertOrigins | None = None
    top: Mapping[str, str] = field(default_factory=lambda: TOP)
    prefix: str = "model.layers.{}."
    interleaved: bool = False

    def of(self, name: str) -> str:
        """Return the stored name of one of our weights."""
        if name in self.top:
            return self.top[name]
        _, layer, part = name.split(".")
        return self.prefix.format(layer) + (LAYER | dict(self.layer))[part]


def origins(names: Names, config: ModelConfig, present: set[str]) -> dict[str, Origin]:
    """Return the origin of every weight of `config.weight_shapes()`."""
    found: dict[str, Origin] = {}
    shapes = config.weight_shapes()
    for layer, kind in enumerate(config.layers):
        prefix = names.prefix.format(layer)
        own = _fused(names, config, prefix)
        if kind.sparse and names.experts is not None:
            own |= names.experts(prefix, config, present)
        found |= {f"layers.{layer}.{name}": origin for name, origin in own.items()}
    for name, shape in shapes.items():
        if name not in found:
            source = Source(names.of(name), shape)
            offset = names.norm_offset if name.endswith("norm") else 0.0
            part = name.rsplit(".", 1)[-1]
            rows = _interleaved(config, part) if names.interleaved else None
            found[name] = Origin((source,), _shifted(offset) if offset else None, rows)
    return {name: found[name] for name in shapes}


def file_name_of(name: str) -> str:
    """Return the name that a Llama checkpoint gives to a weight."""
    return Names().of(name)


def _fused(names: Names, config: ModelConfig, prefix: str) -> dict[str, Origin]:
    found = {}
    for module, parts in names.fused.items():
        rows = [config.projection_shape(part)[0] for part in parts]
        shape = (sum(rows), config.projection_shape(parts[0])[1])
        source = Source(f"{prefix}{module}.weight", shape)
        for i, part in enumerate(parts):
            found[part] = Origin((source,), rows=slice(sum(rows[:i]), sum(rows[: i + 1])))
    return found


def _interleaved(config: ModelConfig, part: str) -> npt.NDArray[np.int64] | None:
    """Return where the rows of q or k, or of their biases, lie if halves of heads take turns."""
    heads = {"q": config.num_heads, "k": config.num_kv_heads}.get(part.removesuffix("_bias"))
    if heads is None:
        return None
    dim = config.head_dim
    pairs = np.arange(heads * dim).reshape(heads, dim // 2, 2)
    return pairs.transpose(0, 2, 1).reshape(-1)


def _shifted(offset: float) -> Make:
    def make(arrays: Sequence[np.ndarray]) -> Stored:
        shifted: Stored = widened(arrays[0]) + np.float32(offset)
        return shifted

    return make


# -- experts --------------------------------------------------------------------------------------


def separate_experts(prefix: str, config: ModelConfig, present: set[str]) -> dict[str, Origin]:
    """Return the origins of experts that are stored one by one, or stacked in two tensors."""
    experts = config.experts
    if experts is None:
        return {}
    count, inner, hidden = experts.count, experts.inner, config.hidden_size
    stacked = f"{prefix}mlp.experts.gate_up_proj"
    if stacked in present:
        both = Source(stacked, (count, 2 * inner, hidden))
        down = Source(f"{prefix}mlp.experts.down_proj", (count, hidden, inner))
        return {
            "expert_gate": Origin((both,), lambda a: _flat(a[0][:, :inner])),
            "expert_up": Origin((both,), lambda a: _flat(a[0][:, inner:])),
            "expert_down": Origin((down,), lambda a: _flat(a[0])),
        }
    found = {}
    for part, shape in (
        ("gate", (inner, hidden)),
        ("up", (inner, hidden)),
        ("down", (hidden, inner)),
    ):
        names = (f"{prefix}mlp.experts.{i}.{part}_proj.weight" for i in range(count))
        found[f"expert_{part}"] = Origin(tuple(Source(name, shape) for name in names), _stacked)
    return found


def interleaved_experts(prefix: str, config: ModelConfig, present: set[str]) -> dict[str, Origin]:
    """Return the origins of gpt-oss' experts: gate and up take turns, in MXFP4 or as numbers.

    Numbers are stored (experts, in, out), MXFP4 as (experts, out, in / 32, 16) bytes and
    (experts, out, in / 32) exponents.
    """
    experts = config.experts
    if experts is None:
        return {}
    count, inner, hidden = experts.count, experts.inner, config.hidden_size
    base = f"{prefix}mlp.experts."
    bias = Source(f"{base}gate_up_proj_bias", (count, 2 * inner))
    found = {
        "router": Origin((Source(f"{prefix}mlp.router.weight", (count, hidden)),)),
        "router_bias": Origin((Source(f"{prefix}mlp.router.bias", (count,)),)),
        "expert_gate_bias": Origin((bias,), lambda a: np.ascontiguousarray(a[0][:, 0::2])),
        "expert_up_bias": Origin((bias,), lambda a: np.ascontiguousarray(a[0][:, 1::2])),
        "expert_down_bias": Origin((Source(f"{base}down_proj_bias", (count, hidden)),)),
    }
    # Rows of another width cannot be made of blocks; then the numbers themselves are missing.
    whole = hidden % MX_BLOCK == 0 and inner % MX_BLOCK == 0
    packed = whole and f"{base}gate_up_proj_blocks" in present
    for name, module, start, step, shape in (
        ("expert_gate", "gate_up_proj", 0, 2, (2 * inner, hidden)),
        ("expert_up", "gate_up_proj", 1, 2, (2 * inner, hidden)),
        ("expert_down", "down_proj", 0, 1, (hidden, inner)),
    ):
        rows, columns = shape
        if packed:
            blocks = Source(
                f"{base}{module}_blocks", (count, rows, columns // MX_BLOCK, 16), raw=True
            )
            scales = Source(f"{base}{module}_scales", (count, rows, columns // MX_BLOCK), raw=True)
            found[name] = Origin((blocks, scales), _decoded(start, step))
        else:
            plain = Source(f"{base}{module}", (count, columns, rows))
            found[name] = Origin((plain,), _turned(start, step))
    return found


def _stacked(arrays: Sequence[np.ndarray]) -> Stored:
    if len({array.dtype for array in arrays}) > 1:
        arrays = [widened(array) for array in arrays]
    joined: Stored = np.concatenate(arrays)
    return joined


def _flat(array: np.ndarray) -> Stored:
    return np.ascontiguousarray(array).reshape(-1, array.shape[-1])


def _decoded(start: int, step: int) -> Make:
    def make(arrays: Sequence[np.ndarray]) -> Stored:
        blocks, scales = (array[:, start::step] for array in arrays)
        return _flat(mxfp4(blocks, scales))

    return make


def _turned(start: int, step: int) -> Make:
    return lambda arrays: _flat(arrays[0][:, :, start::step].transpose(0, 2, 1))
