"""Files of prefixes: what comes out went in, damage is found and named, nothing is left half."""

import errno
import hashlib
import json
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homebox.errors import DamagedPrefixError
from homebox.model.decoder.pages import PAGE
from homebox.model.prefixes import prefix_file
from homebox.model.prefixes.prefix_file import PrefixReader, PrefixWriter, file_bytes
from homebox.model.prefixes.prefix_folder import PrefixFolder
from homebox.model.prefixes.writing import Writing

PAGES, SIZE = 5, 3000
FACTS = {"base": "b" * 64, "adapter": "base", "owner": "c" * 64}
IDS = np.random.default_rng(0).integers(0, 1 << 17, PAGES * PAGE).astype(np.int32)
CONTENT = np.random.default_rng(1).integers(0, 256, (PAGES, SIZE)).astype(np.uint8)
DAMAGES = 100


def folder_of(path: Path, budget: int = 1 << 20) -> PrefixFolder:
    made = PrefixFolder(path, budget, spare=0)
    assert made.usable()
    return made


def write(
    folder: PrefixFolder,
    name: str = "a-1.prefix",
    content: Any = CONTENT,
    facts: dict[str, str] = FACTS,
    ids: Any = IDS,
) -> Path:
    file = folder.create(name, file_bytes(facts, ids, SIZE))
    writer = PrefixWriter(file.handle, facts, ids, SIZE)
    for page in content:
        writer.page(page)
    writer.finish()
    return file.commit()


def served(path: Path, facts: dict[str, str] = FACTS) -> list[bytes]:
    """Return all pages of a file as its reader gives them."""
    with PrefixReader(path, facts, SIZE) as reader:
        np.testing.assert_array_equal(reader.ids, IDS)
        reader.ahead()
        return [reader.page(i).tobytes() for i in range(PAGES)]


def test_what_comes_out_went_in(tmp_path: Path) -> None:
    path = write(folder_of(tmp_path / "prefixes"))
    assert served(path) == [page.tobytes() for page in CONTENT]
    assert path.stat().st_size == file_bytes(FACTS, IDS, SIZE)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_the_layout_is_as_it_is_told(tmp_path: Path) -> None:
    raw = write(folder_of(tmp_path)).read_bytes()
    magic, version, text, count, size, digest = struct.unpack_from("<16sIIIQ32s", raw)
    assert (magic, version, count, size) == (b"homebox prefix\n\0", 1, PAGES, SIZE)
    assert json.loads(raw[68 : 68 + text]) == FACTS
    at = 68 + text
    assert raw[at : at + IDS.nbytes] == IDS.tobytes()
    at += IDS.nbytes
    for i, page in enumerate(CONTENT):
        assert raw[at + 32 * i : at + 32 * i + 32] == hashlib.sha256(page.tobytes()).digest()
    start = 4096
    assert raw[start:] == CONTENT.tobytes()
    assert digest == hashlib.sha256(raw[:36] + bytes(32) + raw[68:start]).digest()


def damaged(raw: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """Return a file with a random damage; never as it was."""
    at, end = sorted(int(i) for i in generator.integers(0, len(raw), 2))
    found = bytearray(raw)
    match int(generator.integers(0, 7)):
        case 0 | 1:
            found[at] ^= 1 << int(generator.integers(0, 8))
        case 2:
            del found[at:]
        case 3:
            found[at:end] = bytes(end - at)
        case 4:
            return bytes(len(raw))
        case 5:
            found[at : at + 512] = other[at : at + 512]
        case _:
            found[at:at] = bytes(generator.integers(1, 100))
    return bytes(found)


def outcomes(path: Path, raw: bytes, other: bytes) -> list[str]:
    """Damage a file in many ways; return what was found, "served" if it was not found."""
    generator, found = np.random.default_rng(7), list[str]()
    while len(found) < DAMAGES:
        bad = damaged(raw, other, generator)
        if bad == raw:
            continue
        path.write_bytes(bad)
        try:
            served(path)
            found.append("served")
        except DamagedPrefixError as error:
            assert str(path) in str(error)
            found.append("found")
    return found


def test_damage_is_found_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path)
    path = write(folder)
    other = write(folder, "a-2.prefix", CONTENT[::-1]).read_bytes()
    raw = path.read_bytes()
    assert outcomes(path, raw, other) == ["found"] * DAMAGES

    # Control: with hashes that are always the same, garbage is served.
    class Same:
        def __init__(self, data: Any) -> None: ...

        def digest(self) -> bytes:
            return bytes(32)

    monkeypatch.setattr(prefix_file.hashlib, "sha256", Same)
    raw = write(folder).read_bytes()
    other = write(folder, "a-2.prefix", CONTENT[::-1]).read_bytes()
    with pytest.raises(AssertionError):  # of what is served
        assert "served" not in outcomes(path, raw, other)


