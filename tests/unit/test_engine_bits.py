"""The same bits with any number of threads and at every level of the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from homebox.engine.cpu import LEVELS, detect

RUNS = [("", "1"), ("", "3"), ("avx2", "2"), ("avx2", "7"), ("generic", "4")]


def printed(repository: Path, level: str, threads: str) -> str:
    environment = {**os.environ, "HOMEBOX_THREADS": threads, "PYTHONPATH": str(repository)}
    if level:
        environment["HOMEBOX_CPU"] = level
    command = [sys.executable, "-m", "tests.unit.engine_bits"]
    done = subprocess.run(
        command, cwd=repository, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_bits_depend_neither_on_threads_nor_on_the_cpu(repository: Path) -> None:
    best = LEVELS.index(detect().level)
    wanted = printed(repository, "", "1")
    assert len(wanted.splitlines()) == 4
    tried = 0
    for level, threads in RUNS[1:]:
        if level and LEVELS.index(level) < best:
            continue  # this machine cannot run it
        assert printed(repository, level, threads) == wanted, (level, threads)
        tried += 1
    if tried < 2:
        pytest.skip("this machine runs the generic level only")


def test_the_digest_sees_a_single_bit() -> None:
    import numpy as np

    from tests.unit.engine_bits import digest

    one = np.ones(5, np.float32)
    other = one.copy()
    other[3] = np.nextafter(other[3], np.float32(2))
    assert digest([one]) != digest([other]) and digest([one]) == digest([one.copy()])
