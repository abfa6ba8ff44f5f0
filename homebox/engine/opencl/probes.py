"""What an OpenCL device can do, found out by trying.

One idea: a unit is granted if a kernel that uses it compiles, runs and gives exactly the right
numbers, and is refused by name with the reason otherwise; the rest of the device stays in use.
Trials run in a process of their own (`probe_child.py`) with a limit of time, so a compiler that
crashes or hangs costs one unit, not the daemon. Results are kept on disk per platform, device,
driver version and the probes themselves, unless the device cannot be used at all. Invariant: what
a probe found decides speed and which kernels are possible, never what their numbers mean.
"""

import base64
import contextlib
import hashlib
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from homebox.engine.codegen.cache import DiskCache, cache_root
from homebox.engine.opencl import probe_child
from homebox.engine.opencl.probe_mma import mma_probes
from homebox.engine.opencl.probe_sources import REQUIRED, STRICT, Probe, standard_probes
from homebox.errors import DeviceError

log = logging.getLogger(__name__)

SECONDS = 30.0  # for one trial, of which a compiler may use most
_SECONDS_TO_START = 120.0
_LARGEST_GROUP = 256
_MOST_LOCAL = 65536
_MOST_LOST = 4  # crashes and hangs, after which a driver is asked nothing more

WRONG, LOST = "wrong numbers", "the driver "  # how refusals begin that are a driver's mistake
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one probe; `reason` says why it was refused."""

    name: str
    family: str
    passed: bool
    reason: str = ""

    @property
    def suspicious(self) -> bool:
        """Say whether the driver did something wrong, and does not merely lack something."""
        return not self.passed and self.reason.startswith((WRONG, LOST))


@dataclass(frozen=True, slots=True)
class Probes:
    """What a device was found to do."""

    units: frozenset[str]  # of simt.target.UNITS
    sub_group: int  # work-items of a sub-group; 1 if they cannot exchange values
    group: int  # work-items of a group at most, a power of two
    local_memory: int  # bytes per group
    options: tuple[str, ...]  # for every build
    results: tuple[Result, ...]

    def passed(self, family: str) -> bool:
        """Say whether one way to do this was found right."""
        return any(result.passed for result in self.results if result.family == family)

    def refusals(self) -> tuple[Result, ...]:
        """Return what was tried and did not pass."""
        return tuple(result for result in self.results if not result.passed)

    @property
    def unusable(self) -> str:
        """Why the device cannot be used at all; empty if it can."""
        for result in self.results:
            if result.family in REQUIRED and not self.passed(result.family):
                return f"{result.name}: {result.reason}"
        return ""

    @property
    def strict(self) -> bool:
        """Say whether float32 arithmetic is what the CPU computes, to the bit."""
        return not self.unusable and all(self.passed(family) for family in STRICT)


@dataclass(frozen=True, slots=True)
class Place:
    """Which device, in words that another process understands; `driver` only names results."""

    platform: str
    version: str
    name: str
    ordinal: int  # among devices of equal names
    driver: str
    group: int  # the most work-items that the device allows in a group
    local_memory: int


def probe(device: Any, *, again: bool = False, report: Report | None = None) -> Probes:
    """Return what a pyopencl device can do: from the disk, or by trying, which takes seconds.

    `again` forgets what the disk says; `report` is told what is tried. Raises DeviceError if the
    device cannot be opened.
    """
    return probe_place(place_of(device), all_probes(), again=again, report=report)


def all_probes() -> tuple[Probe, ...]:
    """Return everything that devices are asked, in order."""
    return (*standard_probes(), *mma_probes())


def probe_place(
    place: Place,
    probes: Sequence[Probe],
    *,
    again: bool = False,
    report: Report | None = None,
    seconds: float = SECONDS,
) -> Probes:
    """Do what `probe` does with these probes, none of which may take longer than `seconds`."""
    cache = DiskCache(cache_root() / "probes")
    key = _key(place, probes)
    if not again and (kept := cache.get(key)) is not None:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return _from_json(json.loads(kept))
    log.info("finding out what %s can do; with a new driver this takes some seconds", place.name)
    found = _try_all(place, probes, report or (lambda text: None), seconds)
    for result in found.refusals():
        level = logging.WARNING if result.suspicious else logging.DEBUG
        log.log(level, "%s: %s is not used: %s", place.name, result.name, result.reason)
    if not found.unusable:  # what may have been a card without memory left is asked again
        cache.put(key, json.dumps(_to_json(found)).encode())
    return found


def place_of(device: Any) -> Place:
    """Say where a pyopencl device is found."""
    import pyopencl as cl

    platform = device.platform
    alike = [
        other
        for each in cl.get_platforms()
        if (each.name, each.version) == (platform.name, platform.version)
        for other in _devices(cl, each)
        if other.name == device.name
    ]
    return Place(
        platform.name,
        platform.version,
        device.name,
        alike.index(device),
        device.driver_version,
        device.max_work_group_size,
        device.local_mem_size,
    )


def _devices(cl: Any, platform: Any) -> list[Any]:
    try:
        return list(platform.get_devices())
    except cl.Error:
        return []


# -- trying ---------------------------------------------------------------------------------------


def _try_all(place: Place, probes: Sequence[Probe], report: Report, seconds: float) -> Probes:
    results: list[Result] = []
    taken: dict[str, Probe] = {}
    options: list[str] = []
    with contextlib.closing(Child(place, seconds)) as child:
        for each in probes:
            if each.family in taken:
                continue
            if other := _conflict(each.options, options):
                results.append(Result(each.name, each.family, False, f"{other} is in use"))
                continue
            report(each.name)
            new = [option for option in each.options if option not in options]
            reason = child.refusal(each, (*options, *new))
            results.append(Result(each.name, each.family, not reason, reason))
            if not reason:
                taken[each.family] = each
                options += new
    granted = frozenset(each.unit for each in taken.values() if each.unit)
    sub_group = max((each.sub_group for each in taken.values()), default=0)
    group = 1
    while group * 2 <= min(place.group, _LARGEST_GROUP):
        group *= 2
    return Probes(
        granted,
        sub_group or 1,
        group,
        min(place.local_memory, _MOST_LOCAL),
        tuple(options),
        tuple(results),
    )


def _conflict(wanted: Sequence[str], granted: Sequence[str]) -> str:
    """Return a granted option that gives another value to what is wanted; empty if none does."""
    names = {option.partition("=")[0] for option in wanted if option not in granted}
    return next((option for option in granted if option.partition("=")[0] in names), "")


class Child:
    """The process in which trials run; a new one takes over when a driver has ended it."""

    def __init__(self, place: Place, seconds: float) -> None:
        self._place = place
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._log: Any = None
        self._read = b""
        self._lost = 0

    def refusal(self, each: Probe, options: Sequence[str]) -> str:
        """Run a probe with every size of group; gives why it is refused, empty if it passed."""
        most = min(self._place.group, _LARGEST_GROUP)
        groups = [group for group in each.groups if int(np.prod(group)) <= most]
        if not groups:
            return f"the device allows only {most} work-items in a group"
        for group in groups:
            if reason := self._tried(each, options, group):
                return reason
        return ""

    def _tried(self, each: Probe, options: Sequence[str], group: tuple[int, ...]) -> str:
        request = {
            "source": each.source,
            "options": list(options),
            "given": base64.b64encode(each.given).decode("ascii"),
            "size": len(each.expected),
            "items": each.items,
            "group": group,
        }
        if self._lost == _MOST_LOST:
            return f"not tried: the driver crashed or hung {_MOST_LOST} times before"
        if self._process is None:
            self._start()
        try:
            answer = self._asked(request, self._seconds)
        except _EndedError as error:
            self._lost += 1
            self.close()
            return str(error)
        if "failed" in answer:
            return str(answer["failed"])
        return difference(each, base64.b64decode(answer["found"]))

    def _start(self) -> None:
        """Start a process and let it open the device; raises DeviceError if it cannot."""
        root, given = str(Path(__file__).parents[3]), dict(os.environ)
        path = os.pathsep.join(filter(None, [root, given.get("PYTHONPATH")]))
        variables = {**given, "PYTHONPATH": path, "PYOPENCL_NO_CACHE": "1"}
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 -- lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "homebox.engine.opencl.probe_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=variables,
        )
        self._read = b""
        where = {
            "platform": self._place.platform,
            "version": self._place.version,
            "name": self._place.name,
            "ordinal": self._place.ordinal,
        }
        try:
            answer = self._asked(where, _SECONDS_TO_START)
        except _EndedError as error:
            self.close()
            raise DeviceError(f"{self._place.name} cannot be opened: {error}") from error
        if "failed" in answer:
            raise DeviceError(f"{self._place.name} cannot be opened: {answer['failed']}")

    def _asked(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended; reading says how
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        end = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._read:
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise _EndedError(f"the driver gave no answer within {seconds:g} s")
                block = os.read(process.stdout.fileno(), 1 << 16)
                if not block:
                    raise _EndedError(self._how_it_ended())
                self._read += block
        line, _, self._read = self._read.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _how_it_ended(self) -> str:
        assert self._process is not None
        try:
            code = self._process.wait(timeout=self._seconds)
        except subprocess.TimeoutExpired:
            return "the driver closed the process's output and went on"
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        if code < 0:
            how = f"the driver crashed ({signal.Signals(-code).name})"
        else:
            how = f"the driver ended the process (exit code {code})"
        return f"{how}: {lines[-1][:200]}" if lines else how

    def close(self) -> None:
        """End the process, whatever it does."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        # A process that hangs in the kernel cannot be waited for.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        self._log.close()


