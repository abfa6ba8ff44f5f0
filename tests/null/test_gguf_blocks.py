"""GGUF's quantised blocks: packed without a change of any number, against the format's package."""

import struct
from pathlib import Path

import numpy as np
import pytest

from homebox.engine.graph.formats import Q4, Q8, Bytes, Format, unpack
from homebox.engine.graph.gguf_blocks import BLOCK_BYTES, dequantise_blocks, from_q4_0, from_q8_0
from homebox.errors import EngineError

PACKERS = {Q8: from_q8_0, Q4: from_q4_0}
TYPES = {Q8: 8, Q4: 2}  # as the file format numbers them
SHAPES = [(1, 32), (16, 64), (17, 96), (40, 256), (5, 32 * 7)]


def random_blocks(form: Format, n: int, k: int, seed: int = 0) -> Bytes:
    """Return blocks of every byte, with finite scales of both signs, some zero or denormal."""
    dice = np.random.default_rng(seed)
    blocks = dice.integers(0, 256, (n * k // 32, BLOCK_BYTES[form]), np.uint8)
    scales = (dice.standard_normal(len(blocks)) * 2.0 ** dice.integers(-24, 8, len(blocks))).astype(
        "<f2"
    )
    scales[::7] = 0
    blocks[:, :2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(-1)


@pytest.mark.parametrize("form", [Q8, Q4])
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_packed_values_have_the_bits_of_the_blocks(form: Format, n: int, k: int) -> None:
    blocks = random_blocks(form, n, k)
    stored = PACKERS[form](blocks, n, k)
    assert stored.size == form.nbytes(n, k)
    wanted = dequantise_blocks(form, blocks, n, k)
    assert unpack(form, stored, n, k).tobytes() == wanted.tobytes()
    assert PACKERS[form](blocks.tobytes(), n, k).tobytes() == stored.tobytes()


def test_one_block_by_hand() -> None:
    q8 = struct.pack("<e32b", 0.5, *range(-16, 16))
    assert unpack(Q8, from_q8_0(q8, 1, 32), 1, 32)[0].tolist() == [i / 2 for i in range(-16, 16)]
    q4 = struct.pack("<e16B", -2.0, *(j | (15 - j) << 4 for j in range(16)))
    numbers = [(j - 8) * -2.0 for j in (*range(16), *reversed(range(16)))]
    assert unpack(Q4, from_q4_0(q4, 1, 32), 1, 32)[0].tolist() == numbers


@pytest.mark.parametrize("form", [Q8, Q4])
def test_the_padding_is_zero(form: Format) -> None:
    stored = PACKERS[form](random_blocks(form, 3, 32), 3, 32)
    whole = unpack(form, stored, 16, 64)
    assert not whole[3:].any()
    assert not whole[:, 32:].any()


@pytest.mark.parametrize("form", [Q8, Q4])
def test_wrong_blocks_are_refused(form: Format) -> None:
    blocks = random_blocks(form, 4, 64)
    pack = PACKERS[form]
    for n, k in ((4, 32), (3, 64), (5, 64), (4, 65), (-4, -64)):
        with pytest.raises(EngineError, match="no blocks of a matrix"):
            pack(blocks, n, k)
    for bad in (np.nan, np.inf):
        broken = blocks.copy()
        broken[:2] = np.array([bad], "<f2").view(np.uint8)
        with pytest.raises(EngineError, match="no finite number"):
            pack(broken, 4, 64)


@pytest.mark.parametrize("form", [Q8, Q4])
def test_the_packages_dequantiser_agrees(form: Format) -> None:
    gguf = pytest.importorskip("gguf", reason="the gguf package is absent")
    blocks = random_blocks(form, 24, 160, seed=3)
    kind = gguf.GGMLQuantizationType(TYPES[form])
    wanted = gguf.quants.dequantize(blocks.reshape(24, -1), kind)
    stored = PACKERS[form](blocks, 24, 160)
    assert unpack(form, stored, 24, 160).tobytes() == wanted.tobytes()


@pytest.mark.parametrize(("form", "name"), [(Q8, "Q8_0"), (Q4, "Q4_0")])
def test_a_published_file_keeps_its_numbers(form: Format, name: str, shared: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="the gguf package is absent")
    file = gguf.GGUFReader(shared / "data" / "gguf" / f"stories260K-{name}.gguf")
    tensors = [t for t in file.tensors if int(t.tensor_type) == TYPES[form]]
    assert tensors
    for tensor in tensors:
        k, n = map(int, tensor.shape)
        stored = PACKERS[form](np.array(tensor.data).reshape(-1), n, k)
        wanted = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(n, k)
        assert unpack(form, stored, n, k).tobytes() == wanted.tobytes()
