"""Writes a kept prefix over an older one, and is killed at each of its system calls in turn.

`python -m tests.crash.prefix_process FOLDER PATCH` forks a child for each call; the n-th works in
FOLDER/n and ends at its n-th call. It prints the number of calls. This process has no threads, so
that it may fork. With the patch "in place" files are written under their names, for the control.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from homebox.model.prefixes import prefix_folder
from homebox.model.prefixes.prefix_file import PrefixReader, PrefixWriter, file_bytes
from homebox.model.prefixes.prefix_folder import NewFile, PrefixFolder

SIZE, PAGES = 5000, 4
NAME = "a-1.prefix"
FACTS = {"base": "b" * 64}
IDS = np.arange(64 * PAGES, dtype=np.int32)
CALLS = ("pwrite", "fsync", "replace", "open", "unlink", "flock")


def content(value: int) -> np.ndarray:
    return np.full((PAGES, SIZE), value, np.uint8)


def write(folder: Path, value: int) -> None:
    place = PrefixFolder(folder, 1 << 20, spare=0)
    place.usable()
    file = place.create(NAME, file_bytes(FACTS, IDS, SIZE))
    writer = PrefixWriter(file.handle, FACTS, IDS, SIZE)
    for page in content(value):
        writer.page(page)
    writer.finish()
    file.commit()


def read(folder: Path) -> int:
    """Return the value of all bytes that are served; raises what the reader does."""
    with PrefixReader(folder / NAME, FACTS, SIZE) as reader:
        values = {int(v) for i in range(PAGES) for v in np.unique(reader.page(i))}
    (value,) = values
    return value


def kill_at(number: int) -> None:
    """Let the call of that number (from 0) be the last; a write is half done then."""
    count = 0

    def wrapped(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            mine, count = count, count + 1
            if mine != number:
                # What a killed process wrote is in the system's memory, synced or not.
                return None if name == "fsync" else real(*arguments, **named)
            if name == "pwrite":
                real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2], arguments[2])
            return os.kill(os.getpid(), signal.SIGKILL)

        return call

    for name in CALLS:
        room: Any = prefix_folder.fcntl if name == "flock" else os
        if name == "replace":
            Path.replace = wrapped(name, Path.replace)  # type: ignore[method-assign]
        else:
            setattr(room, name, wrapped(name, getattr(room, name)))


def in_place(self: NewFile, folder: Path, name: str) -> None:
    self._folder, self._name, self._path = folder, name, folder / name
    self.handle = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o600)


def main() -> None:
    folder, patch = Path(sys.argv[1]), sys.argv[2]
    if patch == "in place":
        NewFile.__init__ = in_place  # type: ignore[method-assign]
    number = 0
    while True:
        place = folder / str(number)
        write(place, 1)
        child = os.fork()
        if child == 0:
            kill_at(number)
            write(place, 2)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            break
        number += 1
    print(number)


if __name__ == "__main__":
    main()
