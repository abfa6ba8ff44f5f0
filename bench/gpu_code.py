"""What GPU compilers make of the OpenCL kernels, without a GPU: registers, local memory, spills.

`python -m bench.gpu_code FILE.cl ..` compiles sources offline for the cards that homebox is for and
prints one line per kernel and card; a compiler that is missing is named. Debian has the compilers
(clang-19, libclc-19, intel-opencl-icd for ocloc); ptxas is in the package nvidia-cuda-nvcc. A
kernel that spills registers, or fits less than a few times on a multiprocessor, is slow anywhere.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

CLANG = ("clang-19", "clang-20", "clang-18", "clang")
LIBCLC = Path("/usr/lib/clc")
AMD = {"gfx1100": "7900XTX", "gfx1201": "9070XT"}
NVIDIA = {"sm_86": "3090", "sm_89": "4090"}
INTEL = {"dg2": "Arc A770"}


# The library for NVIDIA lacks conversions of half precision, which NVIDIA's own has. Ours hide all
# conversions of these names, so the others are there too.
_CONVERSIONS = """
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#define OVER __attribute__((overloadable, always_inline))
#define FROM(T, N) \\
OVER float##N convert_float##N(T##N v) { return __builtin_convertvector(v, float##N); }
#define TO(S, N) \\
OVER half##N convert_half##N##S(float##N v) { return __builtin_convertvector(v, half##N); }
#define ALL(N) FROM(half, N) FROM(char, N) FROM(uchar, N) FROM(short, N) FROM(ushort, N) \\
FROM(int, N) FROM(uint, N) TO(, N) TO(_rte, N)
ALL(2) ALL(4) ALL(8) ALL(16)
#define ONE(T) OVER float convert_float(T v) { return (float)v; }
ONE(half) ONE(char) ONE(uchar) ONE(short) ONE(ushort) ONE(int) ONE(uint) ONE(long) ONE(ulong)
OVER half convert_half(float v) { return (half)v; }
OVER half convert_half_rte(float v) { return (half)v; }
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One kernel on one card; `error` is what its compiler said if it refused the source."""

    kernel: str
    card: str
    registers: int | None = None
    spilled: int | None = None  # bytes of private memory
    local: int | None = None  # bytes of a work-group
    error: str = ""


def rows(source: str, options: Sequence[str] = ()) -> Iterator[Row]:
    """Compile one source for every card; `options` are those of an OpenCL build."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cl"
        path.write_text(source)
        name = next(iter(re.findall(r"__kernel\s+void\s+(\w+)", source)), "?")
        clang = next(filter(None, map(shutil.which, CLANG)), None)
        for card in AMD if clang else ():
            yield _amd(clang or "", path, name, card, options)
        for card in NVIDIA if clang else ():
            yield _nvidia(clang or "", path, name, card, options)
        if not clang:
            yield Row(name, "AMD, NVIDIA", error=f"none of {', '.join(CLANG)} is installed")
        for card in INTEL:
            yield _intel(path, name, card, options)


def _run(command: Sequence[str]) -> tuple[int, str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stdout + done.stderr


def _clang(clang: str, path: Path, target: Sequence[str], options: Sequence[str]) -> list[str]:
    # Vendors' own drivers say which extensions they have; offline all but Intel's are there, by
    # which kernels tell that they are compiled for Intel.
    return [
        *(clang, "-x", "cl", "-cl-std=CL3.0", "-O3", "-Xclang", "-finclude-default-header"),
        *(
            "-Xclang",
            "-cl-ext=+all,-cl_intel_subgroups",
            "-Wno-unused-command-line-argument",
            "-nogpulib",
        ),
        *("-Wno-linker-warnings", *target, *options, "-S", str(path), "-o"),
    ]


def _library(name: str) -> list[str]:
    found = LIBCLC / name
    link = ["-Xclang", "-mlink-builtin-bitcode", "-Xclang", str(found)]
    return link if found.exists() else []


def _first_error(text: str) -> str:
    found = [line for line in text.splitlines() if "error" in line or "fatal" in line]
    return (found or text.splitlines() or ["no words"])[0][:200]


def _from(text: str, mark: str) -> str:
    """Return what is said from the kernel on: helpers that it calls have figures of their own."""
    return text[max(text.find(mark), 0) :]


def _amd(clang: str, path: Path, name: str, card: str, options: Sequence[str]) -> Row:
    out = path.with_suffix(".s")
    # The library's functions of other cards of the family are the same ones.
    target = ["-target", "amdgcn-amd-amdhsa", f"-mcpu={card}", *_library("gfx1100-amdgcn--.bc")]
    code, said = _run([*_clang(clang, path, target, options), str(out)])
    if code:
        return Row(name, card, error=_first_error(said))
    text = _from(out.read_text(), f"\n{name}:")

    def number(pattern: str) -> int | None:
        found = re.search(pattern, text)
        return int(found[1]) if found else None

    return Row(
        name,
        card,
        number(r"; NumVgprs: (\d+)"),
        number(r"; ScratchSize: (\d+)"),
        number(r"; LDSByteSize: (\d+)"),
    )


def _nvidia(clang: str, path: Path, name: str, card: str, options: Sequence[str]) -> Row:
    out = path.with_suffix(".ptx")
    whole = path.with_suffix(".nvidia.cl")
    whole.write_text(_CONVERSIONS + path.read_text())
    target = ["-target", "nvptx64-nvidia-cuda", "-Xclang", "-target-cpu", "-Xclang", card]
    target += ["-Xclang", "-target-feature", "-Xclang", "+ptx78"]
    target += _library("nvptx64--nvidiacl.bc")
    code, said = _run([*_clang(clang, whole, target, options), str(out)])
    if code:
        return Row(name, card, error=_first_error(said))
    ptxas = shutil.which("ptxas")
    if ptxas is None:
        return Row(name, card, error="ptxas is not installed; the PTX was generated")
    code, said = _run([ptxas, "-v", f"-arch={card}", str(out), "-o", str(path.with_suffix(".bin"))])
    if code:
        return Row(name, card, error=_first_error(said))
    said = _from(said, f"Function properties for {name}")
    used = re.search(r"Used (\d+) registers", said)
    shared = re.search(r"(\d+) bytes smem", said)
    spilled = re.search(r"(\d+) bytes stack frame", said)
    return Row(
        name,
        card,
        int(used[1]) if used else None,
        int(spilled[1]) if spilled else 0,
        int(shared[1]) if shared else 0,
    )


def _intel(path: Path, name: str, card: str, options: Sequence[str]) -> Row:
    ocloc = shutil.which("ocloc")
    if ocloc is None:
        return Row(name, card, error="ocloc is not installed")
    words = " ".join(["-cl-std=CL3.0", *options])
    folder = str(path.parent / "out")
    command = [ocloc, "-file", str(path), "-device", card, "-options", words, "-out_dir", folder]
    code, said = _run(command)
    return Row(name, card, error="" if code == 0 else _first_error(said))


def main() -> None:
    """Print a JSON line for each source and card; exit with 1 if one was refused or spills."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs="+", type=Path)
    parser.add_argument("--options", default="", help="of the OpenCL build, in one string")
    args = parser.parse_args()
    bad = 0
    for path in args.sources:
        for row in rows(path.read_text(), args.options.split()):
            bad += bool(row.error or row.spilled)
            print(json.dumps({"file": path.name, **asdict(row)}), flush=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
