"""Dot products of bytes and of bf16: exact at every level of the CPU, in the right instructions."""

import ctypes
import re

import numpy as np
import numpy.typing as npt
import pytest

from homebox.engine.codegen.cpu import LEVELS, CpuTarget, available, target_of
from homebox.engine.codegen.linear import KEPT_BYTES, Builder, Kernel
from homebox.engine.codegen.llvm import render
from homebox.engine.graph import dtype as dt
from homebox.engine.verify.interpret import run as interpret
from homebox.engine.verify.oracle import narrow, widen
from tests.unit.assembly import CALLS, OTHERS, compiler, hot_loop, instructions

STEPS = 8  # of 4 bytes along k
NONE = np.zeros(1, np.int32)
Array = npt.NDArray[np.generic]


def call(kernel: Kernel, target: CpuTarget, buffers: list[Array], units: int = 1) -> None:
    """Compile a kernel for a target of this machine and run all of its units."""
    text = render(kernel, "dots", target)
    address = compiler(target).load({"dots": text})["dots"]
    places = np.array([b.ctypes.data for b in buffers] + [NONE.ctypes.data], np.uint64)
    kept = np.zeros(KEPT_BYTES + 64, np.uint8)
    aligned = kept.ctypes.data + -kept.ctypes.data % 64
    word, pointer = ctypes.c_int64, ctypes.c_void_p
    function = ctypes.CFUNCTYPE(None, pointer, word, word, pointer, word)(address)
    function(places.ctypes.data, 0, units, aligned, 1)


