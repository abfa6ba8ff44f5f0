"""The compiler: what it generates, what it keeps, and that it changes no arithmetic."""

import ctypes
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from llvmlite.binding import ffi

from homebox.engine.codegen import cpu
from homebox.engine.codegen import jit as jit_module
from homebox.engine.codegen.cache import DiskCache
from homebox.engine.codegen.jit import Jit
from homebox.engine.runtime.walker import walker_ir
from homebox.errors import EngineError

ADD = "define i64 @add{n}(i64 %x) {{\n  %y = add i64 %x, {n}\n  ret i64 %y\n}}\n"
ARM = cpu.make_target("aarch64-unknown-linux-gnu", "neoverse-n1", {"neon": True}, "generic")
# x*y + z in two roundings, then in one
MIXED = """
define void @mixed(ptr %p) {
  %q = getelementptr <16 x float>, ptr %p, i64 1
  %r = getelementptr <16 x float>, ptr %p, i64 2
  %x = load <16 x float>, ptr %p, align 64
  %y = load <16 x float>, ptr %q, align 64
  %z = load <16 x float>, ptr %r, align 64
  %xy = fmul <16 x float> %x, %y
  %two = fadd <16 x float> %xy, %z
  %one = call <16 x float> @llvm.fma.v16f32(<16 x float> %x, <16 x float> %y, <16 x float> %z)
  %difference = fsub <16 x float> %two, %one
  store <16 x float> %two, ptr %p, align 64
  store <16 x float> %one, ptr %q, align 64
  store <16 x float> %difference, ptr %r, align 64
  ret void
}
declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>)
"""
CALLER = """
declare void @absent()
define void @caller() {
  call void @absent()
  ret void
}
"""
CONVERT = """
define void @{name}(ptr %a, ptr %b, i64 %n) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %from = getelementptr {source}, ptr %a, i64 %i
  %to = getelementptr {target}, ptr %b, i64 %i
  %x = load <4 x {source}>, ptr %from, align 1
  %y = {op} <4 x {source}> %x to <4 x {target}>
  store <4 x {target}> %y, ptr %to, align 1
  %next = add i64 %i, 4
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %out
out:
  ret void
}}
"""


def levels() -> list[str]:
    """Return the levels that this machine can run."""
    return list(cpu.available())


def call(address: int, *arguments: int) -> int:
    function = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * len(arguments))(address)
    return int(function(*arguments))


def aligned(count: int, dtype: str) -> np.ndarray:
    raw = np.zeros(count * np.dtype(dtype).itemsize + 64, np.uint8)
    offset = -raw.ctypes.data % 64
    return raw[offset : offset + count * np.dtype(dtype).itemsize].view(dtype)


@pytest.fixture
def cache(tmp_path: Path) -> DiskCache:
    return DiskCache(tmp_path / "kernels")


def test_load_many_kernels_at_once(cache: DiskCache) -> None:
    jit = Jit(cache=cache)
    addresses = jit.load({f"add{n}": ADD.format(n=n) for n in range(40)})
    assert [call(addresses[f"add{n}"], 2) for n in range(40)] == list(range(2, 42))
    assert jit.compiled == 40
    assert jit.load({"add7": ADD.format(n=7)}) == {"add7": addresses["add7"]}
    assert (jit.compiled, jit.hits) == (40, 0)


def test_a_second_compiler_uses_the_cache(cache: DiskCache) -> None:
    Jit(cache=cache).load({"add1": ADD.format(n=1)})
    jit = Jit(cache=cache)
    addresses = jit.load({"add1": ADD.format(n=1), "add2": ADD.format(n=2)})
    assert (jit.compiled, jit.hits) == (1, 1)
    assert (call(addresses["add1"], 1), call(addresses["add2"], 1)) == (2, 3)


def test_a_damaged_entry_is_compiled_again(cache: DiskCache) -> None:
    text = ADD.format(n=5)
    first = Jit(cache=cache)
    first.load({"add5": text})
    path = cache.folder / first.key(text)
    path.write_bytes(path.read_bytes()[:-8] + b"\xff" * 8)
    jit = Jit(cache=cache)
    assert call(jit.load({"add5": text})["add5"], 1) == 6
    assert (jit.compiled, jit.hits) == (1, 0)
    again = Jit(cache=cache)
    again.load({"add5": text})
    assert (again.compiled, again.hits) == (0, 1)


