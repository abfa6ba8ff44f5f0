"""doctor on machines that are made of files: what it says of each, and what to do about it."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from homebox.commands import doctor_report
from homebox.commands.doctor_devices import Device, Loader, Machine, Processor, as_json
from homebox.engine.inspection.roof_opencl import DeviceRoof
from homebox.engine.opencl.drivers import (
    FOLDER,
    PACKAGES,
    Icd,
    icd_files,
    icd_places,
    unseen,
)
from homebox.engine.opencl.listing import listing
from homebox.engine.opencl.probes import Probes, Result
from homebox.engine.opencl.shown import Listing, Platform, Shown
from homebox.engine.opencl.system import Ended, System

VENDOR = {"NVIDIA": "0x10de", "AMD": "0x1002", "Intel": "0x8086"}


@dataclass(frozen=True)
class Fake(System):
    """A machine in a folder, on which these libraries load and these drivers answer."""

    loads: frozenset[str] = frozenset()
    closed: frozenset[str] = frozenset()  # what this user may not open
    answers: Callable[[Mapping[str, str]], Ended] | None = None
    asked: list[str] = field(default_factory=list)

    def load(self, library: str) -> str:
        found = library in self.loads
        return "" if found else f"{library}: cannot open shared object file"

    def usable(self, path: str) -> bool:
        return path not in self.closed and self.exists(path)

    def owner(self, path: str) -> str:
        return "render" if self.exists(path) else ""

    def python(
        self, arguments: Sequence[str], seconds: float, environ: Mapping[str, str] | None = None
    ) -> Ended:
        assert self.answers is not None
        given = dict(environ or {})
        self.asked.append(given.get("OCL_ICD_VENDORS", ""))
        return self.answers(given)


class Disk:
    """Writes a machine's files."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str = "") -> None:
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def card(self, maker: str, driver: str, address: str = "0000:01:00.0") -> None:
        folder = f"sys/bus/pci/devices/{address}"
        self.write(f"{folder}/vendor", VENDOR[maker] + "\n")
        self.write(f"{folder}/device", "0x2684\n")
        self.write(f"{folder}/class", "0x030000\n")
        if driver:
            (self.root / folder / "driver").symlink_to(f"../../../drivers/{driver}")
        self.write(f"{folder}/drm/renderD128/dev", "226:128")

    def nvidia(self, *devices: str) -> None:
        self.card("NVIDIA", "nvidia")
        self.write("/proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX  570.124.06  Wed")
        self.write(
            "/proc/driver/nvidia/gpus/0000:01:00.0/information",
            "Model: \t\t NVIDIA GeForce RTX 4090\nIRQ: 1",
        )
        for name in devices or ("nvidiactl", "nvidia0", "nvidia-uvm"):
            self.write(f"/dev/{name}")

    def system(
        self, *loads: str, environ: Mapping[str, str] | None = None, closed: Sequence[str] = ()
    ) -> Fake:
        return Fake(self.root, environ or {}, frozenset(loads), frozenset(closed))


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def told(system: Fake, shown: Listing | None = None) -> tuple[str, str]:
    """Return reason and advice for the only card."""
    (card,) = unseen(system, shown or Listing(), icd_files(system, icd_places(system)))
    return card.reason, card.advice


NVIDIA = "libnvidia-opencl.so.1"


def shown_gpu(vendor: str, address: str = "") -> Shown:
    text = ("Some card", "gpu", "platform", vendor, "OpenCL 3.0", "1.0")
    return Shown("cl:0", *text, memory=1, local_memory=1, units=1, refusal="", address=address)


# -- cards that OpenCL does not show ---------------------------------------------------------------


def test_a_machine_without_cards_or_without_linux_files_tells_nothing(disk: Disk) -> None:
    system = disk.system()
    assert system.gpus() == []
    assert unseen(system, Listing(), []) == []
    assert (system.processor(), system.memory(), system.distribution()) == ("", 0, "")
    disk.write("/sys/bus/pci/devices/0000:00:02.0/vendor", "0x10de")
    disk.write("/sys/bus/pci/devices/0000:00:02.0/class", "0x020000")  # a network card
    assert system.gpus() == []


