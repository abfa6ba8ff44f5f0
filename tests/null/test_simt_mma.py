"""Products on matrix units, on the checking interpreter: right within rounding, and in bounds."""

from functools import cache

import numpy as np
import pytest

from homebox.engine.codegen.linear import Builder, Kernel
from homebox.engine.graph import dtype as dt
from homebox.engine.graph import formats
from homebox.engine.graph.formats import WEIGHTS, Format
from homebox.engine.graph.tensor import Tensor
from homebox.engine.simt.mma_choice import fragments_schedule, local_words
from homebox.engine.simt.target import Fragments, LoweredSimt, Simt
from homebox.engine.verify import interpret, oracle
from homebox.errors import EngineError
from tests.null.test_simt import Execution

Array = np.ndarray
RANDOM = np.random.default_rng(11)
UNITS = frozenset({"mma_bf16", "mma_s8"})
SMALL = Simt(group=64, sub_group=16, units=UNITS, team=16)
NVIDIA = Simt(group=64, units=UNITS)
PLAIN = Simt(group=64)


@cache
def packed(form: Format, n: int, k: int) -> Tensor:
    values = np.random.default_rng(n).standard_normal((n, k)).astype(np.float32)
    return Tensor.packed(form, n, k, Tensor.from_numpy(formats.pack(form, values)))


def rows(m: int, k: int, kind: str) -> Tensor:
    x = Tensor.from_numpy(RANDOM.standard_normal((m, k)).astype(np.float32))
    return x.quantised() if kind == "int8" else x.cast(dt.bf16).cast(dt.f32)


def run(root: Tensor, target: Simt, tolerance: float = 1e-4) -> list[LoweredSimt]:
    """Run a graph on the interpreter and compare it with the oracle; return its kernels."""
    root = root.contiguous()
    done = Execution([root], [], {}, target)
    (truth,) = oracle.evaluate([root.node], {})
    (got,) = done.results()
    np.testing.assert_allclose(got, truth, rtol=tolerance, atol=tolerance * np.abs(truth).max())
    return [low for low in done.lowered if isinstance(low, LoweredSimt)]


def fragments(lowered: list[LoweredSimt]) -> list[Fragments]:
    return [low.schedule for low in lowered if isinstance(low.schedule, Fragments)]


@pytest.mark.parametrize("form", [formats.Q8, formats.Q4], ids=repr)
@pytest.mark.parametrize(("m", "n", "k"), [(16, 16, 64), (33, 40, 96)])
def test_int8(form: Format, m: int, n: int, k: int) -> None:
    lowered = run(rows(m, k, "int8").linear(packed(form, n, k)), NVIDIA)
    assert len(fragments(lowered)) == 1


@pytest.mark.parametrize("form", WEIGHTS.values(), ids=repr)
def test_bf16(form: Format) -> None:
    weight = packed(form, 40, 64)
    tolerance = 1e-4 if form is formats.BF16 else 1e-2  # weights are rounded to bf16
    assert len(fragments(run(rows(20, 64, "bf16").linear(weight), NVIDIA, tolerance))) == 1


@pytest.mark.parametrize("form", WEIGHTS.values(), ids=repr)
def test_bf16_summed_over_the_weights_rows(form: Format) -> None:
    product = rows(17, 48, "bf16") @ packed(form, 48, 64)
    tolerance = 1e-4 if form is formats.BF16 else 1e-2
    assert len(fragments(run(product, SMALL, tolerance))) == 1


def test_two_products_meet_in_one_epilogue() -> None:
    x = rows(18, 64, "int8")
    gate, up = (x.linear(packed(formats.Q8, n, 64)) for n in (32, 48))
    up = up.slice(1, 0, 32)
    lowered = run(gate.maximum(0.0) * up + 1.0, NVIDIA)
    assert fragments(lowered)


def test_a_part_of_a_weights_rows() -> None:
    part = rows(16, 64, "int8").linear(packed(formats.Q8, 48, 64)).slice(1, 16, 32)
    assert fragments(run(part, NVIDIA))


@pytest.mark.parametrize("form", [formats.Q8, formats.Q4], ids=repr)
@pytest.mark.parametrize("k", [128, 1120])
def test_int8_has_the_cpus_bits(form: Format, k: int) -> None:
    root = rows(16, k, "int8").linear(packed(form, 16, k)).contiguous()
    done, cpu = Execution([root], [], {}, NVIDIA), Execution([root], [], {}, None)
    assert fragments([low for low in done.lowered if isinstance(low, LoweredSimt)])
    assert done.results()[0].tobytes() == cpu.results()[0].tobytes()


@pytest.mark.parametrize("team", [8, 16, 32])
def test_teams_of_every_vendors_size(team: int) -> None:
    target = Simt(group=32, units=UNITS, team=team)
    (tile,) = fragments(run(rows(16, 32, "bf16").linear(packed(formats.BF16, 16, 32)), target))
    assert tile.team == team


# -- when the units are not used ------------------------------------------------------------------


def test_float32_never_comes_to_the_units() -> None:
    x = Tensor.from_numpy(RANDOM.standard_normal((16, 64)).astype(np.float32))
    assert not fragments(run(x.linear(packed(formats.Q8, 16, 64)), NVIDIA))


