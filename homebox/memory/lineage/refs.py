"""HEAD and the reflog: the files that say which weights are served, and which ever were.

The one idea: HEAD names the served weights of each base, and the reflog is written before HEAD
moves. A line of the reflog counts only if the move happened, and that can be read from the files
alone: the next line of the same base starts where this one ended, or HEAD points there. Invariant:
a crash between any two calls leaves the old or the new weights, and nothing has to be repaired.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from homebox.errors import DamagedObjectError, StateError
from homebox.memory.durable import append_line, make_directory, replace_file, whole_lines
from homebox.memory.manifest import BASE
from homebox.memory.store import canonical_json, is_name

PROMOTED = "promote"
ROLLED_BACK = "rollback"
LEFT = "left"  # a move of HEAD away from weights that are to go for good
_NAMING = ("undone", "lessons", "less", "more")  # keys with names of lessons


class Refs:
    """HEAD and the reflog of one state directory; one thread at a time may move HEAD."""

    def __init__(self, root: Path) -> None:
        """`root` is the state directory."""
        self.folder = root / "refs"

    def initialise(self) -> None:
        """Make the refs of a new state directory."""
        make_directory(self.folder)
        if not (self.folder / "HEAD").exists():
            replace_file(self.folder / "HEAD", canonical_json({}))

    def heads(self) -> dict[str, str]:
        """Map every base that ever had learned weights to those served: a hash or "base"."""
        path = self.folder / "HEAD"
        try:
            heads = json.loads(path.read_bytes())
            if isinstance(heads, dict) and all(
                is_name(base) and (weights == BASE or is_name(weights))
                for base, weights in heads.items()
            ):
                return heads
        except FileNotFoundError as error:
            raise StateError(f"{path} is missing; restore it from a backup of the state") from error
        except (OSError, ValueError) as error:
            raise DamagedObjectError(
                f"{path} cannot be read ({error}); restore it from a backup of the state"
            ) from error
        raise DamagedObjectError(f"{path} is damaged; restore it from a backup of the state")

    def lines(self) -> list[dict[str, Any]]:
        """List every line of the reflog as it was written, oldest first, numbered from 1."""
        path = self.folder / "reflog"
        lines = []
        for number, text in enumerate(whole_lines(path), 1):
            try:
                line = json.loads(text)
                _check(line)
            except (ValueError, KeyError, TypeError) as error:
                raise DamagedObjectError(
                    f"{path}, line {number}, is damaged ({error}); restore it from a backup"
                ) from error
            lines.append({"number": number, **line})
        return lines

    def reflog(self) -> list[dict[str, Any]]:
        """List every line as `lines` does; `done` is false for a move that was prevented."""
        heads = self.heads()
        lines = self.lines()
        following: dict[str, str] = {}
        for line in reversed(lines):
            base = line["base"]
            line["done"] = following.get(base, heads.get(base, BASE)) == line["new"]
            following[base] = line["old"]
        return lines

    def moves(self, base: str) -> list[dict[str, Any]]:
        """List the lines of one base whose moves happened, oldest first."""
        return [line for line in self.reflog() if line["done"] and line["base"] == base]

    def move(self, base: str, old: str, new: str, line: Mapping[str, Any]) -> None:
        """Write the intention, then move HEAD: the rename is the instant of truth."""
        line = {**line, "base": base, "new": new, "old": old}
        before = self.heads()
        self.lines()  # a damaged reflog is noticed before it grows
        append_line(self.folder / "reflog", canonical_json(line))
        try:
            replace_file(self.folder / "HEAD", canonical_json({**before, base: new}))
        except StateError:
            # Only the sync after the rename can have failed if HEAD moved: what is reported as
            # refused must not be served after the next start.
            if self.heads() != before:
                replace_file(self.folder / "HEAD", canonical_json(before))
            raise

    def imports(self) -> list[str]:
        """List the entries of checkpoints that came from elsewhere, oldest first."""
        path = self.folder / "imports"
        entries = []
        for number, text in enumerate(whole_lines(path), 1):
            try:
                entries.append(json.loads(text)["entry"])
            except (ValueError, KeyError, TypeError) as error:
                raise DamagedObjectError(
                    f"{path}, line {number}, is damaged ({error}); restore it from a backup"
                ) from error
        return entries

    def add_import(self, entry: str) -> None:
        """List a checkpoint that came from elsewhere by its entry."""
        append_line(self.folder / "imports", canonical_json({"entry": entry}))


def _check(line: Mapping[str, Any]) -> None:
    if not is_name(line["base"]) or not (line["entry"] is None or is_name(line["entry"])):
        raise ValueError("no such base or entry")
    for key in ("old", "new"):
        if line[key] != BASE and not is_name(line[key]):
            raise ValueError(f"{key} is no weights hash")
    if not all(is_name(name) for key in _NAMING for name in line.get(key, ())):
        raise ValueError("a lesson has no hash")
