"""Programs on disk: a hit calls nothing and gives the same bits; what does not fit is dropped."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.device import Buffer
from homebox.engine.graph.ops import Op, Sym, node
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime import capture as capturing
from homebox.engine.runtime.capture import Program, Spec, capture, sources_digest
from homebox.engine.runtime.program_plan import aliases_of, decode
from homebox.errors import EngineError
from tests.unit.engine_checks import random

N = Sym("n", 1, 6)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test a cache of its own; objects are compiled where the shared compiler looks."""
    monkeypatch.setenv("HOMEBOX_CACHE_DIR", str(tmp_path))
    digest = capturing.sources_digest
    monkeypatch.setattr(capturing, "sources_digest", lambda folder: digest(folder) or "edited")
    return tmp_path / "programs"


class Layer:
    """A little of everything: a packed weight, state that is written, a size of run time."""

    def __init__(self, seed: int = 0, rows: int = 20) -> None:
        self.calls = 0
        self.weight = Tensor.from_numpy(random(rows, 12, seed=seed), frozen=True)
        self.memory = Tensor.from_numpy(random(6, rows, seed=seed + 1))

    def buffers(self) -> dict[str, Buffer]:
        return {"weight": self.weight.buffer, "memory": self.memory.buffer}

    def step(self, x: Tensor) -> list[Tensor]:
        self.calls += 1
        y = x.linear(self.weight).softmax()
        seen = self.memory.slice(0, 0, N).sum(0, keepdim=True)
        return [y + seen, self.memory.store(self.memory * 0.5)]

    def program(self, key: str = "layer") -> Program:
        return capture(self.step, {"x": Spec((N, 12))}, [N], "step", key, self.buffers())


def results(program: Program, layer: Layer) -> list[bytes]:
    """Return the bits of three runs of different sizes, and what they left in memory."""
    out = [a.tobytes() for n in (6, 1, 4) for a in program(x=random(n, 12, seed=n), n=n)]
    return [*out, layer.memory.buffer.array.tobytes()]


def test_a_hit_calls_nothing_and_gives_the_same_launches_and_bits() -> None:
    first, second, plain = Layer(), Layer(), Layer()
    made, found = first.program(), second.program()
    assert (first.calls, second.calls) == (1, 0)
    assert found.plan == made.plan
    for column in (0, 2, 3, 4):
        assert found.launches.rows[:, column].tolist() == made.launches.rows[:, column].tolist()
    unkept = capture(plain.step, {"x": Spec((N, 12))}, [N], "step")
    want = results(unkept, plain)
    assert results(made, first) == want and results(found, second) == want


def test_a_stored_program_uses_the_memory_of_its_caller() -> None:
    Layer().program()
    other = Layer(seed=5)
    program = other.program()
    assert other.calls == 0
    before = other.memory.buffer.array.reshape(6, 20).copy()
    x = random(3, 12)
    weight = other.weight.buffer.array.reshape(20, 12)
    scores = x @ weight.T
    e = np.exp(scores - scores.max(-1, keepdims=True))
    want = e / e.sum(-1, keepdims=True) + before[:3].sum(0)
    np.testing.assert_allclose(program(x=x, n=3)[0], want, rtol=1e-4, atol=1e-5)


def test_looking_inside_a_stored_program_makes_its_graph_again() -> None:
    made = Layer().program()
    layer = Layer()
    found = layer.program()
    assert [n for _, _, n in found.kernels] == [n for _, _, n in made.kernels]
    assert layer.calls == 1
    names = [launch.title for launch in found.plan.launches]
    assert [time.title for time in found.profile({"n": 2})] == names


def test_debugging_shows_stored_programs_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Layer().program()
    assert capsys.readouterr().err == ""
    for level, words in (("1", "program step: "), ("4", "define void @k")):
        monkeypatch.setenv("DEBUG", level)
        Layer().program()
        assert words in capsys.readouterr().err


def test_whatever_decides_a_program_is_in_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def calls(make: Callable[[Layer], object]) -> int:
        layer = Layer()
        make(layer)
        return layer.calls

    assert calls(lambda layer: layer.program()) == 1
    assert calls(lambda layer: layer.program()) == 0
    assert calls(lambda layer: layer.program("other")) == 1
    inputs, names = {"x": Spec((N, 12))}, [N]
    for other in (
        lambda layer: capture(layer.step, inputs, names, "named", "layer", layer.buffers()),
        lambda layer: capture(
            layer.step, inputs, [N, Sym("m", 0, 1)], "step", "layer", layer.buffers()
        ),
    ):
        assert calls(other) == 1
    with monkeypatch.context() as context:
        context.setenv("NOFUSE", "R1")
        assert calls(lambda layer: layer.program()) == 1
    with monkeypatch.context() as context:
        context.setattr(capturing, "sources_digest", lambda folder: "other sources")
        assert calls(lambda layer: layer.program()) == 1
    assert calls(lambda layer: layer.program()) == 0


