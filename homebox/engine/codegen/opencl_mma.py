"""Matrix fragments in OpenCL C: one set of functions, a variant for each vendor's matrix units.

The one idea: a line of a factor is 32 bytes along k, whether they are 16 halves or 32 integers, and
every vendor deals out bytes, not numbers. So a variant is a table: how many pieces of how many
bytes a work-item loads from where, which sums it holds, and the instruction for each type. The
macro HB_MMA picks the variant, HB_MMA_WIDTH says how many work-items hold a tile. Invariant:
variant 0 needs nothing of the device and is always right; the others are used only where a probe
compiled them and found their products right.

What the tables rest on:
    ptx       PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type" and
              "mma.m16n8k32"; compute capability 8.0 and later
    wmma11    "How to accelerate AI applications on RDNA 3 using WMMA" (gpuopen.com); clang's tests
              builtins-amdgcn-wmma-w32.cl
    wmma12    "Using the Matrix Cores of AMD RDNA 4 architecture GPUs" (gpuopen.com); clang's tests
              builtins-amdgcn-gfx12-wmma-w32.cl
    dpas8/16  cl_intel_subgroup_matrix_multiply_accumulate of the Khronos registry
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from homebox.engine.codegen.linear import Inst, Kernel
from homebox.engine.codegen.opencl_access import Pointer
from homebox.engine.codegen.opencl_prelude import HELPERS, Helper

LINE = 32  # bytes along k
KINDS = ("f16", "bf16", "i8")
UNITS = {"f16": "mma_f16", "bf16": "mma_bf16", "i8": "mma_s8"}


@dataclass(frozen=True, slots=True)
class Pieces:
    """How a work-item loads its share of a factor: `count` pieces of `size` bytes.

    `at` is the byte where piece `i` of work-item `lane` begins, lines being `step` bytes apart: an
    expression of C, and of Python once `/` is read as `//`.
    """

    count: int
    size: int
    at: str


@dataclass(frozen=True, slots=True)
class Variant:
    """One vendor's matrix units: `own` sums a work-item, of row and column `row(e)`, `column(e)`.

    `multiply` holds the statements that add a product of each kind to `c`, from `a` and `b`.
    """

    number: int
    name: str
    width: int
    own: int
    row: str
    column: str
    a: Pieces
    b: Pieces
    multiply: dict[str, str]
    elsewhere: str  # the preprocessor's condition for devices that cannot be meant
    attribute: str = ""


# Compilers for other machines may crash on their instructions, so they must not see them.
_NOT_NVIDIA = (
    "defined(__AMDGCN__) || defined(cl_intel_subgroups)"
    " || (defined(__x86_64__) && !defined(__NV_CL_C_VERSION))"
)
_NOT_AMD = "!defined(__AMDGCN__)"
_NOT_INTEL = "!defined(cl_intel_subgroups)"
_WORD = {1: "uchar", 2: "ushort", 4: "uint", 16: "uint4"}


def _ptx(kind: str) -> str:
    """Return the two instructions of 16 x 8 sums each; a piece holds lines g and g + 8."""
    shape, types, letter = {
        "f16": ("m16n8k16", "f32.f16.f16.f32", "f"),
        "bf16": ("m16n8k16", "f32.bf16.bf16.f32", "f"),
        "i8": ("m16n8k32", "s32.s8.s8.s32", "r"),
    }[kind]
    lines = []
    for half in range(2):
        sums = ", ".join(f'"+{letter}"(c->e[{4 * half + i}])' for i in range(4))
        factors = ", ".join(
            f'"r"({part})'
            for part in [*(f"a->w[{i}]" for i in range(4)), f"b->w[{half}]", f"b->w[{half + 2}]"]
        )
        text = "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        name = f"mma.sync.aligned.{shape}.row.col.{types}"
        lines.append(f'__asm volatile("{name} {text}" : {sums} : {factors});')
    return "\n    ".join(lines)


def _wmma12_bytes() -> str:
    part = "__builtin_amdgcn_wmma_i32_16x16x16_iu8_w32_gfx12(true, {0}, true, {1}, c->v[0], false)"
    names = [tuple(f"as_int2({x}->w[0].{half})" for x in "ab") for half in ("lo", "hi")]
    return "\n    ".join(f"c->v[0] = {part.format(*pair)};" for pair in names)


def _wmma11_bytes() -> str:
    part = "__builtin_amdgcn_wmma_i32_16x16x16_iu8_w32(true, {0}, true, {1}, c->v[0], false)"
    names = [tuple(f"as_int4({x}->w[{i}])" for x in "ab") for i in range(2)]
    return "\n    ".join(f"c->v[0] = {part.format(*pair)};" for pair in names)


def _wmma11(kind: str, vector: str) -> str:
    pair = ", ".join(f"as_{vector}((uint8)({x}->w[0], {x}->w[1]))" for x in "ab")
    return f"c->v[0] = __builtin_amdgcn_wmma_f32_16x16x16_{kind}_w32({pair}, c->v[0]);"


def _wmma12(kind: str, vector: str) -> str:
    pair = ", ".join(f"as_{vector}({x}->w[0])" for x in "ab")
    return f"c->v[0] = __builtin_amdgcn_wmma_f32_16x16x16_{kind}_w32_gfx12({pair}, c->v[0]);"


def _dpas(kind: str, columns: int) -> str:
    """Return one instruction for each 8 rows and `columns` blocks of columns."""
    name = {"f16": "f16_f16_matrix_mad_k16", "bf16": "bf16_bf16_matrix_mad_k16"}
    function = "intel_sub_group_" + name.get(kind, "i8_i8_matrix_mad_k32")
    vector = "as_int8({})" if columns == 2 else "as_short8({})"
    lines = []
    for i in range(2):
        words = ", ".join(f"a->w[{8 * i + r}]" for r in range(8))
        share = vector.format(f"({'uint8' if columns == 2 else 'ushort8'})({words})")
        for j in range(columns):
            column = f"as_int8((uint8)(b->w[{2 * j}], b->w[{2 * j + 1}]))"
            place = f"c->v[{columns * i + j}]"
            lines.append(f"{place} = {function}({share}, {column}, {place});")
    return "\n    ".join(lines)


VARIANTS: tuple[Variant, ...] = (
    Variant(
        1,
        "ptx",
        width=32,
        own=8,
        row="lane / 4 + e / 2 % 2 * 8",
        column="lane % 4 * 2 + e % 2 + e / 4 * 8",
        a=Pieces(4, 4, "(lane / 4 + i % 2 * 8) * step + lane % 4 * 4 + i / 2 * 16"),
        b=Pieces(4, 4, "(lane / 4 + i % 2 * 8) * step + lane % 4 * 4 + i / 2 * 16"),
        multiply={kind: _ptx(kind) for kind in KINDS},
        elsewhere=_NOT_NVIDIA,
    ),
    Variant(
        2,
        "wmma11",
        width=32,
        own=8,
        row="e * 2 + lane / 16",
        column="lane % 16",
        a=Pieces(2, 16, "lane % 16 * step + i * 16"),
        b=Pieces(2, 16, "lane % 16 * step + i * 16"),
        multiply={
            "f16": _wmma11("f16", "half16"),
            "bf16": _wmma11("bf16", "short16"),
            "i8": _wmma11_bytes(),
        },
        elsewhere=_NOT_AMD,
    ),
    Variant(
        3,
        "wmma12",
        width=32,
        own=8,
        row="lane / 16 * 8 + e",
        column="lane % 16",
        # For bytes this deals out k otherwise than the instruction does, in a and b alike.
        a=Pieces(1, 16, "lane % 16 * step + lane / 16 * 16"),
        b=Pieces(1, 16, "lane % 16 * step + lane / 16 * 16"),
        multiply={
            "f16": _wmma12("f16", "half8"),
            "bf16": _wmma12("bf16", "short8"),
            "i8": _wmma12_bytes(),
        },
        elsewhere=_NOT_AMD,
    ),
    Variant(
        4,
        "dpas8",
        width=8,
        own=32,
        row="e % 8 + e / 16 * 8",
        column="lane + e / 8 % 2 * 8",
        a=Pieces(16, 4, "i * step + lane * 4"),
        b=Pieces(4, 16, "(lane + i / 2 * 8) * step + i % 2 * 16"),
        multiply={kind: _dpas(kind, 2) for kind in KINDS},
        elsewhere=_NOT_INTEL,
        attribute="__attribute__((intel_reqd_sub_group_size(8)))",
    ),
    Variant(
        5,
        "dpas16",
        width=16,
        own=16,
        row="e",
        column="lane",
        a=Pieces(16, 2, "i * step + lane * 2"),
        b=Pieces(2, 16, "lane * step + i * 16"),
        multiply={kind: _dpas(kind, 1) for kind in KINDS},
        elsewhere=_NOT_INTEL,
        attribute="__attribute__((intel_reqd_sub_group_size(16)))",
    ),
)
MMA_VARIANTS: dict[str, int] = {"scalar": 0, **{v.name: v.number for v in VARIANTS}}


def options(variant: str) -> list[str]:
    """Return the compiler's options that pick a variant by its name."""
    return [f"-DHB_MMA={MMA_VARIANTS[variant]}"]


