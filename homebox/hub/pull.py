"""`pull`: a model from a hub into the catalogue.

The order is that in which a pull can be refused: the listing, what its small files say, the disk,
then gigabytes, then the opened model; only what passed all of that is listed.
The one idea: all files lie in a folder of their own until the last one has its hash, so nobody can
see half a model, and another run finds what this one brought.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homebox.errors import ModelFormatError, ModelNotFoundError, PullError
from homebox.hub.catalogue import Catalogue, Entry, amount, check_name, digest_of, file_name, held
from homebox.hub.choice import choose_gguf, small_files, type_of, weight_files
from homebox.hub.describe import HEADER, about, refuse_config, refuse_header, refuse_tokenizer
from homebox.hub.download import PART, Download
from homebox.hub.remote import Hub, RemoteFile, Repository
from homebox.model.files.safetensors_reader import read_index
from homebox.model.files.weight_files import INDEX

SPARE = 256 << 20  # bytes of the disk that are left free
MOST_SMALL = 64 << 20  # bytes of a file beside the weights, as its readers have it
_BETWEEN = 0.1  # seconds between two reports

Show = Callable[[dict[str, Any]], None]  # takes {stage, done, total, text}


@dataclass(frozen=True)
class Wanted:
    """What was asked for."""

    repo: str
    revision: str = "main"
    file: str = ""  # a GGUF file, or the type of its numbers
    name: str = ""  # how it is to be called here


@dataclass(frozen=True)
class Pulled:
    """What is here now."""

    entry: Entry
    downloaded: int  # bytes that came over the network in this run
    new: bool  # False: it was here already


def parse(text: str, file: str = "", name: str = "") -> Wanted:
    """Read REPO[:TYPE][@REVISION], also with the hub's address in front."""
    for start in ("https://huggingface.co/", "huggingface.co/", "hf.co/"):
        text = text.removeprefix(start)
    repo, _, revision = text.partition("@")
    repo, _, kind = repo.partition(":")
    return Wanted(repo, revision or "main", file or kind, name)


