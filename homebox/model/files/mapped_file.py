"""A weights' file, mapped: what the readers of all formats do with the file itself.

The one idea: nothing is copied. The system reads pages when they are touched and takes them back
when told that they are no longer wanted.
Invariant: only a regular file is mapped, and nothing is touched once it has another size than when
it was opened, for touching what was cut off ends the process.
"""

import hashlib
import mmap
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from homebox.errors import ModelFormatError, ModelNotFoundError

_HASHED = 64 << 20  # bytes that are hashed before their memory is given back


class MappedFile:
    """One open file; `status` is what the system said of it when it was opened."""

    def __init__(self, path: Path) -> None:
        """Open and map a regular file; an empty one has no mapping, only a status.

        Raises ModelNotFoundError if it does not exist, ModelFormatError if it cannot be read.
        """
        self.path = path
        self._map: mmap.mmap | None = None
        descriptor = open_regular(path)
        try:
            self.status = os.fstat(descriptor)
            size = self.status.st_size
            if size:
                self._map = mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ModelFormatError(f"{path}: cannot be read: {error}") from None
        finally:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give up the mapping; it lives on while an array that shows a part of it does."""
        self._map = None

    def mapped(self, use: str) -> mmap.mmap:
        """Return the file's bytes for `use`, a word for the error such as a tensor's name.

        Raises ModelFormatError if the file was closed, or has another size than when opened.
        """
        if self._map is None:
            raise ModelFormatError(f"{self.path}: was closed before {use} was read")
        if self._map.size() != self.status.st_size:
            raise ModelFormatError(f"{self.path}: was changed while it was open; load it again")
        return self._map

    def digest(self) -> str:
        """Return the sha256 of the whole file as 64 hex digits."""
        hasher = hashlib.sha256()
        with memoryview(self.mapped("its hash")) as data:
            self.will_need(0, _HASHED)
            for begin in range(0, len(data), _HASHED):
                end = begin + _HASHED
                self.will_need(end, end + _HASHED)
                with data[begin:end] as part:
                    hasher.update(part)
                self.wont_need(begin, end)
        return hasher.hexdigest()

    def will_need(self, begin: int, end: int) -> None:
        """Let the disk read these bytes of the file; a page at a time is 10x slower."""
        self._advise("MADV_WILLNEED", begin, end)

    def wont_need(self, begin: int, end: int) -> None:
        """Let the system take back the memory of these bytes; they stay readable."""
        self._advise("MADV_DONTNEED", begin, end)

    def _advise(self, name: str, begin: int, end: int) -> None:
        """Tell the system what will be done with the whole pages of a range of the file."""
        advice = getattr(mmap, name, None)
        page = mmap.PAGESIZE
        begin = -(-begin // page) * page
        end = min(end, self.status.st_size) // page * page
        if self._map is not None and advice is not None and end > begin:
            self._map.madvise(advice, begin, end - begin)


def open_regular(path: Path) -> int:
    """Return the descriptor of a file, opened for reading; a pipe is refused, not waited for.

    Raises ModelNotFoundError and ModelFormatError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise ModelNotFoundError(f"{path} does not exist") from None
    except OSError as error:
        raise ModelFormatError(f"{path}: cannot be opened: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ModelFormatError(f"{path}: is no regular file")
    return descriptor
