"""Attention over pages: against float64, inside its memory, and the same bits however it is cut."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homebox.engine.fusion.fuse import partition
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.formats import A8, pack, unpack
from homebox.engine.graph.ops import Node, Op
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.capture import Program, Spec, capture, evaluate
from homebox.engine.verify.oracle import narrow, widen
from homebox.errors import EngineError
from homebox.model.decoder.masked_attention import masked_attention, visible
from homebox.model.decoder.paged_cache import PAGE, Kind, PagedCache
from tests.unit.engine_checks import check, interpreted, random, same_bits, tensor

Array = npt.NDArray[Any]
KINDS: list[Kind] = [dt.f32, dt.f16, dt.bf16, "q8"]


@dataclass(frozen=True)
class Sizes:
    """One attention: `heads` of queries share each of `shared` kv heads."""

    shared: int
    groups: int
    dim: int
    pages: int  # of a sequence
    batch: int = 1

    @property
    def heads(self) -> int:
        return self.shared * self.groups


def cache_of(s: Sizes, kind: Kind, filled: float = 0.0) -> PagedCache:
    """Return a cache with one page more than needed, its numbers all `filled`."""
    config: Any = SimpleNamespace(num_kv_heads=s.shared, head_dim=s.dim, num_layers=1)
    cache = PagedCache(config, s.batch * s.pages + 1, kind)
    stored = cache.memory[0].buffer.array
    if filled != 0.0:
        number = np.float32(filled)
        stored[:] = narrow(number) if kind is dt.bf16 else number
    return cache


def tables_of(s: Sizes, seed: int = 0) -> Array:
    order = np.random.default_rng(seed).permutation(s.batch * s.pages + 1)
    return order[: s.batch * s.pages].reshape(s.batch, s.pages).astype(np.int32)


def places_of(table: Array, positions: Array) -> Array:
    return np.where(positions < 0, -1, table[positions // PAGE] * PAGE + positions % PAGE)


def append(cache: PagedCache, s: Sizes, k: Array, v: Array, places: Array) -> None:
    """Write keys and values (N, kv heads, dim) with a compiled program."""
    spec = Spec((len(k), s.shared, s.dim))
    program = capture(
        lambda k, v, at: cache.append(0, k, v, at),
        {"k": spec, "v": spec, "at": Spec((len(k),), dt.i32)},
        name="append",
    )
    program(k=k, v=v, at=places.astype(np.int32))


@dataclass(frozen=True)
class Features:
    """What a layer's attention may have: all that `PagedCache.attend` takes beside the operands."""

    window: int | None = None
    cap: float | None = None
    sinks: Array | None = None  # (heads,)
    scale: float | None = None


def attention(
    cache: PagedCache, s: Sizes, rows: int, window: int | None = None, **more: Any
) -> Program:
    features = Features(window, **more)
    sinks = None if features.sinks is None else tensor(features.sinks)
    inputs = {
        "q": Spec((s.batch, rows, s.heads, s.dim)),
        "positions": Spec((s.batch, rows), dt.i32),
        "tables": Spec((s.batch, s.pages), dt.i32),
    }

    def attend(q: Tensor, positions: Tensor, tables: Tensor) -> Tensor:
        given = (window, features.cap, sinks, features.scale)
        return cache.attend(0, cache.memory[0], q, positions, tables, *given)

    return capture(attend, inputs, name="attend")


def rounded(kind: Kind, x: Array) -> Array:
    """Return what a cache keeps of numbers."""
    if kind == "q8":
        flat = x.reshape(-1, x.shape[-1])
        return unpack(A8, pack(A8, flat), *flat.shape).reshape(x.shape)
    if kind is dt.bf16:
        return widen(narrow(x)).astype(np.float32)
    return x.astype(np.float16 if kind is dt.f16 else np.float32).astype(np.float32)


