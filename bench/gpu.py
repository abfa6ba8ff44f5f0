r"""How fast a card serves and trains, beside PyTorch on the same card: `python -m bench.gpu`.

First `gpu_check` compares the card with the processor; what computes wrongly is not timed. Then
`gpu_ours` and `gpu_torch` run in turns, each in a process of its own, on models that `gpu_models`
makes, and `gpu_table` judges the medians and prints the section that `--write` puts into a page.
Exits with 1 if a check fails, 2 if there is nothing to measure on. OpenCL on a processor is refused
unless `--cpu-runtime` asks for it, and is never written into a page.

    python -m bench.gpu --models /tmp/models-gpu --torch-python /torch/bin/python \
        --write docs/performance.md
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import homebox
from bench import gpu_models, gpu_table
from homebox.engine.opencl.platform import Found, found
from homebox.errors import HomeboxError

LARGE = ("Qwen3-0.6B", "Qwen3-4B")
SMALL = "quick"
TYPES = ("bf16", "q8", "q4")
METRICS = "prefill_512,decode_ctx0,decode_ctx2000,lora_step"
CHECK, OURS = ("-m", "bench.gpu_check"), ("-m", "bench.gpu_ours")
TORCH = Path(__file__).with_name("gpu_torch.py")
_ASK_TORCH = (
    "import torch, transformers, peft; "
    "print(torch.__version__ if torch.cuda.is_available() else 'no CUDA')"
)

Row = dict[str, Any]


class BrokeOffError(HomeboxError):
    """A process of the measurement broke off."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, measure in rounds, judge, print and write."""
    args = _parsed(arguments)
    try:
        entry = chosen(found(), args.device, args.cpu_runtime)
        return _measured(entry, args)
    except HomeboxError as error:
        print(f"bench.gpu: {error}", file=sys.stderr)
        return 1 if isinstance(error, BrokeOffError) else 2


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", metavar="cl:N", help="default: the first GPU")
    parser.add_argument("--models", type=Path, default=Path("/tmp/homebox-gpu-models"))
    parser.add_argument("--shapes", help=f"of {', '.join(gpu_models.SHAPES)}; both large ones")
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--shape", default="2x256", help="of a training batch (2x256)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each metric (2)")
    parser.add_argument("--torch-python", help="interpreter with torch, transformers and peft")
    parser.add_argument("--torch-device", default="cuda", help="the same card there (cuda)")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into a page")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every row as JSON")
    parser.add_argument("--quick", action="store_true", help="a small shape, one round")
    parser.add_argument("--cpu-runtime", action="store_true", help="OpenCL on a processor will do")
    args = parser.parse_args(arguments)
    if args.quick:
        args.shapes, args.rounds, args.seconds = args.shapes or SMALL, 1, min(args.seconds, 0.2)
    args.shapes = tuple(args.shapes.split(",")) if args.shapes else LARGE
    args.types = tuple(args.types.split(","))
    if unknown := [s for s in args.shapes if s not in gpu_models.SHAPES]:
        parser.error(f"no shape is called {', '.join(unknown)}")
    if unknown := [t for t in args.types if t not in TYPES]:
        parser.error(f"no type is called {', '.join(unknown)}; choose from {', '.join(TYPES)}")
    if args.write is not None and args.cpu_runtime:
        parser.error("--cpu-runtime measures no GPU, so there is nothing to --write")
    return args


def chosen(entries: Sequence[Found], asked: str | None, cpu_runtime: bool) -> Found:
    """Return the device to measure; raises HomeboxError if it is no GPU and one is wanted."""
    usable = [each for each in entries if each.name]
    cards = [each for each in usable if each.kind == "gpu"]
    known = ", ".join(f"{each.name} ({each.title}, {each.kind})" for each in usable) or "none"
    refused = "".join(f"; {each.title}: {each.refusal}" for each in entries if each.refusal)
    wanted = [each for each in usable if each.name == asked] if asked else cards or usable
    if not wanted:
        raise HomeboxError(f"there is no OpenCL device {asked or ''}; usable are: {known}{refused}")
    if wanted[0].kind != "gpu" and not cpu_runtime:
        raise HomeboxError(
            f"{wanted[0].name} is OpenCL on a processor, no GPU (usable are: {known}{refused}), "
            "and its figures would say nothing of one; --cpu-runtime runs it all the same, to see "
            "whether it is right"
        )
    return wanted[0]


