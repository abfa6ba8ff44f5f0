"""GGUF files that are broken at random: refused by name, or sound in every respect.

What was accepted is checked by an independent look at the table, and some of it by the format's own
package. The cases are the same in every run.
"""

import random
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from homebox.errors import ModelFormatError
from homebox.model.gguf import BLOCKS, SUPPORTED, GGUFFile, header, metadata
from homebox.model.gguf.dequantisers import dequantise
from homebox.model.gguf.header import Header, parse
from tests.fuzz.gguf_cases import case

CASES = 200_000
SEED = 5


def files(count: int, seed: int = SEED) -> Iterator[bytes]:
    dice = random.Random(seed)
    for _ in range(count):
        yield case(dice)


def flaws(found: Header, size: int) -> list[str]:
    """Look for what must not be in a table that was accepted; slow and simple on purpose."""
    flaws = []
    taken: list[tuple[int, int]] = []
    for name, info in found.tensors.items():
        block, nbytes = BLOCKS[info.type]
        count = int(np.prod([int(each) for each in info.shape], dtype=object))
        if info.name != name or not 0 < len(name.encode()) <= 64:
            flaws.append("name")
        if not 1 <= len(info.shape) <= 4 or min(info.shape) < 1 or info.shape[-1] % block:
            flaws.append("shape")
        if info.end - info.begin != count * nbytes // block:
            flaws.append("length")
        if not found.data_start <= info.begin < info.end <= size:
            flaws.append("outside")
        if (info.begin - found.data_start) % found.alignment:
            flaws.append("alignment")
        if any(info.begin < end and begin < info.end for begin, end in taken):
            flaws.append("overlap")
        taken.append((info.begin, info.end))
    return flaws


def test_broken_files_are_refused_by_name_or_sound() -> None:
    accepted = converted = 0
    reasons: Counter[str] = Counter()
    for data in files(CASES):
        try:
            found = parse(data, "fuzz")
        except ModelFormatError as error:
            where, field, reason = str(error).split(": ", 2)
            assert where == "fuzz" and field and reason
            assert len(str(error)) < 400
            reasons[reason.rpartition(": ")[0] or field.rstrip(" 0123456789")] += 1
            continue
        accepted += 1
        assert flaws(found, len(data)) == []
        assert all(len(key.encode()) < 65536 for key in found.metadata)
        if accepted % 8 == 0:
            bytes_of_file = np.frombuffer(data, np.uint8)
            for info in found.tensors.values():
                if info.type in SUPPORTED:
                    dequantise(info.type, bytes_of_file[info.begin : info.end])
                    converted += 1
    assert accepted > CASES // 10
    assert converted > CASES // 100
    assert sum(reasons.values()) > CASES // 2
    assert len(reasons) > 20, reasons


def test_a_case_needs_little_memory() -> None:
    worst = 0
    for data in files(3000, seed=6):
        tracemalloc.start()
        try:
            parse(data, "fuzz")
        except ModelFormatError:
            pass
        finally:
            worst = max(worst, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert worst < 100_000


def test_the_package_reads_the_same_from_what_we_accept(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    path = tmp_path / "x.gguf"
    compared = 0
    for data in files(700, seed=7):
        path.write_bytes(data)
        try:
            file = GGUFFile(path)
        except ModelFormatError:
            continue
        with file:
            theirs = gguf.GGUFReader(path)  # raises where the package refuses
            assert list(file.tensors) == [tensor.name for tensor in theirs.tensors]
            for tensor in theirs.tensors:
                ours = file.tensors[tensor.name]
                assert list(ours.shape) == tensor.shape.tolist()[::-1]
                assert ours.raw.tobytes() == tensor.data.tobytes()
            assert set(file.metadata) == {k for k in theirs.fields if not k.startswith("GGUF.")}
            compared += 1
    assert compared > 80


def harm(count: int) -> Counter[str]:
    """Count what gets in, and what ends otherwise than by refusal."""
    found: Counter[str] = Counter()
    for data in files(count):
        try:
            found.update(flaws(parse(data, "fuzz"), len(data)))
        except ModelFormatError:
            continue
        except Exception as error:
            found[type(error).__name__] += 1
    return found


def test_control_nothing_gets_in_with_all_checks() -> None:
    assert harm(5000) == Counter()


def test_control_without_the_check_of_overlaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "check_overlaps", lambda *_: None)
    assert harm(5000)["overlap"] > 20


def test_control_without_the_check_of_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata.Reader, "require", lambda *_: None)
    assert sum(harm(5000).values()) > 20


def test_control_without_the_right_sizes_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "BLOCKS", dict.fromkeys(BLOCKS, (1, 1)))
    found = harm(5000)
    assert found["length"] > 20
    assert found["shape"] > 20
