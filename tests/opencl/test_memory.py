"""Memory of OpenCL devices: values, budgets, counting, and devices that go away."""

import gc
import itertools
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.device import Buffer
from homebox.engine.opencl import card_memory
from homebox.engine.opencl.calls import CallError
from homebox.engine.opencl.memory import OpenClMemory, default_budget
from homebox.engine.opencl.platform import Found
from homebox.errors import DeviceError, DeviceLostError, OutOfDeviceMemoryError


def test_new_memory_is_zero_and_keeps_what_is_written(cl_memory: OpenClMemory) -> None:
    buffer = Buffer(1000, dt.f32, device=cl_memory)
    assert not buffer.read().any()
    values = np.arange(1000, dtype=np.float32)
    buffer.write(values)
    assert np.array_equal(buffer.read(), values)
    buffer.write(values[:7], start=993)
    assert np.array_equal(buffer.read(990), [990, 991, 992, 0, 1, 2, 3, 4, 5, 6])


def test_large_values_and_parts(cl_memory: OpenClMemory) -> None:
    values = np.random.default_rng(0).integers(0, 255, 3 << 20, np.uint8)
    buffer = Buffer(values.size, dt.u8, device=cl_memory)
    buffer.write(values)
    part = buffer.part(1 << 20, 100, dt.i32)
    assert np.array_equal(part.read(), values[1 << 20 :][:400].view(np.int32))
    buffer.copy(0, 2 << 20, 4096)
    assert np.array_equal(buffer.read(2 << 20, 4096), values[:4096])


def test_small_writes_see_the_values_of_their_time(cl_memory: OpenClMemory) -> None:
    buffer = Buffer(400, dt.i32, device=cl_memory)
    place = np.zeros(1, np.int32)
    for i in range(400):  # more than may be under way
        place[0] = i
        buffer.write(place, start=i)
    assert np.array_equal(buffer.read(), np.arange(400))


def test_addresses_are_unique_and_no_real_ones(cl_memory: OpenClMemory) -> None:
    blocks = [cl_memory.allocate(n) for n in (1, 0, 5 << 20, 64)]
    spans = sorted((b.address, b.address + b.nbytes) for b in blocks)
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(spans))
    assert all(b.address % 64 == 0 and b.address >= 1 << 60 for b in blocks)


def test_the_host_has_no_view_of_device_memory(cl_memory: OpenClMemory) -> None:
    with pytest.raises(DeviceError, match="not in host memory"):
        _ = Buffer(4, dt.f32, device=cl_memory).array


def test_memory_is_given_back(cl_memory: OpenClMemory) -> None:
    before = cl_memory.used_bytes, cl_memory.block_count
    for _ in range(100):
        Buffer(1 << 18, dt.f32, device=cl_memory).write(np.ones(4, np.float32))
    part = Buffer(1 << 18, dt.f32, device=cl_memory).part(0, 16)
    assert cl_memory.block_count == before[1] + 1, "a part keeps its block"
    del part
    assert (cl_memory.used_bytes, cl_memory.block_count) == before


def test_a_budget_is_kept_and_told(cl_memory: OpenClMemory) -> None:
    cl_memory.budget = 10_000_000
    kept = cl_memory.allocate(6_000_000)
    with pytest.raises(OutOfDeviceMemoryError) as caught:
        cl_memory.allocate(5_000_000)
    for number in ("5.0 MB", "4.0 MB", "10.0 MB", cl_memory.title):
        assert number in str(caught.value)
    assert caught.value.status == 503
    assert cl_memory.free_bytes == 10_000_000 - cl_memory.used_bytes
    del kept
    cl_memory.allocate(5_000_000)


def test_memory_in_cycles_is_found_before_giving_up(cl_memory: OpenClMemory) -> None:
    cl_memory.budget = 10_000_000
    gc.collect()
    gc.disable()
    try:
        cycle: list[object] = [cl_memory.allocate(6_000_000)]
        cycle.append(cycle)
        del cycle
        assert cl_memory.used_bytes >= 6_000_000, "without a search the memory is not free"
        cl_memory.allocate(6_000_000)
    finally:
        gc.enable()


