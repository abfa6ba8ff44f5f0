"""Measures the machine's roof: the rates that no kernel can exceed, to judge kernels by.

Small kernels in our own linear IR run on the worker pool: one reads memory far larger than the
caches, the others keep independent accumulators busy with one operation each. The best of several
short runs counts, since others on the machine can only slow a run down. A product and its sum count
as two. Invariant: a rate is that of the CPU level in use, so a forced level has a roof of its own.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from homebox.engine.codegen.cpu import CpuTarget
from homebox.engine.codegen.jit import Jit
from homebox.engine.codegen.linear import Builder, Kernel, Value
from homebox.engine.codegen.llvm import render
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.device import HOST, Buffer
from homebox.engine.graph.dtype import DType
from homebox.engine.runtime.runtime_cpu import Pool, pool

LANES = 16
_LARGEST_CACHE = 32 << 20  # where the system does not tell
_CACHES = 16  # how many of the largest cache are read: with 4, a quarter came from the cache
_MOST_READ = 1 << 30
_BLOCK = 1 << 18  # bytes that one unit reads
TURNS = 4096  # of the hot loop, per unit
_UNITS = 16  # per thread and run: about a millisecond
_SECONDS = 0.025  # for each rate
_CACHE_SIZES = Path("/sys/devices/system/cpu/cpu0/cache")
_REGISTERS = {16: 20, 8: 6, 4: 3}  # accumulators of 16 lanes by the lanes of a machine register
_OPERATIONS = {"f32": 2 * LANES, "bf16": 4 * LANES, "int8": 8 * LANES}  # of one instruction
_OPERANDS: dict[str, tuple[DType, int]] = {
    "f32": (dt.f32, LANES),
    "bf16": (dt.bf16, 2 * LANES),
    "int8": (dt.i8, 4 * LANES),
}


@dataclass(frozen=True, slots=True)
class Roof:
    """Rates of a number of threads: 1e9 bytes, operations or integer operations a second.

    What a CPU has no instruction for is measured as the engine computes it there.
    """

    threads: int
    read_gbs: float
    f32_gflops: float
    bf16_gflops: float
    int8_gops: float

    def compute(self, kind: str) -> float:
        """Return the rate for "f32", "bf16" or "int8"."""
        return {"f32": self.f32_gflops, "bf16": self.bf16_gflops, "int8": self.int8_gops}[kind]

    def best(self, other: "Roof") -> "Roof":
        """Return the higher of each rate of two measurements with the same number of threads."""
        mine, theirs = asdict(self), asdict(other)
        return Roof(**{name: max(mine[name], theirs[name]) for name in mine})


_known: dict[int, Roof] = {}
_lock = threading.Lock()


def roof(threads: int | None = None) -> Roof:
    """Return the roof of `threads` threads (default: the pool's), measured once per process."""
    count = pool().threads if threads is None else threads
    with _lock:
        if count not in _known:
            _known[count] = probe(count)
        return _known[count]


def probe(threads: int) -> Roof:
    """Measure now: about 0.4 s, and for that long 16 times the largest cache of memory."""
    jit = Jit()
    kernels = {"probe_read": reading_kernel(jit.target)}
    kernels |= {f"probe_{kind}": computing_kernel(jit.target, kind) for kind in _OPERATIONS}
    addresses = jit.load({name: render(k, name, jit.target) for name, k in kernels.items()})
    shared = pool()
    workers = shared if shared.threads == threads else Pool(threads, jit)
    try:
        sums = accumulators(jit.target)
        rates = {
            kind: _compute(workers, addresses[f"probe_{kind}"], operations * sums)
            for kind, operations in _OPERATIONS.items()
        }
        read = _read(workers, addresses["probe_read"])
    finally:
        if workers is not shared:
            workers.close()
    return Roof(threads, read, rates["f32"], rates["bf16"], rates["int8"])


def accumulators(target: CpuTarget) -> int:
    """Return how many sums of 16 lanes the computing kernels keep."""
    return _REGISTERS[target.lanes_hint]


# -- running --------------------------------------------------------------------------------------


def _fastest(run: Callable[[], object]) -> float:
    """Return the seconds of the fastest of several runs, after one to warm up."""
    run()
    end, best, runs = time.perf_counter() + _SECONDS, float("inf"), 0
    while runs < 3 or time.perf_counter() < end:
        began = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - began)
        runs += 1
    return best


