"""Prints linear IR as LLVM IR text, one function per kernel.

Its signature is `void name(ptr args, i64 lo, i64 hi, ptr kept, i64 first)`. `args` points to the
buffer pointers in the order of the kernel's parameters, then the pointer of the int32 vars buffer.
Floats: no fast-math, no contraction; every fused multiply-add is explicit. Mutable registers are
allocas, which SROA turns into SSA values.
"""

import struct
from typing import Any

from homebox.engine.codegen import dots
from homebox.engine.codegen.cpu import CpuTarget
from homebox.engine.codegen.linear import KEPT_BYTES, Inst, Kernel
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.dtype import DType
from homebox.errors import EngineError

I16 = DType("i16", 2, "i", "int16", "i16", "short")  # bits on their way to bf16
FLOAT_OPS = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
INT_OPS = {"add": "add", "sub": "sub", "mul": "mul", "idiv": "sdiv", "mod": "srem"}
UNSIGNED_OPS = {"idiv": "udiv", "mod": "urem"}
BIT_OPS = {"and": "and", "or": "or", "xor": "xor", "shr": "lshr", "shl": "shl"}


def render(kernel: Kernel, name: str, target: CpuTarget) -> str:
    """Return the LLVM IR of a kernel as a function of that name.

    Only the dot operations depend on the target; other kernels have one text for all.
    """
    return _Writer(kernel, name, target).text()


def literal(value: Any, dtype: DType) -> str:
    """Return a constant in LLVM's notation (floats as the hexadecimal bits of a double)."""
    if dtype is dt.boolean:
        return "true" if value else "false"
    if dtype is dt.bf16:
        return str(struct.unpack("<I", struct.pack("<f", value))[0] >> 16)  # it is one already
    if dtype.is_float:
        rounded = struct.unpack("<f", struct.pack("<f", value))[0] if dtype is dt.f32 else value
        return f"0x{struct.unpack('<Q', struct.pack('<d', rounded))[0]:016X}"
    return str(int(value))


def in_memory(dtype: DType) -> DType:
    """Return the type as which elements are read and written: 16-bit floats move as integers."""
    return I16 if dtype is dt.f16 else dtype


def suffix(dtype: DType, lanes: int) -> str:
    """Return how an intrinsic's name spells a type."""
    element = {"half": "f16", "float": "f32", "double": "f64"}.get(dtype.llvm, dtype.llvm)
    return element if lanes == 1 else f"v{lanes}{element}"


