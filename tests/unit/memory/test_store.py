"""Objects: named by content, verified at reading, durable at writing."""

import errno
import hashlib
import os
import random
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homebox.errors import DamagedObjectError, MissingObjectError, StateError
from homebox.memory.store import Store, canonical_json, is_name


def object_path(store: Store, name: str) -> Path:
    return store.root / name[:2] / name[2:]


def test_an_object_is_named_by_its_sha256_and_comes_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "objects")
    for data in (b"", b"abc", bytes(range(256)) * 1000):
        name = store.put(data)
        assert name == hashlib.sha256(data).hexdigest()
        assert object_path(store, name).read_bytes() == data
        assert store.get(name) == data
        assert store.has(name)
        assert Store(store.root).get(name) == data


def test_putting_twice_writes_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "objects")
    name = store.put(b"abc")
    before = object_path(store, name).stat()
    assert store.put(b"abc") == name
    after = object_path(store, name).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_only_the_owner_of_the_box_can_read(tmp_path: Path) -> None:
    store = Store(tmp_path / "objects")
    path = object_path(store, store.put(b"abc"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_missing_and_impossible_names_are_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "objects")
    absent = hashlib.sha256(b"x").hexdigest()
    with pytest.raises(MissingObjectError, match=absent[:12]):
        store.get(absent)
    store.put(b"abc")
    for name in ("", "../../etc/passwd", absent[:40], absent.upper(), absent + "0"):
        assert not store.has(name)
        with pytest.raises(MissingObjectError):
            store.get(name)


def damage(data: bytes, kind: str, random_: random.Random) -> bytes:
    if kind == "flip":
        at = random_.randrange(len(data))
        return data[:at] + bytes([data[at] ^ (1 << random_.randrange(8))]) + data[at + 1 :]
    if kind == "cut":
        return data[: random_.randrange(len(data))]
    if kind == "longer":
        return data + b"\0"
    return bytes(len(data))


def test_every_damage_is_found_named_and_healed_by_the_next_put(tmp_path: Path) -> None:
    store, random_ = Store(tmp_path / "objects"), random.Random(1)
    for number in range(100):
        data = random_.randbytes(random_.randrange(1, 500))
        name = store.put(data)
        path = object_path(store, name)
        path.write_bytes(damage(data, ("flip", "cut", "longer", "zero")[number % 4], random_))
        if path.read_bytes() == data:
            continue
        with pytest.raises(DamagedObjectError, match=name[:12]):
            store.get(name)
        store.put(data)
        assert store.get(name) == data


def test_swapped_objects_are_found(tmp_path: Path) -> None:
    store = Store(tmp_path / "objects")
    one, two = store.put(b"one"), store.put(b"two")
    object_path(store, one).write_bytes(b"two")
    with pytest.raises(DamagedObjectError):
        store.get(one)
    assert store.get(two) == b"two"


def test_find_lists_by_prefix(tmp_path: Path) -> None:
    store = Store(tmp_path / "objects")
    assert store.find("") == []
    names = sorted(store.put(str(number).encode()) for number in range(300))
    assert store.find("") == names
    for prefix in ("a", "ab", "abc", names[7][:9], names[7]):
        assert store.find(prefix) == [name for name in names if name.startswith(prefix)]
    assert store.find("../") == store.find("xyz") == store.find(names[0] + "0") == []


def test_leftovers_of_a_crash_are_invisible_and_cleaned(tmp_path: Path) -> None:
    store = Store(tmp_path / "objects")
    name = store.put(b"abc")
    leftover = object_path(store, name).with_name(f"{name[2:]}.1.0.tmp")
    leftover.write_bytes(b"ab")
    assert store.find("") == [name]
    assert store.clean() == 1
    assert not leftover.exists()
    assert store.get(name) == b"abc"


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_refusing_disk_is_reported_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    store = Store(tmp_path / "objects")
    name = hashlib.sha256(b"abc").hexdigest()
    object_path(store, name).parent.mkdir(parents=True)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(StateError, match=os.strerror(number)):
            store.put(b"abc")
    assert not store.has(name)
    assert list(store.root.rglob("*.tmp")) == []
    assert store.put(b"abc") == name


def test_threads_may_put_the_same_objects(tmp_path: Path) -> None:
    store = Store(tmp_path / "objects")
    data = [str(number).encode() for number in range(20)]
    threads = [
        threading.Thread(target=lambda: [store.put(item) for item in data]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(store.find("")) == sorted(hashlib.sha256(item).hexdigest() for item in data)
    assert all(store.get(name) for name in store.find(""))


def test_canonical_json_has_one_form() -> None:
    assert canonical_json({"b": [1, 2.5, None, True], "a": "ä\n"}) == (
        '{"a":"ä\\n","b":[1,2.5,null,true]}'.encode()
    )
    assert canonical_json((1, 2)) == canonical_json([1, 2])


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"a": {"b": -float("inf")}}])
def test_canonical_json_refuses_what_json_lacks(value: object) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(value)


def test_canonical_json_refuses_keys_that_would_collide() -> None:
    with pytest.raises(TypeError, match="string keys"):
        canonical_json({"a": [{1: 2}]})


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.floats(allow_nan=False).filter(lambda number: abs(number) != float("inf")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(JSON, st.randoms())
def test_canonical_json_ignores_the_order_of_keys(value: object, shuffle: random.Random) -> None:
    def shuffled(item: object) -> object:
        if isinstance(item, dict):
            pairs = list(item.items())
            shuffle.shuffle(pairs)
            return {key: shuffled(inner) for key, inner in pairs}
        return [shuffled(inner) for inner in item] if isinstance(item, list) else item

    assert canonical_json(shuffled(value)) == canonical_json(value)


def test_is_name() -> None:
    assert is_name("0" * 64)
    assert not any(
        is_name(value) for value in ("0" * 63, "g" * 64, "A" * 64, None, 0, "0" * 64 + "\n")
    )
