"""How `homebox doctor` tells people what it found: short lines, the reason, what to do.

Lines begin with "ok" or "!!" where something can be well or not; advice stands right below what it
is about. Invariant: no line is longer than 100 columns, except words that cannot be broken.
"""

import textwrap
from collections.abc import Iterator, Sequence

from homebox.commands.doctor_devices import Device, Loader, Machine, Processor
from homebox.engine.opencl.drivers import Unseen
from homebox.engine.opencl.probes import Probes, Result

WIDTH = 100
_GIB = 1 << 30
# Families of probes in the words of an owner; the others are asked of every device alike.
ABILITIES = {
    "half": "arithmetic in f16",
    "double": "arithmetic in f64",
    "exchange": "exchange within sub-groups",
    "dot4": "fast products of bytes",
}
MATRIX = {"mma_f16": "f16", "mma_bf16": "bf16", "mma_s8": "bytes"}


def lines(machine: Machine) -> list[str]:
    """Return the report on devices, line by line."""
    text = ["", "Processor", *_processor(machine.processor), "", "OpenCL drivers"]
    text += _loader(machine.loader, machine)
    if machine.devices or machine.unseen:
        text += ["", "OpenCL devices"]
    for device in machine.devices:
        text += _device(device)
    for card in machine.unseen:
        text += _unseen(card)
    text += ["", *wrapped(f"--device auto takes {machine.chosen or 'nothing'}: {machine.why}.", 0)]
    return text


def wrapped(text: str, indent: int, hanging: int | None = None) -> list[str]:
    """Break a sentence into lines; those after the first are indented by `hanging`."""
    after = " " * (indent + 2 if hanging is None else hanging)
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=after,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _item(well: bool, text: str) -> list[str]:
    return wrapped(f"{'ok' if well else '!!'}  {text}", 0, 4)


def _processor(found: Processor) -> Iterator[str]:
    if found.problem:
        yield from _item(False, f"{found.name}: {found.problem}")
        return
    memory = f", {_bytes(found.memory)} of memory" if found.memory else ""
    threads = f"{found.threads} thread{'s' if found.threads > 1 else ''}"
    yield from _item(True, f"{found.name}, {threads}{memory}")
    yield from wrapped(f"level {found.level}: {', '.join(found.features) or 'basic'}", 4)
    if found.roof is not None:
        roof = found.roof
        yield from wrapped(
            f"reads {roof.read_gbs:.1f} GB/s; computes f32 {_rate(roof.f32_gflops, 'FLOP/s')}, "
            f"bf16 {_rate(roof.bf16_gflops, 'FLOP/s')}, int8 {_rate(roof.int8_gops, 'OP/s')}",
            4,
        )


def _loader(loader: Loader, machine: Machine) -> Iterator[str]:
    if not loader.pyopencl:
        yield from _item(False, "pyopencl is not installed, so graphics cards cannot be used")
        yield from _advice('pip install "homebox[opencl]"')
        return
    own = "with a loader of its own" if loader.bundled else "with the system's loader (libOpenCL)"
    yield from _item(True, f"pyopencl {loader.pyopencl} {own}")
    yield from wrapped(f"looks for drivers in {', '.join(loader.places)}", 4)
    for icd in loader.icds:
        if icd.path in machine.listing.guilty:
            yield from _item(False, f"{icd.path}: {icd.library} crashes or hangs when asked")
            yield from _advice("update or remove that driver")
        elif icd.problem:
            yield from _item(False, f"{icd.path}: {icd.problem}")
            yield from _advice("install the driver's package again, or remove the file")
        else:
            yield from _item(True, f"{icd.path}: {icd.library}")
    if not loader.icds:
        yield from wrapped("no driver is announced there", 4)
    for platform in machine.listing.platforms:
        count = f"{platform.devices or 'no'} device{'' if platform.devices == 1 else 's'}"
        yield from _item(True, f"platform {platform.name}, {_version(platform.version)}: {count}")
    if machine.listing.error:
        yield from _item(False, machine.listing.error)
    if not machine.devices and not machine.unseen:
        yield from wrapped(
            "there is no graphics card to use; to try OpenCL on the processor, which is for tests, "
            "install PoCL (Debian and Ubuntu: pocl-opencl-icd; Fedora and Arch: pocl)",
            4,
            4,
        )


