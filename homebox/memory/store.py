"""Objects: bytes named by their sha256, written once and checked at every reading.

The one idea: a name that can be recomputed cannot lie. Tensors, manifests, job specs, reports and
lineage entries are all objects. Invariant: a name that `put` returned survives a power cut, and
`get` returns exactly the bytes that were put, or raises.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from homebox.errors import DamagedObjectError, MissingObjectError
from homebox.memory.durable import (
    explained,
    make_directory,
    remove_stale,
    replace_file,
    sync_directory,
)

_NAME = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]{0,64}")
_ENCODER = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)


class Store:
    """A folder of objects, `<root>/ab/cdef...`; safe for several threads of one process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._durable: set[Path] = set()  # folders whose own name is known to be on the disk

    def put(self, data: bytes) -> str:
        """Keep `data` durably and return its name; putting it again changes nothing.

        An object whose bytes on the disk are damaged is healed. Raises StateError.
        """
        name = named(data)
        path = self._path(name)
        for folder in (self.root, path.parent):
            if folder not in self._durable:
                make_directory(folder)
                self._durable.add(folder)
        if self._read(path) == data:
            # An earlier put may have died between its rename and the sync of the directory.
            with explained("sync", path.parent):
                sync_directory(path.parent)
        else:
            replace_file(path, data)
        return name

    def get(self, name: str) -> bytes:
        """Return the bytes of `name`; raises MissingObjectError or DamagedObjectError."""
        if not is_name(name):
            raise MissingObjectError(f"{name!r} is no object name (64 hexadecimal digits)")
        path = self._path(name)
        data = self._read(path)
        if data is None:
            raise MissingObjectError(
                f"object {name[:12]} is missing ({path}); restore it from a backup of the state, "
                'or serve other weights with "homebox rollback"'
            )
        if hashlib.sha256(data).hexdigest() != name:
            raise DamagedObjectError(
                f"object {name[:12]} is damaged (hash mismatch in {path}); restore it from a "
                'backup of the state, or serve other weights with "homebox rollback"'
            )
        return data

    def has(self, name: str) -> bool:
        """Tell whether an object of that name exists, without reading it."""
        return is_name(name) and self._path(name).is_file()

    def find(self, prefix: str) -> list[str]:
        """List the names that begin with `prefix`, sorted."""
        if not _PREFIX.fullmatch(prefix):
            return []
        folders = self.root.glob(f"{prefix[:2]}*" if len(prefix) < 2 else prefix[:2])
        names = (f"{folder.name}{path.name}" for folder in folders for path in folder.glob("*"))
        return sorted(name for name in names if name.startswith(prefix) and is_name(name))

    def names(self) -> Iterator[str]:
        """Yield the names of all objects, sorted."""
        for folder in sorted(self.root.glob("??")):
            yield from self.find(folder.name)

    def begins(self, name: str) -> bytes:
        """Return the first byte of an object, to tell JSON from tensors without reading them."""
        path = self._path(name)
        with explained("read", path), path.open("rb") as file:
            return file.read(1)

    def remove(self, names: Iterable[str]) -> int:
        """Delete objects for good; return how many were there. Raises StateError."""
        folders: set[Path] = set()
        count = 0
        for name in names:
            path = self._path(name)
            with explained("remove", path), contextlib.suppress(FileNotFoundError):
                path.unlink()
                count += 1
                folders.add(path.parent)
        for folder in folders:
            with explained("sync", folder):
                sync_directory(folder)
        return count

    def clean(self) -> int:
        """Delete the leftovers of crashed writers; only while no other process writes."""
        return sum(remove_stale(folder) for folder in self.root.glob("*") if folder.is_dir())

    def _path(self, name: str) -> Path:
        return self.root / name[:2] / name[2:]

    def _read(self, path: Path) -> bytes | None:
        with explained("read", path):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None


def named(data: bytes) -> str:
    """Return the name that an object of these bytes has."""
    return hashlib.sha256(data).hexdigest()


def is_name(text: object) -> bool:
    """Tell whether `text` is a full object name."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def canonical_json(value: object) -> bytes:
    """Encode JSON in the one form that hashes rely on: sorted keys, no spaces, UTF-8.

    Raises ValueError for NaN and infinities, TypeError for keys that are no strings.
    """
    _check_keys(value)
    return encoded(value)


def encoded(value: object) -> bytes:
    """Encode as `canonical_json` does, where all keys are known to be strings."""
    return _ENCODER.encode(value).encode("utf-8")


def _check_keys(value: object) -> None:
    """Refuse keys that the encoder would silently turn into strings, such as 1 and True."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"canonical JSON needs string keys, not {key!r}")
            _check_keys(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_keys(item)
