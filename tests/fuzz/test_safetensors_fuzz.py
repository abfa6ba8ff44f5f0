"""Safetensors files and indices, changed where it hurts: refused, or read as the library does.

Seeded: the same cases in every run. `pytest -m whole tests/fuzz` runs all of them.
"""

import copy
import json
import random
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors

from homebox.errors import HomeboxError, ModelFormatError
from homebox.model.files import safetensors_reader
from homebox.model.files.safetensors_reader import (
    CODED,
    READABLE,
    SafetensorsFile,
    TensorInfo,
    parse_header,
    parse_index,
    tensor_in,
)
from homebox.model.files.stored import FP8_TYPES, fp8_numbers, widened
from homebox.model.files.tensor_store import SafetensorsStore
from tests.unit.model_files import pack

HEADERS, INDICES, FILES, FOLDERS = 100_000, 40_000, 500, 200  # in every run
WHOLE = 200_000
LIMIT = 0.05  # seconds of this thread for a case
SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "BOOL": 1, "U8": 1, "F8_E4M3": 1, "F8_E5M2": 1}
NUMBERS = [-1, 0, 1, 2, 3, 7, 8, 255, 2**31 - 1, 2**31, 2**32, 2**40, 2**40 + 1, 2**61, 2**62]
NUMBERS += [2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1, 2**64, 10**40, -(2**31), -(2**63)]
ODD: list[Any] = [*NUMBERS, 0.0, 1.0, -1.0, 1.5, 1e300, float("inf"), float("nan"), True, False]
ODD += [None, "", "4", "F32", [], {}, [4], {"a": 1}, [[1]], "x" * 1000, [0] * 300]
NAMES = [
    "",
    "a",
    "..",
    "../a",
    "/etc/passwd",
    "a\\b",
    "a\0b",
    "n" * 513,
    "n" * 512,
    "a\nb",
    "\ud800",
]
NAMES += ["\u202e", "é", "t0", "t1", "__metadata__", "__proto__", "dtype", "%s", "{0}", "'", '"']
FILE_NAMES: list[Any] = [*NAMES, *ODD, "a.safetensors", "b.safetensors", "../a.safetensors"]
FILE_NAMES += ["/a.safetensors", "C:a.safetensors", "c\\a.safetensors", ".safetensors"]
FILE_NAMES += [".a.safetensors", "a\0.safetensors", "x" * 300 + ".safetensors", "a.bin", "a/."]

Header = dict[str, Any]


def odd(dice: random.Random) -> Any:
    """Return an odd value that nobody else holds."""
    return copy.deepcopy(dice.choice(ODD))


def good_header(dice: random.Random) -> tuple[Header, int]:
    """Return a header and how many bytes its tensors fill."""
    header: Header = {}
    position = 0
    for number in range(dice.randrange(1, 6)):
        dtype = dice.choice(list(SIZES))
        shape = [dice.randrange(4) for _ in range(dice.randrange(4))]
        length = SIZES[dtype]
        for size in shape:
            length *= size
        place = [position, position + length]
        header[f"t{number}"] = {"dtype": dtype, "shape": shape, "data_offsets": place}
        position += length
    if dice.random() < 0.2:
        header["__metadata__"] = {"format": "pt"}
    return header, position


def break_header(dice: random.Random, header: Header) -> None:
    """Change one value of a header."""
    names = [name for name in header if isinstance(header[name], dict) and "shape" in header[name]]
    if not names:
        header[dice.choice(NAMES)] = odd(dice)
        return
    name = dice.choice(names)
    item = header[name]
    offsets, shape = item.get("data_offsets"), item["shape"]
    kind = dice.randrange(11)
    if kind == 0 and isinstance(offsets, list) and len(offsets) == 2:
        end = dice.randrange(2)
        if type(offsets[end]) is int:
            offsets[end] += dice.choice([-8, -4, -2, -1, 1, 2, 4, 8, 2**32, 2**63, -(2**63)])
    elif kind == 1 and isinstance(offsets, list) and offsets:
        offsets[dice.randrange(len(offsets))] = odd(dice)
    elif kind == 2 and isinstance(shape, list) and shape:
        shape[dice.randrange(len(shape))] = odd(dice)
    elif kind == 3 and isinstance(shape, list):
        shape.insert(dice.randrange(len(shape) + 1), dice.choice([0, 1, 2, odd(dice)]))
    elif kind == 4:
        item["dtype"] = dice.choice([*SIZES, "F64", "F4", "f32", "F33", odd(dice)])
    elif kind == 5:
        header[name]["data_offsets"] = header[dice.choice(names)].get("data_offsets")
    elif kind == 6:
        header[dice.choice(NAMES)] = header.pop(name)
    elif kind == 7:
        item[dice.choice(["dtype", "shape", "data_offsets", "x"])] = odd(dice)
    elif kind == 8:
        del item[dice.choice(list(item))]
    elif kind == 9:
        header[name] = odd(dice)
    else:
        header["__metadata__"] = dice.choice([odd(dice), {"a": odd(dice)}])