def test_sources_are_hashed_by_name_and_content(tmp_path: Path) -> None:
    digests = set()
    for number, (name, text) in enumerate((("a", "1"), ("a", "2"), ("b", "1"), ("a1", ""))):
        part = tmp_path / str(number)
        part.mkdir()
        file = part / f"{name}.py"
        file.write_text(text)
        os.utime(file, (1e9, 1e9))
        digests.add(sources_digest(part))
    assert len(digests - {None}) == 4


def test_sources_that_change_while_a_process_runs_keep_it_from_the_disk(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that read the old sources must not store their program as that of the new ones."""
    young = tmp_path / "young"
    young.mkdir()
    (young / "a.py").write_text("1")
    assert sources_digest(young) is None
    monkeypatch.setattr(capturing, "sources_digest", lambda folder: None)
    for _ in range(2):
        layer = Layer()
        layer.program()
        assert layer.calls == 1
    assert not folder.exists()


def test_a_program_that_does_not_fit_is_made_again(caplog: pytest.LogCaptureFixture) -> None:
    Layer().program()
    caplog.set_level(logging.WARNING)
    larger = Layer(rows=36)
    program = larger.program()
    assert larger.calls == 1 and "does not fit: buffer weight is" in caplog.text
    assert program(x=random(2, 12), n=2)[0].shape == (2, 36)
    again = Layer(rows=36)
    again.program()  # what was made anew took the place
    assert again.calls == 0
    caplog.clear()
    nameless = Layer(rows=36)
    buffers = {"weight": nameless.weight.buffer}
    capture(nameless.step, {"x": Spec((N, 12))}, [N], "step", "layer", buffers)
    assert nameless.calls == 1 and "there is no buffer memory" in caplog.text
    assert "not kept on disk: it uses memory without a name" in caplog.text


def test_memory_that_is_shared_must_be_shared_in_the_same_way() -> None:
    """A store is ordered by what overlaps, so a plan for separate buffers may be wrong for one."""

    def step_of(one: Buffer, other: Buffer) -> tuple[Program, list[int]]:
        calls: list[int] = []

        def step() -> list[Tensor]:
            calls.append(1)
            a, b = (Tensor(node(Op.BUFFER, dt.f32, (16,), (), each)) for each in (one, other))
            return [a.store(a * 2.0), b.sum()]

        return capture(step, key="step", buffers={"a": one, "b": other}), calls

    apart = [Buffer(16, dt.f32), Buffer(16, dt.f32)]
    assert step_of(*apart)[1] == [1] and step_of(Buffer(16, dt.f32), Buffer(16, dt.f32))[1] == []
    both = Buffer(24, dt.f32).array
    shared = [Buffer.over(both[:16], dt.f32), Buffer.over(both[:16], dt.f32)]
    program, calls = step_of(*shared)
    both[:] = 1.0
    assert calls == [1] and program()[1] == 16.0
    assert aliases_of({"a": apart[0], "b": apart[1]}) == ()
    assert aliases_of({"a": shared[0], "b": shared[1], "c": apart[0]}) == (("a", "b", 0),)


def test_damage_and_loss_only_cost_time(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    want = results((layer := Layer()).program(), layer)
    (entry,) = folder.iterdir()
    whole = entry.read_bytes()
    plan = decode(whole[32:])
    for damage in (whole[:-1] + b"?", b"", whole[:40]):
        entry.write_bytes(damage)
        layer = Layer()
        assert results(layer.program(), layer) == want and layer.calls == 1
        assert entry.read_bytes() == whole
    for nonsense in (b'{"name": 3}', b"[]", b"x", b"[" + b"3," * 11 + b"3]"):
        with pytest.raises(EngineError, match="not readable"):
            decode(nonsense)
    assert decode(plan.encode()) == plan
    unknown = plan._replace(kernels=tuple((n, "0" * 64) for n, _ in plan.kernels))
    body = unknown.encode()
    capturing._programs().put(entry.name, body)
    layer = Layer()
    layer.program()
    assert layer.calls == 1


def test_without_a_key_nothing_is_kept(folder: Path) -> None:
    layer = Layer()
    capture(layer.step, {"x": Spec((N, 12))}, [N], "step", buffers=layer.buffers())
    assert not folder.exists()


PROCESS = """
import logging, sys
logging.basicConfig(level=logging.WARNING)
from homebox.engine.runtime import capture
from tests.unit.test_program_cache import Layer, results
capture.sources_digest = lambda folder: "sources"  # which may be edited between the two processes
layer = Layer()
program = layer.program()
import hashlib
from homebox.engine.codegen.jit import shared_jit
digest = hashlib.sha256(b"".join(results(program, layer))).hexdigest()
print(layer.calls, shared_jit().compiled, digest)
"""


def test_a_second_process_compiles_nothing(tmp_path: Path, repository: Path) -> None:
    env = {**os.environ, "HOMEBOX_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(repository)}

    def run() -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", PROCESS],
            cwd=repository, env=env, capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        assert done.stderr == ""
        return done.stdout.split()

    cold, warm = run(), run()
    assert cold[0] == "1" and int(cold[1]) > 0
    assert warm[:2] == ["0", "0"]
    assert warm[2] == cold[2]
