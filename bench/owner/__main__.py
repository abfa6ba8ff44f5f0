"""`python -m bench.owner`: lives as made-up owners, night by night, and says what was learned.

Exits 0 if every row of its gate was reached, 1 if one was missed. `--quick` takes a few minutes a
night with the built-in model; without it, three ways to live through eight nights are compared and
the notes file is measured against the weights.
"""

import argparse
import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.owner import attack
from bench.owner.arms import Arm, arms_of, plain
from bench.owner.box import Box, new_box
from bench.owner.energy import Meter
from bench.owner.marks import Marks, mark, paper
from bench.owner.nights import control, others, rebuild
from bench.owner.people import NIGHTS, Owner, owner, shuffled
from bench.owner.rows import rows, size_of
from bench.owner.sizes import measure
from bench.owner.tables import aligned, tables, write_docs
from homebox.config import Config
from homebox.learning.examples import speaks_toy_language
from homebox.model import Model, load
from homebox.model.adapters import BASE

SEED, OTHER_SEED = 7, 8
QUICK_NIGHTS = 6
SIZES = (100, 500)
CONTEXT = 8192  # positions: a notes file of 10 kB, and room for the answer
RANK = 128  # that stacked adapters of eight nights may come to
ROOM = 1024  # tokens of the prompt memory
PARTS = ("nights", "controls", "attack", "ways", "sizes")
QUICK_PARTS = ("nights", "controls", "attack")

Show = Callable[[str], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the bench; 0 if every row was reached, 1 if not."""
    options = _options(argv)
    show: Show = _silent if options.json else _shown
    result = finite(joined(options.earlier) if options.earlier else _run(options, show))
    result["rows"] = [row.as_json() for row in rows(result, size_of(result["parameters"]))]
    result["passed"] = bool(result["rows"]) and all(row["passed"] for row in result["rows"])
    if options.out:
        Path(options.out).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if options.write_docs:
        write_docs(result, Path(__file__).parents[2] / "docs")
    if options.json:
        print(json.dumps(result, ensure_ascii=False, indent=2))
    else:
        for title, table in tables(result):
            print(f"\n{title}\n{aligned(table)}")
        missed = sum(not row["passed"] for row in result["rows"])
        print(
            f"\n{'PASS' if not missed else 'FAIL'} owner-bench: {missed} rows missed, "
            f"{result['seconds']:.0f} s"
        )
    return 0 if result["passed"] else 1


def _run(options: argparse.Namespace, show: Show) -> dict[str, Any]:
    meter, begun = Meter(), time.monotonic()
    model = load(options.model, context=options.context, rank=RANK, device=options.device)
    result = measured(model, _settings(options), options, show)
    result["seconds"] = round(time.monotonic() - begun, 1)
    result["joules"] = meter.joules()
    shapes = model.config.weight_shapes().values()
    result["parameters"] = sum(math.prod(shape) for shape in shapes)
    return result


def joined(files: Sequence[str]) -> dict[str, Any]:
    """Put the figures of earlier runs together, each of which had other parts; the last wins."""
    found: dict[str, Any] = {"nights": [], "sizes": []}
    commands, seconds = [], 0.0
    joules: float | None = 0.0
    for file in files:
        one = json.loads(Path(file).read_text(encoding="utf-8"))
        commands.append(one["command"])
        seconds += one["seconds"]
        joules = None if joules is None or one["joules"] is None else joules + one["joules"]
        both = {key: found[key] + one.get(key, []) for key in ("nights", "sizes")}
        found |= one | both
    return {**found, "command": "; ".join(commands), "seconds": seconds, "joules": joules}


def finite(value: Any) -> Any:
    """Replace numbers that JSON has no word for by None, everywhere."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.owner", description=__doc__)
    parser.add_argument("--model", default="tiny", help='model directory, GGUF file, or "tiny"')
    parser.add_argument("--device", default="cpu", help="where it runs: cpu, cl:0, auto")
    parser.add_argument("--quick", action="store_true", help="six nights, controls and attacks")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--write-docs", action="store_true", help="update docs/learning.md")
    parser.add_argument("--out", help="file for the JSON")
    parser.add_argument(
        "--from", dest="earlier", nargs="*", help="run nothing: judge and write these JSON files"
    )
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--nights", type=int, help=f"{NIGHTS}, with --quick {QUICK_NIGHTS}")
    parser.add_argument("--context", type=int, default=CONTEXT, help="positions of the model")
    parser.add_argument("--steps", type=int, help="of every training, instead of the recipe's")
    parser.add_argument("--facts", type=int, nargs="*", default=SIZES, help="for the notes file")
    parser.add_argument("--parts", nargs="*", choices=PARTS, help="only these")
    options = parser.parse_args(argv)
    options.parts = options.parts or (QUICK_PARTS if options.quick else PARTS)
    options.nights = options.nights or (QUICK_NIGHTS if options.quick else NIGHTS)
    words = list(sys.argv[1:] if argv is None else argv)
    if "--out" in words:  # where the figures went is nobody's business
        del words[words.index("--out") : words.index("--out") + 2]
    options.command = " ".join(["python -m bench.owner", *words])
    return options


