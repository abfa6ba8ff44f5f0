"""`homebox pull`, `homebox models` and the import of a model: which models are on this box.

What is brought here is only listed; `homebox use` serves it.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from homebox.commands.common import (
    Bar,
    Subparsers,
    add_command,
    add_device,
    configuration,
    daemon_of,
    print_json,
    print_table,
)
from homebox.config import Config
from homebox.errors import BusyError, UsageError
from homebox.hub.catalogue import Catalogue, Entry, amount


def add(subparsers: Subparsers) -> None:
    """Declare the commands."""
    parser = add_command(
        subparsers,
        "pull",
        pull,
        "bring a model here from Hugging Face, or from the hub that HF_ENDPOINT names",
        "homebox pull Qwen/Qwen3-0.6B",
    )
    parser.add_argument(
        "repository", help="REPO, REPO:TYPE for one of several GGUF files, @REVISION"
    )
    parser.add_argument("--file", default="", help="a GGUF file of the repository, or its type")
    parser.add_argument("--name", default="", help="how it is called here (the repository)")
    parser.add_argument("--offline", action="store_true", help="ask nobody; say what is here")
    parser = add_command(
        subparsers,
        "models",
        models,
        "list the models on this box, show or remove one, say how one fits into memory",
        "homebox models list; homebox models fit Qwen/Qwen3-0.6B --context 16384",
    )
    parser.add_argument("action", choices=["list", "show", "remove", "fit", "clean"])
    parser.add_argument("name", nargs="?", default="", help="of the model, or the end of its name")
    parser.add_argument("--check", action="store_true", help="show: hash all files anew")
    parser.add_argument("--type", help="fit: keep weights as f32, bf16, q8, q4 (auto)")
    parser.add_argument("--context", type=int, help="fit: tokens of prompt and answer")
    add_device(parser)


def pull(args: argparse.Namespace) -> int:
    """Bring a model here."""
    from homebox.hub import pull as hub
    from homebox.hub.remote import Hub

    config = configuration(args)
    catalogue = Catalogue(config.models_dir)
    wanted = hub.parse(args.repository, args.file, args.name)
    if args.offline or hub.offline():
        entry = hub.here(catalogue, wanted)
        return _tell(args, entry, f"{entry.name} is here; asking a hub is switched off", new=False)
    _prepare(config)
    reporter = Reporter(args.json)
    try:
        found = hub.pull(catalogue, Hub(), wanted, reporter.show)
    finally:
        reporter.clear()
    entry = found.entry
    if not found.new:
        text = f"{entry.name} is here already, at revision {entry.revision[:12]}"
    else:
        text = f"pulled {entry.name} ({amount(found.downloaded)}, revision {entry.revision[:12]})"
    return _tell(args, entry, text, new=found.new, downloaded=found.downloaded)


def import_model(args: argparse.Namespace, path: Path) -> int:
    """List a model that lies on this machine."""
    from homebox.hub.local import import_model

    config = configuration(args)
    _prepare(config)
    reporter = Reporter(args.json)
    try:
        found = import_model(Catalogue(config.models_dir), path, args.name, reporter.show)
    finally:
        reporter.clear()
    entry = found.entry
    text = f"imported {entry.name} ({amount(found.copied)} copied, {amount(found.shared)} shared)"
    return _tell(args, entry, text, shared=found.shared, copied=found.copied)


def models(args: argparse.Namespace) -> int:
    """List, show, remove or fit."""
    config = configuration(args)
    catalogue = Catalogue(config.models_dir)
    if args.action in ("list", "clean"):
        if args.name:
            raise UsageError(f'"homebox models {args.action}" takes no name')
        return {"list": _list, "clean": _clean}[args.action](args, config, catalogue)
    if not args.name:
        raise UsageError(f'say which model: "homebox models {args.action} NAME"')
    return {"show": _show, "remove": _remove, "fit": _fit}[args.action](args, config, catalogue)


def _list(args: argparse.Namespace, config: Config, catalogue: Catalogue) -> int:
    entries, damaged, served = catalogue.entries(), catalogue.damaged(), _served(config)
    if args.json:
        listed = [{**entry.as_json(), "served": entry.base == served} for entry in entries]
        print_json({"models": listed, "damaged": damaged, "folder": str(catalogue.root)})
        return 0
    rows = [("", "name", "type", "parameters", "size", "from")]
    for entry in entries:
        mark = "*" if entry.base == served else ""
        count = f"{entry.parameters / 1e6:,.{0 if entry.parameters >= 10**7 else 2}f} M"
        rows.append((mark, entry.name, entry.type, count, amount(entry.size), _origin(entry)))
    if entries:
        print_table(rows)
    else:
        print(f'no models in {catalogue.root}; "homebox pull Qwen/Qwen3-0.6B" brings one')
    for line in damaged:
        print(f"homebox: {line}", file=sys.stderr)
    return 0


def _show(args: argparse.Namespace, config: Config, catalogue: Catalogue) -> int:
    entry = catalogue.find(args.name)
    changed = catalogue.check(entry.name) if args.check else []
    if args.json:
        served = entry.base == _served(config)
        print_json({**entry.as_json(), "served": served, "changed": changed})
        return 3 if changed else 0
    facts = {
        "name": entry.name,
        "from": _origin(entry),
        "family": entry.architecture,
        "parameters": f"{entry.parameters:,}",
        "numbers": entry.type,
        "context": f"{entry.context:,}",
        "base hash": entry.base,
        "manifest": entry.hash,
        "path": str(entry.path),
    }
    print_table(list(facts.items()))
    for name, file in sorted(entry.files.items()):
        wrong = "  CHANGED: pull or import the model again" if name in changed else ""
        print(f"  {file.sha256[:12]}  {amount(file.size):>10}  {name}{wrong}")
    return 3 if changed else 0


def _remove(args: argparse.Namespace, config: Config, catalogue: Catalogue) -> int:
    entry = catalogue.find(args.name)
    if entry.base == _served(config):
        raise BusyError(
            f"{entry.name} is what the daemon serves; let it serve another one first "
            '("homebox use tiny"), or stop it'
        )
    entry, freed = catalogue.remove(entry.name)
    if args.json:
        print_json({"removed": entry.name, "freed": freed})
    else:
        print(f"removed {entry.name}; {amount(freed)} are free again")
    return 0


def _clean(args: argparse.Namespace, config: Config, catalogue: Catalogue) -> int:
    freed = catalogue.clean()
    if args.json:
        print_json({"freed": freed})
    else:
        print(f"{amount(freed)} of unfinished downloads are free again")
    return 0


def _fit(args: argparse.Namespace, config: Config, catalogue: Catalogue) -> int:
    from homebox.hub.fit import Asked, fit_model
    from homebox.learning.training.recipes import most_rank

    path = catalogue.find(args.name).path if catalogue.has(args.name) else args.name
    model = config.model
    asked = Asked(args.type or model.weights, args.context, model.slots)
    rank = max(model.rank, most_rank(config.learning))
    found = fit_model(
        path,
        asked,
        rank,
        model.activations,
        model.device,
        model.memory,
        model.kv,
        model.kv_memory,
    )
    if args.json:
        form = str(found.plan.packing)
        facts = {"type": form, "context": found.context, "slots": found.slots}
        device = found.plan.placement.device
        print_json({**facts, "device": device, "reason": found.reason, "plan": found.lines()})
    else:
        print("\n".join(found.lines()))
    return 0


class Reporter:
    """Tells on stderr how far a pull is: by a bar, or to programs by a line of JSON a second."""

    def __init__(self, as_json: bool) -> None:
        self._bar = None if as_json else Bar()
        self._last = 0.0

    def show(self, progress: dict[str, Any]) -> None:
        """Tell a progress {stage, done, total, text}."""
        if self._bar is not None:
            self._bar.show(progress)
            return
        now = time.monotonic()
        if now - self._last >= 1.0 or progress["done"] >= progress["total"]:
            self._last = now
            print(json.dumps(progress), file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.clear()


def _prepare(config: Config) -> None:
    """Make the state directory in which models lie, unless they lie elsewhere."""
    from homebox.memory.state import init_state, open_state

    if config.paths.models:
        return
    if config.state_configured:
        open_state(config.state_dir, read_only=True).close()  # it must be there
    else:
        init_state(config.state_dir)


def _served(config: Config) -> str:
    """Return the base hash of what the daemon serves, or nothing."""
    client = daemon_of(config)
    return "" if client is None else str(client.call("status")["base"])


def _origin(entry: Entry) -> str:
    return f"{entry.source}@{entry.revision[:12]}" if entry.revision else entry.source


def _tell(args: argparse.Namespace, entry: Entry, text: str, **facts: Any) -> int:
    if args.json:
        print_json({**entry.as_json(), **facts})
        return 0
    print(text)
    print(f"{entry.architecture}, {entry.parameters:,} parameters as {entry.type}, {entry.path}")
    print(f'serve it with "homebox use {entry.name}"')
    return 0