def offline() -> bool:
    """Whether the environment forbids to ask a hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def here(catalogue: Catalogue, wanted: Wanted) -> Entry:
    """Return what an earlier pull brought, without asking anybody; raises PullError."""
    for entry in catalogue.entries():
        names = [wanted.name] if wanted.name else [wanted.repo, _called(wanted.repo, wanted.file)]
        same = wanted.revision == "main" or entry.revision.startswith(wanted.revision)
        if entry.name in names and same:
            return entry
    at = "" if wanted.revision == "main" else f" at {wanted.revision}"
    known = ", ".join(catalogue.names()) or "nothing"
    raise PullError(
        f"{wanted.repo}{at} is not on this box, and asking a hub is switched off; here: {known}"
    )


def pull(catalogue: Catalogue, hub: Hub, wanted: Wanted, show: Show) -> Pulled:
    """Bring a model here; raises ModelNotFoundError, ModelFormatError, PullError, BusyError."""
    repository = hub.repository(wanted.repo, wanted.revision)
    sizes = {name: size for name, (size, _) in repository.files.items()}
    gguf = choose_gguf(wanted.repo, sizes, wanted.file)
    name = check_name(wanted.name or _called(wanted.repo, wanted.file and type_of(gguf or "")))
    with contextlib.suppress(ModelNotFoundError):
        old = catalogue.find(name)
        file = file_name(gguf) if gguf else "config.json"
        same = (old.name, old.revision) == (name, repository.commit) and file in old.files
        if same and not catalogue.check(name):
            return Pulled(old, 0, False)
    key = f"{hub.endpoint} {wanted.repo} {repository.commit} {gguf}"
    folder = catalogue.staging(key)
    with held(folder / "lock", wait=False):
        work = _Pull(catalogue, hub, repository, folder, show)
        try:
            staged = work.gguf(gguf) if gguf else work.layout()
            path = folder / next(iter(staged)) if gguf else folder
            show({"stage": "check", "done": 1, "total": 1, "text": "reading the model"})
            facts = about(path, f"{hub.endpoint}/{wanted.repo}", repository.commit)
            entry = catalogue.add(name, staged, facts)
        except ModelFormatError:
            shutil.rmtree(folder, ignore_errors=True)  # more of it would not make it better
            raise
        shutil.rmtree(folder, ignore_errors=True)
    return Pulled(entry, work.downloaded, True)


class _Pull:
    """The files of one model on their way."""

    def __init__(
        self, catalogue: Catalogue, hub: Hub, repository: Repository, folder: Path, show: Show
    ) -> None:
        self._catalogue, self._hub, self._repository = catalogue, hub, repository
        self._folder, self._show = folder, show
        self.downloaded = 0
        self._done = self._total = 0  # bytes of all files
        self._begun = self._shown = time.monotonic()

    def layout(self) -> dict[str, tuple[Path, str]]:
        """Bring the files of Hugging Face's layout."""
        repo = self._repository.repo
        sizes = {name: size for name, (size, _) in self._repository.files.items()}
        small = self._files(small_files(repo, sizes))
        for file in small:
            if file.size > MOST_SMALL:
                raise ModelFormatError(
                    f"{repo}: {file.name} has {amount(file.size)}; no such file is that large"
                )
        several = any(file.name == INDEX for file in small)
        large = [] if several else self._files(weight_files(repo, sizes, {}))
        self._total = sum(file.size for file in (*small, *large))
        self._room([*small, *large])
        staged = {}
        for file in small:
            staged[file.name] = self._bring(file)
            if file.name == "config.json":
                self._naming(refuse_config, self._folder)
        self._naming(refuse_tokenizer, self._folder)
        if several:
            large = self._files(weight_files(repo, sizes, read_index(self._folder / INDEX)))
            self._total += sum(file.size for file in large)
            self._room(large)
        return staged | {file.name: self._bring(file) for file in large}

    def gguf(self, name: str) -> dict[str, tuple[Path, str]]:
        """Bring one file; its header first, which says whether it is worth the rest."""
        (file,) = self._files([name])
        self._total = file.size
        self._room([file])
        target = self._folder / file_name(name)
        if self._known(file, target):
            return {target.name: (target, file.digest)}
        download = Download(self._hub, self._repository, file, target)
        if not target.exists():
            beginning = download.beginning(HEADER, self._tell(download.here))
            self._naming(refuse_header, beginning, file.size)
        return {target.name: self._bring(file)}

    def _files(self, names: Sequence[str]) -> list[RemoteFile]:
        return [self._hub.file(self._repository, name) for name in names]

    def _bring(self, file: RemoteFile) -> tuple[Path, str]:
        """Bring a file, unless the box has it; return where it is, and its sha256."""
        target = self._folder / file_name(file.name)
        if self._known(file, target):
            digest = file.digest
        else:
            download = Download(self._hub, self._repository, file, target)
            digest = download.run(self._tell(download.here))
        self._done += file.size
        return target, digest

    def _known(self, file: RemoteFile, target: Path) -> bool:
        """Take a file that another model has from there, if it is as it was."""
        path = self._catalogue.object(file.digest)
        if len(file.digest) != 64 or not path.is_file() or digest_of(path) != file.digest:
            return False
        with contextlib.suppress(FileExistsError):
            target.hardlink_to(path)
        return True

    def _room(self, files: Sequence[RemoteFile]) -> None:
        """Raise PullError if the disk cannot hold what is still to come."""
        missing = 0
        for file in files:
            target = self._folder / file_name(file.name)
            if not self._catalogue.object(file.digest).is_file():
                missing += file.size - Download(self._hub, self._repository, file, target).here
        free = shutil.disk_usage(self._folder).free
        if missing + SPARE > free and missing:
            raise PullError(
                f"{self._repository.repo} needs {amount(missing)} more, and the disk of "
                f"{self._catalogue.root} has {amount(free)} free, of which {amount(SPARE)} stay "
                'free; remove something ("homebox models list" shows sizes), or set paths.models'
            )

    def _tell(self, start: int) -> Callable[[int], None]:
        """Return what hears how much of a file is here."""
        last = start

        def tell(size: int) -> None:
            nonlocal last
            self.downloaded += max(size - last, 0)
            last = size
            now, done = time.monotonic(), self._done + size
            if now - self._shown < _BETWEEN and done < self._total:
                return
            self._shown = now
            rate = self.downloaded / max(now - self._begun, 1e-3)
            left = f", {(self._total - done) / rate:.0f} s left" if rate > 0 else ""
            text = f"{amount(done)} of {amount(self._total)}, {amount(int(rate))}/s{left}"
            self._show({"stage": "pull", "done": done, "total": self._total, "text": text})

        return tell

    def _naming(self, check: Callable[..., None], *arguments: Any) -> None:
        """Let errors of a file name the repository that it comes from."""
        try:
            check(*arguments)
        except (ModelFormatError, ModelNotFoundError) as error:
            repo = self._repository.repo
            text = str(error).replace(f"{self._folder}/", f"{repo}: ").replace(f"{PART}:", ":")
            text = text.replace(str(self._folder), repo)
            raise type(error)(f"{text}; nothing more was downloaded") from error


def _called(repo: str, kind: str) -> str:
    return f"{repo}:{kind}" if kind else repo
