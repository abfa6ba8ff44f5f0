"""Write files so that neither a crash nor a power cut can leave a mixture.

A file is replaced by writing a temporary one beside it, syncing it, renaming it over the old one
and syncing the directory. Only after that is a write acknowledged. All state outside SQLite goes
through this module. Invariant: a `.tmp` file is never read, and may be deleted when no writer runs.
"""

import contextlib
import errno
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from homebox.errors import DiskFullError, StateError

SUFFIX = ".tmp"
_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_numbers = itertools.count()


def replace_file(path: Path, *data: bytes | memoryview) -> None:
    """Put `data` (mode 0600) in the place of `path`; readers see the old or the new bytes.

    Several pieces are written one behind the other. Raises StateError; a failed write leaves the
    old file untouched.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{next(_numbers)}{SUFFIX}")
    with explained("write", path):
        try:
            _write_new(temporary, data)
            temporary.rename(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync_directory(path.parent)


def append_line(path: Path, line: bytes) -> None:
    """Add one line (without its newline) to a file that grows by whole lines.

    The rest of a line that a crash cut short was never acknowledged and is cut off first. A failed
    append takes its own bytes back. Raises StateError.
    """
    with explained("append to", path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600)
        try:
            size = os.fstat(handle).st_size
            end = os.pread(handle, size, 0).rfind(b"\n") + 1
            if end != size:
                os.ftruncate(handle, end)
            try:
                os.lseek(handle, end, os.SEEK_SET)
                _write_all(handle, line + b"\n")
                os.fsync(handle)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(handle, end)
                raise
        finally:
            os.close(handle)
        if end == 0:
            sync_directory(path.parent)


def whole_lines(path: Path) -> list[bytes]:
    """Read the acknowledged lines of a file that `append_line` writes; none if it is absent."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    return data[: data.rfind(b"\n") + 1].splitlines()


def make_directory(path: Path) -> None:
    """Make a directory (mode 0700) if it is absent, and make its name durable either way."""
    with explained("make", path):
        with contextlib.suppress(FileExistsError):
            path.mkdir(0o700)
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    if os.name == "nt":
        return  # directories cannot be opened there
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _FLAGS)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_stale(directory: Path) -> int:
    """Delete what crashed writers left in `directory`; return how many files that were."""
    count = 0
    with explained("clean", directory):
        for path in directory.glob(f"*{SUFFIX}"):
            path.unlink()
            count += 1
    return count


@contextlib.contextmanager
def explained(action: str, path: Path) -> Iterator[None]:
    """Turn the operating system's errors into one line that a person can act upon."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        kind = DiskFullError if error.errno in _FULL else StateError
        raise kind(
            f"cannot {action} {path}: {reason}; free space or check the disk and the permissions"
        ) from error


def _write_new(path: Path, data: Iterable[bytes | memoryview]) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)
    try:
        for piece in data:
            _write_all(handle, piece)
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_all(handle: int, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]
