"""`homebox lessons` and `homebox remember`: what the box holds of its owner, and who decides it.

A daemon that runs does the work, as it alone may write; without one the state is opened for it.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from homebox.commands.common import (
    Bar,
    Subparsers,
    add_command,
    configuration,
    counted,
    daemon_of,
    open_for_reading,
    open_for_writing,
    print_json,
    print_table,
    spelled,
)
from homebox.config import Config
from homebox.errors import UsageError
from homebox.memory.lessons import KINDS, STATES, Lesson
from homebox.memory.manifest import short

if TYPE_CHECKING:
    from homebox.memory.state import State

LIST, SHOW, EDIT = "list", "show", "edit"
SHOWN = 100  # lessons that a list has, unless it is told
ACTIONS = (LIST, SHOW, "approve", "reject", EDIT)
# What comes of a decision, by the state that a lesson has then.
_FOLLOWS = {
    "new": "the next learning run teaches it",
    "deleted": "the next learning run leaves it out; the words that told it stay in the log, "
    'until "homebox forget {}"',
}


def add(subparsers: Subparsers) -> None:
    """Declare the commands."""
    parser = add_command(
        subparsers,
        "lessons",
        lessons,
        "list what was found in your words, show one of it, approve, reject or edit it",
        'homebox lessons list --only quarantined\n  homebox lessons edit 1a2b3c4d "Max"',
    )
    parser.add_argument(
        "action", nargs="?", choices=ACTIONS, default=LIST, help="what to do (list)"
    )
    parser.add_argument("lesson", nargs="?", metavar="HASH", help="the lesson, or how it begins")
    parser.add_argument("value", nargs="*", help="of edit: what is true instead")
    parser.add_argument("--only", choices=STATES, help="list only lessons in this state")
    parser.add_argument("--kind", choices=KINDS, help="list only lessons of this kind")
    parser.add_argument(
        "-n",
        type=int,
        metavar="N",
        help=f"of list: the newest N ({SHOWN}; with --json, and with 0, all)",
    )
    parser = add_command(
        subparsers,
        "remember",
        remember,
        "keep a sentence about yourself, as if you had said it in a chat",
        'homebox remember "My dog is called Rex."',
    )
    parser.add_argument("text", nargs="+", help="the sentence")


def lessons(args: argparse.Namespace) -> int:
    """List lessons, or do something with one."""
    config = configuration(args)
    if args.action == LIST:
        if args.lesson:
            raise UsageError(f'"homebox lessons show {args.lesson}" shows one lesson')
        return _list(args, config)
    if not args.lesson:
        raise UsageError(f'say which lesson: "homebox lessons {args.action} HASH"')
    if args.action == SHOW:
        return _show(args, config)
    if args.action == EDIT:
        if not args.value:
            raise UsageError(f'say what is true instead: "homebox lessons edit {args.lesson} TEXT"')
        return _remembered(args, _edit(config, args.lesson, " ".join(args.value)))
    return _decide(args, config)


def _list(args: argparse.Namespace, config: Config) -> int:
    from homebox.learning.lessons.shown import as_json, winners

    with open_for_reading(config) as state:
        every = state.ledger.lessons()
    won = winners(every)
    found = [
        each for each in every if args.only in (None, each.state) and args.kind in (None, each.kind)
    ]
    most = args.n if args.n is not None else (len(found) if args.json else SHOWN)
    shown = found[max(len(found) - most, 0) :] if most > 0 else found
    if args.json:
        # A line each, so that nobody has to wait for ten thousand of them, or hold them.
        sys.stdout.write("[")
        for place, each in enumerate(shown):
            value = {**as_json(each), "gave_way_to": won.get(each.hash)}
            sys.stdout.write(f"{',' if place else ''}\n{json.dumps(value)}")
        sys.stdout.write("\n]\n" if shown else "]\n")
        return 0
    if not found:
        some = " ".join(filter(None, (args.only, args.kind)))
        if every:
            others = counted(len(every), "lesson")
            print(f'no {some} lessons; "homebox lessons" lists the {others} that there are')
        else:
            print('no lessons; "homebox learn --dry-run" shows what would be found')
        return 0
    print_table(
        [
            (short(each.hash), _state(each, won), each.subject, _shortened(each.statement))
            for each in shown
        ]
    )
    if len(shown) < len(found):
        rest = len(found) - len(shown)
        print(f"{rest} older ones are not shown; -n {len(found)} shows all, --only and --kind some")
    if any(each.state == "quarantined" for each in shown):
        print('"homebox lessons approve HASH" lets a quarantined one be learned')
    return 0


def _state(lesson: Lesson, won: Mapping[str, str]) -> str:
    """Say a lesson's state, why it waits, and what took its place."""
    if lesson.state == "quarantined" and lesson.reason:
        return f"{lesson.state} ({lesson.reason})"
    if lesson.hash in won:
        return f"{lesson.state} by {short(won[lesson.hash])}"
    return lesson.state


