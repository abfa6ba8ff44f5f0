"""Products with packed weights: right, inside their memory, with equal bits at every CPU level."""

import re
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from homebox.engine.codegen.cpu import VECTORS, CpuTarget, available, target_of
from homebox.engine.codegen.linear import Kernel
from homebox.engine.fusion.fuse import partition
from homebox.engine.graph import dtype as dt
from homebox.engine.graph import formats
from homebox.engine.graph.formats import A8, WEIGHTS, Format
from homebox.engine.graph.ops import Node, Op, memory_of, numel_max
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.capture import evaluate
from tests.unit.assembly import CALLS, OTHERS, hot_loop, instructions
from tests.unit.engine_checks import (
    Array,
    check,
    interpreted,
    lowered_of,
    random,
    same_bits,
    shown,
    syms_of,
    tensor,
)
from tests.unit.test_dot_ops import call

SHAPES = [(1, 1), (5, 3), (17, 65), (64, 34)]  # (n, k) of the weight
KINDS = ("f32", "bf16", "int8", "turned")


@cache
def packed(form: Format, n: int, k: int) -> Tensor:
    return Tensor.packed(form, n, k, Tensor.from_numpy(formats.pack(form, random(n, k, seed=n))))


def product(form: Format, m: int, n: int, k: int, kind: str) -> Tensor:
    """Return a product of m rows with an (n, k) weight in one kind of arithmetic."""
    weight = packed(form, n, k)
    if kind == "turned":
        return tensor(random(m, n, seed=5)) @ weight
    x = tensor(random(m, k, seed=4))
    if kind == "bf16":
        x = x.cast(dt.bf16).cast(dt.f32)
    return (x.quantised() if kind == "int8" else x).linear(weight)


