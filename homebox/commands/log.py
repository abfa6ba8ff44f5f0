"""`homebox log`: what was said: list it, search it, show a turn, export it, delete it."""

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from homebox.commands.common import (
    Bar,
    Subparsers,
    add_command,
    configuration,
    daemon_of,
    open_for_reading,
    print_json,
    spelled,
)
from homebox.commands.forget import print_forgotten
from homebox.commands.lessons import open_to_decide
from homebox.config import Config
from homebox.errors import UsageError
from homebox.memory.manifest import short
from homebox.memory.spans import spans_of
from homebox.memory.turns import Message, Turn

ACTIONS = {
    "search": "TEXT",
    "show": "TURN",
    "export": "",
    "verify": "[FILE]",
    "delete": "TURN|CONVERSATION",
}


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = add_command(
        subparsers,
        "log",
        run,
        "list the latest turns of the ledger; search, show, export, verify and delete them",
        'homebox log search "my dog"',
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="ACTION",
        help="; ".join(f"{action} {what}".strip() for action, what in ACTIONS.items()),
    )
    parser.add_argument("-n", type=int, metavar="N", help="how many turns (10) or messages (20)")
    parser.add_argument("--since", metavar="TURN", help="only turns after this one")
    parser.add_argument("--conversation", metavar="ID", help="of search and export: only this one")
    parser.add_argument(
        "--format", choices=("jsonl",), default="jsonl", help="of export: one turn a line (jsonl)"
    )
    parser.add_argument("--yes", action="store_true", help="of delete: do not ask")


def run(args: argparse.Namespace) -> int:
    """Do what is asked for."""
    action, *rest = args.words or ["list"]
    if args.words and action not in ACTIONS:
        action, rest = "show", args.words  # the name of a turn alone
    wanted = ACTIONS.get(action, "")
    if len(rest) > bool(wanted) or (not rest and wanted and wanted[0] != "["):
        raise UsageError(f"write: homebox log {action} {wanted}".rstrip())
    config = configuration(args)
    if action == "list":
        return _list(args, config)
    if action == "search":
        return _search(args, config, rest[0])
    if action == "show":
        return _show(args, config, rest[0])
    if action == "verify":
        return _verify_export(args, rest[0]) if rest else _verify(args, config)
    return _export(args, config) if action == "export" else _delete(args, config, rest[0])


def _list(args: argparse.Namespace, config: Config) -> int:
    most = 10 if args.n is None else max(args.n, 0)
    with open_for_reading(config) as state:
        turns = state.ledger.latest(most, args.since)
    if args.json:
        from homebox.memory.records import turn_value

        print_json([turn_value(turn) for turn in turns])
        return 0
    for turn in turns:
        _print_head(turn)
        for message in turn.messages:
            print(f"  {message.role}: {_shortened(_said(message))}")
    return 0


def _search(args: argparse.Namespace, config: Config, text: str) -> int:
    if not text.strip():
        raise UsageError("there is nothing to search for; write: homebox log search TEXT")
    most = 20 if args.n is None else max(args.n, 0)
    with open_for_reading(config) as state:
        hits = state.ledger.search(text, most, args.conversation or "")
    if args.json:
        print_json([dataclasses.asdict(hit) for hit in hits])
        return 0
    for hit in hits:
        print(f"{hit.turn}  {hit.time}")
        print(f"  {hit.role}: {spelled(' '.join(hit.text.split()))}")
    if not hits:
        print("no message says that", file=sys.stderr)
    return 0


def _show(args: argparse.Namespace, config: Config, name: str) -> int:
    with open_for_reading(config) as state:
        turn = state.ledger.turn(name)
        opinions = [each for each in state.ledger.feedback() if each.turn == name]
    if turn is None:
        raise UsageError(f'the ledger has no turn {name!r}; "homebox log" lists them')
    if args.json:
        from homebox.memory.records import turn_value

        opinion = dataclasses.asdict(opinions[0]) if opinions else None
        print_json({**turn_value(turn), "feedback": opinion})
        return 0
    _print_head(turn)
    if turn.conversation:
        print(f"  conversation {spelled(turn.conversation)}")
    for message in (*turn.prompt, turn.messages[-1]):
        _print_message(message)
    for each in opinions:
        print(f"  feedback: {each.rating} {spelled(each.text)}".rstrip())
    return 0


