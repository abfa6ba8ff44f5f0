"""`python -m bench.compare`: homebox and its peers in alternation, and the ratios between them.

Every measurement is a process of its own; a round runs all of them once, ours beside the peer that
it is compared with, so that a machine whose speed drifts hits both alike. The median over the
rounds counts. The peers are scripts that print one JSON line a metric, in the folder that --peers
names; they and what they need (PyTorch, llama.cpp) are no part of homebox. TORCH_PY and LLAMA_PY
name the interpreters that have them. A peer that cannot run is named, and its ratios left out.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.targets import TARGETS, Figure, Key, Target, judged

TYPES = {"q8": "q8_0", "q4": "q4_0", "bf16": "bf16"}  # ours -> llama.cpp's of as many bits
SERVING = "load_to_first_token,prefill_512,decode_ctx0,decode_ctx2000,decode_x4,peak_rss"
TRAINING = "lora_step,lora_peak_rss"
LONGEST = 900.0  # seconds for one process


@dataclass(frozen=True)
class Job:
    """One process: who is measured, on which model, by what command."""

    engine: str
    model: str
    variant: str  # type of the numbers, and what else tells it apart
    group: str  # "serve" or "train"
    command: tuple[str, ...]

    @property
    def name(self) -> str:
        """What people read."""
        return f"{self.engine} {self.model} {self.variant} {self.group}"


def jobs_of(model: str, args: argparse.Namespace) -> list[Job]:
    """Return the processes of one round for a model, those that are compared side by side."""
    found: list[Job] = []
    for ours, theirs in TYPES.items():
        found += [_ours(model, ours, "serve", args), _llama(model, ours, theirs, args)]
    found += [_torch(model, variant, args) for variant in args.torch.split(",") if variant]
    for kind in ("f32", "bf16"):
        found += [_ours(model, kind, "train", args), _peft(model, kind, args)]
    return [job for job in found if job.group in args.groups.split(",")]


def _ours(model: str, kind: str, group: str, args: argparse.Namespace) -> Job:
    words = [sys.executable, "-m", "homebox", "bench", "--model", str(args.models / model)]
    words += ["--type", kind, "--threads", str(args.threads), "--budget", str(args.budget)]
    words += ["--device", "cpu", "--json", "--only", SERVING if group == "serve" else TRAINING]
    return Job("homebox", model, kind, group, tuple(words))


def _llama(model: str, kind: str, theirs: str, args: argparse.Namespace) -> Job:
    script = args.peers / "bench_llamacpp.py"
    file = args.models / f"{model}-{theirs}.gguf"
    return Job(
        "llama.cpp",
        model,
        kind,
        "serve",
        (_python("LLAMA_PY"), str(script), str(file), *_common(args)),
    )


def _torch(model: str, variant: str, args: argparse.Namespace) -> Job:
    kind, _, compiled = variant.partition("-")
    words = [_python("TORCH_PY"), str(args.peers / "bench_torch.py"), str(args.models / model)]
    words += ["--dtype", kind, *(["--compile"] if compiled else []), *_common(args)]
    return Job("torch", model, variant, "serve", tuple(words))


def _peft(model: str, kind: str, args: argparse.Namespace) -> Job:
    words = [_python("TORCH_PY"), str(args.peers / "bench_lora_torch.py"), str(args.models / model)]
    return Job("torch+peft", model, kind, "train", (*words, "--dtype", kind, *_common(args)))


def _common(args: argparse.Namespace) -> tuple[str, ...]:
    return ("--threads", str(args.threads), "--budget", str(args.budget))


def _python(variable: str) -> str:
    return os.environ.get(variable, "python3")


# -- running --------------------------------------------------------------------------------------


def run(job: Job) -> tuple[list[dict[str, Any]], str]:
    """Return the lines that a process printed, and why it failed if it did."""
    try:
        done = subprocess.run(
            job.command, capture_output=True, text=True, timeout=LONGEST, check=False
        )
    except FileNotFoundError:
        return [], f"there is no {job.command[0]}; set TORCH_PY and LLAMA_PY to the peers' Pythons"
    except subprocess.TimeoutExpired:
        return [], f"not finished within {LONGEST:.0f} s"
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return rows, f"exit code {done.returncode}: {last[:200]}"
    return rows, ""


def measured(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Run everything and yield each metric with who, what and when."""
    models = args.shapes.split(",") if args.rounds else []
    jobs = [job for model in models for job in jobs_of(model, args)]
    hopeless: set[str] = set()
    for number in range(args.rounds):
        for job in jobs:
            if job.name in hopeless:
                continue
            began = time.time()
            rows, trouble = run(job)
            state = trouble or f"{len(rows)} metrics"
            print(
                f"round {number + 1}: {job.name}: {time.time() - began:.0f} s, {state}", flush=True
            )
            if trouble and not rows:
                hopeless.add(job.name)
            for row in rows:
                row |= {"engine": job.engine, "model": job.model, "variant": job.variant}
                yield row | {"group": job.group, "round": number, "at": int(began)}


def medians(rows: Iterable[dict[str, Any]]) -> dict[Key, Figure]:
    """Return the median over the rounds of each metric."""
    found: dict[Key, list[dict[str, Any]]] = {}
    for row in rows:
        key = Key(row["engine"], row["model"], row["variant"], row["metric"], row.get("shape"))
        found.setdefault(key, []).append(row)
    return {key: _median(same) for key, same in found.items()}


def _median(rows: list[dict[str, Any]]) -> Figure:
    shares = [row["percent_of_roof"] for row in rows if "percent_of_roof" in row]
    return Figure(
        statistics.median(row["value"] for row in rows),
        rows[0]["unit"],
        len(rows),
        statistics.median(shares) if shares else None,
    )


# -- printing -------------------------------------------------------------------------------------


def table(figures: dict[Key, Figure]) -> list[str]:
    """Return every median as a line."""
    lines = []
    for key, figure in figures.items():
        who = f"{key.model:9} {key.engine:11} {key.variant:13}"
        what = f"{key.metric:20} {key.shape or '':6}"
        share = "" if figure.percent is None else f"{figure.percent:6.1f} % of roof"
        lines.append(f"{who} {what} {figure.value:10.2f} {figure.unit:6} {share}".rstrip())
    return lines


def verdicts(figures: dict[Key, Figure], targets: Iterable[Target] = TARGETS) -> list[str]:
    """Return what became of each target."""
    return [line for target in targets for line in judged(target, figures)]


def main(arguments: list[str] | None = None) -> int:
    """Measure (or read what was measured), and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    where = os.environ.get
    parser.add_argument("--models", type=Path, default=where("MODELS_DIR"), help="folder of models")
    parser.add_argument("--peers", type=Path, default=where("PEERS"), help="folder of scripts")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines are added to this file")
    parser.add_argument("--rounds", type=int, default=3, help="0 only prints what --out holds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget", type=float, default=6.0, help="seconds for each metric")
    parser.add_argument("--shapes", default="smol135,qwen06", help="names of models")
    parser.add_argument("--groups", default="serve,train")
    parser.add_argument("--torch", default="bf16,bf16-compile,int8", help="serving peers of torch")
    args = parser.parse_args(arguments)
    if args.rounds and (args.models is None or args.peers is None):
        parser.error("--models and --peers (or MODELS_DIR and PEERS) name the folders")
    with args.out.open("a", encoding="utf-8") as file:
        for row in measured(args):
            file.write(json.dumps(row) + "\n")
            file.flush()
    figures = medians(json.loads(line) for line in args.out.read_text("utf-8").splitlines())
    print("\n".join(["", *table(figures), "", *verdicts(figures)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