def test_cards_have_names_and_drivers(disk: Disk) -> None:
    disk.nvidia()
    disk.card("AMD", "amdgpu", "0000:03:00.0")
    disk.card("Intel", "", "0000:04:00.0")
    ids = "1002  AMD/ATI\n\t744c  Other\n\t2684  Navi 31 [Radeon RX 7900 XTX]\n10de  NVIDIA\n"
    disk.write("/usr/share/misc/pci.ids", ids)
    first, second, third = disk.system().gpus()
    assert (first.name, first.driver) == ("NVIDIA GeForce RTX 4090", "nvidia")
    assert second.name == "AMD Navi 31 [Radeon RX 7900 XTX]"
    assert (second.driver, second.render) == ("amdgpu", "/dev/dri/renderD128")
    assert (third.name, third.driver) == ("Intel card 2684", "")


def test_containers_may_hide_the_bus_but_not_nvidias_driver(disk: Disk) -> None:
    name = "/proc/driver/nvidia/gpus/0000:61:00.0/information"
    disk.write("/dev/nvidia0")
    disk.write("/dev/nvidia-uvm")
    (gpu,) = disk.system().gpus()
    assert (gpu.address, gpu.maker) == ("/dev/nvidia0", "NVIDIA")
    disk.write(name, "Model: NVIDIA H200")
    (gpu,) = disk.system().gpus()
    assert (gpu.address, gpu.name, gpu.driver) == ("0000:61:00.0", "NVIDIA H200", "nvidia")
    disk.write("/dev/nvidiactl")
    assert "OpenCL library is missing" in told(disk.system())[0]


def test_cards_that_are_shown_are_not_missing(disk: Disk) -> None:
    disk.card("NVIDIA", "nvidia", "0000:01:00.0")
    disk.card("NVIDIA", "nvidia", "0000:02:00.0")
    system = disk.system()
    told_where = Listing(devices=(shown_gpu("NVIDIA Corporation", "0000:02:00.0"),))
    assert [card.gpu.address for card in unseen(system, told_where, [])] == ["0000:01:00.0"]
    silent = Listing(devices=(shown_gpu("NVIDIA Corporation"),))
    assert len(unseen(system, silent, [])) == 1
    assert unseen(system, Listing(devices=(shown_gpu("NVIDIA Corporation"),) * 2), []) == []
    # Control: another vendor's device is no reason to take these for found.
    other = Listing(devices=(shown_gpu("Advanced Micro Devices, Inc."),) * 2)
    assert len(unseen(system, other, [])) == 2


def test_nvidia_without_the_kernels_driver(disk: Disk) -> None:
    disk.card("NVIDIA", "nouveau")
    disk.write("/etc/os-release", 'ID=ubuntu\nID_LIKE="debian"')
    assert told(disk.system()) == (
        "the kernel runs it with nouveau, which offers no OpenCL",
        "run: sudo ubuntu-drivers install",
    )


def test_a_card_set_aside_for_a_virtual_machine(disk: Disk) -> None:
    disk.card("NVIDIA", "vfio-pci")
    assert "virtual machine" in told(disk.system())[0]


def test_nvidia_without_its_opencl_library(disk: Disk) -> None:
    disk.nvidia()
    disk.write("/etc/os-release", "ID=debian")
    reason, advice = told(disk.system())
    assert "OpenCL library is missing" in reason
    assert advice == "apt install nvidia-opencl-icd"
    disk.write("/etc/os-release", "ID=ubuntu")
    assert told(disk.system())[1] == "apt install libnvidia-compute-570"
    disk.write("/.dockerenv")
    reason, advice = told(disk.system())
    assert "the container has the driver without its OpenCL library" in reason
    assert advice == "start it with NVIDIA_DRIVER_CAPABILITIES=compute,utility (or all)"


def test_nvidia_in_a_container_with_the_library_but_without_the_file(disk: Disk) -> None:
    disk.nvidia()
    reason, advice = told(disk.system(NVIDIA))
    assert "no .icd file names it" in reason
    assert f"echo {NVIDIA} > {FOLDER}/nvidia.icd" in advice


