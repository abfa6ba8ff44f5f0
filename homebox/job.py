"""Runs a training job: a spec (`job_spec`) in, a model directory and one hash out.

The job that makes the built-in model is configs/tiny.toml. Text comes from the generator, the
weights from integer arithmetic and the engine, so the spec alone determines every byte. A
checkpoint lets an interrupted job go on to the same result.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from homebox.errors import ConfigError, LearningError
from homebox.job_spec import Spec, read_spec
from homebox.language.evaluate import TARGETS, evaluation_sets, score
from homebox.language.generate import Generator
from homebox.language.packing import Batch, Packer
from homebox.language.vocabulary import Vocabulary, train_vocabulary
from homebox.model import SamplingParams, load
from homebox.model.config import ModelConfig, same_layers
from homebox.model.loading.loader import file_name_of
from homebox.model.placement.devices import computing_on
from homebox.model.training.pretraining import Optimisation, Pretrainer

CHECKPOINT_SECONDS = 120.0


@dataclass(frozen=True)
class Step:
    """What is known after a step."""

    number: int
    tokens: int
    loss: float
    done: float  # 0 to 1


class Training:
    """A job in progress: `steps` yields after each step, `finish` writes the model."""

    def __init__(self, spec: Spec, vocabulary: bytes | None = None) -> None:
        self.spec = spec
        v, m, b, a = spec.vocabulary, spec.model, spec.batch, spec.adamw
        self.vocabulary = vocabulary or train_vocabulary(None, v.size, v.documents, v.seed)
        words = Vocabulary(self.vocabulary)
        self.config = ModelConfig(
            vocab_size=-(-words.size // 16) * 16,
            hidden_size=m.dim,
            intermediate_size=m.ff,
            num_heads=m.heads,
            num_kv_heads=m.kv_heads,
            head_dim=m.dim // m.heads,
            max_positions=m.positions,
            rms_eps=m.norm_eps,
            tied=True,
            layers=same_layers(m.layers, m.rope_theta, m.dim // m.heads),
            eos_ids=(words.end,),
        )
        numbers = Optimisation(
            embedding=spec.init.embedding,
            residual=spec.init.residual,
            momentum=spec.muon.momentum,
            newton_schulz=spec.muon.newton_schulz,
            matrix_decay=spec.muon.weight_decay,
            betas=(a.beta1, a.beta2),
            eps=a.eps,
            decay=a.weight_decay,
            clip=spec.loss.clip,
        )
        self.trainer = Pretrainer(self.config, b.rows, b.length, b.targets, spec.job.seed, numbers)
        self.packer = Packer(Generator(spec.job.seed), words, b.rows, b.length, b.waiting)
        self.number = 0
        self.tokens = 0

    def steps(self) -> Iterator[Step]:
        """Train to the end, a step at a time."""
        total = self.spec.schedule.tokens
        while self.tokens < total:
            yield self.step()

    def step(self) -> Step:
        """Train on the next batch."""
        scale = self._scale()
        batch = self._next_batch()
        loss = self.trainer.step(
            learnable(batch, self.spec.batch.targets),
            self.spec.adamw.rate * scale,
            self.spec.muon.rate * scale,
        )
        if not np.isfinite(loss):
            raise LearningError(f"the loss is {loss} after {self.number} steps; lower the rates")
        return Step(self.number, self.tokens, loss, self._done())

    def _done(self) -> float:
        return min(self.tokens / self.spec.schedule.tokens, 1.0)

    def _scale(self) -> float:
        """Return the factor on all rates: warm-up, a plateau, then a linear way down."""
        s, done = self.spec.schedule, self._done()
        warm = min(1.0, (self.number + 1) / s.warmup_steps)
        if done < s.decay_from:
            return warm
        return warm * max(s.floor, (1.0 - done) / (1.0 - s.decay_from))

    def _next_batch(self) -> Batch:
        batch = self.packer.batch(min(self._done(), 0.999))
        self.number += 1
        self.tokens += sum(1 for row in batch.segments for number in row if number)
        return batch

    # -- interruption ---------------------------------------------------------------------------

    def save_checkpoint(self, path: Path) -> None:
        """Write everything that the next step depends on."""
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            progress = {"number": np.array(self.number), "spec": np.array(self.spec.hash())}
            np.savez(file, allow_pickle=False, **progress, **self.trainer.state())
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint of the same spec: batches so far are drawn again, not trained."""
        with np.load(path, allow_pickle=False) as saved:
            if str(saved["spec"]) != self.spec.hash():
                raise ConfigError(f"{path}: belongs to another spec; remove it to start anew")
            while self.number < int(saved["number"]):
                self._next_batch()
            self.trainer.restore(saved)

    # -- the result -----------------------------------------------------------------------------

    def weights_hash(self) -> str:
        """Return sha256 over the weights as they are, in float32."""
        digest = hashlib.sha256()
        for name, array in self.trainer.weights().items():
            digest.update(name.encode() + b"\0" + array.tobytes())
        return digest.hexdigest()

    def finish(self, out: Path) -> str:
        """Write the model in the Hugging Face layout (float16); return the weight file's sha256."""
        out.mkdir(parents=True, exist_ok=True)
        tensors = {
            file_name_of(name): array.astype(np.float16)
            for name, array in self.trainer.weights().items()
        }
        data = save(tensors, metadata={"format": "np"})
        (out / "model.safetensors").write_bytes(data)
        (out / "tokenizer.model").write_bytes(self.vocabulary)
        (out / "config.json").write_text(json.dumps(self._config_json(), indent=1) + "\n")
        return hashlib.sha256(data).hexdigest()

    def _config_json(self) -> dict[str, Any]:
        c = self.config
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": c.vocab_size,
            "hidden_size": c.hidden_size,
            "intermediate_size": c.intermediate_size,
            "num_hidden_layers": c.num_layers,
            "num_attention_heads": c.num_heads,
            "num_key_value_heads": c.num_kv_heads,
            "head_dim": c.head_dim,
            "max_position_embeddings": c.max_positions,
            "rms_norm_eps": c.rms_eps,
            "rope_theta": self.spec.model.rope_theta,
            "hidden_act": "silu",
            "tie_word_embeddings": True,
            "eos_token_id": list(c.eos_ids),
            "torch_dtype": "float16",
        }


