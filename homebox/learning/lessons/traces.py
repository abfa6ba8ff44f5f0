"""What else on the disk still holds words that the ledger no longer has, and lets it go.

The one idea: an object of the store may stay as long as all words of the owner in it stand in the
ledger: lessons by their hashes, what was said by its text. So nothing has to remember what was
forgotten, and one look finds what any earlier forgetting left behind. Invariant: weights and all
that they were made of go together, and nothing goes that other weights are made of.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from homebox.errors import StateError
from homebox.learning.curriculum import Curriculum, Messages
from homebox.learning.examples.samples import HINDSIGHT, OWNED
from homebox.memory.ledger import Ledger
from homebox.memory.lineage import Lineage
from homebox.memory.manifest import BASE
from homebox.memory.store import Store

REASON = "they knew what was forgotten"


@dataclass(frozen=True)
class Traces:
    """What knows more than the ledger: weights, and all objects that go with them."""

    weights: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()


@dataclass
class _Shelf:
    """The objects of a store that are JSON, by what they are."""

    manifests: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    specs: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    entries: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    worded: dict[str, bool] = field(default_factory=dict)  # name -> whether it must go


def traces(ledger: Ledger, store: Store, losing: Collection[str] = ()) -> Traces:
    """Find what still holds words that the ledger no longer has; changes nothing.

    `losing` has the hashes of lessons that are to be forgotten, too.
    """
    known = {lesson.hash for lesson in ledger.lessons()}.difference(losing)
    shelf = _shelf(ledger, store, known)
    lost = {name for name, goes in shelf.worded.items() if goes}
    told = {
        str(entry["weights"])
        for entry in shelf.entries.values()
        if not known >= {*entry["lessons"]}
    }
    specs = {name for name, spec in shelf.specs.items() if lost.intersection(_named(spec))}
    weights = {
        name
        for name, manifest in shelf.manifests.items()
        if manifest["job"] in specs or name in told
    }
    going = lost | weights | specs
    going |= {part for name in weights for part in _parts(shelf, name)}
    going |= {str(each["report"]) for each in shelf.entries.values() if each["weights"] in weights}
    staying = {
        part for name in shelf.manifests if name not in weights for part in _parts(shelf, name)
    }
    staying |= {
        str(each["report"]) for each in shelf.entries.values() if each["weights"] not in weights
    }
    return Traces(tuple(sorted(weights)), tuple(sorted(going - (staying - lost))))


def let_go(ledger: Ledger, store: Store, lineage: Lineage) -> dict[str, Any]:
    """Delete for good what still holds forgotten words; HEAD moves before, if it must.

    Returns plain JSON: the weights and how many objects went, and the moves of HEAD: to the newest
    weights that stay, or to the base. Raises StateError; what is served is whole then, too.
    """
    found = traces(ledger, store)
    moves = []
    for base, head in sorted(lineage.heads().items()):
        if head in found.weights:
            kept = [
                name
                for name in reversed(lineage.checkpoints(base))
                if name not in found.weights and _whole(lineage, name)
            ]
            move = lineage.leave(base, kept[0] if kept else BASE, REASON)
            moves.append({"base": base, "old": move.old, "new": move.new})
    count = lineage.let_go(found.weights, found.objects)
    return {"weights": list(found.weights), "objects": count, "moves": moves}


def _whole(lineage: Lineage, weights: str) -> bool:
    try:
        lineage.verify(weights)
    except StateError:
        return False
    return True


def _parts(shelf: _Shelf, weights: str) -> Iterator[str]:
    """Yield all that weights consist of, and were made from."""
    manifest = shelf.manifests[weights]
    yield from manifest["adapter"].values()
    yield manifest["job"]
    yield from _named(shelf.specs.get(manifest["job"], {}))


def _named(spec: Mapping[str, Any]) -> list[str]:
    return [str(spec[key]) for key in ("curriculum", "samples") if spec.get(key)]


def _shelf(ledger: Ledger, store: Store, known: set[str]) -> _Shelf:
    subjects = {lesson.subject for lesson in ledger.lessons()}
    seen: dict[str, bool] = {}

    def held(text: str) -> bool:
        if text not in seen:
            seen[text] = not text or ledger.holds(text)
        return seen[text]

    shelf = _Shelf()
    for name in store.names():
        if store.begins(name) != b"{":
            continue  # a tensor
        try:
            value = json.loads(store.get(name))
        except ValueError:
            continue
        keys = set(value)
        if keys == {"base", "adapter", "job"}:
            shelf.manifests[name] = value
        elif {"kind", "recipe"} <= keys:
            shelf.specs[name] = value
        elif {"weights", "ledger_root", "lessons", "report"} <= keys:
            shelf.entries[name] = value
        elif {"lessons", "superseded", "pairs", "thumbs", "prompts"} <= keys:
            shelf.worded[name] = not _curriculum_held(store, name, known, held)
        elif keys == {"base", "samples"}:
            shelf.worded[name] = not _samples_held(value["samples"], known, held)
        elif "by_topic" in keys:
            shelf.worded[name] = not _report_held(value, known, subjects)
    return shelf


def _curriculum_held(store: Store, name: str, known: set[str], held: Callable[[str], bool]) -> bool:
    curriculum = Curriculum.load(store, name)
    told = {lesson.hash for lesson in (*curriculum.lessons, *curriculum.superseded)}
    if not known >= told:
        return False
    said = [*curriculum.prompts]
    for pair in curriculum.pairs:
        said += [*_words(pair.messages), pair.chosen, pair.rejected]
    for thumb in curriculum.thumbs:
        said += [*_words(thumb.messages), thumb.answer]
    return all(map(held, said))


def _samples_held(samples: Any, known: set[str], held: Callable[[str], bool]) -> bool:
    """Say whether nothing of the owner in samples is forgotten; most are about what we ship."""
    for sample in samples:
        if sample["purpose"] == HINDSIGHT and sample["about"] not in known:
            return False
        if sample["purpose"] == OWNED and not all(map(held, _words(sample["messages"]))):
            return False
    return True


def _report_held(report: Mapping[str, Any], known: set[str], subjects: set[str]) -> bool:
    topics = report["by_topic"]
    told = {name for topic in topics.values() for name in topic.get("lessons", ())}
    return known >= told | {*report.get("known", ())} and subjects >= {*topics}


def _words(messages: Messages) -> list[str]:
    # What a call of a tool says stands beside the text of its message, which is enough to tell.
    return [str(message.get("content") or "") for message in messages]
