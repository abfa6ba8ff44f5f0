"""Programs: inputs and run-time integers, replay, memory that several programs share."""

import gc
import weakref

import numpy as np
import pytest

from homebox.engine import dtype as dt
from homebox.engine.capture import Program, Spec, capture, evaluate
from homebox.engine.ops import Sym
from homebox.engine.tensor import Tensor
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


def test_values_can_be_had_at_once() -> None:
    x = tensor(random(3, 4))
    np.testing.assert_allclose((x * 2.0).numpy(), 2.0 * x.buffer.array.reshape(3, 4))
    assert x.sum().item() == pytest.approx(float(x.buffer.array.sum()), rel=1e-6)
    first, second = evaluate([x + 1.0, x.sum(1)])
    assert first.shape == (3, 4) and second.shape == (3,)
    with pytest.raises(EngineError, match="undeclared"):
        x.slice(0, 0, Sym("n", 1, 3)).numpy()
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
