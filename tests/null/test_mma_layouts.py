"""Fragments of matrix units: tables of loads and sums against the vendors' documented layouts.

The documents are retold here as functions of their own: which element of a factor an instruction
takes from which work-item, and which sum it returns where. Lines are loaded by our tables, taken
apart as the document says, multiplied, dealt out again, and stored by our tables.
"""

import re
from dataclasses import replace

import numpy as np
import pytest

from homebox.engine.codegen.opencl_mma import KINDS, VARIANTS, Pieces, Variant, mma_text

Array = np.ndarray
STEP = 48  # bytes from line to line
SIZE = {"f16": 2, "bf16": 2, "i8": 1}
TYPE = {"f16": np.float16, "bf16": np.uint16, "i8": np.int8}


def at(text: str, **names: int) -> int:
    """Evaluate an expression of C on natural numbers."""
    return int(eval(text.replace("/", "//"), {}, names))  # noqa: S307 -- our own tables


def loaded(lines: Array, pieces: Pieces, lane: int) -> bytes:
    """Return what a work-item holds of a factor, in the order of its pieces."""
    memory = np.zeros((16, STEP), np.uint8)
    memory[:, :32] = lines.view(np.uint8).reshape(16, 32)
    flat, out = memory.reshape(-1), b""
    for i in range(pieces.count):
        start = at(pieces.at, lane=lane, i=i, step=STEP)
        assert start % pieces.size == 0
        out += flat[start : start + pieces.size].tobytes()
    return out


def held(variant: Variant, pieces: Pieces, kind: str, lines: Array) -> list[Array]:
    """Return the numbers that each work-item holds."""
    each = [loaded(lines, pieces, lane) for lane in range(variant.width)]
    return [np.frombuffer(part, TYPE[kind]) for part in each]


