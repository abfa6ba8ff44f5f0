"""What is wrong with a linear kernel is said before it runs: one broken kernel for each rule."""

import pytest

from homebox.engine.codegen.linear import Inst, Kernel, Param
from homebox.engine.graph.dtype import bf16, boolean, f32, f64, i8, i32, i64, u8
from homebox.engine.verify.check import check_kernel
from homebox.errors import EngineError


def malformed() -> dict[str, tuple[Kernel, str]]:
    """One broken kernel for each static rule, and what is said of it."""
    one, two = Inst("const", f32, 1, (), 1.0), Inst("const", f64, 1, (), 2.0)
    zero = Inst("const", i64, 1, (), 0)
    true = Inst("const", boolean, 1, (), True)
    wide = Inst("const", f32, 4, (), 1.0)
    read, write = Param(f32, 4, False), Param(f32, 4, True)
    pointer = Inst("param", f32, 1, (), 0)
    sums, halves = Inst("const", i32, 16, (), 0), Inst("const", bf16, 32, (), 0.0)
    u8s, i8s = Inst("const", u8, 64, (), 1), Inst("const", i8, 64, (), 1)

    def simple(*body: Inst, params: tuple[Param, ...] = ()) -> Kernel:
        return Kernel(params, body)

    loop, end = Inst("loop", i64, 1, (0, 0), 1), Inst("endloop", i64, 1)
    return {
        "types": (simple(one, two, Inst("add", f32, 1, (0, 1))), "%1 is f64, must be f32"),
        "lanes": (simple(one, wide, Inst("add", f32, 4, (0, 1))), "%0 is f32, must be f32x4"),
        "future": (simple(Inst("sqrt", f32, 1, (1,)), one), "%1 is not an earlier value"),
        "itself": (simple(Inst("sqrt", f32, 1, (0,))), "%0 is not an earlier value"),
        "unknown": (simple(Inst("dance", f32, 1)), "unknown operation 'dance'"),
        "arity": (simple(one, Inst("fma", f32, 1, (0, 0))), "has 2 operands"),
        "scope": (
            simple(zero, loop, one, end, Inst("sqrt", f32, 1, (2,))),
            "%2 was computed in a scope that is closed",
        ),
        "counter": (simple(zero, loop, end, Inst("add", i64, 1, (0, 1))), "a scope that is closed"),
        "open": (simple(zero, loop), "`loop %1 .*is never closed"),
        "close": (simple(end), "closes no loop"),
        "cross": (simple(zero, loop, Inst("endif", boolean, 1)), "closes no if"),
        "step": (simple(zero, Inst("loop", i64, 1, (0, 0), 0), end), "must step forward"),
        "condition": (simple(zero, Inst("if", boolean, 1, (0,))), "%0 is i64, must be bool"),
        "read-only": (
            simple(pointer, zero, one, Inst("store", f32, 1, (0, 1, 2)), params=(read,)),
            "writes p0, which is not marked written",
        ),
        "pointee": (
            simple(pointer, zero, two, Inst("store", f64, 1, (0, 1, 2)), params=(write,)),
            "the pointer is to f32",
        ),
        "index": (
            simple(pointer, one, Inst("load", f32, 1, (0, 1)), params=(read,)),
            "%1 is f32, must be i64",
        ),
        "mask": (
            simple(pointer, zero, true, Inst("load", f32, 4, (0, 1, 2)), params=(read,)),
            "%2 is bool, must be boolx4",
        ),
        "no pointer": (simple(zero, Inst("load", f32, 1, (0, 0))), "is not a pointer"),
        "a pointer": (
            simple(pointer, Inst("sqrt", f32, 1, (0,)), params=(read,)),
            "is a pointer, not a value",
        ),
        "no register": (simple(one, Inst("get", f32, 1, (0,))), "is not a register"),
        "a register": (
            simple(one, Inst("reg", f32, 1, (0,)), Inst("sqrt", f32, 1, (1,))),
            "read it with get",
        ),
        "no value": (
            simple(
                one,
                Inst("reg", f32, 1, (0,)),
                Inst("set", f32, 1, (1, 0)),
                Inst("sqrt", f32, 1, (2,)),
            ),
            "has no value",
        ),
        "param": (simple(pointer), "has 0 params"),
        "param type": (simple(Inst("param", i8, 1, (), 0), params=(read,)), "is declared f32"),
        "constant": (simple(Inst("const", i8, 1, (), 128)), "does not fit i8"),
        "fraction": (simple(Inst("const", i8, 1, (), 1.5)), "no constant of i8"),
        "integer": (simple(one, Inst("mod", f32, 1, (0, 0))), "defined for integers"),
        "float": (simple(zero, Inst("div", i64, 1, (0, 0))), "defined for floats"),
        "bitcast": (simple(one, Inst("bitcast", f64, 1, (0,))), "has 4 bytes to fill"),
        "tree": (
            simple(Inst("const", f32, 3, (), 1.0), Inst("tree", f32, 1, (0,), "add")),
            "power of two",
        ),
        "cpu": (Kernel((), (Inst("lo", i64, 1),), (4,)), "exists on CPU targets only"),
        "simt": (simple(Inst("barrier", i64, 1)), "exists on SIMT targets only"),
        "axis": (Kernel((), (Inst("local", i64, 1, (), 1),), (4,)), "the kernel has 1 axes"),
        "view": (simple(one, Inst("view", i8, 1, (0,))), "%0 .const. is not a pointer"),
        "view of read-only": (
            simple(
                pointer,
                Inst("view", i8, 1, (0,)),
                zero,
                Inst("const", i8, 1, (), 1),
                Inst("store", i8, 1, (1, 2, 3)),
                params=(read,),
            ),
            "writes p0, which is not marked written",
        ),
        "view as value": (
            simple(pointer, Inst("view", i8, 1, (0,)), Inst("add", i8, 1, (1, 1)), params=(read,)),
            "is a pointer, not a value",
        ),
        "dot4": (simple(sums, u8s, u8s, Inst("dot4", i32, 16, (0, 1, 2), 15)), "must be i8x64"),
        "dot4's bound": (
            simple(sums, u8s, i8s, Inst("dot4", i32, 16, (0, 1, 2), 256)),
            "needs the largest u8",
        ),
        "dotbf16": (
            simple(halves, halves, Inst("dotbf16", bf16, 32, (0, 0, 1))),
            "must be f32x16",
        ),
        "shuffle": (simple(wide, Inst("shuffle", f32, 2, (0, 0), (0, 8))), "picks from 8 lanes"),
        "shuffled lanes": (
            simple(wide, Inst("shuffle", f32, 2, (0, 0), (0, 1, 2))),
            "needs a vector's lanes",
        ),
        "first": (Kernel((), (Inst("first", boolean, 1),), (4,)), "exists on CPU targets only"),
        "keep": (simple(Inst("keep", f32, 1, (), 0)), "positive count"),
        "stack": (simple(Inst("stack", f32, 1, (), 0)), "positive count"),
    }


@pytest.mark.parametrize("rule", malformed())
def test_malformed_kernels_are_refused(rule: str) -> None:
    kernel, reason = malformed()[rule]
    with pytest.raises(EngineError, match=reason):
        check_kernel(kernel)
