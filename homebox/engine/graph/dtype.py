"""Element types that the engine knows, and what they are called in numpy, LLVM IR and OpenCL C."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class DType:
    """One element type; `kind` is "f" (float), "i" (signed), "u" (unsigned) or "b" (bool).

    Each exists once, so they are compared by identity, which is quick.
    """

    name: str
    size: int
    kind: str
    numpy: str  # bf16 has no numpy type: it travels as its 16 bits
    llvm: str
    opencl: str

    @property
    def is_float(self) -> bool:
        """Whether this is a floating-point type."""
        return self.kind == "f"

    def to_numpy(self) -> np.dtype:
        """Return the numpy type that holds an element."""
        return np.dtype(self.numpy)

    def __repr__(self) -> str:
        return self.name


f32 = DType("f32", 4, "f", "float32", "float", "float")
f64 = DType("f64", 8, "f", "float64", "double", "double")
f16 = DType("f16", 2, "f", "float16", "half", "half")
# LLVM 22 cannot compile masked loads of its own 16-bit floats on every CPU, so these are bits.
bf16 = DType("bf16", 2, "f", "uint16", "i16", "ushort")
i8 = DType("i8", 1, "i", "int8", "i8", "char")
u8 = DType("u8", 1, "u", "uint8", "i8", "uchar")
i32 = DType("i32", 4, "i", "int32", "i32", "int")
u32 = DType("u32", 4, "u", "uint32", "i32", "uint")
i64 = DType("i64", 8, "i", "int64", "i64", "long")
boolean = DType("bool", 1, "b", "bool", "i1", "uchar")

ALL: tuple[DType, ...] = (f32, f64, f16, bf16, i8, u8, i32, u32, i64, boolean)


def from_numpy(dtype: np.dtype) -> DType:
    """Return the engine's type for a numpy type; raise TypeError if it has none."""
    for candidate in ALL:
        if candidate is not bf16 and candidate.to_numpy() == dtype:
            return candidate
    raise TypeError(f"the engine has no type for numpy's {dtype}")