def factor(kind: str, seed: int) -> Array:
    numbers = np.random.default_rng(seed).integers(-9, 9, (16, 32 // SIZE[kind]))
    return numbers.astype(TYPE[kind]) if kind != "bf16" else (numbers + 9).astype(np.uint16)


# -- what the documents say -----------------------------------------------------------------------


def ptx(kind: str, a: list[Array], b: list[Array]) -> Array:
    """PTX ISA, fragments of mma.m16n8k16 (floats) and m16n8k32 (bytes); two for 16 columns.

    Each register of 32 bits holds `per` neighbours along k. a: registers 0 and 2 are row groupID, 1
    and 3 row groupID + 8; the latter two are the second half of k. b: register 0 is the first half.
    """
    per = 4 // SIZE[kind]
    k_size = 8 * per
    sums = np.zeros((32, 8))
    for half in range(2):
        left, right = np.zeros((16, k_size)), np.zeros((k_size, 8))
        for lane in range(32):
            group, thread = lane >> 2, lane % 4
            for i in range(4 * per):
                register, inner = divmod(i, per)
                row = group if register % 2 == 0 else group + 8
                k = thread * per + inner + (k_size // 2 if register >= 2 else 0)
                left[row, k] = a[lane][i]
            for i in range(2 * per):
                register, inner = divmod(i, per)
                word = half + 2 * register  # which of ours goes into this register: see `_ptx`
                k = thread * per + inner + register * k_size // 2
                right[k, group] = b[lane][word * per + inner]
        product = left @ right
        for lane in range(32):
            group, thread = lane >> 2, lane % 4
            for i in range(4):
                row = group if i < 2 else group + 8
                sums[lane, 4 * half + i] = product[row, thread * 2 + (i & 1)]
    return sums


def wmma11(kind: str, a: list[Array], b: list[Array]) -> Array:
    """RDNA 3: work-items l and l + 16 hold row (column) l; sum i is row 2 i + l / 16."""
    k_size = 16
    product = np.zeros((16, 16))
    for first in range(0, len(a[0]), k_size):  # two instructions for 32 bytes
        left = np.array([a[lane][first : first + k_size] for lane in range(16)], np.float64)
        right = np.array([b[lane][first : first + k_size] for lane in range(16)], np.float64)
        for lane in range(16):
            assert np.array_equal(a[lane], a[lane + 16]) and np.array_equal(b[lane], b[lane + 16])
        product += left @ right.T
    return np.array(
        [[product[2 * i + lane // 16, lane % 16] for i in range(8)] for lane in range(32)]
    )


def wmma12(kind: str, a: list[Array], b: list[Array]) -> Array:
    """RDNA 4: a work-item holds 8 numbers along k from 8 (l / 16) on, of row (column) l % 16.

    Sum i is row 8 (l / 16) + i.
    """
    product = np.zeros((16, 16))
    for first in range(0, len(a[0]), 8):
        left, right = np.zeros((16, 16)), np.zeros((16, 16))
        for lane in range(32):
            for e in range(8):
                left[lane % 16, 8 * (lane // 16) + e] = a[lane][first + e]
                right[8 * (lane // 16) + e, lane % 16] = b[lane][first + e]
        product += left @ right
    return np.array(
        [[product[8 * (lane // 16) + i, lane % 16] for i in range(8)] for lane in range(32)]
    )


def dpas(kind: str, a: list[Array], b: list[Array]) -> Array:
    """Intel: component r of a is row r, of which each work-item gives its share of k in order.

    A work-item's b is a column along k; component r of the sums is row r of that column.
    """
    width = len(a)
    k_size = 32 // SIZE[kind]
    share = k_size // width
    blocks = 16 // width  # of columns
    out = np.zeros((width, 2 * blocks * 8))
    for i in range(2):
        left = np.zeros((8, k_size))
        for lane in range(width):
            for r in range(8):
                piece = (8 * i + r) * share
                left[r, lane * share : (lane + 1) * share] = a[lane][piece : piece + share]
        for j in range(blocks):
            right = np.array([b[lane][j * k_size : (j + 1) * k_size] for lane in range(width)])
            product = left @ right.T.astype(np.float64)
            for lane in range(width):
                place = (i * blocks + j) * 8
                out[lane, place : place + 8] = product[:, lane]
    return out


DOCUMENTED = {"ptx": ptx, "wmma11": wmma11, "wmma12": wmma12, "dpas8": dpas, "dpas16": dpas}


# -- the tests ------------------------------------------------------------------------------------


def multiplied(variant: Variant, kind: str) -> tuple[Array, Array]:
    """Return the sums as our tables store them, and the right ones."""
    a, b = factor(kind, 1), factor(kind, 2)
    left, right = held(variant, variant.a, kind, a), held(variant, variant.b, kind, b)
    sums = DOCUMENTED[variant.name](kind, left, right)
    out = np.full((16, 16), np.nan)
    for lane in range(variant.width):
        for e in range(variant.own):
            names = {"lane": lane, "e": e}
            out[at(variant.row, **names), at(variant.column, **names)] = sums[lane, e]
    return out, a.astype(np.float64) @ b.T.astype(np.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_documented_layouts_give_the_product(variant: Variant, kind: str) -> None:
    got, want = multiplied(variant, kind)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_wrong_layouts_are_noticed(variant: Variant) -> None:
    """The controls: rows for columns, lines in another order, k in another order in one factor."""
    turned = replace(variant, row=variant.column, column=variant.row)
    lines = replace(variant.a, at=variant.a.at.replace("lane", "(lane ^ 1)"))
    if variant.name.startswith("dpas"):
        lines = replace(variant.a, at=variant.a.at.replace("i *", "(i ^ 1) *"))
    for wrong in (turned, replace(variant, a=lines)):
        got, want = multiplied(wrong, "f16")
        assert not np.array_equal(got, want)


@pytest.mark.parametrize("kind", KINDS)
def test_instructions_of_nvidia_get_their_registers_in_order(kind: str) -> None:
    """Sums 0-3 and 4-7 are of columns 0-7 and 8-15, whose halves of k are two words apart."""
    (variant,) = (v for v in VARIANTS if v.name == "ptx")
    found = re.findall(
        r"asm volatile\(\"mma\.sync\.aligned\.(\S+) .*?\" : (.*?) : (.*?)\);",
        variant.multiply[kind],
    )
    assert len(found) == 2
    for half, (name, sums, factors) in enumerate(found):
        assert name.startswith(
            "m16n8k32.row.col.s32.s8" if kind == "i8" else "m16n8k16.row.col.f32"
        )
        assert re.findall(r"e\[(\d)\]", sums) == [str(4 * half + i) for i in range(4)]
        words = re.findall(r"\((.)->w\[(\d)\]\)", factors)
        assert words == [*(("a", str(i)) for i in range(4)), ("b", str(half)), ("b", str(half + 2))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", [1, 2])
def test_instructions_of_intel_get_their_rows_in_order(kind: str, columns: int) -> None:
    (variant,) = (v for v in VARIANTS if v.name == ("dpas8" if columns == 2 else "dpas16"))
    lines = variant.multiply[kind].splitlines()
    assert len(lines) == 2 * columns
    for number, line in enumerate(lines):
        i, j = divmod(number, columns)
        words = [int(x) for x in re.findall(r"a->w\[(\d+)\]", line)]
        assert words == list(range(8 * i, 8 * i + 8))
        assert re.findall(r"b->w\[(\d)\]", line) == [str(2 * j), str(2 * j + 1)]
        assert re.findall(r"c->v\[(\d)\]", line) == [str(number)] * 2


def test_every_variant_is_in_the_text_once() -> None:
    text = mma_text()
    for number in range(len(VARIANTS) + 1):
        assert text.count(f"#if HB_MMA == {number}\n") == 1