def team(options: Sequence[str]) -> int:
    """Return how many work-items hold a tile with the variant that a build's options pick."""
    for variant in VARIANTS:
        if f"-DHB_MMA={variant.number}" in options:
            return variant.width
    return 32


# -- the text --------------------------------------------------------------------------------------

_HEAD = """
#ifndef HB_MMA
#define HB_MMA 0
#endif
#ifdef cl_khr_fp16
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#endif
#define HB_LANE ((int)(get_local_id(0) % HB_MMA_WIDTH))
// Local memory is written as elements of other types than it is read as.
typedef char hb_piece_i8 __attribute__((may_alias));
typedef ushort hb_piece_2 __attribute__((may_alias));
typedef uint hb_piece_4 __attribute__((may_alias));
typedef uint4 hb_piece_16 __attribute__((may_alias));
typedef float hb_piece_f32 __attribute__((may_alias));
typedef int hb_piece_i32 __attribute__((may_alias));
"""

# The numbers are read where they lie, by whoever needs them.
_SCALAR = """
#if HB_MMA == 0
#define HB_MMA_KERNEL
#define HB_OWN (256 / HB_MMA_WIDTH)
int hb_row(int lane, int e) { return (e * HB_MMA_WIDTH + lane) / 16; }
int hb_column(int lane, int e) { return (e * HB_MMA_WIDTH + lane) % 16; }
typedef struct { float e[HB_OWN]; } hb_sums_f32;
typedef struct { int e[HB_OWN]; } hb_sums_i32;
typedef struct { __local const uchar *at; int step; } hb_a;
typedef hb_a hb_b;
hb_a hb_load_a(__local const uchar *at, int step) {
    hb_a found = {at, step};
    return found;
}
hb_b hb_load_b(__local const uchar *at, int step) {
    return hb_load_a(at, step);
}
#define HB_PAIR(kind, a, b) \\
    __local const kind *x = (__local const kind *)((a)->at + hb_row(lane, e) * (a)->step); \\
    __local const kind *y = (__local const kind *)((b)->at + hb_column(lane, e) * (b)->step);
void hb_mma_f16(hb_sums_f32 *c, const hb_a *a, const hb_b *b) {
    int lane = HB_LANE;
    for (int e = 0; e < HB_OWN; e++) {
        HB_PAIR(half, a, b)
        for (int k = 0; k < 16; k++) c->e[e] = fma(vload_half(k, x), vload_half(k, y), c->e[e]);
    }
}
void hb_mma_bf16(hb_sums_f32 *c, const hb_a *a, const hb_b *b) {
    int lane = HB_LANE;
    for (int e = 0; e < HB_OWN; e++) {
        HB_PAIR(hb_piece_2, a, b)
        for (int k = 0; k < 16; k++)
            c->e[e] = fma(as_float((uint)x[k] << 16), as_float((uint)y[k] << 16), c->e[e]);
    }
}
void hb_mma_i8(hb_sums_i32 *c, const hb_a *a, const hb_b *b) {
    int lane = HB_LANE;
    for (int e = 0; e < HB_OWN; e++) {
        HB_PAIR(hb_piece_i8, a, b)
        for (int k = 0; k < 32; k++) c->e[e] += (int)x[k] * y[k];
    }
}
#endif
"""

