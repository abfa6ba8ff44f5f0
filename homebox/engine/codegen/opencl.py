"""Prints SIMT kernels of the linear IR as OpenCL C, one self-contained text per kernel.

The signature is two arguments for each parameter, a block of memory and a byte offset in it
(`__global uchar *b0, ulong o0`), then the same two for the int32 vars buffer. Values are constants
of C in SSA form; registers are variables. Axis 0 of groups and work-items is OpenCL's dimension 0,
whose neighbours run side by side. Invariant: the text depends on kernel and target alone; what
devices do in different ways is behind macros of the prelude.
"""

import re
from collections.abc import Callable, Sequence

from homebox.engine.codegen import opencl_access as access
from homebox.engine.codegen.linear import FRAGMENTS, Inst, Kernel
from homebox.engine.codegen.opencl_access import Pointer
from homebox.engine.codegen.opencl_mma import fragment
from homebox.engine.codegen.opencl_prelude import HELPERS, IN_ORDER, prelude
from homebox.engine.codegen.opencl_types import component, joined, literal, vector
from homebox.engine.codegen.opencl_values import SYMBOLS, Arithmetic, Term
from homebox.engine.codegen.ranges import Interval, analyse, fits
from homebox.engine.graph import dtype as dt
from homebox.engine.simt.target import Simt
from homebox.errors import EngineError

CPU_ONLY = frozenset({"lo", "hi", "first", "keep"})
RING = frozenset({"add", "sub", "mul"})
POWERS = {1 << k: k for k in range(31)}

# Operations that other modules print: by name, a function of the writer, the instruction and its
# position that returns the value's text (or None). Their helpers go into opencl_prelude.HELPERS.
OPERATIONS: dict[str, "Callable[[_Writer, Inst, int], str | None]"] = {
    **dict.fromkeys(FRAGMENTS, fragment)
}


def render(
    kernel: Kernel,
    name: str,
    target: Simt,
    most_groups: tuple[int, ...] = (),
    variables: Sequence[Interval] = (),
) -> str:
    """Return the OpenCL C of a kernel as a `__kernel` of that name, with what it calls.

    `most_groups` is the largest grid by axis, `variables` the least and largest value of each entry
    of the vars buffer; they make index arithmetic narrower, never different. Raises EngineError for
    operations that exist on CPUs only and for vectors that OpenCL C does not have.
    """
    if not kernel.group:
        raise EngineError(f"{name} is a kernel for a CPU; OpenCL needs one with work-groups")
    return _Writer(kernel, name, target, most_groups, variables).text()


