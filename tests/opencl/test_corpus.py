"""The tests of the engine's own kernels, run again on OpenCL devices beside the CPU."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.formats import WEIGHTS
from homebox.engine.graph.ops import Node, Op, toposort
from homebox.engine.graph.tensor import Tensor
from homebox.engine.opencl.backend import OpenClDevice
from homebox.engine.simt.simt_emitter import SimtEmitter
from homebox.errors import EngineError
from tests.unit import engine_checks
from tests.unit import test_attend as attend
from tests.unit import test_engine_fuzz as fuzz
from tests.unit import test_engine_grad as grad
from tests.unit import test_engine_grouped as grouped
from tests.unit import test_engine_kernels as kernels
from tests.unit import test_packed_products as packed
from tests.unit.engine_checks import check, random, tensor

if TYPE_CHECKING:
    from homebox.engine.opencl.platform import Found

FILES = ("test_engine_kernels", "test_attend", "test_engine_grad", "test_engine_fuzz")
FILES += ("test_packed_products", "test_engine_grouped")


@pytest.mark.whole
@pytest.mark.parametrize("name", FILES)
def test_the_whole_corpus(cl_entry: "Found", name: str, repository: Path) -> None:
    """In a process of its own, where the environment names the device from the start."""
    environment = {**os.environ, "CHECK_DEVICE": cl_entry.name, "PYTHONPATH": str(repository)}
    command = [sys.executable, "-m", "pytest", f"tests/unit/{name}.py", "-q", "--tb=short"]
    done = subprocess.run(
        command, cwd=repository, env=environment, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    counted = re.search(r"(\d+) passed", done.stdout)
    assert counted is not None and int(counted[1]) >= 20


@pytest.fixture
def operations(cl_device: OpenClDevice, monkeypatch: pytest.MonkeyPatch) -> set[tuple[Op, Any]]:
    """Let checks of graphs run on the device too; return the operations that did."""
    seen: set[tuple[Op, Any]] = set()
    check = engine_checks.check_device

    def noted(name: str, tensors: Sequence[Tensor], *more: Any) -> None:
        check(name, tensors, *more)
        for node in toposort([t.node for t in tensors]):
            seen.add((node.op, _kind(node)))

    monkeypatch.setattr(engine_checks, "check_device", noted)
    monkeypatch.setenv("CHECK_DEVICE", cl_device.name)
    return seen


def _kind(node: Node) -> Any:
    """Return which of its kinds an operation is, where they are lowered in different ways."""
    if node.op is Op.REDUCE:
        return node.arg[0]
    if node.op is Op.STORE:
        return node.arg, len(node.src) > 2
    if node.op in (Op.PACK, Op.UNPACK):
        return node.arg.name
    return None


# Graphs that need every operation once.
QUICK: tuple[tuple[Any, ...], ...] = (
    (kernels.test_fused_rows, 7),
    (grad.test_gradients, "two gathers of one table"),
    (kernels.test_bool,),
    (kernels.test_gelu_by_tanh,),
    (kernels.test_sizes_around_the_lanes, 17),
    (kernels.test_integer_division_by_lanes_beyond_the_edge_does_not_stop_the_machine,),
    (kernels.test_integers_of_every_type,),
    (kernels.test_reductions_of_rows_columns_and_all, 17, 33),
    (kernels.test_contractions_with_ragged_edges, 7, 33),
    (kernels.test_shapes_without_elements,),
    (kernels.test_run_time_offsets_and_values,),
    (kernels.test_prologues_and_epilogues,),
    (kernels.test_indexed_stores_in_order, (3,), (20,), True),
    (grad.test_gradients, "attention"),
    (fuzz.test_random_graphs, 36),
    *((packed.test_weights_are_unpacked_exactly, form, 5, 3) for form in WEIGHTS.values()),
    (packed.test_int8_products_are_nearly_exact, WEIGHTS["q4"], 4),
    (attend.test_a_long_past, 1),
    *((grouped.test_products, WEIGHTS["q8"], kind, 1) for kind in grouped.KINDS),
    (grouped.test_a_mixture_of_experts, WEIGHTS["q4"], 2, 5),
)


def test_every_operation_runs_on_a_device(operations: set[tuple[Op, Any]]) -> None:
    """A new operation needs a test of its own in this list, and a kernel on OpenCL for it."""
    for function, *arguments in QUICK:
        function(*arguments)
    bits = tensor(random(5, 7)).bitcast(dt.i32)
    check((bits >> 3).bitcast(dt.f32) * 0.0 + 1.0, bits + 1)
    missing = set(Op) - {op for op, _ in operations}
    assert missing <= {Op.ATTEND}, f"nothing runs {missing} on OpenCL"
    kinds = {(op.name, kind) for op, kind in operations}
    for kind in ("add", "max", "mul"):
        assert ("REDUCE", kind) in kinds
    for how in (("set", False), ("set", True), ("add", True), ("add", False)):
        assert ("STORE", how) in kinds
    for form in WEIGHTS:
        assert ("UNPACK", form) in kinds


@pytest.mark.parametrize("operation", ["SIN", "TANH", "LOG2", "GATHER"])
def test_a_renderer_that_lacks_an_operation_is_noticed(
    operations: set[tuple[Op, Any]], monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    """The control: the same list with an operation that work-items cannot compute."""
    compute = SimtEmitter._compute

    def lacking(self: SimtEmitter, n: Node, *more: Any) -> Any:
        if n.op is Op[operation]:
            raise EngineError(f"{n.op} cannot be computed inside a kernel")
        return compute(self, n, *more)

    monkeypatch.setattr(SimtEmitter, "_compute", lacking)
    with pytest.raises(EngineError, match=operation):
        for function, *arguments in QUICK:
            function(*arguments)
