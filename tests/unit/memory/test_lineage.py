"""HEAD, reflog, rollback, and the lessons that follow them."""

import hashlib
import json
import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from homebox.errors import (
    AmbiguousWeightsError,
    DamagedObjectError,
    MissingObjectError,
    StateError,
    UnknownWeightsError,
)
from homebox.memory.manifest import LineageEntry, Manifest
from homebox.memory.state import State, open_state
from homebox.memory.store import canonical_json
from tests.unit.memory.kit import (
    BASE,
    MANY,
    OTHER,
    checkpoint,
    entry,
    files,
    lesson,
    promote,
    states,
)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with open_state(tmp_path / "state") as opened:
        yield opened


def object_path(state: State, name: str) -> Path:
    return state.path / "objects" / name[:2] / name[2:]


def test_a_new_box_serves_the_base(state: State) -> None:
    assert state.lineage.head(BASE) == "base"
    assert state.lineage.history(BASE) == []
    assert state.lineage.reflog() == []
    assert state.lineage.checkpoints(BASE) == []
    assert state.lineage.resolve(BASE, "previous") == "base"
    assert state.lineage.resolve(BASE, "current") == "base"


def test_promotion_moves_head_of_its_base_only(state: State) -> None:
    one = checkpoint(state, "one")
    move = state.lineage.promote(entry(state, one))
    assert (move.old, move.new) == ("base", one)
    two = promote(state, "two")
    assert state.lineage.head(BASE) == two
    assert state.lineage.head(OTHER) == "base"
    other = promote(state, "other", base=OTHER)
    assert (state.lineage.head(BASE), state.lineage.head(OTHER)) == (two, other)
    assert state.lineage.checkpoints(BASE) == [one, two]
    assert [item.parent for item in state.lineage.history(BASE)] == ["base", one]
    assert json.loads((state.path / "refs/HEAD").read_bytes()) == {BASE: two, OTHER: other}


def test_history_gives_back_what_was_promoted(state: State) -> None:
    told = state.ledger.add_lesson(lesson("Rex"))
    made = entry(state, checkpoint(state, "one"), (told,), reason="recall 1/1")
    state.lineage.promote(made)
    assert state.lineage.history(BASE) == [made]
    assert state.lineage.reflog() == [
        {
            "number": 1,
            "base": BASE,
            "done": True,
            "entry": hashlib.sha256(canonical_json(made.as_json())).hexdigest(),
            "kind": "promote",
            "new": made.weights,
            "old": "base",
            "reason": "recall 1/1",
            "lessons": [told],
            "time": made.time,
        }
    ]


def test_lines_that_name_their_lessons_are_followed_like_those_that_do_not(
    state: State, tmp_path: Path
) -> None:
    """Reflogs were once written so."""
    rex, tom = (state.ledger.add_lesson(lesson(name)) for name in ("Rex", "Tom"))
    one = promote(state, "one", rex)
    promote(state, "two", *sorted((rex, tom)))
    state.lineage.rollback(BASE, one, "owner")
    named = [([rex], []), (sorted((rex, tom)), []), ([rex], [tom])]
    expected = {"Rex": "active", "Tom": "undone"}
    assert states(state) == expected
    state.close()
    path = state.path / "refs/reflog"
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [line.keys() & {"lessons", "more"} for line in lines] == [{"lessons"}, {"more"}, set()]
    old = [
        canonical_json({**_plain(line), "lessons": lessons, "undone": undone})
        for line, (lessons, undone) in zip(lines, named, strict=True)
    ]
    for number in range(4):  # the first so many are old
        path.write_bytes(
            b"".join(line + b"\n" for line in [*old[:number], *_encoded(lines[number:])])
        )
        copy = tmp_path / f"{number}"
        shutil.copytree(state.path, copy)
        with closing(sqlite3.connect(copy / "ledger.db")) as other, other:
            other.execute("UPDATE lessons SET state = 'new'")
            other.execute("DELETE FROM marks")
        with open_state(copy) as again:
            assert states(again) == expected
            move = again.lineage.rollback(BASE, "previous", "owner")
            assert set(move.restored_lessons) == {rex, tom}
            assert states(again) == {"Rex": "active", "Tom": "active"}


def _plain(line: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in line.items() if name not in ("more", "less")}


def _encoded(lines: list[dict[str, object]]) -> list[bytes]:
    return [canonical_json(line) for line in lines]


