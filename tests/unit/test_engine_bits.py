"""The same bits with any number of threads and at every level of the CPU."""

import os
import subprocess
import sys
from pathlib import Path

from homebox.engine.codegen.cpu import available

THREADS = {"avx512-vnni": "4", "avx512": "3", "avx-vnni": "5", "avx2": "7", "generic": "2"}


def printed(repository: Path, level: str, threads: str) -> set[str]:
    environment = {**os.environ, "HOMEBOX_CPU": level, "PYTHONPATH": str(repository)}
    command = [sys.executable, "-m", "tests.unit.engine_bits", threads]
    done = subprocess.run(
        command, cwd=repository, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines())


def test_bits_depend_neither_on_threads_nor_on_the_cpu(repository: Path) -> None:
    levels = available()
    wanted = printed(repository, levels[0], "1")
    assert len(wanted) == 4  # each program has one digest, also with several numbers of threads
    for level in levels[1:] or levels:
        assert printed(repository, level, THREADS[level]) == wanted, level


def test_the_digest_sees_a_single_bit() -> None:
    import numpy as np

    from tests.unit.engine_bits import digest

    one = np.ones(5, np.float32)
    other = one.copy()
    other[3] = np.nextafter(other[3], np.float32(2))
    assert digest([one]) != digest([other]) and digest([one]) == digest([one.copy()])
