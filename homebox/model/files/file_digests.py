"""Remembers the sha256 of large files, so that a second start need not read gigabytes.

The one idea, which git uses for its index too: nobody can write to a file without moving its change
time, which, unlike the modification time, no program can set.
Invariant: a digest is only remembered for a file that had been left alone for a while, so a later
write is bound to show; whatever is in doubt is hashed again.
"""

import hashlib
import os
import time
from collections.abc import Callable

from homebox.engine.codegen.cache import DiskCache, cache_root

LARGE = 32 << 20  # bytes; smaller files are hashed every time
_SETTLED = 2_000_000_000  # nanoseconds; coarser than the clock of any file system


def remembered_digest(status: os.stat_result, compute: Callable[[], str]) -> str:
    """Return the digest of the open file with this status: 64 hex digits.

    `status` was taken before `compute`, which reads the file.
    """
    if status.st_size < LARGE:
        return compute()
    cache = DiskCache(cache_root() / "digests", limit=1 << 20)
    key = _key(status)
    found = cache.get(key)
    if found is not None and len(found) == 64:
        return found.decode("ascii")
    now = time.time_ns()
    digest = compute()
    if 0 <= status.st_ctime_ns <= now - _SETTLED:
        cache.put(key, digest.encode("ascii"))
    return digest


def _key(status: os.stat_result) -> str:
    facts = (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()
