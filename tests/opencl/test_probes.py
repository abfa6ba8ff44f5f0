"""Probes find what a device does right; what it does wrong is refused by name, the rest works."""

import dataclasses
import json
import math
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from homebox.engine.opencl import probe_sources, probes
from homebox.engine.opencl.probe_sources import Probe, kernel, standard_probes
from homebox.engine.opencl.probes import Place, all_probes, place_of, probe, probe_place
from homebox.engine.simt.target import UNITS
from homebox.errors import DeviceError

if TYPE_CHECKING:
    from homebox.engine.opencl.platform import Found

ONE = pytest.mark.parametrize("cl_entry", ["intel"], indirect=True)  # what no runtime decides
PATIENCE = 4.0  # seconds that a trial may take here; a busy machine compiles slowly


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEBOX_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def place(cl_entry: "Found") -> Place:
    return place_of(cl_entry.device)


def named(name: str) -> Probe:
    return next(each for each in standard_probes() if each.name == name)


def body_probe(name: str, body: str, expected: bytes, unit: str = "") -> Probe:
    return Probe(name, name, kernel(body), bytes(4096), expected, unit=unit)


def spoiled(probe: Probe, old: str, new: str, **changes: Any) -> Probe:
    """Return a probe whose kernel is wrong: what a driver makes of it that miscompiles."""
    assert old in probe.source
    return dataclasses.replace(probe, source=probe.source.replace(old, new), **changes)


CRASH = body_probe("crash", "  *(__global volatile int *)(ulong)(16 + i) = 1;", bytes(4), "dot4")
HANG = body_probe(
    "hang", "  __global volatile int *at = FOUND(int);\n  while (at[0] != 77) at[1] = 1;", bytes(8)
)
RIGHT = body_probe("right", "  FOUND(int)[i] = 7;", np.full(1024, 7, np.int32).tobytes(), "half")


def test_every_device_is_probed_and_found_usable(cl_entry: "Found") -> None:
    asked: list[str] = []
    found = probe(cl_entry.device, report=asked.append)
    assert found.unusable == ""
    assert found.strict
    assert found.units <= set(UNITS)
    assert found.group >= 64 and found.local_memory >= 32768
    assert [result.name for result in found.results if result.name in asked] == asked
    if "Intel" in cl_entry.platform:
        assert {"half", "subgroup", "dot4"} <= found.units
        assert found.sub_group == 16
        assert "-DHB_DOT4=1" in found.options
    else:
        assert found.units == frozenset()
        assert found.sub_group == 1


@ONE
def test_results_are_kept_on_disk_until_something_changes(cl_entry: "Found") -> None:
    place = place_of(cl_entry.device)
    first = probe_place(place, [RIGHT])
    asked: list[str] = []
    assert probe_place(place, [RIGHT], report=asked.append) == first
    assert asked == []
    newer = dataclasses.replace(place, driver="another version")
    probe_place(newer, [RIGHT], report=asked.append)
    other = dataclasses.replace(RIGHT, source=RIGHT.source + "\n")
    probe_place(place, [other], report=asked.append)
    probe_place(place, [RIGHT], again=True, report=asked.append)
    assert asked == ["right"] * 3


# -- drivers that do something wrong ---------------------------------------------------------------


def test_a_miscompiled_unit_is_refused_by_name_and_the_rest_works(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    fma = named("fma")
    wrong_sum = "fma(a, b, c) + (i == 5 ? 1.0f : 0.0f)"
    names = {"name": "a broken unit", "family": "broken", "unit": "dot4"}
    broken = spoiled(fma, "fma(a, b, c)", wrong_sum, **names)
    caplog.set_level("WARNING")
    found = probe_place(place, [broken, RIGHT])
    (wrong,) = found.refusals()
    assert wrong.name == "a broken unit" and wrong.suspicious
    assert "a broken unit is not used: wrong numbers" in caplog.text
    expected = np.frombuffer(fma.expected, np.float32)[5]
    assert wrong.reason.startswith("wrong numbers: 1 of 1024; the first, number 5, should be ")
    assert str(expected) in wrong.reason
    assert found.units == {"half"}
    # Control: the same kernel passes where its wrong answer is what is expected.
    numbers = np.frombuffer(fma.expected, np.float32).copy()
    numbers[5] += 1
    blind = dataclasses.replace(broken, expected=numbers.tobytes())
    assert probe_place(place, [blind]).units == {"dot4"}


@ONE
def test_a_driver_that_crashes_costs_one_unit(place: Place) -> None:
    found = probe_place(place, [CRASH, RIGHT], seconds=PATIENCE)
    (refused,) = found.refusals()
    assert refused.name == "crash"
    assert refused.reason.startswith("the driver crashed (SIGSEGV)") and refused.suspicious
    assert found.units == {"half"}


@ONE
def test_without_a_process_of_its_own_the_crash_would_end_this_one(place: Place) -> None:
    script = (
        "import sys, json, pyopencl as cl\n"
        "from homebox.engine.opencl.probe_child import Trials, find_device\n"
        "place, source = json.loads(sys.argv[1])\n"
        "trials = Trials(cl, find_device(cl, *place))\n"
        "trials.run(source, [], bytes(4096), 4, ((1024,), (64,)))\n"
    )
    where = [place.platform, place.version, place.name, place.ordinal]
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps([where, CRASH.source])], capture_output=True
    )
    assert done.returncode == -signal.SIGSEGV


@ONE
def test_a_driver_that_hangs_costs_one_unit(place: Place) -> None:
    found = probe_place(place, [HANG, RIGHT], seconds=PATIENCE)
    (refused,) = found.refusals()
    assert refused.name == "hang"
    assert refused.reason == f"the driver gave no answer within {PATIENCE:g} s"
    assert found.units == {"half"}


