"""Prints the dot operations of the linear IR for each CPU: `dot4` and `dotbf16` of 16 lanes.

LLVM does not find these instructions by itself, and the same text would be slow everywhere. The one
idea: a vector is cut into as many pieces as the target's registers need, each piece gets the best
instructions that the target has, and the pieces are joined; LLVM removes the cutting and joining.
Invariant: `dot4` is exact on every target, for all u8 and i8 operands.

    VNNI             vpdpbusd, one instruction
    AVX-512, AVX2    operands up to 127: vpmaddubsw, whose sums of two products fit 16 bits, then
                     vpmaddwd by one; beyond that it saturates, so even and odd bytes are widened to
                     16 bits and take one vpmaddwd each
    AArch64          usdot (i8mm); sdot (dotprod); otherwise smull of bytes up to 127, whose sums
                     of two fit 16 bits, or smull and smlal of widened bytes; then addp
    BF16             vdpbf16ps, bfdot; otherwise both halves as float32, even ones first
"""

from typing import Protocol

from homebox.engine.codegen.cpu import CpuTarget
from homebox.engine.codegen.linear import Kernel

SAFE = 127  # 2 * 127 * 128 is the largest sum of two products that 16 bits hold
SHORT_LIMIT = 32767
BRACKETS = frozenset({"loop", "endloop", "if", "endif"})


class Text(Protocol):
    """What prints a kernel: it names results and keeps the declarations of what is called."""

    def temp(self, text: str) -> str:
        """Return the name of a new value."""

    def call(self, ret: str, function: str, types: list[str], values: list[str]) -> str:
        """Return the text of a call, and note its declaration."""


def dot4(w: Text, target: CpuTarget, lanes: int, values: list[str], most: int) -> str:
    """Return i32 `values[0]` plus 4 products a lane of u8 `values[1]` <= `most`, i8 `values[2]`."""
    n = _lanes(target)
    accs = _cut(w, values[0], lanes, n, "i32")
    left, right = (_cut(w, value, 4 * lanes, 4 * n, "i8") for value in values[1:])
    pieces = zip(accs, left, right, strict=True)
    return _join(w, [_dot4(w, target, n, acc, a, b, most) for acc, a, b in pieces], n, "i32")


# -- several products summed in 16 bits -----------------------------------------------------------


def chained(kernel: Kernel, target: CpuTarget) -> dict[int, int]:
    """Return the `get`, `dot4` and `set` that only add to a register, with the register's position.

    Where a target sums small products in 16 bits first, those of several such additions may stay
    there together: 15 * 128 * 2 fits 8 times.
    """
    short = target.arch == "x86_64" and target.vector != "generic" and not _has_vnni(target)
    short = short or (target.arch == "aarch64" and not _has_arm_dots(target))
    users: dict[int, list[int]] = {}
    for position, inst in enumerate(kernel.body):
        for source in inst.args:
            users.setdefault(source, []).append(position)
    found: dict[int, int] = {}
    for position, inst in enumerate(kernel.body):
        if not short or inst.op != "dot4" or 2 * bound(inst.arg) > SHORT_LIMIT:
            continue
        got, after = inst.args[0], users.get(position, [])
        if kernel.body[got].op != "get" or users[got] != [position] or len(after) != 1:
            continue
        register, (put,) = kernel.body[got].args[0], after
        if kernel.body[put].op != "set" or kernel.body[put].args[0] != register:
            continue
        between = kernel.body[got + 1 : put]
        if not any(x.op in BRACKETS or (x.args and x.args[0] == register) for x in between):
            found.update(dict.fromkeys((got, position, put), register))
    return found


def bound(most: int) -> int:
    """Return the largest sum of the two products that a `dot4` adds in 16 bits."""
    return 2 * 128 * most


def short_sums(
    w: Text, target: CpuTarget, lanes: int, a: str, b: str, before: list[list[str]] | None
) -> list[list[str]]:
    """Return 16-bit sums of products of a and b, added to those of before, piece by piece."""
    n = _lanes(target)
    left, right = (_cut(w, value, 4 * lanes, 4 * n, "i8") for value in (a, b))
    pieces = enumerate(zip(left, right, strict=True))
    return [_short(w, target, n, *each, before[i] if before else None) for i, each in pieces]


def settle(w: Text, target: CpuTarget, lanes: int, acc: str, sums: list[list[str]]) -> str:
    """Return i32 `acc` plus 16-bit sums of products."""
    n = _lanes(target)
    pieces = zip(_cut(w, acc, lanes, n, "i32"), sums, strict=True)
    return _join(w, [_settle(w, target, n, *each) for each in pieces], n, "i32")


