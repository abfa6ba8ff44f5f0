"""Keep bytes between runs, keyed by a hash: compiled kernels, scheduled programs.

One idea: an entry is never trusted, only verified. Every file starts with the sha256 of the rest,
is written beside its name and renamed into place, and is dropped if it does not match. Invariant:
a cache changes how long something takes and nothing else; without a usable folder all still works.
"""

import contextlib
import hashlib
import logging
import os
import stat
from pathlib import Path

log = logging.getLogger(__name__)

_HASH = 32
_LIMIT = 1 << 30  # bytes of one cache folder, after which the oldest entries go


def cache_root() -> Path:
    """Return the folder of all caches: $HOMEBOX_CACHE_DIR, else homebox in $XDG_CACHE_HOME."""
    if given := os.environ.get("HOMEBOX_CACHE_DIR"):
        return Path(given)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "homebox"
    return Path("~/.cache/homebox").expanduser()


def usable_folder(folder: Path) -> bool:
    """Create a cache folder; refuse one that others can write to, because entries are executed."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError) as error:
        log.warning("working without the cache %s: %s", folder, error)
        return False
    if hasattr(os, "getuid") and status.st_uid != os.getuid():
        log.warning("working without the cache %s: it belongs to another user", folder)
        return False
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        log.warning("working without the cache %s: other users can write to it", folder)
        return False
    return True


class DiskCache:
    """A folder of verified entries; a key is a hex digest."""

    def __init__(self, folder: Path, limit: int = _LIMIT) -> None:
        self.folder = folder
        self._limit = limit
        self._usable: bool | None = None
        self._pruned = False

    def get(self, key: str) -> bytes | None:
        """Return the bytes stored under `key`; None if absent or damaged (which removes them)."""
        if not self._ready():
            return None
        path = self.folder / key
        try:
            data = path.read_bytes()
        except OSError:
            return None
        body = data[_HASH:]
        if len(data) >= _HASH and hashlib.sha256(body).digest() == data[:_HASH]:
            return body
        log.warning("dropping the damaged cache entry %s", path)
        with contextlib.suppress(OSError):
            path.unlink()
        return None

    def put(self, key: str, body: bytes) -> None:
        """Store bytes under `key`; a full disk or a read-only folder is not an error."""
        if not self._ready():
            return
        import tempfile  # late: a start that finds everything does not need it

        temporary = ""
        try:
            handle, temporary = tempfile.mkstemp(prefix=key[:16], suffix=".tmp", dir=self.folder)
            with open(handle, "wb") as file:  # noqa: PTH123 -- a descriptor, not a path
                file.write(hashlib.sha256(body).digest() + body)
            Path(temporary).replace(self.folder / key)
        except OSError as error:
            log.warning("cannot write to the cache %s: %s", self.folder, error)
            if temporary:
                with contextlib.suppress(OSError):
                    Path(temporary).unlink()
            return
        self._prune_once()

    def _ready(self) -> bool:
        if self._usable is None:
            self._usable = usable_folder(self.folder)
        return self._usable

    def _prune_once(self) -> None:
        """Remove the oldest entries above the limit, once per process."""
        if self._pruned:
            return
        self._pruned = True
        with contextlib.suppress(OSError):
            entries = []
            with os.scandir(self.folder) as found:
                for entry in found:
                    with contextlib.suppress(OSError):
                        status = entry.stat()
                        entries.append((status.st_mtime, status.st_size, entry.path))
            excess = sum(size for _, size, _ in entries) - self._limit
            for _, size, path in sorted(entries):
                if excess <= 0:
                    return
                with contextlib.suppress(OSError):
                    Path(path).unlink()
                    excess -= size


def digest(text: str) -> str:
    """Return a short name for a kernel's text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