class _Writer:
    """State of printing one kernel: names by position, text lines, open brackets."""

    def __init__(
        self,
        kernel: Kernel,
        name: str,
        target: Simt,
        most_groups: tuple[int, ...] = (),
        variables: Sequence[Interval] = (),
    ) -> None:
        self.kernel, self.name, self.target = kernel, name, target
        self.half = "half" in target.units
        self.ranges = analyse(kernel, most_groups, variables)
        self.ordered = ordered_loops(kernel)
        self.used: dict[str, None] = {}
        self.values = Arithmetic(self.half, self.use)
        self.names: list[str] = []
        self.pointers: dict[int, Pointer] = {}
        self.registers: dict[int, str] = {}
        self.top: list[str] = []  # declarations that must stand at the kernel's scope
        self.lines: list[str] = []
        self.depth = 1
        self.temps = 0

    # -- for operations -------------------------------------------------------------------------

    def use(self, helper: str) -> str:
        """Note that a helper of the prelude is called; return its name."""
        if helper not in HELPERS:
            raise EngineError(f"the prelude of OpenCL kernels has no {helper}")
        self.used[helper] = None
        return helper

    def line(self, text: str) -> None:
        """Add a statement at the depth of the open brackets."""
        self.lines.append("    " * self.depth + text)

    def term(self, inst: Inst, place: int) -> Term:
        """Return an operand with what is known of it."""
        source = inst.args[place]
        operand, bound = self.kernel.body[source], self.ranges.bounds[source]
        narrow = self.narrow(source)
        natural = bound is not None and bound[0] >= 0
        return Term(self.names[source], operand.dtype, operand.lanes, natural, narrow)

    def text_of(self, inst: Inst, place: int) -> str:
        """Return the text of an operand."""
        return self.names[inst.args[place]]

    def temporary(self, kind: str, expression: str) -> str:
        """Declare a constant of this C type and return its name."""
        self.temps += 1
        name = f"t{self.temps}"
        self.line(f"const {kind} {name} = {expression};")
        return name

    def narrow(self, position: int) -> bool:
        """Whether an i64 scalar is held as `int`."""
        inst = self.kernel.body[position]
        return inst.dtype is dt.i64 and inst.lanes == 1 and self.ranges.width[position] != "long"

    def held(self, position: int) -> str:
        """Return the C type of a value."""
        inst = self.kernel.body[position]
        return "int" if self.narrow(position) else self.values.held(inst.dtype, inst.lanes)

    # -- the whole ------------------------------------------------------------------------------

    def text(self) -> str:
        """Return the kernel with its prelude."""
        for position, inst in enumerate(self.kernel.body):
            found = self.instruction(inst, position)
            if found is None or inst.op in ("loop", "reg") or position in self.pointers:
                self.names.append(found or "")
            elif inst.op == "const" and inst.lanes == 1:
                self.names.append(found)
            else:
                self.line(f"const {self.held(position)} v{position} = {found};")
                self.names.append(f"v{position}")
        body = "\n".join([self.head(), *self.top, *self.lines, "}"])
        helpers = prelude(self.used, HELPERS)
        return "\n".join([*self.pragmas(body + helpers), helpers, body, ""])

    def head(self) -> str:
        sides = [*self.kernel.group, 1, 1][:3]
        arguments = []
        for i, param in enumerate(self.kernel.params):
            constant = "" if param.written else "const "
            arguments.append(f"{constant}__global uchar *b{i}, ulong o{i}")
        arguments.append("const __global uchar *bv, ulong ov")
        lines = [f"__attribute__((reqd_work_group_size({', '.join(map(str, sides))})))"]
        if "hb_mma" in self.used:
            lines.append("HB_MMA_KERNEL")
        elif "hb_exchange" in self.used or "hb_exchange_long" in self.used:
            lines += [
                "#ifdef HB_REQUIRE_SUB_GROUP",
                "__attribute__((intel_reqd_sub_group_size(HB_REQUIRE_SUB_GROUP)))",
                "#endif",
            ]
        return "\n".join([*lines, f"__kernel void {self.name}({', '.join(arguments)}) {{"])

    def pragmas(self, text: str) -> list[str]:
        """Return what must stand before everything else."""
        lines = ["#pragma OPENCL FP_CONTRACT OFF"]
        if re.search(r"\bdouble", text):
            lines += _enabled("cl_khr_fp64")
        if self.half and re.search(r"\b(half|as_half|convert_half)", text):
            lines += _enabled("cl_khr_fp16")
        for kind in sorted(set(re.findall(r"\bhb_any_(\w+)", text))):
            lines.append(f"typedef {kind} hb_any_{kind} __attribute__((may_alias));")
        return lines

    def instruction(self, inst: Inst, position: int) -> str | None:
        """Print one instruction; return the expression of its value if it has one."""
        if inst.op in OPERATIONS:
            return OPERATIONS[inst.op](self, inst, position)
        if inst.op in CPU_ONLY:
            raise EngineError(f"{self.name}: {inst.op} exists on CPUs only")
        method = getattr(self, f"op_{inst.op}", None)
        if method is not None:
            result: str | None = method(inst, position)
            return result
        if inst.op not in SYMBOLS and inst.op != "div":
            raise EngineError(f"{self.name}: OpenCL kernels have no operation {inst.op!r}")
        a, b = self.term(inst, 0), self.term(inst, 1)
        if inst.op in ("lt", "eq"):
            return self.values.compare(inst.op, a, b)
        if inst.dtype is dt.i64 and inst.lanes == 1:
            return self.index(inst, position, a, b)
        return self.values.binary(inst.op, a, b, self.ranges.wraps[position] or inst.lanes > 1)

    # -- index arithmetic -----------------------------------------------------------------------

    def index(self, inst: Inst, position: int, a: Term, b: Term) -> str:
        """Return an operation on i64 scalars, in 32 bits where that gives the same."""
        op, narrow = inst.op, self.narrow(position)
        both = a.narrow and b.narrow
        if op in RING:
            whole = self.ranges.width[position] == "int" and all(
                self.ranges.width[source] == "int" for source in inst.args
            )
            if narrow and whole:
                return f"{a.text} {SYMBOLS[op]} {b.text}"
            kind, back = ("uint", "int") if narrow else ("ulong", "long")
            if not narrow and not self.ranges.wraps[position]:
                kind = back
            return f"({back})(({kind}){a.text} {SYMBOLS[op]} ({kind}){b.text})"
        if op in ("idiv", "mod") and a.natural and b.natural:
            power = self.power(inst.args[1])
            if power is not None:
                return f"{a.text} >> {power}" if op == "idiv" else f"{a.text} & {(1 << power) - 1}"
            kind = "uint" if both else "ulong"
            back = "int" if narrow else "long"
            return f"({back})(({kind}){a.text} {SYMBOLS[op]} ({kind}){b.text})"
        if op in ("shl", "shr"):
            small = both and fits(self.ranges.bounds[inst.args[1]], (0, 31))
            if small and narrow and a.natural:
                return f"{a.text} {SYMBOLS[op]} {b.text}"
            return f"(long)((ulong)(long){a.text} {SYMBOLS[op]} {b.text})"
        return (
            self.values.binary(op, a, b, False)
            if op in ("max", "min")
            else (f"{a.text} {SYMBOLS[op]} {b.text}")
        )

    def power(self, position: int) -> int | None:
        """Return k if a value is the constant 2^k, else None."""
        inst = self.kernel.body[position]
        return POWERS.get(inst.arg) if inst.op == "const" else None

    # -- sources --------------------------------------------------------------------------------

    def op_const(self, inst: Inst, position: int) -> str:
        text = literal(inst.arg, inst.dtype, self.half)
        if inst.lanes == 1:
            return text
        if inst.dtype is dt.boolean:
            text = "-1" if inst.arg else "0"
        return f"({self.values.held(inst.dtype, inst.lanes)})({text})"

    def op_var(self, inst: Inst, position: int) -> str:
        return f"((const __global int *)(bv + ov))[{inst.arg}]"

    def op_group(self, inst: Inst, position: int) -> str:
        return f"({self.held(position)})get_group_id({inst.arg})"

    def op_local(self, inst: Inst, position: int) -> str:
        return f"({self.held(position)})get_local_id({inst.arg})"

    def op_lane(self, inst: Inst, position: int) -> str:
        return joined(vector("int", inst.lanes), [str(k) for k in range(inst.lanes)])

    def op_splat(self, inst: Inst, position: int) -> str:
        text = self.text_of(inst, 0)
        kind = self.values.held(inst.dtype, inst.lanes)
        if inst.dtype is dt.boolean and inst.lanes > 1:
            text = f"{text} ? -1 : 0"
        elif inst.dtype is dt.i64:
            text = f"(long){text}"
        return f"({kind})({text})"

    # -- control --------------------------------------------------------------------------------

    def op_loop(self, inst: Inst, position: int) -> str:
        low, high = self.text_of(inst, 0), self.text_of(inst, 1)
        name, kind = f"i{position}", self.held(position)
        if position in self.ordered:
            self.lines.append(IN_ORDER)
        self.line(f"for ({kind} {name} = {low}; {name} < {high}; {name} += {inst.arg}) {{")
        self.depth += 1
        return name

    def op_if(self, inst: Inst, position: int) -> None:
        self.line(f"if ({self.text_of(inst, 0)}) {{")
        self.depth += 1

    def op_endif(self, inst: Inst, position: int) -> None:
        self.depth -= 1
        self.line("}")

    op_endloop = op_endif

    def op_barrier(self, inst: Inst, position: int) -> None:
        fences = "CLK_LOCAL_MEM_FENCE"
        if self.rereads():
            fences += " | CLK_GLOBAL_MEM_FENCE"
        self.line(f"barrier({fences});")

    def rereads(self) -> bool:
        """Whether the kernel reads memory that it also writes."""
        return any(
            inst.op in ("load", "gather") and self._written(inst.args[0])
            for inst in self.kernel.body
        )

    def _owner(self, position: int) -> Inst:
        inst = self.kernel.body[position]
        while inst.op == "view":
            inst = self.kernel.body[inst.args[0]]
        return inst

    def _written(self, pointer: int) -> bool:
        owner = self._owner(pointer)
        return owner.op == "param" and self.kernel.params[owner.arg].written

    # -- pointers -------------------------------------------------------------------------------

    def _pointer(self, position: int, space: str, constant: bool, source: str) -> str:
        """Declare a pointer to memory that `source` is an address of."""
        inst, owner = self.kernel.body[position], self._owner(position)
        aliased = not constant and any(
            other.op == "view" and self._owner(i) is owner
            for i, other in enumerate(self.kernel.body)
        )
        pointer = Pointer(f"p{position}", inst.dtype, space, constant, aliased)
        self.pointers[position] = pointer
        kind = pointer.to(pointer.element)
        self.line(f"{kind}const {pointer.name} = ({kind})({source});")
        return pointer.name

    def op_param(self, inst: Inst, position: int) -> str:
        written = self.kernel.params[inst.arg].written
        return self._pointer(position, "__global", not written, f"b{inst.arg} + o{inst.arg}")

    def op_view(self, inst: Inst, position: int) -> str:
        pointer = self.pointers[inst.args[0]]
        return self._pointer(position, pointer.space, pointer.constant, pointer.name)

    def _array(self, inst: Inst, position: int, space: str) -> str:
        # Arrays of half exist only where the device computes in half; pointers always do.
        kind = "ushort" if inst.dtype is dt.f16 else inst.dtype.opencl
        declared = f"{space} {kind} m{position}[{inst.arg}] __attribute__((aligned(16)));"
        self.top.append("    " + declared)
        return self._pointer(position, space, False, f"m{position}")

    def op_shared(self, inst: Inst, position: int) -> str:
        return self._array(inst, position, "__local")

    def op_stack(self, inst: Inst, position: int) -> str:
        return self._array(inst, position, "__private")

    # -- memory ---------------------------------------------------------------------------------

    def place(self, inst: Inst) -> str:
        """Return the index of an access.

        The places of elements fit 32 bits even where the sums they are made of may wrap; a constant
        at the end of such a sum is added as a signed number, so that compilers can make it a part
        of the instruction's address.
        """
        source = self.kernel.body[inst.args[1]]
        if source.op == "add" and self.ranges.width[inst.args[1]] == "low":
            for one, other in (source.args, source.args[::-1]):
                bound = self.ranges.bounds[other]
                constant = self.kernel.body[other].op == "const"
                if constant and fits(bound, (0, 1 << 20)) and self.narrow(one):
                    return f"{self.names[one]} + {self.names[other]}"
        return self.text_of(inst, 1)

    def op_load(self, inst: Inst, position: int) -> str:
        pointer, index = self.pointers[inst.args[0]], self.place(inst)
        mask = self.text_of(inst, 2) if len(inst.args) > 2 else None
        return access.load(pointer, index, inst.lanes, mask, self.half, inst.arg == "aligned")

    def op_store(self, inst: Inst, position: int) -> None:
        pointer, index = self.pointers[inst.args[0]], self.place(inst)
        mask = self.text_of(inst, 3) if len(inst.args) > 3 else None
        value, whole = self.text_of(inst, 2), inst.arg == "aligned"
        for text in access.store(pointer, index, value, inst.lanes, mask, self.half, whole):
            self.line(text)

    def _places(self, inst: Inst) -> list[str]:
        index = self.text_of(inst, 1)
        return [component(index, k, inst.lanes) for k in range(inst.lanes)]

    def op_gather(self, inst: Inst, position: int) -> str:
        mask = self.text_of(inst, 2) if len(inst.args) > 2 else None
        pointer = self.pointers[inst.args[0]]
        return access.masked(pointer, self._places(inst), mask, self.half)

    def op_scatter(self, inst: Inst, position: int) -> None:
        pointer, value = self.pointers[inst.args[0]], self.text_of(inst, 2)
        mask = self.text_of(inst, 3) if len(inst.args) > 3 else None
        for text in access.scattered(pointer, self._places(inst), value, mask, self.half):
            self.line(text)

    def op_prefetch(self, inst: Inst, position: int) -> None:
        """Do nothing: work-items hide the time that memory takes."""

    # -- registers ------------------------------------------------------------------------------

    def op_reg(self, inst: Inst, position: int) -> str:
        self.line(f"{self.held(position)} r{position} = {self.text_of(inst, 0)};")
        return f"r{position}"

    def op_get(self, inst: Inst, position: int) -> str:
        return self.text_of(inst, 0)

    def op_set(self, inst: Inst, position: int) -> None:
        self.line(f"{self.text_of(inst, 0)} = {self.text_of(inst, 1)};")

    # -- values ---------------------------------------------------------------------------------

    def op_fma(self, inst: Inst, position: int) -> str:
        return self.values.fma(*(self.term(inst, k) for k in range(3)))

    def op_sqrt(self, inst: Inst, position: int) -> str:
        return self.values.root(self.term(inst, 0))

    def op_where(self, inst: Inst, position: int) -> str:
        return self.values.where(*(self.term(inst, k) for k in range(3)))

    def op_cast(self, inst: Inst, position: int) -> str:
        text = self.values.cast(self.term(inst, 0), inst.dtype)
        return text.removeprefix("(long)") if self.narrow(position) else text

    def op_bitcast(self, inst: Inst, position: int) -> str:
        return self.values.bitcast(self.term(inst, 0), inst.dtype, inst.lanes)

    def op_tree(self, inst: Inst, position: int) -> str:
        return self.values.tree(inst.arg, self.term(inst, 0), self.temporary)

    def op_dot4(self, inst: Inst, position: int) -> str:
        acc, a, b = (self.term(inst, k) for k in range(3))
        return self.values.dot4(acc, a, b, inst.arg)

    def op_dotbf16(self, inst: Inst, position: int) -> str:
        return self.values.dotbf16(*(self.term(inst, k) for k in range(3)))

    def op_shuffle(self, inst: Inst, position: int) -> str:
        a, b = self.term(inst, 0), self.term(inst, 1)
        picked = [
            component(a.text, k, a.lanes)
            if k < a.lanes
            else component(b.text, k - a.lanes, a.lanes)
            for k in inst.arg
        ]
        return joined(self.values.held(inst.dtype, inst.lanes), picked)

    def op_exchange(self, inst: Inst, position: int) -> str:
        if len(self.kernel.group) != 1 or "subgroup" not in self.target.units:
            raise EngineError(
                f"{self.name}: exchange needs groups of one axis and the unit 'subgroup'"
            )
        return self.values.exchange(self.term(inst, 0), inst.arg)


def ordered_loops(kernel: Kernel) -> set[int]:
    """Return the positions of loops inside of which a float register changes from round to round.

    The order of what they compute is a part of the result.
    """
    found: set[int] = set()
    open_loops: list[int] = []
    for position, inst in enumerate(kernel.body):
        if inst.op == "loop":
            open_loops.append(position)
        elif inst.op == "endloop":
            open_loops.pop()
        elif inst.op == "set" and kernel.body[inst.args[0]].dtype.is_float:
            found.update(open_loops)
    return found


def _enabled(extension: str) -> list[str]:
    return [f"#ifdef {extension}", f"#pragma OPENCL EXTENSION {extension} : enable", "#endif"]