def test_memory_of_work_under_way_is_waited_for(
    cl_memory: OpenClMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver keeps what a launch uses until it is done, though nobody refers to it any more."""
    under_way = [1]
    fill, finish = cl_memory._fill, cl_memory.finish

    def full(*where: Any) -> None:
        if under_way:
            raise driver_error(-4)
        fill(*where)

    monkeypatch.setattr(cl_memory, "_fill", full)
    monkeypatch.setattr(cl_memory, "finish", lambda: (finish(), under_way.clear()))
    assert not cl_memory.allocate(4000).read(0, 4000).any()


def test_threads_that_write_and_read_take_each_others_events(cl_memory: OpenClMemory) -> None:
    class Taken(deque[Any]):
        def popleft(self) -> Any:
            raise IndexError("another thread was here")

    block = cl_memory.allocate(64)
    cl_memory._pending = Taken([None] * 100)
    block.write(0, np.arange(64, dtype=np.uint8))
    assert np.array_equal(block.read(0, 64), np.arange(64))
    cl_memory.finish()


def test_a_read_does_not_wait_for_later_writes(
    cl_memory: OpenClMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropping their events would wait for them, and no other thread would run meanwhile."""
    block = cl_memory.allocate(64)
    block.write(0, np.zeros(4, np.uint8))
    read = cl_memory.cl._cl._enqueue_read_buffer

    def late(*given: Any) -> Any:
        block.write(4, np.ones(4, np.uint8))  # as another thread would
        return read(*given)

    monkeypatch.setattr(cl_memory.cl._cl, "_enqueue_read_buffer", late)
    block.read(0, 8)
    assert len(cl_memory._pending) == 1


def test_one_piece_is_limited_by_the_driver(cl_memory: OpenClMemory) -> None:
    cl_memory.budget = 1 << 60
    with pytest.raises(OutOfDeviceMemoryError, match="in one piece"):
        cl_memory.allocate(cl_memory.entry.largest + 1)
    assert cl_memory.used_bytes == 0


@pytest.mark.parametrize("code", [-4, -5, -6])
def test_memory_that_the_driver_refuses_late(
    cl_memory: OpenClMemory, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    fill = cl_memory._fill

    def full(memory: object, start: int, nbytes: int) -> None:
        if nbytes > 4096:
            raise driver_error(code)
        fill(memory, start, nbytes)

    monkeypatch.setattr(cl_memory, "_fill", full)
    with pytest.raises(OutOfDeviceMemoryError, match=r"no room for 2\.0 MB .*its driver has no"):
        cl_memory.allocate(2_000_000)
    assert not cl_memory.lost
    assert cl_memory.used_bytes == 0
    cl_memory.allocate(4000)


def test_a_call_that_fails_on_a_device_that_lives(cl_memory: OpenClMemory) -> None:
    block = cl_memory.allocate(64)
    with pytest.raises(DeviceError, match="reading 128 bytes failed") as caught:
        block.read(64, 128)
    assert not isinstance(caught.value, DeviceLostError)
    assert block.read(0, 64).size == 64


def test_a_device_that_is_gone_says_so_ever_after(
    cl_memory: OpenClMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = cl_memory.allocate(64)
    monkeypatch.setattr(cl_memory, "_fill", raising(driver_error(-36)))
    with pytest.raises(DeviceLostError, match="was lost while reading"):
        block.read(64, 128)
    monkeypatch.undo()
    for call in (
        lambda: block.read(0, 4),
        lambda: block.write(0, np.zeros(4, np.uint8)),
        lambda: cl_memory.allocate(4),
        cl_memory.finish,
    ):
        with pytest.raises(DeviceLostError, match="was lost while reading"):
            call()


def test_budgets_leave_room_for_others(cl_entry: Found) -> None:
    assert cl_entry.memory // 2 <= default_budget(cl_entry) < cl_entry.memory


def driver_error(code: int) -> Exception:
    """Return an error as pyopencl raises it."""
    import pyopencl as cl

    record = cl._cl._ErrorRecord(msg="made up", code=code, routine="clMadeUp")
    return cl.RuntimeError(record)


def raising(error: Exception) -> Callable[..., None]:
    def call(*_: object) -> None:
        raise error

    return call


def _find(repository: Path, code: str, **environment: str) -> str:
    """Run Python in a process of its own, where OpenCL was not loaded yet."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout + done.stderr


FIND = """
from homebox.engine.opencl.platform import find
from homebox.errors import DeviceError
try:
    print("found", find("cl:0"))
except DeviceError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize("folder", ["empty", "absent", "broken"])
def test_no_runtime_is_an_error_with_advice(repository: Path, tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.icd").write_text("libdoesnotexist.so\n")
    said = _find(repository, FIND, OCL_ICD_VENDORS=str(tmp_path / folder))
    assert "refused: no OpenCL platform is installed" in said
    assert "Traceback" not in said


def test_without_pyopencl_it_says_what_to_install(repository: Path) -> None:
    said = _find(repository, "import sys; sys.modules['pyopencl'] = None\n" + FIND)
    assert "refused:" in said
    assert 'pip install "homebox[opencl]"' in said


def test_finding_says_which_devices_there_are(cl_entry: Found) -> None:
    from homebox.engine.opencl.platform import find

    assert find(cl_entry.name) == cl_entry
    with pytest.raises(DeviceError, match=f"usable are: .*{cl_entry.name}"):
        find("cl:99")


def test_names_go_to_cards_first_and_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    from homebox.engine.opencl import platform

    shown = {
        "one": [
            Found("", "cpu", "cpu", "one"),
            Found("", "fpga", "accelerator", "one", refusal="no"),
        ],
        "two": [Found("", "card", "gpu", "two", address="0000:01:00.0")],
        "three": [
            Found("", "card again", "gpu", "three", address="0000:01:00.0"),
            Found("", "other", "gpu", "three", address="0000:02:00.0"),
            Found("", "silent", "gpu", "three"),
            Found("", "silent", "gpu", "three"),
            Found("", "other half", "gpu", "three", address="0000:02:00.0"),
        ],
    }
    monkeypatch.setattr(platform, "_platforms", lambda cl: list(shown))
    monkeypatch.setattr(platform, "_devices", lambda cl, platform: shown[platform])
    found = platform.found()
    assert [(e.name, e.title) for e in found] == [
        ("cl:0", "card"),
        ("cl:1", "other"),
        ("cl:2", "silent"),
        ("cl:3", "silent"),
        ("cl:4", "other half"),
        ("cl:5", "cpu"),
        ("", "card again"),
        ("", "fpga"),
    ]
    assert "the card of cl:0" in found[6].refusal


@pytest.mark.parametrize(
    ("answers", "address"),
    [
        ({"PCI_BUS_ID_NV": 0x41, "PCI_SLOT_ID_NV": 0x0A}, "0000:41:01.2"),
        ({"PCI_BUS_ID_NV": 1, "PCI_SLOT_ID_NV": 0, "PCI_DOMAIN_ID_NV": 7}, "0007:01:00.0"),
        ({"TOPOLOGY_AMD": SimpleNamespace(bus=-125, device=0, function=1)}, "0000:83:00.1"),
        ({}, ""),
    ],
)
def test_drivers_tell_in_their_own_way_where_a_card_is(
    monkeypatch: pytest.MonkeyPatch, answers: dict[str, Any], address: str
) -> None:
    """Without it nobody knows how much of the card others use, nor that two drivers show it."""
    import pyopencl as cl

    from homebox.engine.opencl import platform

    class Mute:
        def pci_place(self, device: int) -> tuple[int, int, int, int]:
            raise CallError("clGetDeviceInfo", -30)

    names = {getattr(cl.device_info, name): value for name, value in answers.items()}

    def get_info(what: int) -> Any:
        if what not in names:
            raise driver_error(-30)
        return names[what]

    monkeypatch.setattr(platform, "calls", lambda library: Mute())
    device = SimpleNamespace(int_ptr=0, get_info=get_info)
    assert platform._address(cl, device) == address


def test_a_platform_that_throws_takes_nothing_else_with_it(
    cl_entry: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyopencl as cl

    from homebox.engine.opencl.platform import found

    class Broken:
        name = "Broken"
        get_devices = staticmethod(raising(driver_error(-5)))

    class Mute:
        name = property(raising(driver_error(-30)))

    class Empty:
        name = "Empty"
        get_devices = staticmethod(raising(driver_error(-1)))

    class Foreign:
        name = "Foreign"

        @staticmethod
        def get_devices() -> list[Any]:
            wrong = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
            return [type("Device", (), {"name": property(raising(wrong))})()]

    real = cl.get_platforms()
    shown = [Broken(), Mute(), Empty(), Foreign(), *real]
    monkeypatch.setattr(cl, "get_platforms", lambda: shown)
    entries = found()
    assert cl_entry in entries
    refusals = {each.title: each.refusal for each in entries if each.refusal}
    assert "cannot list its devices" in refusals["Broken"]
    assert "tell its name" in refusals["unknown platform"]
    assert "Empty" not in refusals
    assert "does not answer questions" in refusals["unknown device"]


def test_other_programs_leave_less_of_a_card(
    cl_memory: OpenClMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cl_memory.free_bytes == cl_memory.budget - cl_memory.used_bytes
    monkeypatch.setattr(card_memory, "PCI", tmp_path)
    card = tmp_path / "0000:03:00.0"
    card.mkdir()
    (card / "mem_info_vram_total").write_text("20000\n")
    (card / "mem_info_vram_used").write_text("12000\n")
    monkeypatch.setattr(cl_memory, "entry", replace(cl_memory.entry, address=card.name))
    assert cl_memory.free_bytes == 8000
    (card / "mem_info_vram_used").write_text("nonsense")
    monkeypatch.setattr(card_memory, "_management", lambda: None)
    assert cl_memory.free_bytes == cl_memory.budget - cl_memory.used_bytes


def test_nvidia_tells_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        def nvmlDeviceGetHandleByPciBusId_v2(self, address: bytes, card: Any) -> int:  # noqa: N802
            card._obj.value = 7
            return 0 if address == b"0000:01:00.0" else 6

        def nvmlDeviceGetMemoryInfo(self, card: Any, memory: Any) -> int:  # noqa: N802
            assert card.value == 7
            memory._obj.total, memory._obj.free, memory._obj.used = 24, 9, 15
            return 0

    monkeypatch.setattr(card_memory, "_management", Library)
    assert card_memory.unused_bytes("0000:01:00.0") == 9
    assert card_memory.unused_bytes("0000:02:00.0") is None
    assert card_memory.unused_bytes("") is None