def exact(q: Array, k: Array, v: Array, positions: Array, window: int | None, **more: Any) -> Array:
    """Attention of one sequence in float64: q (T, heads, D), k and v (L, kv heads, D)."""
    features = Features(window, **more)
    cap, sinks = features.cap, features.sinks
    scale = q.shape[2] ** -0.5 if features.scale is None else features.scale
    groups = q.shape[1] // k.shape[1]
    out = np.zeros((q.shape[0], q.shape[1] * q.shape[2]))
    for t, last in enumerate(positions):
        if last < 0:
            continue
        first = 0 if window is None else max(0, last - window + 1)
        keys = np.repeat(k[first : last + 1], groups, 1).astype(np.float64)
        values = np.repeat(v[first : last + 1], groups, 1).astype(np.float64)
        scores = np.einsum("hd,lhd->hl", q[t].astype(np.float64), keys) * scale
        if cap is not None:
            scores = cap * np.tanh(scores / cap)
        if sinks is not None:
            scores = np.concatenate([scores, sinks[:, None].astype(np.float64)], -1)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        weights = weights[:, : len(keys)]
        out[t] = np.einsum("hl,lhd->hd", weights, values).reshape(-1)
    return out


@dataclass(frozen=True)
class Case:
    """A filled cache, its tables, and the keys and values that it keeps of each sequence."""

    s: Sizes
    cache: PagedCache
    tables: Array
    keys: list[Array]
    values: list[Array]


def case_of(
    s: Sizes, kind: Kind, lengths: Sequence[int], seed: int = 0, filled: float = 0.0
) -> Case:
    cache, tables = cache_of(s, kind, filled), tables_of(s, seed)
    total = sum(lengths)
    k = random(total, s.shared, s.dim, seed=seed)
    v = random(total, s.shared, s.dim, seed=seed + 1)
    at = np.concatenate([places_of(t, np.arange(n)) for t, n in zip(tables, lengths, strict=True)])
    append(cache, s, k, v, at)
    ends = np.cumsum(lengths)[:-1]
    keys, values = (np.split(rounded(kind, x), ends) for x in (k, v))
    return Case(s, cache, tables, keys, values)


def positions_of(lengths: Sequence[int], rows: int) -> Array:
    """Return the last `rows` positions of sequences, -1 in front where there are fewer."""
    return np.stack([np.maximum(np.arange(n - rows, n), -1) for n in lengths]).astype(np.int32)


def assert_right(
    case: Case, q: Array, positions: Array, out: Array, window: int | None, **more: Any
) -> None:
    for b in range(case.s.batch):
        want = exact(q[b], case.keys[b], case.values[b], positions[b], window, **more)
        np.testing.assert_allclose(out[b], want, rtol=1e-5, atol=1e-5)


# -- values ---------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_it_is_softmax_times_values(data: st.DataObject) -> None:
    dim = data.draw(st.sampled_from([8, 16, 24, 32, 64, 80, 96, 128]))
    kinds = KINDS if dim % 32 == 0 else KINDS[:3]
    kind = data.draw(st.sampled_from(kinds))
    batch = data.draw(st.integers(1, 3))
    s = Sizes(data.draw(st.integers(1, 3)), data.draw(st.integers(1, 8)), dim, 5, batch)
    some = st.sampled_from([1, 15, 16, 17, 63, 64, 65, 128, 255, 256, 257, 320])
    lengths = [data.draw(some) for _ in range(batch)]
    rows = data.draw(st.sampled_from([1, 2, 3, 8, 9, 17, 64]))
    window = data.draw(st.sampled_from([None, None, 1, 16, 65, 300]))
    case = case_of(s, kind, lengths)
    q = random(batch, rows, s.heads, dim, seed=7, spread=2.0)
    positions = positions_of(lengths, rows)
    (out,) = attention(case.cache, s, rows, window)(q=q, positions=positions, tables=case.tables)
    assert_right(case, q, positions, out, window)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_caps_sinks_and_scales(data: st.DataObject) -> None:
    dim = data.draw(st.sampled_from([8, 24, 32, 64, 80]))
    kind = data.draw(st.sampled_from(KINDS if dim % 32 == 0 else KINDS[:3]))
    batch = data.draw(st.integers(1, 2))
    s = Sizes(data.draw(st.integers(1, 2)), data.draw(st.integers(1, 8)), dim, 5, batch)
    lengths = [data.draw(st.sampled_from([1, 16, 65, 256, 257, 320])) for _ in range(batch)]
    rows = data.draw(st.sampled_from([1, 3, 8, 9, 17]))
    window = data.draw(st.sampled_from([None, 1, 65, 300]))
    height = data.draw(st.sampled_from([None, 0.0, 20.0, -20.0]))
    more = {
        "cap": data.draw(st.sampled_from([None, 0.5, 5.0, 50.0])),
        "sinks": None if height is None else random(s.heads, seed=9) + np.float32(height),
        "scale": data.draw(st.sampled_from([None, 0.1, 1.0])),
    }
    case = case_of(s, kind, lengths)
    q = random(batch, rows, s.heads, dim, seed=7)
    positions = positions_of(lengths, rows)
    program = attention(case.cache, s, rows, window, **more)
    (out,) = program(q=q, positions=positions, tables=case.tables)
    assert_right(case, q, positions, out, window, **more)


