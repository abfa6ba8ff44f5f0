"""The house itself: package data, lock file, make targets and the service's confinement."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest


def test_lock_file_pins_and_names_no_place(repository: Path) -> None:
    lines = (repository / "requirements.lock").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert len(pins) > 20
    assert [pin for pin in pins if not re.fullmatch(r"[\w.\-]+==[\w.!+]+", pin)] == []
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"]]
    wanted += [each for name in sorted({*extras} - {"bench", "parity"}) for each in extras[name]]
    pinned = {normal(pin.partition("==")[0]) for pin in pins}
    assert {normal(re.match(r"[\w.\-]+", item)[0]) for item in wanted} <= pinned  # type: ignore[index]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_make_has_the_promised_targets(repository: Path) -> None:
    for target in ("demo", "test", "test-opencl", "test-clients", "lint", "bench", "serve"):
        done = subprocess.run(
            ["make", "--dry-run", "--always-make", target],
            cwd=repository,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "-m venv .venv" in done.stdout
        assert "-c requirements.lock" in done.stdout


def test_readme_begins_with_the_two_commands_and_is_short(repository: Path) -> None:
    text = (repository / "README.md").read_text()
    commands = re.findall(r"^make (\w+)", text, re.MULTILINE)
    assert commands[:2] == ["demo", "test"]
    assert len(text.splitlines()) <= 200
    assert text.rstrip().endswith("```"), "the tree stands last"


def test_package_imports_where_linux_is_absent() -> None:
    program = (
        "import sys; sys.platform = 'win32'\n"
        "for name in ('fcntl', 'resource', 'termios', 'pwd', 'grp'): sys.modules[name] = None\n"
        "import homebox, homebox.config, homebox.errors\n"
        "import homebox.memory.state, homebox.memory.lineage, homebox.memory.ledger\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is absent")
def test_service_is_confined(repository: Path, tmp_path: Path) -> None:
    unit = repository / "configs" / "homebox.service"
    assert exposure(unit).returncode == 0, exposure(unit).stdout
    # Control: the same unit without its sandbox must be found too open.
    bare = tmp_path / "bare.service"
    kept = [
        line
        for line in unit.read_text().splitlines()
        if not line.startswith(("Protect", "Private", "Restrict", "System", "Capab", "Dynamic"))
    ]
    bare.write_text("\n".join(kept))
    assert exposure(bare).returncode != 0


def exposure(unit: Path) -> subprocess.CompletedProcess[str]:
    """Let systemd score the unit; it fails above 1.5 of 10."""
    return subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=15", str(unit)],
        capture_output=True,
        text=True,
    )
