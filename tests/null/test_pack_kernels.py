"""The kernels that pack weights, interpreted: numpy's bytes, and no access outside of memory."""

from dataclasses import replace

import numpy as np
import pytest

from homebox.engine.codegen.linear import Kernel
from homebox.engine.graph import dtype as dt
from homebox.engine.graph import formats
from homebox.engine.graph.dtype import DType
from homebox.engine.graph.formats import BF16, F32, PANEL, Q4, Q8, Format
from homebox.engine.runtime.pack_weights import pack_kernel
from homebox.engine.verify.interpret import run

SHAPES = [(16, 64), (33, 40), (3, 100), (1, 1)]


def sized(kernel: Kernel, *counts: int) -> Kernel:
    """Return a kernel whose parameters have exactly so many elements."""
    params = tuple(replace(p, count=n) for p, n in zip(kernel.params, counts, strict=True))
    return replace(kernel, params=params)


@pytest.mark.parametrize("form", [F32, BF16, Q8, Q4], ids=repr)
@pytest.mark.parametrize("kind", [dt.f32, dt.f16, dt.bf16], ids=repr)
def test_every_byte_is_written_and_nothing_else_is_touched(form: Format, kind: DType) -> None:
    for n, k in SHAPES:
        values = np.random.default_rng(n * k).standard_normal((n, k)).astype(np.float32)
        if kind is dt.bf16:
            source = (values.view(np.uint32) >> 16).astype(np.uint16)
            values = (source.astype(np.uint32) << 16).view(np.float32)
        else:
            source = values.astype(kind.to_numpy())
            values = source.astype(np.float32)
        panels = -(-n // PANEL)
        out = np.full(form.nbytes(n, k), 0xAA, np.uint8)
        peaks = np.full(panels * PANEL, -1, np.int32)
        kernel = sized(pack_kernel(form, kind, k), source.size, out.size, peaks.size)
        run(kernel, [source.reshape(-1), out, peaks], np.array([n], np.int32), (0, panels))
        assert np.array_equal(out, formats.pack(form, values)), (n, k)
        wanted = np.zeros(panels * PANEL, np.float32)
        wanted[:n] = np.abs(values).max(1)
        assert np.array_equal(peaks.view(np.float32), wanted)
