"""Programs on OpenCL devices: kernels and their binaries, launches, suspended runs, losses."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from homebox.engine.codegen.cache import DiskCache
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.device import Buffer
from homebox.engine.opencl import command_trial, commands, launches
from homebox.engine.opencl.build import Builder
from homebox.engine.opencl.calls import CallError, Calls
from homebox.engine.opencl.command_trial import commands_of, faster_commands
from homebox.engine.opencl.launches import OpenClLaunches
from homebox.engine.opencl.memory import OpenClMemory
from homebox.engine.runtime.program_plan import Axis, Launch
from homebox.engine.runtime.stop_flag import StopFlag
from homebox.errors import DeviceError, DeviceLostError, EngineError, OutOfDeviceMemoryError

GROUP = 64

# x[i] = x[i] * 3 + NUMBER; uses the first run-time integer as its length.
STEP = """
int hb_step(int x) { return x * 3 + NUMBER; }
__kernel __attribute__((reqd_work_group_size(64, 1, 1)))
void NAME(__global uchar *b0, ulong o0, __global uchar *bv, ulong ov) {
    __global int *x = (__global int *)(b0 + o0);
    int n = *(__global int *)(bv + ov);
    int i = get_group_id(0) * 64 + get_local_id(0);
    if (i < n) x[i] = hb_step(x[i]);
}
"""

# The same a thousand times, which takes a while.
SLOW = STEP.replace("x[i] = hb_step(x[i])", "for (int r = 0; r < 1001; r++) x[i] = hb_step(x[i])")


def step(name: str, number: int, text: str = STEP) -> str:
    return text.replace("NAME", name).replace("NUMBER", str(number))


@pytest.fixture
def builder(cl_memory: OpenClMemory, tmp_path: Path) -> Builder:
    return Builder(cl_memory, cache=DiskCache(tmp_path))


class Steps:
    """A program made by hand: `numbers` are the kernels that run on x, in order."""

    def __init__(
        self,
        builder: Builder,
        numbers: Sequence[int],
        size: int = 1000,
        text: str = STEP,
        grids: Mapping[int, tuple[Axis, ...]] | None = None,
    ) -> None:
        self.memory = builder._memory
        self.numbers = numbers
        self.size = size
        self.x = Buffer(size, dt.i32, device=self.memory)
        self.variables = Buffer(1, dt.i32, device=self.memory)
        names = [f"step{each}" for each in sorted(set(numbers))]
        code = builder.load({name: step(name, int(name[4:]), text) for name in names})
        usual = (Axis(size, (), GROUP),) if grids else (Axis(1, (("n", 1),), GROUP),)
        launches = [
            Launch(names.index(f"step{each}"), (0,), grid, 1, 1, f"step {each}")
            for each, grid in ((n, (grids or {}).get(i, usual)) for i, n in enumerate(numbers))
        ]
        self.launches = OpenClLaunches(
            self.memory,
            launches,
            [code[name] for name in names],
            lambda i: (self.x.block, self.x.offset),
            self.variables,
            {"n": size},
        )

    def begin(self, n: int) -> None:
        self.x.write(np.arange(self.size, dtype=np.int32))
        self.variables.write(np.array([n], np.int32))
        self.launches.bind({"n": n})

    def expected(
        self, n: int, repeats: int = 1, numbers: Sequence[int] | None = None
    ) -> np.ndarray:
        x = np.arange(self.size, dtype=np.int32)
        for each in self.numbers if numbers is None else numbers:
            for _ in range(repeats):
                x[:n] = x[:n] * 3 + each
        return x


# -- kernels --------------------------------------------------------------------------------------


def test_many_kernels_become_few_programs(builder: Builder) -> None:
    texts = {f"k{i}": step(f"k{i}", i) for i in range(20)}
    code = builder.load(texts)
    assert set(code) == set(texts)
    assert all(each.group == (GROUP, 1, 1) for each in code.values())
    assert builder.built <= 4
    assert builder.load(texts) == code
    assert builder.built <= 4


def test_kernels_come_from_the_disk(
    builder: Builder, cl_memory: OpenClMemory, tmp_path: Path
) -> None:
    texts = {f"k{i}": step(f"k{i}", i) for i in range(5)}
    keys = {name: builder.key(text) for name, text in texts.items()}
    assert builder.load_objects(keys) is None
    builder.load(texts)
    again = Builder(cl_memory, cache=DiskCache(tmp_path))
    found = again.load_objects(keys)
    assert found is not None
    assert set(found) == set(texts)
    assert (again.built, again.hits) == (0, builder.built)
    assert again.load_objects({**keys, "other": again.key("other")}) is None
    assert Steps(again, [1, 2]).expected(4) is not None
    other = Builder(cl_memory, ["-DOTHER"], cache=DiskCache(tmp_path))
    assert other.load_objects({n: other.key(t) for n, t in texts.items()}) is None


def test_a_refused_binary_is_built_from_its_source(
    builder: Builder,
    cl_memory: OpenClMemory,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = step("k", 5)
    builder.load({"k": text})
    cache = DiskCache(tmp_path)
    key = builder.key(text)
    group = cache.get(key)
    assert group is not None
    entry = cache.get(group.decode())
    assert entry is not None
    length = 4 + int.from_bytes(entry[:4], "little")
    cache.put(group.decode(), entry[:length] + b"no binary of any driver")
    again = Builder(cl_memory, cache=cache)
    with caplog.at_level(logging.WARNING):
        found = again.load_objects({"k": key})
    assert found is not None
    assert "refused kernels from the disk" in caplog.text


@pytest.mark.parametrize("damage", ["kernel", "group", "both"])
def test_damaged_entries_are_made_again(
    builder: Builder, cl_memory: OpenClMemory, tmp_path: Path, damage: str
) -> None:
    text = step("k", 5)
    builder.load({"k": text})
    key = builder.key(text)
    cache = DiskCache(tmp_path)
    group = cache.get(key)
    assert group is not None
    if damage in ("kernel", "both"):
        cache.put(key, b"\xff nonsense")
    if damage in ("group", "both"):
        cache.put(group.decode(), b"\x09\0\0\0nonsense")
    again = Builder(cl_memory, cache=cache)
    assert again.load_objects({"k": key}) is None
    assert again.load({"k": text})["k"].name == "k"
    assert Builder(cl_memory, cache=cache).load_objects({"k": key}) is not None


def test_a_text_that_does_not_compile_is_named(builder: Builder) -> None:
    texts = {f"k{i}": step(f"k{i}", i) for i in range(6)}
    texts["k3"] = texts["k3"].replace("int n", "int n = undeclared_thing; int m")
    with pytest.raises(DeviceError, match=r"(?s)the kernel k3;.*undeclared_thing") as caught:
        builder.load(texts)
    assert builder._memory.title in str(caught.value)
    assert builder.load({"k1": texts["k1"]})


def test_a_compiler_may_speak_any_language(
    builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def foreign(*given: object) -> str:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    monkeypatch.setattr(builder._cl._cl._Program, "get_build_info", foreign)
    with pytest.raises(DeviceError, match="cannot compile the kernel wrong"):
        builder.load({"wrong": "__kernel void wrong() { nothing_like_it(); }"})


@pytest.mark.parametrize("needs", [(32, 0), (64, 1 << 30)])
def test_a_kernel_that_does_not_fit_is_named(
    builder: Builder, monkeypatch: pytest.MonkeyPatch, needs: tuple[int, int]
) -> None:
    monkeypatch.setattr(Calls, "needs", lambda *_: needs)
    with pytest.raises(DeviceError, match=rf"cannot run the kernel large: .* most {needs[0]} and"):
        builder.load({"large": step("large", 1)})
    monkeypatch.undo()
    assert builder.load({"large": step("large", 1)})["large"].group == (64, 1, 1)


EXCHANGING = """
int hb_exchange(int x, uint mask) { return x; }
__kernel __attribute__((reqd_work_group_size(64, 1, 1))) void swap(__global int *x) {
    x[0] = hb_exchange(x[0], 8u);
    x[1] = hb_exchange(x[0], 1u);
}
"""


def test_sub_groups_that_became_too_small_are_seen(
    builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Calls, "sub_group", lambda *_: 8)
    for _ in range(2):  # nothing of it is kept
        with pytest.raises(DeviceError, match="sub-groups of 8 work-items and needs 16"):
            builder.load({"swap": EXCHANGING})
    builder.load({"plain": step("plain", 1)})
    for size in (16, 64, 0):  # 0: the driver does not tell
        monkeypatch.setattr(Calls, "sub_group", lambda *_, size=size: size)
        fresh = EXCHANGING + f"// {size}"
        assert builder.load({"swap": fresh})["swap"].group == (64, 1, 1)


def test_drivers_tell_the_size_of_sub_groups(builder: Builder) -> None:
    memory = builder._memory
    code = builder.load({"plain": step("plain", 1)})["plain"]
    kernel = memory.calls.kernel(code.program.int_ptr, "plain")
    device = memory.entry.device.int_ptr
    size = memory.calls.sub_group(kernel.address, device, code.group)
    assert size in (0, 1, 2, 4, 8, 16, 32, 64)
    assert size > 0 or memory.entry.platform != "Intel(R) OpenCL"


def test_a_kernel_must_say_its_group(builder: Builder) -> None:
    text = step("k", 1).replace("__attribute__((reqd_work_group_size(64, 1, 1)))", "")
    with pytest.raises(DeviceError, match="does not say how large"):
        builder.load({"k": text})


# -- launches -------------------------------------------------------------------------------------


@pytest.fixture(params=["list", "one by one"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Launch by machine code, and from Python as where that does not work."""
    if request.param == "one by one":
        monkeypatch.setattr(launches, "sender", lambda _: None)
    return str(request.param)


