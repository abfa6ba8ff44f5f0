"""`python -m bench.ledger`: what a long memory costs, from writing a turn to deleting it.

A state with made-up turns (`ledger_turns`) is written once and kept in the folder `--keep`, if one
is given. Then each thing that a person or the daemon does with it is timed: commands as processes
of their own, with the memory that they took; what the daemon does, in a process of its own, too.
Invariant: what changes the state works on a copy, so that a kept one stays as it was written.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.ledger_turns import APART, BEGIN, NEEDLE, turns

TURNS = 100_000
FLIGHT = 256  # turns that wait to be written at once
ALONE = 200  # turns that are written one after the other
TRIES = 20  # of what is asked in this process
STARTS = 3  # processes of the same kind, of which the median counts
WORDS = (NEEDLE, "friend", "socket thread", "nothing of the kind", "ZINNOBER 9", "Glück")
# At most (or, for "per_s", at least).
REACH = {
    "search_p95_ms": 200.0,
    "show_p95_ms": 200.0,
    "verify_per_s": 20_000.0,
    "start_more_s": 1.0,
    "longest_step_ms": 10.0,
    "prompt_p95_ms": 5.0,
}


@dataclass(frozen=True)
class Ran:
    """A process that ended: seconds, the most MiB that it had, bytes that it wrote."""

    seconds: float
    mib: float
    written: int


def write(state: Path, count: int, telling: int) -> dict[str, float]:
    """Write a new state with so many turns; gives rates and sizes."""
    from homebox.memory.state import open_state
    from homebox.memory.turns import Turn

    found: dict[str, float] = {}
    with open_state(state) as opened:
        made = turns(count, telling)
        times = []
        for turn in (next(made) for _ in range(min(ALONE, count))):
            begun = time.perf_counter()
            opened.ledger.append(**turn)
            times.append(time.perf_counter() - begun)
        begun, waiting = time.perf_counter(), []
        for number, turn in enumerate(made):
            waiting.append(opened.ledger.submit(Turn(**turn)))
            if number % FLIGHT == FLIGHT - 1:
                for future in waiting:
                    future.result()
                waiting = []
        for future in waiting:
            future.result()
        seconds = time.perf_counter() - begun
        found["append_alone_p50_ms"] = 1e3 * share(times, 0.5)
        found["append_alone_p95_ms"] = 1e3 * share(times, 0.95)
        found["append_per_s"] = (count - len(times)) / max(seconds, 1e-9)
    size = sum(path.stat().st_size for path in state.glob("ledger.db*"))
    return {**found, "disk_mib": size / 2**20, "disk_bytes_a_turn": size / max(count, 1)}


def asked(state: Path) -> dict[str, float]:
    """Time what reads the ledger, in this process."""
    from homebox.memory.state import open_state

    with open_state(state, read_only=True) as opened:
        ledger = opened.ledger
        names = [turn.id for turn in ledger.outline()]
        searches = [timed(lambda word=word: ledger.search(word, 20)) for word in WORDS * 4]
        picked = [names[place * (len(names) - 1) // (TRIES - 1)] for place in range(TRIES)]
        shows = [timed(lambda name=name: ledger.turn(name)) for name in picked]
        whole = timed(ledger.verify)
        again = [timed(lambda: ledger.verify(known=True)) for _ in range(3)]
        return {
            "search_p50_ms": 1e3 * share(searches, 0.5),
            "search_p95_ms": 1e3 * share(searches, 0.95),
            "show_p95_ms": 1e3 * share(shows, 0.95),
            "verify_s": whole,
            "verify_per_s": len(names) / whole,
            "verify_again_ms": 1e3 * share(again, 0.5),
        }


def commands(state: Path) -> dict[str, float]:
    """Time commands as a person types them."""
    from homebox.memory.state import open_state

    with open_state(state, read_only=True) as opened:
        outline = opened.ledger.outline()
        size = sum(path.stat().st_size for path in state.glob("ledger.db*"))
    name = outline[len(outline) // 2].id
    none = homebox(state, "--version")
    export = homebox(state, "log", "export")
    found = {
        "command_floor_ms": 1e3 * none.seconds,
        "log_command_ms": 1e3 * homebox(state, "log").seconds,
        "search_command_ms": 1e3 * homebox(state, "log", "search", NEEDLE).seconds,
        "show_command_ms": 1e3 * homebox(state, "log", "show", name).seconds,
        "export_s": export.seconds,
        "export_mb_per_s": export.written / 1e6 / export.seconds,
        "export_mib": export.mib,
    }
    with copied(state) as other:
        found["delete_s"] = homebox(other, "log", "delete", name, "--yes").seconds
        talk = outline[-1].conversation
        found["delete_talk_s"] = homebox(other, "log", "delete", talk, "--yes").seconds
    return {**found, "state_mib": size / 2**20}


def kept_days(state: Path) -> dict[str, float]:
    """Time a retention run that erases half of the turns, and the next one, with nothing to do."""
    from homebox.memory.retention import expire
    from homebox.memory.state import open_state

    with copied(state) as other, open_state(other) as opened:
        count = opened.ledger.count()
        day = (BEGIN + count // 2 * APART).replace(tzinfo=UTC)
        gone = 0

        def let_go() -> None:
            nonlocal gone
            gone = expire(opened.ledger, 1, day)

        waits = longest_wait(opened.ledger, let_go)
        seconds, longest = waits
        nothing = timed(lambda: expire(opened.ledger, 1, day))
        return {
            "retention_per_s": gone / max(seconds, 1e-9),
            "retention_s": seconds,
            "retention_append_wait_ms": 1e3 * longest,
            "retention_nothing_ms": 1e3 * nothing,
        }


def longest_wait(ledger: Any, work: Callable[[], None]) -> tuple[float, float]:
    """Do something while turns are written; gives its seconds and the longest wait of a turn."""
    from homebox.memory.turns import now

    over, waits = threading.Event(), [0.0]

    def talk() -> None:
        for turn in turns(100_000, seed=11):
            if over.is_set():
                return
            waits.append(timed(lambda turn=turn: ledger.append(**{**turn, "time": now()})))
            time.sleep(0.02)

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        return timed(work), max(waits)
    finally:
        over.set()
        thread.join()


def learning(state: Path) -> dict[str, float]:
    """Read a ledger as the daemon does at its start and a run before it trains."""
    from homebox.hosting.memory import resident
    from homebox.learning.curriculum import Curriculum
    from homebox.learning.lessons import finding
    from homebox.learning.lessons.live import live_lessons
    from homebox.learning.reading.rule_files import NO_RULES
    from homebox.memory.ledger import ERASURES
    from homebox.memory.state import open_state

    finding.read_wordings()
    with open_state(state) as opened:
        ledger = opened.ledger
        begun, before = time.perf_counter(), resident().anonymous
        live = live_lessons(ledger, NO_RULES)
        steps: list[float] = []
        drained(finding.follow(live, ledger), steps)
        found: dict[str, float] = {"lessons_ready_s": time.perf_counter() - begun}
        found["reader_mib"] = (resident().anonymous - before) / 2**20
        before = resident().anonymous
        begun = time.perf_counter()
        signals = drained(finding.read_signals(ledger), steps)
        found["signals_s"] = time.perf_counter() - begun
        found["signals_mib"] = (resident().anonymous - before) / 2**20
        begun = time.perf_counter()
        erased = ledger.mark(ERASURES)
        selection = drained(finding.chosen(live, ledger, erased, ((), ""), signals), steps)
        found["select_s"] = time.perf_counter() - begun
        curriculum: Curriculum = selection.curriculum
        begun = time.perf_counter()
        name = curriculum.save(opened.store)
        found["curriculum_s"] = time.perf_counter() - begun
        found["curriculum_kb"] = len(opened.store.get(name)) / 1e3
        found["longest_step_ms"] = 1e3 * max(steps)
        found["lessons"] = len(ledger.lessons())
        found["lessons_alive"] = len(curriculum.lessons)
        return {**found, **_prompts(ledger), **_forgetting(opened), "most_mib": peak()}


def _prompts(ledger: Any) -> dict[str, float]:
    """Time the notes of a prompt: the first, one after a new lesson, and those in between."""
    from homebox.api.prompt_memory import PromptMemory
    from homebox.memory.lessons import Lesson

    memory = PromptMemory(ledger, lambda _: frozenset(), lambda text: len(text) // 4, 1024)

    def ask(number: int) -> None:
        said = f"What is my friend Kakaka's bike called? {number}"
        memory.noted([{"role": "user", "content": said}], "base")

    first = timed(lambda: ask(0))
    times = [timed(lambda number=number: ask(number)) for number in range(200)]
    told = []
    for number in range(TRIES):
        value = f"Tern {number}"
        ledger.add_lesson(Lesson("fact", f"buoy {number}", f"my buoy is {value}", value))
        told.append(timed(lambda number=number: ask(number)))
    return {
        "prompt_first_ms": 1e3 * first,
        "prompt_p95_ms": 1e3 * share(times, 0.95),
        "prompt_after_lesson_p95_ms": 1e3 * share(told, 0.95),
    }


def _forgetting(opened: Any) -> dict[str, float]:
    """Time forgetting one lesson, on the state as it is."""
    from homebox.learning.lessons.deciding import forgotten
    from homebox.memory.lessons import ALIVE

    told = [lesson for lesson in opened.ledger.lessons(ALIVE) if lesson.sources]
    name = told[len(told) // 2].hash
    return {"forget_s": timed(lambda: forgotten(opened.ledger, opened.lineage, name))}


def starts(state: Path) -> dict[str, float]:
    """Time how long a daemon takes until it serves, on this state and on an empty one."""
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty"
        none, full = [], []
        served(empty)  # what is compiled is kept from here on
        for _ in range(STARTS):
            none.append(served(empty))
            full.append(served(state))
    found = {"start_empty_s": share(none, 0.5), "start_s": share(full, 0.5)}
    return {**found, "start_more_s": found["start_s"] - found["start_empty_s"]}


def served(state: Path) -> float:
    """Start a daemon and end it; gives the seconds until it said that it serves."""
    begun = time.perf_counter()
    words = [*homebox_words(state, "serve"), "--port", "0", "--device", "cpu"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - begun
        process.terminate()
        process.communicate()
    if not re.search(r"serves .* on http", line):
        raise SystemExit(f"the daemon did not start: {line}")
    return seconds


def homebox_words(state: Path, *words: str) -> list[str]:
    """Return the command line of a command on a state."""
    given = [] if words[0].startswith("-") else ["--state", str(state)]
    return [sys.executable, "-m", "homebox", *words, *given]


def homebox(state: Path, *words: str) -> Ran:
    """Run a command to its end."""
    with tempfile.TemporaryFile() as out:
        begun = time.perf_counter()
        process = subprocess.Popen(homebox_words(state, *words), stdout=out)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - begun
        if process.returncode:
            raise SystemExit(f"homebox {' '.join(words)} ended with {process.returncode}")
        return Ran(seconds, used.ru_maxrss / 1024, out.seek(0, os.SEEK_END))


@contextmanager
def copied(state: Path) -> Iterator[Path]:
    """Give a copy of a state beside it, and remove it afterwards."""
    with tempfile.TemporaryDirectory(dir=state.parent) as folder:
        other = Path(folder) / "state"
        shutil.copytree(state, other)
        yield other


def drained(steps: Any, times: list[float]) -> Any:
    """Take all steps, noting how long each took; gives their result."""
    while True:
        begun = time.perf_counter()
        try:
            next(steps)
        except StopIteration as over:
            return over.value
        finally:
            times.append(time.perf_counter() - begun)


def timed(work: Callable[[], Any]) -> float:
    """Return the seconds that something takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def share(values: Sequence[float], part: float) -> float:
    """Return the value that a part of all do not exceed."""
    return sorted(values)[min(int(part * len(values)), len(values) - 1)]


