"""The kernels that a model's programs become on a card, judged without one.

`python -m bench.gpu_kernels --model DIR --type q8 --programs decode,prefill,train` lowers every
program for a card's sizes and units, gives the OpenCL C to `gpu_code` and prints one line per
kernel: how often a program launches it, registers, local memory and spilled bytes on each card.
`--write FOLDER` keeps the sources.
"""

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.gpu_code import Row, rows
from homebox.engine.codegen.cache import cache_root, digest
from homebox.engine.codegen.opencl import render
from homebox.engine.fusion.draft import Region
from homebox.engine.graph.device import HOST, Block, Buffer, Device
from homebox.engine.graph.ops import Node, Sym
from homebox.engine.runtime import capture as capture_module
from homebox.engine.runtime.program_plan import Launch
from homebox.engine.simt.simt import lower_simt
from homebox.engine.simt.target import Low, LoweredSimt, Simt

CARD = Simt(256, 32, 49152, frozenset({"half", "subgroup", "dot4"}))


class NoLaunches:
    """The launches of a program that cannot run here."""

    starts: list[int] = []  # noqa: RUF012
    count = 0

    def bind(self, values: Mapping[str, int]) -> None:
        pass

    def run(self, first: int, stop: Any) -> int:
        return first


class Offline:
    """A backend that writes kernels down, and counts their launches."""

    device: Device = HOST
    resident = False
    identity = "offline"

    def __init__(self, target: Simt) -> None:
        self.target = target
        self.texts: dict[str, str] = {}
        self.launched: Counter[str] = Counter()
        self.titles: dict[str, str] = {}

    def lower(self, region: Region, realised: frozenset[Node], syms: list[Sym]) -> LoweredSimt:
        return lower_simt(region, realised, syms, self.target)

    def named(self, low: Low, syms: Sequence[Sym]) -> tuple[str, str]:
        if not isinstance(low, LoweredSimt):
            raise TypeError("kernels for work-groups only")
        bounds = [(s.lo, s.hi) for s in syms]
        text = render(low.kernel, "entry", self.target, low.most_groups(), bounds)
        name = f"k{digest(text)}"
        self.titles[name] = f"{low.schedule} {low.most_groups()}"
        return name, text.replace("entry(", f"{name}(", 1)

    def cut(self, low: Low) -> tuple[int, int]:
        return 1, 1

    def key(self, text: str) -> str:
        return digest(text)

    def load(self, texts: Mapping[str, str]) -> dict[str, str]:
        self.texts |= texts
        return {name: name for name in texts}

    def load_objects(self, keys: Mapping[str, str]) -> dict[str, str] | None:
        return None

    def launches(
        self,
        launches: Sequence[Launch],
        code: Sequence[str],
        where: Callable[[int], tuple[Block, int]],
        variables: Buffer,
        bounds: Mapping[str, int],
    ) -> NoLaunches:
        for each in launches:
            self.launched[code[each.kernel]] += 1
            self.titles[code[each.kernel]] += (
                "" if "|" in self.titles[code[each.kernel]] else (f" | {each.title}")
            )
        return NoLaunches()


def programs(directory: Path, form: str, wanted: Sequence[str]) -> None:
    """Capture a model's programs."""
    from homebox.benchmarks.subject import Subject, Trainee
    from homebox.model.decoder.stages import Kind

    if set(wanted) & {"decode", "prefill"}:
        subject = Subject(directory, form, 2048, 4)
        if "decode" in wanted:
            subject.transformer.program(Kind(1, 1, 0, False))
        if "prefill" in wanted:
            subject.transformer.program(Kind(1, 256, 0, False))
    if "train" in wanted:
        Trainee(directory, form, 2, 256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--type", default="q8")
    parser.add_argument("--programs", default="decode,prefill,train")
    parser.add_argument("--units", default=",".join(sorted(CARD.units)))
    parser.add_argument("--options", default="", help="of the OpenCL build, in one string")
    parser.add_argument("--write", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    units = frozenset(filter(None, args.units.split(",")))
    bad = 0
    for name in args.programs.split(","):
        offline = Offline(Simt(CARD.group, CARD.sub_group, CARD.local_memory, units))
        captured(offline, lambda: programs(args.model, args.type, [name]))  # noqa: B023
        if args.write:
            args.write.mkdir(parents=True, exist_ok=True)
            for kernel, text in offline.texts.items():
                (args.write / f"{name}-{kernel}.cl").write_text(text)
        bad += judge(name, offline, args.options.split())
    sys.exit(1 if bad else 0)


def captured(offline: Offline, work: Callable[[], None]) -> None:
    """Run `work` with programs made for another card; what it keeps on disk is thrown away."""
    weights = cache_root() / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "weights").symlink_to(weights)
        os.environ["HOMEBOX_CACHE_DIR"] = folder
        capture_module.backend_of = lambda _: offline  # type: ignore[assignment]
        work()
        del os.environ["HOMEBOX_CACHE_DIR"]


def judge(program: str, offline: Offline, options: Sequence[str]) -> int:
    """Print a line per kernel, the most launched first; return how many are bad."""
    order = [name for name, _ in offline.launched.most_common()]

    def judged(name: str) -> list[Row]:
        return list(rows(offline.texts[name], options))

    bad = 0
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for name, found in zip(order, threads.map(judged, order), strict=True):
            bad += any(row.error or row.spilled for row in found)
            cards = {row.card: {k: v for k, v in asdict(row).items() if v} for row in found}
            for each in cards.values():
                each.pop("kernel"), each.pop("card")
            line = {"program": program, "kernel": name, "launches": offline.launched[name]}
            print(json.dumps(line | {"title": offline.titles[name], "cards": cards}), flush=True)
    return bad


if __name__ == "__main__":
    main()