_TAIL = """
void hb_zero_f32(hb_sums_f32 *c) {
    #pragma unroll
    for (int e = 0; e < HB_OWN; e++) c->e[e] = 0.0f;
}
void hb_zero_i32(hb_sums_i32 *c) {
    #pragma unroll
    for (int e = 0; e < HB_OWN; e++) c->e[e] = 0;
}
void hb_add(hb_sums_f32 *c, const hb_sums_f32 *parts) {
    #pragma unroll
    for (int e = 0; e < HB_OWN; e++) c->e[e] += parts->e[e];
}
void hb_scale(hb_sums_f32 *c, const hb_sums_i32 *whole, __local const hb_piece_f32 *rows,
              __local const hb_piece_f32 *columns) {
    int lane = HB_LANE;
    #pragma unroll
    for (int e = 0; e < HB_OWN; e++)
        c->e[e] = fma((float)whole->e[e],
                      rows[hb_row(lane, e)] * columns[hb_column(lane, e)], c->e[e]);
}
void hb_store_f32(__local hb_piece_f32 *at, int step, const hb_sums_f32 *c) {
    int lane = HB_LANE;
    #pragma unroll
    for (int e = 0; e < HB_OWN; e++) at[hb_row(lane, e) * step + hb_column(lane, e)] = c->e[e];
}
void hb_store_i32(__local hb_piece_i32 *at, int step, const hb_sums_i32 *c) {
    int lane = HB_LANE;
    #pragma unroll
    for (int e = 0; e < HB_OWN; e++) at[hb_row(lane, e) * step + hb_column(lane, e)] = c->e[e];
}
"""