def learnable(batch: Batch, targets: int) -> dict[str, np.ndarray]:
    """Return a batch as the trainer's arrays; of the places to learn the first `targets` count."""
    ids = np.array(batch.ids, np.int32)
    weights = np.array(batch.weights, np.float32).reshape(-1)
    places = np.flatnonzero(weights)[:targets].astype(np.int32)
    place = np.zeros(targets, np.int32)
    target = np.zeros(targets, np.int32)
    weight = np.zeros(targets, np.float32)
    count = len(places)
    place[:count] = places
    target[:count] = np.array(batch.targets, np.int32).reshape(-1)[places]
    weight[:count] = np.float32(1.0 / max(count, 1))
    return {
        "ids": ids,
        "segment": np.array(batch.segments, np.int32),
        "position": np.tile(np.arange(ids.shape[1], dtype=np.int32), (ids.shape[0], 1)),
        "place": place,
        "target": target,
        "weight": weight,
    }


def run(spec: Spec, out: Path, report: Callable[[Step, float], None]) -> str:
    """Run a job to its end, writing checkpoints; return the hash of the weights.

    `report` is called after each step with the step and the tokens per second so far.
    """
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.npz"
    training = Training(spec)
    if checkpoint.exists():
        training.resume(checkpoint)
    began, first, saved = time.monotonic(), training.tokens, time.monotonic()
    for step in training.steps():
        now = time.monotonic()
        report(step, (step.tokens - first) / (now - began))
        if now - saved > CHECKPOINT_SECONDS:
            training.save_checkpoint(checkpoint)
            saved = now
    digest = training.finish(out)
    checkpoint.unlink(missing_ok=True)
    return digest


def main(path: Path, out: Path | None = None, as_json: bool = False, device: str = "cpu") -> int:
    """`homebox job run`: print progress and the hash of the result."""
    spec = read_spec(path)
    target = out or Path(f"{spec.job.name}-{spec.hash()[:12]}")

    def report(step: Step, rate: float) -> None:
        if step.number % 20 == 0 and not as_json:
            left = (spec.schedule.tokens - step.tokens) / max(rate, 1.0) / 60
            print(
                f"step {step.number}  {step.done:6.1%}  loss {step.loss:.3f}  "
                f"{rate:,.0f} tokens/s  {left:.0f} min left",
                file=sys.stderr,
                flush=True,
            )

    with computing_on(device):
        digest = run(spec, target, report)
    result = {"spec": spec.hash(), "weights": digest, "directory": str(target)}
    if as_json:
        print(json.dumps(result))
    else:
        print(f"spec {result['spec']}\nweights {digest}\nwritten to {target}")
    return 0


def evaluate(model_path: str, count: int = 100, device: str = "cpu") -> dict[str, float]:
    """Ask a model the scripted evaluation, greedily; return the share of right answers by set."""
    model = load(model_path, slots=1, device=device)
    sampling = SamplingParams(max_tokens=64, temperature=0.0)

    def answer(conversations: list[list[dict[str, str]]]) -> list[str]:
        prompts = (model.chat.render(list(messages)) for messages in conversations)
        return ["".join(p.text for p in model.generate(ids, sampling)) for ids in prompts]

    return {name: score(answer, items) for name, items in evaluation_sets(count).items()}


def main_evaluate(model_path: str = "tiny", as_json: bool = False, device: str = "cpu") -> int:
    """`homebox job evaluate`: print accuracies beside their targets; exit 1 if one is missed."""
    result = evaluate(model_path, device=device)
    missed = [name for name, least in TARGETS.items() if result[name] < least]
    if as_json:
        print(json.dumps({"accuracy": result, "targets": TARGETS, "missed": missed}))
    else:
        for name, share in result.items():
            least = TARGETS.get(name)
            verdict = "" if least is None else f"  target {least:.2f}"
            print(f"{share:6.3f}  {name}{verdict}{'  MISSED' if name in missed else ''}")
    return 1 if missed else 0
