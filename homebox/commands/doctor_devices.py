"""What `homebox doctor` finds out of processors, graphics cards and OpenCL.

One idea: this only gathers, piece by piece, and says what it does meanwhile; how it is told stands
in `doctor_report.py`. Whatever touches a driver runs in a process of its own. Invariant: a device
that fails is a line in the report, never the end of it.
"""

import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homebox.engine.inspection import product_rate, roof_opencl
from homebox.engine.inspection.roof import Roof, roof
from homebox.engine.inspection.roof_opencl import DeviceRoof
from homebox.engine.opencl.drivers import Icd, Unseen, icd_files, icd_places, unseen
from homebox.engine.opencl.listing import how, listing
from homebox.engine.opencl.probes import Probes, all_probes, probe_place
from homebox.engine.opencl.shown import Listing, Shown
from homebox.engine.opencl.system import System
from homebox.errors import DeviceError, HomeboxError

_SECONDS = 120.0  # for measuring one device
Say = Callable[[str], None]


@dataclass(frozen=True)
class Processor:
    """The CPU, and what the engine makes of it; `problem` says why it cannot be used."""

    name: str
    level: str = ""
    features: tuple[str, ...] = ()
    threads: int = 0
    memory: int = 0
    roof: Roof | None = None
    problem: str = ""


@dataclass(frozen=True)
class Device:
    """An OpenCL device: what it says of itself, and what was found by trying."""

    shown: Shown
    probes: Probes | None = None
    roof: DeviceRoof | None = None
    product_gflops: float | None = None
    problem: str = ""  # why homebox does not use it
    trouble: str = ""  # what could not be measured


@dataclass(frozen=True)
class Loader:
    """How OpenCL's drivers are looked for."""

    pyopencl: str  # version; empty if it is not installed
    bundled: bool  # pyopencl brings its own loader
    places: tuple[str, ...]
    icds: tuple[Icd, ...]


@dataclass(frozen=True)
class Machine:
    """Everything found; `chosen` and `why` tell what `--device auto` takes."""

    processor: Processor
    loader: Loader
    listing: Listing
    devices: tuple[Device, ...]
    unseen: tuple[Unseen, ...]
    chosen: str
    why: str

    @property
    def usable(self) -> bool:
        """Say whether anything can compute."""
        return not self.processor.problem or any(not each.problem for each in self.devices)


def gather(system: System, say: Say, *, quick: bool = False, again: bool = False) -> Machine:
    """Look at everything; `quick` measures nothing, `again` repeats probes made before."""
    processor = _processor(system, say, quick)
    say("looking for OpenCL drivers")
    found = _loader(system)
    shown = Listing()
    if found.pyopencl:
        say("asking OpenCL for its devices")
        shown = listing(system, [icd.path for icd in found.icds])
    devices = tuple(_device(system, each, say, quick, again) for each in shown.devices)
    missing = tuple(unseen(system, shown, found.icds))
    chosen, why = _auto(processor, devices, shown)
    return Machine(processor, found, shown, devices, missing, chosen, why)


def _processor(system: System, say: Say, quick: bool) -> Processor:
    from homebox.engine.codegen.cpu import detect
    from homebox.engine.runtime.runtime_cpu import thread_count

    name = system.processor()
    try:
        target = detect()
        threads = thread_count()
        if not quick:
            say(f"measuring the processor with {threads} threads")
        rates = None if quick else roof(threads)
    except HomeboxError as error:
        return Processor(name or "the processor", memory=system.memory(), problem=str(error))
    chosen = "avx2 fma avxvnni avx512f avx512vnni avx512bf16 neon dotprod i8mm bf16".split()
    features = tuple(feature for feature in chosen if target.has(feature))
    name = f"{name} ({target.name})" if name else target.name
    return Processor(name, target.level, features, threads, system.memory(), rates)