def _device(device: Device) -> Iterator[str]:
    shown = device.shown
    name = f"{shown.name}  " if shown.name else ""
    yield from _item(not device.problem, f"{name}{shown.title} ({shown.kind})")
    kib = f"{shown.local_memory >> 10} KiB of local memory"
    yield from wrapped(
        f"{shown.platform}, driver {shown.driver}, {_version(shown.version)}, "
        f"{shown.units} compute units, {_bytes(shown.memory)}, {kib}",
        4,
    )
    if device.probes is not None:
        yield from _probes(device.probes)
    if device.problem:
        yield from wrapped(f"not used: {device.problem}", 4)
        return
    if device.roof is not None:
        yield from _roof(device)
    if device.trouble:
        yield from wrapped(f"not measured: {device.trouble}", 4)
    if shown.kind == "cpu":
        yield from wrapped("used only by name: the processor itself is faster without OpenCL", 4)


def _version(text: str) -> str:
    """Return "OpenCL 3.0" of what drivers write after it."""
    return " ".join(text.split()[:2])


def _probes(probes: Probes) -> Iterator[str]:
    if not probes.unusable:
        exact = ["float32 as exact as the processor's"] if probes.strict else []
        yield from wrapped(f"can: {', '.join([*exact, *_abilities(probes, True)])}", 4)
    if unable := _abilities(probes, False):
        yield from wrapped(f"lacks: {', '.join(unable)}", 4)
    for result in _worth_telling(probes):
        yield from wrapped(f"refused: {result.name}: {result.reason}", 4)


def _abilities(probes: Probes, passed: bool) -> list[str]:
    """Say what a device was found to do, or not to do."""
    found = [text for family, text in ABILITIES.items() if probes.passed(family) == passed]
    if passed:
        of = f"{ABILITIES['exchange']} of {probes.sub_group}"
        found = [of if each == ABILITIES["exchange"] else each for each in found]
    kinds = [text for family, text in MATRIX.items() if probes.passed(family) == passed]
    several = " and ".join(filter(None, [", ".join(kinds[:-1]), *kinds[-1:]]))
    return [*found, f"matrix units for {several}"] if kinds else found


def _worth_telling(probes: Probes) -> Sequence[Result]:
    """Return refusals that are a driver's mistake, or of something that all devices must do."""
    known = ABILITIES.keys() | MATRIX.keys()
    return [
        result
        for result in probes.refusals()
        if not probes.passed(result.family) and (result.suspicious or result.family not in known)
    ]


def _roof(device: Device) -> Iterator[str]:
    roof = device.roof
    assert roof is not None
    rates = [f"f32 {_rate(roof.f32_gflops, 'FLOP/s')}"]
    if roof.half_gflops:
        rates.append(f"f16 {_rate(roof.half_gflops, 'FLOP/s')}")
    if roof.int8_gops:
        rates.append(f"int8 {_rate(roof.int8_gops, 'OP/s')}")
    tiles = {
        "f16": roof.mma_f16_gflops,
        "bf16": roof.mma_bf16_gflops,
        "int8": roof.mma_s8_gops,
    }
    units = [f"{name} {_rate(rate, 'OP/s')}" for name, rate in tiles.items() if rate]
    if units:
        rates.append(f"in matrix units {', '.join(units)}")
    yield from wrapped(
        f"copies {roof.copy_gbs:.1f} GB/s, reads {roof.read_gbs:.1f} GB/s; "
        f"computes {', '.join(rates)}",
        4,
    )
    if device.product_gflops:
        share = 100 * device.product_gflops / roof.f32_gflops
        yield from wrapped(
            f"multiplies matrices (f32) at {_rate(device.product_gflops, 'FLOP/s')}, "
            f"{share:.0f} % of that",
            4,
        )


def _unseen(card: Unseen) -> Iterator[str]:
    yield from _item(False, f"{card.gpu.name} (gpu at {card.gpu.address}) is not shown by OpenCL")
    yield from wrapped(f"reason: {card.reason}", 4)
    yield from _advice(card.advice)


def _advice(text: str) -> list[str]:
    return wrapped(f"to do: {text}", 4)


def _rate(giga: float, unit: str) -> str:
    if giga >= 1000:
        return f"{giga / 1000:.1f} T{unit}"
    return f"{giga:.0f} G{unit}" if giga >= 10 else f"{giga:.1f} G{unit}"


def _bytes(count: int) -> str:
    return f"{count / _GIB:.1f} GiB"
