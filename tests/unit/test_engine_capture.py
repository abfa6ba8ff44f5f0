"""Programs: inputs and run-time integers, replay, memory that several programs share."""

import gc
import threading
import time
import weakref

import numpy as np
import pytest

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.ops import Op, Sym, node
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime import backend_cpu
from homebox.engine.runtime.capture import Program, Spec, capture, evaluate
from homebox.engine.runtime.stop_flag import StopFlag
from homebox.errors import EngineError
from tests.unit.engine_checks import random, tensor


def doubled(x: Tensor) -> Tensor:
    return x * 2.0


def test_a_program_is_named_after_its_function_and_replays() -> None:
    program = capture(doubled, {"x": Spec((3, 5))})
    assert program.name == "doubled"
    for seed in range(3):
        x = random(3, 5, seed=seed)
        (found,) = program(x=x)
        np.testing.assert_array_equal(found, 2 * x)


def test_an_input_keeps_its_last_value() -> None:
    program = capture(lambda x, y: x + y, {"x": Spec((4,)), "y": Spec((4,))})
    x, y = random(4), random(4, seed=1)
    assert np.array_equal(program()[0], np.zeros(4))  # nothing was set yet
    assert np.array_equal(program(x=x, y=y)[0], x + y)
    assert np.array_equal(program(x=y)[0], y + y)
    assert np.array_equal(program()[0], y + y)


def test_replay_gives_the_bits_of_the_first_run() -> None:
    w = tensor(random(64, 40))
    program = capture(lambda x: x.softmax().linear(w).softmax(), {"x": Spec((7, 40))})
    x, other = random(7, 40), random(7, 40, seed=1)
    first = program(x=x)[0].tobytes()
    program(x=other)
    assert program(x=x)[0].tobytes() == first
    again = capture(lambda x: x.softmax().linear(w).softmax(), {"x": Spec((7, 40))})
    assert again(x=x)[0].tobytes() == first


def test_results_are_copies_and_outputs_are_for_now() -> None:
    program = capture(doubled, {"x": Spec((4,))}, name="doubling")
    x = random(4)
    (kept,) = program(x=x)
    output = program.output(0)
    view = output.numpy()
    assert len(output) == 4 and output.shape == (4,) and np.array_equal(output, 2 * x)
    assert float(output[1]) == 2 * x[1] and np.array_equal(output.copy(), view)
    program(x=random(4, seed=1))
    for read in (output.numpy, output.copy, lambda: output[0], lambda: np.asarray(output)):
        with pytest.raises(EngineError, match="doubling: this output was overwritten"):
            read()
    assert np.array_equal(kept, 2 * x)
    assert not np.array_equal(view, kept)  # the control: the memory did change
    assert not np.array_equal(program.output(0), kept)


def test_wrong_inputs_are_refused() -> None:
    program = capture(doubled, {"x": Spec((3, 5))}, name="doubling")
    with pytest.raises(EngineError, match=r"doubling: input x is float32 \(5, 3\), declared f32"):
        program(x=random(5, 3))
    with pytest.raises(EngineError, match="has no input y"):
        program(y=1)
    whole = capture(lambda i: i + 1, {"i": Spec((3,), dt.i32)})
    assert whole(i=np.array([1, 2, 3]))[0].tolist() == [2, 3, 4]
    with pytest.raises(EngineError, match="is float32"):
        whole(i=random(3))


def test_run_time_integers_must_be_declared() -> None:
    n = Sym("n", 1, 8)
    x = tensor(random(8, 4))
    for undeclared in (
        lambda: x.slice(0, 0, n) * 2.0,
        lambda: x.slice(0, Sym("n", 0, 3), 2) * 2.0,
        lambda: Tensor.variable(n) + 1,
        lambda: Tensor.iota(n),
    ):
        with pytest.raises(EngineError, match="undeclared run-time integers n"):
            capture(undeclared)
    with pytest.raises(EngineError, match="the same name"):
        capture(lambda: Tensor.iota(n), variables=[n, Sym("n", 1, 9)])


def test_run_time_integers_have_bounds() -> None:
    n = Sym("n", 2, 8)
    x = tensor(random(8, 4))
    program = capture(lambda: x.slice(0, 0, n).sum(0), variables=[n], name="sums")
    for count in (2, 5, 8):
        np.testing.assert_allclose(
            program(n=count)[0], x.buffer.array.reshape(8, 4)[:count].sum(0), rtol=1e-6
        )
    for wrong in (1, 9, -1):
        with pytest.raises(EngineError, match=f"sums: n = {wrong} is outside of 2 .. 8"):
            program(n=wrong)
    with pytest.raises(EngineError, match="no value for the run-time integer 'n'"):
        program()


def test_inputs_of_run_time_size() -> None:
    n = Sym("n", 1, 6)
    program = capture(lambda x: x.sum(0) + 1.0, {"x": Spec((n, 3))}, [n], "sums")
    for count in (6, 1, 4):
        x = random(count, 3, seed=count)
        np.testing.assert_allclose(program(x=x, n=count)[0], x.sum(0) + 1.0, rtol=1e-5)
    with pytest.raises(EngineError, match="has 3 elements along an axis whose size n is 2"):
        program(x=random(3, 3), n=2)
    with pytest.raises(EngineError, match="declared"):
        program(x=random(7, 3))
    rows = capture(lambda x: x * 2.0, {"x": Spec((n, 3))}, [n])
    assert rows(x=random(2, 3), n=2)[0].shape == (2, 3)


