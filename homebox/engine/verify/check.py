"""Whether a linear kernel is well formed.

The checks need no data: operands exist, dominate their use and agree in type; pointers and
registers are used as such; loops and conditions close; SIMT operations appear on SIMT targets only.
Invariant: a kernel that passes can only fail in the interpreter for reasons that depend on data.
"""

from collections.abc import Callable
from typing import Any

from homebox.engine.codegen.linear import FRAGMENTS, Inst, Kernel
from homebox.engine.graph.dtype import DType, bf16, boolean, f32, i8, i32, i64, u8
from homebox.engine.verify import fragments
from homebox.engine.verify.site import POINTERS, Site, format_type

_SILENT = fragments.SILENT | frozenset(
    "store scatter prefetch set if endif endloop barrier".split()
)
_ARITY = {
    **dict.fromkeys("const param var lo hi group local lane stack shared barrier".split(), 0),
    **dict.fromkeys("endloop endif first keep".split(), 0),
    **dict.fromkeys("sqrt cast bitcast splat reg get tree if view".split(), 1),
    **dict.fromkeys(
        "add sub mul idiv mod max min div lt eq and or xor shr shl set loop shuffle".split(), 2
    ),
    **dict.fromkeys("fma where dot4 dotbf16".split(), 3),
    **fragments.ARITY,
}
_ARITY_MASKED = {
    "load": (2, 3),
    "gather": (2, 3),
    "store": (3, 4),
    "scatter": (3, 4),
    "prefetch": (2,),
}
_CPU_ONLY = frozenset({"lo", "hi", "first", "keep"})
_SIMT_ONLY = FRAGMENTS | {"group", "local", "shared", "barrier"}


def check_kernel(kernel: Kernel) -> None:
    """Raise EngineError at the first instruction that is malformed."""
    _Checker(kernel).run()


