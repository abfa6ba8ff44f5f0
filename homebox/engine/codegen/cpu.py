"""Which machine code this computer can run, and for which of it the engine generates.

One idea: a `CpuTarget` names everything that code generation depends on, so the same target gives
the same machine code everywhere. Invariant: every level computes the same bits in strict mode; a
level changes speed only. `HOMEBOX_CPU` forces a level that the machine has. The levels, best first:

    avx512-vnni   AVX-512 (F, BW, DQ, VL) with VNNI, and with BF16 where the processor has it
    avx512        the same without dot instructions
    avx-vnni      AVX2 with FMA and the 256-bit form of VNNI
    avx2          AVX2 with FMA
    generic       NEON with what else an AArch64 processor has; SSE2 on x86-64
"""

import math
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from homebox.errors import DeviceError

LEVELS = ("avx512-vnni", "avx512", "avx-vnni", "avx2", "generic")
_AVX2 = frozenset({"avx2", "fma"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
_NEEDS = {
    "avx512-vnni": _AVX512 | {"avx512vnni"},
    "avx512": _AVX512,
    "avx-vnni": _AVX2 | {"avxvnni"},
    "avx2": _AVX2,
    "generic": frozenset[str](),
}
VECTORS = ("avx512", "avx2", "generic")  # kinds of registers, on which tiles depend
_LANES = {"avx512": 16, "avx2": 8, "generic": 4}
# What Linux calls instructions that LLVM does not always list.
_ARM_WORDS = {"asimddp": "dotprod", "asimdhp": "fullfp16", "i8mm": "i8mm", "bf16": "bf16"}
# What must be off so that nothing above a level is chosen, by the beginnings of the names: dot
# instructions, tiles, and what is encoded with EVEX. AVX10 implies all of AVX-512.
_DOTS = ("avxvnni", "avx512vnni", "avx512bf16", "avx10", "amx")
_EVEX = ("avx512", "avx10", "amx", "evex512")
_OFF = {
    "avx512-vnni": (),
    "avx512": _DOTS,
    "avx-vnni": _EVEX,
    "avx2": (*_EVEX, "avxvnni"),
}


@dataclass(frozen=True, slots=True)
class CpuTarget:
    """What LLVM generates code for. `features` is LLVM's "+a,-b" list; `lanes_hint` counts f32."""

    arch: str  # "x86_64" or "aarch64"
    level: str
    name: str  # LLVM's name of the processor; it selects the scheduling model
    features: str
    lanes_hint: int
    triple: str

    @property
    def vector(self) -> str:
        """The kind of registers, one of VECTORS."""
        return vector_of(self.level)

    def has(self, feature: str) -> bool:
        """Say whether generated code may use an LLVM feature, for example "avx512vnni"."""
        return f"+{feature}" in self.features.split(",")


def vector_of(level: str) -> str:
    """Return the kind of registers of a level, one of VECTORS."""
    return {"avx512-vnni": "avx512", "avx-vnni": "avx2"}.get(level, level)


def import_llvm() -> Any:
    """Return `llvmlite.binding`, initialised; raise DeviceError if it cannot work here."""
    try:
        import llvmlite.binding as llvm
    except (ImportError, OSError) as error:
        raise DeviceError(
            f"the CPU device needs llvmlite, which does not load here ({error}); "
            'install it with "pip install llvmlite"'
        ) from error
    try:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
    except Exception as error:
        raise DeviceError(f"llvmlite has no code generator for this machine: {error}") from error
    return llvm


def make_target(triple: str, name: str, features: dict[str, bool], level: str) -> CpuTarget:
    """Return the target of `level` on a processor with these LLVM features.

    Raises DeviceError if the processor lacks something that the level needs.
    """
    arch = {"amd64": "x86_64", "arm64": "aarch64"}.get(triple.split("-")[0], triple.split("-")[0])
    if arch not in ("x86_64", "aarch64"):
        raise DeviceError(f"no CPU kernels for {arch} processors; x86-64 and AArch64 are supported")
    missing = sorted(f for f in _NEEDS[level] if not features.get(f, False))
    if missing:
        raise DeviceError(
            f"CPU level {level} does not run on this processor ({name}): "
            f"it lacks {', '.join(missing)}; unset HOMEBOX_CPU or choose another level"
        )
    vector = vector_of(level)
    if level == "generic" and arch == "x86_64":
        return CpuTarget(arch, level, "x86-64", "", _LANES[vector], triple)
    off = _OFF.get(level, ())
    wanted = {key: on and not key.startswith(off) for key, on in features.items()}
    # Known names whose default includes more must lose it even if the host list is short.
    if vector == "avx2":
        wanted.update(dict.fromkeys(_AVX512 - _AVX2, False))
    if level in ("avx512", "avx2"):
        wanted.update(dict.fromkeys(("avxvnni", "avx512vnni", "avx512bf16"), False))
    if vector == "avx512":
        # Some processors are tuned to use half of their vector registers; kernels ask for all.
        wanted.update({"prefer-256-bit": False, "prefer-128-bit": False})
    flags = ",".join(("+" if on else "-") + key for key, on in sorted(wanted.items()))
    return CpuTarget(arch, level, name, flags, _LANES[vector], triple)


@cache
def _host() -> tuple[str, str, tuple[tuple[str, bool], ...]]:
    llvm = import_llvm()
    try:
        features = dict(llvm.get_host_cpu_features())
    except RuntimeError:  # LLVM cannot list them on every system; the name then says it all
        features = {}
    triple = llvm.get_process_triple()
    if triple.startswith("aarch64"):
        features.update(_arm_features(Path("/proc/cpuinfo")))
    return triple, llvm.get_host_cpu_name(), tuple(features.items())


def _arm_features(listing: Path) -> dict[str, bool]:
    """Return the dot instructions that all processors of a Linux system have, in LLVM's names."""
    try:
        lines = listing.read_text("utf-8", "replace").splitlines()
    except OSError:
        return {}
    each = [set(line.split(":", 1)[1].split()) for line in lines if line.startswith("Features")]
    common = set.intersection(*each) if each else set[str]()
    return {name: True for word, name in _ARM_WORDS.items() if word in common}


def detect() -> CpuTarget:
    """Return the best target of this machine, or the one that `HOMEBOX_CPU` asks for.

    Raises DeviceError for an unknown level and for one that this machine cannot run.
    """
    forced = os.environ.get("HOMEBOX_CPU", "")
    if forced and forced not in LEVELS:
        raise DeviceError(f"HOMEBOX_CPU={forced} is unknown; choose one of {', '.join(LEVELS)}")
    return target_of(forced or available()[0])


def available() -> tuple[str, ...]:
    """Return the levels that this machine can run, best first."""
    features = dict(_host()[2])
    return tuple(level for level in LEVELS if all(features.get(f, False) for f in _NEEDS[level]))


def target_of(level: str) -> CpuTarget:
    """Return this machine's target at a level; raise DeviceError if it cannot run that."""
    triple, name, features = _host()
    return make_target(triple, name, dict(features), level)


def cpu_count() -> int:
    """Return how many threads may run at once: the affinity mask, cut by a container's quota."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, min(len(os.sched_getaffinity(0)), _quota()))
    return os.cpu_count() or 1


def _quota() -> int:
    """Return the processors that a cgroup (version 2) grants, rounded up; a large number if all."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
        return math.ceil(int(limit) / int(period))
    except (OSError, ValueError, ZeroDivisionError):  # no cgroup, or "max"
        return 1 << 16
