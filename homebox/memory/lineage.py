"""Which weights are served, which ever were, and how to get them back.

The one idea: HEAD names the served weights of each base, and the reflog is written before HEAD
moves. A line of the reflog counts only if the move happened, and that can be read from the files
alone: the next line of the same base starts where this one ended, or HEAD points there. So a crash
between any two calls leaves the old or the new weights, and nothing has to be repaired. The states
of the lessons follow the reflog by number, exactly once. Invariant: no object is deleted but by
`let_go`, which nothing that is served needs any more by then.
"""

import contextlib
import json
import math
import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homebox.errors import (
    AmbiguousWeightsError,
    DamagedObjectError,
    StateError,
    UnknownWeightsError,
)
from homebox.memory.durable import (
    append_line,
    explained,
    make_directory,
    replace_file,
    sync_directory,
    whole_lines,
)
from homebox.memory.ledger import Ledger, now
from homebox.memory.manifest import BASE, LineageEntry, Manifest, short
from homebox.memory.store import Store, canonical_json, is_name, named

PROMOTED = "promote"
ROLLED_BACK = "rollback"
LEFT = "left"  # a move of HEAD away from weights that are to go for good
_NAMING = ("undone", "lessons", "less", "more")  # keys with names of lessons
_LEAVING = "leaving"  # the objects that are being deleted

__all__ = ["BASE", "Lineage", "LineageEntry", "Manifest", "Move"]


@dataclass(frozen=True)
class Move:
    """What a promotion or rollback changed; old == new if nothing."""

    old: str
    new: str
    undone_lessons: tuple[str, ...] = ()
    restored_lessons: tuple[str, ...] = ()