def test_nvidia_in_a_container_without_the_card(disk: Disk) -> None:
    disk.nvidia("null")
    disk.write("/run/.containerenv")
    reason, advice = told(disk.system(NVIDIA))
    assert "started without the card" in reason
    assert "--gpus all" in advice


def test_nvidia_behind_a_variable(disk: Disk) -> None:
    disk.nvidia()
    disk.write(f"{FOLDER}/nvidia.icd", NVIDIA + "\n")
    disk.write("/mine/intel.icd", "libintelocl.so\n")
    reason, advice = told(disk.system(NVIDIA, environ={"OCL_ICD_VENDORS": "/mine"}))
    assert reason.startswith(f"OCL_ICD_VENDORS=/mine hides {FOLDER}/nvidia.icd")
    assert advice == "unset OCL_ICD_VENDORS"


def test_nvidia_with_everything_and_still_nothing(disk: Disk) -> None:
    disk.nvidia()
    disk.write(f"{FOLDER}/nvidia.icd", NVIDIA + "\n")
    reason, advice = told(disk.system(NVIDIA))
    assert "shows no such device" in reason
    assert "restart the machine" in advice
    crashed = Listing(error="asking OpenCL for its devices crashed (signal 11)")
    assert told(disk.system(NVIDIA), crashed)[0] == crashed.error
    (disk.root / "dev/nvidia-uvm").unlink()
    assert "modprobe nvidia-uvm" in told(disk.system(NVIDIA))[1]


@pytest.mark.parametrize(
    ("maker", "driver", "node", "library"),
    [
        ("AMD", "amdgpu", "/dev/kfd", "libamdocl64.so"),
        ("AMD", "amdgpu", "/dev/dri/renderD128", "libamdocl64.so"),
        ("Intel", "xe", "/dev/dri/renderD128", "intel-opencl/libigdrcl.so"),
    ],
)
def test_devices_that_this_user_may_not_open(
    disk: Disk, maker: str, driver: str, node: str, library: str
) -> None:
    disk.card(maker, driver)
    disk.write(f"{FOLDER}/{maker}.icd", library)
    for name in ("/dev/kfd", "/dev/dri/renderD128"):
        disk.write(name)
    reason, advice = told(disk.system(library, closed=[node]))
    assert reason == f"this user may not open {node} (group render)"
    assert advice == "sudo usermod -aG render,video $USER, then log in again"
    # Control: one who may open it is told something else.
    assert "may not open" not in told(disk.system(library))[0]
    (disk.root / node.lstrip("/")).unlink()
    disk.write("/.dockerenv")
    assert node in told(disk.system(library))[0]
    assert "--device" in told(disk.system(library))[1]


@pytest.mark.parametrize(
    ("maker", "driver", "rusticl"), [("AMD", "amdgpu", "radeonsi"), ("Intel", "i915", "iris")]
)
def test_cards_without_an_opencl_driver(disk: Disk, maker: str, driver: str, rusticl: str) -> None:
    disk.card(maker, driver)
    disk.write("/dev/dri/renderD128")
    for name, packages in PACKAGES[maker].items():
        disk.write("/etc/os-release", f"ID={name}")
        reason, advice = told(disk.system())
        assert reason == f"no OpenCL driver for {maker} cards is installed"
        assert packages in advice and PACKAGES["Mesa"][name] in advice
        assert f"RUSTICL_ENABLE={rusticl}" in advice
    disk.write(f"{FOLDER}/rusticl.icd", "libRusticlOpenCL.so.1")
    reason, advice = told(disk.system("libRusticlOpenCL.so.1"))
    assert "Rusticl is installed" in reason
    assert advice.startswith(f"set RUSTICL_ENABLE={rusticl}")
    enabled = disk.system("libRusticlOpenCL.so.1", environ={"RUSTICL_ENABLE": rusticl})
    assert "too old for this card" in told(enabled)[1]