def width_text(width: int) -> str:
    """Return the text that must come before `mma_text`: how many work-items hold a tile."""
    return f"#define HB_MMA_WIDTH {width}\n"


def mma_text() -> str:
    """Return all variants as OpenCL C; HB_MMA picks one, HB_MMA_WIDTH must be defined."""
    return "\n".join([_HEAD, _SCALAR, *map(_variant, VARIANTS), _TAIL])


def _variant(v: Variant) -> str:
    """Return one vendor's types, loads and products.

    With HB_MMA_LAYOUT defined the products are left out, so that loads and stores can be tried on
    any device.
    """
    return "\n".join(
        [
            f"#if HB_MMA == {v.number}",
            f"#if HB_MMA_WIDTH != {v.width}",
            f'#error "{v.name} needs sub-groups of {v.width}"',
            "#endif",
            f"#define HB_MMA_KERNEL {v.attribute}",
            f"#define HB_OWN {v.own}",
            f"int hb_row(int lane, int e) {{ return {v.row}; }}",
            f"int hb_column(int lane, int e) {{ return {v.column}; }}",
            f"typedef union {{ float8 v[{v.own // 8}]; float e[{v.own}]; }} hb_sums_f32;",
            f"typedef union {{ int8 v[{v.own // 8}]; int e[{v.own}]; }} hb_sums_i32;",
            *_loads("a", v.a),
            *_loads("b", v.b),
            "#ifndef HB_MMA_LAYOUT",
            f"#if {v.elsewhere}",
            f'#error "this device has no units for {v.name}"',
            "#endif",
            *(_product(kind, text) for kind, text in v.multiply.items()),
            "#endif",
            "#endif",
        ]
    )


def _loads(side: str, pieces: Pieces) -> list[str]:
    word = _WORD[pieces.size]
    return [
        f"typedef struct {{ {word} w[{pieces.count}]; }} hb_{side};",
        f"hb_{side} hb_load_{side}(__local const uchar *at, int step) {{",
        "    int lane = HB_LANE;",
        f"    hb_{side} found;",
        "    #pragma unroll",
        f"    for (int i = 0; i < {pieces.count}; i++)",
        f"        found.w[i] = *(__local const hb_piece_{pieces.size} *)(at + ({pieces.at}));",
        "    return found;",
        "}",
    ]


def _product(kind: str, text: str) -> str:
    sums = "i32" if kind == "i8" else "f32"
    lines = [
        f"void hb_mma_{kind}(hb_sums_{sums} *c, const hb_a *a, const hb_b *b) {{",
        f"    {text}",
        "}",
    ]
    if "half" in text:  # such vectors exist only where the device computes in half precision
        lines = ["#ifdef cl_khr_fp16", *lines, "#endif"]
    return "\n".join(lines)


# -- statements ------------------------------------------------------------------------------------

HELPERS["hb_mma"] = Helper(mma_text())
HELPERS.update({f"hb_mma_{1 << k}": Helper(width_text(1 << k)) for k in range(7)})


class Writer(Protocol):
    """What prints a kernel: see `opencl.py`."""

    kernel: Kernel
    pointers: dict[int, Pointer]

    def use(self, helper: str) -> str:
        """Note that a helper of the prelude is called."""

    def line(self, text: str) -> None:
        """Add a statement."""

    def text_of(self, inst: Inst, place: int) -> str:
        """Return the text of an operand."""


def fragment(w: Writer, inst: Inst, position: int) -> None:
    """Print the statement of one fragment operation; fragments are variables of their own."""

    def name(place: int) -> str:
        return f"&f{inst.args[place]}"

    def place(pointer: int) -> str:
        return f"{w.pointers[inst.args[pointer]].name} + {w.text_of(inst, pointer + 1)}"

    body = w.kernel.body
    match inst.op:
        case "fragment_zero":
            w.use(f"hb_mma_{inst.arg}")  # before what it is for
            w.use("hb_mma")
            kind = inst.dtype.name
            w.line(f"hb_sums_{kind} f{position}; hb_zero_{kind}(&f{position});")
        case "fragment_a" | "fragment_b":
            side, step = inst.op[-1], inst.arg[0] * inst.dtype.size
            at = f"(__local const uchar *)({place(0)})"
            w.line(f"hb_{side} f{position} = hb_load_{side}({at}, {step});")
        case "mma":
            kind = body[inst.args[1]].dtype.name
            w.line(f"hb_mma_{kind}({name(0)}, {name(1)}, {name(2)});")
        case "fragment_add":
            w.line(f"hb_add({name(0)}, {name(1)});")
        case "fragment_scale":
            w.line(f"hb_scale({name(0)}, {name(1)}, {place(2)}, {place(4)});")
        case "fragment_store":
            w.line(f"hb_store_{inst.dtype.name}({place(0)}, {inst.arg}, {name(2)});")