def test_without_units_with_few_rows_or_uneven_lengths_others_compute() -> None:
    weight = packed(formats.BF16, 16, 32)
    assert not fragments(run(rows(16, 32, "bf16").linear(weight), PLAIN))
    assert not fragments(run(rows(4, 32, "bf16").linear(weight), NVIDIA))
    uneven = packed(formats.BF16, 16, 34)
    assert not fragments(run(rows(16, 34, "bf16").linear(uneven), NVIDIA))
    only_bytes = Simt(group=64, units=frozenset({"mma_s8"}))
    assert not fragments(run(rows(16, 32, "bf16").linear(weight), only_bytes))


# -- tiles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("team", [8, 16, 32])
@pytest.mark.parametrize(("m", "n"), [(16, 64), (512, 1024), (2048, 4096)])
@pytest.mark.parametrize("scaled", [False, True])
def test_tiles_fit_local_memory_and_registers(m: int, n: int, team: int, scaled: bool) -> None:
    target = Simt(units=UNITS, team=team)
    tile = fragments_schedule(target, m, n, 1, 2, scaled)
    assert tile is not None and tile.group <= target.group
    assert 4 * local_words(tile, 1) <= target.local_memory
    assert tile.rows * tile.columns * 256 // team <= 64 or tile.rows * tile.columns == 1


def test_large_products_get_large_tiles() -> None:
    tile = fragments_schedule(Simt(units=UNITS, local_memory=49152), 2048, 4096, 1, 2, False)
    assert tile is not None and (tile.height, tile.width) == (128, 128)


def test_no_tile_without_local_memory() -> None:
    assert fragments_schedule(Simt(units=UNITS, local_memory=1024), 64, 64, 1, 2, False) is None


# -- what the interpreter notices -----------------------------------------------------------------


def team_kernel(**changed: object) -> Kernel:
    """Two work-items that multiply a tile by itself, with something changed."""
    b = Builder()
    given, found = b.param(dt.i8, 512, False), b.param(dt.i32, 256, True)
    item = b.emit("local", dt.i64, 1, (), 0)
    box = b.emit("shared", dt.i8, 1, (), 16 * 48)
    out = b.emit("shared", dt.i32, 1, (), 256)
    with b.loop(item, b.int(512), 2) as i:
        line = b.mul(b.emit("idiv", dt.i64, 1, (i, b.int(32))), b.int(48))
        place = b.add(line, b.emit("mod", dt.i64, 1, (i, b.int(32))))
        b.store(box, place, b.load(given, i))
    if changed.get("barrier", True):
        b.emit("barrier", dt.i64)
    sums = b.emit("fragment_zero", dt.i32, 1, (), 2)
    arg = (changed.get("step", 48), 2)
    first = b.int(int(str(changed.get("first", 0))))
    a = b.emit("fragment_a", dt.i8, 1, (box, first), arg)
    other = b.emit("fragment_b", dt.i8, 1, (box, b.int(0)), arg)
    if changed.get("overwritten") or changed.get("at_once"):
        if changed.get("overwritten"):
            b.emit("barrier", dt.i64)
        with b.when(b.alu("lt", item, b.int(1))):
            b.store(box, b.int(0), b.const(99, dt.i8))
        b.emit("barrier", dt.i64)
    product = (sums, other, a) if changed.get("swapped") else (sums, a, other)
    if changed.get("guarded"):
        with b.when(b.alu("lt", item, b.int(1))):
            b.emit("mma", dt.i32, 1, product)
    else:
        b.emit("mma", dt.i32, 1, product)
    b.emit("fragment_store", dt.i32, 1, (out, b.int(0), sums), 16)
    b.emit("barrier", dt.i64)
    with b.loop(item, b.int(256), 2) as i:
        b.store(found, i, b.load(out, i))
    return b.kernel((2,))


def test_a_tile_times_itself() -> None:
    numbers = RANDOM.integers(-128, 128, (16, 32)).astype(np.int8)
    found = np.zeros(256, np.int32)
    interpret.run_simt(team_kernel(), [numbers.reshape(-1), found], np.zeros(1, np.int32), (1,))
    wide = numbers.astype(np.int32)
    np.testing.assert_array_equal(found.reshape(16, 16), wide @ wide.T)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"barrier": False}, "nothing has written"),
        ({"at_once": True}, "race"),
        ({"step": 40}, "multiple of 16 bytes"),
        ({"first": 8}, "multiple of 16 bytes"),
        ({"first": 16 * 16}, "reaches element"),
        ({"overwritten": True}, "has changed"),
        ({"swapped": True}, "must be fragment_a"),
        ({"guarded": True}, "under a condition"),
    ],
)
def test_misuse_of_fragments_is_refused(changed: dict[str, object], complaint: str) -> None:
    buffers = [np.ones(512, np.int8), np.zeros(256, np.int32)]
    with pytest.raises(EngineError, match=complaint):
        interpret.run_simt(team_kernel(**changed), buffers, np.zeros(1, np.int32), (1,))