class _Checker:
    """One pass over a kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel, self.body = kernel, kernel.body
        self.visible: list[bool] = []
        self.open: list[tuple[str, int]] = []  # (what opened, where) of each open bracket

    def run(self) -> None:
        for position, inst in enumerate(self.body):
            self.site = Site(self.kernel, position)
            self.operands(inst)
            self.target(inst)
            rule = _RULES.get(inst.op)
            if rule is not None:
                rule(self, inst, [self.body[source] for source in inst.args])
            self.bracket(position, inst)
        if self.open:
            Site(self.kernel, self.open[-1][1]).fail("is never closed")

    def require(self, condition: bool, message: str) -> None:
        if not condition:
            self.site.fail(message)

    def operands(self, inst: Inst) -> None:
        counts = _ARITY_MASKED.get(inst.op) or (_ARITY.get(inst.op),)
        self.require(counts != (None,), f"unknown operation {inst.op!r}")
        self.require(len(inst.args) in counts, f"has {len(inst.args)} operands, needs {counts}")
        self.require(inst.lanes >= 1, f"has {inst.lanes} lanes")
        for place, source in enumerate(inst.args):
            self.require(0 <= source < self.site.position, f"%{source} is not an earlier value")
            op = self.body[source].op
            self.require(op not in _SILENT, f"%{source} ({op}) has no value")
            self.require(
                self.visible[source], f"%{source} was computed in a scope that is closed here"
            )
            if inst.op in fragments.ARITY:
                continue
            self.require(op not in fragments.HELD, f"%{source} ({op}) is for matrix units only")
            if place == 0 and (inst.op in _ARITY_MASKED or inst.op == "view"):
                self.require(op in POINTERS, f"%{source} ({op}) is not a pointer")
            elif place == 0 and inst.op in ("get", "set"):
                self.require(op == "reg", f"%{source} ({op}) is not a register")
            else:
                self.require(op not in POINTERS, f"%{source} is a pointer, not a value")
                self.require(op != "reg", f"%{source} is a register; read it with get")

    def target(self, inst: Inst) -> None:
        if inst.op in _CPU_ONLY:
            self.require(not self.kernel.group, "exists on CPU targets only")
        if inst.op in _SIMT_ONLY:
            self.require(bool(self.kernel.group), "exists on SIMT targets only")
        if inst.op in ("group", "local"):
            axes = len(self.kernel.group)
            self.require(
                isinstance(inst.arg, int) and 0 <= inst.arg < axes, f"the kernel has {axes} axes"
            )

    def bracket(self, position: int, inst: Inst) -> None:
        if inst.op in ("endloop", "endif"):
            opener = inst.op.removeprefix("end")
            self.require(bool(self.open) and self.open[-1][0] == opener, f"closes no {opener}")
            _, start = self.open.pop()
            self.visible[start:] = [False] * (position - start)
        self.visible.append(True)
        if inst.op in ("loop", "if"):
            self.open.append((inst.op, position))

    # Rules by operation; each is called with the instruction and its operands.

    def same(self, inst: Inst, operands: list[Inst]) -> None:
        """Require every operand to have the type and lanes of the result."""
        for source, operand in zip(inst.args, operands):
            self.is_a(source, operand, inst.dtype, inst.lanes)

    def is_a(self, source: int, operand: Inst, dtype: DType, lanes: int) -> None:
        have, need = format_type(operand.dtype, operand.lanes), format_type(dtype, lanes)
        self.require(have == need, f"%{source} is {have}, must be {need}")

    def numbers(self, inst: Inst, operands: list[Inst]) -> None:
        self.require(inst.dtype.kind != "b", "is not defined for bool")
        self.same(inst, operands)

    def floats(self, inst: Inst, operands: list[Inst]) -> None:
        self.require(inst.dtype.is_float, f"is defined for floats, not {inst.dtype}")
        self.same(inst, operands)

    def integers(self, inst: Inst, operands: list[Inst]) -> None:
        self.require(inst.dtype.kind in "iu", f"is defined for integers, not {inst.dtype}")
        self.same(inst, operands)

    def bits(self, inst: Inst, operands: list[Inst]) -> None:
        self.require(not inst.dtype.is_float, f"is not defined for {inst.dtype}")
        self.same(inst, operands)

    def compare(self, inst: Inst, operands: list[Inst]) -> None:
        self.require(inst.dtype is boolean, "compares, so its type must be bool")
        for source, operand in zip(inst.args, operands):
            self.is_a(source, operand, operands[0].dtype, inst.lanes)

    def where(self, inst: Inst, operands: list[Inst]) -> None:
        lanes = 1 if operands[0].lanes == 1 else inst.lanes
        self.is_a(inst.args[0], operands[0], boolean, lanes)
        for source, operand in zip(inst.args[1:], operands[1:]):
            self.is_a(source, operand, inst.dtype, inst.lanes)

    def cast(self, inst: Inst, operands: list[Inst]) -> None:
        self.require(operands[0].lanes == inst.lanes, "changes the number of lanes")

    def bitcast(self, inst: Inst, operands: list[Inst]) -> None:
        before = operands[0].lanes * operands[0].dtype.size
        self.require(before == inst.lanes * inst.dtype.size, f"has {before} bytes to fill")
        self.require("b" not in (operands[0].dtype.kind, inst.dtype.kind), "bool has no bits")

    def splat(self, inst: Inst, operands: list[Inst]) -> None:
        self.is_a(inst.args[0], operands[0], inst.dtype, 1)

    def tree(self, inst: Inst, operands: list[Inst]) -> None:
        lanes = operands[0].lanes
        self.require(inst.arg in ("add", "max", "mul"), f"reduces by {inst.arg!r}")
        self.require(lanes & (lanes - 1) == 0, f"needs a power of two of lanes, has {lanes}")
        self.require(inst.lanes == 1, "its result is a scalar")
        self.require(inst.dtype.kind != "b", "is not defined for bool")
        self.is_a(inst.args[0], operands[0], inst.dtype, lanes)

    def index(self, inst: Inst, operands: list[Inst]) -> None:
        """Check load and store: i64 scalar index; gather and scatter: i32 or i64 lanes."""
        index, source = operands[1], inst.args[1]
        if inst.op in ("load", "store"):
            self.is_a(source, index, i64, 1)
        else:
            self.is_a(source, index, i32 if index.dtype is i32 else i64, inst.lanes)
        self.require(operands[0].dtype is inst.dtype, f"the pointer is to {operands[0].dtype}")
        rest = list(zip(inst.args[2:], operands[2:]))
        if inst.op in ("store", "scatter"):
            self.is_a(*rest.pop(0), inst.dtype, inst.lanes)
            owner = operands[0]
            while owner.op == "view":
                owner = self.body[owner.args[0]]
            if owner.op == "param":
                written = self.kernel.params[owner.arg].written
                self.require(written, f"writes p{owner.arg}, which is not marked written")
        for mask, operand in rest:
            self.is_a(mask, operand, boolean, inst.lanes)

    def param(self, inst: Inst, operands: list[Inst]) -> None:
        known = isinstance(inst.arg, int) and 0 <= inst.arg < len(self.kernel.params)
        self.require(known, f"the kernel has {len(self.kernel.params)} params")
        declared = self.kernel.params[inst.arg].dtype
        self.require(declared is inst.dtype, f"p{inst.arg} is declared {declared}")

    def const(self, inst: Inst, operands: list[Inst]) -> None:
        kinds: tuple[type, ...] = (int, float) if inst.dtype.is_float else (int,)
        self.require(isinstance(inst.arg, kinds), f"{inst.arg!r} is no constant of {inst.dtype}")
        if inst.dtype.kind in "iu":
            bits = 8 * inst.dtype.size
            low = -(1 << (bits - 1)) if inst.dtype.kind == "i" else 0
            self.require(low <= inst.arg < low + (1 << bits), f"does not fit {inst.dtype}")

    def scalar(self, inst: Inst, operands: list[Inst]) -> None:
        """Check counters and ids, and that a loop's bounds are such and its step advances."""
        self.require(inst.dtype is i64 and inst.lanes == 1, "must be i64")
        self.same(inst, operands)
        if inst.op == "loop":
            self.require(isinstance(inst.arg, int) and inst.arg > 0, "must step forward")

    def condition(self, inst: Inst, operands: list[Inst]) -> None:
        self.is_a(inst.args[0], operands[0], boolean, 1)

    def lane(self, inst: Inst, operands: list[Inst]) -> None:
        self.require(inst.dtype is i32, "must be i32")

    def memory(self, inst: Inst, operands: list[Inst]) -> None:
        known = isinstance(inst.arg, int) and inst.arg > 0
        self.require(known, f"needs a positive count, has {inst.arg!r}")

    def view(self, inst: Inst, operands: list[Inst]) -> None:
        self.require(inst.lanes == 1, "is a pointer, so it has one lane")
        self.require("b" not in (operands[0].dtype.kind, inst.dtype.kind), "bool has no bits")

    def fragment(self, inst: Inst, operands: list[Inst]) -> None:
        guarded = any(opener == "if" for opener, _ in self.open)
        fragments.check_fragment(self.kernel, self.site, inst, guarded)

    def first(self, inst: Inst, operands: list[Inst]) -> None:
        self.require(inst.dtype is boolean and inst.lanes == 1, "must be a bool")

    def shuffle(self, inst: Inst, operands: list[Inst]) -> None:
        lanes = operands[0].lanes
        for source, operand in zip(inst.args, operands):
            self.is_a(source, operand, inst.dtype, lanes)
        self.require(len(inst.arg) == inst.lanes and lanes > 1, "needs a vector's lanes")
        self.require(all(0 <= k < 2 * lanes for k in inst.arg), f"picks from {2 * lanes} lanes")

    def dot(self, inst: Inst, operands: list[Inst]) -> None:
        """Check that each lane gets 4 bytes of each factor; a CPU's vectors have 16 lanes."""
        acc, *kinds = (i32, u8, i8) if inst.op == "dot4" else (f32, bf16, bf16)
        lanes = inst.lanes if self.kernel.group else 16
        self.require(inst.dtype is acc and inst.lanes == lanes, f"must be {acc}x16")
        self.is_a(inst.args[0], operands[0], acc, lanes)
        for source, operand, kind in zip(inst.args[1:], operands[1:], kinds, strict=True):
            self.is_a(source, operand, kind, 4 * lanes // kind.size)
        if inst.op == "dot4":
            known = isinstance(inst.arg, int) and 0 < inst.arg < 256
            self.require(known, f"needs the largest u8 that occurs, has {inst.arg!r}")


_Rule = Callable[[_Checker, Inst, list[Inst]], Any]
_RULES: dict[str, _Rule] = {
    **dict.fromkeys("add sub mul max min".split(), _Checker.numbers),
    **dict.fromkeys("div fma sqrt".split(), _Checker.floats),
    **dict.fromkeys("idiv mod shr shl".split(), _Checker.integers),
    **dict.fromkeys("and or xor".split(), _Checker.bits),
    **dict.fromkeys("lt eq".split(), _Checker.compare),
    **dict.fromkeys("reg get set".split(), _Checker.same),
    **dict.fromkeys("load gather store scatter".split(), _Checker.index),
    **dict.fromkeys("var lo hi group local loop".split(), _Checker.scalar),
    **dict.fromkeys("stack shared keep".split(), _Checker.memory),
    **dict.fromkeys("dot4 dotbf16".split(), _Checker.dot),
    **dict.fromkeys(fragments.ARITY, _Checker.fragment),
    "view": _Checker.view,
    "first": _Checker.first,
    "shuffle": _Checker.shuffle,
    "where": _Checker.where,
    "cast": _Checker.cast,
    "bitcast": _Checker.bitcast,
    "splat": _Checker.splat,
    "tree": _Checker.tree,
    "param": _Checker.param,
    "const": _Checker.const,
    "if": _Checker.condition,
    "lane": _Checker.lane,
}
