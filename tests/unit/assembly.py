"""Machine code for processors that this machine may not be: targets, and a kernel's hot loop."""

import re
from functools import cache

from homebox.engine.codegen.cpu import CpuTarget, make_target
from homebox.engine.codegen.jit import Jit
from homebox.engine.codegen.linear import Kernel
from homebox.engine.codegen.llvm import render

CALLS = {"call", "callq", "bl", "blr"}
_X86 = "avx2 fma f16c avxvnni avx512f avx512bw avx512dq avx512vl avx512vnni avx512bf16"


def _x86(level: str) -> CpuTarget:
    features = dict.fromkeys(_X86.split(), True)
    return make_target("x86_64-unknown-linux-gnu", "x86-64-v3", features, level)


def _arm(features: str) -> CpuTarget:
    wanted = dict.fromkeys(features.split(), True)
    return make_target("aarch64-unknown-linux-gnu", "generic", wanted, "generic")


OTHERS = {
    **{name: _x86(name) for name in ("avx512-vnni", "avx512", "avx-vnni", "avx2", "generic")},
    "v8": _arm("neon"),
    "dotprod": _arm("neon fullfp16 dotprod"),
    "v9": _arm("neon fullfp16 dotprod i8mm bf16"),
}


@cache
def compiler(target: CpuTarget) -> Jit:
    return Jit(target)


def hot_loop(kernel: Kernel, target: CpuTarget, pattern: str) -> tuple[str, str]:
    """Return a kernel's assembly, and of its innermost loops the one with most of a pattern."""
    text = compiler(target).assembly(render(kernel, "kernel", target))
    return text, max(innermost(text), key=lambda loop: len(re.findall(pattern, loop)))


def innermost(text: str) -> list[str]:
    """Return the loops without loops in them: from a label to the last jump back to it."""
    lines = text.splitlines()
    labels = {m[1]: i for i, line in enumerate(lines) if (m := re.match(r"(\.LBB\w+):", line))}
    ends: dict[int, int] = {}
    for i, line in enumerate(lines):
        jump = re.match(r"\s+(?:j\w+|b|b\.\w+|cbn?z|tbn?z)\s.*?(\.LBB\w+)$", line)
        if jump and labels.get(jump[1], i) < i:
            ends[labels[jump[1]]] = i
    return [
        "\n".join(lines[start : end + 1])
        for start, end in ends.items()
        if not any(start < other <= end for other in ends)
    ]


def instructions(text: str) -> list[str]:
    """Return the names of the instructions, in order."""
    return re.findall(r"^\t(?:\{\w+\}\s+)?([a-z]\w+)", text, re.MULTILINE)
