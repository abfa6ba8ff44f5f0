"""Why a graphics card is not there for OpenCL, and what to install or change.

One idea: between a card and a program lie a few links (the kernel's driver, a device file that this
user may open, the driver's OpenCL library, a file that names the library to the loader), and the
first one that is broken is the reason. Invariant: only files are looked at and libraries loaded
in another process; nothing is changed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from homebox.engine.opencl.shown import VENDORS_VARIABLE, Listing
from homebox.engine.opencl.system import Gpu, System

FOLDER = "/etc/OpenCL/vendors"
NVIDIA_LIBRARY = "libnvidia-opencl.so.1"
VERSION = "<the driver's version>"
# Where nothing is said of a distribution, these are named together.
PACKAGES: dict[str, dict[str, str]] = {
    "NVIDIA": {
        "debian": "nvidia-opencl-icd",
        "ubuntu": f"libnvidia-compute-{VERSION}",
        "fedora": "xorg-x11-drv-nvidia-cuda (from RPM Fusion)",
        "arch": "opencl-nvidia",
        "suse": "nvidia-compute-G06",
    },
    "AMD": {
        "debian": "rocm-opencl-icd",
        "ubuntu": "rocm-opencl-icd, or rocm-opencl-runtime from AMD's repository",
        "fedora": "rocm-opencl",
        "arch": "rocm-opencl-runtime",
        "suse": "rocm-opencl-runtime from AMD's repository",
    },
    "Intel": {
        "debian": "intel-opencl-icd",
        "ubuntu": "intel-opencl-icd",
        "fedora": "intel-compute-runtime",
        "arch": "intel-compute-runtime",
        "suse": "intel-opencl",
    },
    "Mesa": {
        "debian": "mesa-opencl-icd",
        "ubuntu": "mesa-opencl-icd",
        "fedora": "mesa-libOpenCL",
        "arch": "opencl-mesa",
        "suse": "Mesa-libRusticlOpenCL",
    },
    "kernel": {  # NVIDIA's
        "debian": "nvidia-driver and nvidia-opencl-icd",
        "ubuntu": "the driver that 'ubuntu-drivers install' chooses",
        "fedora": "akmod-nvidia and xorg-x11-drv-nvidia-cuda (from RPM Fusion)",
        "arch": "nvidia-open and opencl-nvidia",
        "suse": "nvidia-open-driver-G06-signed and nvidia-compute-G06",
    },
}
INSTALLERS = {
    "debian": "apt install",
    "ubuntu": "apt install",
    "fedora": "dnf install",
    "arch": "pacman -S",
    "suse": "zypper install",
}
KERNEL_DRIVERS = {"NVIDIA": ("nvidia",), "AMD": ("amdgpu",), "Intel": ("i915", "xe")}
_RUSTICL = {"NVIDIA": "nouveau", "AMD": "radeonsi", "Intel": "iris"}
_MARKS = {  # what occurs in the names of a vendor's libraries
    "NVIDIA": ("nvidia",),
    "AMD": ("amdocl",),
    "Intel": ("igdrcl",),
}


@dataclass(frozen=True)
class Icd:
    """A file that names a driver's library to OpenCL's loader; `problem` is empty if it loads."""

    path: str
    library: str
    problem: str


@dataclass(frozen=True)
class Unseen:
    """A graphics card that OpenCL does not show."""

    gpu: Gpu
    reason: str
    advice: str


# -- the loader -----------------------------------------------------------------------------------


def icd_places(system: System, packages: str = "") -> list[str]:
    """Return the files and folders in which the loader looks for drivers, in its order.

    `packages` is the folder of pyopencl, whose own loader looks there as well.
    """
    given = system.environ.get(VENDORS_VARIABLE, "")
    if given:
        inside = f"{FOLDER}/{given}"
        return [inside if "/" not in given and system.exists(inside) else given]
    own = [f"{packages}/.libs"] if packages else []
    return [system.environ.get("OPENCL_VENDOR_PATH") or FOLDER, *own]


def icd_files(system: System, places: Sequence[str]) -> list[Icd]:
    """Return every .icd file in these places, with what is wrong with the library that it names."""
    found = []
    for place in places:
        paths = [f"{place}/{name}" for name in system.names(place) if name.endswith(".icd")]
        if place.endswith(".icd"):
            paths = [place]
        for path in paths:
            lines = system.text(path).splitlines()
            library = lines[0].strip() if lines else ""
            problem = system.load(library) if library else "the file is empty or unreadable"
            found.append(Icd(path, library, problem))
    return found


# -- cards ----------------------------------------------------------------------------------------


def unseen(system: System, listing: Listing, icds: Sequence[Icd]) -> list[Unseen]:
    """Return the cards that OpenCL does not show, with the reason and what to do."""
    missing = []
    for gpu in _not_shown(system.gpus(), listing):
        look: Callable[[System, Gpu, Listing, Sequence[Icd]], tuple[str, str]]
        look = {"NVIDIA": _nvidia, "AMD": _amd, "Intel": _intel}[gpu.maker]
        missing.append(Unseen(gpu, *look(system, gpu, listing, icds)))
    return missing


def _not_shown(gpus: Sequence[Gpu], listing: Listing) -> list[Gpu]:
    shown = [each for each in listing.devices if each.kind == "gpu"]
    addresses = {each.address for each in shown if each.address}
    rest = [gpu for gpu in gpus if gpu.address not in addresses]
    left = []
    for maker in KERNEL_DRIVERS:
        mine = [gpu for gpu in rest if gpu.maker == maker]
        # Drivers that do not tell where a device is: as many as they show are taken as found.
        silent = sum(not each.address and _by(maker, each.vendor, each.title) for each in shown)
        left += mine[silent:]
    return left


def _by(maker: str, *texts: str) -> bool:
    words = {"AMD": ("amd", "advanced micro", "radeon")}.get(maker, (maker.lower(),))
    return any(word in text.lower() for word in words for text in texts)


def _nvidia(system: System, gpu: Gpu, listing: Listing, icds: Sequence[Icd]) -> tuple[str, str]:
    devices = [name for name in system.names("/dev") if name.startswith("nvidia")]
    if not system.exists("/proc/driver/nvidia/version") and "nvidiactl" not in devices:
        return _no_kernel_driver(system, gpu, packages("kernel", system))
    if "nvidiactl" not in devices:
        if system.container():
            return (
                "this container was started without the card: there is no /dev/nvidiactl",
                "start it with --gpus all (Docker) or --device nvidia.com/gpu=all (Podman)",
            )
        return ("there is no /dev/nvidiactl", "run nvidia-modprobe or nvidia-smi as root once")
    for name in ("nvidiactl", *[d for d in devices if d.removeprefix("nvidia").isdecimal()]):
        if not system.usable(f"/dev/{name}"):
            return _no_access(system, f"/dev/{name}")
    if problem := system.load(NVIDIA_LIBRARY):
        if system.container():
            return (
                f"the container has the driver without its OpenCL library ({problem})",
                "start it with NVIDIA_DRIVER_CAPABILITIES=compute,utility (or all)",
            )
        return (
            f"the driver's OpenCL library is missing or broken ({problem})",
            packages("NVIDIA", system),
        )
    if hidden := _hidden(system, "NVIDIA", icds):
        return hidden
    if not _icds_of("NVIDIA", icds):
        return (
            f"{NVIDIA_LIBRARY} is there, but no .icd file names it, as in many containers",
            f"as root: mkdir -p {FOLDER}; echo {NVIDIA_LIBRARY} > {FOLDER}/nvidia.icd",
        )
    if "nvidia-uvm" not in devices:
        return ("there is no /dev/nvidia-uvm", "as root: modprobe nvidia-uvm; nvidia-modprobe -u")
    return _nobody_knows(
        listing,
        "if the driver was updated lately, restart the machine (kernel and library must be of one "
        "version)",
    )


def _amd(system: System, gpu: Gpu, listing: Listing, icds: Sequence[Icd]) -> tuple[str, str]:
    if gpu.driver not in KERNEL_DRIVERS["AMD"]:
        return _no_kernel_driver(
            system, gpu, "use a kernel with the amdgpu driver and its firmware"
        )
    rocm = _icds_of("AMD", icds)
    nodes = [node for node in ("/dev/kfd" if rocm else "", gpu.render) if node]
    for node in nodes:
        if not system.exists(node):
            return _no_node(system, node, "--device /dev/kfd --device /dev/dri")
        if not system.usable(node):
            return _no_access(system, node)
    return _library(system, gpu, listing, icds)


def _intel(system: System, gpu: Gpu, listing: Listing, icds: Sequence[Icd]) -> tuple[str, str]:
    if gpu.driver not in KERNEL_DRIVERS["Intel"]:
        return _no_kernel_driver(system, gpu, "use a kernel with the i915 or xe driver")
    if gpu.render and not system.exists(gpu.render):
        return _no_node(system, gpu.render, "--device /dev/dri")
    if gpu.render and not system.usable(gpu.render):
        return _no_access(system, gpu.render)
    return _library(system, gpu, listing, icds)


def _library(system: System, gpu: Gpu, listing: Listing, icds: Sequence[Icd]) -> tuple[str, str]:
    """Look at the libraries of AMD and Intel, and at Mesa's, which knows both."""
    maker, name = gpu.maker, _RUSTICL[gpu.maker]
    if hidden := _hidden(system, maker, icds):
        return hidden
    own, mesa = _icds_of(maker, icds), _icds_of("Mesa", icds)
    for icd in own:
        if icd.problem:
            return (
                f"{icd.path} names a library that does not load: {icd.problem}",
                f"{packages(maker, system)} (again)",
            )
    enabled = system.environ.get("RUSTICL_ENABLE", "").split(",")
    if mesa and not own and name not in enabled:
        return (
            "Mesa's Rusticl is installed but leaves this card alone unless told otherwise",
            f"set RUSTICL_ENABLE={name} for homebox, or {packages(maker, system)}",
        )
    if not own and not mesa:
        other = packages("Mesa", system)
        return (
            f"no OpenCL driver for {maker} cards is installed",
            f"{packages(maker, system)}; or {other} and set RUSTICL_ENABLE={name}",
        )
    return _nobody_knows(listing, "the driver may be too old for this card; update it")