def test_what_belongs_to_others_is_not_served(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    path = write(folder)
    for key in FACTS:
        with pytest.raises(DamagedPrefixError, match="another model, adapter or owner"):
            served(path, {**FACTS, key: "other"})
    with pytest.raises(DamagedPrefixError, match="size"):
        PrefixReader(path, FACTS, SIZE + 1)
    path.chmod(0o640)
    with pytest.raises(DamagedPrefixError, match="open to other users"):
        served(path)
    path.chmod(0o600)
    link = tmp_path / "a-3.prefix"
    link.symlink_to(path)
    with pytest.raises(OSError, match="symbolic"):
        served(link)
    (tmp_path / "a-4.prefix").mkdir()
    with pytest.raises(DamagedPrefixError, match="not a file"):
        served(tmp_path / "a-4.prefix")


def test_a_head_that_asks_for_much_gets_nothing(tmp_path: Path) -> None:
    path = write(folder_of(tmp_path))
    raw = path.read_bytes()
    for text, count in ((1 << 31, 1), (10, (1 << 32) - 1), (0, 0)):
        fields = struct.pack("<16sIIIQ32s", raw[:16], 1, text, count, SIZE, bytes(32))
        path.write_bytes(fields + raw[68:])
        with pytest.raises(DamagedPrefixError):
            served(path)


def test_files_unused_for_longest_go_first(tmp_path: Path) -> None:
    size = file_bytes(FACTS, IDS, SIZE)
    folder = folder_of(tmp_path, 3 * size)
    paths = [write(folder, f"a-{i}.prefix") for i in range(3)]
    for age, path in enumerate(paths):
        os.utime(path, (time.time() - 1000 + age,) * 2)
    folder.used(paths[0])
    write(folder, "a-3.prefix")
    assert [path.name for path in folder.named("a-")] == ["a-0.prefix", "a-2.prefix", "a-3.prefix"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= folder.budget
    with pytest.raises(OSError, match="it would take"):
        folder_of(tmp_path, size - 1).create("a-9.prefix", size)
    # A disk that must keep more free than it has gets nothing.
    with pytest.raises(OSError, match="space"):
        PrefixFolder(tmp_path, 3 * size, spare=1 << 60).create("a-9.prefix", size)


def test_what_a_dead_writer_left_is_swept(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    alive = folder.create("a-1.prefix", 10)
    (tmp_path / "a-2.prefixdead.tmp").write_bytes(b"half")
    folder_of(tmp_path)
    assert len(list(tmp_path.glob("*.tmp"))) == 1  # whose writer is at work
    alive.abandon()
    assert list(tmp_path.iterdir()) == []


# Threads


def written(folder: PrefixFolder, pages: Any = CONTENT) -> Writing:
    writing = Writing(folder, "a-1.prefix", FACTS, IDS, SIZE)
    for page in pages:
        assert writing.wants()
        writing.put(page)
    return writing


def test_a_thread_writes_what_it_is_given(tmp_path: Path) -> None:
    writing = written(folder_of(tmp_path))
    writing.join()
    assert writing.finished
    assert writing.failed is None
    assert writing.path is not None
    assert served(writing.path) == [page.tobytes() for page in CONTENT]
    assert not writing.wants()


def test_what_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    writing = written(folder_of(tmp_path), CONTENT[:3])
    writing.abandon()
    writing.join()
    assert (writing.path, writing.failed) == (None, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """At each write and fsync, and at the rename."""
    points = 0
    for target in range(100):
        calls = 0

        def failing(real: Callable[..., Any], at: int = target) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == at + 1:
                    raise OSError(number, os.strerror(number))
                return real(*arguments, **named)

            return call

        folder = folder_of(tmp_path / str(target))
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", failing(os.pwrite))
            patch.setattr(os, "fsync", failing(os.fsync))
            patch.setattr(Path, "replace", failing(Path.replace))
            writing = written(folder)
            writing.join()
        if writing.failed is None:
            break
        points += 1
        assert writing.failed.errno == number
        left = list(folder.path.iterdir())
        if left:  # the folder's fsync came after the name
            assert [path.name for path in left] == ["a-1.prefix"]
            assert served(left[0]) == [page.tobytes() for page in CONTENT]
    assert points == PAGES + 1 + 2 + 1 + 1