class _EndedError(DeviceError):
    """The process in which trials run ended, or had to be ended."""


def difference(each: Probe, found: bytes) -> str:
    """Say where the bytes that a kernel wrote differ from the expected ones; empty if nowhere."""
    if found == each.expected:
        return ""
    wanted, got = (np.frombuffer(part, each.shows) for part in (each.expected, found))
    kind = f"<u{wanted.itemsize}"
    wrong = np.flatnonzero(wanted.view(kind) != got.view(kind))
    at = int(wrong[0])
    return (
        f"{WRONG}: {len(wrong)} of {len(wanted)}; the first, number {at}, "
        f"should be {wanted[at]!s} and is {got[at]!s}"
    )


# -- on disk --------------------------------------------------------------------------------------


def _key(place: Place, probes: Sequence[Probe]) -> str:
    """Name results by all that decides them."""
    digest = hashlib.sha256(json.dumps(asdict(place), sort_keys=True).encode())
    for part in _parts(probes):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _parts(probes: Sequence[Probe]) -> Iterator[bytes]:
    for path in (Path(__file__), Path(probe_child.__file__)):
        yield path.read_bytes()
    for each in probes:
        for value in asdict(each).values():
            yield value if isinstance(value, bytes) else repr(value).encode()


def _to_json(found: Probes) -> dict[str, Any]:
    value = asdict(found)
    value["units"] = sorted(found.units)
    return value


def _from_json(value: dict[str, Any]) -> Probes:
    return Probes(
        frozenset(value["units"]),
        value["sub_group"],
        value["group"],
        value["local_memory"],
        tuple(value["options"]),
        tuple(Result(**each) for each in value["results"]),
    )
