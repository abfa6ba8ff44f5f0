"""Killed at any instant of writing, a kept prefix is the old file or the new one."""

import subprocess
import sys
from pathlib import Path

from homebox.errors import DamagedPrefixError
from homebox.model.prefixes.prefix_folder import PrefixFolder
from tests.crash.prefix_process import NAME, PAGES, read


def killed(repository: Path, folder: Path, patch: str = "none") -> int:
    """Return at how many calls a writer was killed."""
    command = [sys.executable, "-m", "tests.crash.prefix_process", str(folder), patch]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_killed_writer_leaves_the_old_or_the_new(repository: Path, tmp_path: Path) -> None:
    count = killed(repository, tmp_path)
    assert count >= PAGES + 6
    found = []
    for number in range(count + 1):
        place = tmp_path / str(number)
        assert PrefixFolder(place, 1 << 20, spare=0).usable()
        assert [path.name for path in place.iterdir()] == [NAME]  # the rest was swept
        found.append(read(place))
    assert found == sorted(found)
    assert (found[0], found[-1]) == (1, 2)


def test_control_without_the_rename(repository: Path, tmp_path: Path) -> None:
    """A file that is written in place is half old and half new; the hashes find that."""
    count = killed(repository, tmp_path, "in place")
    broken = 0
    for number in range(count):
        try:
            read(tmp_path / str(number))
        except DamagedPrefixError:
            broken += 1
    assert broken > PAGES // 2