def test_it_works_where_nothing_can_be_stored(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    jit = Jit(cache=DiskCache(tmp_path / "file" / "kernels"))
    assert call(jit.load({"add3": ADD.format(n=3)})["add3"], 1) == 4


def test_the_key_covers_text_and_target(cache: DiskCache) -> None:
    text = ADD.format(n=1)
    keys = {Jit(cpu.target_of(level), cache).key(text) for level in levels()}
    assert len(keys) == len(levels())
    jit = Jit(cache=cache)
    assert jit.key(text) != jit.key(text + " ")


def test_errors_name_the_kernel(cache: DiskCache) -> None:
    jit = Jit(cache=cache)
    with pytest.raises(EngineError, match="kernel broken is not valid"):
        jit.load({"broken": "define i32 @broken() { ret i64 0 }"})
    with pytest.raises(EngineError, match="cannot link the kernels other"):
        jit.load({"other": ADD.format(n=1)})
    with pytest.raises(EngineError, match="cannot link the kernels caller"):
        jit.load({"caller": CALLER})
    assert call(jit.load({"add1": ADD.format(n=1)})["add1"], 1) == 2
    with pytest.raises(EngineError, match="cannot be run"):
        Jit(ARM, cache).load({"add1": ADD.format(n=1)})


@pytest.mark.parametrize("level", cpu.LEVELS)
def test_multiply_add_is_fused_exactly_where_it_is_written(level: str, cache: DiskCache) -> None:
    if level not in levels():
        pytest.skip(f"this machine has no {level}")
    rng = np.random.default_rng(1)
    data = aligned(48, "float32")
    data[:32] = rng.standard_normal(32)
    data[32:] = -data[:16] * data[16:32]
    x, y, z = data.reshape(3, 16).copy()
    address = Jit(cpu.target_of(level), cache).load({"mixed": MIXED})["mixed"]
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)(data.ctypes.data)
    two, one, difference = data.reshape(3, 16)
    # The product of two singles is exact in double, and so is this sum, whose parts cancel.
    exact = x.astype(np.float64) * y + z
    assert not two.any()
    assert np.array_equal(one, exact.astype(np.float32))
    assert one.any()
    assert np.array_equal(difference, -one)


def test_wide_registers_are_used_where_they_exist() -> None:
    features = dict.fromkeys(cpu._NEEDS["avx512"], True)
    for name in ("skylake-avx512", "sapphirerapids", "znver5"):
        wide = cpu.make_target("x86_64-unknown-linux-gnu", name, features, "avx512")
        cut = cpu.make_target("x86_64-unknown-linux-gnu", name, features, "avx2")
        assert re.search(r"vfmadd\w+ps.*%zmm", Jit(wide).assembly(MIXED))
        text = Jit(cut).assembly(MIXED)
        assert "zmm" not in text
        assert re.search(r"vfmadd\w+ps.*%ymm", text)


def test_arm_code_is_generated() -> None:
    jit = Jit(ARM)
    assert jit.assembly(MIXED).count("fmla") == 4
    text = jit.assembly(walker_ir("aarch64"))
    for name in ("homebox_worker", "homebox_run", "homebox_quit", "homebox_spin"):
        assert f"{name}:" in text
    assert "isb" in text
    assert re.search(r"msr\s+FPCR", text, re.IGNORECASE)
    assert re.search(r"ldadd|ldaxr", text)


def converted(
    jit: Jit, op: str, types: tuple[str, str], values: np.ndarray, out: str
) -> np.ndarray:
    name = f"convert_{types[0]}_{types[1]}"
    text = CONVERT.format(name=name, op=op, source=types[0], target=types[1])
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(
        jit.load({name: text})[name]
    )
    assert len(values) % 4 == 0
    result = np.zeros(len(values), out)
    function(values.ctypes.data, result.ctypes.data, len(values))
    return result


def neighbours(halves: np.ndarray) -> np.ndarray:
    """Return singles at, just beside and half-way between the given exact values."""
    steps = np.array([0, 1, 4095, 4096, 4097, 8191, 0x7FFF, 0x8000], np.uint32)
    return (halves.view(np.uint32)[:, None] + steps).ravel().view(np.float32)


