"""Describes a decoder by its numbers: sizes, and which of the known variations it has.

The one idea: the families of models differ in a handful of places, so one frozen description with
one field for each place covers them all; the defaults are those of Llama. `architectures` makes it
from a `config.json`, `gguf_model` from a GGUF file. Invariant: a `ModelConfig` that was made
there is consistent and within limits, so no later code checks a size again.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

ATTENTION = ("q", "k", "v", "o")
MLP = ("gate", "up", "down")
PROJECTIONS = (*ATTENTION, *MLP)

MAX_VOCAB = 1 << 20
MAX_WIDTH = 1 << 17
MAX_LAYERS = 1024
MAX_HEADS = 1024
MAX_POSITIONS = 1 << 24
MAX_EXPERTS = 1024


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions: theta^(-2i / dim) and how the frequencies are changed for long contexts.

    Formulas and their sources: `rope.py`. A field that a kind does not use keeps its default.
    """

    theta: float
    dim: int  # channels of a head that turn, an even number; the others pass
    kind: Literal["default", "linear", "dynamic", "llama3", "yarn", "longrope"] = "default"
    factor: float = 1.0
    original: int = 0  # positions that the model was first trained with
    low_freq: float = 1.0  # llama3
    high_freq: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    truncate: bool = True  # yarn: the bounds of the ramp are whole channels
    attention_factor: float = 1.0  # multiplies cos and sin
    short_factors: tuple[float, ...] = ()  # longrope, dim / 2 each
    long_factors: tuple[float, ...] = ()
    served: int = 0  # dynamic, longrope: the positions that are served; 0: not decided yet


