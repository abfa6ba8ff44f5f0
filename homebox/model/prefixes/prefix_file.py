"""The file of one prefix: whose it is, its ids, and the pages of its keys and values.

One idea: everything that is read is checked before it is used: the head by its own hash and by what
the reader expects of it, each page by its hash in the head. Content is read and not mapped, so that
a disk that fails is an error and not a signal. The head is written last, after the content reached
the disk, into a file without its name yet. Invariant: a page that comes out is one that went in
under the same facts and ids.

Layout, little endian: magic, uint32 version, lengths of the JSON and count of pages, uint64 bytes
of a page, sha256 of the whole head with zeros here; the JSON, the ids (int32, 64 for each page) and
a sha256 for each page, then zeros up to a multiple of 4096; then the pages.
"""

import hashlib
import json
import os
import stat
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from homebox.errors import DamagedPrefixError
from homebox.model.decoder.pages import PAGE

MAGIC = b"homebox prefix\n\0"
VERSION = 1
ALIGNED = 4096
LARGEST_HEAD = 1 << 26  # bytes; a million positions have 5 MB
PRIVATE = 0o600

_FIXED = struct.Struct("<16sIIIQ32s")
_HASH = 32

Bytes = npt.NDArray[np.uint8]
Int32 = npt.NDArray[np.int32]
Facts = Mapping[str, str]  # what decides the bytes of pages besides the ids, and whose they are


def head_of(facts: Facts, ids: Int32, page_bytes: int, digests: Sequence[bytes]) -> bytes:
    """Return the head of a file of the pages with these sha256; ids (64 * pages,)."""
    text = json.dumps(dict(facts), sort_keys=True, separators=(",", ":")).encode()
    rest = text + ids.astype("<i4").tobytes() + b"".join(digests)
    count = len(ids) // PAGE
    rest += bytes(-(_FIXED.size + len(rest)) % ALIGNED)
    fields = (MAGIC, VERSION, len(text), count, page_bytes)
    digest = hashlib.sha256(_FIXED.pack(*fields, bytes(_HASH)) + rest).digest()
    return _FIXED.pack(*fields, digest) + rest


def file_bytes(facts: Facts, ids: Int32, page_bytes: int) -> int:
    """Return the size of a file."""
    count = len(ids) // PAGE
    return len(head_of(facts, ids, page_bytes, [bytes(_HASH)] * count)) + count * page_bytes


class PrefixWriter:
    """Writes pages behind the place of the head, then the head; `handle` is an open new file.

    `page` and `finish` raise OSError if the disk does.
    """

    def __init__(self, handle: int, facts: Facts, ids: Int32, page_bytes: int) -> None:
        self._handle, self._facts, self._ids, self._page_bytes = handle, facts, ids, page_bytes
        self._digests: list[bytes] = []
        self._at = file_bytes(facts, ids, page_bytes) - len(ids) // PAGE * page_bytes

    def page(self, content: Bytes) -> None:
        """Append a page."""
        self._digests.append(hashlib.sha256(content.data).digest())
        _write_at(self._handle, self._at, content.data)
        self._at += content.nbytes

    def finish(self) -> None:
        """Make the content durable, then the head."""
        os.fsync(self._handle)
        head = head_of(self._facts, self._ids, self._page_bytes, self._digests)
        _write_at(self._handle, 0, memoryview(head))
        os.fsync(self._handle)


class PrefixReader:
    """A file that is open; raises DamagedPrefixError if it is not what its reader expects.

    OSError comes through where the disk fails.
    """

    def __init__(self, path: Path, facts: Facts, page_bytes: int) -> None:
        self.path = path
        self._page_bytes = page_bytes
        flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        self._handle = os.open(path, flags)
        try:
            self.size = self._owned()
            head = self._head()
            self.ids, self._digests = self._parsed(head, facts)
            self._start = len(head)
            self._content = np.empty(page_bytes, np.uint8)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "PrefixReader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; safe to call more than once."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def ahead(self) -> None:
        """Let the system read the content ahead."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._handle, self._start, 0, os.POSIX_FADV_WILLNEED)

    def page(self, index: int) -> Bytes:
        """Return the content of a page, checked; it is overwritten by the next one."""
        content = self._content
        _read_at(self._handle, self._start + index * self._page_bytes, content, self.path)
        if hashlib.sha256(content.data).digest() != self._digests[index]:
            raise DamagedPrefixError(f"{self.path}: page {index} is damaged")
        return content

    def _owned(self) -> int:
        """Return the size of a file that is ours alone."""
        status = os.fstat(self._handle)
        if not stat.S_ISREG(status.st_mode):
            raise DamagedPrefixError(f"{self.path} is not a file")
        if hasattr(os, "getuid") and status.st_uid != os.getuid():
            raise DamagedPrefixError(f"{self.path} belongs to another user")
        if os.name == "posix" and status.st_mode & 0o077:
            raise DamagedPrefixError(f"{self.path} is open to other users")
        return status.st_size

    def _head(self) -> bytes:
        """Return the head, which is what was written and fits the size of the file."""
        fixed = np.empty(_FIXED.size, np.uint8)
        _read_at(self._handle, 0, fixed, self.path)
        magic, version, text, count, page_bytes, digest = _FIXED.unpack(fixed.tobytes())
        if magic != MAGIC or version != VERSION:
            raise DamagedPrefixError(f"{self.path} is no file of a prefix of version {VERSION}")
        length = _FIXED.size + text + count * (4 * PAGE + _HASH)
        length += -length % ALIGNED
        sizes = page_bytes == self._page_bytes and self.size == length + count * page_bytes
        if length > LARGEST_HEAD or not sizes:
            raise DamagedPrefixError(f"{self.path} has not the size that it says")
        head = np.empty(length, np.uint8)
        _read_at(self._handle, 0, head, self.path)
        head[_FIXED.size - _HASH : _FIXED.size] = 0
        if hashlib.sha256(head.data).digest() != digest:
            raise DamagedPrefixError(f"{self.path}: its head is damaged")
        return head.tobytes()

    def _parsed(self, head: bytes, facts: Facts) -> tuple[Int32, list[bytes]]:
        """Return the ids and the hashes of the pages."""
        _, _, text, count, _, _ = _FIXED.unpack(head[: _FIXED.size])
        at = _FIXED.size + text
        if json.loads(head[_FIXED.size : at]) != dict(facts):
            raise DamagedPrefixError(f"{self.path} belongs to another model, adapter or owner")
        ids = np.frombuffer(head, "<i4", count * PAGE, at).astype(np.int32)
        at += 4 * PAGE * count
        return ids, [head[at + i * _HASH : at + (i + 1) * _HASH] for i in range(count)]


def _write_at(handle: int, offset: int, data: memoryview) -> None:
    while len(data):
        written = os.pwrite(handle, data, offset)
        data, offset = data[written:], offset + written


def _read_at(handle: int, offset: int, into: Bytes, path: Path) -> None:
    """Fill an array; raises DamagedPrefixError if the file ends before."""
    data = into.data
    while len(data):
        count = os.preadv(handle, [data], offset)
        if not count:
            raise DamagedPrefixError(f"{path} was cut short")
        data, offset = data[count:], offset + count
