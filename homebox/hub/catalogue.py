"""The models on this box by name: files by their sha256, a manifest for each model.

    <root>/objects/ab/cdef...     every file of every model, once, read-only
    <root>/manifests/<key>.json   what a model consists of; it is listed from this write on
    <root>/folders/<hash>/<name>  hard links to the objects, as readers of models want them
    <root>/partial/<key>/         what is not complete yet
    <root>/lock                   held while anything but `partial` changes

The one idea: the manifest is written last, after all bytes and names that it speaks of reached the
disk, so a model is listed whole or not at all; what no manifest speaks of is nobody's and is
removed. Invariant: an object has the bytes of its name, unless somebody wrote into it.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homebox.errors import BusyError, ModelNotFoundError, StateError, UsageError
from homebox.memory.durable import explained, make_directory, replace_file, sync_directory
from homebox.memory.store import canonical_json, is_name

try:
    import fcntl
except ImportError:  # not on Windows, where the package must import all the same
    fcntl = None  # type: ignore[assignment]

BUILT_IN = "tiny"  # always the model inside the package
FOLDER = "folder"  # kinds: Hugging Face's layout,
GGUF = "gguf"  # or one file
TEMPORARY = ".tmp"  # how names end that no reader knows
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,95}"
_NAME = re.compile(rf"{_PART}(/{_PART})?(:{_PART})?")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-+]{0,200}")


@dataclass(frozen=True)
class File:
    """A file of a model."""

    sha256: str
    size: int


@dataclass(frozen=True)
class About:
    """What is known of a model beside its files."""

    source: str  # where it came from: the address of its repository, or a path
    revision: str  # the hub's commit; "" for imports
    kind: str  # FOLDER or GGUF
    type: str  # how most numbers are stored: bf16, f16, Q8_0, ...
    architecture: str
    parameters: int
    context: int  # the most tokens that the model was made for
    base: str  # the base hash, as a daemon names it that serves the model


@dataclass(frozen=True)
class Entry:
    """A model on this box; `path` is what `open_model` takes."""

    name: str
    path: Path
    files: Mapping[str, File]
    size: int  # bytes of all files
    hash: str  # sha256 of the manifest
    source: str
    revision: str
    kind: str
    type: str
    architecture: str
    parameters: int
    context: int
    base: str

    def as_json(self) -> dict[str, Any]:
        """Return the entry for programs."""
        files = {name: dataclasses.asdict(file) for name, file in self.files.items()}
        return {**vars(self), "path": str(self.path), "files": files}


class Catalogue:
    """The models below a folder; several processes may use it at once."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def names(self) -> list[str]:
        """List the names of all models, sorted; leaves out what cannot be read."""
        return [entry.name for entry in self.entries()]

    def entries(self) -> list[Entry]:
        """List all models by name; leaves out manifests that are damaged (`damaged`)."""
        found = []
        for path in self._manifests():
            with contextlib.suppress(StateError):
                found.append(self._read(path))
        return sorted(found, key=lambda entry: entry.name)

    def damaged(self) -> list[str]:
        """Say which manifests cannot be read, a line each."""
        lines = []
        for path in self._manifests():
            try:
                self._read(path)
            except StateError as error:
                lines.append(str(error))
        return lines

    def find(self, name: str) -> Entry:
        """Return a model by its name, or by the part after "/" if that is of one model only.

        Raises ModelNotFoundError, and StateError if its manifest is damaged.
        """
        path = self._manifest(name)
        if path.is_file():
            return self._read(path)
        entries = self.entries()
        alike = [entry for entry in entries if entry.name.rpartition("/")[2] == name]
        if len(alike) == 1:
            return alike[0]
        shown = ascii(name[:200])[1:-1]
        if alike:
            names = ", ".join(entry.name for entry in alike)
            raise ModelNotFoundError(f"{shown} is the end of several models' names: {names}")
        known = ", ".join(entry.name for entry in entries) or "there is none yet"
        raise ModelNotFoundError(
            f'no model on this box is called {shown} (known: {known}); get one with "homebox pull"'
        )

    def has(self, name: str) -> bool:
        """Whether `find` would find a model."""
        try:
            self.find(name)
        except ModelNotFoundError:
            return False
        return True

    def staging(self, key: str) -> Path:
        """Make the folder in which the files of a model are gathered; `key` names the attempt."""
        folder = self.root / "partial" / hashlib.sha256(key.encode()).hexdigest()[:32]
        self._make(folder)
        return folder

    def add(self, name: str, staged: Mapping[str, tuple[Path, str]], about: About) -> Entry:
        """List a model whose files lie in a staging folder; they are moved out of it.

        `staged` has the path and the sha256 of each file, hashed by the caller and synced. A model
        of the same name is replaced. Raises StateError, and UsageError for an impossible name.
        """
        check_name(name)
        files = {}
        for file, (path, digest) in staged.items():
            if not _FILE.fullmatch(file) or not is_name(digest):
                raise StateError(f"{file!a} cannot be a file of a model")
            with explained("read", path):
                files[file] = File(digest, path.stat().st_size)
        manifest = {
            "name": name,
            **dataclasses.asdict(about),
            "files": {file: dataclasses.asdict(facts) for file, facts in files.items()},
        }
        text = canonical_json(manifest)
        entry = _entry(json.loads(text), hashlib.sha256(text).hexdigest(), self.root)
        with self._locked():
            healed = {digest for path, digest in staged.values() if self._keep(path, digest)}
            self._make_folder(entry)
            for other in self.entries():
                if any(file.sha256 in healed for file in other.files.values()):
                    self._make_folder(other)
            self._make(self.root / "manifests")
            replace_file(self._manifest(name), text)
            self._collect()
        return entry

    def remove(self, name: str) -> tuple[Entry, int]:
        """Take a model off the list; return it and how many bytes of the disk that gave back."""
        with self._locked():
            entry = self.find(name)
            path = self._manifest(entry.name)
            with explained("remove", path):
                path.unlink()
                sync_directory(path.parent)
            return entry, self._collect()

    def check(self, name: str) -> list[str]:
        """Hash all files of a model; return the names of those that were changed or are gone."""
        entry, wrong = self.find(name), []
        for file, facts in entry.files.items():
            path = entry.path if entry.kind == GGUF else entry.path / file
            if not path.is_file() or digest_of(path) != facts.sha256:
                wrong.append(file)
        return wrong

    def object(self, digest: str) -> Path:
        """Return where the file of a hash lies, if it is here."""
        return self.root / "objects" / digest[:2] / digest[2:]

    def clean(self) -> int:
        """Remove what unfinished downloads and crashes left; return the bytes.

        Downloads that run are spared.
        """
        freed = 0
        for folder in self._children("partial"):
            with contextlib.suppress(BusyError), held(folder / "lock", wait=False):
                freed += sum(path.stat().st_size for path in folder.glob("*") if path.is_file())
                shutil.rmtree(folder, ignore_errors=True)
        with self._locked():
            return freed + self._collect()

    # -- files --------------------------------------------------------------------------------

    def _keep(self, path: Path, digest: str) -> bool:
        """Make a staged file an object; True if it takes the place of a damaged one."""
        target = self.object(digest)
        self._make(target.parent)
        with explained("keep", target):
            known = target.is_file()
            if known and (target.samefile(path) or digest_of(target) == digest):
                path.unlink()
                return False
            if path.stat().st_nlink == 1:  # the owner's own file keeps its mode
                path.chmod(0o444)
            path.replace(target)
            sync_directory(target.parent)
            return known

    def _make_folder(self, entry: Entry) -> None:
        """Give readers a folder with the model's files under their own names."""
        home = self.root / "folders" / entry.hash
        whole = home.is_dir()  # it may have a link to an object that was damaged
        folder = (home if whole else home.with_suffix(TEMPORARY)) / _last(entry.name)
        with explained("link files into", folder):
            if not whole:
                shutil.rmtree(folder.parent, ignore_errors=True)
            self._make(folder)
            for file, facts in entry.files.items():
                target, new = self.object(facts.sha256), folder / f"{file}{TEMPORARY}"
                if not (folder / file).exists() or not (folder / file).samefile(target):
                    new.unlink(missing_ok=True)
                    new.hardlink_to(target)
                    new.replace(folder / file)
            for each in (folder, folder.parent):
                sync_directory(each)
            if not whole:
                folder.parent.rename(home)
            sync_directory(home.parent)

    def _collect(self) -> int:
        """Remove folders and objects of which no manifest speaks; return the bytes.

        Where a manifest cannot be read nothing is removed: nobody knows what it speaks of.
        """
        try:
            entries = [self._read(path) for path in self._manifests()]
        except StateError:
            return 0
        hashes = {entry.hash for entry in entries}
        wanted = {file.sha256 for entry in entries for file in entry.files.values()}
        freed = 0
        for folder in self._children("folders"):
            if folder.name not in hashes:
                shutil.rmtree(folder, ignore_errors=True)
        for shelf in self._children("objects"):
            for path in shelf.iterdir():
                if f"{shelf.name}{path.name}" not in wanted:
                    with explained("remove", path):
                        freed += path.stat().st_size
                        path.unlink()
            with contextlib.suppress(OSError):  # it holds others
                shelf.rmdir()
        return freed

    def _manifest(self, name: str) -> Path:
        key = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:32]
        return self.root / "manifests" / f"{key}.json"

    def _manifests(self) -> list[Path]:
        return [path for path in self._children("manifests") if path.suffix == ".json"]

    def _read(self, path: Path) -> Entry:
        with explained("read", path):
            text = path.read_bytes()
        try:
            fields = json.loads(text)
            entry = _entry(fields, hashlib.sha256(text).hexdigest(), self.root)
            sound = canonical_json(fields) == text and self._manifest(entry.name) == path
        except (ValueError, TypeError, KeyError, AttributeError):
            sound = False
        if not sound:
            raise StateError(f"{path} is damaged; remove it, and pull or import the model again")
        return entry

    def _children(self, name: str) -> list[Path]:
        with explained("read", self.root / name):
            try:
                return sorted((self.root / name).iterdir())
            except FileNotFoundError:
                return []

    def _make(self, folder: Path) -> None:
        for parent in reversed((folder, *folder.parents)):
            if not parent.is_dir():
                make_directory(parent)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._make(self.root)
        with held(self.root / "lock", wait=True):
            yield


