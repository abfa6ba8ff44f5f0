"""`homebox connect`: tell an agent, or any client, of this box."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from homebox.commands.common import (
    Subparsers,
    add_command,
    configuration,
    daemon_of,
    print_json,
)
from homebox.config import Config
from homebox.connect.address import Address, address_of
from homebox.connect.agents import AGENTS, Agent, default_file
from homebox.connect.files import Change, plan, write
from homebox.connect.offer import Offer, offer_of, plain
from homebox.connect.trial import Trial, try_agent, try_plainly
from homebox.control import Client
from homebox.errors import ConfigError, DaemonError

ANY = "openai"
TIMEOUT = 600.0  # seconds


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = add_command(
        subparsers,
        "connect",
        run,
        "write the configuration of opencode or OpenClaw, or print what any client needs",
        "homebox connect opencode --check",
    )
    parser.add_argument("client", choices=(*AGENTS, ANY), help="whom to tell")
    parser.add_argument("--print", action="store_true", help="print it and write nothing")
    parser.add_argument("--check", action="store_true", help="then make a real round trip")
    parser.add_argument("--file", metavar="FILE", help="the client's file (its usual one)")
    parser.add_argument(
        "--key", metavar="KEY", help='a key of "homebox token add" (the box\'s own)'
    )
    parser.add_argument(
        "--private", action="store_true", help="nothing that it says is written down or learned"
    )
    parser.add_argument("--url", metavar="URL", help="as the client reaches the box, without /v1")
    parser.add_argument("--program", metavar="FILE", help="of --check: the client's program")
    parser.add_argument(
        "--timeout", type=float, metavar="S", default=TIMEOUT, help="of --check: seconds (600)"
    )


def run(args: argparse.Namespace) -> int:
    """Tell the client; gives 1 if the round trip failed, 2 if a file could not be written."""
    config = configuration(args)
    daemon = daemon_of(config)
    offer = _offer(config, daemon, args)
    if args.client == ANY:
        return _any(offer, args)
    agent = AGENTS[args.client]
    change = plan(agent, offer, Path(args.file) if args.file else default_file(agent))
    told: dict[str, Any] = {"client": agent.name, "file": str(change.path), "written": False}
    if args.print or change.commented:
        told["configuration"] = change.after
    elif change.needed:
        backup = write(change)
        told |= {"written": True, "backup": str(backup) if backup else None}
    told |= {"context": offer.context, "output": offer.output, "warning": offer.warning or None}
    trial = _try(agent, offer, change, daemon, args) if args.check else None
    if trial is not None:
        told["check"] = dataclasses.asdict(trial)
    _tell(args, told, change, offer, trial)
    if trial is not None and not trial.ok:
        return 1
    return 2 if change.commented and not args.print else 0


def _offer(config: Config, daemon: Client | None, args: argparse.Namespace) -> Offer:
    if daemon is not None:
        address = address_of(daemon)
        offer = offer_of(address)
    elif config.model.context:
        address = _configured(config)
        offer = offer_of(address, config.model.context)
    else:
        raise DaemonError(
            'no daemon runs on this state, and only it knows the context: "homebox serve", '
            "or set model.context"
        )
    url, key = args.url or offer.address.url, args.key or offer.address.token
    if args.url and not args.url.startswith(("http://", "https://")):
        raise ConfigError(f"--url {args.url!r} must begin with http:// or https://")
    certificate = offer.address.certificate
    address = Address(url.rstrip("/"), key, certificate)
    return dataclasses.replace(offer, address=address, private=args.private)


def _configured(config: Config) -> Address:
    """Say where a daemon will be, as far as the configuration knows."""
    from homebox.api.tokens import open_keys
    from homebox.hosting.access import read_token

    server = config.server
    host = f"[{server.host}]" if ":" in server.host else server.host
    scheme = "https" if server.tls_cert else "http"
    key = ""
    if server.require_token:
        key = open_keys(config.state_dir, read_token(config)).primary
    return Address(f"{scheme}://{host}:{server.port}", key, server.tls_cert)


def _any(offer: Offer, args: argparse.Namespace) -> int:
    trial = try_plainly(offer, args.timeout) if args.check else None
    facts = plain(offer)
    if args.json:
        check = {"check": dataclasses.asdict(trial)} if trial else {}
        print_json({**facts, "warning": offer.warning or None, **check})
    else:
        for name, value in facts.items():
            print(f"{name.replace('_', ' ')}: {value}")
        _remarks(offer, trial)
    return 1 if trial is not None and not trial.ok else 0


def _try(
    agent: Agent, offer: Offer, change: Change, daemon: Client | None, args: argparse.Namespace
) -> Trial:
    if daemon is None:
        return Trial(None, "no daemon runs on this state; nothing was tried")
    if change.needed and (args.print or change.commented):
        return Trial(None, f"{change.path} does not say this yet; nothing was tried")
    return try_agent(
        agent,
        offer,
        change.path,
        args.program or "",
        # What is off the record leaves no turn to be counted.
        None if offer.private else lambda: int(daemon.call("status")["turns"]),
        args.timeout,
    )


def _tell(
    args: argparse.Namespace,
    told: dict[str, Any],
    change: Change,
    offer: Offer,
    trial: Trial | None,
) -> None:
    if args.json:
        print_json(told)
        return
    if "configuration" in told:
        print_json(change.after)
    if change.commented and not args.print:
        print(
            f"{change.path} is not plain JSON (it has comments?), which writing would lose; "
            "put the lines above into it by hand",
            file=sys.stderr,
        )
    elif told["written"]:
        kept = f"; the old one is {told['backup']}" if told["backup"] else ""
        print(f"{change.path} written{kept}")
    elif not args.print:
        print(f"{change.path} says all of it already")
    _remarks(offer, trial)


def _remarks(offer: Offer, trial: Trial | None) -> None:
    if offer.warning:
        print(f"warning: {offer.warning}", file=sys.stderr)
    if offer.address.certificate:
        print(
            "clients on Node must trust the certificate: NODE_EXTRA_CA_CERTS="
            f"{offer.address.certificate}",
            file=sys.stderr,
        )
    if trial is not None:
        shown = f": {trial.said}" if trial.said else ""
        took = "" if trial.ok is None else f" ({trial.seconds} s)"
        print(f"check: {trial.what}{took}{shown}")
