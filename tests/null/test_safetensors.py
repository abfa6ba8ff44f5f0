"""The safetensors reader against the format's own library; broken headers, each named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from homebox.errors import ModelFormatError, ModelNotFoundError
from homebox.model.files.safetensors_reader import (
    MAX_HEADER_BYTES,
    SafetensorsFile,
    parse_header,
    read_index,
)
from tests.unit.model_files import pack, safetensors_bytes


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
    "empty and huge": ({"a": entry(0, 0, [0, 1 << 40, 1 << 40])}, 0, "shape: the sizes beside 0"),
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


def test_the_helper_of_the_tests_writes_the_format() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    loaded = safetensors.numpy.load(safetensors_bytes({"a": array}, {"k": "v"}))
    np.testing.assert_array_equal(loaded["a"], array)
