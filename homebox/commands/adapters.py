"""`homebox export adapter` and `homebox import`: what was learned out, what others made in.

An adapter that is imported went through no gate, so it is only kept, and served if --promote says
so. An imported model is only listed.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homebox.commands import models
from homebox.commands.common import (
    Subparsers,
    add_command,
    configuration,
    daemon_of,
    open_for_reading,
    open_for_writing,
    print_json,
)
from homebox.config import Config
from homebox.errors import StateError, UsageError
from homebox.memory.manifest import short

if TYPE_CHECKING:
    from homebox.learning.jobs.exchange import Base


def add(subparsers: Subparsers) -> None:
    """Declare both commands."""
    parser = add_command(
        subparsers,
        "export",
        export,
        "write learned weights as an adapter for other programs",
        "homebox export adapter current --to my-adapter",
        model=True,
    )
    parser.add_argument("what", choices=["adapter"])
    parser.add_argument(
        "weights",
        nargs="?",
        default="current",
        help='"current" (default), "previous", or the beginning of a weights hash',
    )
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--format",
        choices=["peft", "gguf"],
        default="peft",
        help="peft (default): for transformers; gguf: for llama.cpp",
    )
    parser = add_command(
        subparsers,
        "import",
        import_,
        "list a model of this machine, or keep an adapter, and serve it only if asked to",
        "homebox import ~/Downloads/model.gguf; homebox import adapter my-adapter --promote",
        model=True,
    )
    parser.add_argument(
        "what",
        nargs="+",
        metavar="[adapter] PATH",
        help="a model's folder or GGUF file; after the word adapter a PEFT folder or a .gguf file",
    )
    parser.add_argument("--name", default="", help="how the list, or the history, calls it")
    parser.add_argument("--reason", default="", help="adapter: kept in the history")
    parser.add_argument("--promote", action="store_true", help="adapter: serve it from now on")


def export(args: argparse.Namespace) -> int:
    """Write the adapter; the state is only read, beside a daemon or without one."""
    from homebox.learning.jobs.exchange import export_adapter

    config = configuration(args)
    base = base_of(config)
    with open_for_reading(config) as state:
        done = export_adapter(state, base, args.weights, args.to, args.format)
    if args.json:
        print_json(dataclasses.asdict(done))
        return 0
    print(f"{short(done.weights)} ({done.format}, rank {done.rank}, alpha {done.alpha:g}):")
    print("\n".join(done.files))
    return 0


def import_(args: argparse.Namespace) -> int:
    """List a model, or keep an adapter."""
    if len(args.what) == 1:
        if args.promote or args.reason:
            raise UsageError(
                "--promote and --reason are for adapters; a model is served by its name"
            )
        return models.import_model(args, Path(args.what[0]))
    if len(args.what) > 2 or args.what[0] != "adapter":
        raise UsageError('say "homebox import PATH" for a model, "homebox import adapter PATH"')
    return import_one(args, Path(args.what[1]))


def import_one(args: argparse.Namespace, path: Path) -> int:
    """Keep the adapter, in the daemon if one runs."""
    config = configuration(args)
    client = daemon_of(config)
    wanted = {"name": args.name, "reason": args.reason, "promote": args.promote}
    if client is not None:
        done = client.call("import_adapter", path=str(path.absolute()), **wanted)
    else:
        done = import_here(config, path, **wanted)
    if args.json:
        print_json(done)
        return 0
    weights, previous = short(done["weights"]), short(done["previous"])
    shape = f"{done['format']}, rank {done['rank']}, alpha {done['alpha']:g}"
    print(f"imported {weights} from {path} ({shape}; files {short(done['files'])})")
    print(f"made for {done['made_for'] or 'an unnamed base'}, as it says; {done['gate']}")
    if done["promoted"]:
        print(f"served now: {weights} (was {previous}); undo: homebox rollback {previous}")
    else:
        print(f'try it with "homebox chat --weights {weights}"; --promote serves it')
    return 0


def import_here(config: Config, path: Path, **wanted: Any) -> Any:
    """Import in this process, which then owns the state; gives the result as JSON."""
    from homebox.hosting.parts import most_rank
    from homebox.learning.jobs.exchange import import_adapter

    base = base_of(config)
    with open_for_writing(config) as state:
        done = import_adapter(state, base, path, most_rank=most_rank(config), **wanted)
    return dataclasses.asdict(done)


def base_of(config: Config) -> "Base":
    """Describe the configured base without compiling anything.

    Raises StateError if a daemon on the same state serves another one.
    """
    from homebox.learning.jobs.exchange import Base
    from homebox.model.loading.open_model import model_name, open_model

    loaded = open_model(config.model.path)
    client = daemon_of(config)
    if client is not None and client.call("status")["base"] != loaded.base_hash:
        raise StateError(
            f"the daemon serves another base than {config.model.path}; name its base with --model"
        )
    return Base(loaded.config, loaded.base_hash, model_name(config.model.path))