@pytest.mark.parametrize("rows", [1, 33])
def test_a_long_past(rows: int) -> None:
    s = Sizes(2, 2, 64, 32)
    case = case_of(s, dt.f16, [2000])
    q = random(1, rows, s.heads, s.dim, seed=3)
    positions = positions_of([2000], rows)
    (out,) = attention(case.cache, s, rows)(q=q, positions=positions, tables=case.tables)
    assert_right(case, q, positions, out, None)


def test_a_very_long_context_has_longer_splits() -> None:
    s = Sizes(1, 2, 16, 160)
    case = case_of(s, dt.f16, [1500])
    (node,) = [n for n in nodes_of(case, 1) if n.op is Op.ATTEND]
    assert node.arg.splits == 32 and node.arg.split == 320
    q = random(1, 12, s.heads, s.dim, seed=3)
    positions = positions_of([1500], 12)
    whole = run(case, q, positions[0])
    assert_right(case, q, positions, whole, None)
    assert same_bits(run(case, q[:, -1:], positions[0, -1:]), whole[:, -1:])


def test_scores_of_any_size() -> None:
    """Large scores leave one key, equal ones share evenly; nothing overflows."""
    s = Sizes(1, 2, 32, 2)
    case = case_of(s, dt.f32, [100])
    positions = positions_of([100], 4)
    program = attention(case.cache, s, 4)
    for spread in (0.0, 1e-20, 1e3):
        q = random(1, 4, s.heads, s.dim, seed=3, spread=spread)
        (out,) = program(q=q, positions=positions, tables=case.tables)
        want = exact(q[0], case.keys[0], case.values[0], positions[0], None)
        np.testing.assert_allclose(out[0], want, rtol=1e-3, atol=1e-3)


def test_it_is_what_torch_computes() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    s = Sizes(2, 3, 64, 3)
    case = case_of(s, dt.f32, [150])
    q = random(1, 150, s.heads, s.dim, seed=5)
    positions = positions_of([150], 150)
    (out,) = attention(case.cache, s, 150)(q=q, positions=positions, tables=case.tables)
    query = torch.from_numpy(q).transpose(1, 2)
    key, value = (
        torch.from_numpy(np.repeat(x[0], s.groups, 1)[None]).transpose(1, 2)
        for x in (case.keys, case.values)
    )
    want = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    want = want.transpose(1, 2).reshape(1, 150, -1).numpy()
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-5)


# -- kernels --------------------------------------------------------------------------------------


def graph_of(case: Case, rows: int, lengths: Sequence[int], window: int | None = None) -> Tensor:
    """Return an attention whose inputs are in memory already."""
    s = case.s
    q = tensor(random(s.batch, rows, s.heads, s.dim, seed=9))
    at, tables = tensor(positions_of(lengths, rows)), tensor(case.tables)
    return case.cache.attend(0, case.cache.memory[0], q, at, tables, window)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "window"), [(1, None), (9, 70)])
def test_kernels_stay_inside_their_memory(kind: Kind, rows: int, window: int | None) -> None:
    s = Sizes(1, 2, 32, 5, 2)  # 5 pages are more than one split
    lengths = [17, 270]
    case = case_of(s, kind, lengths)
    check(graph_of(case, rows, lengths, window), interpret_too=True)


@pytest.mark.parametrize("kind", KINDS)
def test_appending_is_what_the_graph_says(kind: Kind) -> None:
    s = Sizes(2, 1, 32, 2)
    cache = cache_of(s, kind)
    places = np.array([70, -1, 3, 191, 64], np.int32)  # the last place of the last page is one
    k, v = (tensor(random(5, 2, 32, seed=i)) for i in (1, 2))
    check(cache.append(0, k, v, tensor(places)), interpret_too=True)