def _measured(entry: Found, args: argparse.Namespace) -> int:
    say(f"{entry.name}: {entry.title}, driver {entry.driver} ({entry.platform})")
    small = gpu_models.made(args.models, [SMALL], ("bf16", "q8"))[SMALL]
    copy_gbs = checked(entry.name, small)
    if copy_gbs is None:
        say("the device does not compute what the processor does; nothing is timed")
        return 1
    models = gpu_models.made(args.models, args.shapes, args.types)
    version, torch = torch_there(args.torch_python, args.torch_device)
    say(torch)
    ours, theirs, missing = rounds(entry.name, models, args, version)
    if args.out is not None:
        rows = [{"device": entry.title} | row for row in (*ours, *theirs)]
        args.out.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    card = gpu_table.Card(
        title=entry.title,
        driver=entry.driver,
        platform=entry.platform,
        date=datetime.date.today().isoformat(),
        version=homebox.__version__,
        copy_gbs=copy_gbs,
        gpu=entry.kind == "gpu",
    )
    if missing:
        torch += f" Broke off, so not measured: {', '.join(sorted(missing))}."
    section = gpu_table.table(gpu_table.figures(ours, theirs), card, torch)
    print("\n".join(section))
    if args.write is not None:
        gpu_table.write(args.write, section)
        say(f"written into {args.write}")
    return 1 if missing else 0


def say(text: str) -> None:
    """Tell what is being done."""
    print(f"bench.gpu: {text}", file=sys.stderr, flush=True)


# -- processes ------------------------------------------------------------------------------------


def lines(command: Sequence[str]) -> Iterator[Row]:
    """Run a process and yield the JSON that it prints; raises BrokeOffError if it breaks off."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        if process.stdout is None:
            raise BrokeOffError("a process without output")
        for line in process.stdout:
            if line.startswith("{"):
                yield json.loads(line)
    if process.returncode:
        raise BrokeOffError(
            f"{' '.join(command[1:4])} broke off with exit code {process.returncode}; its own "
            "words stand above"
        )


def checked(device: str, small: Path) -> float | None:
    """Return the bandwidth of copying, 1e9 bytes a second; None if the device computes wrongly."""
    command = [sys.executable, *CHECK, "--device", device, "--model", str(small)]
    copy_gbs: float | None = None
    try:
        for row in lines(command):
            if "roof" in row:
                copy_gbs = row["roof"]["copy_gbs"]
                continue
            verdict = "right" if row["ok"] else "WRONG"
            say(
                f"{row['what']}: {row['difference']:.2g}, allowed {row['allowed']:.2g} "
                f"({row['remark']}): {verdict}"
            )
    except BrokeOffError:
        return None
    return copy_gbs


def torch_there(python: str | None, device: str) -> tuple[str | None, str]:
    """Return PyTorch's version, None without one, and a sentence about it."""
    if python is None:
        return None, "PyTorch was left out: --torch-python names no interpreter."
    environment = {**os.environ, "TRANSFORMERS_VERBOSITY": "error"}
    ask = [python, "-c", _ASK_TORCH]
    try:
        done = subprocess.run(ask, capture_output=True, text=True, check=False, env=environment)
    except OSError as error:
        return None, f"PyTorch was left out: {python} cannot be run ({error.strerror})."
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        return None, f"PyTorch was left out: {python}: {last}"
    version = done.stdout.strip()
    if version == "no CUDA":
        return None, f"PyTorch was left out: that of {python} sees no card."
    return version, f"PyTorch {version} in bfloat16, compiled, on {device}, by CUDA's events."


def rounds(
    device: str, models: dict[str, Path], args: argparse.Namespace, torch: str | None
) -> tuple[list[Row], list[Row], set[str]]:
    """Measure in turns: each model in every type and with PyTorch, round after round.

    Returns our rows, PyTorch's, and what broke off; what it measured until then counts.
    """
    ours: list[Row] = []
    theirs: list[Row] = []
    missing: set[str] = set()

    def run(name: str, what: str, command: Sequence[str]) -> Iterator[Row]:
        try:
            for row in lines(command):
                rate = row.get("value") or row["tokens"] / row["seconds"]
                say(f"{what}, {row['metric']}: {rate:,.1f} tokens/s")
                yield row | {"model": name}
        except BrokeOffError as error:
            say(str(error))
            missing.add(f"{name} {what}")

    for number in range(args.rounds):
        for name, directory in models.items():
            say(f"round {number + 1} of {args.rounds}, {name}")
            for form in args.types:
                for group in ("serve", "train"):
                    command = _our_command(group, directory, form, device, args)
                    ours += run(name, f"{form} {group}", command)
            if torch is not None:
                command = [args.torch_python, str(TORCH), "--model", str(directory)]
                command += ["--device", args.torch_device, "--only", METRICS]
                theirs += run(name, "PyTorch", [*command, "--shape", args.shape])
    return ours, theirs, missing


def _our_command(
    group: str, directory: Path, form: str, device: str, args: argparse.Namespace
) -> list[str]:
    command = [sys.executable, *OURS, group, "--model", str(directory)]
    command += ["--type", form, "--device", device, "--shape", args.shape]
    return [*command, "--seconds", str(args.seconds)]


if __name__ == "__main__":
    sys.exit(main())
