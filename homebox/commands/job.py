"""`homebox job`: what weights were made of, and making them (again).

A job that learned an owner is named by a hash or an exported file; the job that makes the built-in
model is a TOML file, and `evaluate` asks such a model test questions.
"""

import argparse
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homebox.commands.common import (
    Bar,
    Subparsers,
    add_command,
    add_device,
    base_hash,
    configuration,
    daemon_of,
    open_for_reading,
    open_for_writing,
    print_json,
    print_table,
    show_plan,
    spelled,
)
from homebox.config import Config
from homebox.errors import LearningError, UnknownWeightsError, UsageError
from homebox.memory.manifest import BASE, short
from homebox.memory.store import canonical_json

if TYPE_CHECKING:
    from homebox.memory.state import State

ACTIONS = ("show", "run", "verify", "export", "evaluate")
WHAT = (
    "a weights hash (or its beginning, or current), the hash of a spec, an exported file, or the "
    "TOML file of a training job; for evaluate a model (tiny, or PATH)"
)


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = add_command(
        subparsers,
        "job",
        run,
        "show, repeat or check the job that made weights",
        "homebox job verify current",
        model=True,
    )
    add_device(parser)
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("job", help=WHAT)
    parser.add_argument("file", nargs="?", type=Path, help="of export: where to write")
    parser.add_argument("--out", type=Path, metavar="DIR", help="of a training job: for its result")


def run(args: argparse.Namespace) -> int:
    """Do what was asked for."""
    config = configuration(args)
    if args.action == "evaluate" or args.job.endswith(".toml"):
        return _training(args)
    if args.out is not None:
        raise UsageError("--out is for training jobs; weights of other jobs go into the state")
    if args.action == "export":
        return _export(args, config)
    if args.file is not None:
        raise UsageError(f"{args.action} takes no file beside the job")
    if args.action == "show":
        return _show(args, config)
    return _again(args, config)


def _training(args: argparse.Namespace) -> int:
    """Run a training job, or evaluate what came out."""
    module = importlib.import_module("homebox.job")
    device = args.device or "cpu"
    if args.action == "evaluate":
        return int(module.main_evaluate(args.job, as_json=args.json, device=device))
    if args.action != "run":
        raise UsageError(f"{args.action} is for jobs that learned; a training job can only be run")
    return int(module.main(Path(args.job), out=args.out, as_json=args.json, device=device))


def _show(args: argparse.Namespace, config: Config) -> int:
    with open_for_reading(config) as state:
        name, weights = _found(state, config, args.job)
        spec = _spec(state, name)
        entries = state.lineage.history(str(spec["base"]))
    made = [entry for entry in entries if entry.weights == weights]
    found = {
        "spec": spec,
        "bytes": len(canonical_json(spec)),
        "job": name,
        "weights": weights,
        "lineage": made[-1].as_json() if made else None,
    }
    if args.json:
        print_json(found)
        return 0
    rows = [("job", name), ("bytes", f"{found['bytes']} of at most 10000")]
    rows += [(key, json.dumps(value)) for key, value in spec.items() if key != "recipe"]
    rows += [(f"recipe.{key}", json.dumps(value)) for key, value in spec["recipe"].items()]
    if made:
        rows += [("ledger root", made[-1].ledger_root), ("learned", made[-1].time)]
    print_table([(left, spelled(right)) for left, right in rows])
    return 0


def _export(args: argparse.Namespace, config: Config) -> int:
    from homebox.learning.jobs.bundle import bundle

    if args.file is None:
        raise UsageError('name the file to write: "homebox job export current job.json"')
    with open_for_reading(config) as state:
        name, _ = _found(state, config, args.job)
        data = bundle(state.store, name)
    try:
        with args.file.open("xb") as file:
            file.write(data)
    except OSError as error:
        raise UsageError(f"{args.file} cannot be written: {error.strerror}") from error
    if args.json:
        print_json({"job": name, "file": str(args.file), "bytes": len(data)})
    else:
        print(
            f"{args.file}: the spec and what it names, {len(data)} bytes; it holds lessons in your "
            f'words. On a box with the same base: "homebox job run {args.file}"'
        )
    return 0


def _again(args: argparse.Namespace, config: Config) -> int:
    """Run a job again; `verify` compares with the weights that it made before."""
    from homebox.learning.jobs.job import read_job

    client = daemon_of(config)
    with open_for_reading(config) if client is not None else open_for_writing(config) as state:
        name, expected = _found(state, config, args.job)
        if args.action == "verify" and not expected:
            raise UsageError(
                f"no weights were made by {short(name)} here; verify takes a weights hash"
            )
        spec = _spec(state, name)
        read_job(spec)
        bar = Bar()
        try:
            if client is None:
                made = _run_here(state, config, spec, bar)
            else:
                made = client.call("job", bar.show, spec=spec)["weights"]
        finally:
            bar.clear()
    return _told(args, name, made, expected)


def _told(args: argparse.Namespace, name: str, made: str, expected: str) -> int:
    same = not expected or made == expected
    if args.json:
        print_json({"job": name, "weights": made, "expected": expected or None, "same": same})
    elif args.action == "run":
        print(f"{made}\nnothing was served; no gate looked at it")
    elif same:
        print(f"verified: {short(name)} gives {made} again")
    else:
        print(f"NOT the same: {short(name)} gave {made}, but {expected} is kept")
    if args.action == "verify" and not same:
        return LearningError.exit_code
    return 0


def _run_here(state: "State", config: Config, spec: Mapping[str, Any], bar: Bar) -> str:
    from homebox.daemon import real_parts
    from homebox.hosting.parts import plain
    from homebox.learning.jobs.job import execute, read_job
    from homebox.scheduler import run_inline

    model = real_parts().load(config)
    show_plan(model)
    steps = execute(model, state.store, read_job(spec))
    return str(run_inline(steps, lambda progress: bar.show(plain(progress))))


def _found(state: "State", config: Config, name: str) -> tuple[str, str]:
    """Return the job's hash and the weights that it is known to have made, or ""."""
    path = Path(name)
    if path.suffix == ".json" and path.is_file():
        from homebox.learning.jobs.bundle import unbundle

        return unbundle(state.store, path), ""
    if state.store.has(name):
        return _of_object(state, name)
    weights = state.lineage.resolve(base_hash(config), name)
    if weights == BASE:
        raise UnknownWeightsError(f"{name!r} is the base itself, which no job here made")
    return _of_object(state, weights)


def _of_object(state: "State", name: str) -> tuple[str, str]:
    from homebox.learning.checkpoint import spec_behind

    spec = spec_behind(state.store, name)
    return spec, "" if spec == name else name


def _spec(state: "State", name: str) -> dict[str, Any]:
    from homebox.learning.checkpoint import spec_in

    return spec_in(state.store, name)