def test_a_driver_whose_library_does_not_load(disk: Disk) -> None:
    disk.card("AMD", "amdgpu")
    disk.write("/dev/dri/renderD128")
    disk.write("/dev/kfd")
    disk.write(f"{FOLDER}/amdocl64.icd", "libamdocl64.so")
    reason, _ = told(disk.system())
    assert reason.startswith(f"{FOLDER}/amdocl64.icd names a library that does not load")


# -- the loader ------------------------------------------------------------------------------------


def test_icd_files_are_tried(disk: Disk) -> None:
    disk.write(f"{FOLDER}/good.icd", "libgood.so\n")
    disk.write(f"{FOLDER}/bad.icd", "libbad.so\n")
    disk.write(f"{FOLDER}/empty.icd")
    disk.write(f"{FOLDER}/readme.txt", "libgood.so")
    system = disk.system("libgood.so")
    found = icd_files(system, icd_places(system))
    assert [(Path(icd.path).name, icd.problem == "") for icd in found] == [
        *[("bad.icd", False), ("empty.icd", False), ("good.icd", True)]
    ]
    assert "libbad.so" in found[0].problem


def test_variables_say_where_the_loader_looks(disk: Disk) -> None:
    disk.write(f"{FOLDER}/one.icd", "libone.so")
    assert icd_places(disk.system(), "/own") == [FOLDER, "/own/.libs"]
    assert icd_places(disk.system(environ={"OPENCL_VENDOR_PATH": "/v"})) == ["/v"]
    only = disk.system(environ={"OCL_ICD_VENDORS": "one.icd", "OPENCL_VENDOR_PATH": "/v"})
    assert icd_places(only, "/own") == [f"{FOLDER}/one.icd"]
    assert [icd.library for icd in icd_files(only, icd_places(only))] == ["libone.so"]


def test_a_crashing_driver_is_found_by_asking_each_alone(disk: Disk) -> None:
    def answer(environ: Mapping[str, str]) -> Ended:
        bad = environ.get("OCL_ICD_VENDORS", "b.icd") == "b.icd"
        empty = json.dumps({"platforms": [], "devices": [], "error": ""})
        return Ended(-11, "", "") if bad else Ended(0, empty, "")

    system = dataclasses.replace(disk.system(), answers=answer)
    found = listing(system, ["a.icd", "b.icd"])
    assert found.error == "asking OpenCL for its devices crashed (signal 11)"
    assert found.guilty == ("b.icd",)
    assert system.asked == ["", "a.icd", "b.icd"]
    hanging = dataclasses.replace(disk.system(), answers=lambda environ: Ended(None, "", ""))
    assert "no answer within" in listing(hanging).error


def test_other_processes_are_real_ones() -> None:
    system = System()
    assert system.python(["-c", "print(7)"], 60) == Ended(0, "7\n", "")
    assert system.python(["-c", "import os; os.kill(os.getpid(), 11)"], 60).code == -11
    assert system.python(["-c", "while True: pass"], 0.5).code is None
    assert "libnosuchthing.so" in system.load("libnosuchthing.so")
    assert system.load("libc.so.6") == ""


# -- the report ------------------------------------------------------------------------------------

PROCESSOR = Processor("Some CPU (znver5)", "avx2", ("avx2", "fma"), 2, 16 << 30)
PROBES = Probes(
    frozenset({"half", "subgroup"}),
    32,
    256,
    49152,
    (),
    (
        *(Result(name, name, True) for name in ("language", "integers", "local memory", "fma")),
        *(
            Result(name, name, True)
            for name in ("divide and root", "denormals", "contraction", "order")
        ),
        *(Result(name, name, True) for name in ("half storage", "half", "exchange")),
        Result("tiles of f16 (ptx)", "mma_f16", False, "wrong numbers: 3 of 9; the first .."),
        Result("products of four bytes (khr)", "dot4", False, "use of undeclared identifier"),
    ),
)
CARD = dataclasses.replace(shown_gpu("NVIDIA Corporation"), title="GeForce", memory=24 << 30)


