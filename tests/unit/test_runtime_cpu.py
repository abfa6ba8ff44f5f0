"""The worker pool: every unit once, in order, equal bits, quiet when idle, safe to fork."""

import contextlib
import ctypes
import os
import threading
import time
import warnings
from collections.abc import Iterator

import numpy as np
import pytest

from homebox.engine.codegen.jit import Jit
from homebox.engine.runtime import runtime_cpu
from homebox.engine.runtime.runtime_cpu import ROW, Pool
from homebox.errors import EngineError

# args {counts}: count every unit
COUNT = """
define void @count(ptr %args, i64 %lo, i64 %hi) {
entry:
  %counts = load ptr, ptr %args
  br label %loop
loop:
  %i = phi i64 [ %lo, %entry ], [ %next, %loop ]
  %at = getelementptr i64, ptr %counts, i64 %i
  %old = atomicrmw add ptr %at, i64 1 monotonic
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %hi
  br i1 %more, label %loop, label %out
out:
  ret void
}
"""
# args {from, to, n}: to[i] = from[i] + from[n-1-i]: every unit needs two others' work of before
MIRROR = """
define void @mirror(ptr %args, i64 %lo, i64 %hi) {
entry:
  %to.at = getelementptr i64, ptr %args, i64 1
  %n.at = getelementptr i64, ptr %args, i64 2
  %from = load ptr, ptr %args
  %to = load ptr, ptr %to.at
  %n = load i64, ptr %n.at
  %last = sub i64 %n, 1
  br label %loop
loop:
  %i = phi i64 [ %lo, %entry ], [ %next, %loop ]
  %j = sub i64 %last, %i
  %a.at = getelementptr i64, ptr %from, i64 %i
  %b.at = getelementptr i64, ptr %from, i64 %j
  %c.at = getelementptr i64, ptr %to, i64 %i
  %a = load i64, ptr %a.at
  %b = load i64, ptr %b.at
  %c = add i64 %a, %b
  store i64 %c, ptr %c.at
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %hi
  br i1 %more, label %loop, label %out
out:
  ret void
}
"""
# args {arrived, met}: each of two units waits for the other, but not for ever
MEET = """
define void @meet(ptr %args, i64 %lo, i64 %hi) {
entry:
  %met.at = getelementptr i64, ptr %args, i64 1
  %met = load ptr, ptr %met.at
  %arrived = load ptr, ptr %args
  %old = atomicrmw add ptr %arrived, i64 1 seq_cst
  br label %loop
loop:
  %turn = phi i64 [ 0, %entry ], [ %next, %again ]
  %now = load atomic i64, ptr %arrived seq_cst, align 8
  %both = icmp sge i64 %now, 2
  br i1 %both, label %yes, label %again
again:
  %next = add i64 %turn, 1
  %more = icmp slt i64 %next, 2000000000
  br i1 %more, label %loop, label %out
yes:
  %before = atomicrmw add ptr %met, i64 1 seq_cst
  br label %out
out:
  ret void
}
"""
# args {n, count, met}: unit 0 is held up until all others are done, but not for ever
STALL = """
define void @stall(ptr %args, i64 %lo, i64 %hi) {
entry:
  %count.at = getelementptr i64, ptr %args, i64 1
  %met.at = getelementptr i64, ptr %args, i64 2
  %n = load i64, ptr %args
  %count = load ptr, ptr %count.at
  %met = load ptr, ptr %met.at
  %others = sub i64 %n, 1
  br label %unit
unit:
  %i = phi i64 [ %lo, %entry ], [ %next, %done ]
  %held = icmp eq i64 %i, 0
  br i1 %held, label %loop, label %other
other:
  %old = atomicrmw add ptr %count, i64 1 seq_cst
  br label %done
loop:
  %turn = phi i64 [ 0, %unit ], [ %turn.next, %again ]
  %now = load atomic i64, ptr %count seq_cst, align 8
  %all = icmp sge i64 %now, %others
  br i1 %all, label %yes, label %again
again:
  %turn.next = add i64 %turn, 1
  %more = icmp slt i64 %turn.next, 200000000
  br i1 %more, label %loop, label %done
yes:
  store i64 1, ptr %met
  br label %done
done:
  %next = add i64 %i, 1
  %rest = icmp slt i64 %next, %hi
  br i1 %rest, label %unit, label %out
out:
  ret void
}
"""
# args {flag}: raise the flag
RAISE = """
define void @raise(ptr %args, i64 %lo, i64 %hi) {
  %flag = load ptr, ptr %args
  store atomic i32 1, ptr %flag seq_cst, align 4
  ret void
}
"""
# args {x, arrived, met}: x[i] *= 0.5 for floats that are denormal then; units meet like in `meet`
HALVE = (
    MEET.replace("@meet", "@meet_inside").replace("define void", "define internal void")
    + """
define void @halve(ptr %args, i64 %lo, i64 %hi) {
  %x = load ptr, ptr %args
  %rest = getelementptr i64, ptr %args, i64 1
  call void @meet_inside(ptr %rest, i64 %lo, i64 %hi)
  %at = getelementptr float, ptr %x, i64 %lo
  %old = load volatile float, ptr %at
  %new = fmul float %old, 5.000000e-01
  store volatile float %new, ptr %at
  ret void
}
"""
)
MODE = """
declare void @llvm.x86.sse.ldmxcsr(ptr)
declare void @llvm.x86.sse.stmxcsr(ptr)
define i64 @mode(i64 %new) {
  %at = alloca i64
  store i64 0, ptr %at
  call void @llvm.x86.sse.stmxcsr(ptr %at)
  %old = load i64, ptr %at
  store i64 %new, ptr %at
  call void @llvm.x86.sse.ldmxcsr(ptr %at)
  ret i64 %old
}
"""


