"""Measures an OpenCL device's roof: the rates that no kernel can exceed there, to judge kernels by.

Small kernels of our own copy and read memory far larger than the caches, and keep independent sums
busy with one operation each. The device's own clock times them, and the best of several short runs
counts, since others on the machine can only slow a run down. A product and its sum count as two.
Results are kept on disk per driver version. Invariant: only units that a probe found right are
measured; for the others there is no rate.
"""

import contextlib
import hashlib
import json
import os
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from homebox.engine.codegen.cache import DiskCache, cache_root
from homebox.engine.codegen.opencl_mma import VARIANTS, mma_text, width_text
from homebox.engine.codegen.opencl_prelude import HELPERS, prelude
from homebox.engine.graph.device import Device
from homebox.engine.inspection.roof import Roof, roof
from homebox.engine.opencl.probe_child import find_device
from homebox.engine.opencl.probes import Place, Probes, place_of

_MOST_BYTES = 256 << 20  # of the memory that is copied
_LEAST_BYTES = 8 << 20
_SHARE = 16  # of the device's memory, one part is used at most
_GROUP = 256
_VECTORS = 16  # of 16 bytes, that one work-item reads
_TURNS = 512  # of the hot loop
_SUMS = 8
_GROUPS_PER_UNIT = 32  # enough to hide the latency of every operation
_SECONDS = 0.05  # for each rate

_OPERATIONS = {"f32": 2, "half": 4, "int8": 8}  # of one operation on one sum
_UNITS = {"half": "half", "int8": "dot4"}
_TILES = {"mma_f16": "f16", "mma_bf16": "bf16", "mma_s8": "i8"}  # kinds of opencl_mma by unit
_TILE_SUMS = 4  # tiles that a team adds to in turn
_TILE_OPERATIONS = {"f16": 2 * 16**3, "bf16": 2 * 16**3, "i8": 2 * 32 * 16**2}  # of one product


@dataclass(frozen=True, slots=True)
class DeviceRoof:
    """Rates of a device: 1e9 bytes, operations or integer operations a second.

    None where the device was not found to have the unit.
    """

    copy_gbs: float  # bytes read and bytes written
    read_gbs: float
    f32_gflops: float
    half_gflops: float | None = None
    int8_gops: float | None = None
    mma_f16_gflops: float | None = None
    mma_bf16_gflops: float | None = None
    mma_s8_gops: float | None = None

    def compute(self, kind: str) -> float:
        """Return the rate for "f32", "bf16" or "int8"; f32's where there is no unit for it."""
        rates = {
            "f32": (self.f32_gflops,),
            "bf16": (self.mma_bf16_gflops, self.f32_gflops),
            "int8": (self.mma_s8_gops, self.int8_gops, self.f32_gflops),
        }
        return max(rate for rate in rates[kind] if rate)


_known: dict[Place, DeviceRoof] = {}


def roof_of(device: Any, probes: Probes) -> DeviceRoof:
    """Return the roof of a pyopencl device: from this process, the disk, or measured in 0.5 s."""
    place = place_of(device)
    if place not in _known:
        _known[place] = kept(place, probes) or _keep(place, probes, measure(device, probes))
    return _known[place]


def top_of(device: Device) -> Roof:
    """Return the roof of any device that programs run on, in the CPU's terms."""
    entry, probes = getattr(device, "entry", None), getattr(device, "probes", None)
    if entry is None or probes is None:
        return roof()
    found = roof_of(entry.device, probes)
    rates = (found.compute(kind) for kind in ("f32", "bf16", "int8"))
    return Roof(entry.units, found.read_gbs, *rates)


def measure(device: Any, probes: Probes) -> DeviceRoof:
    """Measure now; the device's memory is in use for that long."""
    import pyopencl as cl

    meter = _Meter(cl, device, probes)
    rates = {
        kind: meter.compute(kind)
        for kind in _OPERATIONS
        if kind not in _UNITS or _UNITS[kind] in probes.units
    }
    tiles = (meter.tiles(unit) if unit in probes.units else None for unit in _TILES)
    copied, read = meter.copy(), meter.read()
    return DeviceRoof(copied, read, rates["f32"], rates.get("half"), rates.get("int8"), *tiles)


