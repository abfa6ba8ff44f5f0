"""Run one operation on copies of a state, and cut it off at each of its system calls in turn.

Started as a program (`python -m tests.crash.calls SCENARIO MODE FOLDER PATCH`), it copies
FOLDER/prepared to FOLDER/0, FOLDER/1, ... and in the n-th copy runs the operation in a child of its
own that ends at the n-th call. It prints one JSON line for each: the call, and how the child ended.
This process has no threads, so that it may fork.
"""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from homebox.errors import HomeboxError
from homebox.memory import durable
from homebox.memory.lineage import refs
from homebox.memory.lineage.refs import Refs
from homebox.memory.state import open_state
from tests.unit.memory import kit

CALLS = ("open", "write", "fsync", "rename", "mkdir", "unlink", "ftruncate", "pwrite")
NEW_OBJECT = b"a new object" * 500


def init(path: Path) -> None:
    open_state(path / "state").close()


def put(path: Path) -> None:
    with open_state(path / "state") as state:
        state.store.put(NEW_OBJECT)


def promote(path: Path) -> None:
    with open_state(path / "state") as state:
        kit.promote(state, "two", *(item.hash for item in state.ledger.lessons()))


def rollback(path: Path) -> None:
    with open_state(path / "state") as state:
        state.lineage.rollback(kit.BASE, "base", "owner")


def keep(path: Path) -> None:
    with open_state(path / "state") as state:
        state.lineage.keep(kit.entry(state, kit.checkpoint(state, "imported")))


SCENARIOS: dict[str, Callable[[Path], None]] = {
    "init": init,
    "put": put,
    "promote": promote,
    "rollback": rollback,
    "keep": keep,
}


def write_in_place(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(handle, data)
    os.fsync(handle)
    os.close(handle)


def head_first(self: Refs, base: str, old: str, new: str, line: dict[str, Any]) -> None:
    """Move HEAD before the reflog says so."""
    heads = {**self.heads(), base: new}
    refs.replace_file(self.folder / "HEAD", refs.canonical_json(heads))
    MOVE(self, base, old, new, line)


MOVE = Refs.move


def patch(name: str) -> None:
    """Take one protection away, for the control runs."""
    if name == "in place":
        for module in ("store", "lineage.refs", "lineage.gone", "state"):
            sys.modules[f"homebox.memory.{module}"].replace_file = write_in_place  # type: ignore[attr-defined]
        durable.replace_file = write_in_place
    elif name == "head first":
        Refs.move = head_first  # type: ignore[assignment, method-assign]
    elif name != "none":
        raise ValueError(name)


def cut_at(number: int, mode: str, told: int) -> None:
    """Wrap the calls: the one with that number (from 0) is the last, or fails once."""
    count = 0

    def wrapped(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            mine, count = count, count + 1
            if mine != number:
                # What a killed process wrote is in the system's memory, synced or not.
                return None if name == "fsync" else real(*arguments, **options)
            os_write(told, name.encode())
            if mode == "error":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if name == "write":
                real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
            return os.kill(os.getpid(), signal.SIGKILL)

        return call

    os_write = os.write
    for name in CALLS:
        setattr(os, name, wrapped(name, getattr(os, name)))


def run(scenario: str, mode: str, folder: Path, number: int) -> dict[str, Any]:
    copy = folder / str(number)
    shutil.copytree(folder / "prepared", copy)
    heard, told = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            cut_at(number, mode, told)
            SCENARIOS[scenario](copy)
            code = 0
        except HomeboxError:
            code = 5
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(told)
    call = os.read(heard, 100).decode()
    os.close(heard)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {"number": number, "call": call, "status": status}


def cut_everywhere(
    scenario: str, mode: str, folder: Path, protection_off: str = "none"
) -> list[dict[str, Any]]:
    """Start the program and return its lines; the last one is a run that was not cut."""
    command = [sys.executable, "-m", "tests.crash.calls", scenario, mode, str(folder)]
    done = subprocess.run(
        [*command, protection_off],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def main() -> None:
    scenario, mode, folder, protection_off = sys.argv[1:]
    patch(protection_off)
    number, call = 0, "any"
    while call:
        line = run(scenario, mode, Path(folder), number)
        print(json.dumps(line), flush=True)
        number, call = number + 1, line["call"]


if __name__ == "__main__":
    main()
