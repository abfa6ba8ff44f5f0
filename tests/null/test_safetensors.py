"""The safetensors reader against the format's own library, and against hostile files."""

import contextlib
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from homebox.errors import ModelFormatError, ModelNotFoundError
from homebox.model import safetensors_reader
from homebox.model.safetensors_reader import (
    MAX_HEADER_BYTES,
    SafetensorsFile,
    TensorInfo,
    parse_header,
    read_index,
    tensor_in,
    widened,
)
from tests.unit.model_files import pack, safetensors_bytes

CASES = 20_000


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def entry(begin: Any, end: Any, shape: Any = None, dtype: Any = "F32") -> dict[str, Any]:
    size = [(end - begin) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": size, "data_offsets": [begin, end]}


def test_reads_what_the_library_wrote(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    tensors = {
        "a": generator.standard_normal((3, 5)).astype(np.float32),
        "b": generator.standard_normal((7,)).astype(np.float16),
        "scalar": np.array(2.5, dtype=np.float32),
        "empty": np.zeros((0, 4), dtype=np.float32),
    }
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file(tensors, path, metadata={"format": "np"})
    with SafetensorsFile(path) as file:
        assert file.metadata == {"format": "np"}
        assert set(file.tensors) == set(tensors)
        for name, array in tensors.items():
            found = file.read(name)
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, array.astype(np.float32))
        assert len(file.digest()) == 64


def test_bfloat16_is_the_upper_half_of_a_float32(tmp_path: Path) -> None:
    values = np.array([1.0, -2.5, 3.1415927, 1e-40, np.inf], dtype=np.float32)
    upper = (values.view(np.uint32) >> 16).astype("<u2")
    header = json.dumps({"w": entry(0, 10, [5], "BF16")}).encode()
    with SafetensorsFile(write(tmp_path / "x", pack(header, upper.tobytes()))) as file:
        found = file.read("w")
    np.testing.assert_array_equal(found.view(np.uint32), upper.astype(np.uint32) << 16)


def test_other_types_may_lie_in_the_file_but_cannot_be_read(tmp_path: Path) -> None:
    header = json.dumps({"n": entry(0, 8, [1], "I64")}).encode()
    with (
        SafetensorsFile(write(tmp_path / "x", pack(header, bytes(8)))) as file,
        pytest.raises(ModelFormatError, match=r"x: n: type I64 is not supported"),
    ):
        file.read("n")


BAD_HEADERS: dict[str, tuple[bytes, int, str]] = {
    "no object": (b"[]", 0, "does not begin with an object"),
    "not UTF-8": (b'{"\xff":1}', 0, "not UTF-8"),
    "not JSON": (b"{", 0, "not JSON"),
    "trailing text": (b"{}x", 0, "not JSON"),
    "NaN": (b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', 4, "NaN is not"),
    "infinite shape": (
        b'{"a":{"dtype":"F32","shape":[1e999],"data_offsets":[0,4]}}',
        4,
        "shape: every size",
    ),
    "duplicate tensor": (
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        4,
        "'a' occurs twice",
    ),
    "duplicate key": (
        b'{"a":{"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}}',
        4,
        "'dtype' occurs twice",
    ),
    "deep": (b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}", 0, "deep|exactly dtype"),
    "many braces": (b"{" * 600_000, 0, "JSON values"),
    "many brackets": (b'{"a":[' + b"[]," * 300_000 + b"[]]}", 0, "JSON values"),
    "huge number": (b'{"a":' + b"9" * 5000 + b"}", 0, "not JSON"),
    "metadata is no object": (b'{"__metadata__":3}', 0, "__metadata__"),
    "metadata holds numbers": (b'{"__metadata__":{"a":1}}', 0, "__metadata__"),
}

BAD_ENTRIES: dict[str, tuple[dict[str, Any], int, str]] = {
    "no dtype": ({"a": {"shape": [1], "data_offsets": [0, 4]}}, 4, "exactly"),
    "extra key": ({"a": {**entry(0, 4), "x": 1}}, 4, "exactly"),
    "list": ({"a": []}, 0, "exactly"),
    "unknown dtype": ({"a": entry(0, 4, [1], "F33")}, 4, "dtype: unknown type"),
    "dtype is a list": ({"a": entry(0, 4, [1], ["F32"])}, 4, "dtype"),
    "negative size": ({"a": entry(0, 4, [-1])}, 4, "shape"),
    "two negative sizes": ({"a": entry(0, 4, [-1, -1])}, 4, "shape"),
    "boolean size": ({"a": entry(0, 4, [True])}, 4, "shape"),
    "fractional size": ({"a": entry(0, 4, [1.0])}, 4, "shape"),
    "nine axes": ({"a": entry(0, 4, [1] * 9)}, 4, "shape"),
    "product wraps at 64 bits": ({"a": entry(0, 4, [1 << 40, 1 << 24, 1])}, 4, "do not hold"),
    "huge size": ({"a": entry(0, 4, [1 << 62])}, 4, "shape"),
    "three offsets": ({"a": {**entry(0, 4), "data_offsets": [0, 4, 4]}}, 4, "two offsets"),
    "text offsets": ({"a": {**entry(0, 4), "data_offsets": ["0", "4"]}}, 4, "data_offsets"),
    "boolean offset": ({"a": {**entry(0, 4), "data_offsets": [False, 4]}}, 4, "data_offsets"),
    "negative offset": ({"a": entry(-4, 0, [1])}, 4, "outside"),
    "backwards": ({"a": entry(4, 0, [1])}, 4, "outside"),
    "beyond the end": ({"a": entry(0, 8)}, 4, "outside"),
    "overlap": ({"a": entry(0, 8), "b": entry(4, 12)}, 12, "overlap"),
    "same bytes twice": ({"a": entry(0, 4), "b": entry(0, 4)}, 4, "overlap"),
    "hole": ({"a": entry(0, 4), "b": entry(8, 12)}, 12, "hole"),
    "does not begin at 0": ({"a": entry(4, 8)}, 8, "hole"),
    "bytes left over": ({"a": entry(0, 4)}, 8, "after the last"),
    "bytes without a tensor": ({}, 1, "after the last"),
    "shape too small": ({"a": entry(0, 8, [1])}, 8, "do not hold"),
    "empty name": ({"": entry(0, 4)}, 4, "name"),
    "long name": ({"n" * 600: entry(0, 4)}, 4, "name"),
    "control characters": ({"a\nb": entry(0, 4)}, 4, "name"),
}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_bad_headers_are_named(case: str) -> None:
    header, length, message = BAD_HEADERS[case]
    with pytest.raises(ModelFormatError, match=message) as caught:
        parse_header(header, length, "evil.safetensors")
    assert str(caught.value).startswith("evil.safetensors: ")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("case", BAD_ENTRIES)
def test_bad_entries_are_named(case: str) -> None:
    header, length, message = BAD_ENTRIES[case]
    with pytest.raises(ModelFormatError, match=message) as caught:
        parse_header(json.dumps(header).encode(), length, "evil.safetensors")
    assert str(caught.value).startswith("evil.safetensors: ")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "only 0 bytes"),
        (bytes(7), "only 7 bytes"),
        ((MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}", "is above"),
        (b"\xff" * 8, "is above"),
        ((100).to_bytes(8, "little") + b"{}", "do not fit"),
        (bytes(8), "does not begin"),
    ],
)
def test_bad_lengths_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ModelFormatError, match=message):
        SafetensorsFile(write(tmp_path / "x", data))


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        SafetensorsFile(tmp_path / "absent")
    with pytest.raises(ModelFormatError, match="no regular file"):
        SafetensorsFile(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        *("../a.safetensors", "/etc/a.safetensors", "d/a.safetensors", "..", "", "a.bin", 3, None),
        *("d\\a.safetensors", ".safetensors", "C:a.safetensors", "a\0.safetensors", "x" * 300),
    ],
)
def test_index_names_cannot_leave_the_directory(tmp_path: Path, name: Any) -> None:
    path = tmp_path / "index.json"
    path.write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(ModelFormatError, match="plain file name"):
        read_index(path)
    path.write_text(json.dumps({"weight_map": {"w": "a-1.safetensors"}}))
    assert read_index(path) == {"w": "a-1.safetensors"}


