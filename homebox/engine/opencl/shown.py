"""What OpenCL shows on a machine, as plain data: platforms, devices, and what went wrong.

Who asks a driver and who explains what is missing both need these words, and neither the other.
Invariant: nothing here, and nothing that it needs, loads OpenCL.
"""

from dataclasses import dataclass

from homebox.engine.opencl.probes import Place

VENDORS_VARIABLE = "OCL_ICD_VENDORS"  # where the loader looks for drivers instead


@dataclass(frozen=True)
class Platform:
    """A driver's platform."""

    name: str
    vendor: str
    version: str
    devices: int


@dataclass(frozen=True)
class Shown:
    """A device that OpenCL shows; `refusal` says why homebox does not use it, or nothing."""

    name: str  # "cl:0"; empty if it is not used
    title: str
    kind: str
    platform: str
    vendor: str
    version: str
    driver: str
    memory: int
    local_memory: int
    units: int  # compute units
    refusal: str
    address: str = ""  # on the PCI bus, if the driver tells
    place: Place | None = None


@dataclass(frozen=True)
class Listing:
    """Everything that OpenCL shows; `error` says why it is not all, or nothing."""

    platforms: tuple[Platform, ...] = ()
    devices: tuple[Shown, ...] = ()
    error: str = ""
    guilty: tuple[str, ...] = ()  # .icd files whose drivers crash or hang