def test_a_store_is_an_output_and_stays() -> None:
    weight = tensor(random(3, 16))
    start = weight.buffer.array.copy()
    step = capture(lambda g: weight.store(weight - g * 0.5), {"g": Spec((3, 16))})
    g = random(3, 16, seed=1)
    step(g=g)
    np.testing.assert_allclose(weight.buffer.array, start - 0.5 * g.reshape(-1), rtol=1e-6)
    (second,) = step()
    np.testing.assert_allclose(second, (start - g.reshape(-1)).reshape(3, 16), rtol=1e-5, atol=1e-6)


def test_two_programs_share_memory() -> None:
    memory = Tensor.zeros((4, 16))
    write = capture(lambda x: memory.store(x * 1.0), {"x": Spec((4, 16))})
    read = capture(lambda: memory.sum(0))
    for seed in range(3):
        x = random(4, 16, seed=seed)
        write(x=x)
        np.testing.assert_allclose(read()[0], x.sum(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(memory.buffer.array, x.reshape(-1))


def test_frozen_weights_are_packed_once_for_all_programs() -> None:
    w = Tensor.from_numpy(random(40, 24), frozen=True)
    programs = [capture(lambda x: x.linear(w), {"x": Spec((rows, 24))}) for rows in (1, 5)]
    assert [len(p.kernels) for p in programs] == [1, 1]
    packed = [[p.plan.places[i] for i in p.plan.launches[0].arguments] for p in programs]
    assert [places[1].kind for places in packed] == ["constant", "constant"]
    one, other = (p.address_of(places[1]) for p, places in zip(programs, packed))
    assert one == other
    loose = Tensor.from_numpy(random(40, 24))
    assert len(capture(lambda x: x.linear(loose), {"x": Spec((5, 24))}).kernels) == 2


def test_a_weight_that_is_not_frozen_may_change() -> None:
    w = Tensor.from_numpy(random(40, 24))
    program = capture(lambda x: x.linear(w), {"x": Spec((5, 24))})
    x = random(5, 24, seed=1)
    for seed in (2, 3):
        w.buffer.array[:] = random(960, seed=seed)
        want = x @ random(960, seed=seed).reshape(40, 24).T
        np.testing.assert_allclose(program(x=x)[0], want, rtol=1e-4, atol=1e-4)


def test_equal_kernels_are_compiled_once() -> None:
    x = tensor(random(4, 20))
    ws = [tensor(random(20, 20, seed=i)) for i in range(4)]

    def chain() -> Tensor:
        t = x
        for w in ws:
            t = t @ w
        return t

    program = capture(chain)
    assert len(program.kernels) == 8 and len({name for _, _, name in program.kernels}) <= 4


def test_a_program_gives_its_memory_back() -> None:
    program = capture(lambda x: (x @ x).softmax(), {"x": Spec((40, 40))})
    program(x=random(40, 40))
    arena = weakref.ref(program.arena)
    del program
    gc.collect()
    assert arena() is None


def layers(memory: Tensor, weights: list[Tensor]) -> Program:
    """Return a program of many launches that also changes memory which it reads."""

    def run(x: Tensor) -> list[Tensor]:
        for w in weights:
            x = (x @ w).softmax().contiguous() + x
        return [x, memory.store(memory + x.sum(0))]

    return capture(run, {"x": Spec((24, 32))})


def test_a_suspended_program_goes_on_with_equal_bits() -> None:
    weights = [tensor(random(32, 32, seed=i)) for i in range(20)]
    memories = [Tensor.zeros((32,)) for _ in range(2)]
    whole, parts = (layers(m, weights) for m in memories)
    x = random(24, 32)
    want = [a.tobytes() for a in whole(x=x)]
    stop = StopFlag()
    parts.set_input("x", x)
    pauses = 0
    ending = threading.Event()

    def nuisance() -> None:
        """Ask for a stop again and again, at any moment."""
        while not ending.is_set():
            stop.set()
            time.sleep(0)

    thread = threading.Thread(target=nuisance)
    thread.start()
    try:
        finished = parts.run(stop=stop)
        while not finished:
            pauses += 1
            assert parts.suspended
            whole(x=random(24, 32, seed=pauses))  # of the same kernels, in an arena of its own
            stop.clear()
            finished = parts.resume(stop)
    finally:
        ending.set()
        thread.join()
    assert [parts.output(i).copy().tobytes() for i in range(2)] == want
    assert not parts.suspended and parts.run(stop=StopFlag())


def test_a_program_that_is_always_asked_to_stop_gets_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_cpu, "BRIEF", 0.0)
    memories = [Tensor.zeros((32,)) for _ in range(2)]
    weights = [tensor(random(32, 32, seed=i)) for i in range(4)]
    whole, parts = (layers(m, weights) for m in memories)
    x = random(24, 32)
    want = [a.tobytes() for a in whole(x=x)]
    stop = StopFlag()
    stop.set()
    assert stop.is_set()
    parts.set_input("x", x)
    rounds = 1
    finished = parts.run(stop=stop)
    while not finished:
        rounds += 1
        whole(x=random(24, 32, seed=rounds))
        finished = parts.resume(stop)
    assert rounds == parts.launches.count  # one launch at a time
    assert [parts.output(i).copy().tobytes() for i in range(2)] == want


def test_a_program_can_stop_itself() -> None:
    """A launch in the middle sets the flag, so that the stop is always at the same place."""
    stop = StopFlag()
    word = Tensor(node(Op.BUFFER, dt.i32, (1,), (), stop._word))

    def run(x: Tensor) -> list[Tensor]:
        half = (x @ x).softmax().contiguous()
        asked = word.store((half.sum().reshape((1,)) * 0.0 + 1.0).cast(dt.i32))
        return [asked, (half @ x).softmax().contiguous() @ half]

    plain = capture(lambda x: run(x)[1], {"x": Spec((32, 32))})
    program = capture(run, {"x": Spec((32, 32))})
    x = random(32, 32)
    (want,) = plain(x=x)
    program.set_input("x", x)
    assert not program.run(stop=stop) and stop.is_set()
    assert 0 < (program._next or 0) < program.launches.count
    plain(x=random(32, 32, seed=1))
    stop.clear()
    assert program.resume(stop)
    assert program.output(1).copy().tobytes() == want.tobytes()
    stop.clear()
    assert program.run() and stop.is_set()  # the control: without the flag nothing stops it


def test_what_a_suspended_program_refuses() -> None:
    program = capture(lambda x: (x @ x).softmax() @ x, {"x": Spec((32, 32))}, name="chain")
    with pytest.raises(EngineError, match="chain is not suspended"):
        program.resume()
    program(x=random(32, 32))
    kept = program.output(0)
    program._next = 1  # as if it had been stopped after one launch
    with pytest.raises(EngineError, match="chain is suspended in the middle of a run"):
        program.run()
    with pytest.raises(EngineError, match="its inputs cannot change"):
        program.set_input("x", random(32, 32))
    with pytest.raises(EngineError, match="overwritten"):
        kept.copy()
    program.abandon()
    with pytest.raises(EngineError, match="chain: its last run was abandoned"):
        program.output(0).copy()
    assert program.run() and program.output(0).copy().shape == (32, 32)
    program.abandon()  # of nothing
    assert program.output(0).copy().shape == (32, 32)


def test_long_launches_are_cut_into_pieces_of_equal_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    n = Sym("n", 1, 400)
    w = tensor(random(64, 48))

    def made() -> Program:
        return capture(lambda x: [x.linear(w), x * 2.0], {"x": Spec((n, 48))}, [n])

    whole = made()
    assert whole.launches.count == len(whole.plan.launches)
    monkeypatch.setattr(backend_cpu, "LONG_MAP", 2000)
    monkeypatch.setattr(
        backend_cpu, "LONG_CONTRACT", dict.fromkeys(backend_cpu.LONG_CONTRACT, 200_000)
    )
    pieces = made()
    assert pieces.launches.count > 2 * len(pieces.plan.launches)
    for count in (400, 1, 133, 399, 400):
        x = random(count, 48, seed=count)
        for one, other in zip(whole(x=x, n=count), pieces(x=x, n=count), strict=True):
            assert one.tobytes() == other.tobytes()
        assert (pieces.launches.rows[:, 2] >= 0).all()
    times = pieces.profile({"n": 400})
    assert [t.pieces > 1 for t in times].count(True) >= 2
    assert all(0 <= t.longest <= t.nanoseconds for t in times)


def test_values_can_be_had_at_once() -> None:
    x = tensor(random(3, 4))
    np.testing.assert_allclose(evaluate([x * 2.0])[0], 2.0 * x.buffer.array.reshape(3, 4))
    assert evaluate([x.sum()])[0] == pytest.approx(float(x.buffer.array.sum()), rel=1e-6)
    first, second = evaluate([x + 1.0, x.sum(1)])
    assert first.shape == (3, 4) and second.shape == (3,)
    with pytest.raises(EngineError, match="undeclared"):
        evaluate([x.slice(0, 0, Sym("n", 1, 3))])
    with pytest.raises(TypeError, match="no truth value"):
        bool(x)


def test_debug_output(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    x = tensor(random(3, 4))

    def said(level: str) -> str:
        monkeypatch.setenv("DEBUG", level)
        program: Program = capture((x @ x.transpose()).softmax, name="shown")
        program.run()
        return capsys.readouterr().err

    assert said("0") == "" and said("nonsense") == ""
    one, two, three, four = (said(str(i)) for i in range(1, 5))
    assert "program shown: 3 launches" in one and len(one.splitlines()) == 1
    assert "GFLOP/s" in two and "contract" in two
    assert "ContractSchedule" in three and "rules: {" in three
    assert "define void @k" in four
