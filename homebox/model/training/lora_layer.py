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
from homebox.model.decoder import experts
from homebox.model.decoder.gated import gated
from homebox.model.training.frozen_base import FrozenBase
from homebox.model.training.packed_rows import rms_norm
from homebox.model.training.parameters import GROUPS
from homebox.model.training.row_attention import RowAttention

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
        out = [self._product(x, name) for name in self.names]
        if self.low is None:
            return out, None
        u = self.low.forward(x)
        for i, b in enumerate(self.low.b):
            out[i] = out[i] + self.low.part(u, i).linear(b)
        return out, u

    def _product(self, x: Tensor, name: str) -> Tensor:
        y = self.base.forward(x, self.base.tensors[name])
        bias = self.base.tensors.get(f"{name}_bias")
        return y if bias is None else y + bias

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
    """What the backward pass of a layer starts from: its input, and products in memory.

    `added` is what attention and MLP add before their norms, where the model has these; a layer
    with experts has `mixture` in place of `gate` and `up`.
    """

    x: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    attended: Tensor
    middle: Tensor  # after the attention's half
    gate: Tensor | None
    up: Tensor | None
    mixture: experts.Kept | None
    added: tuple[Tensor | None, Tensor | None]
    low: tuple[Tensor | None, ...]  # u of qkv, o, gate_up, down

    def again(self, label: str) -> "Kept":
        """Return the same under another name, so that nothing derived from it is kept as well."""

        def named(value: Tensor | None, name: str) -> Tensor | None:
            return None if value is None else value.again(f"{label}.{name}")

        attention, mlp = self.added
        return Kept(
            self.x.again(f"{label}.x"),
            self.q.again(f"{label}.q"),
            self.k.again(f"{label}.k"),
            self.v.again(f"{label}.v"),
            self.attended.again(f"{label}.attended"),
            self.middle.again(f"{label}.middle"),
            named(self.gate, "gate"),
            named(self.up, "up"),
            None if self.mixture is None else self.mixture.again(f"{label}.mixture"),
            (named(attention, "attention"), named(mlp, "mlp")),
            self.low,
        )