def _short(
    w: Text, target: CpuTarget, n: int, a: str, b: str, before: list[str] | None
) -> list[str]:
    if target.arch == "aarch64":
        made = [_product(w, "i8", a, b, range(k, k + 8)) for k in (0, 8)]
    else:
        byte = f"<{4 * n} x i8>"
        function = {8: "llvm.x86.avx2.pmadd.ub.sw", 16: "llvm.x86.avx512.pmaddubs.w.512"}[n]
        made = [w.temp(w.call(f"<{2 * n} x i16>", function, [byte, byte], [a, b]))]
    if before is None:
        return made
    return [w.temp(f"add <{2 * n} x i16> {x}, {y}") for x, y in zip(before, made, strict=True)]


def _settle(w: Text, target: CpuTarget, n: int, acc: str, sums: list[str]) -> str:
    words, shorts = f"<{n} x i32>", f"<{2 * n} x i16>"
    if target.arch == "aarch64":
        name = "llvm.aarch64.neon.addp.v8i16"
        pairs = w.temp(w.call(shorts, name, [shorts, shorts], sums))
        name = "llvm.aarch64.neon.saddlp.v4i32.v8i16"
        long = w.temp(w.call(words, name, [shorts], [pairs]))
    else:
        long = _multiply_pairs(w, n, sums[0], _splat(2 * n, "i16", 1))
    return w.temp(f"add {words} {acc}, {long}")


# -- products of bf16 -----------------------------------------------------------------------------


def dotbf16(w: Text, target: CpuTarget, lanes: int, values: list[str]) -> str:
    """Return f32 `values[0]` plus 2 products a lane of bf16 `values[1]` and `values[2]`."""
    if target.has("avx512bf16") and lanes == 16:
        return _instruction_bf16(w, "llvm.x86.avx512bf16.dpbf16ps.512", 16, *values)
    if target.arch == "aarch64" and target.has("bf16"):
        accs = _cut(w, values[0], lanes, 4, "float")
        left, right = (_cut(w, value, 2 * lanes, 8, "i16") for value in values[1:])
        function = "llvm.aarch64.neon.bfdot.v4f32.v8bf16"
        pieces = zip(accs, left, right, strict=True)
        done = [_instruction_bf16(w, function, 4, acc, a, b) for acc, a, b in pieces]
        return _join(w, done, 4, "float")
    return _widened_bf16(w, target, lanes, values)


def _has_vnni(target: CpuTarget) -> bool:
    return target.has({"avx512": "avx512vnni", "avx2": "avxvnni"}.get(target.vector, "none"))


def _has_arm_dots(target: CpuTarget) -> bool:
    return target.has("dotprod") or target.has("i8mm")


def _lanes(target: CpuTarget) -> int:
    if target.arch == "aarch64":
        return 4
    return {"avx512": 16, "avx2": 8}.get(target.vector, 4)


# -- pieces ---------------------------------------------------------------------------------------


def _shuffle(w: Text, kind: str, a: str, b: str, indices: range) -> str:
    places = ", ".join(f"i32 {i}" for i in indices)
    return w.temp(f"shufflevector {kind} {a}, {kind} {b}, <{len(indices)} x i32> <{places}>")


def _cut(w: Text, value: str, count: int, piece: int, element: str) -> list[str]:
    if count == piece:
        return [value]
    kind = f"<{count} x {element}>"
    starts = range(0, count, piece)
    return [_shuffle(w, kind, value, "poison", range(s, s + piece)) for s in starts]


def _join(w: Text, parts: list[str], piece: int, element: str) -> str:
    while len(parts) > 1:
        pairs = zip(parts[::2], parts[1::2], strict=True)
        kind = f"<{piece} x {element}>"
        parts = [_shuffle(w, kind, a, b, range(2 * piece)) for a, b in pairs]
        piece *= 2
    return parts[0]


def _splat(lanes: int, element: str, value: int) -> str:
    return "<" + ", ".join([f"{element} {value}"] * lanes) + ">"


# -- 8-bit products -------------------------------------------------------------------------------


def _dot4(w: Text, target: CpuTarget, n: int, acc: str, a: str, b: str, most: int) -> str:
    """One piece of n lanes: whole registers of the target."""
    if target.arch == "aarch64":
        if _has_arm_dots(target):
            return _dot4_arm(w, target, acc, a, b, most)
        if most > SAFE:
            return _dot4_neon(w, acc, a, b)
        return _settle(w, target, n, acc, _short(w, target, n, a, b, None))
    words, byte = f"<{n} x i32>", f"<{4 * n} x i8>"
    if _has_vnni(target):
        function = f"llvm.x86.avx512.vpdpbusd.{32 * n}"
        return w.temp(w.call(words, function, [words, byte, byte], [acc, a, b]))
    if most <= SAFE and n >= 8:
        return _settle(w, target, n, acc, _short(w, target, n, a, b, None))
    for x, y in zip(_halves(w, n, a, signed=False), _halves(w, n, b, signed=True), strict=True):
        acc = w.temp(f"add {words} {acc}, {_multiply_pairs(w, n, x, y)}")
    return acc


