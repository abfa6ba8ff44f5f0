"""One SQLite file with one writer thread; what it acknowledges is on the disk.

The one idea is group commit: writes that wait at the same time share one transaction and one sync,
each in a savepoint of its own, so that a refused one harms no other. Readers open short-lived
connections and never wait for the writer (WAL). Invariant: a Future that `write` returned resolves
only after COMMIT with synchronous=FULL.
"""

import contextlib
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from homebox.errors import DiskFullError, HomeboxError, StateError
from homebox.memory.durable import explained, sync_directory
from homebox.memory.migrations import APPLICATION_ID, STEPS

GROUP = 64  # writes that may share a commit
T = TypeVar("T")


@dataclass(frozen=True)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    future: "Future[Any]"


class Database:
    """The ledger's file; `write` from any thread, `reader` in any thread."""

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self.path = path
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._thread: threading.Thread | None = None
        if read_only:
            if not path.is_file():
                raise StateError(f"{path} is missing; the state directory has no ledger")
            with self._explained(), self.reader() as connection:
                _check(connection, path)
            return
        with explained("make", path):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        with self._explained():
            connection = self._connect()
            try:
                _check(connection, path)
                _migrate(connection, path)
            except BaseException:
                connection.close()
                raise
        with explained("sync", path.parent):
            sync_directory(path.parent)
        self._thread = threading.Thread(
            target=self._run, args=(connection,), name="ledger", daemon=True
        )
        self._thread.start()

    def write(self, work: Callable[[sqlite3.Connection], T]) -> "Future[T]":
        """Run `work` in a transaction on the writer thread; the Future resolves once it is durable.

        The Future carries what `work` returns or raises, or StateError if the disk refused.
        """
        future: Future[T] = Future()
        with self._closing:
            if self._thread is None:
                raise StateError(f"{self.path} is closed or opened for reading only")
            self._queue.put(_Job(work, future))
        return future

    @contextlib.contextmanager
    def reader(self) -> Iterator[sqlite3.Connection]:
        """Open a connection that sees everything acknowledged and can change nothing."""
        with self._explained():
            connection = self._connect()
            try:
                connection.execute("PRAGMA query_only = ON")
                yield connection
            finally:
                connection.close()

    def checkpoint(self) -> None:
        """Move everything from the write-ahead log into the file and empty the log.

        Raises StateError if somebody reads the file for so long that this cannot be done.
        """
        with self._explained(), contextlib.closing(self._connect()) as connection:
            (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StateError(
                f"{self.path} is being read by another program, so its log still holds what was "
                'erased; end that program, then "homebox forget --everywhere"'
            )

    def empty(self) -> None:
        """Leave nothing of what was deleted: not in the log, nor in copies of older schemas."""
        self.checkpoint()
        for copy in self.path.parent.glob(f"{self.path.name}.v*"):
            with explained("remove", copy):
                copy.unlink(missing_ok=True)

    def close(self) -> None:
        """Finish all pending writes and close the file; may be called twice."""
        with self._closing:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._queue.put(None)
        if thread is not None:
            thread.join()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=10.0, isolation_level=None, check_same_thread=False
        )
        for pragma in ("synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def _run(self, connection: sqlite3.Connection) -> None:
        running = True
        while running:
            batch = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while len(batch) < GROUP:
                    batch.append(self._queue.get_nowait())
            running = None not in batch
            jobs = [job for job in batch if job is not None]
            if jobs:
                _commit(connection, jobs, self.path)
        connection.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise _failure(self.path, error) from error


def _commit(connection: sqlite3.Connection, jobs: list[_Job], path: Path) -> None:
    """Run a group of jobs in one transaction and resolve their Futures after its commit."""
    outcomes: list[tuple[Any, Exception | None]] = []
    try:
        connection.execute("BEGIN IMMEDIATE")
        for job in jobs:
            connection.execute("SAVEPOINT job")
            try:
                outcomes.append((job.work(connection), None))
            except Exception as error:
                # A full disk ends the whole transaction; then this fails too, and so do all jobs.
                connection.execute("ROLLBACK TO job")
                outcomes.append((None, error))
            connection.execute("RELEASE job")
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        outcomes = [(None, error)] * len(jobs)
    for job, (result, problem) in zip(jobs, outcomes, strict=True):
        if problem is None:
            job.future.set_result(result)
        elif isinstance(problem, sqlite3.Error):
            failure = _failure(path, problem)
            failure.__cause__ = problem
            job.future.set_exception(failure)
        else:
            job.future.set_exception(problem)


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse files that are not ours or come from a newer homebox, before anything is changed."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if tables and owner != APPLICATION_ID:
        raise StateError(f"{path} is a database, but not homebox's; choose another state directory")
    if version > len(STEPS):
        raise StateError(
            f"{path} has schema {version}, made by a newer homebox; this one knows up to "
            f"{len(STEPS)}: update homebox"
        )


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the schema up to date in one transaction; an old database is copied first."""
    connection.execute("PRAGMA journal_mode = WAL")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == len(STEPS):
        return
    if version > 0:
        _keep_copy(connection, path.with_name(f"{path.name}.v{version}"))
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in STEPS[version:]:
            for statement in step:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(STEPS)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _keep_copy(connection: sqlite3.Connection, path: Path) -> None:
    """Copy the database as it is to `path`, durably, before a migration touches it."""
    temporary = path.with_name(path.name + ".tmp")
    with explained("copy the old ledger to", path):
        temporary.unlink(missing_ok=True)
        os.close(os.open(temporary, os.O_RDWR | os.O_CREAT, 0o600))
        with contextlib.closing(sqlite3.connect(temporary)) as copy:
            connection.backup(copy)
        handle = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        temporary.rename(path)
        sync_directory(path.parent)


def _failure(path: Path, error: sqlite3.Error) -> HomeboxError:
    full = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL
    return (DiskFullError if full else StateError)(
        f"{path}: {error}; free space or check the disk, or restore the file from a backup"
    )
