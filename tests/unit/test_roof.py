"""The kernels that probe the machine do the work that they are timed for."""

import numpy as np
import pytest

from homebox.engine.codegen.cpu import available, target_of
from homebox.engine.codegen.jit import Jit
from homebox.engine.codegen.linear import Kernel
from homebox.engine.codegen.llvm import render
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.device import Buffer
from homebox.engine.inspection import roof
from homebox.engine.runtime.runtime_cpu import pool

LEVELS = available()


def launched(level: str, kernel: Kernel, source: Buffer, out: Buffer, units: int) -> None:
    jit = Jit(target_of(level))
    address = jit.load({"probe": render(kernel, "probe", jit.target)})["probe"]
    variables = Buffer(1, dt.i32)
    pointers = np.array([source.address, out.address, variables.address], np.int64)
    pool().run(np.array([[address, pointers.ctypes.data, units, 1]], np.int64))


@pytest.mark.parametrize("level", LEVELS)
def test_everything_is_read(level: str) -> None:
    units = 2
    words = np.random.default_rng(0).integers(-(2**31), 2**31, units * (1 << 16)).astype(np.int32)
    source, out = Buffer(words.size, dt.i32), Buffer(16 * units, dt.i32)
    source.array[:] = words
    launched(level, roof.reading_kernel(target_of(level)), source, out, units)
    wanted = np.bitwise_xor.reduce(words.reshape(units, -1, 16), axis=1)
    np.testing.assert_array_equal(out.array.reshape(units, 16), wanted)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", ["f32", "bf16"])
def test_every_operation_is_done(level: str, kind: str) -> None:
    """Each turn adds x * x, or both products of a pair, to every accumulator."""
    source, out = Buffer(32, dt.f32), Buffer(16, dt.f32)
    if kind == "f32":
        source.array[:] = 2.0
    else:
        source.array.view(np.uint16)[:] = 0x4000  # 2.0 in bf16
    target = target_of(level)
    launched(level, roof.computing_kernel(target, kind), source, out, 1)
    each = 4.0 if kind == "f32" else 8.0
    assert set(out.array) == {each * roof.TURNS * roof.accumulators(target)}


def test_rates_are_known_and_kept() -> None:
    found = roof.roof(1)
    assert roof.roof(1) is found
    for rate in (found.read_gbs, found.f32_gflops, found.bf16_gflops, found.int8_gops):
        assert 0 < rate < float("inf")
    assert found.compute("int8") == found.int8_gops


def test_the_higher_rates_of_two_probes_count() -> None:
    one, two = roof.Roof(2, 1.0, 5.0, 3.0, 9.0), roof.Roof(2, 2.0, 4.0, 6.0, 8.0)
    assert one.best(two) == roof.Roof(2, 2.0, 5.0, 6.0, 9.0) == two.best(one)