def _settings(options: argparse.Namespace) -> Config:
    settings = Config()
    if options.steps:
        learning = dataclasses.replace(settings.learning, steps=options.steps)
        settings = dataclasses.replace(settings, learning=learning)
    return settings


def measured(
    model: Model, settings: Config, options: argparse.Namespace, show: Show
) -> dict[str, Any]:
    """Run the parts that are wanted; return their figures as plain JSON."""
    styled = not speaks_toy_language(model)
    one = owner(options.seed, options.nights, styled=styled)
    result: dict[str, Any] = {
        "command": options.command,
        "model": model.name,
        "cores": os.cpu_count(),
        "owner": {
            "facts": len(one.facts),
            "preferences": len(one.preferences) + len(one.manners),
            "corrections": sum(fact.corrected for fact in one.facts),
            "superseded": sum(bool(f.before) and not f.corrected for f in one.facts),
            "untold": len(one.untold),
            "secrets": len(one.secrets),
            "injections": len(one.injections),
        },
        "nights": [],
    }
    if "nights" in options.parts:
        with new_box(model, settings) as box:
            live(box, one, "attack" in options.parts, result, show)
            if "controls" in options.parts:
                result["controls"] = _controls(box, one, settings, options, show)
        if "defence" in result:
            found = attack.Defence(**result["defence"])
            attack.unprotected(model, found, settings, options.seed, attack.CONTROLS)
            result["defence"] = found.as_json()
    if "ways" in options.parts:
        result["nights"] += [night.as_json() for night in others(model, one, settings, show)]
    if "sizes" in options.parts:
        result["sizes"] = []
        for facts in options.facts:
            show(f"{facts} facts: telling, learning, asking ...")
            size = measure(model, settings, facts, options.seed)
            result["sizes"].append(size.as_json())
            show(
                f"{facts} facts: recall {size.weights_recall:.2f}, from the file "
                f"{size.file_recall:.2f}, {size.seconds:.0f} s{_state(size.learned, size.reason)}"
            )
    return result


def live(box: Box, one: Owner, attacked: bool, result: dict[str, Any], show: Show) -> None:
    """Live through all nights, with everything planted on the last day; then mark all arms."""
    ids: list[str] = []
    for night in range(1, one.nights + 1):
        if attacked and night == one.nights:
            ids = attack.plant(box, one.seed, attack.POISONS, attack.CANARIES)
        found = rebuild(box, one, night)
        result["nights"].append(found.as_json())
        state = _state(found.promoted, found.reason)
        show(f"night {night}: recall {found.recall:.2f}, {found.seconds:.0f} s{state}")
    if attacked:
        defence = attack.defended(box, ids, one, attack.POISONS, attack.CANARIES)
        attack.extracted(box, defence, one)
        result["defence"] = defence.as_json()
    questions = paper(one)
    marked: list[Marks] = []
    for arm in arms_of(one, box, ROOM):
        show(f"asking: {arm.name}")
        marked.append(mark(box.model, arm, questions, marked[0] if marked else None))
    result["arms"] = [marks.as_json() for marks in marked]


def _controls(
    box: Box, one: Owner, settings: Config, options: argparse.Namespace, show: Show
) -> list[dict[str, Any]]:
    """Ask the weights of one owner for another one's facts, and shuffled weights for true ones."""
    show("controls: another owner, shuffled values")
    model = box.model
    seed = OTHER_SEED if options.seed != OTHER_SEED else SEED
    other = paper(owner(seed, one.nights, apart=one))
    arms = (Arm("other owner's base", BASE, plain), Arm("other owner", box.adapter, plain))
    found = [mark(model, arm, other, None, general=False) for arm in arms]
    mixed = shuffled(one)
    found.append(control(model, mixed.topics, _true(one, mixed), settings, "shuffled"))
    return [marks.as_json() for marks in found]


def _true(one: Owner, mixed: Owner) -> Owner:
    """Return an owner's true facts, of the topics that were shuffled."""
    keys = {topic.key for topic in mixed.topics}
    return dataclasses.replace(
        one,
        facts=tuple(fact for fact in one.facts if fact.key in keys),
        preferences=tuple(fact for fact in one.preferences if fact.key in keys),
    )


def _state(promoted: bool, reason: str) -> str:
    return "" if promoted else f", NOT promoted: {reason}"


def _silent(_: str) -> None:
    """Show nothing."""


def _shown(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