def _shortened(text: str, limit: int = 160) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _show(args: argparse.Namespace, config: Config) -> int:
    from homebox.learning.lessons.shown import as_json, lesson_of, winners

    with open_for_reading(config) as state:
        lesson = lesson_of(state.ledger, args.lesson)
        every = {each.hash: each for each in state.ledger.lessons()}
        talks = [turn for id in lesson.sources if (turn := state.ledger.turn(id)) is not None]
        said = {
            turn.id: " ".join(
                " ".join(m.content for m in turn.messages if m.role == "user").split()
            )
            for turn in talks
        }
    won = winners(every.values())
    winner = every.get(won.get(lesson.hash, ""))
    if args.json:
        later = winner.hash if winner else None
        print_json({**as_json(lesson), "said": said, "gave_way_to": later})
        return 0
    rows = [
        ("hash", lesson.hash),
        ("state", _state(lesson, {})),
        ("kind", lesson.kind),
        ("topic", lesson.subject),
        ("value", lesson.value),
        ("said", lesson.statement),
        ("found by", lesson.origin),
        ("time", lesson.time),
        *(_named("instead of", every.get(lesson.supersedes or ""))),
        *(_named("gave way to", winner)),
        *(("turn", f"{id}: {words[:160]}") for id, words in said.items()),
        *((("shows", lesson.body),) if lesson.body else ()),
    ]
    print_table(rows)
    return 0


def _named(title: str, lesson: Lesson | None) -> list[tuple[str, str]]:
    if lesson is None:
        return []
    return [(title, f"{short(lesson.hash)}: {lesson.statement} (said {lesson.time[:10]})")]


def _decide(args: argparse.Namespace, config: Config) -> int:
    from homebox.learning.lessons.deciding import decide

    client = daemon_of(config)
    if client is not None:
        changed = client.call("lesson", prefix=args.lesson, action=args.action)
    else:
        with open_to_decide(config) as state:
            changed = decide(state.ledger, args.action, args.lesson)
    if args.json:
        print_json(changed)
    else:
        statement = spelled(changed["statement"])
        print(f"{short(changed['hash'])} is {changed['state']} now: {statement}")
        print(_FOLLOWS[changed["state"]].format(short(changed["hash"])))
        print(f"undo: {changed['undo']}")
    return 0


def _edit(config: Config, prefix: str, value: str) -> dict[str, Any]:
    from homebox.learning.lessons.deciding import edit

    client = daemon_of(config)
    if client is not None:
        changed: dict[str, Any] = client.call("edit", prefix=prefix, value=value)
        return changed
    with open_to_decide(config) as state:
        return edit(state.ledger, prefix, value)


def remember(args: argparse.Namespace) -> int:
    """Keep what the owner says."""
    from homebox.learning.lessons.deciding import remember as keep

    config, text = configuration(args), " ".join(args.text)
    client = daemon_of(config)
    if client is not None:
        return _remembered(args, client.call("remember", text=text))
    with open_to_decide(config) as state:
        return _remembered(args, keep(state.ledger, text))


def _remembered(args: argparse.Namespace, found: dict[str, Any]) -> int:
    from homebox.learning.reading.topics import NOTE

    if args.json:
        print_json(found)
        return 0
    for lesson in found["lessons"]:
        told = spelled(f"{lesson['subject']} = {lesson['value']}")
        if lesson["state"] == "quarantined":
            print(f"waits for your approval ({lesson['reason']}): {told}")
            print(f"approve: homebox lessons approve {short(lesson['hash'])}")
        elif lesson["subject"] == NOTE:
            print(f"kept as a note: {spelled(lesson['value'])}")
            print(
                "no topic was found in it, so it stands in prompts and is not learned by the "
                "weights; \"homebox remember 'TOPIC = VALUE'\" names one"
            )
        else:
            print(f"remembered: {told} ({short(lesson['hash'])})")
    print(f"undo: {found['undo']}")
    return 0


@contextmanager
def open_to_decide(config: Config) -> "Iterator[State]":
    """Open the state alone; what is told is read with the owner's rules, as a daemon does.

    A daemon has read the ledger; here that is done first, which takes long if it is long.
    """
    from homebox.learning.lessons.live import live_lessons, rules_of

    with open_for_writing(config) as state:
        bar = Bar()
        try:
            for done, total in live_lessons(
                state.ledger, rules_of(state.path, config.lessons.rules)
            ).steps():
                bar.show({"stage": "read", "done": done, "total": total, "text": f"{done:,} turns"})
        finally:
            bar.clear()
        yield state
