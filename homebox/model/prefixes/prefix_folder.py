"""The folder of prefixes: which files there are, which go first, and new ones that come whole.

One idea: a file is written under another name, locked while somebody writes it, and gets its own
name when it is complete and on the disk; an unlocked one without its name is a dead writer's.
Invariant: under a name there is a whole file or none, whenever the process is killed; all files
together take no more than the budget, and those unused for longest go first.
"""

import errno
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from homebox.engine.codegen.cache import cache_root, usable_folder

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)

FOLDER = "prefixes"  # of the cache
SUFFIX, UNFINISHED = ".prefix", ".tmp"
SPARE = 1 << 30  # bytes of the disk that are left to others


def forget_kept_prompts() -> None:
    """Remove all that any model keeps of prompts: they hold words that are to be forgotten."""
    folder = PrefixFolder(cache_root() / FOLDER, 0)
    folder._sweep()
    for path in folder.named(""):
        folder.remove(path)


class PrefixFolder:
    """A folder of files of prefixes that together take at most `budget` bytes.

    Nothing is made before it is needed. `spare` bytes of the disk stay free.
    """

    def __init__(self, path: Path, budget: int, spare: int = SPARE) -> None:
        self.path = path
        self.budget = budget
        self.spare = spare
        self._usable: bool | None = None

    def usable(self) -> bool:
        """Whether files can be kept; the first call makes the folder ours and sweeps it."""
        if self._usable is None:
            self._usable = usable_folder(self.path)
            if self._usable:
                with suppress(OSError):
                    self.path.chmod(0o700)
                self._sweep()
        return self._usable

    def version(self) -> int:
        """Return a number that is another one when files came or went."""
        try:
            return self.path.stat().st_mtime_ns
        except OSError:
            return 0

    def named(self, beginning: str) -> list[Path]:
        """Return the files whose names begin so."""
        try:
            return sorted(self.path.glob(f"{beginning}*{SUFFIX}"))
        except OSError as error:
            log.warning("cannot look for kept prefixes in %s: %s", self.path, error)
            return []

    def used(self, path: Path) -> None:
        """Count a file as used now."""
        with suppress(OSError):
            os.utime(path)

    def remove(self, path: Path) -> None:
        """Remove a file, if it is still there."""
        with suppress(OSError):
            path.unlink()

    def create(self, name: str, size: int) -> "NewFile":
        """Make room for a file and begin it; raises OSError where there is none."""
        self._make_room(size, keep=name)
        return NewFile(self.path, name)

    def _make_room(self, size: int, keep: str) -> None:
        """Remove the files unused for longest until `size` bytes more are within the budget."""
        if size > self.budget:
            raise OSError(errno.EFBIG, f"it would take {size >> 20} MiB of {self.budget >> 20}")
        entries = sorted(self._entries())
        total = sum(each for _, each, _ in entries)
        free = shutil.disk_usage(self.path).free - self.spare
        for _, each, path in entries:
            if total + size <= self.budget and size <= free:
                break
            if path.suffix == SUFFIX and path.name != keep:
                log.info("removing the kept prefix %s, unused for longest", path.name)
                path.unlink()
                total, free = total - each, free + each
        if size > free or total + size > self.budget:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _entries(self) -> Iterator[tuple[int, int, Path]]:
        """Yield time of use, size and path of all that lies there."""
        for path in self.path.iterdir():
            with suppress(OSError):
                status = path.lstat()
                yield status.st_mtime_ns, status.st_size, path

    def _sweep(self) -> None:
        """Remove unfinished files whose writers are dead."""
        for path in self.path.glob(f"*{UNFINISHED}"):
            with suppress(OSError):
                handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
                try:
                    if _locked(handle):
                        path.unlink()
                finally:
                    os.close(handle)


class NewFile:
    """A file that is being written; `handle` is open for it."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self.handle, path = tempfile.mkstemp(prefix=name[:24], suffix=UNFINISHED, dir=folder)
        self._path = Path(path)
        _locked(self.handle)

    def commit(self) -> Path:
        """Give a file that is on the disk its name."""
        path = self._folder / self._name
        self._path.replace(path)
        self._close()
        handle = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        return path

    def abandon(self) -> None:
        """Remove it; safe to call at any time."""
        if self.handle >= 0:
            with suppress(OSError):
                self._path.unlink()
            self._close()

    def _close(self) -> None:
        handle, self.handle = self.handle, -1
        if handle >= 0:
            os.close(handle)


def _locked(handle: int) -> bool:
    """Lock a file if nobody else has; False also where there are no such locks."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