def break_bytes(dice: random.Random, data: bytearray) -> bytes:
    """Change some bytes of a file."""
    kind = dice.randrange(6)
    if kind == 0:
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    elif kind == 1:
        del data[dice.randrange(len(data) + 1) :]
    elif kind == 2:
        data += bytes(dice.randrange(1, 9))
    elif kind == 3:
        length = dice.choice([*NUMBERS, len(data), len(data) - 8, len(data) - 7])
        data[:8] = (length % 2**64).to_bytes(8, "little")
    elif kind == 4:
        begin = dice.randrange(len(data))
        end = min(len(data), begin + dice.randrange(20))
        data[begin:begin] = data[begin:end]  # often a key or a value for the second time
    else:
        spot = dice.randrange(len(data) + 1)
        data[spot:spot] = dice.choice([b"{", b"[", b"]", b'"', b",", b"0", b"\\u0000", b"\xff"])
    return bytes(data)


def files(count: int, seed: int) -> Iterator[bytes]:
    """Yield files that are good or broken once or more."""
    dice = random.Random(seed)
    for _ in range(count):
        header, length = good_header(dice)
        for _ in range(dice.choice([0, 1, 1, 1, 2, 3])):
            break_header(dice, header)
        body = bytes(range(256)) * (length // 256 + 1)
        data = bytearray(pack(json.dumps(header).encode(), body[:length]))
        yield break_bytes(dice, data) if dice.random() < 0.3 else bytes(data)


def indices(count: int, seed: int) -> Iterator[bytes]:
    """Yield texts of indices that are good or broken."""
    dice = random.Random(seed)
    for _ in range(count):
        mapping: Any = {f"t{i}": dice.choice(["a", "b"]) + ".safetensors" for i in range(4)}
        for _ in range(dice.choice([0, 1, 1, 2])):
            if dice.random() < 0.7:
                mapping[dice.choice(["t0", "t1", *NAMES])] = copy.deepcopy(dice.choice(FILE_NAMES))
            else:
                del mapping[dice.choice(list(mapping))]
        whole = {"metadata": {"total_size": odd(dice)}, "weight_map": mapping}
        if dice.random() < 0.1:
            whole["weight_map"] = odd(dice)
        data = bytearray(json.dumps(whole).encode())
        yield break_bytes(dice, data) if dice.random() < 0.2 else bytes(data)


def read(data: bytes) -> dict[str, TensorInfo] | None:
    """Read like the reader does, without a file; None if it was refused."""
    try:
        length = int.from_bytes(data[:8], "little")
        if len(data) < 8 or length > len(data) - 8:
            raise ModelFormatError("fuzz: header length")
        return parse_header(data[8 : 8 + length], len(data) - 8 - length, "fuzz")[0]
    except ModelFormatError as error:
        assert str(error).startswith("fuzz: ")
        assert len(str(error)) < 600
        return None


def check_file(data: bytes) -> bool:
    """Read a file; if it is accepted, compare with the format's library. True: accepted."""
    tensors = read(data)
    if tensors is None:
        return False
    theirs = dict(safetensors.deserialize(data))  # raises where the library refuses
    assert set(theirs) == set(tensors)
    start = 8 + int.from_bytes(data[:8], "little")
    for name, info in tensors.items():
        assert list(info.shape) == theirs[name]["shape"]
        assert data[start + info.begin : start + info.end] == bytes(theirs[name]["data"])
        if info.dtype in READABLE:
            assert widened(tensor_in(data, start, info)).shape == info.shape
        elif info.dtype in CODED:
            codes = tensor_in(data, start, info)
            assert codes.shape == info.shape
            if info.dtype in FP8_TYPES:
                assert fp8_numbers(codes, info.dtype).shape == info.shape
    return True


def check_index(data: bytes) -> bool:
    """Read an index; if it is accepted, all its names stay in the directory."""
    try:
        mapping = parse_index(data, "fuzz")
    except ModelFormatError as error:
        assert str(error).startswith("fuzz: ")
        assert len(str(error)) < 600
        return False
    for name in mapping.values():
        assert Path("/model", name).parent == Path("/model")
        assert Path("/model", name).resolve().parent == Path("/model")
        assert name.endswith(".safetensors")
        assert "\0" not in name
    return True


def run(cases: Iterator[bytes], check: Callable[[bytes], bool]) -> tuple[int, int]:
    """Return how many cases were (accepted, refused)."""
    counts = [0, 0]
    for data in cases:
        counts[not check(data)] += 1
    return counts[0], counts[1]


def test_broken_files_are_refused_or_agree_with_the_library() -> None:
    accepted, refused = run(files(HEADERS, 21), check_file)
    assert accepted > HEADERS // 10
    assert refused > HEADERS // 3


def test_broken_indices_stay_in_their_directory() -> None:
    accepted, refused = run(indices(INDICES, 22), check_index)
    assert accepted > INDICES // 10
    assert refused > INDICES // 3


def test_real_files_end_as_bytes_do(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    seen = {True: 0, False: 0}
    for data in files(FILES, 23):
        path.write_bytes(data)
        expected = read(data)
        try:
            with SafetensorsFile(path) as file:
                assert file.tensors == expected
                for name, info in file.tensors.items():
                    if info.dtype in READABLE:
                        assert file.view(name).shape == info.shape
                    else:
                        with pytest.raises(ModelFormatError, match="is not supported"):
                            file.view(name)
        except ModelFormatError:
            assert expected is None or not data
        seen[expected is not None] += 1
    assert min(seen.values()) > FILES // 10


def test_directories_of_shards_are_refused_or_whole(tmp_path: Path) -> None:
    dice = random.Random(24)
    seen = {True: 0, False: 0}
    for index in indices(FOLDERS, 25):
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        (folder / "model.safetensors.index.json").write_bytes(index)
        for file, names in (("a", ("t0", "t1")), ("b", ("t2", "t3"))):
            held = dice.sample(["t0", "t1", "t2", "t3"], 2) if dice.random() < 0.3 else names
            write_shard(folder / f"{file}.safetensors", held, index, file)
        try:
            store = SafetensorsStore(folder)
            for name in store.shapes:
                assert store.numbers(name).tolist() == [1.0]
            good = True
        except HomeboxError as error:
            assert str(folder) in str(error)
            good = False
        seen[good] += 1
    assert min(seen.values()) > FOLDERS // 20


def write_shard(path: Path, names: Any, index: bytes, letter: str) -> None:
    """Write what the index says that the file holds; if it says nothing usable, `names`."""
    try:
        mapping = parse_index(index, "")
        said = [name for name, file in mapping.items() if file == f"{letter}.safetensors"]
        names = said if letter == "a" or len(said) != 2 else names
    except ModelFormatError:
        pass
    header, one = {}, np.ones(1, np.float32).tobytes()
    for i, name in enumerate(names):
        header[name] = {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]}
    path.write_bytes(pack(json.dumps(header).encode(), one * len(names)))


# What a header of the greatest length can ask for.
BOMBS: dict[str, bytes] = {
    "lists": b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "numbers": b'{"a":[' + b"1," * 8_000_000 + b"1]}",
    "empty lists": b'{"a":[' + b"[]," * 5_000_000 + b"[]]}",
    "one long number": b'{"a":' + b"9" * 16_000_000 + b"}",
    "one long name": b'{"' + b"n" * 16_000_000 + b'":1}',
    "the same name": b"{" + b'"a":1,' * 1_000_000 + b'"a":1}',
    "spaces": b"{" + b" " * 16_000_000 + b"}x",
    "text that never ends": b'{"' + b"\\u0041" * 2_000_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_take_little_memory(name: str) -> None:
    data = BOMBS[name]
    tracemalloc.start()
    try:
        for parse in (lambda: parse_header(data, 0, "fuzz"), lambda: parse_index(data, "fuzz")):
            with pytest.raises(ModelFormatError, match=r"^fuzz: ") as caught:
                parse()
            assert len(str(caught.value)) < 600
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 192 << 20, f"{peak >> 20} MiB"


def test_control_without_the_layout_check_broken_files_get_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(safetensors_reader, "check_layout", lambda *_: None)
    with pytest.raises((AssertionError, safetensors.SafetensorError, ValueError)):
        run(files(2000, 21), check_file)


def test_control_without_the_check_of_names_an_index_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(safetensors_reader, "_is_plain_file_name", lambda _: True)
    with pytest.raises((AssertionError, TypeError, ValueError)):
        run(indices(2000, 22), check_index)


def test_cases_are_the_same_in_every_run() -> None:
    assert list(files(50, 1)) == list(files(50, 1)) != list(files(50, 2))
    header, _ = good_header(random.Random(3))
    kept = copy.deepcopy(header)
    break_header(random.Random(4), header)
    assert header != kept


@pytest.mark.whole
@pytest.mark.parametrize(
    ("make", "check"), [(files, check_file), (indices, check_index)], ids=["files", "indices"]
)
def test_all_cases_are_quick(
    make: Callable[[int, int], Iterator[bytes]], check: Callable[[bytes], bool]
) -> None:
    slowest = 0.0
    for data in make(WHOLE, 31):
        begin = time.thread_time()
        check(data)
        slowest = max(slowest, time.thread_time() - begin)
    assert slowest < LIMIT
