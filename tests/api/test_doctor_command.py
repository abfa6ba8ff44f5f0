"""`homebox doctor` as people run it, on this machine with chosen OpenCL drivers."""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest

from homebox import cli

LIBRARY = "libintelocl.so"


@pytest.fixture
def drivers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only folder in which OpenCL drivers are looked for; it is empty."""
    pytest.importorskip("pyopencl")
    folder = tmp_path / "vendors"
    folder.mkdir()
    monkeypatch.setenv("OCL_ICD_VENDORS", str(folder))
    return folder


@pytest.fixture
def doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(["doctor", "--state", str(tmp_path / "state"), *arguments])
        return code, *capsys.readouterr()

    return run


def intel_runtime() -> str:
    try:
        files = importlib.metadata.files("intel-opencl-rt") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("Intel's OpenCL runtime is not installed (the extra opencl-test)")
    return next(str(f.locate().resolve()) for f in files if f.name == LIBRARY)


def test_without_drivers_the_processor_is_enough(drivers: Path, doctor: Any) -> None:
    code, out, err = doctor("--quick", "--json")
    found = json.loads(out)
    assert code == 0 and found["ok"] is True
    assert found["devices"] == [] and found["platforms"] == []
    assert found["loader"]["places"] == [str(drivers)]
    assert found["auto"]["device"] == "cpu"
    assert found["processor"]["level"] and found["processor"]["roof"] is None
    assert "asking OpenCL for its devices .." in err.splitlines()


def test_devices_are_listed_with_what_they_were_found_to_do(drivers: Path, doctor: Any) -> None:
    (drivers / "intel.icd").write_text(intel_runtime())
    (drivers / "broken.icd").write_text("libnosuchdriver.so.1")
    code, out, _ = doctor("--quick", "--json")
    found = json.loads(out)
    assert code == 0
    (device,) = found["devices"]
    assert (device["name"], device["kind"], device["used"]) == ("cl:0", "cpu", True)
    assert {"half", "subgroup", "dot4"} <= set(device["probes"]["units"])
    assert found["auto"]["device"] == "cpu" and "cl:0" in found["auto"]["why"]
    problems = {Path(icd["path"]).name: icd["problem"] for icd in found["loader"]["icds"]}
    assert problems["intel.icd"] == "" and "libnosuchdriver" in problems["broken.icd"]

    code, out, _ = doctor("--quick")
    lines = out.splitlines()
    assert max(map(len, lines[lines.index("Processor") :])) <= 100
    assert any(line.startswith("!!") and "broken.icd" in line for line in lines)
    assert any(line.startswith("ok  cl:0") for line in lines)
    assert any(line.startswith("--device auto takes cpu") for line in lines)


def test_a_driver_that_crashes_is_named_and_ends_nothing(
    drivers: Path, doctor: Any, tmp_path: Path
) -> None:
    """A library of C whose loading kills the process, as some drivers do on foreign machines."""
    import shutil
    import subprocess

    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) to make a crashing driver with")
    source, library = tmp_path / "crash.c", tmp_path / "libcrash.so"
    source.write_text(
        "#include <signal.h>\n#include <stdlib.h>\n"
        "__attribute__((constructor)) static void die(void) {\n"
        '  if (getenv("OCL_ICD_VENDORS")) raise(SIGSEGV);\n}\n'
    )
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    (drivers / "crash.icd").write_text(str(library))
    code, out, _ = doctor("--quick")
    assert code == 0
    assert f"!!  {drivers}/crash.icd" in out.replace("\n    ", " ")
    assert "crashed (signal 11)" in out.replace("\n    ", " ")