def _loader(system: System) -> Loader:
    try:
        version = importlib.metadata.version("pyopencl")
        spec = importlib.util.find_spec("pyopencl")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        version, spec = "", None
    folder = str(Path(spec.origin).parent) if spec is not None and spec.origin else ""
    bundled = any(name.startswith("libOpenCL") for name in System().names(f"{folder}/.libs"))
    places = icd_places(system, folder if bundled else "")
    return Loader(version, bundled, tuple(places), tuple(icd_files(system, places)))


def _device(system: System, shown: Shown, say: Say, quick: bool, again: bool) -> Device:
    if shown.refusal or shown.place is None:
        return Device(shown, problem=shown.refusal or "its driver does not say what it is")
    try:
        probes = probe_place(
            shown.place,
            all_probes(),
            again=again,
            report=lambda name: say(f"probing {shown.name} ({shown.title}): {name}"),
        )
    except DeviceError as error:
        return Device(shown, problem=str(error))
    if probes.unusable:
        return Device(shown, probes, problem=f"it failed a probe: {probes.unusable}")
    if quick:
        return Device(shown, probes, roof_opencl.kept(shown.place, probes))
    say(f"measuring {shown.name} ({shown.title}): memory and arithmetic")
    rates, trouble = _measured(system, shown, probes)
    say(f"measuring {shown.name} ({shown.title}): a matrix product")
    ended = system.python(product_rate.request(shown.name, shown.kind), _SECONDS)
    if ended.code != 0:
        trouble = "; ".join(filter(None, [trouble, f"the matrix product {how(ended)}"]))
        return Device(shown, probes, rates, trouble=trouble)
    return Device(shown, probes, rates, json.loads(ended.out)["gflops"], trouble=trouble)


def _measured(system: System, shown: Shown, probes: Probes) -> tuple[DeviceRoof | None, str]:
    assert shown.place is not None
    ended = system.python(roof_opencl.request(shown.place, probes), _SECONDS)
    if ended.code != 0:
        return None, f"measuring it {how(ended)}"
    return roof_opencl.read_answer(ended.out, shown.place, probes), ""


def _auto(processor: Processor, devices: Sequence[Device], shown: Listing) -> tuple[str, str]:
    """Say what `--device auto` chooses, asking the one that chooses."""
    cards = [each for each in devices if each.shown.kind == "gpu" and not each.problem]
    if not cards:
        if processor.problem:
            return "", "neither the processor nor a graphics card can be used"
        others = [each.shown.name for each in devices if not each.problem]
        why = "no graphics card can be used"
        if others:
            why += f"; OpenCL on the processor ({', '.join(others)}) is slower and only for tests"
        return "cpu", why
    from homebox.model.placement.devices import AUTO, choose

    try:
        choice = choose(AUTO)
    except HomeboxError as error:
        return "", f"choosing fails: {error}"
    names = ",".join(room.device.name for room in choice.rooms)
    return names, choice.reason.removeprefix("auto: ")


# -- JSON -----------------------------------------------------------------------------------------


def as_json(machine: Machine) -> dict[str, Any]:
    """Return everything as data for other programs."""
    from dataclasses import asdict

    devices = []
    for each in machine.devices:
        value = asdict(each)
        value.update(value.pop("shown"))
        if each.probes is not None:
            value["probes"]["units"] = sorted(each.probes.units)
            value["probes"]["strict"] = each.probes.strict
        value["used"] = not value.pop("problem")
        value["reason"] = each.problem
        del value["refusal"], value["place"]
        devices.append(value)
    return {
        "processor": asdict(machine.processor),
        "loader": asdict(machine.loader),
        "platforms": [asdict(each) for each in machine.listing.platforms],
        "opencl_error": machine.listing.error,
        "crashing_drivers": list(machine.listing.guilty),
        "devices": devices,
        "unseen": [
            {
                "address": each.gpu.address,
                "name": each.gpu.name,
                "vendor": each.gpu.maker,
                "driver": each.gpu.driver,
                "reason": each.reason,
                "advice": each.advice,
            }
            for each in machine.unseen
        ],
        "auto": {"device": machine.chosen, "why": machine.why},
    }