def _halves(w: Text, n: int, value: str, *, signed: bool) -> tuple[str, str]:
    """Return the even and the odd bytes as 16-bit numbers."""
    kind = f"<{2 * n} x i16>"
    both = w.temp(f"bitcast <{4 * n} x i8> {value} to {kind}")
    eight = _splat(2 * n, "i16", 8)
    if signed:
        high = w.temp(f"shl {kind} {both}, {eight}")
        return w.temp(f"ashr {kind} {high}, {eight}"), w.temp(f"ashr {kind} {both}, {eight}")
    low = w.temp(f"and {kind} {both}, {_splat(2 * n, 'i16', 255)}")
    return low, w.temp(f"lshr {kind} {both}, {eight}")


def _multiply_pairs(w: Text, n: int, x: str, y: str) -> str:
    """Return n i32 sums of two neighbouring products of 16-bit numbers."""
    short, words = f"<{2 * n} x i16>", f"<{n} x i32>"
    function = {
        4: "llvm.x86.sse2.pmadd.wd",
        8: "llvm.x86.avx2.pmadd.wd",
        16: "llvm.x86.avx512.pmaddw.d.512",
    }[n]
    return w.temp(w.call(words, function, [short, short], [x, y]))


def _dot4_arm(w: Text, target: CpuTarget, acc: str, a: str, b: str, most: int) -> str:
    words, byte = "<4 x i32>", "<16 x i8>"

    def dot(name: str, *values: str) -> str:
        function = f"llvm.aarch64.neon.{name}.v4i32.v16i8"
        return w.temp(w.call(words, function, [words, byte, byte], list(values)))

    if target.has("i8mm"):
        return dot("usdot", acc, a, b)
    if most <= SAFE:
        return dot("sdot", acc, a, b)
    top = _splat(16, "i8", -128)
    signed = w.temp(f"xor {byte} {a}, {top}")  # a - 128, whose product with b lacks 128 b
    lacking = dot("sdot", "zeroinitializer", top, b)
    return w.temp(f"sub {words} {dot('sdot', acc, signed, b)}, {lacking}")


def _dot4_neon(w: Text, acc: str, a: str, b: str) -> str:
    """4 lanes without dot instructions, of bytes that may be above SAFE."""
    words = "<4 x i32>"
    even, odd = zip(_halves(w, 4, a, signed=False), _halves(w, 4, b, signed=True), strict=True)
    sums = []
    for half in (range(4), range(4, 8)):
        both = [_product(w, "i16", *each, half) for each in (even, odd)]
        sums.append(w.temp(f"add {words} {both[0]}, {both[1]}"))
    total = w.temp(w.call(words, "llvm.aarch64.neon.addp.v4i32", [words, words], sums))
    return w.temp(f"add {words} {acc}, {total}")


def _product(w: Text, element: str, x: str, y: str, part: range) -> str:
    """Return products of twice the width of the elements `part` of a whole register."""
    width = int(element[1:])
    kind, long = f"<{128 // width} x {element}>", f"<{len(part)} x i{2 * width}>"
    wide = []
    for value in (x, y):
        cut = _shuffle(w, kind, value, "poison", part)
        wide.append(w.temp(f"sext <{len(part)} x {element}> {cut} to {long}"))
    return w.temp(f"mul nsw {long} {wide[0]}, {wide[1]}")


# -- bf16 products --------------------------------------------------------------------------------


def _instruction_bf16(w: Text, function: str, n: int, acc: str, a: str, b: str) -> str:
    kinds = [f"<{n} x float>", *[f"<{2 * n} x bfloat>"] * 2]
    cast = [w.temp(f"bitcast <{2 * n} x i16> {f} to {kinds[1]}") for f in (a, b)]
    return w.temp(w.call(kinds[0], function, kinds, [acc, *cast]))


def _widened_bf16(w: Text, target: CpuTarget, n: int, values: list[str]) -> str:
    """Without the instruction: a product of two bf16 is exact in f32, so a sum rounds once."""
    words, floats = f"<{n} x i32>", f"<{n} x float>"
    acc, *factors = values
    fused = target.arch == "aarch64" or target.has("fma")
    bits = [w.temp(f"bitcast <{2 * n} x i16> {f} to {words}") for f in factors]
    for change in (
        f"shl {words} {{}}, {_splat(n, 'i32', 16)}",
        f"and {words} {{}}, {_splat(n, 'i32', -65536)}",
    ):
        x, y = (
            w.temp(f"bitcast {words} {w.temp(change.format(part))} to {floats}") for part in bits
        )
        if fused:
            acc = w.temp(w.call(floats, f"llvm.fma.v{n}f32", [floats] * 3, [x, y, acc]))
        else:
            acc = w.temp(f"fadd {floats} {acc}, {w.temp(f'fmul {floats} {x}, {y}')}")
    return acc
