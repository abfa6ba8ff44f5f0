"""Run launch lists on every core: a worker pool and a program walker in generated code.

A program is an array of launches, five 64-bit numbers each: {function, arguments, end of the units,
units per chunk, first unit}. One idea: threads do not own parts of a program. All of them walk the
same list; at each launch they take chunks of units from its counter until none is left, then wait
until all are done. A thread that the system takes off its core delays the others by at most the
chunk that it holds.

Memory order: taking a chunk is relaxed, since it publishes nothing. Finishing one adds to `done`
with acquire-release order, and nobody goes on before an acquire load sees all units in `done`; so
all that a launch wrote is visible to the next one. Opening and closing a program, and announcing a
sleeper, are sequentially consistent, because each is a store that must be seen before a load of
another word: a worker either is counted in `active` before the program closes, or sees it closed.

Invariant: every unit of every launch runs exactly once, after all units of earlier launches. The
number of threads decides who runs a unit and when, never what it computes; all threads
run with the default rounding and with denormals, whatever the caller has set.
"""

import atexit
import ctypes
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable

import numpy as np

from homebox.engine.codegen.cpu import cpu_count
from homebox.engine.codegen.jit import Jit, shared_jit
from homebox.engine.codegen.linear import KEPT_BYTES
from homebox.engine.graph.device import HOST, Buffer
from homebox.engine.graph.dtype import i64, u8
from homebox.engine.runtime.walker import COUNTER_WORDS, STATE_WORDS, walker_ir
from homebox.engine.runtime.walker import ROW as ROW
from homebox.errors import DeviceError, EngineError

_SPIN_SECONDS = 50e-6  # how long an idle worker stays awake before it sleeps
_MAX_THREADS = 1024

_FUNCTIONS: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "homebox_worker": (None, (ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)),
    "homebox_run": (
        ctypes.c_int64,
        (ctypes.c_void_p,) * 2 + (ctypes.c_int64,) + (ctypes.c_void_p,) * 4,
    ),
    "homebox_quit": (None, (ctypes.c_void_p,)),
    "homebox_spin": (None, (ctypes.c_int64,)),
}


def thread_count(asked: int | None = None) -> int:
    """Return `asked`, else $HOMEBOX_THREADS, else all cores that this process may use."""
    if asked is None:
        text = os.environ.get("HOMEBOX_THREADS", "")
        if not text:
            return min(cpu_count(), _MAX_THREADS)
        if not text.isdecimal():
            raise DeviceError(f"HOMEBOX_THREADS={text} is not a number of threads")
        asked = int(text)
    if not 1 <= asked <= _MAX_THREADS:
        raise DeviceError(f"{asked} threads asked for; choose 1 to {_MAX_THREADS}")
    return asked