@pytest.mark.parametrize("dim", [8, 24])
def test_heads_of_odd_sizes(dim: int) -> None:
    s = Sizes(2, 1, dim, 1)
    cache = cache_of(s, dt.f16)
    k, v = (tensor(random(3, 2, dim, seed=i)) for i in (1, 2))
    places = tensor(np.array([127, 5, -1], np.int32))
    check(cache.append(0, k, v, places), interpret_too=True)


def test_a_place_outside_is_not_written() -> None:
    s = Sizes(1, 1, 16, 1)
    cache = cache_of(s, dt.f32)
    ones = tensor(np.ones((2, 1, 16), np.float32))
    (memory,) = check(
        cache.append(0, ones, ones, tensor(np.array([2 * PAGE + 5, 1 << 24], np.int32))),
        interpret_too=True,
    )
    assert not memory.any()
    (memory,) = check(cache.append(0, ones, ones, tensor(np.array([5, -1], np.int32))))
    assert memory.sum() == 2 * 16


def test_page_numbers_that_do_not_exist_read_nothing() -> None:
    s = Sizes(1, 2, 32, 2)
    case = case_of(s, dt.f32, [100], filled=1.0)
    case.tables[0, 0] = 1 << 20
    check(graph_of(case, 2, [100]), interpret_too=True)


def nodes_of(case: Case, rows: int) -> list[Node]:
    graph = graph_of(case, rows, [1] * case.s.batch)
    cut = partition([graph.contiguous().node])
    return [region.root for region in cut.regions]


def test_one_kernel_without_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(Sizes(2, 2, 32, 1), dt.f16, [1])
    assert [n.op for n in nodes_of(case, 4)] == [Op.ATTEND, Op.COPY]
    monkeypatch.setenv("NOFUSE", "R3")
    without = nodes_of(case, 4)
    assert len(without) > 3
    assert all(n.op is not Op.ATTEND for n in without)


def test_splits_are_for_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(Sizes(2, 2, 32, 8), dt.f16, [1])
    cut, whole = (nodes_of(case, rows)[0].arg for rows in (1, 64))
    assert cut.parts and cut.splits == 2
    assert not whole.parts and whole.splits == 2
    monkeypatch.setenv("NOFUSE", "R4")
    assert not nodes_of(case, 1)[0].arg.parts


