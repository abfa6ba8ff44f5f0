"""Kernels for AArch64, executed by an emulator where one is installed (qemu-user, binutils)."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from homebox.engine.codegen.cpu import CpuTarget
from homebox.engine.codegen.linear import KEPT_BYTES, Kernel
from homebox.engine.codegen.llvm import render
from homebox.engine.graph.formats import WEIGHTS
from tests.unit.assembly import OTHERS, compiler
from tests.unit.engine_checks import Array, interpreted, same_bits
from tests.unit.test_dot_ops import dot_kernel, numbers_for
from tests.unit.test_packed_products import KINDS, product, run_kernels

TOOLS = ("qemu-aarch64", "aarch64-linux-gnu-as", "aarch64-linux-gnu-ld")
ARMS = ("v8", "dotprod", "v9")
Call = Callable[[Kernel, CpuTarget, list[Array], int], None]


def system_call(number: int, descriptor: int, memory: str, count: int) -> str:
    return f"""
        mov x8, #{number}
        mov x0, #{descriptor}
        adrp x1, {memory}
        add x1, x1, :lo12:{memory}
        ldr x2, ={count}
        svc #0"""


def program(sizes: list[int], units: int) -> str:
    """Return a program that reads buffers, runs a kernel over all units and writes the buffers."""
    names = [f"b{i}" for i in range(len(sizes))]
    pairs = list(zip(names, sizes, strict=True))
    lines = [".globl _start", "_start:"]
    lines += [system_call(63, 0, name, size) for name, size in pairs]
    lines += ["adrp x0, args", "add x0, x0, :lo12:args", "mov x1, #0", f"ldr x2, ={units}"]
    lines += ["adrp x3, kept", "add x3, x3, :lo12:kept", "mov x4, #1", "bl kernel"]
    lines += [system_call(64, 1, name, size) for name, size in pairs]
    lines += [system_call(93, 0, "args", 0), ".ltorg", ".data", ".balign 64", "args:"]
    lines += [f".quad {name}" for name in [*names, "vars"]]
    lines += [".bss"]
    for name, size in [*pairs, ("vars", 64), ("kept", KEPT_BYTES)]:
        lines += [".balign 64", f"{name}: .skip {size}"]
    return "\n".join(lines) + "\n"


@pytest.fixture
def emulated(tmp_path: Path) -> Call:
    """A function that runs a kernel for an AArch64 processor; buffers are written in place."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (packages qemu-user, binutils-aarch64-linux-gnu)")

    def call(kernel: Kernel, target: CpuTarget, buffers: list[Array], units: int = 1) -> None:
        jit = compiler(target)
        module = jit._optimised("kernel", render(kernel, "kernel", target))
        (tmp_path / "kernel.o").write_bytes(jit._machine.emit_object(module))
        (tmp_path / "main.s").write_text(program([b.nbytes for b in buffers], units))
        for command in (
            ["aarch64-linux-gnu-as", "-o", "main.o", "main.s"],
            ["aarch64-linux-gnu-ld", "-o", "main", "main.o", "kernel.o"],
        ):
            subprocess.run(command, cwd=tmp_path, check=True)
        (tmp_path / "input").write_bytes(b"".join(b.tobytes() for b in buffers))
        with (tmp_path / "input").open("rb") as given:
            command = ["qemu-aarch64", "-cpu", "max", str(tmp_path / "main")]
            out = subprocess.run(command, stdin=given, capture_output=True, check=True).stdout
        for buffer in buffers:
            if buffer.flags.writeable:
                buffer.reshape(-1)[:] = np.frombuffer(out[: buffer.nbytes], buffer.dtype)
            out = out[buffer.nbytes :]

    return call


@pytest.mark.parametrize("name", ARMS)
@pytest.mark.parametrize("most", [15, 127, 255])
def test_dot4_is_exact(emulated: Call, name: str, most: int) -> None:
    for seed in range(4):
        acc, weights, factors = numbers_for(most, seed)
        exact = np.einsum("kne,ke->n", weights.astype(np.int64), factors.astype(np.int64))
        want = (acc.astype(np.int64) + exact).astype(np.int32)
        emulated(dot_kernel("dot4", most), OTHERS[name], [acc, weights, factors], 1)
        assert np.array_equal(acc, want)


@pytest.mark.parametrize("name", ARMS)
@pytest.mark.parametrize("form", WEIGHTS)
@pytest.mark.parametrize("kind", KINDS)
def test_products_have_the_bits_of_the_interpreter(
    emulated: Call, name: str, form: str, kind: str
) -> None:
    for m, n, k in ((1, 33, 66), (9, 64, 34)):
        made = product(WEIGHTS[form], m, n, k, kind)
        want = interpreted([made], {}, level="generic")
        assert want is not None
        found = run_kernels(made, OTHERS[name], emulated)
        if kind == "bf16":  # bfdot rounds in its own way
            np.testing.assert_allclose(found, want[0], rtol=1e-3, atol=1e-3)
        else:
            assert same_bits(found, want[0])