def peak() -> float:
    """Return the most MiB that this process ever had."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


PARTS: dict[str, Callable[[Path], dict[str, float]]] = {
    "asked": asked,
    "commands": commands,
    "starts": starts,
    "retention": kept_days,
    "learning": learning,
}


def alone(part: str, state: Path) -> dict[str, float]:
    """Run one part in a process of its own, so that its memory is its own."""
    words = [sys.executable, "-m", "bench.ledger", "--part", part, "--keep", str(state.parent)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{part}: {done.stderr}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def missed(found: dict[str, float]) -> list[str]:
    """Return the names of the figures that do not reach what they should."""
    return [
        name
        for name, limit in REACH.items()
        if name in found
        and (found[name] < limit if name.endswith("per_s") else found[name] > limit)
    ]


def report(found: dict[str, float]) -> None:
    """Print the figures for a person."""
    wrong = missed(found)
    for name, value in found.items():
        limit = REACH.get(name)
        sign = "at least" if name.endswith("per_s") else "at most"
        told = f"  ({sign} {limit:g}{', MISSED' if name in wrong else ''})" if limit else ""
        print(f"{name:28} {value:12,.1f}{told}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 1 if a figure misses what it should reach."""
    parser = argparse.ArgumentParser(prog="python -m bench.ledger", description=__doc__)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--telling", type=int, default=20, help="one in so many turns tells a fact")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", type=Path, help="folder for the state; it is used again if there")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.part:
        with copied(args.keep / "state") as state:
            print(json.dumps(PARTS[args.part](state)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        state = (args.keep or Path(folder)) / "state"
        found: dict[str, float] = {"turns": args.turns}
        if not state.exists():
            state.parent.mkdir(parents=True, exist_ok=True)
            found |= write(state, args.turns, args.telling)
        for part in args.parts:
            found |= alone(part, state)
    if args.json:
        print(json.dumps({**found, "when": f"{datetime.now(UTC):%F}", "missed": missed(found)}))
    else:
        report(found)
    return 1 if missed(found) else 0


if __name__ == "__main__":
    sys.exit(main())