@dataclass(frozen=True, slots=True)
class LayerShape:
    """In what a layer differs from the others.

    Its mixer of places is attention, the only one so far. A layer with a recurrent state would say
    so here, and get a memory of its own kind (`stages.Stage`).
    """

    rope: Rope | None = None  # None: no positions
    window: int | None = None  # how many places a query sees, itself included; None: all
    sparse: bool = False  # experts in place of one MLP


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts: `count` small MLPs, of which each row takes `per_token`."""

    count: int
    per_token: int
    inner: int  # width of an expert
    normalised: bool  # the weights of the chosen sum to 1
    router_bias: bool = False
    bias: bool = False
    activation: Literal["silu", "clamped"] = "silu"
    alpha: float = 1.702  # clamped: gain of the sigmoid
    limit: float = 7.0  # clamped: bound of gate and up


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a decoder; `layers` has an entry for each layer, see `same_layers`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    rms_eps: float
    tied: bool  # the head is the embedding
    layers: tuple[LayerShape, ...]
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    architecture: str = "llama"  # model_type
    qk_norm: Literal["", "head", "whole"] = ""  # of each head, or of all channels of q and of k
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    pre_norm: bool = True  # norms before attention and MLP
    post_norm: bool = False  # norms of what they add
    activation: Literal["silu", "gelu_tanh"] = "silu"
    attention_scale: float | None = None  # of the scores; None: head_dim^-0.5
    attention_cap: float | None = None  # scores become cap * tanh(scores / cap)
    logit_cap: float | None = None
    query_growth: tuple[float, int] | None = None  # (b, n): q * (1 + b log(1 + floor(place / n)))
    sinks: bool = False  # each head has a logit that takes part in the softmax, without a value
    embed_scale: float = 1.0
    residual_scale: float = 1.0  # of what attention and MLP add
    logit_scale: float = 1.0
    experts: Experts | None = None

    @property
    def num_layers(self) -> int:
        """The number of layers."""
        return len(self.layers)

    @property
    def windows(self) -> tuple[int | None, ...]:
        """How many places a query of each layer sees; None: all."""
        return tuple(layer.window for layer in self.layers)

    @property
    def ropes(self) -> tuple[Rope, ...]:
        """The different rotations that layers have."""
        return tuple(dict.fromkeys(layer.rope for layer in self.layers if layer.rope is not None))

    def serving(self, context: int) -> "ModelConfig":
        """Return the shape for a context: some rotations depend on how far they have to reach."""
        layers = []
        for layer in self.layers:
            if layer.rope is not None and layer.rope.kind in ("dynamic", "longrope"):
                layer = replace(layer, rope=replace(layer.rope, served=context))
            layers.append(layer)
        return replace(self, layers=tuple(layers))

    @property
    def score_scale(self) -> float:
        """What queries are multiplied with."""
        return self.head_dim**-0.5 if self.attention_scale is None else self.attention_scale

    @cached_property
    def parameters(self) -> int:
        """The number of weights."""
        return sum(math.prod(shape) for shape in self.weight_shapes().values())

    @property
    def used(self) -> int:
        """The number of weights that a token meets: of experts, those that it takes."""
        if self.experts is None:
            return self.parameters
        left = self.experts.count - self.experts.per_token
        shapes = self.weight_shapes().items()
        held = sum(math.prod(shape) for name, shape in shapes if ".expert_" in name)
        return self.parameters - held // self.experts.count * left

    def projection_shape(self, name: str) -> tuple[int, int]:
        """Return (out, in) of one of `PROJECTIONS`."""
        query, key = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        hidden, inner = self.hidden_size, self.intermediate_size
        return {
            "q": (query, hidden),
            "k": (key, hidden),
            "v": (key, hidden),
            "o": (hidden, query),
            "gate": (inner, hidden),
            "up": (inner, hidden),
            "down": (hidden, inner),
        }[name]

    def adapted(self, layer: int) -> tuple[str, ...]:
        """Return the projections of a layer that an adapter may change; experts are frozen."""
        return ATTENTION if self.layers[layer].sparse else PROJECTIONS

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return name -> shape of every weight that the transformer takes, in a fixed order."""
        shapes: dict[str, tuple[int, ...]] = {"embed": (self.vocab_size, self.hidden_size)}
        for number, layer in enumerate(self.layers):
            part = self._matrices(layer) | self._norms() | self._biases(layer)
            shapes |= {f"layers.{number}.{name}": shape for name, shape in part.items()}
        shapes["norm"] = (self.hidden_size,)
        if not self.tied:
            shapes["head"] = (self.vocab_size, self.hidden_size)
        return shapes

    def _matrices(self, layer: LayerShape) -> dict[str, tuple[int, ...]]:
        names = ATTENTION if layer.sparse else PROJECTIONS
        shapes: dict[str, tuple[int, ...]] = {name: self.projection_shape(name) for name in names}
        if layer.sparse and self.experts is not None:
            count, inner, hidden = self.experts.count, self.experts.inner, self.hidden_size
            shapes["router"] = (count, hidden)
            shapes["expert_gate"] = shapes["expert_up"] = (count * inner, hidden)
            shapes["expert_down"] = (count * hidden, inner)
        return shapes

    def _norms(self) -> dict[str, tuple[int, ...]]:
        names = [name for name in ("attn_norm", "mlp_norm") if self.pre_norm]
        names += [name for name in ("attn_post_norm", "mlp_post_norm") if self.post_norm]
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(names, (self.hidden_size,))
        if self.qk_norm:
            whole = self.qk_norm == "whole"
            shapes["q_norm"] = (self.head_dim * (self.num_heads if whole else 1),)
            shapes["k_norm"] = (self.head_dim * (self.num_kv_heads if whole else 1),)
        return shapes

    def _biases(self, layer: LayerShape) -> dict[str, tuple[int, ...]]:
        biased = [*"qkv"] if self.qkv_bias else []
        biased += ["o"] if self.o_bias else []
        biased += MLP if self.mlp_bias and not layer.sparse else ()
        shapes: dict[str, tuple[int, ...]] = {
            f"{name}_bias": (self.projection_shape(name)[0],) for name in biased
        }
        if self.sinks:
            shapes["sinks"] = (self.num_heads,)
        if layer.sparse and self.experts is not None:
            count, inner = self.experts.count, self.experts.inner
            if self.experts.router_bias:
                shapes["router_bias"] = (count,)
            if self.experts.bias:
                shapes["expert_gate_bias"] = shapes["expert_up_bias"] = (count, inner)
                shapes["expert_down_bias"] = (count, self.hidden_size)
        return shapes


def is_vector(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a weight is kept as float32 numbers beside the matrices."""
    return len(shape) == 1 or name.endswith("_bias")


def same_layers(count: int, theta: float, head_dim: int) -> tuple[LayerShape, ...]:
    """Return `count` layers of plain attention with rotary positions."""
    return (LayerShape(Rope(theta, head_dim)),) * count
