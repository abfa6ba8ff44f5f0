"""Weights that were let go of for good, because they knew what was forgotten.

The one idea: their names are kept, so that whoever asks for them is told why they are not there,
and the list of what is being deleted is written first. Invariant: what a crash cut short is ended
by the next `finish`.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from homebox.memory.durable import (
    append_line,
    explained,
    replace_file,
    sync_directory,
    whole_lines,
)
from homebox.memory.store import Store, canonical_json, is_name

_LEAVING = "leaving"  # the objects that are being deleted


class Gone:
    """The weights of one state directory that are there no more."""

    def __init__(self, folder: Path, store: Store) -> None:
        """`folder` holds the refs."""
        self._folder, self._store = folder, store

    def names(self) -> frozenset[str]:
        """Return the weights that were let go of, and that nobody made again since."""
        lines = whole_lines(self._folder / "gone")
        names = {str(json.loads(text)["weights"]) for text in lines}
        return frozenset(name for name in names if not self._store.has(name))

    def add(self, weights: Iterable[str]) -> None:
        """Remember that weights are to go."""
        for name in sorted(set(weights)):
            if name not in self.names():
                append_line(self._folder / "gone", canonical_json({"weights": name}))

    def delete(self, objects: Iterable[str]) -> int:
        """Delete objects for good, crash or not; return how many there were."""
        names = sorted(set(objects))
        if not names:
            return 0
        replace_file(self._folder / _LEAVING, canonical_json(names))
        return self.finish()

    def finish(self) -> int:
        """Delete what is to be deleted, if anything is; return how many objects there were."""
        path = self._folder / _LEAVING
        if not path.exists():
            return 0
        count = self._store.remove(name for name in json.loads(path.read_bytes()) if is_name(name))
        with explained("remove", path):
            path.unlink(missing_ok=True)
            sync_directory(self._folder)
        return count