def _icds_of(maker: str, icds: Sequence[Icd]) -> list[Icd]:
    marks = ("rusticl", "mesaopencl") if maker == "Mesa" else _MARKS[maker]
    return [icd for icd in icds if any(mark in icd.library.lower() for mark in marks)]


def _hidden(system: System, maker: str, icds: Sequence[Icd]) -> tuple[str, str] | None:
    """Say that a variable leads the loader past the file that names this vendor's library."""
    given = system.environ.get(VENDORS_VARIABLE, "")
    if not given or _icds_of(maker, icds):
        return None
    for name in system.names(FOLDER):
        text = system.text(f"{FOLDER}/{name}").lower()
        if name.endswith(".icd") and any(mark in text for mark in _MARKS[maker]):
            return (
                f"{VENDORS_VARIABLE}={given} hides {FOLDER}/{name}, which names its driver",
                f"unset {VENDORS_VARIABLE}",
            )
    return None


# -- sentences ------------------------------------------------------------------------------------


def packages(what: str, system: System) -> str:
    """Say what to install, for this distribution if it is known."""
    names, here = PACKAGES[what], system.distribution()
    if what == "kernel" and here == "ubuntu":
        return "run: sudo ubuntu-drivers install"
    if here in names:
        version = system.nvidia_version().partition(".")[0]
        name = names[here].replace(VERSION, version or VERSION)
        return f"{INSTALLERS[here]} {name}"
    every = "; ".join(f"{names[each]} ({each.capitalize()})" for each in names)
    return f"install {every}"