class _Writer:
    """State of printing one kernel: SSA names by position, text lines, open brackets."""

    def __init__(self, kernel: Kernel, name: str, target: CpuTarget) -> None:
        self.kernel, self.name, self.target = kernel, name, target
        self.names: list[str] = []
        self.lines: list[str] = []
        self.allocas: list[str] = []
        self.declared: set[str] = set()
        self.open: list[int] = []  # where the open brackets begin
        self.label = "entry"
        self.temps = 0
        self.chained = dots.chained(kernel, target)
        self.pending: dict[int, tuple[int, list[list[str]]]] = {}  # by register: bound, 16-bit sums
        self.kept = 0  # bytes of the thread's own memory in use

    # -- small helpers --------------------------------------------------------------------------

    def type(self, dtype: DType, lanes: int) -> str:
        return dtype.llvm if lanes == 1 else f"<{lanes} x {dtype.llvm}>"

    def of(self, inst: Inst) -> str:
        return self.type(inst.dtype, inst.lanes)

    def arg(self, inst: Inst, i: int) -> tuple[Inst, str]:
        place = inst.args[i]
        return self.kernel.body[place], self.names[place]

    def line(self, text: str) -> None:
        self.lines.append(f"  {text}")

    def temp(self, text: str) -> str:
        self.temps += 1
        name = f"%t{self.temps}"
        self.line(f"{name} = {text}")
        return name

    def call(self, ret: str, function: str, types: list[str], values: list[str]) -> str:
        self.declared.add(f"declare {ret} @{function}({', '.join(types)})")
        pairs = ", ".join(f"{t} {v}" for t, v in zip(types, values, strict=True))
        return f"call {ret} @{function}({pairs})"

    def constant(self, value: Any, dtype: DType, lanes: int) -> str:
        text = literal(value, dtype)
        return text if lanes == 1 else "<" + ", ".join([f"{dtype.llvm} {text}"] * lanes) + ">"

    def splat(self, value: str, dtype: DType, lanes: int) -> str:
        kind = self.type(dtype, lanes)
        first = self.temp(f"insertelement {kind} poison, {dtype.llvm} {value}, i64 0")
        return self.temp(
            f"shufflevector {kind} {first}, {kind} poison, <{lanes} x i32> zeroinitializer"
        )

    # -- the whole ------------------------------------------------------------------------------

    def text(self) -> str:
        for i, inst in enumerate(self.kernel.body):
            result = self.instruction(inst, i)
            self.names.append(result or "")
        arguments = "ptr %args, i64 %lo, i64 %hi, ptr %kept, i64 %first"
        head = f'define void @{self.name}({arguments}) nounwind "no-trapping-math"="true" {{'
        body = [head, "entry:", *self.allocas, *self.lines, "  ret void", "}"]
        return "\n".join([*sorted(self.declared), *body]) + "\n"

    def instruction(self, inst: Inst, i: int) -> str | None:
        if inst.op in dots.BRACKETS:
            for register in list(self.pending):
                self.settle(register)
        method = getattr(self, f"op_{inst.op}", None)
        if method is not None:
            result: str | None = method(inst, i)
            return result
        return self.arithmetic(inst)

    # -- sources --------------------------------------------------------------------------------

    def op_const(self, inst: Inst, i: int) -> str:
        return self.constant(inst.arg, inst.dtype, inst.lanes)

    def op_param(self, inst: Inst, i: int) -> str:
        slot = self.temp(f"getelementptr inbounds ptr, ptr %args, i64 {inst.arg}")
        return self.temp(f"load ptr, ptr {slot}, align 8")

    def op_view(self, inst: Inst, i: int) -> str:
        return self.arg(inst, 0)[1]

    def op_var(self, inst: Inst, i: int) -> str:
        slot = self.temp(f"getelementptr inbounds ptr, ptr %args, i64 {len(self.kernel.params)}")
        base = self.temp(f"load ptr, ptr {slot}, align 8")
        place = self.temp(f"getelementptr inbounds i32, ptr {base}, i64 {inst.arg}")
        return self.temp(f"sext i32 {self.temp(f'load i32, ptr {place}, align 4')} to i64")

    def op_lo(self, inst: Inst, i: int) -> str:
        return "%lo"

    def op_hi(self, inst: Inst, i: int) -> str:
        return "%hi"

    def op_lane(self, inst: Inst, i: int) -> str:
        return "<" + ", ".join(f"i32 {k}" for k in range(inst.lanes)) + ">"

    def op_splat(self, inst: Inst, i: int) -> str:
        return self.splat(self.arg(inst, 0)[1], inst.dtype, inst.lanes)

    # -- control --------------------------------------------------------------------------------

    def op_loop(self, inst: Inst, i: int) -> str:
        (_, lo), (_, hi) = self.arg(inst, 0), self.arg(inst, 1)
        before = self.label
        self.line(f"br label %head{i}")
        self.lines.append(f"head{i}:")
        self.line(f"%i{i} = phi i64 [ {lo}, %{before} ], [ %next{i}, %latch{i} ]")
        self.line(f"%go{i} = icmp slt i64 %i{i}, {hi}")
        self.line(f"br i1 %go{i}, label %body{i}, label %done{i}")
        self.lines.append(f"body{i}:")
        self.label = f"body{i}"
        self.open.append(i)
        return f"%i{i}"

    def op_endloop(self, inst: Inst, _: int) -> None:
        i = self.open.pop()
        step = self.kernel.body[i].arg
        self.line(f"br label %latch{i}")
        self.lines.append(f"latch{i}:")
        self.line(f"%next{i} = add nsw i64 %i{i}, {step}")
        self.line(f"br label %head{i}")
        self.lines.append(f"done{i}:")
        self.label = f"done{i}"

    def op_if(self, inst: Inst, i: int) -> None:
        condition = self.arg(inst, 0)[1]
        self.line(f"br i1 {condition}, label %then{i}, label %fi{i}")
        self.lines.append(f"then{i}:")
        self.label = f"then{i}"
        self.open.append(i)

    def op_endif(self, inst: Inst, _: int) -> None:
        i = self.open.pop()
        self.line(f"br label %fi{i}")
        self.lines.append(f"fi{i}:")
        self.label = f"fi{i}"

    # -- memory ---------------------------------------------------------------------------------

    def place(self, inst: Inst) -> str:
        (pointer, base), (_, index) = self.arg(inst, 0), self.arg(inst, 1)
        element = in_memory(pointer.dtype).llvm
        return self.temp(f"getelementptr inbounds {element}, ptr {base}, i64 {index}")

    def loaded(self, inst: Inst, words: str) -> str:
        """Return what was read, given as the type that lies in memory."""
        if inst.dtype is not dt.f16:
            return self.temp(words)
        return self.temp(
            f"bitcast {self.type(I16, inst.lanes)} {self.temp(words)} to {self.of(inst)}"
        )

    def stored(self, value: Inst, name: str) -> str:
        """Return a value as the type that lies in memory."""
        if value.dtype is not dt.f16:
            return name
        return self.temp(f"bitcast {self.of(value)} {name} to {self.type(I16, value.lanes)}")

    def op_load(self, inst: Inst, i: int) -> str:
        memory = in_memory(inst.dtype)
        place, kind, size = self.place(inst), self.type(memory, inst.lanes), inst.dtype.size
        if len(inst.args) == 2:
            return self.loaded(inst, f"load {kind}, ptr {place}, align {size}")
        mask = self.arg(inst, 2)[1]
        masks = f"<{inst.lanes} x i1>"
        function = f"llvm.masked.load.{suffix(memory, inst.lanes)}.p0"
        self.declared.add(f"declare {kind} @{function}(ptr, {masks}, {kind})")
        return self.loaded(
            inst,
            f"call {kind} @{function}(ptr align {size} {place}, {masks} {mask}, "
            f"{kind} zeroinitializer)",
        )

    def op_store(self, inst: Inst, i: int) -> None:
        place, size = self.place(inst), inst.dtype.size
        value, name = self.arg(inst, 2)
        name = self.stored(value, name)
        memory = in_memory(value.dtype)
        kind = self.type(memory, value.lanes)
        if len(inst.args) == 3:
            self.line(f"store {kind} {name}, ptr {place}, align {size}")
            return
        mask = self.arg(inst, 3)[1]
        masks = f"<{value.lanes} x i1>"
        function = f"llvm.masked.store.{suffix(memory, value.lanes)}.p0"
        self.declared.add(f"declare void @{function}({kind}, ptr, {masks})")
        self.line(f"call void @{function}({kind} {name}, ptr align {size} {place}, {masks} {mask})")

    def op_prefetch(self, inst: Inst, i: int) -> None:
        (pointer, base), (_, index) = self.arg(inst, 0), self.arg(inst, 1)
        element = in_memory(pointer.dtype).llvm
        # No "inbounds": the place may lie outside of the memory.
        place = self.temp(f"getelementptr {element}, ptr {base}, i64 {index}")
        self.declared.add("declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        self.line(f"call void @llvm.prefetch.p0(ptr {place}, i32 0, i32 3, i32 1)")

    def _lane_places(self, inst: Inst) -> list[str]:
        (pointer, base), (index, name) = self.arg(inst, 0), self.arg(inst, 1)
        element = in_memory(pointer.dtype).llvm
        places = []
        for k in range(index.lanes):
            at = self.temp(f"extractelement {self.of(index)} {name}, i64 {k}")
            if index.dtype is dt.i32:
                at = self.temp(f"sext i32 {at} to i64")
            places.append(self.temp(f"getelementptr inbounds {element}, ptr {base}, i64 {at}"))
        return places

    def op_gather(self, inst: Inst, i: int) -> str:
        memory, lanes, size = in_memory(inst.dtype), inst.lanes, inst.dtype.size
        kind, element = self.type(memory, lanes), memory.llvm
        if len(inst.args) == 2:
            result = "poison"
            for k, place in enumerate(self._lane_places(inst)):
                got = self.temp(f"load {element}, ptr {place}, align {size}")
                words = f"insertelement {kind} {result}, {element} {got}, i64 {k}"
                result = self.temp(words) if k < lanes - 1 else self.loaded(inst, words)
            return result
        (_, base), (index, name) = self.arg(inst, 0), self.arg(inst, 1)
        pointers = self.temp(f"getelementptr {element}, ptr {base}, {self.of(index)} {name}")
        function = f"llvm.masked.gather.{suffix(memory, lanes)}.v{lanes}p0"
        self.declared.add(f"declare {kind} @{function}(<{lanes} x ptr>, <{lanes} x i1>, {kind})")
        mask = self.arg(inst, 2)[1]
        return self.loaded(
            inst,
            f"call {kind} @{function}(<{lanes} x ptr> align {size} {pointers}, "
            f"<{lanes} x i1> {mask}, {kind} zeroinitializer)",
        )

    def op_scatter(self, inst: Inst, i: int) -> None:
        value, name = self.arg(inst, 2)
        name = self.stored(value, name)
        (_, base), (index, at) = self.arg(inst, 0), self.arg(inst, 1)
        memory, lanes = in_memory(value.dtype), value.lanes
        kind = self.type(memory, lanes)
        pointers = self.temp(f"getelementptr {memory.llvm}, ptr {base}, {self.of(index)} {at}")
        every = "<" + ", ".join("i1 true" for _ in range(lanes)) + ">"
        mask = self.arg(inst, 3)[1] if len(inst.args) > 3 else every
        function = f"llvm.masked.scatter.{suffix(memory, lanes)}.v{lanes}p0"
        self.declared.add(f"declare void @{function}({kind}, <{lanes} x ptr>, <{lanes} x i1>)")
        self.line(
            f"call void @{function}({kind} {name}, <{lanes} x ptr> align {value.dtype.size} "
            f"{pointers}, <{lanes} x i1> {mask})"
        )

    # -- registers ------------------------------------------------------------------------------

    def op_reg(self, inst: Inst, i: int) -> str:
        kind = self.of(inst)
        self.allocas.append(f"  %r{i} = alloca {kind}, align 64")
        self.line(f"store {kind} {self.arg(inst, 0)[1]}, ptr %r{i}")
        return f"%r{i}"

    def op_get(self, inst: Inst, i: int) -> str:
        if i in self.chained:
            return ""
        self.settle(inst.args[0])
        return self.temp(f"load {self.of(inst)}, ptr {self.arg(inst, 0)[1]}")

    def op_set(self, inst: Inst, i: int) -> None:
        if i in self.chained:
            return
        self.pending.pop(inst.args[0], None)
        value, name = self.arg(inst, 1)
        self.line(f"store {self.of(value)} {name}, ptr {self.arg(inst, 0)[1]}")

    def op_first(self, inst: Inst, i: int) -> str:
        return self.temp("icmp ne i64 %first, 0")

    def op_keep(self, inst: Inst, i: int) -> str:
        place = self.kept
        self.kept += -(-inst.arg * inst.dtype.size // 64) * 64
        if self.kept > KEPT_BYTES:
            raise EngineError(f"a kernel keeps {self.kept} bytes for a thread, above {KEPT_BYTES}")
        return self.temp(f"getelementptr inbounds i8, ptr %kept, i64 {place}")

    def op_stack(self, inst: Inst, i: int) -> str:
        self.allocas.append(f"  %s{i} = alloca [{inst.arg} x {inst.dtype.llvm}], align 64")
        return f"%s{i}"

    def op_shuffle(self, inst: Inst, i: int) -> str:
        (first, a), (_, c) = self.arg(inst, 0), self.arg(inst, 1)
        picked = ", ".join(f"i32 {k}" for k in inst.arg)
        kind = self.of(first)
        return self.temp(f"shufflevector {kind} {a}, {kind} {c}, <{inst.lanes} x i32> <{picked}>")

    def op_tree(self, inst: Inst, i: int) -> str:
        source, name = self.arg(inst, 0)
        lanes = source.lanes
        while lanes > 2:
            half = lanes // 2
            low = ", ".join(f"i32 {k}" for k in range(half))
            high = ", ".join(f"i32 {k + half}" for k in range(half))
            kind = self.type(source.dtype, lanes)
            a = self.temp(f"shufflevector {kind} {name}, {kind} poison, <{half} x i32> <{low}>")
            c = self.temp(f"shufflevector {kind} {name}, {kind} poison, <{half} x i32> <{high}>")
            name = self.binary(inst.arg, source.dtype, half, a, c)
            lanes = half
        kind = self.type(source.dtype, 2)
        a = self.temp(f"extractelement {kind} {name}, i64 0")
        c = self.temp(f"extractelement {kind} {name}, i64 1")
        return self.binary(inst.arg, source.dtype, 1, a, c)

    # -- arithmetic -----------------------------------------------------------------------------

    def binary(self, op: str, dtype: DType, lanes: int, a: str, c: str) -> str:
        kind = self.type(dtype, lanes)
        if op in ("max", "min"):
            test = "ogt" if op == "max" else "olt"
            if not dtype.is_float:
                sign = "u" if dtype.kind == "u" else "s"
                test = f"{sign}gt" if op == "max" else f"{sign}lt"
            compare = "fcmp" if dtype.is_float else "icmp"
            won = self.temp(f"{compare} {test} {kind} {a}, {c}")
            return self.select(won, kind, lanes, a, c)
        if op in BIT_OPS:
            return self.temp(f"{BIT_OPS[op]} {kind} {a}, {c}")
        table = FLOAT_OPS if dtype.is_float else INT_OPS
        if dtype.kind == "u":
            table = table | UNSIGNED_OPS
        return self.temp(f"{table[op]} {kind} {a}, {c}")

    def select(self, condition: str, kind: str, lanes: int, a: str, c: str) -> str:
        bools = "i1" if lanes == 1 else f"<{lanes} x i1>"
        return self.temp(f"select {bools} {condition}, {kind} {a}, {kind} {c}")

    def op_dot4(self, inst: Inst, i: int) -> str:
        values = [self.arg(inst, k)[1] for k in range(3)]
        if i not in self.chained:
            return dots.dot4(self, self.target, inst.lanes, values, inst.arg)
        register = self.chained[i]
        if self.pending.get(register, (0,))[0] + dots.bound(inst.arg) > dots.SHORT_LIMIT:
            self.settle(register)
        bound, before = self.pending.get(register, (0, None))
        _, a, c = values
        sums = dots.short_sums(self, self.target, inst.lanes, a, c, before)
        self.pending[register] = (bound + dots.bound(inst.arg), sums)
        return ""

    def settle(self, register: int) -> None:
        """Add to a register what `dot4` has summed for it in 16 bits."""
        if register in self.pending:
            _, sums = self.pending.pop(register)
            inst, place = self.kernel.body[register], self.names[register]
            acc = self.temp(f"load {self.of(inst)}, ptr {place}")
            total = dots.settle(self, self.target, inst.lanes, acc, sums)
            self.line(f"store {self.of(inst)} {total}, ptr {place}")

    def op_dotbf16(self, inst: Inst, i: int) -> str:
        values = [self.arg(inst, k)[1] for k in range(3)]
        return dots.dotbf16(self, self.target, inst.lanes, values)

    def arithmetic(self, inst: Inst) -> str:
        sources = [self.arg(inst, k) for k in range(len(inst.args))]
        names = [name for _, name in sources]
        first, kind = sources[0][0], self.of(sources[-1][0])
        if inst.op == "where":
            return self.select(names[0], kind, inst.lanes, names[1], names[2])
        if inst.op in ("lt", "eq"):
            return self.compare(inst.op, first, names)
        if inst.op == "fma":
            function = f"llvm.fma.{suffix(inst.dtype, inst.lanes)}"
            return self.temp(self.call(kind, function, [kind] * 3, names))
        if inst.op == "sqrt":
            return self.temp(
                self.call(kind, f"llvm.sqrt.{suffix(inst.dtype, inst.lanes)}", [kind], names)
            )
        if inst.op == "cast":
            return self.cast(inst, first, names[0])
        if inst.op == "bitcast":
            if self.of(first) == self.of(inst):
                return names[0]
            return self.temp(f"bitcast {self.of(first)} {names[0]} to {self.of(inst)}")
        return self.binary(inst.op, inst.dtype, inst.lanes, names[0], names[1])

    def compare(self, op: str, first: Inst, names: list[str]) -> str:
        kind = self.of(first)
        if first.dtype.is_float:
            return self.temp(f"fcmp {'olt' if op == 'lt' else 'oeq'} {kind} {names[0]}, {names[1]}")
        less = "ult" if first.dtype.kind in "ub" else "slt"
        return self.temp(f"icmp {less if op == 'lt' else 'eq'} {kind} {names[0]}, {names[1]}")

    def cast(self, inst: Inst, source: Inst, name: str) -> str:
        a, b = source.dtype, inst.dtype
        if a.llvm == b.llvm:
            return name
        if dt.bf16 in (a, b):
            return self.rounded(inst, source, name) if b is dt.bf16 else self.widened(inst, name)
        if a.is_float and b.is_float:
            op = "fpext" if b.size > a.size else "fptrunc"
        elif a.is_float:
            op = "fptosi" if b.kind == "i" else "fptoui"
        elif b.is_float:
            op = "sitofp" if a.kind == "i" else "uitofp"
        elif b.size < a.size:
            op = "trunc"
        else:
            op = "sext" if a.kind == "i" else "zext"
        return self.temp(f"{op} {self.of(source)} {name} to {self.of(inst)}")

    def widened(self, inst: Inst, name: str) -> str:
        """Return bf16 as f32, which has the same upper half."""
        if inst.dtype is not dt.f32:
            raise EngineError(f"no conversion from bf16 to {inst.dtype}; go through f32")
        words = self.type(dt.i32, inst.lanes)
        wide = self.temp(f"zext {self.type(dt.bf16, inst.lanes)} {name} to {words}")
        high = self.temp(f"shl {words} {wide}, {self.constant(16, dt.i32, inst.lanes)}")
        return self.temp(f"bitcast {words} {high} to {self.of(inst)}")

    def rounded(self, inst: Inst, source: Inst, name: str) -> str:
        """Round f32 to bf16 by integer arithmetic: the machine's instruction flushes denormals."""
        if source.dtype is not dt.f32:
            raise EngineError(f"no conversion from {source.dtype} to bf16; go through f32")
        words = self.type(dt.i32, inst.lanes)

        def number(value: int) -> str:
            return self.constant(value, dt.i32, inst.lanes)

        bits = self.temp(f"bitcast {self.of(source)} {name} to {words}")
        high = self.temp(f"lshr {words} {bits}, {number(16)}")
        odd = self.temp(f"and {words} {high}, {number(1)}")
        near = self.temp(f"add {words} {bits}, {self.temp(f'add {words} {odd}, {number(0x7FFF)}')}")
        near = self.temp(f"lshr {words} {near}, {number(16)}")
        quiet = self.temp(f"or {words} {high}, {number(0x40)}")
        nan = self.temp(f"fcmp uno {self.of(source)} {name}, {name}")
        chosen = self.select(nan, words, inst.lanes, quiet, near)
        return self.temp(f"trunc {words} {chosen} to {self.of(inst)}")
