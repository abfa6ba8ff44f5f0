"""Whether a device computes what the processor does: `python -m bench.gpu_check --device cl:0`.

Runs in a process of its own and prints a JSON line a check: what was compared, the largest
difference and the one that is allowed. Half types round: once two machines add in another order,
a few activations round the other way, then many, until the logits differ by as much as rounding
changes them. So these may differ by 2e-3, or by twice what rounding does to the processor's own.
Invariant: a check that breaks off has failed; the others are made all the same.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from homebox.benchmarks.subject import Subject, Trainee, random_ids
from homebox.engine.graph.device import HOST, Device
from homebox.engine.inspection.roof_opencl import measure
from homebox.engine.runtime.devices import device_named

LOGITS = 2e-3  # of the largest logit
LOSS = 0.01  # of each loss
TEXTS = ("My dog is called Rex. What is my dog's name?", "Hello!", "What is 3 + 4?")
TOKENS = 48
PROMPT, DECODED, STEPS = 300, 8, 10
RATE = 2e-3
TYPES = ("bf16", "q8")
Array = np.ndarray[Any, Any]
Answer = tuple[float, float, str]  # difference, what is allowed, a remark


@dataclass(frozen=True)
class Checked:
    """A comparison; `difference` counts what differs, or is relative."""

    what: str
    difference: float
    allowed: float
    remark: str = ""

    @property
    def ok(self) -> bool:
        """Whether the device computes right; NaN is not."""
        return self.difference <= self.allowed


def main() -> int:
    """Check, then measure the bandwidth that speeds are judged by."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", required=True)
    parser.add_argument("--model", type=Path, required=True, help="a small directory of bf16")
    args = parser.parse_args()
    device = device_named(args.device)
    good = True
    for each in checks(device, args.model):
        print(json.dumps(asdict(each) | {"ok": each.ok}), flush=True)
        good = good and each.ok
    entry, probes = getattr(device, "entry", None), getattr(device, "probes", None)
    if good and entry is not None and probes is not None:
        print(json.dumps({"roof": asdict(measure(entry.device, probes))}), flush=True)
    return 0 if good else 1


def checks(device: Device, model: Path) -> Iterator[Checked]:
    """Make every check."""
    yield tried("tiny, greedy ids", lambda: tiny_ids(device))
    yield tried("tiny, logits", lambda: tiny_logits(device))
    for form in TYPES:
        yield tried(f"qwen3 {form}, logits", partial(logits, device, model, form))
        yield tried(f"qwen3 {form}, losses of LoRA", partial(losses, device, model, form))


def tried(what: str, check: Callable[[], Answer]) -> Checked:
    """Make a check; one that breaks off has failed."""
    try:
        return Checked(what, *check())
    except Exception as error:  # whatever it is, the device cannot be trusted
        return Checked(what, float("nan"), 0.0, f"{type(error).__name__}: {error}")


def tiny_ids(device: Device) -> Answer:
    """Compare greedy answers of the built-in model, id by id."""
    from homebox.model import load
    from homebox.model.generation.sampling import SamplingParams

    wanted, found = (load("tiny", device=name) for name in (HOST.name, device.name))
    greedy = SamplingParams(max_tokens=TOKENS)
    different = count = 0
    for text in TEXTS:
        prompt = wanted.chat.render([{"role": "user", "content": text}])
        answers = [
            [i for piece in model.generate(prompt, greedy) for i in piece.token_ids]
            for model in (wanted, found)
        ]
        count += len(answers[0])
        different += answers[0] != answers[1]
    return different, 0, f"answers of {len(TEXTS)} that differ, {count} ids in all"


def tiny_logits(device: Device) -> Answer:
    """Compare logits of the built-in model, which is strict."""
    from homebox.model import load

    wanted, found = (load("tiny", device=name) for name in (HOST.name, device.name))
    ids = wanted.chat.render([{"role": "user", "content": text} for text in TEXTS[:1]])
    first, second = wanted.logits(ids), found.logits(ids)
    same = "the same bits" if np.array_equal(first, second) else "other bits"
    return relative(first, second), LOGITS, same


def logits(device: Device, model: Path, form: str) -> Answer:
    """Compare the logits after a prompt and behind a few decoded tokens."""
    exact = Subject(model, form, 1024, 1, activations="f32")
    host, other = (Subject(model, form, 1024, 1, each) for each in (HOST, device))
    ids = random_ids(host.config, PROMPT + DECODED)
    worst = rounding = 0.0
    for at in range(PROMPT, PROMPT + DECODED):
        truth, wanted, found = (_after(subject, ids, at) for subject in (exact, host, other))
        worst = max_of(worst, relative(wanted, found))
        rounding = max_of(rounding, relative(truth, wanted))
    remark = f"{host.kind} arithmetic, which changes the processor's logits by {rounding:.1e}"
    return worst, max(LOGITS, 2 * rounding), remark


def _after(subject: Subject, ids: Array, at: int) -> Array:
    """Return the logits behind id `at`: of a prompt first, then of one more id each."""
    if at > PROMPT:
        found: Array = subject.transformer.decode([0], ids[at - 1 : at], [at - 1], [0])
        return found
    chunk = subject.transformer.prefill_chunk
    last: Array = np.zeros(1, np.float32)
    for start in range(0, at, chunk):
        last = subject.transformer.forward(0, start, ids[start : min(start + chunk, at)], 0)
    return last


def losses(device: Device, model: Path, form: str) -> Answer:
    """Compare the losses of some steps of training."""
    curves = []
    for place in (HOST, device):
        trainee = Trainee(model, form, 2, 64, place)
        curves.append(np.array([trainee.step(RATE) for _ in range(STEPS)]))
    worst = float(np.max(np.abs(curves[1] - curves[0]) / curves[0]))
    remark = f"from {curves[0][0]:.3f} to {curves[0][-1]:.3f}, there {curves[1][-1]:.3f}"
    return worst, LOSS, remark


def relative(wanted: Array, found: Array) -> float:
    """Return the largest difference as a share of the largest number; NaN if one is not finite."""
    difference = np.abs(np.asarray(found, np.float64) - wanted).max()
    return float(difference / np.abs(wanted).max())


def max_of(first: float, second: float) -> float:
    """Return the larger of two numbers; NaN if one of them is."""
    return float(np.maximum(first, second))


if __name__ == "__main__":
    sys.exit(main())
