"""Brings one file here: continued where it broke off, hashed while it comes, compared at the end.

The one idea: what is on the disk of a file is a beginning of it, and its hash decides at the end,
so a broken connection costs nothing but time and a wrong byte can never pass.
Invariant: a file whose name does not end in .part is whole, has the hash that was asked for, and is
on the disk.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import httpx2
import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils._http import hf_raise_for_status

from homebox.errors import PullError
from homebox.hub.catalogue import amount
from homebox.hub.remote import Hub, RemoteFile, Repository
from homebox.memory.durable import sync_directory

PART = ".part"
TRIES = 5  # without a byte in between
WAIT, _LONGEST = 1.0, 60.0  # seconds between tries: at first, and at most
_PIECE = 1 << 20
_BUSY = (408, 429, 500, 502, 503, 504)

Tell = Callable[[int], None]  # takes how many bytes of the file are here


class Download:
    """One file on its way to `target`."""

    def __init__(self, hub: Hub, repository: Repository, file: RemoteFile, target: Path) -> None:
        self.file, self.target = file, target
        self.part = target.with_name(target.name + PART)
        self._hub, self._repository = hub, repository

    @property
    def here(self) -> int:
        """How many bytes of the file are here already."""
        for path in (self.target, self.part):
            with contextlib.suppress(FileNotFoundError):
                return min(path.stat().st_size, self.file.size)
        return 0

    def run(self, tell: Tell) -> str:
        """Bring the file here and return its sha256; raises PullError and ModelNotFoundError."""
        with self._explained():
            if self.target.exists() and self.target.stat().st_nlink > 1:
                self.target.unlink()  # a link to an object that is not what it was
            elif self.target.exists():
                self.target.replace(self.part)  # an earlier run brought it; it is hashed again
            kept = self.here > 0
            digest = self._whole(tell)
            if digest is None and kept:
                # What an earlier run left may have lost its end in a power cut.
                digest = self._whole(tell)
            if digest is None:
                raise PullError(
                    f"{self.file.name} of {self._repository.repo} arrived with another hash than "
                    f"{self._hub.endpoint} lists, and was thrown away; somebody on the way changed "
                    "it, or the hub is broken. Try again later"
                )
            self.part.replace(self.target)
            sync_directory(self.target.parent)
        return digest

    def beginning(self, size: int, tell: Tell) -> Path:
        """Bring the first bytes of the file here; return where they are."""
        with self._explained(), Growing(self.part, self.file.size) as growing:
            self._fetch(growing, min(size, self.file.size), tell)
        return self.part

    def _whole(self, tell: Tell) -> str | None:
        """Bring the rest here; return the sha256, or None and drop it all if it is not the file."""
        with Growing(self.part, self.file.size) as growing:
            self._fetch(growing, self.file.size, tell)
            os.fsync(growing.handle)
            digest = growing.digest
        listed = digest if len(self.file.digest) == 64 else git_hash(self.part, self.file.size)
        if listed == self.file.digest:
            return digest
        self.part.unlink()
        return None

    def _fetch(self, growing: "Growing", size: int, tell: Tell) -> None:
        """Ask until `size` bytes are here, or until nothing comes any more."""
        failed = 0
        tell(growing.size)
        while growing.size < size:
            before, pause = growing.size, 0.0
            problem: Exception = PullError("the connection ended early")
            try:
                with self._hub.explained(self._repository.repo, self._repository.commit):
                    self._stream(growing, size, tell)
            except PullError as error:
                pause = _pause(error)
                problem = error
            if growing.size >= size:
                return
            failed = 1 if growing.size > before else failed + 1
            if failed >= TRIES:
                raise PullError(
                    f"{self.file.name}: gave up after {failed} tries: {problem}; what came is "
                    "kept, and the same command goes on from there"
                ) from problem
            time.sleep(min(max(pause, WAIT * 2 ** (failed - 1)), _LONGEST))

    def _stream(self, growing: "Growing", size: int, tell: Tell) -> None:
        """Take what one answer brings."""
        headers = self._hub.headers
        if growing.size or size < self.file.size:
            headers["range"] = f"bytes={growing.size}-{size - 1}"
        address = self._hub.address(self._repository, self.file.name)
        with huggingface_hub.get_session().stream("GET", address, headers=headers) as response:
            hf_raise_for_status(response)
            where = response.headers.get("content-range", "")
            if response.status_code != 206:
                growing.drop()  # this server only sends whole files
            elif not where.startswith(f"bytes {growing.size}-"):
                raise PullError(f"{self.file.name}: asked from {growing.size}, got {where[:80]!a}")
            # Without a size: pieces of one would be gathered, and lost when the connection breaks.
            for piece in response.iter_bytes():
                if growing.size + len(piece) > self.file.size:
                    raise PullError(
                        f"{self.file.name} of {self._repository.repo} is longer than the "
                        f"{self.file.size} bytes that {self._hub.endpoint} lists; it was not taken"
                    )
                growing.write(piece)
                tell(growing.size)
                if growing.size >= size:
                    return

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what the disk refuses into an error for people."""
        try:
            yield
        except OSError as error:
            raise PullError(
                f"cannot write {self.target}: {error.strerror or error}; {amount(self.file.size)} "
                "are needed. Free space there, then run the same command: what came is kept"
            ) from error


class Growing:
    """The beginning of a file, which is hashed as it grows; opening it hashes what is there."""

    def __init__(self, path: Path, most: int) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self.handle = os.open(path, flags, 0o600)
        self.size = 0
        self._hasher = hashlib.sha256()
        try:
            if os.fstat(self.handle).st_size > most:
                os.ftruncate(self.handle, 0)
            while piece := os.read(self.handle, _PIECE):
                self._hasher.update(piece)
                self.size += len(piece)
        except BaseException:
            os.close(self.handle)
            raise

    def __enter__(self) -> "Growing":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self.handle)

    @property
    def digest(self) -> str:
        """The sha256 of what is here."""
        return self._hasher.hexdigest()

    def write(self, data: bytes) -> None:
        """Add to the end."""
        self._hasher.update(data)
        rest = memoryview(data)
        while rest:
            done = os.write(self.handle, rest)
            rest = rest[done:]
        self.size += len(data)

    def drop(self) -> None:
        """Begin again."""
        os.ftruncate(self.handle, 0)
        os.lseek(self.handle, 0, os.SEEK_SET)
        self.size = 0
        self._hasher = hashlib.sha256()


def git_hash(path: Path, size: int) -> str:
    """Return git's hash of a file as a blob: sha1 over "blob", its size, NUL and the bytes."""
    hasher = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            hasher.update(piece)
    return hasher.hexdigest()


def _pause(error: PullError) -> float:
    """Return how long a hub wants us to wait; raises the error if another try is in vain."""
    cause = error.__cause__
    if isinstance(cause, HfHubHTTPError) and cause.response.status_code in _BUSY:
        asked = cause.response.headers.get("retry-after", "")
        return float(asked) if asked.isdecimal() else 0.0
    if not isinstance(cause, httpx2.TransportError):
        raise error
    return 0.0