def _no_kernel_driver(system: System, gpu: Gpu, advice: str) -> tuple[str, str]:
    if gpu.driver == "vfio-pci":
        return ("it is set aside for a virtual machine (vfio-pci)", "give it back to its driver")
    if gpu.driver:
        return (f"the kernel runs it with {gpu.driver}, which offers no OpenCL", advice)
    if system.container():
        return ("no driver of the kernel runs it", f"on the host, not in this container: {advice}")
    return ("no driver of the kernel runs it", advice)


def _no_node(system: System, node: str, options: str) -> tuple[str, str]:
    if system.container():
        return (f"this container was started without {node}", f"start it with {options}")
    return (f"there is no {node}", "the kernel's driver did not start; dmesg says why")


def _no_access(system: System, node: str) -> tuple[str, str]:
    group = system.owner(node)
    reason = f"this user may not open {node}" + (f" (group {group})" if group else "")
    if system.container():
        return reason, f"start the container with --group-add {group or 'render'}"
    groups = ",".join(dict.fromkeys([group or "render", "video"]))
    return reason, f"sudo usermod -aG {groups} $USER, then log in again"


def _nobody_knows(listing: Listing, advice: str) -> tuple[str, str]:
    if listing.error:
        return f"{listing.error}", advice
    return "its OpenCL driver is installed and loads, but shows no such device", advice
