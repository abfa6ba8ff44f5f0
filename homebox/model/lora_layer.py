"""One layer of the decoder with adapters on its projections, forwards and backwards.

The backward pass is written out, piece by piece, so that it says itself what it needs: `Kept` holds
it. `checkpoint` decides whether that is what the forward pass put into memory or is computed anew.
Source of the adapters' gradients: y = W x + s B A x (Hu et al., arXiv 2106.09685).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.grad import gradient
from homebox.engine.graph.tensor import Tensor, size_of
from homebox.model.decoder import rms_norm
from homebox.model.frozen_base import FrozenBase
from homebox.model.parameters import GROUPS
from homebox.model.row_attention import RowAttention

Gradients = dict[str, Tensor]


@dataclass(frozen=True)
class Low:
    """The adapters of projections with one input: A (members * rank, in), each B (out, rank)."""

    a: Tensor
    b: tuple[Tensor, ...]
    scale: float

    def forward(self, x: Tensor) -> Tensor:
        """Return u = scale * A x, (N, members * rank)."""
        return (x.linear(self.a) * self.scale).contiguous()

    def part(self, u: Tensor, i: int) -> Tensor:
        """Return the columns of u that belong to one member, (N, rank)."""
        rank = size_of(self.b[i].shape[1])
        return u.slice(1, i * rank, rank)

    def backward(self, x: Tensor, u: Tensor, g: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return du (N, members * rank), and the gradients: of A, of each B as (rank, out)."""
        parts = [dy.matmul(b) * self.scale for dy, b in zip(g, self.b, strict=True)]
        du = parts[0].cat(*parts[1:]).contiguous()
        db = [self.part(u, i).transpose() @ dy for i, dy in enumerate(g)]
        return du, [du.transpose() @ x, *db]


@dataclass(frozen=True)
class Projections:
    """Matrices that share an input, with or without adapters; `label` is "layers.{i}.{group}"."""

    base: FrozenBase
    label: str
    low: Low | None

    @property
    def names(self) -> list[str]:
        """The names of the matrices."""
        prefix, group = self.label.rsplit(".", 1)
        return [f"{prefix}.{member}" for member in GROUPS[group]]

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Return the products with x (N, in), and u (N, members * rank)."""
        out = [self.base.forward(x, self.base.tensors[name]) for name in self.names]
        if self.low is None:
            return out, None
        u = self.low.forward(x)
        for i, b in enumerate(self.low.b):
            out[i] = out[i] + self.low.part(u, i).linear(b)
        return out, u

    def backward(
        self, x: Tensor, u: Tensor | None, g: Sequence[Tensor]
    ) -> tuple[Tensor, Gradients]:
        """Return the gradient of x, and those of A and B by name."""
        if self.low is None or u is None:
            raise ValueError(f"{self.label} has no adapter to train")
        du, found = self.low.backward(x, u, g)
        dx = du @ self.low.a
        for name, dy in zip(self.names, g, strict=True):
            dx = dx + self.base.backward(dy, self.base.tensors[name])
        labels = [f"{self.label}.A", *(f"{name}.B" for name in self.names)]
        return dx, dict(zip(labels, found, strict=True))


@dataclass(frozen=True)
class Kept:
    """What the backward pass of a layer starts from: its input, and products in memory."""

    x: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    attended: Tensor
    middle: Tensor  # after the attention's half
    gate: Tensor
    up: Tensor
    low: tuple[Tensor | None, ...]  # u of qkv, o, gate_up, down

    def again(self, label: str) -> "Kept":
        """Return the same under another name, so that nothing derived from it is kept as well."""

        def named(field: str) -> Tensor:
            value: Tensor = getattr(self, field)
            return value.again(f"{label}.{field}")

        return Kept(
            named("x"),
            named("q"),
            named("k"),
            named("v"),
            named("attended"),
            named("middle"),
            named("gate"),
            named("up"),
            self.low,
        )


@dataclass(frozen=True)
class LoraLayer:
    """A layer; `low` has an entry for each of `GROUPS`, None = without adapters."""

    base: FrozenBase
    index: int
    attention: RowAttention
    low: dict[str, Low]

    def forward(self, x: Tensor) -> tuple[Tensor, Kept]:
        """Return the layer's output for x (N, H), and what its gradient needs."""
        kept = self.base.kept
        (q, k, v), u_qkv = self._projections("qkv").forward(self._normed(x, "attn_norm"))
        q, k, v = kept(q), kept(k), kept(v)
        attended = kept(self.attention.forward(*map(_wide, (q, k, v))))
        (added,), u_o = self._projections("o").forward(_wide(attended))
        middle = (x + added).contiguous()
        normed = self._normed(middle, "mlp_norm")
        (gate, up), u_gate_up = self._projections("gate_up").forward(normed)
        gate, up = kept(gate), kept(up)
        (added,), u_down = self._projections("down").forward(_gated(_wide(gate), _wide(up)))
        low = (u_qkv, u_o, u_gate_up, u_down)
        return (middle + added).contiguous(), Kept(x, q, k, v, attended, middle, gate, up, low)

    def backward(self, kept: Kept, g: Tensor) -> tuple[Tensor, Gradients]:
        """Return the gradient of the layer's input, and those of its adapters."""
        u_qkv, u_o, u_gate_up, u_down = kept.low
        # Each of the three is computed from gate and up alone: less traffic than what they share.
        one, two, three = (self._gate_up(kept, label) for label in ("inner", "d_gate", "d_up"))
        inner = _gated(*one)
        d_inner, grads = self._projections("down").backward(inner, u_down, [g])
        d_inner = d_inner.contiguous()
        (d_gate,) = gradient(_gated(*two), [two[0]], d_inner)
        (d_up,) = gradient(_gated(*three), [three[1]], d_inner)
        normed = self._normed(kept.middle, "mlp_norm")
        sides = [d_gate.contiguous(), d_up.contiguous()]
        d_normed, found = self._projections("gate_up").backward(normed, u_gate_up, sides)
        grads |= found
        (d_middle,) = gradient(normed, [kept.middle], d_normed.contiguous())
        g = (g + d_middle).contiguous()

        attended = _wide(kept.attended)
        d_attended, found = self._projections("o").backward(attended, u_o, [g])
        grads |= found
        q, k, v = _wide(kept.q), _wide(kept.k), _wide(kept.v)
        d_qkv = self.attention.backward(q, k, v, attended, d_attended.contiguous())
        normed = self._normed(kept.x, "attn_norm")
        sides = [d.contiguous() for d in d_qkv]
        d_normed, found = self._projections("qkv").backward(normed, u_qkv, sides)
        (d_x,) = gradient(normed, [kept.x], d_normed.contiguous())
        return (g + d_x).contiguous(), grads | found

    def _gate_up(self, kept: Kept, label: str) -> tuple[Tensor, Tensor]:
        gate, up = (x.again(f"layers.{self.index}.{label}") for x in (kept.gate, kept.up))
        return _wide(gate), _wide(up)

    def _normed(self, x: Tensor, name: str) -> Tensor:
        weight = self.base.tensors[f"layers.{self.index}.{name}"]
        return rms_norm(x, weight, self.base.config.rms_eps)

    def _projections(self, group: str) -> Projections:
        return Projections(self.base, f"layers.{self.index}.{group}", self.low.get(group))


def _gated(gate: Tensor, up: Tensor) -> Tensor:
    return gate.silu() * up


def _wide(x: Tensor) -> Tensor:
    return x.cast(dt.f32)