# Fuzz: grow a valid file, break it in ways that know its structure, compare with the library.


def random_header(dice: random.Random) -> tuple[dict[str, Any], int]:
    header: dict[str, Any] = {}
    position = 0
    for number in range(dice.randrange(5)):
        dtype, size = dice.choice([("F32", 4), ("F16", 2), ("BF16", 2), ("I64", 8), ("BOOL", 1)])
        shape = [dice.randrange(4) for _ in range(dice.randrange(4))]
        length = size * int(np.prod(shape, dtype=np.int64))
        header[f"t{number}"] = entry(position, position + length, shape, dtype)
        position += length
    if dice.random() < 0.2:
        header["__metadata__"] = {"format": "pt"}
    return header, position


def mutate_values(dice: random.Random, header: dict[str, Any]) -> None:
    """Change one value somewhere in the decoded header."""
    names = [name for name in header if name != "__metadata__"]
    odd = [-1, 0, 1, 2**31, 2**63, 2**64 - 1, 2**64, 1.5, True, None, "4", [], {}, -(2**63)]
    if not names:
        header["x"] = dice.choice(odd)
        return
    item = header[dice.choice(names)]
    kind = dice.randrange(6)
    if kind == 0:
        offsets = item["data_offsets"]
        offsets[dice.randrange(2)] += dice.choice([-8, -4, -1, 1, 4, 8])
    elif kind == 1:
        item["data_offsets"][dice.randrange(2)] = dice.choice(odd)
    elif kind == 2 and item["shape"]:
        item["shape"][dice.randrange(len(item["shape"]))] = dice.choice(odd)
    elif kind == 3:
        item["shape"].append(dice.choice(odd))
    elif kind == 4:
        item["dtype"] = dice.choice(["F64", "U8", "F16", "F8_E4M3", "nope", 3, None])
    else:
        first, second = dice.choice(names), dice.choice(names)
        header[first]["data_offsets"] = list(header[second]["data_offsets"])


