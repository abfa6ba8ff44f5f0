"""The kernels that measure a device do the work that they are timed for."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from homebox.engine.graph.device import HOST
from homebox.engine.inspection import roof_opencl
from homebox.engine.inspection.product_rate import product_rate
from homebox.engine.inspection.roof import Roof, roof
from homebox.engine.inspection.roof_opencl import DeviceRoof, source, tile_source, tile_width
from homebox.engine.opencl.probe_child import Trials
from homebox.engine.opencl.probes import Probes, place_of, probe
from homebox.engine.opencl.system import System

if TYPE_CHECKING:
    from homebox.engine.opencl.platform import Found

ITEMS, GROUP = 512, 256


@pytest.fixture
def found(cl_entry: "Found") -> Probes:
    return probe(cl_entry.device)


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure too briefly for good numbers, and with little memory."""
    for name, value in (("_SECONDS", 0.0), ("_MOST_BYTES", 8 << 20), ("_TURNS", 16)):
        monkeypatch.setattr(roof_opencl, name, value)


def run(entry: "Found", text: str, options: tuple[str, ...], given: np.ndarray, size: int) -> bytes:
    """Run the kernel of `text` that is called `probe`."""
    import pyopencl as cl

    grid = ((ITEMS,), (GROUP,))
    return Trials(cl, entry.device).run(text, list(options), given.tobytes(), size, grid)


def only(text: str, name: str) -> str:
    return text.replace(f"roof_{name}(", "probe(")


def test_everything_is_copied_and_read(cl_entry: "Found", found: Probes) -> None:
    words = np.random.default_rng(0).integers(0, 2**32, ITEMS * 4 * 16, np.uint64)
    words = words.astype(np.uint32)
    text = source(frozenset())
    copied = run(cl_entry, only(text, "copy"), found.options, words, ITEMS * 16)
    assert copied == words[: ITEMS * 4].tobytes()
    read = run(cl_entry, only(text, "read"), found.options, words, ITEMS * 4)
    wanted = np.bitwise_xor.reduce(words.reshape(16, ITEMS, 4), axis=(0, 2))
    np.testing.assert_array_equal(np.frombuffer(read, np.uint32), wanted)


def test_every_operation_is_done(cl_entry: "Found", found: Probes) -> None:
    """A sum s becomes s * x + x in each turn; x = 1 makes it count the turns."""
    ones = np.ones(16, np.float32)
    text = source(frozenset())
    got = np.frombuffer(run(cl_entry, only(text, "f32"), found.options, ones, 4 * ITEMS), "<f4")
    # Eight sums begin with 1 + 0 .. 1 + 7; all grow by one a turn.
    assert set(got.tolist()) == {float(sum(range(1, 9)) + 8 * 16)}


def test_products_of_bytes_count(cl_entry: "Found", found: Probes) -> None:
    if "dot4" not in found.units:
        return  # measured only where a probe granted it
    given = np.full(16, 0x01010101, np.uint32)
    text = source(found.units)
    got = np.frombuffer(run(cl_entry, only(text, "int8"), found.options, given, 4 * ITEMS), "<i4")
    sums = [0x01010101 + i for i in range(8)]
    for _ in range(16):
        sums = [s + sum((s >> shift) & 255 for shift in (0, 8, 16, 24)) for s in sums]
    assert got[0] == (sum(sums) + 2**31) % 2**32 - 2**31


@pytest.mark.parametrize("kind", ["f16", "bf16", "i8"])
def test_tiles_are_multiplied(cl_entry: "Found", found: Probes, kind: str) -> None:
    """The scalar variant stands for matrix units: every sum is k equal products a turn."""
    one = {"f16": np.float16(1).view(np.uint16), "bf16": np.uint16(0x3F80), "i8": np.uint16(0x0101)}
    given = np.full(1024, one[kind], np.uint16)
    text = only(tile_source(kind, 32), "tiles")
    out = run(cl_entry, text, found.options, given, 4 * ITEMS)
    depth = 32 if kind == "i8" else 16
    got = np.frombuffer(out, "<i4" if kind == "i8" else "<f4")
    assert set(got.tolist()) == {4 * 16 * depth}


def test_the_width_of_tiles_follows_the_variant() -> None:
    assert tile_width(["-DHB_DOT4=1", "-DHB_MMA=5"]) == 16
    assert tile_width(["-DHB_MMA=4"]) == 8
    assert tile_width([]) == 32


def test_rates_are_measured_and_kept(
    cl_entry: "Found", found: Probes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEBOX_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(roof_opencl, "_known", {})
    place = place_of(cl_entry.device)
    assert roof_opencl.kept(place, found) is None
    rates = roof_opencl.roof_of(cl_entry.device, found)
    assert rates.copy_gbs > 0 and rates.read_gbs > 0 and rates.f32_gflops > 0
    assert (rates.half_gflops is not None) == ("half" in found.units)
    assert (rates.int8_gops is not None) == ("dot4" in found.units)
    assert rates.mma_f16_gflops is None
    assert roof_opencl.kept(place, found) == rates
    assert roof_opencl.kept(dataclasses.replace(place, driver="newer"), found) is None
    assert roof_opencl.roof_of(cl_entry.device, found) is rates


def test_measuring_in_another_process_gives_rates(cl_entry: "Found", found: Probes) -> None:
    place = place_of(cl_entry.device)
    ended = System().python(roof_opencl.request(place, found), 120)
    assert ended.code == 0, ended.err
    assert DeviceRoof(**json.loads(ended.out)).f32_gflops > 0


def test_programs_are_judged_by_the_roof_of_their_device(cl_device: Any) -> None:
    found = roof_opencl.top_of(cl_device)
    assert isinstance(found, Roof)
    assert found.read_gbs > 0 and found.compute("int8") >= found.compute("f32")
    assert roof_opencl.top_of(HOST) is roof()


def test_a_unit_that_is_not_there_has_the_rate_of_f32() -> None:
    plain = DeviceRoof(1.0, 2.0, 3.0)
    assert [plain.compute(kind) for kind in ("f32", "bf16", "int8")] == [3.0] * 3
    units = DeviceRoof(1.0, 2.0, 3.0, int8_gops=9.0, mma_bf16_gflops=7.0, mma_s8_gops=8.0)
    assert [units.compute(kind) for kind in ("f32", "bf16", "int8")] == [3.0, 7.0, 9.0]


def test_the_engines_product_is_right_and_has_a_rate(cl_entry: "Found") -> None:
    assert product_rate(cl_entry.name, 64) > 0