def test_launches_run_in_order_on_the_sizes_of_the_run(builder: Builder, way: str) -> None:
    steps = Steps(builder, [1, 2, 1, 3])
    assert (steps.launches._send is None) == (way == "one by one")
    for n in (1000, 1, 0, 64, 999):
        steps.begin(n)
        assert steps.launches.run(0, None) == 4
        assert np.array_equal(steps.x.read(), steps.expected(n)), n


def test_grids_of_three_axes(builder: Builder, way: str) -> None:
    text = """
    __kernel __attribute__((reqd_work_group_size(4, 2, 1)))
    void k(__global uchar *b0, ulong o0, __global uchar *bv, ulong ov) {
        __global int *x = (__global int *)(b0 + o0);
        int at = (get_group_id(2) * 3 + get_group_id(1)) * 5 + get_group_id(0);
        x[at * 8 + get_local_id(1) * 4 + get_local_id(0)] = at;
    }"""
    memory = builder._memory
    x = Buffer(2 * 3 * 5 * 8 + 16, dt.i32, device=memory)
    part = x.part(16, 2 * 3 * 5 * 8)
    grid = (Axis(5), Axis(3), Axis(1, (("n", 1),)))
    launches = OpenClLaunches(
        memory,
        [Launch(0, (0,), grid, 1, 1, "k")],
        [builder.load({"k": text})["k"]],
        lambda i: (part.block, part.offset),
        Buffer(1, dt.i32, device=memory),
        {"n": 7},
    )
    launches.bind({"n": 2})
    launches.run(0, None)
    assert not x.read(0, 16).any()
    assert np.array_equal(part.read(), np.repeat(np.arange(30), 8))