def test_rollback_deletes_nothing_and_can_itself_be_undone(state: State) -> None:
    one, two = promote(state, "one"), promote(state, "two")
    objects = files(state.path / "objects")
    move = state.lineage.rollback(BASE, "previous", "owner")
    assert (move.old, move.new, state.lineage.head(BASE)) == (two, one, one)
    assert state.lineage.rollback(BASE, "previous", "owner").new == two
    assert state.lineage.rollback(BASE, "base", "owner").new == "base"
    assert state.lineage.rollback(BASE, f"homebox@{one[:8]}", "owner").new == one
    assert files(state.path / "objects") == objects
    assert [line["kind"] for line in state.lineage.reflog()] == ["promote"] * 2 + ["rollback"] * 4
    assert len(state.lineage.history(BASE)) == 2


def test_rollback_to_what_is_served_changes_nothing(state: State) -> None:
    one = promote(state, "one")
    before = files(state.path / "refs")
    move = state.lineage.rollback(BASE, one, "owner")
    assert (move.old, move.new, move.undone_lessons) == (one, one, ())
    assert files(state.path / "refs") == before


def test_resolve_accepts_unique_prefixes_and_names_the_candidates(state: State) -> None:
    made = [promote(state, f"checkpoint {number}") for number in range(40)]
    for weights in made:
        others = [name for name in made if name != weights]
        length = next(n for n in range(1, 65) if not any(o[:n] == weights[:n] for o in others))
        assert state.lineage.resolve(BASE, weights[:length]) == weights
        assert state.lineage.resolve(BASE, f" sha256:{weights[:length].upper()} ") == weights
        if length > 1:
            with pytest.raises(AmbiguousWeightsError, match=weights[:12]):
                state.lineage.resolve(BASE, weights[: length - 1])
    for name in ("zzz", "", "homebox@", made[0] + "0", "previous1", "../x"):
        with pytest.raises(UnknownWeightsError, match=f"base, .*{made[-1][:12]}"):
            state.lineage.resolve(BASE, name)
    with pytest.raises(UnknownWeightsError, match=r"base .nothing was learned yet"):
        state.lineage.resolve(OTHER, made[0])


def test_a_stale_candidate_is_refused(state: State) -> None:
    stale = entry(state, checkpoint(state, "trained on the base"))
    promote(state, "faster")
    before = files(state.path / "refs")
    with pytest.raises(StateError, match='run "homebox learn --now" again'):
        state.lineage.promote(stale)
    assert files(state.path / "refs") == before


def test_incomplete_or_damaged_checkpoints_are_never_served(state: State) -> None:
    one = promote(state, "one")
    two = checkpoint(state, "two")
    before = files(state.path / "refs")
    tensor = Manifest.load(state.store, two).adapter["layers.0.q.A"]
    content = object_path(state, tensor).read_bytes()
    object_path(state, tensor).write_bytes(b"?")
    with pytest.raises(DamagedObjectError, match=tensor[:12]):
        state.lineage.promote(entry(state, two))
    object_path(state, tensor).unlink()
    with pytest.raises(MissingObjectError, match=tensor[:12]):
        state.lineage.promote(entry(state, two))
    with pytest.raises(MissingObjectError):
        state.lineage.promote(entry(state, "0" * 64))
    with pytest.raises(MissingObjectError):
        state.lineage.promote(entry(state, one, report="0" * 64, parent=one))
    with pytest.raises(StateError, match="another base"):
        state.lineage.promote(entry(state, one, base=OTHER))
    assert files(state.path / "refs") == before
    # Control: with its tensor back the same candidate passes.
    object_path(state, tensor).write_bytes(content)
    state.lineage.promote(entry(state, two))
    object_path(state, Manifest.load(state.store, one).job).write_bytes(b"?")
    with pytest.raises(DamagedObjectError):
        state.lineage.rollback(BASE, one, "owner")
    assert state.lineage.head(BASE) == two
    # The base needs nothing from the store.
    for path in (state.path / "objects").rglob("??/*"):
        path.write_bytes(b"?")
    assert state.lineage.rollback(BASE, "base", "owner").new == "base"


def test_rollback_undoes_the_lessons_that_abandoned_checkpoints_had_added(state: State) -> None:
    rex, tom, mia = (state.ledger.add_lesson(lesson(name)) for name in ("Rex", "Tom", "Mia"))
    one = promote(state, "one", rex)
    promote(state, "two", rex, tom)
    three = promote(state, "three", rex, tom, mia)
    state.ledger.add_lesson(lesson("later"))
    assert states(state) == {"Rex": "active", "Tom": "active", "Mia": "active", "later": "new"}
    move = state.lineage.rollback(BASE, one, "owner")
    assert set(move.undone_lessons) == {tom, mia}
    assert states(state) == {"Rex": "active", "Tom": "undone", "Mia": "undone", "later": "new"}
    assert state.lineage.rollback(BASE, "base", "owner").undone_lessons == (rex,)
    assert states(state)["Rex"] == "undone"
    move = state.lineage.rollback(BASE, three, "owner")
    assert set(move.restored_lessons) == {rex, tom, mia}
    assert states(state) == {"Rex": "active", "Tom": "active", "Mia": "active", "later": "new"}