def machine(**changes: object) -> Machine:
    loader = Loader("2026.1", True, (FOLDER,), (Icd(f"{FOLDER}/a.icd", "liba.so", ""),))
    shown = Listing((Platform("NVIDIA CUDA", "NVIDIA", "OpenCL 3.0 CUDA 12", 1),), (CARD,))
    device = Device(CARD, PROBES, DeviceRoof(800.0, 900.0, 70_000.0, 140_000.0), 35_000.0)
    plain = Machine(PROCESSOR, loader, shown, (device,), (), "cl:0", "it passed the probes")
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def test_the_report_on_a_good_card() -> None:
    text = "\n".join(doctor_report.lines(machine()))
    assert "ok  cl:0  GeForce (gpu)" in text
    assert "can: float32 as exact as the processor's, arithmetic in f16, exchange within" in text
    assert "sub-groups of 32" in text
    assert "refused: tiles of f16 (ptx): wrong numbers: 3 of 9" in text
    assert "undeclared" not in text, "that a device lacks something is no mistake"
    assert "copies 800.0 GB/s, reads 900.0 GB/s; computes f32 70.0 TFLOP/s" in text
    assert "35.0 TFLOP/s, 50 % of that" in text
    assert text.endswith("--device auto takes cl:0: it passed the probes.")
    assert "!!" not in text


def test_the_report_on_a_device_that_failed() -> None:
    wrong = Result("fma", "fma", False, "wrong numbers: all")
    probes = dataclasses.replace(PROBES, results=(*PROBES.results[:3], wrong))
    device = Device(CARD, probes, problem="it failed a probe: fma: wrong numbers: all")
    text = "\n".join(doctor_report.lines(machine(devices=(device,))))
    assert "!!  cl:0  GeForce (gpu)" in text
    assert "not used: it failed a probe: fma" in text
    assert "can:" not in text


def test_the_report_without_pyopencl_says_how_to_install_it() -> None:
    text = "\n".join(doctor_report.lines(machine(loader=Loader("", False, (), ()), devices=())))
    assert 'to do: pip install "homebox[opencl]"' in text


def test_every_line_fits_the_width(disk: Disk) -> None:
    disk.nvidia()
    disk.card("AMD", "amdgpu", "0000:03:00.0")
    disk.card("Intel", "", "0000:04:00.0")
    disk.write(f"{FOLDER}/bad.icd", "libbad.so")
    system = disk.system()
    icds = tuple(icd_files(system, icd_places(system)))
    found = machine(
        loader=Loader("2026.1", False, (FOLDER,), icds),
        listing=Listing(error="asking OpenCL crashed", guilty=(icds[0].path,)),
        unseen=tuple(unseen(system, Listing(), icds)),
        processor=Processor("Some CPU", problem="it lacks " + "something, " * 20),
    )
    text = doctor_report.lines(found)
    assert max(map(len, text)) <= 100
    assert sum(line.startswith("!!") for line in text) == 6
    assert sum(line.startswith("    to do: ") for line in text) == 4


def test_json_holds_everything() -> None:
    found = json.loads(json.dumps(as_json(machine())))
    (device,) = found["devices"]
    assert device["name"] == "cl:0" and device["used"] is True and device["reason"] == ""
    assert device["probes"]["units"] == ["half", "subgroup"]
    assert device["probes"]["strict"] is True
    assert device["roof"]["copy_gbs"] == 800.0
    assert found["auto"] == {"device": "cl:0", "why": "it passed the probes"}
    assert found["processor"]["features"] == ["avx2", "fma"]


def test_nothing_usable_is_known() -> None:
    broken = dataclasses.replace(PROCESSOR, problem="no code generator")
    assert machine(processor=broken).usable
    assert not machine(processor=broken, devices=()).usable
    assert not machine(
        processor=broken, devices=(dataclasses.replace(machine().devices[0], problem="x"),)
    ).usable
    assert machine(devices=()).usable


def test_the_environment_is_read_when_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCL_ICD_VENDORS", "/somewhere/x.icd")
    assert System().environ is os.environ
    assert icd_places(System()) == ["/somewhere/x.icd"]