def test_a_suspended_run_gives_equal_bytes(
    builder: Builder, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launches, "BRIEF", 0.0)
    monkeypatch.setattr(launches, "_PIECE", 0.0)
    steps = Steps(builder, [i % 5 for i in range(40)], 1 << 13, SLOW)
    steps.launches._piece = 3
    stop = StopFlag()
    steps.begin(8000)
    stop.set()  # from the start: it gets on all the same
    at = steps.launches.run(0, stop)
    assert 0 < at < 40
    reached = [at]
    while at < 40:
        at = steps.launches.run(at, stop)
        assert at > reached[-1]
        reached.append(at)
    suspended = steps.x.read()
    steps.begin(8000)
    assert steps.launches.run(0, None) == 40
    assert np.array_equal(steps.x.read(), suspended)
    assert np.array_equal(suspended, steps.expected(8000, 1001))


def test_a_flag_that_is_set_in_between_stops_a_run(
    builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launches, "_PIECE", 0.0)
    steps = Steps(builder, [i % 5 for i in range(50)], 1 << 14, SLOW)
    stop = StopFlag()
    steps.begin(1 << 14)
    launch, sent = steps.launches._piece_sent, []

    def launched(first: int, end: int) -> object:
        sent.append(end)
        if len(sent) == 5:
            stop.set()
        return launch(first, end)

    monkeypatch.setattr(steps.launches, "_piece_sent", launched)
    at = steps.launches.run(0, stop)
    assert at == sent[4]
    assert 0 < at < 50
    stop.clear()
    assert steps.launches.run(at, stop) == 50
    assert np.array_equal(steps.x.read(), steps.expected(1 << 14, 1001))


