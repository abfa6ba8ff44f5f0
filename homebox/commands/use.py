"""`homebox use`: serve another model from now on, in the daemon at once, else at the next start."""

import argparse
import os
import sys
from typing import Any

from homebox.commands.common import (
    Bar,
    Subparsers,
    add_command,
    configuration,
    daemon_of,
    open_for_writing,
    print_json,
)
from homebox.config import Config, variable


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = add_command(
        subparsers,
        "use",
        use,
        "serve another model; what was learned of each stays with it",
        "homebox use Qwen/Qwen3-0.6B",
    )
    parser.add_argument("name", help="a name of `homebox models list`, tiny, or a path")
    parser.add_argument(
        "--type", help="how its weights are kept: f32, bf16, q8, q4 (as configured)"
    )
    parser.add_argument("--context", type=int, help="tokens of prompt and answer (as configured)")


def use(args: argparse.Namespace) -> int:
    """Switch, and say what is served."""
    from homebox.hosting.chosen import name_of

    # Only checked here: what is configured must not become a part of the choice.
    configuration(args, model__weights=args.type, model__context=args.context)
    config = configuration(args)
    name = name_of(config, args.name)
    options = {"type": args.type or "", "context": args.context or 0}
    client = daemon_of(config)
    if client is None:
        found = _without_daemon(config, name, options)
    else:
        bar = Bar()
        try:
            found = client.call("use", bar.show, name=name, **options)
        except KeyboardInterrupt:
            bar.clear()
            print('the switch goes on in the daemon; "homebox status" shows it', file=sys.stderr)
            raise
        finally:
            bar.clear()
    overriding = variable("model.path")
    if overriding in os.environ:
        found["lines"].append(f"{overriding} is set here; a start that sees it serves that model")
    if args.json:
        print_json(found)
    else:
        print("\n".join(found["lines"]))
    return 0


def _without_daemon(config: Config, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Open the model, and write down that the next start serves it."""
    from homebox.hosting.chosen import Choice, choice_for, with_model, write_choice
    from homebox.hosting.standing import bare_line
    from homebox.memory.manifest import short
    from homebox.model.loading.open_model import open_model

    path = with_model(config, name).model.path
    base = open_model(path).base_hash
    with open_for_writing(config) as state:
        earlier = choice_for(config)
        before = earlier.name if earlier is not None else config.configured_model
        write_choice(state.path, Choice(name, before, config.configured_model, **options))
        weights = state.lineage.head(base)
        bare = bare_line(state.lineage, base)
    line = f'no daemon runs; the next "homebox serve" serves {name} ({short(weights)})'
    return {
        "running": False,
        "model": name,
        "path": path,
        "base": base,
        "weights": weights,
        "changed": before != name,
        "lines": [line, *([bare] if bare else [])],
    }
