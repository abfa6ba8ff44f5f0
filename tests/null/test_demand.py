"""What kernels cannot do without, counted in the graph: against numbers worked out by hand."""

import pytest

from homebox.engine.fusion.fuse import partition
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.formats import Q8, WEIGHTS
from homebox.engine.graph.ops import Sym
from homebox.engine.graph.tensor import Tensor
from homebox.engine.inspection.demand import Demand, demand
from homebox.engine.inspection.roof import Roof
from homebox.engine.runtime.plan import order_regions
from homebox.model.architectures.config_file import parse_config
from homebox.model.decoder.paged_cache import PagedCache
from tests.unit.model_files import CONFIG

ROOF = Roof(1, read_gbs=10.0, f32_gflops=100.0, bf16_gflops=200.0, int8_gops=400.0)


def demands(*outputs: Tensor, **values: int) -> list[Demand]:
    """Count every kernel of a graph."""
    roots = [t.node if t.node.op.name == "STORE" else t.contiguous().node for t in outputs]
    regions = order_regions(partition(roots))
    realised = frozenset(r.root for r in regions)
    return [demand(r, realised, values) for r in regions]


def packed(name: str, n: int, k: int) -> Tensor:
    form = WEIGHTS[name]
    memory = Tensor.zeros((form.nbytes(n, k),), dt.u8)
    memory.buffer.frozen = True
    return Tensor.packed(form, n, k, memory)


def test_a_product_reads_each_matrix_once() -> None:
    m, n, k = 7, 48, 64
    found = demands(Tensor.zeros((m, k)).linear(packed("f32", n, k)))[-1]
    assert found.read == 4 * (m * k + n * k)
    assert found.written == 4 * m * n
    assert found.operations == 2 * m * n * k
    assert found.kind == "f32"


@pytest.mark.parametrize(("name", "kind"), [("q8", "int8"), ("q4", "int8"), ("bf16", "bf16")])
def test_packed_weights_count_as_they_lie(name: str, kind: str) -> None:
    n, k = 48, 128
    x = Tensor.zeros((1, k))
    x = x.cast(dt.bf16).cast(dt.f32) if name == "bf16" else x.quantised()
    found = demands(x.linear(packed(name, n, k)))
    total = sum(d.read for d in found)
    weights = WEIGHTS[name].nbytes(n, k)
    assert weights < total < weights + 3000  # and what lies between kernels
    assert max(d.operations for d in found) >= 2 * n * k
    assert max(found, key=lambda d: d.operations).kind == kind


def test_float_activations_make_quantised_weights_strict() -> None:
    found = demands(Tensor.zeros((1, 64)).linear(packed("q8", 16, 64)))[-1]
    assert found.kind == "f32"
    assert found.read == Q8.nbytes(16, 64) + 4 * 64


def test_a_lookup_counts_the_rows_it_takes() -> None:
    table, index = Tensor.zeros((1000, 32)), Tensor.zeros((5,), dt.i32)
    (found,) = demands(table.gather(index))
    assert found.read == 4 * (5 * 32 + 5)
    assert found.written == 4 * 5 * 32
    assert found.operations == 0


def test_run_time_sizes_count_as_they_are() -> None:
    n = Sym("n", 1, 100)
    x = Tensor.zeros((100, 8)).slice(0, 0, n)
    (short,), (whole,) = demands(x * 2.0, n=3), demands(x * 2.0)
    assert (short.read, short.written, short.operations) == (96, 96, 24)
    assert (whole.read, whole.written, whole.operations) == (3200, 3200, 800)


def test_a_store_does_not_read_what_it_overwrites() -> None:
    memory, value = Tensor.zeros((50, 4)), Tensor.zeros((2, 4))
    index = Tensor.zeros((2,), dt.i32)
    (found,) = demands(memory.store(value * 3.0, index))
    assert (found.read, found.written) == (4 * 8 + 4 * 2, 4 * 8)
    (added,) = demands(memory.store(value * 3.0, index, add=True))
    assert added.read == found.read + 4 * 8


def test_what_is_read_twice_counts_once() -> None:
    x = Tensor.zeros((64,))
    (found,) = demands(x * x + x)
    assert found.read == 4 * 64


def test_the_nearer_roof_decides() -> None:
    reading = Demand((), 10**9, 0, "f32")
    computing = Demand((), 10**9, 400 * 10**9, "int8")
    assert reading.least_seconds(ROOF) == pytest.approx(0.1)
    assert computing.least_seconds(ROOF) == pytest.approx(1.0)


def test_attention_counts_the_keys_that_rows_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOFUSE", raising=False)
    config = parse_config({**CONFIG, "head_dim": 16})
    cache = PagedCache(config, 8, dt.f16)
    heads, shared, dim = config.num_heads, config.num_kv_heads, 16
    positions, tables = Tensor.zeros((2, 1), dt.i32), Tensor.zeros((2, 4), dt.i32)
    positions.buffer.array[:] = (9, 39)
    query = Tensor.zeros((2, 1, heads, dim))
    found = demands(cache.attend(0, cache.memory[0], query, positions, tables))
    most = max(found, key=lambda d: d.operations)
    assert most.operations == 4 * heads * (10 + 40) * dim + 2 * heads * dim  # and q's scale
    reads = {node.dtype: count for node, count in most.reads}
    assert reads[dt.f16] == 2 * shared * (10 + 40) * dim * dt.f16.size
    positions.buffer.array[:] = -1
    found = demands(cache.attend(0, cache.memory[0], query, positions, tables))
    assert all(node.dtype is not dt.f16 for d in found for node, _ in d.reads)