def test_a_run_with_a_quiet_flag_ends(builder: Builder) -> None:
    steps = Steps(builder, [1, 2] * 40)
    steps.begin(500)
    assert steps.launches.run(0, StopFlag()) == 80
    assert np.array_equal(steps.x.read(), steps.expected(500))


def test_every_launch_is_measured(builder: Builder) -> None:
    steps = Steps(builder, [1, 2, 3], 1 << 16, SLOW)
    steps.begin(1 << 16)
    times = steps.launches.profile()
    assert times.shape == (3,)
    assert (times > 0).all()
    assert np.array_equal(steps.x.read(), steps.expected(1 << 16, 1001))
    steps.launches.bind({"n": 0})
    assert not steps.launches.profile().any()


def test_programs_keep_their_memory_and_give_it_back(builder: Builder) -> None:
    memory = builder._memory
    before = memory.block_count
    steps = Steps(builder, [1])
    launches = steps.launches
    steps.begin(10)
    del steps
    assert memory.block_count == before + 2
    launches.run(0, None)
    del launches
    assert memory.block_count == before


def test_memory_of_another_device_is_refused(builder: Builder, cl_memory: OpenClMemory) -> None:
    other = OpenClMemory(cl_memory.entry)
    code = builder.load({"k": step("k", 1)})
    for device in (other, None):
        with pytest.raises(EngineError, match="memory that is not there"):
            stray = Buffer(64, dt.i32, device=device)
            OpenClLaunches(
                cl_memory,
                [Launch(0, (0,), (Axis(1),), 1, 1, "k")],
                [code["k"]],
                lambda i, stray=stray: (stray.block, stray.offset),
                Buffer(1, dt.i32, device=cl_memory),
                {},
            )


def test_recorded_launches_do_what_lists_do(builder: Builder) -> None:
    memory = builder._memory
    memory.commands = commands_of(memory)
    if memory.commands is None:
        pytest.skip(f"{memory.title} cannot record launches that overlap")
    grids = {i: (Axis(1, (("n", 1),), GROUP),) for i in (3, 15)}
    grids |= {20: (Axis(0),)}
    steps = Steps(builder, [i % 5 for i in range(40)], grids=grids)
    for n in (999, 5, 640):
        steps.begin(n)
        for _ in range(2):
            assert steps.launches.run(0, None) == 40
        skipped = [i % 5 for i in range(40) if i != 20]
        assert np.array_equal(steps.x.read(), steps.expected(n, numbers=skipped * 2))
    parts = steps.launches._parts
    assert parts is not None
    assert [each for each in parts if isinstance(each, tuple)] == [(0, 4), (15, 21)]
    assert len(parts) == 4