def test_rules_change_rounding_only(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [300, 17]
    case = case_of(Sizes(2, 2, 32, 5, 2), dt.f16, lengths)
    for rows in (1, 9):
        fused = evaluate([graph_of(case, rows, lengths)])[0]
        monkeypatch.setenv("NOFUSE", "R3")
        plain = evaluate([graph_of(case, rows, lengths)])[0]
        monkeypatch.delenv("NOFUSE")
        np.testing.assert_allclose(fused, plain, rtol=1e-5, atol=1e-6)


def test_any_mask_and_keys_that_are_computed() -> None:
    """Documents in a row: a mask that is no bound, keys that lie in no panels, 77 places."""
    rows, heads, groups, length, dim = 2, 2, 3, 77, 24
    shape = (rows, heads, groups, length, dim)
    q = tensor(random(*shape, seed=1, spread=0.3))
    k, v = (tensor(random(rows, heads, 1, length, dim, seed=i)).sin() for i in (2, 3))
    document = np.random.default_rng(0).integers(0, 3, (rows, length)).astype(np.int32)
    segment = tensor(document)
    one = segment.reshape((rows, 1, 1, length, 1))
    same = one.equal(segment.reshape((rows, 1, 1, 1, length)))
    place = tensor(np.tile(np.arange(length, dtype=np.int32), (rows, 1)))
    out = masked_attention(q, k, v, visible(place, length) & same)
    assert any(r.root.op is Op.ATTEND for r in partition([out.contiguous().node]).regions)
    check(out, interpret_too=True)


# -- bits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_however_a_prompt_is_cut(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """One shot, chunks, one by one, with and without splits, alone or beside another sequence."""
    length = 290  # in the second split
    s, pair = Sizes(2, 3, 32, 6), Sizes(2, 3, 32, 6, 2)
    case = case_of(s, kind, [length])
    other = case_of(pair, kind, [length, 33], seed=0)
    q = random(1, length, s.heads, s.dim, seed=4)
    whole = run(case, q, np.arange(length))
    for size in (1, 7, 64):
        program = attention(case.cache, s, size)
        for start in (0, 64, 250, length - size):
            at = np.arange(size) + min(start, length - size)
            part = run(case, q[:, at], at, program)
            assert same_bits(part, whole[:, at]), (size, start)
    monkeypatch.setenv("NOFUSE", "R4")
    assert same_bits(run(case, q[:, -1:], np.arange(length)[-1:]), whole[:, -1:])
    monkeypatch.delenv("NOFUSE")
    # Beside another sequence: its own keys are the first `length` of both caches' random numbers.
    assert np.array_equal(other.keys[0], case.keys[0])
    np.testing.assert_array_equal(beside(other, q[:, -5:], length), whole[:, -5:])


def run(case: Case, q: Array, at: Array, program: Program | None = None) -> Array:
    program = program or attention(case.cache, case.s, q.shape[1])
    (out,) = program(q=q, positions=at[None].astype(np.int32), tables=case.tables)
    return out


def beside(case: Case, q: Array, length: int) -> Array:
    """Return what the first of two sequences attends to, computed together."""
    rows = q.shape[1]
    both = np.concatenate([q, random(*q.shape, seed=11)])
    at = positions_of([length, 3], rows)
    (out,) = attention(case.cache, case.s, rows)(q=both, positions=at, tables=case.tables)
    return out[:1]


def test_tiles_do_not_change_bits() -> None:
    lengths = [100, 270]
    case = case_of(Sizes(1, 3, 32, 5, 2), dt.f16, lengths)
    graph = graph_of(case, 3, lengths)
    levels = [interpreted([graph], {}, level=level) for level in ("avx512", "avx2", "generic")]
    found = [level[0] for level in levels if level is not None]
    assert len(found) == 3
    assert same_bits(found[0], found[1]) and same_bits(found[0], found[2])
    assert same_bits(found[0], evaluate([graph])[0])


@pytest.mark.parametrize("rows", [1, 20])
def test_what_is_not_seen_has_no_influence(rows: int) -> None:
    """Memory that nobody wrote holds NaN here; so does what lies before the window."""
    s, lengths = Sizes(1, 2, 32, 5), [290]
    clean, dirty = (case_of(s, dt.f32, lengths, filled=f) for f in (0.0, float("nan")))
    outs = [evaluate([graph_of(case, rows, lengths)])[0] for case in (clean, dirty)]
    assert np.isfinite(outs[0]).all() and same_bits(outs[0], outs[1])
    longer = evaluate([graph_of(dirty, rows, [300])])[
        0
    ]  # the control: these rows do see unwritten keys
    assert np.isnan(longer).any()


def test_inactive_rows_give_zeros() -> None:
    lengths = [5, 70]
    case = case_of(Sizes(2, 2, 32, 2, 2), dt.f16, lengths)
    out = evaluate([graph_of(case, 8, lengths)])[0]
    assert not out[0, :3].any()
    assert out[0, 3:].any(-1).all() and out[1].any(-1).all()


# -- the cache ------------------------------------------------------------------------------------


def test_pages_are_copied_whole() -> None:
    s = Sizes(1, 2, 32, 2)
    case = case_of(s, "q8", [100])
    before = evaluate([graph_of(case, 2, [100])])[0]
    free = next(p for p in range(3) if p not in case.tables)
    case.cache.copy_page(int(case.tables[0, 0]), free)
    case.tables[0, 0] = free
    assert same_bits(evaluate([graph_of(case, 2, [100])])[0], before)


def test_what_a_cache_cannot_be() -> None:
    config: Any = SimpleNamespace(num_kv_heads=1, head_dim=24, num_layers=1)
    with pytest.raises(EngineError, match="multiple of 32"):
        PagedCache(config, 1, "q8")
    with pytest.raises(EngineError, match="f32, f16, bf16 or q8"):
        PagedCache(config, 1, dt.i32)