def mutate_bytes(dice: random.Random, data: bytearray) -> bytes:
    kind = dice.randrange(4)
    if kind == 0 and data:
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    elif kind == 1:
        del data[dice.randrange(len(data) + 1) :]
    elif kind == 2:
        data += bytes(dice.randrange(1, 9))
    else:
        spot = dice.randrange(len(data) + 1)
        data[spot:spot] = dice.choice([b"{", b"[", b"]", b'"', b",", b"0", b"\\u0000", b"\xff"])
    return bytes(data)


def fuzzed_files(count: int, seed: int) -> Iterator[bytes]:
    dice = random.Random(seed)
    for _ in range(count):
        header, length = random_header(dice)
        for _ in range(dice.choice([0, 1, 1, 1, 2])):
            # A second change may meet what the first one left, such as a text for a number.
            with contextlib.suppress(TypeError, KeyError):
                mutate_values(dice, header)
        data = bytearray(
            pack(json.dumps(header).encode(), bytes(range(length % 256)).ljust(length))
        )
        yield mutate_bytes(dice, data) if dice.random() < 0.4 else bytes(data)


def check(data: bytes) -> dict[str, TensorInfo] | None:
    """Read like the reader does, without a file; None if it was refused."""
    try:
        length = int.from_bytes(data[:8], "little")
        if len(data) < 8 or length > len(data) - 8:
            raise ModelFormatError("header length")
        return parse_header(data[8 : 8 + length], len(data) - 8 - length, "fuzz")[0]
    except ModelFormatError:
        return None


def test_fuzzed_files_are_refused_or_agree_with_the_library() -> None:
    accepted = refused = 0
    for data in fuzzed_files(CASES, seed=20):
        tensors = check(data)
        if tensors is None:
            refused += 1
            continue
        accepted += 1
        theirs = dict(safetensors.deserialize(data))  # raises where the library refuses
        assert set(theirs) == set(tensors)
        start = 8 + int.from_bytes(data[:8], "little")
        for name, info in tensors.items():
            assert list(info.shape) == theirs[name]["shape"]
            assert data[start + info.begin : start + info.end] == bytes(theirs[name]["data"])
            if info.dtype in safetensors_reader.READABLE:
                assert widened(tensor_in(data, start, info)).shape == info.shape
    assert accepted > CASES // 10
    assert refused > CASES // 3


def test_control_without_the_layout_check_broken_files_get_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(safetensors_reader, "check_layout", lambda *_: None)
    outside = overlapping = 0
    for data in fuzzed_files(3000, seed=20):
        tensors = check(data) or {}
        start = 8 + int.from_bytes(data[:8], "little")
        length = len(data) - start
        infos = sorted(tensors.values(), key=lambda info: info.begin)
        outside += any(info.begin < 0 or info.end > length for info in infos)
        overlapping += any(b.begin < a.end for a, b in itertools.pairwise(infos))
    assert outside > 20
    assert overlapping > 20


def test_the_helper_of_the_tests_writes_the_format() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    loaded = safetensors.numpy.load(safetensors_bytes({"a": array}, {"k": "v"}))
    np.testing.assert_array_equal(loaded["a"], array)