def test_source_that_does_not_compile_is_refused_with_the_compilers_words(place: Place) -> None:
    broken = body_probe("nonsense", "  FOUND(int)[i] = no_such_function(1);", bytes(4))
    (refused,) = probe_place(place, [broken]).refusals()
    assert "no_such_function" in refused.reason and not refused.suspicious
    assert "\n" not in refused.reason and ".cl:" not in refused.reason


@ONE
def test_a_device_that_is_gone_is_an_error_that_is_not_kept(place: Place) -> None:
    gone = dataclasses.replace(place, name="no such device")
    for _ in range(2):
        with pytest.raises(DeviceError, match="no such device cannot be opened: no device"):
            probe_place(gone, [RIGHT])


@ONE
def test_a_driver_that_only_crashes_is_left_alone_soon(place: Place) -> None:
    crashes = [dataclasses.replace(CRASH, name=f"{i}", family=f"{i}") for i in range(6)]
    found = probe_place(place, [*crashes, RIGHT], seconds=PATIENCE)
    reasons = [result.reason.partition(":")[0] for result in found.results]
    assert reasons == ["the driver crashed (SIGSEGV)"] * 4 + ["not tried"] * 3


def test_a_device_without_correct_fma_is_not_used(place: Place) -> None:
    fma = named("fma")
    found = probe_place(place, [spoiled(fma, "fma(a, b, c)", "a * b + c"), RIGHT])
    assert found.unusable.startswith("fma: wrong numbers")
    assert not found.strict
    assert probe_place(place, [fma, RIGHT]).unusable == ""


@ONE
def test_that_a_device_cannot_be_used_is_not_kept(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its memory may have been full; once it is not, nobody should have to say so."""
    fma, tell = named("fma"), probes.Child.refusal
    monkeypatch.setattr(probes.Child, "refusal", lambda *_: "OUT_OF_RESOURCES")
    assert probe_place(place, [fma]).unusable == "fma: OUT_OF_RESOURCES"
    monkeypatch.setattr(probes.Child, "refusal", tell)
    assert probe_place(place, [fma]).unusable == ""
    monkeypatch.setattr(probes.Child, "refusal", lambda *_: "asked again")
    assert probe_place(place, [fma]).unusable == "", "what it can do is kept"


# -- families --------------------------------------------------------------------------------------


def test_local_memory_that_does_not_reach_others_would_be_seen(place: Place) -> None:
    memory = named("local memory")
    unread = spoiled(memory, "sum += box[k * size + (l ^ 32)]", "sum += box[k * size + l]")
    assert "wrong numbers" in probe_place(place, [unread]).unusable


@ONE
def test_the_first_way_that_passes_is_taken_and_its_options_stay(place: Place) -> None:
    tell = kernel("  FOUND(int)[i] = WAY;", "#ifndef WAY\n#error no way\n#endif\n")
    seven = RIGHT.expected
    ways = [
        Probe("first", "way", tell, bytes(4), seven, unit="half"),
        Probe("second", "way", tell, bytes(4), seven, unit="half", options=("-DWAY=7",)),
        Probe("third", "way", tell, bytes(4), seven, unit="half", options=("-DWAY=8",)),
        Probe("user", "user", tell, bytes(4), seven, unit="dot4"),
        Probe("other", "other", tell, bytes(4), seven, options=("-DWAY=9",)),
    ]
    found = probe_place(place, ways)
    assert found.options == ("-DWAY=7",)
    assert [(each.name, each.passed) for each in found.results] == [
        *[("first", False), ("second", True), ("user", True), ("other", False)]
    ]
    assert found.results[-1].reason == "-DWAY=7 is in use"


@ONE
def test_a_work_group_that_the_device_does_not_allow_is_a_refusal(place: Place) -> None:
    small = dataclasses.replace(place, group=32)
    found = probe_place(small, [RIGHT])
    assert found.group == 32
    assert "only 32 work-items" in found.refusals()[0].reason


# -- what is expected ------------------------------------------------------------------------------


def test_expected_sums_are_rounded_once() -> None:
    """Against exact rational arithmetic."""
    a, b, c = probe_sources._three(3)
    for x, y, z, found in zip(a, b, c, probe_sources.fma32(a, b, c), strict=True):
        assert found == rounded(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)))


def rounded(exact: Fraction) -> float:
    """Round to 24 bits, to nearest, ties to even; for numbers far from the ends of the range."""
    if not exact:
        return 0.0
    step = Fraction(2) ** (math.frexp(float(exact))[1] - 24)
    return float(round(exact / step) * step)


def test_one_rounding_and_two_differ_in_what_is_asked() -> None:
    a, b, c = probe_sources._three(3)
    assert np.count_nonzero(probe_sources.fma32(a, b, c) != a * b + c) > 200
    a, b, c = probe_sources._three(6)
    assert np.count_nonzero(probe_sources.fma32(a, b, c) != a * b + c) > 200


def test_denormals_are_really_asked_for() -> None:
    probe = named("denormals are kept")
    numbers = np.abs(np.frombuffer(probe.expected, np.float32))
    assert np.count_nonzero((numbers > 0) & (numbers < 2.0**-126)) > 2000


def test_probes_are_plain_data_with_units_that_exist() -> None:
    everything = all_probes()
    assert len({each.name for each in everything}) == len(everything)
    assert {each.unit for each in everything} - {""} == set(UNITS)
    assert all(each.expected and each.given for each in everything)
