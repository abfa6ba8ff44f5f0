"""Targets, buffers and the disk cache: all that works without a compiler."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from homebox.engine.codegen import cpu
from homebox.engine.codegen.cache import DiskCache, cache_root
from homebox.engine.graph.device import Buffer
from homebox.engine.graph.dtype import ALL, bf16, f32, i64
from homebox.engine.runtime.runtime_cpu import thread_count
from homebox.errors import DeviceError, EngineError

LINUX = "x86_64-unknown-linux-gnu"
HASWELL = {"avx2": True, "fma": True, "f16c": True, "avx512f": False}
SERVER = {
    **dict.fromkeys(("avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl"), True),
    **dict.fromkeys(("avx512vnni", "avx512bf16", "avx10.1", "amx-int8", "avxvnni"), True),
}


def switched_on(level: str) -> set[str]:
    target = cpu.make_target(LINUX, "znver5", SERVER, level)
    return {f[1:] for f in target.features.split(",") if f.startswith("+")}


def test_a_level_turns_everything_above_it_off() -> None:
    wide = {"avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl"}
    assert switched_on("avx512-vnni") == {key for key, on in SERVER.items() if on}
    assert switched_on("avx512") == wide
    assert switched_on("avx-vnni") == {"avx2", "fma", "avxvnni"}
    assert switched_on("avx2") == {"avx2", "fma"}
    assert switched_on("generic") == set()
    cut = cpu.make_target(LINUX, "znver5", HASWELL, "avx2").features.split(",")
    for feature in ("avx512f", "avx512vl", "avx512vnni", "avx512bf16", "avxvnni"):
        assert f"-{feature}" in cut  # the processor's name alone would switch it on


@pytest.mark.parametrize(
    ("level", "vector", "lanes"),
    [
        ("avx512-vnni", "avx512", 16),
        ("avx512", "avx512", 16),
        ("avx-vnni", "avx2", 8),
        ("avx2", "avx2", 8),
        ("generic", "generic", 4),
    ],
)
def test_levels_have_a_kind_of_registers(level: str, vector: str, lanes: int) -> None:
    target = cpu.make_target(LINUX, "znver5", SERVER, level)
    assert (target.vector, target.lanes_hint) == (vector, lanes)


def test_what_can_run_is_not_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    zen4 = {**SERVER, "avxvnni": False}
    monkeypatch.setattr(cpu, "_host", lambda: (LINUX, "znver4", tuple(zen4.items())))
    assert cpu.available() == ("avx512-vnni", "avx512", "avx2", "generic")
    alder = {"avx2": True, "fma": True, "avxvnni": True}
    monkeypatch.setattr(cpu, "_host", lambda: (LINUX, "alderlake", tuple(alder.items())))
    assert cpu.available() == ("avx-vnni", "avx2", "generic")


def test_avx512_kernels_get_whole_registers() -> None:
    target = cpu.make_target(LINUX, "skylake-avx512", {**SERVER, "prefer-256-bit": True}, "avx512")
    assert "-prefer-256-bit" in target.features.split(",")


def test_generic_x86_uses_nothing_that_is_newer_than_sse2() -> None:
    target = cpu.make_target(LINUX, "znver5", SERVER, "generic")
    assert (target.name, target.features, target.lanes_hint) == ("x86-64", "", 4)


def test_a_level_that_the_processor_lacks_is_refused_by_name() -> None:
    with pytest.raises(DeviceError, match=r"avx512 does not run.*avx512bw"):
        cpu.make_target(LINUX, "haswell", HASWELL, "avx512")
    with pytest.raises(DeviceError, match="avx2"):
        cpu.make_target("aarch64-unknown-linux-gnu", "neoverse-n1", {"neon": True}, "avx2")


def test_other_architectures_are_refused() -> None:
    with pytest.raises(DeviceError, match="riscv64"):
        cpu.make_target("riscv64-unknown-linux-gnu", "generic", {}, "generic")


@pytest.mark.parametrize(
    ("features", "level"), [(SERVER, "avx512-vnni"), (HASWELL, "avx2"), ({"sse2": True}, "generic")]
)
def test_detect_takes_the_best_level(
    monkeypatch: pytest.MonkeyPatch, features: dict[str, bool], level: str
) -> None:
    monkeypatch.setattr(cpu, "_host", lambda: (LINUX, "some", tuple(features.items())))
    assert cpu.detect().level == level


def test_arm_dot_instructions_are_those_that_all_processors_have(tmp_path: Path) -> None:
    listing = tmp_path / "cpuinfo"
    small, large = "fp asimd crc32 asimddp", "fp asimd asimdhp asimddp i8mm bf16"
    listing.write_text(f"processor\t: 0\nFeatures\t: {large}\n\nprocessor\t: 1\n")
    assert set(cpu._arm_features(listing)) == {"dotprod", "fullfp16", "i8mm", "bf16"}
    listing.write_text(f"Features\t: {large}\nprocessor\t: 1\nFeatures\t: {small}\n")
    assert cpu._arm_features(listing) == {"dotprod": True}
    listing.write_text("flags : avx2\n")
    assert cpu._arm_features(listing) == cpu._arm_features(tmp_path / "none") == {}


def test_environment_forces_a_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_host", lambda: (LINUX, "haswell", tuple(HASWELL.items())))
    monkeypatch.setenv("HOMEBOX_CPU", "generic")
    assert cpu.detect().level == "generic"
    monkeypatch.setenv("HOMEBOX_CPU", "avx512")
    with pytest.raises(DeviceError, match="does not run"):
        cpu.detect()
    monkeypatch.setenv("HOMEBOX_CPU", "sse9")
    with pytest.raises(DeviceError, match="avx512-vnni, avx512, avx-vnni, avx2, generic"):
        cpu.detect()


def test_rooms_import_without_llvmlite_and_say_what_is_missing(repository: Path) -> None:
    code = (
        "import sys; sys.modules['llvmlite'] = None\n"
        "import homebox.engine.codegen.jit, homebox.engine.runtime.runtime_cpu\n"
        "import homebox.engine.graph.device\n"
        "from homebox.engine.codegen.cpu import detect\n"
        "from homebox.errors import DeviceError\n"
        "try:\n    detect()\nexcept DeviceError as error:\n    print(error)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True
    )
    assert "pip install llvmlite" in found.stdout


def test_thread_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert thread_count(3) == 3
    assert 1 <= thread_count() <= len(os.sched_getaffinity(0))
    monkeypatch.setenv("HOMEBOX_THREADS", "5")
    assert thread_count() == 5
    for wrong in ("0", "-1", "many", "99999"):
        monkeypatch.setenv("HOMEBOX_THREADS", wrong)
        with pytest.raises(DeviceError):
            thread_count()


@pytest.mark.parametrize("count", [0, 1, 3, 63, 1000, (1 << 20) + 1])
@pytest.mark.parametrize("dtype", ALL, ids=repr)
def test_buffers_are_aligned_typed_and_zero(count: int, dtype: object) -> None:
    buffer = Buffer(count, dtype)  # type: ignore[arg-type]
    assert buffer.address % 64 == 0
    assert buffer.array.shape == (count,)
    assert buffer.array.dtype == buffer.dtype.to_numpy()
    assert buffer.nbytes == count * buffer.dtype.size
    assert not buffer.array.any()
    if count:
        assert buffer.address == buffer.array.ctypes.data
        buffer.array[-1] = 1
        assert buffer.array[-1] == 1


def test_buffers_have_identity() -> None:
    a, b = Buffer(4, f32), Buffer(4, f32, frozen=True)
    assert a != b
    assert len({a, b, a}) == 2
    assert (a.frozen, b.frozen) == (False, True)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_untouched_memory_is_not_committed() -> None:
    before = _resident()
    buffer = Buffer(1 << 30, f32)  # 4 GiB
    assert _resident() - before < 1 << 24
    buffer.array[: 1 << 24] = 1.0  # the control: touched memory is
    assert _resident() - before >= 1 << 26


def test_impossible_buffers_are_refused() -> None:
    with pytest.raises(EngineError, match="-1"):
        Buffer(-1, f32)
    with pytest.raises(DeviceError, match="no memory"):
        Buffer(1 << 58, f32)


def test_buffer_over_existing_memory() -> None:
    whole = Buffer(64, bf16)
    view = Buffer.over(whole.array.reshape(2, 32), bf16, frozen=True)
    view.array[5] = 7
    assert whole.array[5] == 7
    assert (view.count, view.address, view.frozen) == (64, whole.address, True)
    with pytest.raises(EngineError, match="aligned"):
        Buffer.over(whole.array[1:], bf16)
    with pytest.raises(EngineError, match="contiguous"):
        Buffer.over(whole.array[::2], bf16)
    with pytest.raises(EngineError, match="f32"):
        Buffer.over(whole.array, f32)
    assert Buffer.over(np.zeros(0, np.int64), i64).count == 0


KEY = "ab" * 32


def test_cache_returns_what_was_put(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "a" / "b")
    assert cache.get(KEY) is None
    cache.put(KEY, b"bytes")
    assert cache.get(KEY) == b"bytes"
    cache.put(KEY, b"")
    assert DiskCache(tmp_path / "a" / "b").get(KEY) == b""
    assert [p.name for p in cache.folder.iterdir()] == [KEY]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "longer"])
def test_damaged_entries_are_dropped(tmp_path: Path, damage: str) -> None:
    cache = DiskCache(tmp_path / "c")
    cache.put(KEY, bytes(range(200)))
    path = cache.folder / KEY
    data = path.read_bytes()
    flipped = data[:100] + bytes([data[100] ^ 1]) + data[101:]
    path.write_bytes(
        {"flip": flipped, "cut": data[:90], "empty": b"", "longer": data + b"x"}[damage]
    )
    assert cache.get(KEY) is None
    assert not path.exists()


def test_a_folder_that_others_can_write_to_is_not_used(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    cache = DiskCache(folder)
    cache.put(KEY, b"bytes")
    assert cache.get(KEY) is None
    assert not list(folder.iterdir())
    folder.chmod(0o700)  # the control
    cache = DiskCache(folder)
    cache.put(KEY, b"bytes")
    assert cache.get(KEY) == b"bytes"


def test_a_cache_that_cannot_be_made_is_empty(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = DiskCache(tmp_path / "file" / "folder")
    cache.put(KEY, b"bytes")
    assert cache.get(KEY) is None


def test_the_oldest_entries_go_when_the_cache_is_full(tmp_path: Path) -> None:
    for number in range(5):
        DiskCache(tmp_path / "c").put(f"{number}" * 64, bytes(1000))
        os.utime(tmp_path / "c" / (f"{number}" * 64), (number, number))
    DiskCache(tmp_path / "c", limit=3200).put("f" * 64, bytes(1000))
    assert sorted(p.name[0] for p in (tmp_path / "c").iterdir()) == ["3", "4", "f"]


def test_where_caches_live(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_root() == Path("~/.cache/homebox").expanduser()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "homebox"
    monkeypatch.setenv("HOMEBOX_CACHE_DIR", str(tmp_path / "mine"))
    assert cache_root() == tmp_path / "mine"