@pytest.mark.parametrize("level", cpu.LEVELS)
def test_half_precision_is_rounded_like_numpy_rounds_it(level: str, cache: DiskCache) -> None:
    if level not in levels():
        pytest.skip(f"this machine has no {level}")
    jit = Jit(cpu.target_of(level), cache)
    halves = np.arange(65536, dtype=np.uint16)
    number = (halves & 0x7FFF) <= 0x7C00
    exact = halves.view(np.float16).astype(np.float32)
    wide = converted(jit, "fpext", ("half", "float"), halves, "uint32")
    assert np.array_equal(wide[number], exact.view(np.uint32)[number])
    assert np.isnan(wide.view(np.float32)[~number]).all()
    singles = neighbours(exact)
    singles = singles[~np.isnan(singles)]
    singles = singles[: len(singles) // 4 * 4]
    doubles = np.nextafter(singles.astype(np.float64), np.inf)
    for kind, values in (
        ("float", singles),
        ("double", singles.astype(np.float64)),
        ("double", doubles),
    ):
        short = converted(jit, "fptrunc", (kind, "half"), values, "uint16")
        with np.errstate(over="ignore", invalid="ignore"):
            expected = values.astype(np.float16).view(np.uint16)
        assert np.array_equal(short, expected)
    short = converted(jit, "fptrunc", ("float", "half"), np.full(4, np.nan, np.float32), "uint16")
    assert ((short & 0x7E00) == 0x7E00).all()


@pytest.mark.parametrize("level", cpu.LEVELS)
def test_brain_floats_are_rounded_to_nearest_even(level: str, cache: DiskCache) -> None:
    if level not in levels():
        pytest.skip(f"this machine has no {level}")
    jit = Jit(cpu.target_of(level), cache)
    tops = (np.arange(65536, dtype=np.uint32) << 16).view(np.float32)
    singles = neighbours(tops)
    # Without denormals, which one of the instructions used here flushes to zero.
    singles = singles[np.isfinite(singles) & ((singles.view(np.uint32) & 0x7F800000) != 0)]
    singles = singles[: len(singles) // 4 * 4]
    for kind, values in (("float", singles), ("double", singles.astype(np.float64))):
        short = converted(jit, "fptrunc", (kind, "bfloat"), values, "uint16")
        low = singles.view(np.uint32) & np.uint32(0xFFFF0000)
        beyond = np.abs(singles.astype(np.float64) - low.view(np.float32))
        half_step = np.ldexp(1.0, ((low >> 23) & 0xFF).astype(np.int64) - 127 - 8)
        odd = (low >> 16) & 1 == 1
        up = (beyond > half_step) | ((beyond == half_step) & odd)
        assert np.array_equal(short, (low >> 16) + up)


def test_several_threads_may_compile(cache: DiskCache) -> None:
    jit = Jit(cache=cache)
    found: dict[int, int] = {}

    def work(first: int) -> None:
        for n in range(first, first + 20):
            found[n * 4 + first] = call(jit.load({f"add{n}": ADD.format(n=n)})[f"add{n}"], 0) - n

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(found.values())
    assert jit.compiled == 23


def entries(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_compiling_on_all_cores_gives_the_objects_of_compiling_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {f"add{n}": ADD.format(n=n) for n in range(30)} | {"mixed": MIXED}
    made = []
    threads: set[str] = set()
    emit = jit_module._emit

    def noted(machine: object, module: object) -> bytes:
        threads.add(threading.current_thread().name)
        return emit(machine, module)

    monkeypatch.setattr(jit_module, "_emit", noted)
    monkeypatch.setattr(jit_module, "cpu_count", lambda: 3)
    for few in (1000, 4):
        monkeypatch.setattr(jit_module, "_FEW", few)
        threads.clear()
        jit = Jit(cache=DiskCache(tmp_path / str(few)))
        assert len(jit.load(texts)) == jit.compiled == 31
        assert (len(threads) > 1) == (few == 4)
        made.append(entries(tmp_path / str(few)))
    assert made[0] == made[1] and len(made[0]) == 31
    locked = ffi.lib.LLVMPY_TargetMachineEmitToMemory

    def other(*given: object) -> object:
        return locked(*given)

    monkeypatch.setitem(ffi.lib._fntab, locked._cfn.__name__, other)
    Jit(cache=DiskCache(tmp_path / "turns")).load(texts)  # llvmlite built in another way
    assert entries(tmp_path / "turns") == made[0]


def test_one_broken_kernel_among_many_is_named(cache: DiskCache) -> None:
    texts = {f"add{n}": ADD.format(n=n) for n in range(20)}
    texts["broken"] = "define i32 @broken() { ret i64 0 }"
    before = threading.active_count()
    with pytest.raises(EngineError, match="kernel broken is not valid"):
        Jit(cache=cache).load(texts)
    assert threading.active_count() == before
    texts.pop("broken")
    assert call(Jit(cache=cache).load(texts)["add7"], 1) == 8


def test_objects_are_loaded_by_their_keys(cache: DiskCache) -> None:
    first = Jit(cache=cache)
    texts = {f"add{n}": ADD.format(n=n) for n in range(3)}
    first.load(texts)
    keys = {name: first.key(text) for name, text in texts.items()}
    second = Jit(cache=cache)
    found = second.load_objects(keys)
    assert found is not None and [call(found[f"add{n}"], 1) for n in range(3)] == [1, 2, 3]
    assert (second.compiled, second.hits) == (0, 3)
    assert second.load_objects(keys) == found and second.hits == 3
    assert second.load_objects({**keys, "other": "0" * 64}) is None


def test_processes_share_the_default_cache(tmp_path: Path, repository: Path) -> None:
    code = (
        "from homebox.engine.codegen.jit import Jit\n"
        f"jit = Jit(); jit.load({{'add9': {ADD.format(n=9)!r}}}); print(jit.compiled, jit.hits)"
    )
    env = {**os.environ, "HOMEBOX_CACHE_DIR": str(tmp_path)}
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=repository, env=env, capture_output=True, text=True, check=True,
        ).stdout.split()
        for _ in range(2)
    ]  # fmt: skip
    assert outputs == [["1", "0"], ["0", "1"]]