def dot_kernel(op: str, most: int | None = None) -> Kernel:
    """acc (16,) += w (STEPS, 16, n) . x (STEPS, n), where n numbers are 4 bytes."""
    b = Builder()
    acc_kind, left, right = {
        "dot4": (dt.i32, dt.u8, dt.i8),
        "dotbf16": (dt.f32, dt.bf16, dt.bf16),
    }[op]
    lanes = 64 // left.size
    out = b.param(acc_kind, 16, True)
    weights, factors = (
        b.param(kind, STEPS * n, False) for kind, n in ((left, lanes), (right, lanes // 16))
    )
    total = b.reg(b.load(out, b.int(0), 16))
    with b.loop(b.int(0), b.int(STEPS)) as i:
        weight = b.load(weights, b.mul(i, b.int(lanes)), lanes)
        factor = b.splat(b.load(b.view(factors, dt.i32), i), 16)
        values = (b.get(total), weight, b.bitcast(factor, right))
        b.set(total, b.emit(op, acc_kind, 16, values, most))
    b.store(out, b.int(0), b.get(total))
    return b.kernel()


def numbers_for(most: int, seed: int) -> list[Array]:
    """Return acc, weights and factors; seed 0 and 1 are the extremes."""
    rng = np.random.default_rng(seed)
    acc = rng.integers(-(1 << 31), 1 << 31, 16).astype(np.int32)
    weights = rng.integers(0, most + 1, (STEPS, 16, 4)).astype(np.uint8)
    factors = rng.integers(-128, 128, (STEPS, 4)).astype(np.int8)
    if seed < 2:
        weights[:], factors[:] = most, (-128, 127)[seed]
    if seed == 2:
        weights[:], factors[:] = 0, -128
    return [acc, weights, factors]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("most", [15, 127, 128, 255])
def test_dot4_is_exact_at_every_level(level: str, most: int) -> None:
    if level not in available():
        pytest.skip(f"this CPU cannot run {level} code, only {', '.join(available())}")
    kernel = dot_kernel("dot4", most)
    for seed in range(6):
        acc, weights, factors = numbers_for(most, seed)
        exact = np.einsum("kne,ke->n", weights.astype(np.int64), factors.astype(np.int64))
        want = (acc.astype(np.int64) + exact).astype(np.int32)  # sums wrap
        stepped = acc.copy()
        call(kernel, target_of(level), [acc, weights, factors])
        assert np.array_equal(acc, want), seed
        interpret(kernel, [stepped, weights.reshape(-1), factors.reshape(-1)], NONE)
        assert np.array_equal(stepped, want)


def test_a_wrong_bound_is_what_would_saturate() -> None:
    """The control of the test above: with bytes beyond the bound, AVX2's short way is wrong."""
    if "avx2" not in available():
        pytest.skip("this CPU has no AVX2")
    acc, weights, factors = numbers_for(255, 0)
    exact = np.einsum("kne,ke->n", weights.astype(np.int64), factors.astype(np.int64))
    want = (acc.astype(np.int64) + exact).astype(np.int32)
    call(dot_kernel("dot4", 15), target_of("avx2"), [acc, weights, factors])
    assert not np.array_equal(acc, want)


def chain_kernel(most: int, steps: int) -> Kernel:
    """Sum `steps` products one after another; look at the sum and change it on the way."""
    b = Builder()
    out, seen = b.param(dt.i32, 16, True), b.param(dt.i32, 32, True)
    weights, factors = b.param(dt.u8, 64, False), b.param(dt.i8, 4, False)
    total = b.reg(b.load(out, b.int(0), 16))
    weight = b.load(weights, b.int(0), 64)
    factor = b.bitcast(b.splat(b.load(b.view(factors, dt.i32), b.int(0)), 16), dt.i8)

    def add(times: int) -> None:
        for _ in range(times):
            b.set(total, b.emit("dot4", dt.i32, 16, (b.get(total), weight, factor), most))

    add(steps)
    with b.loop(b.int(0), b.int(2)) as i:
        b.store(seen, b.mul(i, b.int(16)), b.get(total))
        add(3)
        with b.when(b.alu("eq", i, b.int(1))):
            b.set(total, b.alu("add", b.get(total), b.const(1, dt.i32, 16)))
            add(1)
        add(2)
    b.store(out, b.int(0), b.get(total))
    return b.kernel()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("most", "steps"), [(15, 7), (15, 8), (15, 9), (63, 5), (64, 4), (255, 3)])
def test_chains_of_dot4_are_exact(level: str, most: int, steps: int) -> None:
    if level not in available():
        pytest.skip(f"this CPU cannot run {level} code, only {', '.join(available())}")
    for least in (-128, 127):
        weights, factors = np.full(64, most, np.uint8), np.full(4, least, np.int8)
        weights[-4:] = 1
        each = weights.reshape(16, 4).astype(np.int32) @ factors
        out, seen = np.arange(16, dtype=np.int32), np.zeros((2, 16), np.int32)
        start = out.copy()
        call(chain_kernel(most, steps), target_of(level), [out, seen, weights, factors])
        assert np.array_equal(seen, [start + steps * each, start + (steps + 5) * each])
        assert np.array_equal(out, start + (steps + 11) * each + 1)


@pytest.mark.parametrize("level", LEVELS)
def test_dotbf16_at_every_level(level: str) -> None:
    if level not in available():
        pytest.skip(f"this CPU cannot run {level} code, only {', '.join(available())}")
    rng = np.random.default_rng(3)
    acc = rng.standard_normal(16).astype(np.float32)
    weights = narrow(rng.standard_normal((STEPS, 16, 2)).astype(np.float32))
    factors = narrow(rng.standard_normal((STEPS, 2)).astype(np.float32))
    left, right = widen(weights).astype(np.float64), widen(factors).astype(np.float64)
    want = acc + np.einsum("kne,ke->n", left, right)
    stepped, kernel, target = acc.copy(), dot_kernel("dotbf16"), target_of(level)
    call(kernel, target, [acc, weights, factors])
    interpret(kernel, [stepped, weights.reshape(-1), factors.reshape(-1)], NONE)
    np.testing.assert_allclose(acc, want, rtol=0, atol=4e-6)
    np.testing.assert_allclose(stepped, want, rtol=0, atol=4e-6)
    if not target.has("avx512bf16"):
        assert np.array_equal(acc, stepped)  # the order of the sum is even, odd, even, ..


@pytest.mark.parametrize(
    ("level", "op", "most", "want", "count"),
    [
        ("avx512-vnni", "dot4", 255, r"vpdpbusd\s.*%zmm", 1),
        ("avx512-vnni", "dotbf16", None, r"vdpbf16ps\s.*%zmm", 1),
        ("avx512", "dot4", 255, r"vpmaddwd\s.*%zmm", 2),
        ("avx512", "dot4", 15, r"vpmaddubsw\s.*%zmm", 1),
        ("avx512", "dotbf16", None, r"vfmadd\w+ps\s.*%zmm", 2),
        ("avx-vnni", "dot4", 255, r"\{vex\}\s+vpdpbusd\s.*%ymm", 2),
        ("avx2", "dot4", 255, r"vpmaddwd\s.*%ymm", 4),
        ("avx2", "dot4", 15, r"vpmaddubsw\s.*%ymm", 2),
        ("avx2", "dotbf16", None, r"vfmadd\w+ps\s.*%ymm", 4),
        ("generic", "dot4", 255, r"\bpmaddwd\s.*%xmm", 8),
        ("v8", "dot4", 255, r"sm(?:ull|lal)2?\s+v\d+\.4s", 16),
        ("v8", "dot4", 15, r"smull2?\s+v\d+\.8h", 8),
        ("v8", "dotbf16", None, r"fmla\s+v\d+\.4s", 8),
        ("dotprod", "dot4", 15, r"sdot\s+v\d+\.4s", 4),
        ("dotprod", "dot4", 255, r"sdot\s+v\d+\.4s", 5),
        ("v9", "dot4", 255, r"usdot\s+v\d+\.4s", 4),
        ("v9", "dotbf16", None, r"bfdot\s+v\d+\.4s", 4),
    ],
)
def test_the_loop_has_the_right_instructions(
    level: str, op: str, most: int | None, want: str, count: int
) -> None:
    _, loop = hot_loop(dot_kernel(op, most), OTHERS[level], want)
    assert len(re.findall(want, loop)) == count, loop
    assert not CALLS & set(instructions(loop))
    assert "rsp" not in loop and "[sp" not in loop  # nothing is spilled
