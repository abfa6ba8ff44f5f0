"""`homebox serve` and `homebox init`: run the daemon, make a state directory."""

import argparse

from homebox.commands.common import (
    Subparsers,
    add_command,
    add_device,
    configuration,
    print_json,
)


def add(subparsers: Subparsers) -> None:
    """Declare both commands."""
    parser = add_command(
        subparsers,
        "serve",
        serve,
        "run the daemon: serve the model over HTTP until interrupted",
        "homebox serve --port 4310 --context 8192",
        as_json=False,
        model=True,
    )
    parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, help="TCP port (4310); 0 chooses one")
    parser.add_argument("--context", type=int, help="tokens of prompt and answer (up to 32768)")
    parser.add_argument("--type", help="how weights are kept: f32, bf16, q8, q4 (auto)")
    parser.add_argument("--activations", help="what they meet: f32, bf16, int8 (auto)")
    add_device(parser)
    add_command(
        subparsers,
        "init",
        init,
        "make a state directory, as one that the configuration names must be made",
        "homebox init --state /raid/homebox",
    )


def serve(args: argparse.Namespace) -> int:
    """Run until a signal comes."""
    from homebox import daemon

    config = configuration(
        args,
        server__host=args.host,
        server__port=args.port,
        model__context=args.context,
        model__weights=args.type,
        model__activations=args.activations,
    )
    daemon.serve(config)
    return 0


def init(args: argparse.Namespace) -> int:
    """Make the state directory unless it is there."""
    from homebox.memory.state import init_state

    path = configuration(args).state_dir
    made = init_state(path)
    if args.json:
        print_json({"state": str(path), "made": made})
    else:
        print(f"{path} {'made' if made else 'is a state directory already'}")
    return 0