def test_rollback_brings_back_what_an_undone_lesson_had_superseded(state: State) -> None:
    rex = state.ledger.add_lesson(lesson("Rex"))
    one = promote(state, "one", rex)
    max_ = state.ledger.add_lesson(lesson("Max", supersedes=rex))
    ben = state.ledger.add_lesson(lesson("Ben", supersedes=max_))
    two = promote(state, "two", rex, max_, ben)
    final = {"Rex": "superseded", "Max": "superseded", "Ben": "active"}
    assert states(state) == final
    state.lineage.rollback(BASE, one, "owner")
    assert states(state) == {"Rex": "active", "Max": "undone", "Ben": "undone"}
    state.lineage.rollback(BASE, two, "owner")
    assert states(state) == final
    state.lineage.rollback(BASE, one, "owner")
    # What the owner said since stays the newest.
    state.ledger.add_lesson(lesson("Zoe", supersedes=rex))
    state.lineage.rollback(BASE, "base", "owner")
    state.lineage.rollback(BASE, one, "owner")
    assert states(state)["Rex"] == "superseded"


def test_forgotten_and_quarantined_lessons_stay_so(state: State) -> None:
    rex, tom = (state.ledger.add_lesson(lesson(name)) for name in ("Rex", "Tom"))
    one = promote(state, "one", rex, tom)
    state.ledger.decide(rex, "deleted", MANY)
    state.ledger.decide(tom, "quarantined", MANY)
    state.lineage.rollback(BASE, "base", "owner")
    state.lineage.rollback(BASE, one, "owner")
    assert states(state) == {"Rex": "deleted", "Tom": "quarantined"}


def test_an_approval_after_a_rollback_survives_a_restart(state: State) -> None:
    rex = state.ledger.add_lesson(lesson("Rex"))
    promote(state, "one", rex)
    state.lineage.rollback(BASE, "base", "owner")
    state.ledger.decide(rex, "new", MANY)
    state.close()
    with open_state(state.path) as again:
        assert states(again) == {"Rex": "new"}


def cut_off(state: State) -> None:
    """Undo what the lessons did after the last move, as a crash before it would have."""
    state.ledger._database.write(
        lambda connection: [
            connection.execute("UPDATE marks SET value = value - 1 WHERE name = 'moves'"),
            connection.execute("UPDATE lessons SET state = 'active'"),
        ]
    ).result()


def test_lessons_that_a_crash_cut_off_follow_at_the_next_start(state: State) -> None:
    rex = state.ledger.add_lesson(lesson("Rex"))
    promote(state, "one", rex)
    state.lineage.rollback(BASE, "base", "owner")
    cut_off(state)
    assert states(state) == {"Rex": "active"}
    state.close()
    with open_state(state.path) as again:
        assert states(again) == {"Rex": "undone"}
        again.lineage.settle()
        assert states(again) == {"Rex": "undone"}