class Lineage:
    """The refs of one state directory; one process writes, several threads may."""

    def __init__(self, root: Path, store: Store, ledger: Ledger) -> None:
        """`root` is the state directory."""
        self.root = root
        self._refs = root / "refs"
        self._store = store
        self._ledger = ledger
        self._lock = threading.RLock()

    @property
    def store(self) -> Store:
        """The objects that the refs name."""
        return self._store

    @staticmethod
    def initialise(root: Path) -> None:
        """Make the refs of a new state directory."""
        make_directory(root / "refs")
        if not (root / "refs" / "HEAD").exists():
            replace_file(root / "refs" / "HEAD", canonical_json({}))

    def head(self, base: str) -> str:
        """Return the served weights of `base`: a hash or "base"."""
        if not is_name(base):
            raise StateError(f"{base!r} is no base model's hash (64 hexadecimal digits)")
        return self._heads().get(base, BASE)

    def promote(self, entry: LineageEntry, whole: Collection[str] = ()) -> Move:
        """Serve `entry.weights` from now on.

        All its objects must be in the store, and its parent must still be served; those that are
        `whole` were kept and read a moment ago. Raises StateError; HEAD is then unchanged.
        """
        with self._lock:
            old = self.head(entry.base)
            if entry.parent != old:
                raise StateError(
                    f"these weights follow {short(entry.parent)}, but {short(old)} is served by "
                    'now; run "homebox learn --now" again'
                )
            manifest = self.verify(entry.weights, whole)
            if manifest.base != entry.base:
                raise StateError(f"weights {short(entry.weights)} belong to another base model")
            if entry.report not in whole:
                self._store.get(entry.report)
            if entry.weights == old:
                return Move(old, old)
            data = canonical_json(entry.as_json())
            name = named(data)
            line = {
                "entry": name if name in whole else self._store.put(data),
                "kind": PROMOTED,
                "reason": entry.reason,
                "time": entry.time,
                **self._naming(entry),
            }
            self._move(entry.base, old, entry.weights, line)
            self._follow_if_possible()
            return Move(old, entry.weights)

    def rollback(self, base: str, name: str, reason: str) -> Move:
        """Serve the weights that `name` means (see `resolve`) from now on.

        Lessons that only the abandoned checkpoints knew become undone; those that the target knew
        are restored. The target is verified first. Raises StateError; HEAD is then unchanged.
        """
        with self._lock:
            old, new = self.head(base), self.resolve(base, name)
            if new == old:
                return Move(old, old)
            if new != BASE:
                self.verify(new)
            undone, restored = self._changed_lessons(base, old, new)
            line = {
                "entry": None,
                "kind": ROLLED_BACK,
                "reason": reason,
                "time": now(),
            }
            self._move(base, old, new, line)
            self._follow_if_possible()
            return Move(old, new, undone, restored)

    def keep(self, entry: LineageEntry) -> None:
        """List checkpoints that came from elsewhere and are not served; `promote` serves them.

        All their objects must be in the store. Raises StateError. Weights are listed once.
        """
        with self._lock:
            manifest = self.verify(entry.weights)
            if manifest.base != entry.base:
                raise StateError(f"weights {short(entry.weights)} belong to another base model")
            self._store.get(entry.report)
            if any(known.weights == entry.weights for known in self.imports(entry.base)):
                return
            name = self._store.put(canonical_json(entry.as_json()))
            append_line(self._refs / "imports", canonical_json({"entry": name}))

    def leave(self, base: str, weights: str, reason: str) -> Move:
        """Serve earlier weights, or the base, because those served now are to go for good.

        What was told since holds on: no lesson is undone by it, unlike by `rollback`.
        """
        with self._lock:
            old = self.head(base)
            if weights == old:
                return Move(old, old)
            if weights != BASE:
                self.verify(weights)
            line = {
                "entry": None,
                "kind": LEFT,
                "reason": reason,
                "time": now(),
            }
            self._move(base, old, weights, line)
            self._follow_if_possible()
            return Move(old, weights)

    def let_go(self, weights: Iterable[str], objects: Iterable[str]) -> int:
        """Delete objects for good, among them all that only these weights consist of.

        Survives a crash: what was begun is ended at the next start. The weights must not be served
        by then (see `leave`). Returns how many objects there were.
        """
        with self._lock:
            going = sorted(set(weights))
            if not set(going).isdisjoint(self._heads().values()):
                raise StateError("weights that are served cannot be let go of")
            for name in going:
                if name not in self.gone():
                    append_line(self._refs / "gone", canonical_json({"weights": name}))
            names = sorted(set(objects))
            if not names:
                return 0
            replace_file(self._refs / _LEAVING, canonical_json(names))
            return self._end_leaving()

    def gone(self) -> frozenset[str]:
        """Return the weights that were let go of, and that nobody made again since."""
        lines = whole_lines(self._refs / "gone")
        names = {str(json.loads(text)["weights"]) for text in lines}
        return frozenset(name for name in names if not self._store.has(name))

    def _end_leaving(self) -> int:
        """Delete what is to be deleted, if anything is."""
        path = self._refs / _LEAVING
        if not path.exists():
            return 0
        count = self._store.remove(name for name in json.loads(path.read_bytes()) if is_name(name))
        with explained("remove", path):
            path.unlink(missing_ok=True)
            sync_directory(self._refs)
        return count

    def imports(self, base: str) -> list[LineageEntry]:
        """List what `keep` was given for this base, oldest first."""
        path = self._refs / "imports"
        entries = []
        for number, text in enumerate(whole_lines(path), 1):
            try:
                name = json.loads(text)["entry"]
            except (ValueError, KeyError, TypeError) as error:
                raise DamagedObjectError(
                    f"{path}, line {number}, is damaged ({error}); restore it from a backup"
                ) from error
            entries.append(self._entry(name))
        return [entry for entry in entries if entry.base == base]

    def resolve(self, base: str, name: str, imports: bool = False) -> str:
        """Find the weights that `name` means: a hash or "base".

        `name` is "base", "current", "previous" (what was served before the last move; the base if
        there was none) or a unique prefix of the hash of a kept checkpoint of this base, with or
        without "homebox@" or "sha256:" before it. `imports` counts those that were only imported
        too. Raises UnknownWeightsError or AmbiguousWeightsError, which name the candidates.
        """
        word = name.strip().lower().removeprefix("homebox@").removeprefix("sha256:")
        if word in (BASE, "current"):
            return BASE if word == BASE else self.head(base)
        gone = self.gone()
        if word == "previous":
            moves = self._moves(base)
            before = str(moves[-1]["old"]) if moves else BASE
            if before in gone:
                raise UnknownWeightsError(_went(before))
            return before
        kept = self.checkpoints(base)
        if imports:
            kept = list(dict.fromkeys([*kept, *(entry.weights for entry in self.imports(base))]))
        found = [weights for weights in kept if word and weights.startswith(word)]
        if len(found) == 1:
            return found[0]
        went = [weights for weights in gone if word and weights.startswith(word)]
        if len(went) == 1 and not found:
            raise UnknownWeightsError(_went(went[0]))
        candidates = ", ".join(short(weights) for weights in found or ["base", *kept[-8:]])
        if found:
            raise AmbiguousWeightsError(f"{name!r} fits several checkpoints: {candidates}")
        raise UnknownWeightsError(
            f"no checkpoint of this model is called {name!r}; there are: {candidates}"
            + ("" if kept else " (nothing was learned yet)")
        )

    def checkpoints(self, base: str) -> list[str]:
        """List the weights of this base that were ever served, oldest first, each once.

        Those that were let go of are left out.
        """
        names = (str(move["new"]) for move in self._moves(base))
        gone = self.gone()
        return [name for name in dict.fromkeys(names) if name != BASE and name not in gone]

    def history(self, base: str) -> list[LineageEntry]:
        """List the promotions of this base, oldest first."""
        return [self._entry(str(move["entry"])) for move in self._moves(base) if move.get("entry")]

    def entry(self, name: str) -> LineageEntry:
        """Return the entry that a line of the reflog names."""
        return self._entry(name)

    def heads(self) -> dict[str, str]:
        """Map every base that ever had learned weights to those served: a hash or "base"."""
        return self._heads()

    def reflog(self) -> list[dict[str, Any]]:
        """List every line of the reflog, oldest first, numbered from 1.

        `done` is false for a move that a crash or a full disk prevented.
        """
        heads = self._heads()
        lines = self._lines()
        following: dict[str, str] = {}
        for line in reversed(lines):
            base = line["base"]
            line["done"] = following.get(base, heads.get(base, BASE)) == line["new"]
            following[base] = line["old"]
        return lines

    def verify(self, weights: str, whole: Collection[str] = ()) -> Manifest:
        """Read everything that `weights` consist of, but `whole`; raises the store's errors."""
        manifest = Manifest.load(self._store, weights)
        for name in {*manifest.adapter.values(), manifest.job}.difference(whole):
            self._store.get(name)
        return manifest

    def settle(self) -> None:
        """Let the lessons follow moves that a crash or a full disk cut them off from.

        Changes nothing twice. Runs at every start; call it before lessons are selected.
        """
        with self._lock:
            self._end_leaving()
            self._follow()

    def _move(self, base: str, old: str, new: str, line: dict[str, Any]) -> None:
        """Write the intention, then move HEAD: the rename is the instant of truth."""
        line = {**line, "base": base, "new": new, "old": old}
        before = self._heads()
        self._lines()  # a damaged reflog is noticed before it grows
        append_line(self._refs / "reflog", canonical_json(line))
        try:
            replace_file(self._refs / "HEAD", canonical_json({**before, base: new}))
        except StateError:
            # Only the sync after the rename can have failed if HEAD moved: what is reported as
            # refused must not be served after the next start.
            if self._heads() != before:
                replace_file(self._refs / "HEAD", canonical_json(before))
            raise

    def _follow_if_possible(self) -> None:
        """HEAD has moved, so a ledger that refuses must not make the move look refused."""
        with contextlib.suppress(StateError):
            self._follow()

    def _follow(self) -> None:
        followed = self._ledger.mark("moves")
        lines = self.reflog()
        if len(lines) < followed:
            raise StateError(
                f"{self._refs / 'reflog'} has {len(lines)} lines, but the ledger followed "
                f"{followed} moves; restore both from the same backup"
            )
        for line in lines[followed:]:
            undone, active = self._followed(line) if line["done"] else ((), ())
            self._ledger.follow_move(line["number"], undone=undone, active=active)

    def lessons(self) -> dict[int, tuple[str, ...]]:
        """Map the number of each promotion in the reflog to the lessons in its weights."""
        found: dict[int, tuple[str, ...]] = {}
        last: dict[str, tuple[str, ...]] = {}
        for line in self._lines():
            if line["kind"] != PROMOTED:
                continue
            base = line["base"]
            names = line.get("lessons")
            if names is None:
                names = sorted({*last[base], *line["more"]}.difference(line["less"]))
            found[line["number"]] = last[base] = tuple(names)
        return found

    def _naming(self, entry: LineageEntry) -> dict[str, Any]:
        """Name the lessons of a promotion by what is not as in the one before, if that is short."""
        lines = [
            line
            for line in self._lines()
            if line["kind"] == PROMOTED and line["base"] == entry.base
        ]
        names = frozenset(entry.lessons)
        if not lines or tuple(sorted(names)) != entry.lessons:
            return {"lessons": entry.lessons}
        before = frozenset(self.lessons()[lines[-1]["number"]])
        more, less = sorted(names - before), sorted(before - names)
        if len(more) + len(less) >= len(names):
            return {"lessons": entry.lessons}
        return {"less": less, "more": more}

    def _followed(self, line: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the lessons that a move undid, and those that are in the weights served since."""
        if line["kind"] == PROMOTED:
            return (), self.lessons()[line["number"]]
        if "undone" in line:  # lines of other moves once named them
            return tuple(line["undone"]), tuple(line["lessons"])
        if line["kind"] == ROLLED_BACK:
            place = (str(line["old"]), str(line["new"]), int(line["number"]))
            return self._changed_lessons(str(line["base"]), *place)
        return (), ()

    def _changed_lessons(
        self, base: str, old: str, new: str, number: float = math.inf
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return what a rollback undoes and restores, after the moves before that number."""
        promotions = {
            str(line["new"]): line
            for line in self._moves(base)
            if line["kind"] == PROMOTED and line["number"] < number
        }
        lessons = self.lessons()
        restored = lessons[promotions[new]["number"]] if new != BASE else ()
        undone: dict[str, None] = {}
        seen = {new, BASE}
        while old not in seen:
            seen.add(old)
            undone.update(dict.fromkeys(lessons[promotions[old]["number"]]))
            old = promotions[old]["old"]
        there = frozenset(restored)
        return tuple(name for name in undone if name not in there), restored

    def _moves(self, base: str) -> list[dict[str, Any]]:
        return [line for line in self.reflog() if line["done"] and line["base"] == base]

    def _entry(self, name: str) -> LineageEntry:
        return LineageEntry.from_json(json.loads(self._store.get(name)))

    def _heads(self) -> dict[str, str]:
        path = self._refs / "HEAD"
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

    def _lines(self) -> list[dict[str, Any]]:
        path = self._refs / "reflog"
        lines = []
        for number, text in enumerate(whole_lines(path), 1):
            try:
                line = json.loads(text)
                _check_line(line)
            except (ValueError, KeyError, TypeError) as error:
                raise DamagedObjectError(
                    f"{path}, line {number}, is damaged ({error}); restore it from a backup"
                ) from error
            lines.append({"number": number, **line})
        return lines


def _went(weights: str) -> str:
    return (
        f"the weights {short(weights)} knew what was forgotten, so they were let go of for good; "
        '"homebox history" lists what is there'
    )


def _check_line(line: Mapping[str, Any]) -> None:
    if not is_name(line["base"]) or not (line["entry"] is None or is_name(line["entry"])):
        raise ValueError("no such base or entry")
    for key in ("old", "new"):
        if line[key] != BASE and not is_name(line[key]):
            raise ValueError(f"{key} is no weights hash")
    if not all(is_name(name) for key in _NAMING for name in line.get(key, ())):
        raise ValueError("a lesson has no hash")