@pytest.mark.parametrize(("m", "k"), [(1, 32), (3, 64), (5, 33), (2, 7), (1, 96), (4, 1)])
def test_activations_are_packed_as_numpy_does_it(m: int, k: int) -> None:
    rows = random(m, k, seed=k)
    rows[m // 2] = 0  # a row without a scale
    x = tensor(rows).quantised()
    (stored,) = check(Tensor(x.node.src[0]), interpret_too=True)
    assert np.array_equal(stored.reshape(-1), formats.pack(A8, rows))
    check(x, interpret_too=True)


@pytest.mark.parametrize("form", WEIGHTS.values(), ids=repr)
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_weights_are_unpacked_exactly(form: Format, n: int, k: int) -> None:
    (values,) = check(packed(form, n, k) + 0.0, interpret_too=n * k < 2000)
    assert np.array_equal(
        values, formats.unpack(form, formats.pack(form, random(n, k, seed=n)), n, k)
    )


@pytest.mark.parametrize("form", WEIGHTS.values(), ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_products(form: Format, kind: str) -> None:
    for m, (n, k) in zip((10, 1, 3, 10), SHAPES, strict=True):
        # bf16 arithmetic rounds quantised weights to bf16 as well, which the oracle does not.
        loose = kind == "bf16" and form.name != "bf16"
        check(
            product(form, m, n, k, kind),
            rtol=1e-4,
            atol=0.3 if loose else 1e-4,
            interpret_too=kind != "bf16" and n * k < 2000,
        )


@pytest.mark.parametrize("kind", KINDS)
def test_products_in_segments(kind: str) -> None:
    """More than 1024 along k, with a rest; many rows are summed in memory, few in registers."""
    n, k = (1090, 20) if kind == "turned" else (20, 1090)
    for name, m in (("f32", 9), ("bf16", 1)):
        form = WEIGHTS[name]
        atol = 1.0 if kind == "bf16" else 2e-4
        check(product(form, m, n, k, kind), rtol=1e-4, atol=atol, interpret_too=kind != "bf16")


def run_kernels(
    made: Tensor, target: CpuTarget, run: Callable[[Kernel, CpuTarget, list[Array], int], None]
) -> Array:
    """Compile a graph's kernels for a target and run them, one after another."""
    roots = [made.contiguous().node]
    cut = partition(roots)
    memory: dict[Node, Array] = {}

    def place(n: Node) -> Array:
        if n.op is Op.BUFFER:
            array: Array = n.arg.array
            return array
        if n not in memory:
            raw = np.zeros(numel_max(n.shape) * n.dtype.size + 64, np.uint8)
            start = -raw.ctypes.data % 64
            memory[n] = raw[start : len(raw) - 64 + start].view(n.dtype.to_numpy())
        return memory[n]

    for low in lowered_of(cut, syms_of(roots), target.vector):
        run(low.kernel, target, [place(n) for n in low.memory], low.units.count({}))
    return shown(cut.roots[0], place(memory_of(cut.roots[0])), {})


@pytest.mark.parametrize("form", WEIGHTS.values(), ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_every_level_has_the_same_bits(form: Format, kind: str) -> None:
    for m, n, k in ((1, 33, 66), (9, 64, 34)):
        made = product(form, m, n, k, kind)
        found = {level: run_kernels(made, target_of(level), call) for level in available()}
        want = interpreted([made], {}, level=VECTORS[0])
        assert want is not None
        for level, values in found.items():
            if kind == "bf16":  # each instruction rounds in its own way
                np.testing.assert_allclose(values, want[0], rtol=1e-4, atol=1e-3)
            else:
                assert same_bits(values, want[0]), level


FMLA, YMM = r"\bfmla\s+v\d+\.4s", r"\bvfmadd\w+ps\s.*%ymm"
WIDE = r"\bsm(?:ull|lal)2?\s+v\d+\.4s"


@pytest.mark.parametrize("m", [1, 12])
@pytest.mark.parametrize(
    ("level", "kind", "form", "want"),
    [
        ("v8", "f32", "f32", FMLA),
        ("v8", "f32", "q8", FMLA),
        ("v8", "bf16", "bf16", FMLA),
        ("v8", "int8", "q8", WIDE),
        ("v8", "int8", "q4", r"\bsm(?:ull|lal)2?\s+v\d+\.8h"),
        ("dotprod", "int8", "q8", r"\bsdot\s+v\d+\.4s"),
        ("dotprod", "int8", "q4", r"\bsdot\s+v\d+\.4s"),
        ("v9", "f32", "f32", FMLA),
        ("v9", "bf16", "bf16", r"\bbfdot\s+v\d+\.4s"),
        ("v9", "bf16", "q4", r"\bbfdot\s+v\d+\.4s"),
        ("v9", "int8", "q8", r"\busdot\s+v\d+\.4s"),
        ("v9", "int8", "q4", r"\busdot\s+v\d+\.4s"),
        ("avx2", "f32", "f32", YMM),
        ("avx2", "f32", "q4", YMM),
        ("avx2", "bf16", "bf16", YMM),
        ("avx2", "int8", "q8", r"\bvpmaddwd\s.*%ymm"),
        ("avx2", "int8", "q4", r"\bvpmaddubsw\s.*%ymm"),
        ("avx-vnni", "int8", "q8", r"\{vex\}\s+vpdpbusd\s.*%ymm"),
        ("avx-vnni", "int8", "q4", r"\{vex\}\s+vpdpbusd\s.*%ymm"),
        ("avx512", "int8", "q8", r"\bvpmaddwd\s.*%zmm"),
        ("avx512-vnni", "int8", "q8", r"\bvpdpbusd\s.*%zmm"),
        ("avx512-vnni", "bf16", "bf16", r"\bvdpbf16ps\s.*%zmm"),
    ],
)
def test_hot_loops_use_the_best_instructions(
    level: str, kind: str, form: str, want: str, m: int
) -> None:
    target = OTHERS[level]
    made = product(WEIGHTS[form], m, 64, 128, kind)
    lows = lowered_of(partition([made.contiguous().node]), [], target.vector)
    text, loop = hot_loop(lows[-1].kernel, target, want)
    names = instructions(loop)
    # What else is there loads and unpacks; calculations of single numbers would be many more.
    assert len(re.findall(want, loop)) * 10 > len(names), loop
    assert not CALLS & set(instructions(text))


def test_activations_behind_padding_are_copied_first() -> None:
    rows = tensor(random(20, 128)).pad(0, 0, 4).slice(0, 12, 12)
    for form in WEIGHTS.values():
        check(rows.linear(packed(form, 192, 128)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", [WEIGHTS["q8"], WEIGHTS["q4"]], ids=repr)
@pytest.mark.parametrize("m", [1, 4, 50])
def test_int8_products_are_nearly_exact(form: Format, m: int) -> None:
    """Within a millionth of the largest: of the float64 product of what both sides stand for."""
    n, k = 64, 1088
    x = random(m, k, seed=4)
    (found,) = check(tensor(x).quantised().linear(packed(form, n, k)), rtol=1e-4, atol=1e-3)
    weight = formats.unpack(form, formats.pack(form, random(n, k, seed=n)), n, k)
    rows = formats.unpack(A8, formats.pack(A8, x), m, k)
    wanted = rows.astype(np.float64) @ weight.astype(np.float64).T
    assert np.abs(found - wanted).max() <= 1e-6 * np.abs(wanted).max()


def test_a_product_without_a_fast_kernel_is_right_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An odd number of bf16 cannot be read in pairs."""
    with caplog.at_level("INFO", "homebox.engine.kernels.lower"):
        check(product(WEIGHTS["bf16"], 3, 16, 33, "bf16"), rtol=1e-4, atol=1e-4)
    assert "no fast kernel fits" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO", "homebox.engine.kernels.lower"):
        check(product(WEIGHTS["bf16"], 3, 16, 34, "bf16"), atol=1e-4, interpret_too=False)
    assert caplog.text == ""


@pytest.mark.parametrize("kind", ["f32", "int8"])
def test_what_is_turned_round_has_its_own_order(kind: str) -> None:
    """Square results, so that shapes alone do not tell rows from columns."""
    form, m = WEIGHTS["q8"], 32
    first, second = (product(form, m, m, k, kind) for k in (64, 96))
    a, b = evaluate([first, second])
    turned = evaluate([tensor(a.T.copy()).quantised().linear(packed(form, 16, m))])[0]
    cases = [
        (first.transpose() * second, a.T * b),
        (first * second.transpose(), a * b.T),
        ((first * 2.0).transpose() * second, 2 * a.T * b),
        ((first.transpose() * 2.0) * (second.transpose() * 2.0), 4 * a.T * b.T),
        (first.transpose().quantised().linear(packed(form, 16, m)), turned),
    ]
    for made, want in cases:
        assert same_bits(evaluate([made])[0], want)
