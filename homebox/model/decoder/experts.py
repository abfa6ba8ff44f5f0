"""A mixture of experts in place of an MLP, for serving and training; the experts are frozen.

The one idea: the chosen experts' products are products of blocks of rows, each with one of several
weights, and everything that moves rows between blocks is a gather, backwards as well.
Invariant: a row's result has the same bits whatever rows are beside it, and whether its pairs lie
alone or in blocks: its experts are added in the order of their weights.
Source: Fedus, Zoph, Shazeer, arXiv 2101.03961, section 2, with k experts for each row.
"""

from collections.abc import Callable
from dataclasses import dataclass

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.grad import gradient
from homebox.engine.graph.ops import Op, node
from homebox.engine.graph.tensor import Tensor
from homebox.model.config import Experts
from homebox.model.decoder.panels import sizes
from homebox.model.decoder.routing import Routing, Slots

Rounding = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Kept:
    """What the backward pass starts from: the choice, and products in memory, (B, R, I)."""

    routing: Routing
    slots: Slots
    gate: Tensor
    up: Tensor

    def again(self, label: str) -> "Kept":
        """Return the same under another name, so that nothing derived from it is kept as well."""
        return Kept(
            self.routing.again(label),
            self.slots.again(label),
            self.gate.again(f"{label}.gate"),
            self.up.again(f"{label}.up"),
        )


@dataclass(frozen=True)
class Mixture:
    """The experts of a layer.

    `weight` returns by name: router (E, H), expert_gate and expert_up (E * I, H), expert_down
    (E * H, I), and where there are biases router_bias (E,), expert_gate_bias and expert_up_bias
    (E, I), expert_down_bias (E, H). `rounded` makes rows (m, k) operands of the experts' products;
    the router sees them as they are.
    """

    experts: Experts
    weight: Callable[[str], Tensor]
    rounded: Rounding

    def forward(self, x: Tensor) -> Tensor:
        """Return the weighted sum of the chosen experts' results for x (N, H), float32 (N, H)."""
        return self._forward(x, lambda x: x)[0]

    def forward_kept(self, x: Tensor, kept: Rounding = Tensor.contiguous) -> tuple[Tensor, Kept]:
        """Return the same, and what the gradient needs; `kept` puts products into memory."""
        return self._forward(x, kept)

    def backward(self, kept: Kept, g: Tensor) -> Tensor:
        """Return the gradient of x (N, H) from that of the result.

        An expert's result is nowhere kept: g times its down matrix, which the gradient of what
        goes into it needs anyway, meets that input in the gradient of the pair's weight.
        """
        routing, slots = kept.routing, kept.slots
        rows = slots.rows_of(g)
        inner_g = self._turned("expert_down", rows, slots).contiguous()  # without the weights
        gate, up = kept.gate.cast(dt.f32), kept.up.cast(dt.f32)
        inner = self._activated(gate, up)
        met = (inner * inner_g).sum(2).reshape((-1,))
        if self.experts.bias:
            bias = self._bias("expert_down_bias", slots)
            met = met + (slots.blocks(rows) * bias).sum(2).reshape((-1,))
        d_logits = routing.backward(slots.in_pairs(met.contiguous()))
        d_inner = inner_g * slots.in_slots(routing.weights.contiguous()).reshape(
            (-1, slots.block, 1)
        )
        d_gate, d_up = gradient(inner, [gate, up], d_inner)
        sides = {"expert_gate": d_gate, "expert_up": d_up}
        parts = [self._turned(name, _flat(d), slots) for name, d in sides.items()]
        d_rows = _flat(parts[0] + parts[1]).contiguous()
        router = d_logits.contiguous().matmul(self.weight("router"))
        return _over_pairs(slots.in_pairs(d_rows)) + router

    def _forward(self, x: Tensor, keep: Rounding) -> tuple[Tensor, Kept]:
        x = x.contiguous()  # else each of the products below would compute it again
        logits = x.linear(self.weight("router"))
        if self.experts.router_bias:
            logits = logits + self.weight("router_bias")
        routing = Routing.of(logits, self.experts)
        slots = Slots.of(routing)
        rows = self._operand(x, slots)
        gate, up = (
            keep(self._biased(rows.grouped_linear(self._weights(name), slots.expert), name, slots))
            for name in ("expert_gate", "expert_up")
        )
        inner = _flat(self._activated(gate.cast(dt.f32), up.cast(dt.f32))).contiguous()
        rows = slots.blocks(self.rounded(inner))
        found = rows.grouped_linear(self._weights("expert_down"), slots.expert)
        results = _flat(self._biased(found, "expert_down", slots)).contiguous()
        weights = routing.weights
        weighted = slots.in_pairs(results) * weights.reshape((*sizes(weights), 1))
        return _over_pairs(weighted), Kept(routing, slots, gate, up)

    def _operand(self, x: Tensor, slots: Slots) -> Tensor:
        """Return x (N, H) in blocks as the products take it; each row is rounded once."""
        source = self.rounded(x).node
        if slots.block == 1 or source.op not in (Op.UNPACK, Op.CAST):
            return slots.blocks(slots.rows_of(Tensor(source)))
        # What it is rounded to is moved: that is fewer bytes.
        narrow = slots.rows_of(Tensor(source.src[0]).contiguous()).contiguous()
        shape = (narrow.shape[0], source.shape[1])
        return slots.blocks(
            Tensor(node(source.op, source.dtype, shape, (narrow.node,), source.arg))
        )

    def _activated(self, gate: Tensor, up: Tensor) -> Tensor:
        """Return what goes into the down matrix."""
        e = self.experts
        if e.activation == "silu":
            return gate.silu() * up
        gate = _at_most(gate, e.limit)
        up = _at_most(up, e.limit).maximum(-e.limit)
        return (up + 1.0) * (gate * (gate * e.alpha).sigmoid())

    def _turned(self, name: str, g: Tensor, slots: Slots) -> Tensor:
        """Multiply rows of slots (S, out) with their experts' matrices (out, in): (B, R, in)."""
        rows = slots.blocks(self.rounded(g.contiguous()))
        return rows.grouped_matmul(self._weights(name), slots.expert)

    def _weights(self, name: str) -> Tensor:
        """Return the experts' matrices (E, out, in)."""
        found = self.weight(name)
        return found.reshape((self.experts.count, -1, found.shape[1]))

    def _biased(self, x: Tensor, name: str, slots: Slots) -> Tensor:
        return x + self._bias(f"{name}_bias", slots) if self.experts.bias else x

    def _bias(self, name: str, slots: Slots) -> Tensor:
        """Return the biases of the blocks' experts, (B, 1, out)."""
        table = self.weight(name)
        return table.gather(slots.expert).reshape((-1, 1, table.shape[1]))


def _flat(x: Tensor) -> Tensor:
    """Return blocks (B, R, K) as rows (S, K)."""
    return x.reshape((-1, x.shape[2]))


def _at_most(x: Tensor, limit: float) -> Tensor:
    return (x * -1.0).maximum(-limit) * -1.0


def _over_pairs(x: Tensor) -> Tensor:
    """Add x (N, k, H) over the pairs of a row, first to last: (N, H)."""
    rows, each, width = sizes(x)
    total = x.slice(1, 0, 1)
    for i in range(1, each):
        total = total + x.slice(1, i, 1)
    return total.reshape((rows, width))
