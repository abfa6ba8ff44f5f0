"""The training step of `homebox/model/training/pretraining.py` in PyTorch: a peer and an oracle."""

import numpy as np
import torch
import torch.nn.functional as functional

from homebox.model.config import PROJECTIONS, ModelConfig
from homebox.model.decoder.rope import rope_tables
from homebox.model.training.pretraining import Optimisation


class TorchStep:
    """Model, Muon and AdamW in torch, f32; `step` trains on one batch and returns its loss."""

    def __init__(
        self,
        config: ModelConfig,
        weights: dict[str, np.ndarray],
        numbers: Optimisation,
        threads: int,
    ) -> None:
        torch.set_num_threads(threads)
        self.config, self.numbers = config, numbers
        self.weights = {n: torch.tensor(w).requires_grad_() for n, w in weights.items()}
        self.matrices = [n for n in weights if n.rsplit(".", 1)[-1] in PROJECTIONS]
        rest = [w for n, w in self.weights.items() if n not in self.matrices]
        self.momentum = {n: torch.zeros_like(self.weights[n]) for n in self.matrices}
        self.adam = torch.optim.AdamW(
            rest, betas=numbers.betas, eps=numbers.eps, weight_decay=numbers.decay, fused=True
        )
        tables = rope_tables(config.ropes[0], 4096)
        self.cos, self.sin = (torch.tensor(t) for t in tables)

    def step(self, batch: dict[str, np.ndarray], rate: float, matrix_rate: float) -> float:
        data = {name: torch.tensor(value) for name, value in batch.items()}
        loss = self.loss(data)
        for weight in self.weights.values():
            weight.grad = None
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(self.weights.values()), self.numbers.clip)
        self.adam.param_groups[0]["lr"] = rate
        self.adam.step()
        self.muon(matrix_rate)
        return float(loss.detach())

    def loss(self, data: dict[str, torch.Tensor]) -> torch.Tensor:
        c, w = self.config, self.weights
        rows, length = data["ids"].shape
        segment = data["segment"]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        mask = ((segment[:, :, None] == segment[:, None, :]) & causal)[:, None]
        cos, sin = self.cos[:length], self.sin[:length]

        def heads(x: torch.Tensor, count: int) -> torch.Tensor:
            return x.view(rows, length, count, c.head_dim).transpose(1, 2)

        def rotate(x: torch.Tensor) -> torch.Tensor:
            a, b = x.chunk(2, -1)
            return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

        x = functional.embedding(data["ids"].long(), w["embed"])
        for i in range(c.num_layers):
            p = {n: w[f"layers.{i}.{n}"] for n in (*PROJECTIONS, "attn_norm", "mlp_norm")}
            y = functional.rms_norm(x, (c.hidden_size,), p["attn_norm"], c.rms_eps)
            q = rotate(heads(functional.linear(y, p["q"]), c.num_heads))
            k = rotate(heads(functional.linear(y, p["k"]), c.num_kv_heads))
            v = heads(functional.linear(y, p["v"]), c.num_kv_heads)
            out = functional.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)
            out = out.transpose(1, 2).reshape(rows, length, -1)
            x = x + functional.linear(out, p["o"])
            y = functional.rms_norm(x, (c.hidden_size,), p["mlp_norm"], c.rms_eps)
            gate = functional.silu(functional.linear(y, p["gate"]))
            x = x + functional.linear(gate * functional.linear(y, p["up"]), p["down"])
        x = functional.rms_norm(x, (c.hidden_size,), w["norm"], c.rms_eps)
        kept = x.reshape(rows * length, -1)[data["place"].long()]
        logits = functional.linear(kept, w["embed"])
        each = functional.cross_entropy(logits, data["target"].long(), reduction="none")
        return (each * data["weight"]).sum()

    @torch.no_grad()
    def muon(self, rate: float) -> None:
        beta, shapes = self.numbers.momentum, {}
        for name in self.matrices:
            grad = self.weights[name].grad
            assert grad is not None
            self.momentum[name].lerp_(grad, 1 - beta)
            update = grad.lerp(self.momentum[name], beta)
            shapes.setdefault(tuple(update.shape), []).append((name, update))
        for (rows, columns), updates in shapes.items():
            x = torch.stack([u for _, u in updates])
            x = x.transpose(1, 2) if rows > columns else x
            x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
            for _ in range(self.numbers.newton_schulz):
                gram = x @ x.transpose(1, 2)
                x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
            x = (x.transpose(1, 2) if rows > columns else x) * max(1.0, rows / columns) ** 0.5
            for (name, _), update in zip(updates, x, strict=True):
                weight = self.weights[name]
                weight.mul_(1 - rate * self.numbers.matrix_decay).add_(update, alpha=-rate)
