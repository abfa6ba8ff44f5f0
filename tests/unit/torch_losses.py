"""Losses and gradients by PyTorch in double precision: writes `torch_losses.json` beside this file.

Needs torch, which is no dependency: `python -m tests.unit.torch_losses`. The losses are its own
`kl_div`, `logsigmoid` and `sigmoid`, their gradients those of its autograd.
"""

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_suffix(".json")
TOP, VOCABULARY, ROWS, BETA = 20, 70, 3, 0.1


def distillation(torch: Any) -> dict[str, Any]:
    """Return KL of top and tail, and its gradient in the logits."""
    i = torch.arange(ROWS).unsqueeze(1).double()
    j = torch.arange(VOCABULARY).unsqueeze(0).double()
    student = 3 * torch.sin(0.7 * i + 1.3 * j) + 0.5 * torch.cos(0.11 * i * j)
    student = student.float().double().requires_grad_()
    top, ids = torch.topk(torch.softmax(4 * torch.cos(0.9 * i - 0.37 * j), -1), TOP, dim=-1)
    top = top.float().double()
    share = torch.tensor([0.25, 0.5, 0.125])
    log_q = torch.log_softmax(student, -1)
    inside = torch.zeros(ROWS, VOCABULARY, dtype=torch.bool).scatter(1, ids, True)
    tail = torch.logsumexp(log_q.masked_fill(inside, -torch.inf), -1)
    p = torch.cat([top, (1 - top.sum(-1))[:, None]], 1)
    q = torch.cat([log_q.gather(1, ids), tail[:, None]], 1)
    loss = (torch.nn.functional.kl_div(q, p, reduction="none").sum(-1) * share).sum()
    loss.backward()
    return {
        "student": student.detach().tolist(),
        "ids": ids.tolist(),
        "top": top.tolist(),
        "share": share.tolist(),
        "loss": loss.item(),
        "gradient": student.grad.tolist(),
    }


def pairs(torch: Any) -> dict[str, Any]:
    """Return DPO's mean loss of chosen and rejected gains in turns, and its gradient in them."""
    gains = torch.tensor([3.0, -2.0, 15.0, 14.0, -40.0, 8.0]).requires_grad_()
    weight = torch.tensor([1.0, 0.5, 0.3])
    apart = BETA * (gains[0::2] - gains[1::2])
    loss = (-torch.nn.functional.logsigmoid(apart) * weight).mean()
    loss.backward()
    return found(gains, weight, loss)


def thumbs(torch: Any, sign: float) -> dict[str, Any]:
    """Return KTO's mean loss, and its gradient in the gains."""
    gains = torch.tensor([3.0, -2.0, 15.0, -30.0]).requires_grad_()
    others = sign * torch.tensor([4.0, -1.0, 6.0, 2.0])
    good = torch.tensor([True, False, False, True])
    weight = torch.tensor([1.0, 0.5, 0.3, 2.0])
    z = others.mean().clamp(min=0).detach()
    side = torch.where(good, gains - z, z - gains)
    loss = ((1 - torch.sigmoid(BETA * side)) * weight).mean()
    loss.backward()
    return {"others": others.tolist(), "good": good.tolist(), **found(gains, weight, loss)}


def found(gains: Any, weight: Any, loss: Any) -> dict[str, Any]:
    """Return what a loss was computed from and what came of it."""
    return {
        "gains": gains.detach().tolist(),
        "weight": weight.tolist(),
        "loss": loss.item(),
        "gradient": gains.grad.tolist(),
    }


def main() -> None:
    """Write the file."""
    import torch

    torch.set_default_dtype(torch.float64)
    said = {
        "torch": torch.__version__,
        "distillation": distillation(torch),
        "dpo": pairs(torch),
        "kto": [thumbs(torch, 1.0), thumbs(torch, -1.0)],
    }
    FILE.write_text(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