class Pool:
    """Workers that run launch lists. The calling thread takes part, so `threads` - 1 are started.

    Workers start with the first program, spin for about 50 microseconds after one and then sleep.
    Several Python threads may call; their programs run one after the other.
    """

    def __init__(self, threads: int | None = None, jit: Jit | None = None) -> None:
        if sys.platform != "linux":
            raise DeviceError("the CPU device needs Linux; use an OpenCL device on this system")
        self.threads = thread_count(threads)
        self._functions = _load_walker(jit or shared_jit())
        self._spins = self._calibrate()
        self._lock = threading.Lock()
        self._workers: list[threading.Thread] = []
        self._state = Buffer(STATE_WORDS, i64, device=HOST)
        self._counters = Buffer(256 * COUNTER_WORDS, i64, device=HOST)
        self._kept = Buffer(KEPT_BYTES, u8, device=HOST)
        _pools.add(self)

    def run(self, launches: np.ndarray, stop: int = 0) -> int:
        """Run a program and return the number of launches completed.

        `launches` is (n, 5) int64, contiguous: function address, address of its arguments, end of
        the units, units per chunk, first unit; or (n, 4), where units begin with 0. A launch of no
        units is skipped. `stop` is the address of an int32, or 0:
        once it is not zero the program ends after the launch in progress, and
        `run(launches[result:])` later finishes it with the same bits.
        """
        return self._run(launches, stop, 0)

    def run_profiled(self, launches: np.ndarray) -> np.ndarray:
        """Run a program and return the nanoseconds of each launch, (n,) int64."""
        times = np.zeros((len(launches) + 1, 2), np.int64)  # seconds, nanoseconds
        self._run(launches, 0, times.ctypes.data)
        stamps = times[:, 0] * 1_000_000_000 + times[:, 1]
        return np.diff(np.maximum.accumulate(stamps))  # a launch of no units has no stamp

    def close(self) -> None:
        """Send the workers home; a later `run` starts new ones."""
        with self._lock:
            if self._workers:
                self._functions["homebox_quit"](self._state.address)
                for worker in self._workers:
                    worker.join()
            self._workers = []
            self._state = Buffer(STATE_WORDS, i64, device=HOST)

    def __del__(self) -> None:
        if getattr(self, "_workers", None):
            self._functions["homebox_quit"](self._state.address)

    def worker_idents(self) -> list[int]:
        """Return Python's identifiers of the worker threads that are alive."""
        return [w.ident for w in self._workers if w.ident is not None and w.is_alive()]

    def _run(self, launches: np.ndarray, stop: int, times: int) -> int:
        if launches.dtype != np.int64 or launches.ndim != 2 or launches.shape[1] not in (4, ROW):
            raise EngineError(
                f"a launch list is (n, {ROW}) int64, not {launches.shape} {launches.dtype}"
            )
        if not launches.flags.c_contiguous:
            raise EngineError("a launch list must be contiguous; copy it first")
        if launches.shape[1] != ROW:
            launches = np.pad(launches, ((0, 0), (0, ROW - launches.shape[1])))
        count = len(launches)
        if count == 0:
            return 0
        address = launches.__array_interface__["data"][0]
        with self._lock:
            if len(self._workers) < self.threads - 1:
                self._start_workers()
            if self._counters.count < count * COUNTER_WORDS:
                self._counters = Buffer(2 * count * COUNTER_WORDS, i64, device=HOST)
            run = self._functions["homebox_run"]
            done: int = run(
                self._state.address,
                address,
                count,
                self._counters.address,
                stop,
                times,
                self._kept.address,
            )
        return done

    def _start_workers(self) -> None:
        for number in range(len(self._workers) + 1, self.threads):
            worker = threading.Thread(
                target=_enter,
                args=(self._functions["homebox_worker"], self._state, self._spins),
                name=f"homebox-cpu-{number}",
                daemon=True,
            )
            worker.start()
            self._workers.append(worker)

    def _calibrate(self) -> int:
        """Return how many turns of the idle loop fill the spinning time; pauses differ by 50x."""
        turns, fastest = 2000, float("inf")
        for _ in range(3):
            begin = time.perf_counter()
            self._functions["homebox_spin"](turns)
            fastest = min(fastest, time.perf_counter() - begin)
        return max(1, int(turns * _SPIN_SECONDS / max(fastest, 1e-9)))

    def _reset(self) -> None:
        """Begin without workers in a forked child, where no thread and no holder of locks is."""
        self._lock = threading.Lock()
        self._workers = []
        self._state = Buffer(STATE_WORDS, i64, device=HOST)


def _enter(worker: Callable[..., int], state: Buffer, spins: int) -> None:
    """Be a worker; this frame keeps its memory alive as long as the worker uses it."""
    kept = Buffer(KEPT_BYTES, u8, device=HOST)
    worker(state.address, spins, kept.address)


def _load_walker(jit: Jit) -> dict[str, Callable[..., int]]:
    addresses = jit.load_module(walker_ir(jit.target.arch), tuple(_FUNCTIONS))
    return {
        name: ctypes.CFUNCTYPE(result, *arguments)(addresses[name])
        for name, (result, arguments) in _FUNCTIONS.items()
    }


_pools: "weakref.WeakSet[Pool]" = weakref.WeakSet()
_shared: Pool | None = None
_shared_lock = threading.Lock()


def pool(threads: int | None = None) -> Pool:
    """Return the pool of this process; another number of threads than before replaces it."""
    global _shared
    with _shared_lock:
        if _shared is None or (threads is not None and threads != _shared.threads):
            if _shared is not None:
                _shared.close()
            _shared = Pool(threads)
        return _shared


def _after_fork_in_child() -> None:
    global _shared_lock
    _shared_lock = threading.Lock()
    for each in list(_pools):
        each._reset()


def _at_exit() -> None:
    """Workers must be out of generated code before it is unmapped."""
    for each in list(_pools):
        each.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
