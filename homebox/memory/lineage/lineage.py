"""Which weights are served next: promotion, rollback, and the checkpoints to choose from.

The one idea: weights are read completely before HEAD moves to them (`refs`), and the states of the
lessons follow the reflog by number, exactly once. Invariant: no object is deleted but by `let_go`,
which nothing that is served needs any more by then.
"""

import contextlib
import json
import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homebox.errors import StateError
from homebox.memory.ledger import Ledger
from homebox.memory.ledger.marks import MOVES
from homebox.memory.lineage.gone import Gone
from homebox.memory.lineage.lessons import followed, lessons_of, naming, rolled_back
from homebox.memory.lineage.names import find, refuse_gone, word_of
from homebox.memory.lineage.refs import LEFT, PROMOTED, ROLLED_BACK, Refs
from homebox.memory.manifest import BASE, LineageEntry, Manifest, short
from homebox.memory.store import Store, canonical_json, is_name, named
from homebox.memory.turns import now


@dataclass(frozen=True)
class Move:
    """What a promotion or rollback changed; old == new if nothing."""

    old: str
    new: str
    undone_lessons: tuple[str, ...] = ()
    restored_lessons: tuple[str, ...] = ()


class Lineage:
    """The weights of one state directory; one process writes, several threads may."""

    def __init__(self, root: Path, store: Store, ledger: Ledger) -> None:
        """`root` is the state directory."""
        self.root = root
        self._refs = Refs(root)
        self._gone = Gone(self._refs.folder, store)
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
        Refs(root).initialise()

    def head(self, base: str) -> str:
        """Return the served weights of `base`: a hash or "base"."""
        if not is_name(base):
            raise StateError(f"{base!r} is no base model's hash (64 hexadecimal digits)")
        return self._refs.heads().get(base, BASE)

    def heads(self) -> dict[str, str]:
        """Map every base that ever had learned weights to those served: a hash or "base"."""
        return self._refs.heads()

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
            self._verify_entry(entry, whole)
            if entry.weights == old:
                return Move(old, old)
            data = canonical_json(entry.as_json())
            name = named(data)
            line = {
                "entry": name if name in whole else self._store.put(data),
                "kind": PROMOTED,
                "reason": entry.reason,
                "time": entry.time,
                **naming(self._refs.lines(), entry),
            }
            self._move(entry.base, old, entry.weights, line)
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
            undone, restored = rolled_back(self._refs.reflog(), base, old, new)
            line = {"entry": None, "kind": ROLLED_BACK, "reason": reason, "time": now()}
            self._move(base, old, new, line)
            return Move(old, new, undone, restored)

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
            line = {"entry": None, "kind": LEFT, "reason": reason, "time": now()}
            self._move(base, old, weights, line)
            return Move(old, weights)

    def let_go(self, weights: Iterable[str], objects: Iterable[str]) -> int:
        """Delete objects for good, among them all that only these weights consist of.

        Survives a crash: what was begun is ended at the next start. The weights must not be served
        by then (see `leave`). Returns how many objects there were.
        """
        with self._lock:
            going = frozenset(weights)
            if not going.isdisjoint(self._refs.heads().values()):
                raise StateError("weights that are served cannot be let go of")
            self._gone.add(going)
            return self._gone.delete(objects)

    def gone(self) -> frozenset[str]:
        """Return the weights that were let go of, and that nobody made again since."""
        return self._gone.names()

    def keep(self, entry: LineageEntry) -> None:
        """List checkpoints that came from elsewhere and are not served; `promote` serves them.

        All their objects must be in the store. Raises StateError. Weights are listed once.
        """
        with self._lock:
            self._verify_entry(entry)
            if any(known.weights == entry.weights for known in self.imports(entry.base)):
                return
            self._refs.add_import(self._store.put(canonical_json(entry.as_json())))

    def imports(self, base: str) -> list[LineageEntry]:
        """List what `keep` was given for this base, oldest first."""
        entries = map(self.entry, self._refs.imports())
        return [entry for entry in entries if entry.base == base]

    def resolve(self, base: str, name: str, imports: bool = False) -> str:
        """Find the weights that `name` means: a hash or "base".

        `name` is "base", "current", "previous" (what was served before the last move; the base if
        there was none) or a unique prefix of the hash of a kept checkpoint of this base, with or
        without "homebox@" or "sha256:" before it. `imports` counts those that were only imported
        too. Raises UnknownWeightsError or AmbiguousWeightsError, which name the candidates.
        """
        word = word_of(name)
        if word in (BASE, "current"):
            return BASE if word == BASE else self.head(base)
        gone = self.gone()
        if word == "previous":
            moves = self._refs.moves(base)
            before = str(moves[-1]["old"]) if moves else BASE
            if before in gone:
                refuse_gone(before)
            return before
        kept = self.checkpoints(base)
        if imports:
            kept = list(dict.fromkeys([*kept, *(entry.weights for entry in self.imports(base))]))
        return find(name, kept, gone)

    def checkpoints(self, base: str) -> list[str]:
        """List the weights of this base that were ever served, oldest first, each once.

        Those that were let go of are left out.
        """
        names = (str(move["new"]) for move in self._refs.moves(base))
        gone = self.gone()
        return [name for name in dict.fromkeys(names) if name != BASE and name not in gone]

    def history(self, base: str) -> list[LineageEntry]:
        """List the promotions of this base, oldest first."""
        moves = self._refs.moves(base)
        return [self.entry(str(move["entry"])) for move in moves if move.get("entry")]

    def entry(self, name: str) -> LineageEntry:
        """Return the entry that a line of the reflog names."""
        return LineageEntry.from_json(json.loads(self._store.get(name)))

    def reflog(self) -> list[dict[str, Any]]:
        """List every line of the reflog, oldest first, numbered from 1.

        `done` is false for a move that a crash or a full disk prevented.
        """
        return self._refs.reflog()

    def lessons(self) -> dict[int, tuple[str, ...]]:
        """Map the number of each promotion in the reflog to the lessons in its weights."""
        return lessons_of(self._refs.lines())

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
            self._gone.finish()
            self._follow()

    def _verify_entry(self, entry: LineageEntry, whole: Collection[str] = ()) -> None:
        """Read everything that an entry names, but `whole`."""
        if self.verify(entry.weights, whole).base != entry.base:
            raise StateError(f"weights {short(entry.weights)} belong to another base model")
        if entry.report not in whole:
            self._store.get(entry.report)

    def _move(self, base: str, old: str, new: str, line: dict[str, Any]) -> None:
        """Move HEAD, and the lessons with it."""
        self._refs.move(base, old, new, line)
        # HEAD has moved, so a ledger that refuses must not make the move look refused.
        with contextlib.suppress(StateError):
            self._follow()

    def _follow(self) -> None:
        before = self._ledger.mark(MOVES)
        lines = self.reflog()
        if len(lines) < before:
            raise StateError(
                f"{self._refs.folder / 'reflog'} has {len(lines)} lines, but the ledger followed "
                f"{before} moves; restore both from the same backup"
            )
        for line in lines[before:]:
            undone, active = followed(lines, line) if line["done"] else ((), ())
            self._ledger.follow_move(line["number"], undone=undone, active=active)
