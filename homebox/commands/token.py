"""`homebox token`: the keys that clients need: show the own one, change it, add named ones."""

import argparse
import sys

from homebox.api.tokens import TOKEN, add_key, named_keys, new_token, open_keys, remove_key
from homebox.commands.common import (
    Subparsers,
    add_command,
    configuration,
    daemon_of,
    print_json,
    print_table,
)
from homebox.config import Config
from homebox.errors import UsageError

NAMED = ("add", "remove")


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = add_command(
        subparsers,
        "token",
        run,
        "print the key that clients need; new, add, list and remove change the keys at once",
        "homebox token add kitchen-tablet",
    )
    parser.add_argument(
        "action",
        nargs="?",
        default="show",
        choices=("show", "new", "add", "list", "remove"),
        help="what to do (show)",
    )
    parser.add_argument("name", nargs="?", help="of add and remove: how the key is called")
    parser.add_argument(
        "--private", action="store_true", help="of add: write nothing down that comes with this key"
    )


def run(args: argparse.Namespace) -> int:
    """Do it; a running daemon looks at the files by itself."""
    if (args.action in NAMED) != (args.name is not None):
        raise UsageError(
            f"homebox token {args.action} needs a name"
            if args.action in NAMED
            else f"homebox token {args.action} takes no name"
        )
    if args.private and args.action != "add":
        raise UsageError('--private belongs to "homebox token add NAME"')
    config = configuration(args)
    if args.action == "list":
        _list(config, args.json)
        return 0
    if args.action == "remove":
        gone = remove_key(config.state_dir, args.name)
        _say(args, {"removed": gone.name}, f"{gone.name} opens nothing any more")
        return 0
    if args.action == "add":
        key = _added(config, args.name, args.private)
    else:
        key = (_renewed if args.action == "new" else _shown)(config)
    _say(args, {"token": key} | ({"name": args.name} if args.name else {}), key)
    return 0


def _say(args: argparse.Namespace, value: dict[str, str], text: str) -> None:
    if args.json:
        print_json(value)
    else:
        print(text)
        if args.action == "add":
            print("shown this once; only a digest of it is kept", file=sys.stderr)


def _shown(config: Config) -> str:
    client = daemon_of(config)
    # Only the daemon knows a key that the service manager gave it.
    if client is not None and (key := str(client.call("address")["token"])):
        return key
    from homebox.hosting.access import read_token

    _prepare(config)
    return open_keys(config.state_dir, read_token(config)).primary


def _renewed(config: Config) -> str:
    from homebox.hosting.access import read_token

    if read_token(config):
        raise UsageError("the key is configured (server.token); change it there and restart")
    _prepare(config)
    return new_token(config.state_dir)


def _added(config: Config, name: str, private: bool) -> str:
    _prepare(config)
    return add_key(config.state_dir, name, private)


def _prepare(config: Config) -> None:
    """Make the state directory as a first start would, or refuse as that would."""
    from homebox.memory.state import init_state, open_state

    if config.state_configured:
        open_state(config.state_dir, read_only=True).close()
    else:
        init_state(config.state_dir)


def _list(config: Config, as_json: bool) -> None:
    keys = named_keys(config.state_dir)
    if as_json:
        found = [{"name": k.name, "made": k.made, "private": k.private} for k in keys]
        print_json({"keys": found})
        return
    own = config.state_dir / TOKEN
    rows = [("the box's own", "-", str(own))] if own.exists() else []
    rows += [(key.name, key.made, "off the record" if key.private else "") for key in keys]
    print_table(rows or [("no keys yet", "", "")])