def _compute(workers: Pool, address: int, operations: int) -> float:
    """Return 1e9 operations a second of a kernel with so many of them in a turn of its loop."""
    units = _UNITS * workers.threads
    source = Buffer(4 * LANES, dt.u8, device=HOST)
    seconds = _launched(workers, address, source, units)
    return units * TURNS * operations / seconds / 1e9


def _read(workers: Pool, address: int) -> float:
    """Return 1e9 bytes a second that all threads together read."""
    units = max(_bytes_to_read() // _BLOCK, 1)
    memory = Buffer(units * _BLOCK, dt.u8, device=HOST)
    memory.array.fill(1)  # pages that nobody wrote are all one page of zeros
    return units * _BLOCK / _launched(workers, address, memory, units) / 1e9


def _launched(workers: Pool, address: int, source: Buffer, units: int) -> float:
    """Return the seconds of one launch of a kernel with the parameters (source, sums)."""
    out = Buffer(LANES * units, dt.i32, device=HOST)
    variables = Buffer(1, dt.i32, device=HOST)
    pointers = np.array([source.address, out.address, variables.address], np.int64)
    launch = np.array([[address, pointers.ctypes.data, units, 1]], np.int64)
    return _fastest(lambda: workers.run(launch))


def _bytes_to_read() -> int:
    """Return how much memory is read: many of the largest cache, a small part of all memory."""
    sizes = [_LARGEST_CACHE]
    for path in _CACHE_SIZES.glob("index*/size"):
        text = path.read_text("ascii").strip()
        if text.endswith("K") and text[:-1].isdecimal():
            sizes.append(int(text[:-1]) << 10)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(_CACHES * max(sizes), _MOST_READ, memory // 16)


# -- kernels --------------------------------------------------------------------------------------


def reading_kernel(target: CpuTarget) -> Kernel:
    """Return a kernel whose units each read a block as several streams and keep its checksum."""
    b = Builder()
    source, out = b.param(dt.i32, 1, False), b.param(dt.i32, LANES, True)
    streams = target.lanes_hint // 2
    words = _BLOCK // 4
    turns = words // (streams * LANES)

    def turn(start: Value, counter: Value, sums: list[Value]) -> None:
        first = b.add(start, b.mul(counter, b.int(streams * LANES)))
        for i, total in enumerate(sums):
            got = b.load(source, b.add(first, b.int(i * LANES)), LANES)
            b.set(total, b.alu("xor", b.get(total), got))

    lo, hi = b.emit("lo", dt.i64), b.emit("hi", dt.i64)
    with b.loop(lo, hi) as unit:
        sums = [b.reg(b.const(0, dt.i32, LANES)) for _ in range(streams)]
        with b.loop(b.int(0), b.int(turns)) as counter:
            turn(b.mul(unit, b.int(words)), counter, sums)
        _keep(b, out, unit, sums, "xor")
    return b.kernel()


def computing_kernel(target: CpuTarget, kind: str) -> Kernel:
    """Return a kernel that does one operation on each accumulator in each turn of its loop."""
    b = Builder()
    element, lanes = _OPERANDS[kind]
    sums_of = dt.i32 if kind == "int8" else dt.f32
    source, out = b.param(element, lanes, False), b.param(sums_of, LANES, True)
    x = b.load(source, b.int(0), lanes)
    lo, hi = b.emit("lo", dt.i64), b.emit("hi", dt.i64)

    def operate(total: Value) -> Value:
        if kind == "f32":
            return b.alu("fma", x, x, total)
        if kind == "bf16":
            return b.emit("dotbf16", dt.f32, LANES, (total, x, x))
        # The sum itself is a factor, or a part of the work would leave the loop.
        return b.emit("dot4", dt.i32, LANES, (total, b.bitcast(total, dt.u8), x), 127)

    with b.loop(lo, hi) as unit:
        zero = b.const(0 if kind == "int8" else 0.0, sums_of, LANES)
        sums = [b.reg(zero) for _ in range(accumulators(target))]
        with b.loop(b.int(0), b.int(TURNS)):
            for total in sums:
                b.set(total, operate(b.get(total)))
        _keep(b, out, unit, sums, "add")
    return b.kernel()


def _keep(b: Builder, out: Value, unit: Value, sums: list[Value], join: str) -> None:
    """Write what a unit found, or the compiler would leave its work out."""
    total = b.get(sums[0])
    for each in sums[1:]:
        total = b.alu(join, total, b.get(each))
    b.store(out, b.mul(unit, b.int(LANES)), total)