def test_recording_is_used_only_where_it_is_faster(
    builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = builder._memory
    if commands_of(memory) is None:
        assert faster_commands(memory, builder) is None
        pytest.skip(f"{memory.title} cannot record launches that overlap")
    tried = command_trial._tried
    for seconds, kept in (([1.0, 0.5], True), ([1.0, 1.0], False)):
        times = iter(seconds)
        monkeypatch.setattr(
            command_trial, "_tried", lambda *given, times=times: (tried(*given)[0], next(times))
        )
        assert (faster_commands(memory, builder) is not None) == kept
    values = iter([np.zeros(4), np.ones(4)])
    monkeypatch.setattr(command_trial, "_tried", lambda *_: (next(values), next(times, 0.0)))
    assert faster_commands(memory, builder) is None, "wrong numbers are never used"


def test_lists_are_cut_where_grids_change() -> None:
    assert commands.still(20, []) == [(0, 20, True)]
    assert commands.still(5, []) == [(0, 5, False)]
    assert commands.still(20, [2, 19]) == [(0, 3, False), (3, 19, True), (19, 20, False)]
    assert commands.still(20, range(5, 12)) == [(0, 12, False), (12, 20, True)]
    assert commands.still(0, []) == []


def test_a_recording_that_fails_leaves_the_list(builder: Builder) -> None:
    memory = builder._memory

    class Failing:
        def record(self, *given: object) -> None:
            raise CallError("clFinalizeCommandBufferKHR", -6)

    memory.commands = Failing()  # type: ignore[assignment]
    steps = Steps(builder, [i % 5 for i in range(20)])
    steps.launches._grids.clear()
    for _ in range(3):
        steps.begin(999)
        assert steps.launches.run(0, None) == 20
        assert np.array_equal(steps.x.read(), steps.expected(999))


def test_a_driver_that_fails_at_the_trial_of_recordings_is_used_without(
    builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = builder._memory
    if commands_of(memory) is None:
        pytest.skip(f"{memory.title} cannot record launches that overlap")

    def broken(*given: object) -> None:
        raise DeviceError("finishing its work failed")

    monkeypatch.setattr(command_trial, "_tried", broken)
    assert faster_commands(memory, builder) is None
    memory.lost = "gone"
    with pytest.raises(DeviceLostError):
        faster_commands(memory, builder)
    memory.lost = ""


@pytest.mark.parametrize("recorded", [False, True])
def test_a_program_may_be_dropped_while_it_runs(builder: Builder, recorded: bool) -> None:
    memory = builder._memory
    memory.commands = commands_of(memory) if recorded else None
    before = memory.block_count
    steps = Steps(builder, [1, 2, 3] * 4, size=1 << 16, text=SLOW, grids={0: (Axis(1024),)})
    launches = steps.launches
    steps.begin(1 << 16)
    for _ in range(3):
        launches.run(0, None)
    del steps, launches
    assert memory.block_count == before
    others = [memory.allocate(1 << 18) for _ in range(8)]
    assert not any(each.read(0, each.nbytes).any() for each in others)
    memory.finish()


@pytest.mark.parametrize(
    ("code", "error"), [(-36, DeviceLostError), (-4, OutOfDeviceMemoryError), (-5, DeviceError)]
)
def test_a_launch_that_fails(
    builder: Builder, monkeypatch: pytest.MonkeyPatch, code: int, error: type[DeviceError]
) -> None:
    steps = Steps(builder, [1, 2, 3])
    steps.begin(10)
    send = steps.launches._send
    steps.launches._send = lambda queue, rows, first, end: (1, code)
    if error is DeviceLostError:
        monkeypatch.setattr(steps.memory, "_answers", lambda: False)
    with pytest.raises(
        error, match=r"launching step 2 \(64 work-items in groups of 64\)"
    ) as caught:
        steps.launches.run(0, None)
    assert type(caught.value) is error
    steps.launches._send = send
    if error is DeviceLostError:
        monkeypatch.undo()
        with pytest.raises(DeviceLostError):
            steps.launches.run(0, None)
        return
    steps.begin(10)
    steps.launches.run(0, None)
    assert np.array_equal(steps.x.read(), steps.expected(10)), "the device goes on"
