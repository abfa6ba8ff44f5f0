"""Values of GGUF's blocks: bit for bit those of the format's own package, and by hand."""

import ctypes
import importlib.util
import json
import struct
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from homebox.errors import ModelFormatError
from homebox.model.gguf import BLOCKS, SUPPORTED, GGMLType, GGUFFile, dequantisers
from homebox.model.gguf.dequantisers import dequantise, dequantise_into
from tests.null.gguf_reference import (
    NUMBERS,
    PATH,
    TYPES,
    fingerprint,
    random_blocks,
    reference,
)

HASHES: dict[str, str] = json.loads(PATH.read_text())
WHOLE = [GGMLType.F64, GGMLType.I8, GGMLType.I16, GGMLType.I32, GGMLType.I64]


def test_every_type_is_tested() -> None:
    assert set(TYPES) | set(WHOLE) == set(SUPPORTED)
    assert set(HASHES) == {kind.name for kind in TYPES}


@pytest.mark.parametrize("kind", TYPES)
def test_values_have_the_recorded_bits(kind: GGMLType) -> None:
    values = dequantise(kind, random_blocks(kind))
    assert values.dtype == np.float32
    assert values.shape == (NUMBERS,)
    assert fingerprint(values) == HASHES[kind.name]


@pytest.mark.parametrize("kind", TYPES)
def test_values_have_the_bits_of_the_package(kind: GGMLType) -> None:
    pytest.importorskip("gguf", reason="the gguf package is not installed")
    dice = np.random.default_rng(int(kind))
    raw = dice.integers(0, 256, 24 * NUMBERS // BLOCKS[kind][0] * BLOCKS[kind][1], np.uint8)
    ours, theirs = dequantise(kind, raw), reference(kind, raw)
    nan = np.isnan(theirs)
    np.testing.assert_array_equal(np.isnan(ours), nan)
    same = ours.view(np.uint32) == theirs.view(np.uint32)
    assert same[~nan].all()
    if kind not in (GGMLType.MXFP4,):  # whose scales are all finite
        assert nan.any()


@pytest.mark.parametrize("kind", TYPES)
def test_a_changed_bit_would_be_seen(kind: GGMLType) -> None:
    raw = random_blocks(kind).copy()
    finite = np.isfinite(dequantise(kind, raw)).reshape(-1, BLOCKS[kind][0]).all(1)
    raw.reshape(-1, BLOCKS[kind][1])[np.flatnonzero(finite)[3]] ^= 0x10
    assert fingerprint(dequantise(kind, raw)) != HASHES[kind.name]


def test_sizes_of_blocks_are_those_of_the_package() -> None:
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    theirs = {int(kind): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert {int(kind): sizes for kind, sizes in BLOCKS.items() if int(kind) in theirs} == {
        number: sizes for number, sizes in theirs.items() if number in BLOCKS
    }
    names = {kind.name: kind.value for kind in gguf.GGMLQuantizationType}
    assert all(names.get(kind.name, kind.value) == kind.value for kind in GGMLType)
    assert set(BLOCKS) == set(GGMLType)


def test_real_files_have_the_values_of_the_package(shared: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    from gguf.quants import dequantize

    seen = set()
    for path in sorted((shared / "data" / "gguf").glob("*.gguf")):
        with GGUFFile(path) as file:
            theirs = gguf.GGUFReader(path)
            assert list(file.tensors) == [tensor.name for tensor in theirs.tensors]
            for tensor in theirs.tensors:
                found = file.tensor(tensor.name)
                wanted = dequantize(tensor.data, tensor.tensor_type)
                assert found.shape == wanted.shape
                assert found.dequantize().tobytes() == wanted.tobytes(), (path.name, tensor.name)
                seen.add(found.type.name)
    assert seen >= {"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q6_K"}


def test_values_have_the_bits_of_ggml() -> None:
    """The C functions that llama.cpp itself falls back on."""
    found = importlib.util.find_spec("llama_cpp")
    if found is None or found.origin is None:
        pytest.skip("llama-cpp-python is not installed")
    base = ctypes.CDLL(str(next(Path(found.origin).parent.glob("lib/libggml-base.so"))))
    base.ggml_init.restype = ctypes.c_void_p
    base.ggml_init(GgmlParameters(1 << 20, None, False))  # fills its table of float16
    for kind in TYPES[3:]:
        name = kind.name.lower().replace("_k", "_K")
        dequantize_row = getattr(base, f"dequantize_row_{name}")
        dequantize_row.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        dequantize_row.restype = None
        stored, theirs = random_blocks(kind), np.zeros(NUMBERS, np.float32)
        dequantize_row(stored.ctypes.data, theirs.ctypes.data, NUMBERS)
        assert fingerprint(theirs) == HASHES[kind.name], kind.name


class GgmlParameters(ctypes.Structure):
    """ggml.h: struct ggml_init_params."""

    _fields_: ClassVar = [
        ("size", ctypes.c_size_t),
        ("buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    ]


def test_blocks_by_hand() -> None:
    nibbles = struct.pack("<16B", *(j | (15 - j) << 4 for j in range(16)))
    both = [*range(16), *reversed(range(16))]
    four = dequantise(GGMLType.Q4_1, raw(struct.pack("<ee", 0.5, -1.0) + nibbles))
    assert four.tolist() == [j * 0.5 - 1 for j in both]
    bits = struct.pack("<I", 0x80000001)
    five = dequantise(GGMLType.Q5_0, raw(struct.pack("<e", 2.0) + bits + nibbles))
    wanted = [(j - 16) * 2.0 for j in both]
    wanted[0] += 32
    wanted[31] += 32
    assert five.tolist() == wanted
    mx = dequantise(GGMLType.MXFP4, raw(b"\x80" + nibbles))
    assert mx[:8].tolist() == [0, 1, 2, 3, 4, 6, 8, 12]
    assert mx[8:16].tolist() == [0, -1, -2, -3, -4, -6, -8, -12]
    pairs = dequantise(GGMLType.TQ2_0, raw(bytes([0b10_01_00_10]) * 64 + struct.pack("<e", 3.0)))
    assert pairs.tolist() == ([3.0] * 32 + [-3.0] * 32 + [0.0] * 32 + [3.0] * 32) * 2


def test_whole_numbers_and_doubles() -> None:
    for kind, form, values in [
        (GGMLType.F64, "<2d", (0.1, 1e300)),
        (GGMLType.I8, "<2b", (-128, 127)),
        (GGMLType.I16, "<2h", (-32768, 5)),
        (GGMLType.I32, "<2i", (-(2**31), 7)),
        (GGMLType.I64, "<2q", (2**40 + 1, -3)),
    ]:
        with np.errstate(over="ignore"):
            wanted = np.array(values).astype(np.float32)
        np.testing.assert_array_equal(dequantise(kind, raw(struct.pack(form, *values))), wanted)


@pytest.mark.parametrize("kind", SUPPORTED)
def test_pieces_do_not_change_values(kind: GGMLType, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = random_blocks(kind, 256 * 9)
    whole = dequantise(kind, stored)
    monkeypatch.setattr(dequantisers, "_PIECE", 300)
    assert fingerprint(dequantise(kind, stored)) == fingerprint(whole)


def test_what_is_no_whole_blocks_is_refused() -> None:
    with pytest.raises(ModelFormatError, match="33 bytes are not 0 numbers of Q8_0"):
        dequantise(GGMLType.Q8_0, np.zeros(33, np.uint8))
    with pytest.raises(ModelFormatError, match="34 bytes are not 31 numbers of Q8_0"):
        dequantise_into(GGMLType.Q8_0, np.zeros(34, np.uint8), np.zeros(31, np.float32))
    with pytest.raises(ModelFormatError, match="type IQ2_XXS is not supported"):
        dequantise(GGMLType.IQ2_XXS, np.zeros(66, np.uint8))


def raw(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)
