"""What the benchmark counts and keeps, without running a model."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from homebox.benchmarks import measure, suite, work
from homebox.benchmarks.measure import Run, Sample
from homebox.engine.graph.formats import WEIGHTS
from homebox.engine.inspection.roof import Roof
from homebox.errors import UsageError
from homebox.model.architectures.config_file import parse_config
from tests.unit.model_files import CONFIG

ROOF = Roof(2, read_gbs=40.0, f32_gflops=500.0, bf16_gflops=1000.0, int8_gops=2000.0)
PLAN = suite.Plan(Path("/models/small"), "q8", 2)


def test_runs_are_kept_for_quiet_not_for_speed() -> None:
    runs = [Run(1.0, 0.9), Run(3.0, 0.0), Run(2.0, 0.1), Run(4.0, 0.05)]
    assert measure.chosen(runs, 3) == Sample(3.0, 2.0, 3, 0.1)


def test_enough_runs_are_made_even_without_time() -> None:
    calls: list[int] = []
    found = measure.measure(lambda: calls.append(1), wanted=4, budget=0.0)
    assert len(calls) == found.count == 4


def test_own_work_is_no_disturbance() -> None:
    def work() -> None:
        sum(range(3_000_000))

    alone = measure.timed(work)
    assert alone.seconds > 0
    assert alone.others >= 0


def test_bytes_and_operations_of_a_known_shape() -> None:
    """A model of 135M parameters, worked out by hand."""
    config = parse_config(
        {
            **CONFIG,
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "head_dim": 64,
            "max_position_embeddings": 8192,
        }
    )
    body = 30 * (576 * 64 * (2 * 9 + 2 * 3) + 3 * 576 * 1536)
    head = 576 * 49152
    assert (work.body_weights(config), work.head_weights(config)) == (body, head)
    norms = 4 * 576 * 61
    q8 = work.decode(config, WEIGHTS["q8"], "int8", 1, 100, 23040)
    assert q8.moved == (body + head) * 17 / 16 + norms + 100 * 23040
    assert q8.operations == 2 * (body + head) + 4 * 30 * 9 * 64 * 100
    four = work.decode(config, WEIGHTS["q8"], "int8", 4, 100, 23040)
    assert four.moved == pytest.approx(q8.moved / 4 + 0.75 * 100 * 23040)
    assert four.operations == q8.operations
    prompt = work.prefill(config, WEIGHTS["f32"], "f32", 512)
    assert prompt.operations == 2 * (body + head / 512) + 2 * 30 * 9 * 64 * 512
    step = work.lora_step(config, WEIGHTS["f32"], "f32", 4, 256)
    assert step.operations == 4 * (body + head) + 6 * 30 * 9 * 64 * 256


def test_of_experts_only_those_are_read_that_are_chosen() -> None:
    mixed = {
        "model_type": "qwen3_moe",
        "head_dim": 32,
        "num_experts": 16,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 48,
        "decoder_sparse_step": 1,
    }
    config = parse_config({**CONFIG, "hidden_size": 64, **mixed})
    assert config.experts is not None
    one = 2 * 3 * 48 * 64  # an expert, in both layers
    assert config.parameters - config.used == 12 * one
    assert work.experts_read(config.experts, 1) == 4
    assert work.experts_read(config.experts, 2) == 7  # one in four meets one that is read
    assert work.experts_read(config.experts, 512) == pytest.approx(16)
    moved = [work.decode(config, WEIGHTS["f32"], "f32", n, 0, 0).moved * n for n in (1, 2)]
    assert moved[1] - moved[0] == 3 * 4 * one
    assert moved[0] == 4 * config.used
    # Operations of all that a token meets, save norms.
    assert work.body_weights(config) + work.head_weights(config) == config.used - 5 * 64 - 4 * 32
    whole = work.prefill(config, WEIGHTS["f32"], "f32", 512).moved * 512
    assert whole == pytest.approx(4 * config.parameters)


def test_the_nearer_roof_judges() -> None:
    assert work.Work(1e9, 1e9, "f32").share(20, ROOF) == (50.0, "memory")
    assert work.Work(1e6, 1e10, "int8").share(100, ROOF) == (50.0, "compute")


def test_metrics_are_named_as_they_are() -> None:
    assert suite.check_metrics("decode_x4, prefill_512") == ("prefill_512", "decode_x4")
    assert suite.check_metrics(",".join(suite.METRICS)) == suite.METRICS
    for wrong in ("prefil_512", "", "decode_ctx0,,x"):
        with pytest.raises(UsageError, match="choose from load_to_first_token"):
            suite.check_metrics(wrong)


def test_memory_of_a_device_is_counted_there() -> None:
    assert suite.check_metrics("device_memory", "cl:0") == ("device_memory",)
    for name, device in (("device_memory", "cpu"), ("peak_rss", "cl:0")):
        with pytest.raises(UsageError, match=f"no metric is called {name} on {device}"):
            suite.check_metrics(name, device)
    usual = suite.metrics_on("cl:0", suite.USUAL)
    assert "device_memory" in usual and "lora_device_memory" in usual and "peak_rss" not in usual
    assert suite.metrics_on("cpu", suite.USUAL) == suite.USUAL


def test_rows_name_the_device_and_use_its_roof(monkeypatch: pytest.MonkeyPatch) -> None:
    def probe(threads: int) -> Roof:
        raise AssertionError("the processor's roof judges no device")

    def children(plan: suite.Plan, group: Any, end: float) -> list[work.Measured]:
        given = work.rate("decode_ctx0", Sample(1.0, 1.0, 5, 0.0), 100, work.Work(5e9, 1, "int8"))
        return [given]

    monkeypatch.setattr(suite, "probe", probe)
    monkeypatch.setattr(suite, "_children", children)
    roof = replace(ROOF, read_gbs=1000.0)
    plan = replace(PLAN, only=("decode_ctx0",), device="cl:1", card="Card", roof=roof, budget=0.0)
    (row,) = suite.run(plan, lambda text: None)
    assert (row["device"], row["card"]) == ("cl:1", "Card")
    assert (row["roof_gbs"], row["percent_of_roof"]) == (1000.0, 50.0)


def test_a_row_says_what_the_figure_means() -> None:
    sample = Sample(seconds=2.0, best=1.0, count=5, others=0.01)
    given = work.rate("decode_x4", sample, 200, work.Work(2e8, 1e9, "int8"))
    again = suite.decoded(asdict(given))
    assert again == given
    row = suite.row_of(PLAN, again, ROOF)
    assert (row["metric"], row["value"], row["unit"], row["shape"]) == (
        "decode_x4",
        100.0,
        "tok/s",
        None,
    )
    assert (row["gbs"], row["percent_of_roof"], row["bound"]) == (20.0, 50.0, "memory")
    assert (row["best"], row["n"], row["roof_gbs"]) == (200.0, 5, 40.0)
    assert "50.0 %" in suite.line_of(row)
    plain = suite.row_of(PLAN, work.Measured("peak_rss", 12.3456, "MiB"), ROOF)
    assert plain["value"] == 12.346
    assert "MiB" in suite.line_of(plain)


def test_memory_is_judged_as_it_is_and_arithmetic_as_it_was_at_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probes = iter([Roof(2, 40.0, 500.0, 900.0, 1000.0), Roof(2, 30.0, 400.0, 1000.0, 900.0)])
    monkeypatch.setattr(suite, "probe", lambda threads: next(probes))
    monkeypatch.setattr(suite, "wait_for_calm", lambda patience: None)
    roofs = suite.Roofs(2)
    assert roofs.probe() == Roof(2, 40.0, 500.0, 900.0, 1000.0)
    assert roofs.probe() == Roof(2, 30.0, 500.0, 1000.0, 1000.0)


def test_groups_run_in_order_and_each_training_shape_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    ran: list[tuple[str, ...]] = []

    def children(plan: suite.Plan, group: Any, end: float) -> list[work.Measured]:
        ran.append((group.name, *group.extra, *group.environment))
        shape = group.extra[1] if group.extra else None
        names = [name for name in group.metrics if name != "decode_ctx2000"]
        return [work.Measured(name, 1.0, "s", shape) for name in names]

    monkeypatch.setattr(suite, "_children", children)
    monkeypatch.setattr(suite, "probe", lambda threads: ROOF)
    monkeypatch.setattr(suite, "wait_for_calm", lambda patience: None)
    rows = list(suite.run(replace(PLAN, only=suite.METRICS), said.append))
    assert [(row["metric"], row["shape"]) for row in rows] == [
        *((name, None) for name in suite.COLD),
        *((name, None) for name in suite.SERVING if name != "decode_ctx2000"),
        *((name, shape) for shape in ("1x512", "4x256") for name in suite.TRAINING),
    ]
    assert ran == [
        ("start", "HOMEBOX_CACHE_DIR"),
        ("start",),
        ("serve",),
        ("train", "--shape", "1x512"),
        ("train", "--shape", "4x256"),
    ]
    assert any("not measured: decode_ctx2000" in text for text in said)
