"""Which machine code this computer can run, and for which of it the engine generates.

One idea: a `CpuTarget` names everything that code generation depends on, so the same target gives
the same machine code everywhere. Levels are "avx512" (F, BW, DQ, VL), "avx2" (with FMA) and
"generic" (NEON on AArch64, SSE2 on x86-64). Invariant: every level computes the same bits in strict
mode; a level changes speed only. `HOMEBOX_CPU` forces a level that the machine has.
"""

import math
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from homebox.errors import DeviceError

LEVELS = ("avx512", "avx2", "generic")
_NEEDS = {
    "avx512": frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma"}),
    "avx2": frozenset({"avx2", "fma"}),
    "generic": frozenset[str](),
}
_LANES = {"avx512": 16, "avx2": 8, "generic": 4}
# What must be off so that nothing encoded with EVEX or for tiles is chosen at level avx2.
_ABOVE_AVX2 = ("avx512", "avx10", "amx", "evex512")


@dataclass(frozen=True, slots=True)
class CpuTarget:
    """What LLVM generates code for. `features` is LLVM's "+a,-b" list; `lanes_hint` counts f32."""

    arch: str  # "x86_64" or "aarch64"
    level: str
    name: str  # LLVM's name of the processor; it selects the scheduling model
    features: str
    lanes_hint: int
    triple: str

    def has(self, feature: str) -> bool:
        """Say whether generated code may use an LLVM feature, for example "avx512vnni"."""
        return f"+{feature}" in self.features.split(",")


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
    if level == "generic" and arch == "x86_64":
        return CpuTarget(arch, level, "x86-64", "", _LANES[level], triple)
    wanted = dict(features)
    if level == "avx2":
        for feature in wanted:
            if feature.startswith(_ABOVE_AVX2):
                wanted[feature] = False
        # Known names whose default includes AVX-512 must lose it even if the host list is short.
        wanted.update(dict.fromkeys(_NEEDS["avx512"] - _NEEDS["avx2"], False))
    if level == "avx512":
        # Some processors are tuned to use half of their vector registers; kernels ask for all.
        wanted.update({"prefer-256-bit": False, "prefer-128-bit": False})
    flags = ",".join(("+" if on else "-") + key for key, on in sorted(wanted.items()))
    return CpuTarget(arch, level, name, flags, _LANES[level], triple)


@cache
def _host() -> tuple[str, str, tuple[tuple[str, bool], ...]]:
    llvm = import_llvm()
    try:
        features = dict(llvm.get_host_cpu_features())
    except RuntimeError:  # LLVM cannot list them on every system; the name then says it all
        features = {}
    return llvm.get_process_triple(), llvm.get_host_cpu_name(), tuple(features.items())


def detect() -> CpuTarget:
    """Return the best target of this machine, or the one that `HOMEBOX_CPU` asks for.

    Raises DeviceError for an unknown level and for one that this machine cannot run.
    """
    triple, name, items = _host()
    features = dict(items)
    forced = os.environ.get("HOMEBOX_CPU", "")
    if forced:
        if forced not in LEVELS:
            raise DeviceError(f"HOMEBOX_CPU={forced} is unknown; choose one of {', '.join(LEVELS)}")
        return make_target(triple, name, features, forced)
    for level in LEVELS:
        if all(features.get(f, False) for f in _NEEDS[level]):
            return make_target(triple, name, features, level)
    return make_target(triple, name, features, "generic")


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
