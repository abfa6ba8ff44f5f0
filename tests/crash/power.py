"""What a power cut may leave on a disk: a model of files, names and the two kinds of sync.

The operating system promises little. Bytes are on the disk once their file was synced; names
(created, renamed, removed) once their directory was. Until then each change may have reached the
disk or not, whatever its order, and unsynced bytes may be there in part or as zeros. `Recorder`
writes down the calls of an operation, `Disk` replays them, `Disk.cut` draws one of the states that
could be found afterwards.
"""

import os
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path()


@dataclass(frozen=True)
class Call:
    """One call that changes the disk; `site` names the function of homebox that made it."""

    kind: str  # create | write | truncate | sync | sync directory | rename | mkdir | unlink
    path: Path  # relative to the root
    site: str
    data: bytes = b""
    at: int = 0
    target: Path = ROOT


class Recorder:
    """Wraps the calls of `os` while a test's patch lasts, and keeps those below `root`."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.calls: list[Call] = []
        self._handles: dict[int, Path] = {}
        self._offsets: dict[int, int] = {}
        for name in ("open", "close", "write", "lseek", "ftruncate", "fsync"):
            patch.setattr(os, name, getattr(self, f"_{name}")(getattr(os, name)))
        for name in ("rename", "mkdir", "unlink"):
            patch.setattr(os, name, self._named(name, getattr(os, name)))

    def _keep(self, kind: str, path: Path, **fields: Any) -> None:
        self.calls.append(Call(kind, path.relative_to(self.root), _site(), **fields))

    def _open(self, real: Callable[..., int]) -> Callable[..., int]:
        def call(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
            new = not Path(path).exists()
            handle = real(path, flags, mode, **options)
            if Path(path).is_relative_to(self.root):
                self._handles[handle], self._offsets[handle] = Path(path), 0
                if new:
                    self._keep("create", Path(path))
            return handle

        return call

    def _close(self, real: Callable[..., None]) -> Callable[..., None]:
        def call(handle: int) -> None:
            real(handle)
            self._handles.pop(handle, None)

        return call

    def _write(self, real: Callable[..., int]) -> Callable[..., int]:
        def call(handle: int, data: Any) -> int:
            count = real(handle, data)
            if handle in self._handles:
                written, at = bytes(data[:count]), self._offsets[handle]
                self._keep("write", self._handles[handle], data=written, at=at)
                self._offsets[handle] += count
            return count

        return call

    def _lseek(self, real: Callable[..., int]) -> Callable[..., int]:
        def call(handle: int, offset: int, whence: int) -> int:
            self._offsets[handle] = real(handle, offset, whence)
            return self._offsets[handle]

        return call

    def _ftruncate(self, real: Callable[..., None]) -> Callable[..., None]:
        def call(handle: int, length: int) -> None:
            real(handle, length)
            self._keep("truncate", self._handles[handle], at=length)

        return call

    def _fsync(self, real: Callable[..., None]) -> Callable[..., None]:
        def call(handle: int) -> None:
            real(handle)
            path = self._handles.get(handle)
            if path is not None:
                self._keep("sync directory" if path.is_dir() else "sync", path)

        return call

    def _named(self, kind: str, real: Callable[..., None]) -> Callable[..., None]:
        def call(path: Any, *arguments: Any, **options: Any) -> None:
            real(path, *arguments, **options)
            target = Path(arguments[0]).relative_to(self.root) if kind == "rename" else ROOT
            self._keep(kind, Path(path), target=target)

        return call


def _site() -> str:
    """Name the function of the memory package, and who called it, behind a recorded call."""
    names, frame = [], sys._getframe(1)
    while frame is not None:
        if "homebox/memory" in frame.f_code.co_filename:
            names.append(frame.f_code.co_name)
        frame = frame.f_back  # type: ignore[assignment]
    return " < ".join(names[:2])


@dataclass
class File:
    """The bytes of one file, as programs see them and as they are surely on the disk."""

    now: bytes = b""
    safe: bytes = b""


@dataclass
class Folder:
    """The names in one directory, and the changes that are not surely on the disk."""

    now: dict[str, File | None] = field(default_factory=dict)  # None: a directory
    safe: dict[str, File | None] = field(default_factory=dict)
    pending: list[dict[str, File | str | None]] = field(default_factory=list)  # "": removed


class Disk:
    """Replays calls over the contents of a folder that were all safe before."""

    def __init__(self, before: dict[str, bytes]) -> None:
        self.folders: dict[Path, Folder] = {ROOT: Folder()}
        for name, data in before.items():
            path = Path(name)
            for parent in reversed(path.parents):
                self._make(parent)
            if name.endswith("/"):
                self._make(path)
                continue
            file = File(data, data)
            self.folders[path.parent].now[path.name] = file
        for folder in self.folders.values():
            folder.safe = dict(folder.now)

    def _make(self, path: Path) -> None:
        if path not in self.folders:
            self.folders[path] = Folder()
            self.folders[path.parent].now[path.name] = None

    def play(self, call: Call) -> None:
        folder = self.folders[call.path.parent]
        file = folder.now.get(call.path.name)
        if call.kind == "create":
            self._change(folder, {call.path.name: File()})
        elif call.kind == "mkdir":
            self.folders.setdefault(call.path, Folder())
            self._change(folder, {call.path.name: None})
        elif call.kind == "unlink":
            self._change(folder, {call.path.name: ""})
        elif call.kind == "rename":
            self._change(folder, {call.target.name: file, call.path.name: ""})
        elif call.kind == "sync directory":
            synced = self.folders[call.path]
            synced.safe, synced.pending = dict(synced.now), []
        elif file is not None and call.kind == "write":
            file.now = file.now[: call.at].ljust(call.at, b"\0") + call.data
        elif file is not None and call.kind == "truncate":
            file.now = file.now[: call.at]
        elif file is not None and call.kind == "sync":
            file.safe = file.now

    def _change(self, folder: Folder, names: dict[str, Any]) -> None:
        _apply(folder.now, names)
        folder.pending.append(names)

    def cut(self, dice: random.Random) -> dict[str, bytes]:
        """Draw what could be found after a power cut now; relative path -> bytes."""
        mood = dice.choice(["nothing", "names", "bytes", "everything", "any", "any"])
        found: dict[str, bytes] = {}
        self._cut_folder(ROOT, mood, dice, found)
        return found

    def _cut_folder(
        self, path: Path, mood: str, dice: random.Random, found: dict[str, bytes]
    ) -> None:
        folder = self.folders[path]
        names = dict(folder.safe)
        for change in folder.pending:
            keep = dice.random() < 0.5 if mood == "any" else mood in ("names", "everything")
            if keep:
                _apply(names, change)
        for name, file in names.items():
            if file is None:
                found[f"{path / name}/"] = b""
                self._cut_folder(path / name, mood, dice, found)
            else:
                found[str(path / name)] = _cut_bytes(file, mood, dice)


def _apply(names: dict[str, File | None], change: dict[str, Any]) -> None:
    for name, file in change.items():
        if file == "":
            names.pop(name, None)
        else:
            names[name] = file


def _cut_bytes(file: File, mood: str, dice: random.Random) -> bytes:
    if file.now == file.safe or mood in ("bytes", "everything"):
        return file.now
    if mood in ("nothing", "names"):
        return file.safe
    same = next(
        (at for at, pair in enumerate(zip(file.now, file.safe)) if pair[0] != pair[1]),
        min(len(file.now), len(file.safe)),
    )
    tail = file.now[same:]
    length = dice.randrange(len(tail) + 1)
    options = [file.safe, file.now, file.now[: same + length], file.now[:same] + bytes(len(tail))]
    return dice.choice(options)


def lay_out(found: dict[str, bytes], laid: dict[str, bytes], root: Path) -> None:
    """Turn the files below `root`, where `laid` lies, into `found`."""
    root.mkdir(exist_ok=True)
    for name in sorted(laid.keys() - found.keys(), reverse=True):
        (root / name).rmdir() if name.endswith("/") else (root / name).unlink()
    for name, data in found.items():
        if name.endswith("/"):
            (root / name).mkdir(exist_ok=True)
        elif laid.get(name) != data:
            (root / name).write_bytes(data)
