"""Files of a cache that are too large to be read at every start: sealed when written, then mapped.

A file is a header of whole pages and the content. Opening it reads one page: the header must have
its own hash and say what the caller expects of it, and its seal, a time in the past, must be the
file's modification time, which any later write moves; size and owner must be right too. The content
is not read. That is safe for two reasons: the header is written last, after the content reached the
disk, so a file that was cut short has none; and the folder is ours alone, so whoever could forge a
file there could replace the compiled kernels beside it. What a failing disk does to the content can
be found with the digest that the header keeps.
Invariant: a file that opens holds what was written into it, as far as the disk can be trusted.
"""

import hashlib
import json
import logging
import mmap
import os
import stat
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

log = logging.getLogger(__name__)

Bytes = npt.NDArray[np.uint8]
Sink = Callable[[int, Bytes], None]  # takes an offset into the content, and what stands there

PAGE = 4096
_MAGIC = b"homebox sealed content\n\0"
_FIXED = len(_MAGIC) + 8 + 32  # then the length of the header's JSON, and its sha256
_LIMIT = 64 << 30  # bytes of a folder, after which the files unused for longest go
_ABANDONED = 86_400  # seconds after which an unfinished file is nobody's


def write_sealed(
    path: Path, facts: dict[str, Any], size: int, fill: Callable[[Sink], None]
) -> None:
    """Write a file beside `path` and rename it.

    `fill` hands out the content, `size` bytes with any gaps as zeros; the digest is of what it
    handed out, in that order. `facts` is JSON that `open_sealed` must be given again. Raises
    OSError if the file cannot be written.
    """
    facts = facts | {"size": size}
    start = _start(facts)
    hasher = hashlib.sha256()
    handle, name = tempfile.mkstemp(prefix=path.name[:16], suffix=".tmp", dir=path.parent)
    try:

        def put(offset: int, part: Bytes) -> None:
            _write_at(handle, start + offset, part.data)
            hasher.update(part.data)

        fill(put)
        os.ftruncate(handle, start + size)
        os.fsync(handle)
        # Whole even seconds: any file system can keep them, and no later write falls on one.
        seal = (time.time_ns() // 2_000_000_000) * 2_000_000_000
        header = _header(facts | {"digest": hasher.hexdigest(), "seal": seal})
        _write_at(handle, 0, memoryview(header))
        os.utime(handle, ns=(seal, seal))
        os.fsync(handle)
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
    finally:
        os.close(handle)
    _sync_folder(path.parent)


def _write_at(handle: int, offset: int, data: memoryview) -> None:
    while len(data):
        written = os.pwrite(handle, data, offset)
        data, offset = data[written:], offset + written


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _start(facts: dict[str, Any]) -> int:
    """Return where the content begins: a whole page behind the header, whose length may vary."""
    return -(-(_FIXED + 256 + len(json.dumps(facts))) // PAGE) * PAGE


def _header(facts: dict[str, Any]) -> bytes:
    text = json.dumps(facts, separators=(",", ":")).encode()
    return _MAGIC + len(text).to_bytes(8, "little") + hashlib.sha256(text).digest() + text


def open_sealed(path: Path, facts: dict[str, Any], size: int) -> tuple[Bytes, str] | None:
    """Map a file if it is whole, ours and of these facts; return its content and its digest."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    facts = facts | {"size": size}
    start = _start(facts)
    try:
        status = os.fstat(handle)
        digest = _checked(handle, status, facts, start)
        if digest is None:
            log.warning("making %s again: it is damaged or was changed", path)
            return None
        with suppress(OSError):  # the time of use decides what is removed first
            os.utime(path, ns=(time.time_ns(), status.st_mtime_ns))
        return _mapped(handle, start, size), digest
    except OSError as error:
        log.warning("cannot use %s: %s", path, error)
        return None
    finally:
        os.close(handle)


def _checked(handle: int, status: os.stat_result, facts: dict[str, Any], start: int) -> str | None:
    """Return the digest of the content if the file is what its header says, else None."""
    if not stat.S_ISREG(status.st_mode) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return None
    if status.st_uid != os.getuid() or status.st_size != start + facts["size"]:
        return None
    head = os.pread(handle, start, 0)
    length = int.from_bytes(head[len(_MAGIC) : len(_MAGIC) + 8], "little")
    text = head[_FIXED : _FIXED + length]
    if not head.startswith(_MAGIC) or hashlib.sha256(text).digest() != head[_FIXED - 32 : _FIXED]:
        return None
    found: dict[str, Any] = json.loads(text)
    digest = str(found.pop("digest", ""))
    if found.pop("seal", None) != status.st_mtime_ns or found != facts:
        return None
    return digest


def _mapped(handle: int, start: int, size: int) -> Bytes:
    """Return the content, shared with every process that maps it, read-only."""
    whole = mmap.mmap(handle, start + size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    for advice in ("MADV_WILLNEED", "MADV_HUGEPAGE"):
        with suppress(OSError, AttributeError):  # advice only: systems may lack or refuse it
            whole.madvise(getattr(mmap, advice))
    return np.frombuffer(whole, np.uint8, size, start)


def prune(folder: Path, keep: Path) -> None:
    """Remove unfinished files that nobody works on, and the files unused for longest."""
    entries: list[tuple[int, int, Path]] = []
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError):
                status = path.stat()
                if path.suffix == ".tmp" and time.time() - status.st_ctime > _ABANDONED:
                    path.unlink()
                elif path != keep and path.suffix != ".tmp":
                    entries.append((status.st_atime_ns, status.st_size, path))
        excess = keep.stat().st_size + sum(size for _, size, _ in entries) - _LIMIT
        for _, size, path in sorted(entries):
            if excess <= 0:
                return
            path.unlink()
            excess -= size
