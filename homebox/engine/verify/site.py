"""How a linear kernel reads, and the place in it where something went wrong."""

from typing import NoReturn

from homebox.engine.codegen.linear import Inst, Kernel
from homebox.engine.graph.dtype import DType
from homebox.errors import EngineError

POINTERS = frozenset({"param", "stack", "shared", "keep", "view"})


class Site:
    """One instruction of one kernel, as the place where something went wrong."""

    __slots__ = ("kernel", "position")

    def __init__(self, kernel: Kernel, position: int) -> None:
        self.kernel, self.position = kernel, position

    def fail(self, message: str) -> NoReturn:
        """Raise EngineError with the position and the text of the instruction."""
        text = format_instruction(self.kernel.body, self.position)
        raise EngineError(f"kernel instruction {self.position}, `{text}`: {message}")


def format_kernel(kernel: Kernel) -> str:
    """Return a kernel as text: its parameters, then one numbered instruction a line."""
    where = f"SIMT, group {'x'.join(map(str, kernel.group))}" if kernel.group else "CPU"
    lines = [f"kernel ({where}), {len(kernel.body)} instructions"]
    for i, param in enumerate(kernel.params):
        lines.append(f"  p{i}: {param.dtype}[{param.count}]{' written' if param.written else ''}")
    depth = 0
    for position, inst in enumerate(kernel.body):
        depth -= inst.op in ("endloop", "endif")
        indent = "  " * max(depth, 0)
        lines.append(f"{position:5}  {indent}{format_instruction(kernel.body, position)}")
        depth += inst.op in ("loop", "if")
    return "\n".join(lines)


def format_instruction(body: tuple[Inst, ...], position: int) -> str:
    """Return one instruction as text, such as `%7: f32x16 = fma %3, %5, %6`."""
    inst = body[position]
    a = [f"%{source}" for source in inst.args]
    kind = format_type(inst.dtype, inst.lanes)
    if inst.op in ("endloop", "endif"):
        return "}"
    if inst.op == "barrier":
        return "barrier"
    if inst.op in ("load", "gather", "store", "scatter") and len(a) >= 2:
        place = f"{a[0]}[{a[1]}]"
        if inst.op in ("load", "gather"):
            return f"%{position}: {kind} = {inst.op} {place}" + _masked(a[2:])
        return f"{inst.op} {place} = {', '.join(a[2:3])}: {kind}" + _masked(a[3:])
    if inst.op == "loop" and len(a) == 2:
        return f"loop %{position} = {a[0]} .. {a[1]} step {inst.arg} {{"
    if inst.op == "if":
        return f"if {', '.join(a)} {{"
    if inst.op == "set":
        return f"set {', '.join(a)}"
    words = [inst.op, *([repr(inst.arg)] if inst.arg is not None else [])]
    return f"%{position}: {kind} = {' '.join(words)}" + (f" {', '.join(a)}" if a else "")


def _masked(mask: list[str]) -> str:
    return f" mask {', '.join(mask)}" if mask else ""


def format_type(dtype: DType, lanes: int) -> str:
    """Return a type as text, such as f32x16."""
    return repr(dtype) if lanes == 1 else f"{dtype}x{lanes}"