def test_a_ledger_that_refuses_does_not_stop_a_rollback(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    rex = state.ledger.add_lesson(lesson("Rex"))
    promote(state, "one", rex)

    def refuse(*_: object, **__: object) -> None:
        raise StateError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(state.ledger, "follow_move", refuse)
        assert state.lineage.rollback(BASE, "base", "owner").new == "base"
    assert (state.lineage.head(BASE), states(state)) == ("base", {"Rex": "active"})
    state.lineage.settle()
    assert states(state) == {"Rex": "undone"}


def test_a_move_that_never_reached_head_does_not_count(state: State) -> None:
    rex, tom = (state.ledger.add_lesson(lesson(name)) for name in ("Rex", "Tom"))
    one = promote(state, "one", rex)
    head = (state.path / "refs/HEAD").read_bytes()
    two = promote(state, "two", rex, tom)
    # As after a crash between the reflog and HEAD.
    (state.path / "refs/HEAD").write_bytes(head)
    cut_off(state)
    state.ledger.decide(tom, "new", MANY)
    state.close()
    with open_state(state.path) as again:
        assert again.lineage.head(BASE) == one
        assert [line["done"] for line in again.lineage.reflog()] == [True, False]
        assert again.lineage.checkpoints(BASE) == [one]
        assert again.lineage.resolve(BASE, "previous") == "base"
        assert states(again) == {"Rex": "active", "Tom": "new"}
        with pytest.raises(UnknownWeightsError):
            again.lineage.resolve(BASE, two)
        # The same move again, now carried out.
        assert promote(again, "two", rex, tom) == two
        assert [line["done"] for line in again.lineage.reflog()] == [True, False, True]
        assert states(again) == {"Rex": "active", "Tom": "active"}
        again.lineage.rollback(BASE, one, "owner")
        assert [line["done"] for line in again.lineage.reflog()] == [True, False, True, True]


def test_half_a_line_of_the_reflog_is_cut_off_and_other_damage_is_named(state: State) -> None:
    one = promote(state, "one")
    reflog = state.path / "refs/reflog"
    whole = reflog.read_bytes()
    reflog.write_bytes(whole + whole[:50])
    assert len(state.lineage.reflog()) == 1
    two = promote(state, "two")
    assert [line["new"] for line in state.lineage.reflog()] == [one, two]
    good = reflog.read_bytes()
    for damaged in (good.replace(b'"base":"', b'"base":"x', 1), b"{}\n" + good, b"\0\n" + good):
        reflog.write_bytes(damaged)
        with pytest.raises(DamagedObjectError, match="reflog, line 1"):
            state.lineage.reflog()
        with pytest.raises(DamagedObjectError, match="reflog, line 1"):
            state.lineage.rollback(BASE, "base", "owner")
    reflog.write_bytes(good.splitlines(keepends=True)[0])
    with pytest.raises(StateError, match="same backup"):
        state.lineage.settle()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\0" * 80, b'{"a":"b"}', b'{"a":1}'])
def test_a_damaged_head_is_refused(state: State, content: bytes) -> None:
    promote(state, "one")
    (state.path / "refs/HEAD").write_bytes(content)
    with pytest.raises(DamagedObjectError, match="HEAD"):
        state.lineage.head(BASE)
    (state.path / "refs/HEAD").unlink()
    with pytest.raises(StateError, match="HEAD is missing"):
        state.lineage.head(BASE)


def test_promoting_what_is_served_is_no_move(state: State) -> None:
    one = promote(state, "one")
    move = state.lineage.promote(entry(state, one))
    assert (move.old, move.new) == (one, one)
    assert len(state.lineage.reflog()) == 1


def test_random_walk_always_agrees_with_a_simple_model(state: State) -> None:
    """Promotions and rollbacks, with restarts between, against a model in a few plain variables."""
    random_ = random.Random(7)
    names = {value: state.ledger.add_lesson(lesson(value)) for value in "abcdef"}
    known: dict[str, frozenset[str]] = {"base": frozenset()}
    parents: dict[str, str] = {}
    head = previous = "base"
    for step in range(60):
        if random_.random() < 0.5 or len(known) == 1:
            values = frozenset(random_.sample("abcdef", random_.randrange(1, 6)))
            previous, head = head, promote(state, f"{step}", *sorted(names[v] for v in values))
            known[head], parents[head] = values, previous
        else:
            target = random_.choice([*known, "previous"])
            state.lineage.rollback(BASE, target, "walk")
            target = previous if target == "previous" else target
            if target != head:
                previous, head = head, target
        assert state.lineage.head(BASE) == head
        served = {value for value, where in states(state).items() if where == "active"}
        assert known[head] <= served
        if head == "base" and previous != "base":
            assert not known[previous] & served
        if step % 20 == 19:
            state.close()
            state = open_state(state.path)
    assert state.lineage.checkpoints(BASE) == [name for name in known if name != "base"]
    assert {item.weights: item.parent for item in state.lineage.history(BASE)} == parents
    state.close()


def test_manifests_are_canonical_and_validated(state: State) -> None:
    weights = checkpoint(state, "one")
    manifest = Manifest.load(state.store, weights)
    assert manifest.hash == weights
    assert json.loads(state.store.get(weights)).keys() == {"base", "adapter", "job"}
    loose = state.store.put(json.dumps(json.loads(state.store.get(weights))).encode())
    for name in (loose, state.store.put(b"{}"), state.store.put(b"\xff"), state.store.put(b"[1]")):
        with pytest.raises(UnknownWeightsError, match="no manifest"):
            Manifest.load(state.store, name)
    for tensor in ("", "../x", "a/b", "x" * 201, "a b"):
        with pytest.raises(StateError, match="tensor"):
            Manifest(BASE, {tensor: weights}, weights)
    with pytest.raises(StateError, match="base must be a hash"):
        Manifest("tiny", {}, weights)


def test_entries_are_validated() -> None:
    good = {"weights": BASE, "parent": "base", "base": BASE, "ledger_root": BASE, "report": BASE}
    LineageEntry(**good, time="", reason="")
    for field in good:
        with pytest.raises(StateError, match=field):
            LineageEntry(**{**good, field: "x"}, time="", reason="")
    with pytest.raises(StateError, match="lesson"):
        LineageEntry(**good, time="", reason="", lessons=("x",))
    with pytest.raises(StateError, match="damaged"):
        LineageEntry.from_json({})
