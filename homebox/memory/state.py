"""The state directory: made, recognised, locked and opened in one place.

The one idea: `homebox.id` is written last, so a directory that has it is complete, and one that was
named in the configuration but lacks it is a disk that failed to mount, not a new assistant.
Invariant: at most one process has a state directory open for writing.
"""

import contextlib
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from homebox.errors import StateError
from homebox.memory.durable import (
    SUFFIX,
    explained,
    make_directory,
    remove_stale,
    replace_file,
)
from homebox.memory.ledger import Ledger
from homebox.memory.lineage import Lineage
from homebox.memory.store import Store, is_name

try:
    import fcntl
except ImportError:  # not on Windows, where the package must import all the same
    fcntl = None  # type: ignore[assignment]

IDENTITY = "homebox.id"
LOCK = "lock"
LEDGER = "ledger.db"


@dataclass(frozen=True)
class State:
    """An open state directory; a context manager that closes itself."""

    path: Path
    id: str  # 64 hexadecimal digits, drawn when the directory was made
    store: Store
    ledger: Ledger
    lineage: Lineage
    _lock: int | None = field(default=None, repr=False)

    def close(self) -> None:
        """Finish pending writes and let the next process in."""
        self.ledger.close()
        if self._lock is not None:
            with contextlib.suppress(OSError):
                os.close(self._lock)

    def __enter__(self) -> "State":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_state(
    path: Path, configured: bool = False, read_only: bool = False, redact: bool = True
) -> State:
    """Open a state directory, for writing by default.

    Secrets are replaced in what is written to its ledger, unless `redact` is false.

    A missing or empty directory is initialised, unless it is `configured` (named in the
    configuration file) or opened `read_only`. Read-only needs no lock and works beside a daemon.
    Raises StateError: foreign directory, damage, or in use by another process (its pid is named).
    """
    path = path.absolute()
    if read_only:
        _require_identity(path)
        ledger = Ledger(path / LEDGER, read_only=True)
        store = Store(path / "objects")
        return State(path, _identity(path), store, ledger, Lineage(path, store, ledger))
    if configured:
        _require_identity(path)
    else:
        init_state(path)
    lock = _lock(path)
    try:
        remove_stale(path)
        remove_stale(path / "refs")
        # SQLite would quietly make a new one, and the assistant would have forgotten everything.
        if not (path / LEDGER).is_file() or not (path / LEDGER).stat().st_size:
            raise StateError(
                f"{path / LEDGER} is missing or empty; restore it from a backup of the state"
            )
        store = Store(path / "objects")
        store.clean()
        ledger = Ledger(path / LEDGER, redact=redact)
        try:
            lineage = Lineage(path, store, ledger)
            lineage.settle()
            return State(path, _identity(path), store, ledger, lineage, lock)
        except BaseException:
            ledger.close()
            raise
    except BaseException:
        os.close(lock)
        raise


def init_state(path: Path) -> bool:
    """Make a state directory where there is none; False if there was one already.

    A directory with foreign files in it is refused with StateError.
    """
    path = path.absolute()
    if (path / IDENTITY).exists():
        return False
    _refuse_foreign(path)
    for parent in reversed(path.parents):
        if not parent.exists():
            make_directory(parent)
    make_directory(path)
    lock = _lock(path)
    try:
        make_directory(path / "objects")
        Lineage.initialise(path)
        ledger = Ledger(path / LEDGER)
        written = ledger.count()
        ledger.close()
        if written:
            raise StateError(
                f"{path} has a ledger with {written} turns but no {IDENTITY}; restore that file "
                "from a backup of the state"
            )
        if not (path / IDENTITY).exists():
            replace_file(path / IDENTITY, f"{secrets.token_hex(32)}\n".encode())
    finally:
        os.close(lock)
    return True


def _refuse_foreign(path: Path) -> None:
    """Let pass nothing, an empty directory, or one whose initialisation was cut short."""
    if path.is_symlink() and not path.exists():
        raise StateError(f"{path} is a link to nothing; mount its target, or choose another")
    if path.exists() and not path.is_dir():
        raise StateError(f"{path} is a file; --state needs a directory")
    ledger = {LEDGER, f"{LEDGER}-wal", f"{LEDGER}-shm"}
    ours = {"objects", "refs", LOCK, "lost+found", *ledger}
    with explained("read", path):
        names = {item.name for item in path.iterdir()} if path.exists() else set()
    foreign = sorted(name for name in names - ours if not name.endswith(SUFFIX))
    if foreign or (path / "refs" / "reflog").exists() or any(path.glob("objects/*")):
        found = ", ".join(foreign[:3]) or "refs, objects"
        raise StateError(
            f"{path} has no {IDENTITY} but other files ({found}); "
            "choose an empty or missing directory, or restore the file from a backup"
        )


def _require_identity(path: Path) -> None:
    if not (path / IDENTITY).is_file():
        raise StateError(
            f"{path} is no state directory ({IDENTITY} is missing); mount its disk, or make one "
            f'with "homebox init --state {path}"'
        )


def _identity(path: Path) -> str:
    with explained("read", path / IDENTITY):
        text = (path / IDENTITY).read_text(encoding="ascii", errors="replace").strip()
    if not is_name(text):
        raise StateError(f"{path / IDENTITY} is damaged; restore it from a backup of the state")
    return text


def _lock(path: Path) -> int:
    """Take the directory for this process; the kernel frees it however the process ends."""
    if fcntl is None:
        raise StateError("homebox keeps its state on Linux only; this system cannot lock files")
    with explained("lock", path):
        _tighten(path)
        handle = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(handle)
        raise StateError(
            f"{path} is in use by process {owner}; stop it, or choose another with --state"
        ) from error
    with contextlib.suppress(OSError):  # the number is a courtesy; a full disk is no reason to stop
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle


def _tighten(path: Path) -> None:
    """Keep other users of the machine out, however the directory was made."""
    if path.stat().st_mode & 0o077:
        path.chmod(0o700)
