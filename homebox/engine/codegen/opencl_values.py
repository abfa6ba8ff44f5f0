"""The linear IR's arithmetic as OpenCL C expressions.

The one idea: C's own rules are not the IR's (small integers are widened, signed overflow is
undefined, vectors compare to -1), so each operation says what it means: wrapping goes through
unsigned types, selections through masks as wide as the data. Invariant: one rounding per float
operation; division and roots are correctly rounded.
"""

from collections.abc import Callable
from dataclasses import dataclass

from homebox.engine.codegen.opencl_types import (
    SIGNED,
    UNSIGNED,
    component,
    components,
    held,
    held_bytes,
    joined,
    vector,
)
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.dtype import DType
from homebox.errors import EngineError

SYMBOLS = {
    "add": "+", "sub": "-", "mul": "*", "and": "&", "or": "|", "xor": "^", "idiv": "/", "mod": "%",
    "shl": "<<", "shr": ">>", "lt": "<", "eq": "==", "max": ">", "min": "<",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Term:
    """An operand: its text, its type, and what is known of a scalar integer."""

    text: str
    dtype: DType
    lanes: int
    natural: bool = False  # known not to be negative
    narrow: bool = False  # an i64 that is held as int


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Prints operations; `use` notes a helper of the prelude and returns its name."""

    half: bool
    use: Callable[[str], str]

    def held(self, dtype: DType, lanes: int) -> str:
        """Return the type of a variable."""
        return held(dtype, lanes, self.half)

    def soft(self, dtype: DType) -> bool:
        """Whether arithmetic of this type is done in f32 and rounded."""
        return dtype is dt.bf16 or dtype is dt.f16

    def each(self, kind: str, lanes: int, one: Callable[[int], str]) -> str:
        """Return a vector whose lanes are computed one by one."""
        return joined(kind, [one(k) for k in range(lanes)])

    # -- 16-bit floats --------------------------------------------------------------------------

    def widened(self, text: str, dtype: DType, lanes: int) -> str:
        """Return a bf16 or f16 as f32."""
        if dtype is dt.bf16 and lanes == 1:
            return f"{self.use('hb_from_bf16')}({text})"
        if dtype is dt.bf16:
            wide = f"convert_{vector('uint', lanes)}({text})"
            return f"as_{vector('float', lanes)}({wide} << ({vector('uint', lanes)})(16))"
        return f"convert_{vector('float', lanes)}({text})" if self.half else text

    def narrowed(self, text: str, dtype: DType, lanes: int) -> str:
        """Round a variable of f32 to bf16 or f16."""
        if dtype is dt.f16 and self.half:
            return f"convert_{vector('half', lanes)}({text})"
        helper = self.use("hb_to_bf16" if dtype is dt.bf16 else "hb_round_half")
        kind = self.held(dtype, lanes)
        if lanes == 1:
            return f"{helper}({text})"
        return self.each(kind, lanes, lambda k: f"{helper}({component(f'({text})', k, lanes)})")

    # -- operations -----------------------------------------------------------------------------

    def binary(self, op: str, a: Term, b: Term, wraps: bool = True) -> str:
        """Return an operation on two values of one type; `wraps`: it may leave that type."""
        dtype, lanes = a.dtype, a.lanes
        exact = op in ("max", "min")
        if dtype is dt.bf16 or (dtype is dt.f16 and op == "div"):
            x, y = (Term(self.widened(t.text, dtype, lanes), dt.f32, lanes) for t in (a, b))
            return self.narrowed(self.binary(op, x, y), dtype, lanes)
        if dtype is dt.f16 and not self.half and not exact:
            x, y = (Term(t.text, dt.f32, lanes) for t in (a, b))
            return self.narrowed(f"({self.binary(op, x, y)})", dtype, lanes)
        if exact:
            test = f"{a.text} {SYMBOLS[op]} {b.text}"
            if lanes == 1:
                return f"({test} ? {a.text} : {b.text})"
            return f"select({b.text}, {a.text}, {test})"
        if op == "div":
            return self.divided(a, b)
        if dtype.is_float or dtype is dt.boolean:
            return f"{a.text} {SYMBOLS[op]} {b.text}"
        return self.integer(op, a, b, wraps)

    def divided(self, a: Term, b: Term) -> str:
        """Return a quotient of f32 or f64, correctly rounded."""
        if a.dtype is dt.f64:
            return f"{a.text} / {b.text}"
        helper, lanes = self.use("hb_div"), a.lanes

        def one(k: int) -> str:
            pair = (component(f"({t.text})", k, lanes) for t in (a, b))
            return f"{helper}({', '.join(pair)})"

        return self.each(vector("float", lanes), lanes, one)

    def root(self, a: Term) -> str:
        """Return a square root, correctly rounded."""
        if a.dtype is dt.f64:
            return f"sqrt({a.text})"
        if self.soft(a.dtype):
            wide = Term(self.widened(a.text, a.dtype, a.lanes), dt.f32, a.lanes)
            return self.narrowed(self.root(wide), a.dtype, a.lanes)
        helper = self.use("hb_sqrt")
        kind = vector("float", a.lanes)
        return self.each(
            kind, a.lanes, lambda k: f"{helper}({component(f'({a.text})', k, a.lanes)})"
        )

    def integer(self, op: str, a: Term, b: Term, wraps: bool) -> str:
        """Return an integer operation; i64 scalars of mixed widths are handled by the caller."""
        symbol, signed = SYMBOLS[op], a.dtype.kind == "i"
        plain = f"{a.text} {symbol} {b.text}"
        if not signed or op in ("and", "or", "xor"):
            return plain
        if op in ("idiv", "mod", "shr") and not (a.natural and b.natural):
            wraps = op == "shr"
        elif op in ("idiv", "mod"):
            wraps = True  # unsigned division is shorter, and right for what is not negative
        elif op == "shr":
            wraps = False
        if not wraps:
            return plain
        kind = vector(UNSIGNED[a.dtype.size], a.lanes)
        if a.lanes == 1:
            return f"({a.dtype.opencl})(({kind}){a.text} {symbol} ({kind}){b.text})"
        back = vector(SIGNED[a.dtype.size], a.lanes)
        return f"as_{back}(as_{kind}({a.text}) {symbol} as_{kind}({b.text}))"

    def compare(self, op: str, a: Term, b: Term) -> str:
        """Return a comparison as a bool."""
        x, y, lanes = a.text, b.text, a.lanes
        if a.dtype is dt.bf16:
            x, y = (self.widened(t, a.dtype, lanes) for t in (x, y))
        if a.dtype is dt.boolean and lanes > 1:  # true is -1
            x, y = (f"as_{vector('uchar', lanes)}({t})" for t in (x, y))
        test = f"{x} {SYMBOLS[op]} {y}"
        return test if lanes == 1 else f"convert_{vector('char', lanes)}({test})"

    def where(self, condition: Term, a: Term, b: Term) -> str:
        """Return a choice, by one bool for all lanes or one each."""
        if condition.lanes == 1:
            return f"{condition.text} ? {a.text} : {b.text}"
        kind = vector(SIGNED[held_bytes(a.dtype, self.half)], a.lanes)
        return f"select({b.text}, {a.text}, convert_{kind}({condition.text}))"

    def fma(self, a: Term, b: Term, c: Term) -> str:
        """Return a*b+c rounded once."""
        if a.dtype is dt.bf16 or (a.dtype is dt.f16 and not self.half):
            raise EngineError(f"this device has no fma of {a.dtype}; compute in f32")
        return f"fma({a.text}, {b.text}, {c.text})"

    def tree(self, how: str, a: Term, temporary: Callable[[str, str], str]) -> str:
        """Return a halving tree; `temporary(type, expression)` declares a variable."""
        term = a
        while term.lanes > 1:
            half = term.lanes // 2
            low, high = (Term(f"{term.text}.{side}", term.dtype, half) for side in ("lo", "hi"))
            name = temporary(self.held(a.dtype, half), self.binary(how, low, high))
            term = Term(name, a.dtype, half)
        return term.text

    # -- conversions ----------------------------------------------------------------------------

    def cast(self, a: Term, to: DType) -> str:
        """Return a value as another type."""
        source, lanes, text = a.dtype, a.lanes, a.text
        if source is to:
            return text
        if to is dt.boolean:
            return self.truth(a)
        if self.soft(source) and (to is not dt.f64 or source is dt.bf16):
            wide = self.widened(text, source, lanes)
            if to is dt.f32:
                return wide
            text, source = f"({wide})", dt.f32
        if source is dt.boolean and lanes > 1:
            text = f"(-{text})"
        if not self.soft(to):
            return self._converted(text, self.held(to, lanes), lanes)
        if source is dt.f64:
            if to is dt.bf16 or self.half:
                raise EngineError(f"no conversion from f64 to {to}; go through f32")
            helper = self.use("hb_round_half_double")
            return self.each(
                self.held(to, lanes), lanes, lambda k: f"{helper}({component(text, k, lanes)})"
            )
        wide = text if source is dt.f32 else self._converted(text, vector("float", lanes), lanes)
        return self.narrowed(wide, to, lanes)

    def truth(self, a: Term) -> str:
        """Return whether each lane is other than zero."""
        text = self.widened(a.text, a.dtype, a.lanes) if a.dtype is dt.bf16 else a.text
        if a.lanes == 1:
            return f"{text} != 0"
        kind = vector("float", a.lanes) if a.dtype is dt.bf16 else self.held(a.dtype, a.lanes)
        return f"convert_{vector('char', a.lanes)}({text} != ({kind})(0))"

    def _converted(self, text: str, kind: str, lanes: int) -> str:
        return f"({kind}){text}" if lanes == 1 else f"convert_{kind}({text})"

    def bitcast(self, a: Term, to: DType, lanes: int) -> str:
        """Return the same bits as another type, with as many lanes as they fill."""
        text, source = a.text, a.dtype
        if a.narrow:
            text = f"(long){text}"
        if source is dt.f16 and not self.half:
            helper, whole = self.use("hb_half_bits"), text
            text = self.each(
                vector("ushort", a.lanes),
                a.lanes,
                lambda k: f"{helper}({component(whole, k, a.lanes)})",
            )
        if to is dt.f16 and not self.half:
            self.use("hb_half_bits")
            bits = text if a.lanes == lanes == 1 else f"as_{vector('ushort', lanes)}({text})"
            return self.each(
                vector("float", lanes),
                lanes,
                lambda k: f"hb_bits_half({component(bits, k, lanes)})",
            )
        return f"as_{vector(to.opencl, lanes)}({text})"

    # -- units ----------------------------------------------------------------------------------

    def dot4(self, acc: Term, a: Term, b: Term, most: int) -> str:
        """Return i32 sums with four products of bytes added to each lane."""
        helper = self.use("hb_dot4" if most > 127 else "hb_dot4_small")

        def one(k: int) -> str:
            four = [t.text if acc.lanes == 1 else components(t.text, 4 * k, 4) for t in (a, b)]
            return f"{helper}({component(acc.text, k, acc.lanes)}, {', '.join(four)})"

        return self.each(vector("int", acc.lanes), acc.lanes, one)

    def dotbf16(self, acc: Term, a: Term, b: Term) -> str:
        """Return f32 sums with two products of bf16 added to each lane, one after the other."""
        wide = self.use("hb_from_bf16")

        def one(k: int) -> str:
            total = component(acc.text, k, acc.lanes)
            for lane in (2 * k, 2 * k + 1):
                x, y = (f"{wide}({component(t.text, lane, a.lanes)})" for t in (a, b))
                total = f"fma({x}, {y}, {total})"
            return total

        return self.each(vector("float", acc.lanes), acc.lanes, one)

    def exchange(self, a: Term, mask: int) -> str:
        """Return the values of the work-item whose number in the sub-group is ours XOR `mask`."""
        kind, size = self.held(a.dtype, 1), held_bytes(a.dtype, self.half)
        helper = self.use("hb_exchange" if size <= 4 else "hb_exchange_long")
        word = "int" if size == 4 else "long"

        def one(k: int) -> str:
            lane = component(a.text, k, a.lanes)
            if size >= 4:
                return f"as_{kind}({helper}(as_{word}({lane}), {mask}u))"
            if a.dtype is dt.f16:
                return f"as_half((ushort){helper}(as_ushort({lane}), {mask}u))"
            return f"({kind}){helper}({lane}, {mask}u)"

        if a.narrow:
            return f"(long){helper}((long){a.text}, {mask}u)"
        if a.dtype is dt.boolean and a.lanes > 1:
            return self.each(
                vector("char", a.lanes),
                a.lanes,
                lambda k: f"(char){helper}({component(a.text, k, a.lanes)}, {mask}u)",
            )
        return self.each(self.held(a.dtype, a.lanes), a.lanes, one)
