"""Tiled products for work-items, run on the checking interpreter: right, with the CPU's bits."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from homebox.engine.codegen.linear import Kernel
from homebox.engine.fusion.fuse import partition
from homebox.engine.graph import dtype as dt
from homebox.engine.graph import formats
from homebox.engine.graph.formats import A8, WEIGHTS, Format
from homebox.engine.graph.ops import Op, Sym
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.plan import order_regions
from homebox.engine.simt import gemm
from homebox.engine.simt.simt import lower_simt
from homebox.engine.simt.target import LoweredSimt, Simt, Tile
from homebox.engine.simt.tile_choice import estimate, local_bytes, tile_schedule
from homebox.engine.verify import interpret, oracle
from homebox.engine.verify.memories import Frame, Memory
from homebox.engine.verify.site import Site
from homebox.errors import EngineError
from tests.null.test_simt import Execution

SMALL = Simt(group=16, sub_group=16, local_memory=4096)
MIDDLE = Simt(group=64, sub_group=32, local_memory=16384)
WIDE = Simt()
FORMS = list(WEIGHTS.values())
QUANTISED = [WEIGHTS["q8"], WEIGHTS["q4"]]


def numbers(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def rows(m: int, k: int, seed: int = 2) -> Tensor:
    return Tensor.from_numpy(numbers(m, k, seed=seed))


def packed(form: Format, n: int, k: int, seed: int = 1) -> Tensor:
    return Tensor.packed(
        form, n, k, Tensor.from_numpy(formats.pack(form, numbers(n, k, seed=seed)))
    )


def rounded(m: int, k: int) -> Tensor:
    return rows(m, k).cast(dt.bf16).contiguous().cast(dt.f32)


def tiles(execution: Execution) -> list[Tile]:
    kinds = [low.schedule for low in execution.lowered if isinstance(low, LoweredSimt)]
    return [kind for kind in kinds if isinstance(kind, Tile)]


def check(
    made: Tensor, target: Simt = SMALL, strict: bool = True, atol: float = 2e-4, kernels: int = 1
) -> list[Tile]:
    """Require the oracle's values, and the CPU kernels' bits if `strict`; return the tiles."""
    root = made if made.node.op is Op.STORE else made.contiguous()
    simt = Execution([root], [], {}, target)
    (truth,) = oracle.evaluate([root.node])
    (got,) = simt.results()
    np.testing.assert_allclose(got, truth, rtol=1e-4, atol=atol)
    if strict:
        (same,) = Execution([root], [], {}, None).results()
        assert got.tobytes() == same.tobytes()
    found = tiles(simt)
    assert len(found) == kernels
    return found


# -- arithmetics, formats, shapes -----------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS, ids=repr)
@pytest.mark.parametrize(("m", "n", "k"), [(9, 16, 64), (19, 37, 45), (10, 33, 18)])
def test_float32_has_the_bits_of_the_cpu(form: Format, m: int, n: int, k: int) -> None:
    check(rows(m, k).linear(packed(form, n, k)))


@pytest.mark.parametrize("form", FORMS, ids=repr)
def test_turned_products_have_the_bits_of_the_cpu(form: Format) -> None:
    check(rows(11, 21) @ packed(form, 21, 64))


def test_turned_products_of_wide_tiles() -> None:
    check(rows(9, 32) @ packed(WEIGHTS["q4"], 32, 192), MIDDLE)


@pytest.mark.parametrize("form", QUANTISED, ids=repr)
@pytest.mark.parametrize(("m", "n", "k"), [(9, 16, 64), (19, 37, 96), (10, 20, 33)])
def test_int8_has_the_bits_of_the_cpu(form: Format, m: int, n: int, k: int) -> None:
    for target in (SMALL, MIDDLE):
        check(packed(A8, m, k, seed=3).linear(packed(form, n, k)), target)


@pytest.mark.parametrize("form", FORMS, ids=repr)
@pytest.mark.parametrize(("m", "n", "k"), [(9, 16, 64), (19, 37, 46), (10, 20, 18)])
def test_bf16_activations(form: Format, m: int, n: int, k: int) -> None:
    check(rounded(m, k).linear(packed(form, n, k)), strict=False)
    if m == 10:
        check(rounded(m, n) @ packed(form, n, 64), strict=False)


@pytest.mark.parametrize("kind", ["f32", "bf16", "int8"])
def test_sums_of_several_segments(kind: str) -> None:
    k = 1090
    made = {
        "f32": lambda: rows(9, k).linear(packed(WEIGHTS["bf16"], 16, k)),
        "bf16": lambda: rounded(9, k).linear(packed(WEIGHTS["f32"], 16, k)),
        "int8": lambda: packed(A8, 9, k).linear(packed(WEIGHTS["q8"], 16, k)),
    }
    check(made[kind](), strict=kind != "bf16", atol=2e-3)


def test_few_columns_of_wide_groups() -> None:
    """Fewer pieces than work-items, on the largest of the usual groups."""
    check(rows(33, 20).linear(packed(WEIGHTS["bf16"], 20, 20)), WIDE)
    check(packed(A8, 33, 32).linear(packed(WEIGHTS["q4"], 20, 32)), WIDE)


def test_rows_of_a_weight() -> None:
    weight = packed(WEIGHTS["q8"], 64, 64)
    check(rows(9, 64).linear(weight.slice(0, 16, 20)))
    check(rows(9, 20) @ weight.slice(0, 32, 20))


# -- regions --------------------------------------------------------------------------------------


def test_gate_and_up_meet_in_one_kernel() -> None:
    x = packed(A8, 10, 64)
    gate, up = (x.linear(packed(WEIGHTS["q8"], 20, 64, seed=s)) for s in (4, 5))
    check(gate.silu() * up, MIDDLE)


def test_an_adapter_meets_its_projection() -> None:
    x, u = packed(A8, 10, 64), rows(10, 8, seed=6)
    y = x.linear(packed(WEIGHTS["q4"], 20, 64)) + u.linear(packed(WEIGHTS["f32"], 20, 8))
    check(y + rows(10, 20, seed=7), MIDDLE)


@pytest.mark.parametrize("target", [SMALL, MIDDLE])
def test_epilogues(target: Simt) -> None:
    y = rows(18, 32).linear(packed(WEIGHTS["bf16"], 21, 32))
    check(rows(18, 21, seed=8) + y * 2.0, target)
    memory = Tensor.from_numpy(numbers(18, 21, seed=9))
    check(memory.store(y.silu(), add=True), target)


def test_activations_that_lie_in_a_wider_matrix() -> None:
    wide = rows(9, 96)
    check(wide.slice(1, 32, 33).linear(packed(WEIGHTS["f32"], 16, 33)))
    check(wide.slice(1, 64, 32).linear(packed(WEIGHTS["f32"], 16, 32)))


@pytest.mark.parametrize("n", [1, 16, 37])
def test_plain_products_of_run_time_sizes(n: int) -> None:
    size = Sym("n", 1, 40)
    a, b = rows(9, 40).slice(1, 0, size), rows(40, 16, seed=3).slice(0, 0, size)
    turned = rows(40, 9).slice(0, 0, size).transpose()
    for root in (a @ b, turned @ b, rows(40, 8).slice(0, 0, size) @ rows(8, 16)):
        each = [Execution([root.contiguous()], [size], {"n": n}, t) for t in (MIDDLE, None)]
        (got,), (want,) = (x.results() for x in each)
        assert got.tobytes() == want.tobytes()
        assert tiles(each[0])


@pytest.mark.parametrize("shape", [(20, 33), (17, 32), (9, 30)])
def test_plain_products_however_their_rows_lie(shape: tuple[int, int]) -> None:
    m, k = shape
    check(rows(m, k) @ rows(k, 32), MIDDLE)
    check(rows(k, m).transpose() @ rows(k, 32), MIDDLE)


# -- what makes it fast ---------------------------------------------------------------------------


def hot_loop(kernel: Kernel) -> list[tuple[str, int]]:
    """Return (operation, lanes) of what the innermost loop with multiply-adds does."""
    start = found = 0
    for place, inst in enumerate(kernel.body):
        if inst.op == "loop":
            start = place
        elif inst.op == "fma" and start:
            found = start
            break
    end = next(i for i in range(found, len(kernel.body)) if kernel.body[i].op == "endloop")
    return [(inst.op, inst.lanes) for inst in kernel.body[found:end]]


def lowered(root: Tensor, target: Simt) -> LoweredSimt:
    cut = partition([root.contiguous().node], resident=False)
    return lower_simt(order_regions(cut)[-1], cut.realised, [], target)


def zeros(form: Format, n: int, k: int) -> Tensor:
    return Tensor.packed(form, n, k, Tensor.from_numpy(np.zeros(form.nbytes(n, k), np.uint8)))


PREFILL: list[tuple[str, Callable[[], Tensor]]] = [
    ("f32", lambda: Tensor.zeros((512, 1024)).linear(zeros(WEIGHTS["f32"], 3072, 1024))),
    ("turned", lambda: Tensor.zeros((512, 1024)) @ zeros(WEIGHTS["q4"], 1024, 3072)),
    ("plain", lambda: Tensor.zeros((512, 1024)) @ Tensor.zeros((1024, 3072))),
]


@pytest.mark.parametrize("case", PREFILL, ids=lambda case: case[0])
def test_operands_are_read_as_vectors_and_used_eight_times(
    case: tuple[str, Callable[[], Tensor]],
) -> None:
    low = lowered(case[1](), WIDE)
    tile = low.schedule
    assert isinstance(tile, Tile) and (tile.rows, tile.columns) == (8, 8)
    hot = hot_loop(low.kernel)
    assert hot.count(("load", 4)) == 4 * 4 and hot.count(("fma", 4)) == 4 * 16
    assert not [lanes for op, lanes in hot if op == "load" and lanes != 4]
    assert int(np.prod(low.most_groups())) >= 96


def test_one_barrier_a_slice() -> None:
    low = lowered(PREFILL[0][1](), WIDE)
    barriers, depth, inside = 0, 0, 0
    for inst in low.kernel.body:
        depth += {"loop": 1, "endloop": -1}.get(inst.op, 0)
        barriers += inst.op == "barrier"
        inside += inst.op == "barrier" and depth == 1
    assert (barriers, inside) == (2, 1)  # the other one stands before the first slice


@pytest.mark.parametrize("target", [SMALL, MIDDLE, WIDE, Simt(1024, 64, 65536)])
@pytest.mark.parametrize("m", [9, 64, 512])
def test_tiles_keep_to_the_limits_of_the_target(target: Simt, m: int) -> None:
    for n in (16, 64, 1024, 151936):
        for sums, lines in ((1, 0), (2, 0), (3, 20)):
            tile = tile_schedule(target, m, n, 1024, sums, lines)
            assert tile.across * tile.down <= target.group
            assert local_bytes(tile, lines) <= target.local_memory
            assert tile.width % 16 == 0


def test_local_memory_that_is_too_small() -> None:
    assert tile_schedule(Simt(16, 16, 2048), 64, 64, 64).depth == 8
    with pytest.raises(EngineError, match="local memory"):
        tile_schedule(Simt(16, 16, 512), 64, 64, 64)


def test_work_is_spread_over_multiprocessors() -> None:
    """A few large tiles would leave most of a card idle."""
    chosen, large = tile_schedule(WIDE, 512, 1024, 1024), Tile(16, 16, 8, 8, 16)
    groups = -(-512 // chosen.height) * (1024 // chosen.width)
    assert groups >= 64 and estimate(chosen, 512, 1024) < estimate(large, 512, 1024)
    few = tile_schedule(WIDE, 512, 16, 1024)
    assert (few.height, few.width, few.depth) == (16, 16, 64)  # of few outputs each counts
    many = tile_schedule(WIDE, 256, 256, 128, outer=32)
    assert many.rows * many.columns == 64


# -- controls -------------------------------------------------------------------------------------


CONTROLS: list[Callable[[], Tensor]] = [
    lambda: rows(9, 60).linear(packed(WEIGHTS["q8"], 16, 60)),
    lambda: packed(A8, 9, 1090).linear(packed(WEIGHTS["q4"], 16, 1090)),
]


@pytest.mark.parametrize("made", CONTROLS)
def test_no_barrier_can_be_left_out(made: Callable[[], Tensor]) -> None:
    execution = Execution([made().contiguous()], [], {}, SMALL)
    low = execution.lowered[-1]
    assert isinstance(low, LoweredSimt)
    buffers = [execution.array(n) for n in low.memory]
    places = [i for i, inst in enumerate(low.kernel.body) if inst.op == "barrier"]
    assert places
    for place in places:
        body = list(low.kernel.body)
        body[place] = replace(body[place], op="const", arg=0)
        broken = replace(low.kernel, body=tuple(body))
        with pytest.raises(EngineError, match=r"race with|which nothing has written"):
            interpret.run_simt(broken, buffers, execution.variables, low.groups({}))


# -- banks of local memory ------------------------------------------------------------------------

Accesses = dict[tuple[int, str], dict[int, list[range]]]


def conflicts(made: Tensor, tile: Tile, monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, int]]:
    """Return (read or write, most words that meet in a bank) of the first 32 work-items.

    A machine serves 32 words at a time: 8 neighbours that access vectors of four, 32 scalars.
    """
    seen: Accesses = {}

    def recorder(kind: str) -> None:
        original = getattr(Memory, kind)

        def record(self: Memory, places: Any, frame: Frame, site: Site) -> None:
            item = frame.local[1] * tile.across + frame.local[0] if len(frame.local) > 1 else 32
            if self.name.startswith("the shared") and item < 32:
                each = seen.setdefault((site.position, kind), {})
                each.setdefault(item, []).append(range(places[0], places[0] + len(places)))
            original(self, places, frame, site)

        monkeypatch.setattr(Memory, kind, record)

    monkeypatch.setattr(gemm, "tile_schedule", lambda *args: tile)
    for kind in ("read", "write"):
        recorder(kind)
    Execution([made.contiguous()], [], {}, WIDE)
    found = set()
    for (_, kind), items in seen.items():
        for turn in range(max(len(each) for each in items.values())):
            at = [items[i][turn] for i in sorted(items) if turn < len(items[i])]
            together = 32 // len(at[0])
            for first in range(0, len(at), together):
                words = {w for each in at[first : first + together] for w in each}
                banks = Counter(w % 32 for w in words)
                found.add((kind, max(banks.values())))
    return found


BANKS: list[tuple[Callable[[], Tensor], Tile, int]] = [
    (lambda: rows(9, 16).linear(packed(WEIGHTS["f32"], 128, 16)), Tile(16, 16, 8, 8, 16), 1),
    (lambda: rounded(9, 16) @ packed(WEIGHTS["q8"], 16, 128), Tile(16, 16, 8, 8, 16), 1),
    (lambda: packed(A8, 9, 32).linear(packed(WEIGHTS["q8"], 64, 32)), Tile(8, 16, 8, 4, 16), 2),
]


@pytest.mark.parametrize(("made", "tile", "most"), BANKS)
def test_work_items_meet_different_banks(
    made: Callable[[], Tensor], tile: Tile, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = conflicts(made(), tile, monkeypatch)
    assert {kind for kind, _ in found} == {"read", "write"}
    assert max(count for kind, count in found if kind == "read") == 1
    assert max(count for kind, count in found if kind == "write") <= most


def test_unturned_chunks_would_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gemm.ROWS_SWAP, 16, (4, 8))  # a turn by all chunks is none
    made, tile, _ = BANKS[0]
    assert ("write", 4) in conflicts(made(), tile, monkeypatch)