class _Meter:
    """A queue with a clock, and the kernels."""

    def __init__(self, cl: Any, device: Any, probes: Probes) -> None:
        self._cl = cl
        self._context = cl.Context([device])
        profiling = cl.command_queue_properties.PROFILING_ENABLE
        self._queue = cl.CommandQueue(self._context, device, properties=profiling)
        self._options = list(probes.options)
        self._program = self._built(source(probes.units))
        self._group = min(_GROUP, probes.group)
        self._items = max(device.max_compute_units, 2) * _GROUPS_PER_UNIT * self._group
        size = min(_MOST_BYTES, device.max_mem_alloc_size, device.global_mem_size // _SHARE)
        step = 16 * _VECTORS * self._group
        self._bytes = max(size, _LEAST_BYTES) // step * step

    def _built(self, text: str) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # compilers' remarks
            program = self._cl.Program(self._context, text)
            return program.build(options=self._options, cache_dir=False)

    def copy(self) -> float:
        """Return 1e9 bytes a second, both read and written."""
        first, second = self._memory(self._bytes), self._memory(self._bytes)
        return self._rate(2 * self._bytes, "copy", self._bytes // 16, first, second)

    def read(self) -> float:
        """Return 1e9 bytes a second that are read."""
        items = self._bytes // (16 * _VECTORS)
        first, second = self._memory(self._bytes), self._memory(4 * items)
        return self._rate(self._bytes, "read", items, first, second)

    def compute(self, kind: str) -> float:
        """Return 1e9 operations a second of one of _OPERATIONS."""
        first, second = self._memory(64), self._memory(4 * self._items)
        count = self._items * _TURNS * _SUMS * _OPERATIONS[kind]
        return self._rate(count, kind, self._items, first, second)

    def tiles(self, unit: str) -> float:
        """Return 1e9 operations a second of one kind of matrix units."""
        kind, width = _TILES[unit], tile_width(self._options)
        kernel = self._cl.Kernel(self._built(tile_source(kind, width)), "roof_tiles")
        first, second = self._memory(2048), self._memory(4 * self._items)
        count = self._items // width * _TURNS * _TILE_SUMS * _TILE_OPERATIONS[kind]
        return float(count / self._best_of(kernel, self._items, first, second) / 1e9)

    def _rate(self, count: int, name: str, items: int, *memory: Any) -> float:
        """Return 1e9 of `count` a second, of which one run of a kernel does so many."""
        kernel = self._cl.Kernel(self._program, f"roof_{name}")
        return count / self._best_of(kernel, items, *memory) / 1e9

    def _memory(self, size: int) -> Any:
        memory = self._cl.Buffer(self._context, self._cl.mem_flags.READ_WRITE, size)
        # Pages that nobody wrote may all be one.
        self._cl.enqueue_fill_buffer(self._queue, memory, b"\x01\x02\x03\x04", 0, size)
        return memory

    def _best_of(self, kernel: Any, items: int, *memory: Any) -> float:
        """Return the seconds of the fastest of several runs."""
        kernel.set_args(*memory)
        end, best, runs = time.perf_counter() + _SECONDS, float("inf"), 0
        while runs < 4 or time.perf_counter() < end:
            event = self._cl.enqueue_nd_range_kernel(self._queue, kernel, (items,), (self._group,))
            event.wait()
            if runs:  # the first one loads the code and the pages
                best = min(best, event.profile.end - event.profile.start)
            runs += 1
        return float(max(best, 1)) / 1e9


# -- kernels --------------------------------------------------------------------------------------

_MEMORY = """
__kernel void roof_copy(__global const uint4 *from, __global uint4 *to) {
  to[get_global_id(0)] = from[get_global_id(0)];
}
__kernel void roof_read(__global const uint4 *from, __global uint *to) {
  const size_t i = get_global_id(0), step = get_global_size(0);
  uint4 sum = (uint4)(0);
  __attribute__((opencl_unroll_hint(VECTORS)))
  for (uint k = 0; k < VECTORS; k++) sum ^= from[i + k * step];
  to[i] = sum.x ^ sum.y ^ sum.z ^ sum.w;
}
"""

# The sum itself is a factor, or a compiler could do the work before the loop.
_COMPUTE = """
__kernel void roof_NAME(__global const TYPE *from, __global uint *to) {
  const size_t i = get_global_id(0);
  const TYPE x = from[0];
  TYPE SUMS_DECLARED;
  for (uint k = 0; k < TURNS; k++) { STEPS }
  to[i] = AS_UINT(SUMS_ADDED);
}
"""


def source(units: frozenset[str]) -> str:
    """Return the kernels for a device with these units."""
    kinds = {"f32": ("float", "fma(S, x, x)", "as_uint")}
    extra = "#pragma OPENCL FP_CONTRACT OFF\n"
    if "half" in units:
        extra += "#pragma OPENCL EXTENSION cl_khr_fp16 : enable\n"
        kinds["half"] = ("half2", "fma(S, x, x)", "as_uint")
    if "dot4" in units:
        extra += prelude(("hb_dot4",), HELPERS)
        kinds["int8"] = ("int", "hb_dot4(S, as_uchar4(S), as_char4(x))", "as_uint")
    text = extra + _MEMORY.replace("VECTORS", str(_VECTORS))
    for name, (kind, step, as_uint) in kinds.items():
        sums = [f"s{i}" for i in range(_SUMS)]
        parts = {
            "NAME": name,
            "TYPE": kind,
            "TURNS": str(_TURNS),
            "SUMS_DECLARED": ", ".join(
                f"{each} = x + ({kind})({i})" for i, each in enumerate(sums)
            ),
            "STEPS": " ".join(f"{each} = {step.replace('S', each)};" for each in sums),
            "SUMS_ADDED": " + ".join(sums),
            "AS_UINT": as_uint,
        }
        part = _COMPUTE
        for word, value in parts.items():
            part = part.replace(word, value)
        text += part
    return text


_TILE_KERNEL = """
HB_MMA_KERNEL
__kernel void roof_tiles(__global const uchar *from, __global uint *to) {
  __local uchar box[2048] __attribute__((aligned(16)));
  for (uint k = get_local_id(0); k < 2048; k += get_local_size(0)) box[k] = from[k];
  barrier(CLK_LOCAL_MEM_FENCE);
  const hb_a a = hb_load_a(box, 48);
  const hb_b b = hb_load_b(box + 1024, 48);
  DECLARE
  for (uint k = 0; k < TURNS; k++) { STEPS }
  to[get_global_id(0)] = as_uint(ADDED);
}
"""


def tile_width(options: Sequence[str]) -> int:
    """Return how many work-items hold a tile in the variant that these options pick."""
    given = {f"-DHB_MMA={each.number}": each.width for each in VARIANTS}
    return next((given[option] for option in options if option in given), 32)


def tile_source(kind: str, width: int) -> str:
    """Return a kernel that multiplies tiles of a kind."""
    sums, names = ("i32" if kind == "i8" else "f32"), [f"c{i}" for i in range(_TILE_SUMS)]
    parts = {
        "DECLARE": " ".join(f"hb_sums_{sums} {c}; hb_zero_{sums}(&{c});" for c in names),
        "TURNS": str(_TURNS),
        "STEPS": " ".join(f"hb_mma_{kind}(&{c}, &a, &b);" for c in names),
        "ADDED": " + ".join(f"{c}.e[0]" for c in names),
    }
    text = _TILE_KERNEL
    for word, value in parts.items():
        text = text.replace(word, value)
    half = "#pragma OPENCL EXTENSION cl_khr_fp16 : enable\n" if kind == "f16" else ""
    return half + width_text(width) + mma_text() + text


# -- on disk, and in another process --------------------------------------------------------------


def kept(place: Place, probes: Probes) -> DeviceRoof | None:
    """Return what was measured before with this driver, if it was."""
    if (found := _cache().get(_key(place, probes))) is not None:
        with contextlib.suppress(ValueError, TypeError):
            return DeviceRoof(**json.loads(found))
    return None


def _keep(place: Place, probes: Probes, found: DeviceRoof) -> DeviceRoof:
    _cache().put(_key(place, probes), json.dumps(asdict(found)).encode())
    return found


def _cache() -> DiskCache:
    return DiskCache(cache_root() / "probes")


def _key(place: Place, probes: Probes) -> str:
    parts = [asdict(place), sorted(probes.units), probes.options, source(probes.units)]
    text = json.dumps(parts, sort_keys=True) + mma_text() + Path(__file__).read_text("utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def request(place: Place, probes: Probes) -> list[str]:
    """Return the arguments of Python that run `main` for a device."""
    asked = {
        "place": asdict(place),
        "units": sorted(probes.units),
        "options": probes.options,
        "group": probes.group,
    }
    return ["-m", __name__, json.dumps(asked)]


def read_answer(text: str, place: Place, probes: Probes) -> DeviceRoof:
    """Read what `main` printed, and keep it."""
    return _keep(place, probes, DeviceRoof(**json.loads(text)))


def main(arguments: Sequence[str]) -> int:
    """Measure the device that the argument names; print the rates as JSON."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    import pyopencl as cl

    asked = json.loads(arguments[0])
    place = asked["place"]
    device = find_device(cl, place["platform"], place["version"], place["name"], place["ordinal"])
    probes = Probes(frozenset(asked["units"]), 1, asked["group"], 0, tuple(asked["options"]), ())
    json.dump(asdict(measure(device, probes)), answers)
    answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
