"""Keeps a training run on the disk while it runs, so that after a crash it ends with the same hash.

The one idea: a step is a function of the state before it and of its number, so the state after any
step stands for all steps before. Invariant: a file is whole or not there, it names the run that it
belongs to by its content's hash, and whoever cannot keep one learns on without.
"""

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from homebox.errors import StateError
from homebox.learning.training.course import Course
from homebox.memory.durable import SUFFIX as TEMPORARY
from homebox.memory.durable import make_directory, replace_file
from homebox.memory.store import canonical_json

log = logging.getLogger(__name__)

FOLDER = "learning"  # of the state directory
SUFFIX = ".run"
EVERY = 30.0  # seconds of training that a crash may cost
_DIGEST = 32  # bytes of sha256 in front
_NOTES = "notes"
_KINDS = {"float32": "F32", "float64": "F64", "uint8": "U8"}  # as safetensors say

State = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Kept:
    """A run as it was kept: the trainer's state and the course."""

    state: State
    course: Course


class Keeper:
    """The file of one run; without a folder nothing is kept."""

    def __init__(self, folder: Path | None, about: Mapping[str, Any]) -> None:
        """`about` is all that decides the run's result."""
        self.name = hashlib.sha256(canonical_json(about)).hexdigest()
        self._path = None if folder is None else folder / f"{self.name}{SUFFIX}"
        self._saved = time.monotonic()
        self.trouble = ""  # why the last attempt to keep the run failed

    @property
    def keeps(self) -> bool:
        """Whether there is a place to keep the run in."""
        return self._path is not None

    @property
    def due(self) -> bool:
        """Whether it is time to keep the run again."""
        return self.keeps and time.monotonic() - self._saved >= EVERY

    def save(self, kept: Kept) -> None:
        """Keep the run durably; where that fails, `trouble` says why and the old file stays."""
        if self._path is None:
            return
        self._saved = time.monotonic()
        try:
            make_directory(self._path.parent)
            replace_file(self._path, *pieces(kept))
        except StateError as error:
            self.trouble = str(error)
            log.warning("learning goes on without a checkpoint: %s", error)
            return
        self.trouble = ""

    def load(self) -> Kept | None:
        """Return the run as it was kept; None if it was not, or if the file is damaged."""
        if self._path is None:
            return None
        try:
            return read(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("learning begins anew: %s cannot be read: %s", self._path, error)
            return None


def forget_runs(folder: Path) -> None:
    """Remove what runs left in a folder: once a run is over, nothing of it is needed.

    Forgetting calls it too: a run that was kept knows what was told when it began.
    """
    for path in [*folder.glob(f"*{SUFFIX}"), *folder.glob(f"*{TEMPORARY}")]:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("cannot remove %s: %s", path, error)


def pieces(kept: Kept) -> list[bytes | memoryview]:
    """Return a run as bytes, piece by piece: the arrays are large, so none is copied.

    Behind the hash is a file of safetensors, https://huggingface.co/docs/safetensors, whose library
    would copy all of it twice.
    """
    notes = np.frombuffer(json.dumps(vars(kept.course)).encode(), np.uint8)
    arrays = {name: np.ascontiguousarray(value) for name, value in kept.state.items()}
    arrays[_NOTES] = notes
    header, end = {}, 0
    for name, array in arrays.items():
        place = [end, end := end + array.nbytes]
        kind = _KINDS[array.dtype.name]
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": place}
    text = json.dumps(header).encode()
    data: list[bytes | memoryview] = [len(text).to_bytes(8, "little"), text]
    data += [array.reshape(-1).view(np.uint8).data for array in arrays.values()]
    digest = hashlib.sha256()
    for piece in data:
        digest.update(piece)
    return [digest.digest(), *data]


def read(data: bytes) -> Kept:
    """Return a run from its bytes; raises ValueError if they are damaged."""
    digest, content = data[:_DIGEST], data[_DIGEST:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("its content does not have the hash that it begins with")
    try:
        arrays = safetensors.numpy.load(content)
        course = Course(**json.loads(arrays.pop(_NOTES).tobytes()))
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"it holds no run: {error}") from error
    return Kept(arrays, course)