@pytest.fixture(scope="module")
def jit() -> Jit:
    return Jit()


@pytest.fixture(scope="module")
def kernels(jit: Jit) -> dict[str, int]:
    return jit.load(
        {
            "count": COUNT,
            "mirror": MIRROR,
            "meet": MEET,
            "raise": RAISE,
            "halve": HALVE,
            "stall": STALL,
        }
    )


@contextlib.contextmanager
def pool_of(threads: int, jit: Jit) -> Iterator[Pool]:
    pool = Pool(threads, jit)
    try:
        yield pool
    finally:
        pool.close()


class Program:
    """A launch list under construction; keeps the argument arrays alive."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, int, int]] = []
        self.kept: list[np.ndarray] = []

    def add(self, function: int, arguments: list[int], units: int, chunk: int) -> None:
        array = np.array(arguments, np.int64)
        self.kept.append(array)
        self.rows.append((function, array.ctypes.data, units, chunk))

    def launches(self) -> np.ndarray:
        return np.array(self.rows, np.int64).reshape(-1, 4)


SIZES = [(1, 1), (0, 1), (5, 1), (64, 8), (63, 8), (1, 100), (1000, 7), (17, 0), (3, -4), (-2, 1)]


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 7])
def test_every_unit_runs_exactly_once(threads: int, jit: Jit, kernels: dict[str, int]) -> None:
    counts = np.zeros((len(SIZES), 1000), np.int64)
    program = Program()
    for row, (units, chunk) in zip(counts, SIZES):
        program.add(kernels["count"], [row.ctypes.data], units, chunk)
    launches, rounds = program.launches(), 200
    with pool_of(threads, jit) as pool:
        for _ in range(rounds):
            assert pool.run(launches) == len(SIZES)
    for row, (units, _) in zip(counts, SIZES):
        assert (row[: max(units, 0)] == rounds).all()
        assert not row[max(units, 0) :].any()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_thousands_of_tiny_launches_in_order(
    threads: int, jit: Jit, kernels: dict[str, int]
) -> None:
    n, steps = 9, 3000
    program = Program()
    memory = np.zeros((2, n), np.int64)
    for step in range(steps):
        here, there = memory[step % 2], memory[1 - step % 2]
        program.add(kernels["mirror"], [here.ctypes.data, there.ctypes.data, n], n, 1)
    launches = program.launches()
    expected = np.arange(n)
    with np.errstate(over="ignore"):
        for _ in range(steps):
            expected = expected + expected[::-1]
    with pool_of(threads, jit) as pool:
        for _ in range(3):
            memory[0] = np.arange(n)
            pool.run(launches)
            assert np.array_equal(memory[steps % 2], expected)


def meeting(kernels: dict[str, int]) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    words = np.zeros(2, np.int64)
    program = Program()
    program.add(kernels["meet"], [words.ctypes.data, words.ctypes.data + 8], 2, 1)
    return program.launches(), words, program.kept


def test_two_threads_work_at_the_same_time(jit: Jit, kernels: dict[str, int]) -> None:
    launches, words, kept = meeting(kernels)
    with pool_of(2, jit) as pool:
        pool.run(launches)
        assert words.tolist() == [2, 2]
        time.sleep(0.05)  # the worker sleeps now, and is woken
        words[:] = 0
        pool.run(launches)
        assert words.tolist() == [2, 2]
    assert kept


def test_others_do_the_work_of_a_thread_that_is_held_up(jit: Jit, kernels: dict[str, int]) -> None:
    """As when another process has its core: it delays the rest by the chunk that it holds."""
    n, words = 64, np.zeros(2, np.int64)
    for chunk, done in ((1, 1), (n // 2, 0)):  # the control: halves, as if each thread had its own
        words[:] = 0
        program = Program()
        address = words.ctypes.data
        program.add(kernels["stall"], [n, address, address + 8], n, chunk)
        with pool_of(2, jit) as pool:
            pool.run(program.launches())
        assert words.tolist() == [n - 1, done]


def test_units_may_begin_anywhere(jit: Jit, kernels: dict[str, int]) -> None:
    counts = np.zeros(100, np.int64)
    program = Program()
    program.add(kernels["count"], [counts.ctypes.data], 0, 3)
    rows = np.zeros((5, ROW), np.int64)
    rows[:, :4] = program.launches()
    ranges = [(0, 10), (10, 11), (40, 97), (5, 5), (9, 3)]
    rows[:, 4], rows[:, 2] = zip(*ranges)
    with pool_of(2, jit) as pool:
        assert pool.run(rows) == 5
    want = np.zeros(100, np.int64)
    want[[*range(11), *range(40, 97)]] = 1
    assert counts.tolist() == want.tolist()


def test_a_flag_suspends_between_launches_and_the_rest_gives_the_same_result(
    jit: Jit, kernels: dict[str, int]
) -> None:
    flag = np.zeros(1, np.int32)
    counts = np.zeros((10, 64), np.int64)
    program = Program()
    for number in range(10):
        if number == 4:
            program.add(kernels["raise"], [flag.ctypes.data], 1, 1)
        program.add(kernels["count"], [counts[number].ctypes.data], 64, 4)
    launches = program.launches()
    for threads in (1, 2, 3):
        flag[:], counts[:] = 0, 0
        with pool_of(threads, jit) as pool:
            assert pool.run(launches, stop=flag.ctypes.data) == 5
            assert (counts[:4] == 1).all()
            assert not counts[4:].any()
            assert pool.run(launches[5:], stop=flag.ctypes.data) == 0
            flag[:] = 0
            assert pool.run(launches[5:], stop=flag.ctypes.data) == 6
            assert (counts == 1).all()
            # The control: without a flag nothing stops.
            assert pool.run(launches) == 11


def test_profiled_times_belong_to_launches(jit: Jit, kernels: dict[str, int]) -> None:
    counts = np.zeros(200_000, np.int64)
    program = Program()
    for units in (10, 200_000, 10):
        program.add(kernels["count"], [counts.ctypes.data], units, 1000)
    with pool_of(2, jit) as pool:
        times = np.min([pool.run_profiled(program.launches()) for _ in range(5)], axis=0)
    assert times.shape == (3,)
    assert (times >= 0).all()
    assert times[1] > 10 * times[[0, 2]].max()


def test_wrong_launch_lists_are_refused(jit: Jit) -> None:
    with pool_of(2, jit) as pool:
        assert pool.run(np.zeros((0, 4), np.int64)) == 0
        for wrong in (
            np.zeros((1, 3), np.int64),
            np.zeros(4, np.int64),
            np.zeros((1, 4), np.int32),
            np.zeros((4, 8), np.int64)[:, ::2],
        ):
            with pytest.raises(EngineError, match="launch list"):
                pool.run(wrong)


def test_several_python_threads_may_run_programs(jit: Jit, kernels: dict[str, int]) -> None:
    counts = np.zeros((4, 32), np.int64)
    with pool_of(3, jit) as pool:

        def work(row: np.ndarray) -> None:
            program = Program()
            for _ in range(5):
                program.add(kernels["count"], [row.ctypes.data], 32, 3)
            for _ in range(200):
                pool.run(program.launches())

        threads = [threading.Thread(target=work, args=(row,)) for row in counts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (counts == 1000).all()


def cpu_seconds(ident: int) -> float:
    return time.clock_gettime(time.pthread_getcpuclockid(ident))


@pytest.mark.parametrize("patient", [False, True])
def test_idle_workers_sleep(
    patient: bool, jit: Jit, kernels: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if patient:  # the control: a worker that spins for long does use its core
        monkeypatch.setattr(runtime_cpu, "_SPIN_SECONDS", 0.2)
    launches, _words, kept = meeting(kernels)
    with pool_of(2, jit) as pool:
        pool.run(launches)
        before = [cpu_seconds(i) for i in pool.worker_idents()]
        time.sleep(0.3)
        used = [cpu_seconds(i) - b for i, b in zip(pool.worker_idents(), before)]
    assert len(used) == 1
    assert (max(used) > 0.02) == patient
    assert kept


def test_closing_ends_the_workers_and_running_starts_new_ones(
    jit: Jit, kernels: dict[str, int]
) -> None:
    launches, words, kept = meeting(kernels)
    pool = Pool(2, jit)
    assert pool.worker_idents() == []
    for _ in range(3):
        words[:] = 0
        pool.run(launches)
        assert words.tolist() == [2, 2]
        assert len(pool.worker_idents()) == 1
        pool.close()
        assert pool.worker_idents() == []
    assert kept


def test_a_forgotten_pool_sends_its_workers_home(jit: Jit, kernels: dict[str, int]) -> None:
    launches, _words, kept = meeting(kernels)
    pool = Pool(2, jit)
    pool.run(launches)
    workers = list(pool._workers)
    del pool
    for worker in workers:
        worker.join(10)
        assert not worker.is_alive()
    assert kept


def test_denormals_survive_whatever_the_caller_has_set(jit: Jit, kernels: dict[str, int]) -> None:
    if jit.target.arch != "x86_64":
        pytest.skip("the test sets the mode with an x86 instruction")
    mode = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(jit.load({"mode": MODE})["mode"])
    smallest = np.float32(2.0**-126)  # the smallest normal number; half of it is denormal
    x, words = np.full(2, smallest), np.zeros(2, np.int64)
    program = Program()
    program.add(kernels["halve"], [x.ctypes.data, words.ctypes.data, words.ctypes.data + 8], 2, 1)
    launches = program.launches()
    flush = 0x9FC0  # flush results to zero, read denormals as zero
    normal = mode(flush)
    try:
        with pool_of(2, jit) as pool:
            pool.run(launches)  # the worker is born from a thread that flushes
            after = mode(flush)
            direct = np.full(2, smallest)
            words[0] = 2
            program.kept[0][0] = direct.ctypes.data
            ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(
                kernels["halve"]
            )(program.kept[0].ctypes.data, 0, 1)
    finally:
        mode(normal)
    assert after & 0xFFC0 == flush & 0xFFC0  # the caller's mode is put back
    assert x.view(np.uint32).tolist() == [0x00400000, 0x00400000]
    assert direct.view(np.uint32).tolist()[0] == 0  # the control: without the pool it is flushed


def in_child(work: object) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is the point
        child = os.fork()
    if child == 0:
        code = 1
        try:
            code = work()  # type: ignore[operator]
        finally:
            os._exit(code)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return -9


def test_a_forked_child_starts_afresh(jit: Jit, kernels: dict[str, int]) -> None:
    launches, words, kept = meeting(kernels)
    with pool_of(2, jit) as pool:
        pool.run(launches)

        def work() -> int:
            words[:] = 0
            fresh = pool.worker_idents() == []
            pool.run(launches)
            added = Jit().load({"two": "define i64 @two() { ret i64 2 }"})["two"]
            two = ctypes.CFUNCTYPE(ctypes.c_int64)(added)()
            pool.close()
            return 0 if fresh and words.tolist() == [2, 2] and two == 2 else 1

        assert in_child(work) == 0
        words[:] = 0
        pool.run(launches)
        assert words.tolist() == [2, 2]
    assert kept


def test_a_fork_in_the_middle_of_a_program(jit: Jit, kernels: dict[str, int]) -> None:
    counts = np.zeros(64, np.int64)
    program = Program()
    for _ in range(2000):
        program.add(kernels["count"], [counts.ctypes.data], 64, 4)
    launches = program.launches()
    ending = threading.Event()
    with pool_of(2, jit) as pool:

        def busy() -> None:
            while not ending.is_set():
                pool.run(launches)

        thread = threading.Thread(target=busy)
        thread.start()
        try:

            def work() -> int:
                mine = np.zeros(64, np.int64)
                own = Program()
                own.add(kernels["count"], [mine.ctypes.data], 64, 4)
                pool.run(own.launches())
                pool.close()
                return 0 if (mine == 1).all() else 1

            for _ in range(5):
                assert in_child(work) == 0
        finally:
            ending.set()
            thread.join()


def test_the_process_has_one_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    first = runtime_cpu.pool()
    assert runtime_cpu.pool() is first
    assert runtime_cpu.pool(first.threads) is first
    other = runtime_cpu.pool(first.threads + 1)
    assert other.threads == first.threads + 1
    assert runtime_cpu.pool() is other
    assert runtime_cpu.pool(first.threads) is not other