@dataclass(frozen=True)
class LoraLayer:
    """A layer; `low` has an entry for each of its groups of projections, {} = without adapters."""

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
        attention, added = self._added(added, "attn_post_norm")
        middle = (x + added).contiguous()
        gate = up = u_gate_up = u_down = mixture = None
        normed = self._normed(middle, "mlp_norm")
        if self.sparse:
            added, mixture = self._mixture.forward_kept(normed.contiguous(), kept)
        else:
            (gate, up), u_gate_up = self._projections("gate_up").forward(normed)
            gate, up = kept(gate), kept(up)
            inner = self._gated(_wide(gate), _wide(up))
            (added,), u_down = self._projections("down").forward(inner)
        mlp, added = self._added(added, "mlp_post_norm")
        low = (u_qkv, u_o, u_gate_up, u_down)
        parts = Kept(x, q, k, v, attended, middle, gate, up, mixture, (attention, mlp), low)
        return (middle + added).contiguous(), parts

    def backward(self, kept: Kept, g: Tensor) -> tuple[Tensor, Gradients]:
        """Return the gradient of the layer's input, and those of its adapters."""
        d_added = self._added_backward(kept.added[1], "mlp_post_norm", g)
        if kept.mixture is not None:
            d_normed, grads = self._mixture.backward(kept.mixture, d_added), Gradients()
        else:
            d_normed, grads = self._mlp_backward(kept, d_added)
        g = self._through_norm(kept.middle, "mlp_norm", d_normed, g)

        u_qkv, u_o, _, _ = kept.low
        attended = _wide(kept.attended)
        d_added = self._added_backward(kept.added[0], "attn_post_norm", g)
        d_attended, found = self._projections("o").backward(attended, u_o, [d_added])
        grads |= found
        q, k, v = _wide(kept.q), _wide(kept.k), _wide(kept.v)
        d_qkv = self.attention.backward(q, k, v, attended, d_attended.contiguous())
        normed = self._normed(kept.x, "attn_norm")
        sides = [d.contiguous() for d in d_qkv]
        d_normed, found = self._projections("qkv").backward(normed, u_qkv, sides)
        return self._through_norm(kept.x, "attn_norm", d_normed, g), grads | found

    def _mlp_backward(self, kept: Kept, g: Tensor) -> tuple[Tensor, Gradients]:
        """Return the gradient of the MLP's normed input, and those of its adapters."""
        _, _, u_gate_up, u_down = kept.low
        # Each of the three is computed from gate and up alone: less traffic than what they share.
        one, two, three = (self._gate_up(kept, label) for label in ("inner", "d_gate", "d_up"))
        inner = self._gated(*one)
        d_inner, grads = self._projections("down").backward(inner, u_down, [g])
        d_inner = d_inner.contiguous()
        (d_gate,) = gradient(self._gated(*two), [two[0]], d_inner)
        (d_up,) = gradient(self._gated(*three), [three[1]], d_inner)
        normed = self._normed(kept.middle, "mlp_norm")
        sides = [d_gate.contiguous(), d_up.contiguous()]
        d_normed, found = self._projections("gate_up").backward(normed, u_gate_up, sides)
        return d_normed, grads | found

    def _gate_up(self, kept: Kept, label: str) -> tuple[Tensor, Tensor]:
        if kept.gate is None or kept.up is None:
            raise ValueError(f"layer {self.index} has no gate")
        gate, up = (x.again(f"layers.{self.index}.{label}") for x in (kept.gate, kept.up))
        return _wide(gate), _wide(up)

    # -- the parts in which families differ -----------------------------------------------------

    @property
    def sparse(self) -> bool:
        """Whether the layer has experts."""
        return self.base.config.layers[self.index].sparse

    @property
    def _mixture(self) -> experts.Mixture:
        if self.base.config.experts is None:
            raise ValueError(f"layer {self.index} has no experts")
        return experts.Mixture(self.base.config.experts, self._weight, self.base.rounded)

    def _gated(self, gate: Tensor, up: Tensor) -> Tensor:
        return gated(self.base.config.activation, gate, up)

    def _normed(self, x: Tensor, name: str) -> Tensor:
        if not self.base.config.pre_norm:
            return x
        return rms_norm(x, self._weight(name), self.base.config.rms_eps)

    def _through_norm(self, x: Tensor, name: str, d_normed: Tensor, g: Tensor) -> Tensor:
        """Return the gradient of x, which goes on as it is (g) and through a norm."""
        if not self.base.config.pre_norm:
            return (g + d_normed).contiguous()
        (d_x,) = gradient(self._normed(x, name), [x], d_normed.contiguous())
        return (g + d_x).contiguous()

    def _added(self, y: Tensor, norm: str) -> tuple[Tensor | None, Tensor]:
        """Return what to keep of a half's result, and what it adds to the residual stream."""
        if not self.base.config.post_norm:
            return None, self._after(y, norm)
        y = y.contiguous()
        return y, self._after(y, norm)

    def _after(self, y: Tensor, norm: str) -> Tensor:
        config = self.base.config
        if config.post_norm:
            y = rms_norm(y, self._weight(norm), config.rms_eps)
        return y if config.residual_scale == 1.0 else y * config.residual_scale

    def _added_backward(self, y: Tensor | None, norm: str, g: Tensor) -> Tensor:
        """Return the gradient of a half's result from that of the residual stream."""
        scale = self.base.config.residual_scale
        if y is not None:
            (g,) = gradient(self._after(y, norm), [y], g)
        elif scale != 1.0:
            g = g * scale
        else:
            return g
        return g.contiguous()

    def _weight(self, name: str) -> Tensor:
        return self.base.tensors[f"layers.{self.index}.{name}"]

    def _projections(self, group: str) -> Projections:
        return Projections(self.base, f"layers.{self.index}.{group}", self.low.get(group))


def _wide(x: Tensor) -> Tensor:
    return x.cast(dt.f32)