def _export(args: argparse.Namespace, config: Config) -> int:
    """Write a line for each turn as it is read, so that it takes no memory to speak of."""
    from homebox.memory.records import link_line

    found = False
    with open_for_reading(config) as state:
        opinions = {each.turn: dataclasses.asdict(each) for each in state.ledger.feedback()}
        for link in state.ledger.links(args.conversation or ""):
            # ASCII alone, as the terminal's or the pipe's encoding may know less than the ledger.
            sys.stdout.write(f"{link_line(link, opinions.get(link.id))}\n")
            found = True
    if args.conversation and not found:
        raise UsageError(
            f'the ledger has no turn of a conversation {args.conversation!r}; "homebox log" lists '
            'turns, and "homebox log show TURN" names the conversation of one'
        )
    return 0


def _verify(args: argparse.Namespace, config: Config) -> int:
    """Recompute the chain of turns; a turn that was changed is named in the error."""
    with open_for_reading(config) as state:
        total, bar = state.ledger.count(), Bar()

        def tell(done: int) -> None:
            bar.show({"stage": "verify", "done": done, "total": total, "text": f"{done:,} turns"})

        try:
            count = state.ledger.verify(tell=tell)
        finally:
            bar.clear()
        root = state.ledger.root()
    return _verified(args, count, root)


def _verify_export(args: argparse.Namespace, path: str) -> int:
    """Recompute the chain of a file that `log export` wrote, which needs no state."""
    from homebox.memory.records import Link, check_links, read_links

    count = 0

    def counted(links: Iterable[Link]) -> Iterator[Link]:
        nonlocal count
        for link in links:
            count += 1
            yield link

    try:
        with Path(path).open(encoding="utf-8") as file:
            root = check_links(counted(read_links(file))).hex()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    return _verified(args, count, root)


def _verified(args: argparse.Namespace, count: int, root: str) -> int:
    if args.json:
        print_json({"turns": count, "root": root})
    else:
        print(f"{count} turns are as they were written; the chain ends in {root}")
    return 0


def _delete(args: argparse.Namespace, config: Config, name: str) -> int:
    if not args.yes:
        _ask(name)
    client = daemon_of(config)
    if client is not None:
        done = client.call("delete_turns", name=name)
    else:
        from homebox.learning.lessons.deciding import deleted
        from homebox.model.prefixes.prefix_folder import forget_kept_prompts

        with open_to_decide(config) as state:
            done = deleted(state.ledger, state.lineage, name)
        forget_kept_prompts()
    if args.json:
        print_json(done)
    else:
        print_forgotten(done)
    return 0


def _ask(name: str) -> None:
    """Let a person confirm; raises UsageError where there is none or he does not."""
    if not sys.stdin.isatty():
        raise UsageError("what is deleted does not come back; add --yes to delete without a person")
    print(f"What {spelled(name)} says will be gone for good. Delete it? [y/N] ", end="", flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was deleted")


def _print_head(turn: Turn) -> None:
    print(
        f"{turn.id}  {turn.time}  {turn.model} ({short(turn.adapter)})  {turn.finish_reason}  "
        f"{turn.prompt_tokens}+{turn.completion_tokens} tokens"
    )


def _print_message(message: Message) -> None:
    """Print a message, and whose words its pieces hold where that is not its role's."""
    spans = spans_of(message)
    usual = {"user": "owner", "developer": "system"}.get(message.role, message.role)
    if {span.provenance for span in spans} <= {usual}:
        print(f"  {message.role}: {spelled(_said(message))}")
        return
    for span in spans:
        said = message.content[span.start : span.end]
        print(f"  {message.role} [{span.provenance}]: {spelled(said)}")
    for call in _calls(message):
        print(f"  {message.role}: {spelled(call)}")


def _said(message: Message) -> str:
    return "\n".join(part for part in (message.content, *_calls(message)) if part)


def _calls(message: Message) -> list[str]:
    """Say which tools a message calls."""
    functions = [call.get("function", {}) for call in message.as_chat().get("tool_calls", ())]
    return [f"{each.get('name')}({each.get('arguments')})" for each in functions]


def _shortened(text: str, limit: int = 160) -> str:
    line = " ".join(spelled(text).split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."