@contextlib.contextmanager
def held(path: Path, wait: bool) -> Iterator[None]:
    """Hold a lock file; raises BusyError if another process does and we are not to wait."""
    if fcntl is None:
        raise StateError("homebox keeps models on Linux only; this system cannot lock files")
    with explained("lock", path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise BusyError(
                f"another process brings the same model here ({path}); wait for it"
            ) from error
        yield
    finally:
        os.close(handle)


def check_name(name: str) -> str:
    """Return a name that a model can have; raises UsageError."""
    if name == BUILT_IN or not _NAME.fullmatch(name):
        raise UsageError(
            f"{name[:200]!a} cannot be a model's name; names look like qwen3 or "
            f'Qwen/Qwen3-0.6B:Q8_0, and "{BUILT_IN}" is the built-in model'
        )
    return name


def file_name(path: str) -> str:
    """Return the name that a file of a repository has in a model's folder."""
    last = path.rpartition("/")[2][-200:]
    return re.sub(r"^[^A-Za-z0-9_]|[^A-Za-z0-9_.\-+]", "_", last)


def digest_of(path: Path) -> str:
    """Return the sha256 of a file."""
    with explained("read", path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def amount(size: int) -> str:
    """Write a number of bytes for people."""
    if size < 10**6:
        return f"{size / 1e3:.1f} kB"
    return f"{size / 1e9:.2f} GB" if size >= 10**9 else f"{size / 1e6:.1f} MB"


def _last(name: str) -> str:
    return name.rpartition("/")[2].replace(":", "-")


def _entry(fields: Mapping[str, Any], digest: str, root: Path) -> Entry:
    """Build an entry from a manifest; raises ValueError, TypeError or KeyError if it is none."""
    known = {field.name: fields[field.name] for field in dataclasses.fields(About)}
    if set(fields) != {"name", "files", *known}:
        raise ValueError("unknown fields")
    name, files = fields["name"], {}
    for file, facts in fields["files"].items():
        if not _FILE.fullmatch(file) or not is_name(facts["sha256"]):
            raise ValueError("not a file of a model")
        files[file] = File(facts["sha256"], int(facts["size"]))
    if not isinstance(name, str) or not _NAME.fullmatch(name) or not files:
        raise ValueError("not a model's name")
    path = root / "folders" / digest / _last(name)
    if known["kind"] == GGUF:
        path /= next(iter(files))
    size = sum(file.size for file in files.values())
    return Entry(name, path, files, size, digest, **known)
