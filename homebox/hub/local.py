"""`import`: a model that lies on this machine already into the catalogue.

The one idea: where the file system can share a large file it is shared, so that an import takes no
space: as a copy-on-write clone where there are such, else as a hard link; else it is copied.
Invariant: the owner's files are only read. A hard link stays the same file under two names: who
writes into the one changes the other, and `homebox models show --check` finds it.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homebox.errors import PullError, UsageError
from homebox.hub.catalogue import Catalogue, Entry, amount, check_name, file_name, held
from homebox.hub.choice import SMALL
from homebox.hub.describe import about
from homebox.hub.pull import SPARE
from homebox.memory.durable import sync_directory
from homebox.model.files.safetensors_reader import read_index
from homebox.model.files.weight_files import INDEX, SINGLE
from homebox.model.loading.open_model import model_name, model_path

try:
    import fcntl
except ImportError:  # not on Windows, where the package must import all the same
    fcntl = None  # type: ignore[assignment]

LARGE = 1 << 20  # bytes; smaller files are copied, which costs nothing
_CLONE = 0x40049409  # FICLONE, ioctl_ficlone(2)
_PIECE = 1 << 22

Show = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Imported:
    """What an import did."""

    entry: Entry
    shared: int  # bytes that the disk holds once for both
    copied: int


def import_model(catalogue: Catalogue, path: Path, name: str, show: Show) -> Imported:
    """List the model of a folder or a GGUF file.

    Raises ModelNotFoundError and ModelFormatError for what is no model that runs, UsageError if the
    name is taken by another one, PullError if the disk is full.
    """
    path = model_path(path).resolve()
    name = check_name(name or file_name(model_name(path)))
    source = str(path)
    if catalogue.has(name) and catalogue.find(name).name == name:
        known = catalogue.find(name)
        if known.source != source:
            raise UsageError(
                f"{name} is on this box already, from {known.source}; choose another with --name"
            )
    show({"stage": "check", "done": 0, "total": 1, "text": "reading the model"})
    facts = about(path, source, "")
    files = _files(path)
    folder = catalogue.staging(f"import {source}")
    with held(folder / "lock", wait=False):
        try:
            work = _Import(folder, files, show)
            work.room(catalogue)
            staged = {file: work.bring(file) for file in files}
            entry = catalogue.add(name, staged, facts)
        except OSError as error:
            raise PullError(f"cannot copy {path}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return Imported(entry, work.shared, work.copied)


class _Import:
    """The files of one model on their way."""

    def __init__(self, folder: Path, files: dict[str, Path], show: Show) -> None:
        self._folder, self._files, self._show = folder, files, show
        self._total = sum(path.stat().st_size for path in files.values())
        self._done = self.shared = self.copied = 0

    def room(self, catalogue: Catalogue) -> None:
        """Raise PullError if the disk cannot hold a copy, unless it can share the files."""
        largest = max(self._files.values(), key=lambda path: path.stat().st_size)
        if largest.stat().st_dev == self._folder.stat().st_dev:
            return
        free = shutil.disk_usage(self._folder).free
        if self._total + SPARE > free:
            raise PullError(
                f"the model has {amount(self._total)}, and the disk of {catalogue.root} has "
                f"{amount(free)} free; free space there, or set paths.models"
            )

    def bring(self, name: str) -> tuple[Path, str]:
        """Stage a file; return where, and its sha256."""
        source, target = self._files[name], self._folder / name
        size = source.stat().st_size
        with contextlib.suppress(FileNotFoundError):
            target.unlink()
        if size >= LARGE and (_clone(source, target) or _link(source, target)):
            self.shared += size
            digest = self._pass(target, None)
        else:
            self.copied += size
            digest = self._pass(source, target)
        sync_directory(self._folder)
        return target, digest

    def _pass(self, source: Path, target: Path | None) -> str:
        """Hash a file, and copy it if there is a target."""
        hasher = hashlib.sha256()
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(source.open("rb"))
            copy = None if target is None else stack.enter_context(target.open("xb"))
            while piece := file.read(_PIECE):
                hasher.update(piece)
                self._done += len(piece)
                if copy is not None:
                    copy.write(piece)
                text = f"{amount(self._done)} of {amount(self._total)}"
                total = self._total
                self._show({"stage": "import", "done": self._done, "total": total, "text": text})
            if copy is not None:
                copy.flush()
                os.fsync(copy.fileno())
        return hasher.hexdigest()


def _files(path: Path) -> dict[str, Path]:
    """Return the files that are read of a model, by the names that they get."""
    if not path.is_dir():
        return {file_name(path.name): path}
    names = [name for name in SMALL if (path / name).is_file() and name != INDEX]
    if (path / INDEX).is_file():
        names += [INDEX, *sorted(set(read_index(path / INDEX).values()))]
    else:
        names.append(SINGLE)
    return {name: (path / name).resolve() for name in names}


def _clone(source: Path, target: Path) -> bool:
    """Share the blocks of a file until one of both is written to, where the file system can."""
    with source.open("rb") as file, target.open("xb") as copy:
        try:
            fcntl.ioctl(copy.fileno(), _CLONE, file.fileno())
            os.fsync(copy.fileno())
        except (OSError, AttributeError):
            target.unlink()
            return False
    return True


def _link(source: Path, target: Path) -> bool:
    try:
        target.hardlink_to(source)
    except OSError:
        return False
    return True
