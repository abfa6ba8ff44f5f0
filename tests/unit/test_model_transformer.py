"""The engine's decoder against the numpy decoder and others; rows, chunks, batches and adapters."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homebox.engine.graph.formats import WEIGHTS
from homebox.engine.runtime.runtime_cpu import pool
from homebox.errors import EngineError
from homebox.model import Model, SamplingParams, load
from homebox.model.architectures.config_file import parse_config
from homebox.model.config import ModelConfig
from homebox.model.decoder.activations import Activations
from homebox.model.decoder.transformer import Kind, Transformer
from homebox.model.loading.loader import load_directory
from homebox.model.lora import init_adapter
from tests.unit.model_files import CONFIG, ArrayWeights, random_weights, write_model
from tests.unit.reference_llama import ReferenceLlama

SHAPES: dict[str, dict[str, Any]] = {
    "grouped heads": {},
    "one key head, untied": {"num_key_value_heads": 1, "tie_word_embeddings": False},
    "wide heads": {"head_dim": 16, "num_key_value_heads": 4, "vocab_size": 401},
    "qwen3": {"model_type": "qwen3", "head_dim": 16, "num_key_value_heads": 1},
}
# Whole blocks of 32 and 64, as quantised formats like them.
BLOCKS = {
    **CONFIG,
    "model_type": "qwen3",
    "hidden_size": 128,
    "intermediate_size": 192,
    "head_dim": 32,
}


# Kernels of a layer in a decode step: the combination of attention's parts is one of its own.
MOST_KERNELS, MOST_ADAPTED = 7, 11


def ids_of(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 400, count).astype(np.int32)


def adapter_of(config: ModelConfig, seed: int, rank: int) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    tensors = init_adapter(config, rank, seed)
    for name, array in tensors.items():
        if name.endswith(".B"):
            array += generator.standard_normal(array.shape).astype(np.float32) / 2
    return tensors


def transformer(
    config: ModelConfig,
    form: str = "f32",
    activations: Activations = "f32",
    cache: str = "f32",
    slots: int = 4,
) -> Transformer:
    """Return a model of random weights in a format, with two adapters."""
    weights = ArrayWeights(config, random_weights(config), WEIGHTS[form])
    made = Transformer(config, weights, 192, slots, 4, 8, activations, cache)
    for index, rank in ((1, 8), (2, 3)):
        made.set_adapter(index, adapter_of(config, index, rank), 4.0 / rank)
    return made


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_the_numpy_decoder(shape: str) -> None:
    config = parse_config({**CONFIG, **SHAPES[shape]})
    ours = transformer(config)
    theirs = ReferenceLlama(config, random_weights(config), 192)
    for index, rank in ((1, 8), (2, 3)):
        theirs.set_adapter(index, adapter_of(config, index, rank), 4.0 / rank)
    ids = ids_of(100)
    for adapter in (0, 1, 2, 3):
        np.testing.assert_allclose(
            ours.all_logits(ids, adapter), theirs.all_logits(ids, adapter), rtol=0, atol=2e-4
        )
    whole = theirs.all_logits(ids)
    # Two slots in turns, in chunks of any length, then one by one.
    for start, end in ((0, 1), (1, 60), (60, 97), (97, 98), (98, 100)):
        for slot, adapter in ((0, 0), (1, 1)):
            found = ours.forward(slot, start, ids[start:end], adapter)
            wanted = whole if adapter == 0 else theirs.all_logits(ids, 1)
            np.testing.assert_allclose(found, wanted[end - 1], rtol=0, atol=2e-4)


# Bits

KINDS: list[tuple[str, Activations, str]] = [
    ("f32", "f32", "f32"),
    ("bf16", "bf16", "f16"),
    ("q8", "int8", "f16"),
]


@pytest.mark.parametrize(("form", "activations", "cache"), KINDS)
def test_a_row_has_the_same_bits_in_every_chunk_and_batch(
    form: str, activations: Activations, cache: str
) -> None:
    config = parse_config(BLOCKS)
    ours = transformer(config, form, activations, cache)
    ids = ids_of(130)
    whole = {adapter: ours.all_logits(ids, adapter) for adapter in (0, 1, 2)}
    for start, end in ((0, 5), (5, 6), (6, 70), (70, 71), (71, 130)):
        for adapter in (0, 1):
            found = ours.forward(adapter, start, ids[start:end], adapter)
            np.testing.assert_array_equal(found, whole[adapter][end - 1])
    # Sequences of different lengths and adapters in one batch; some rows of a program are idle.
    lengths = {0: (80, 0), 1: (65, 1), 2: (3, 2), 3: (128, 0)}
    for slots in ((0, 3), (0, 1, 3), (3, 1, 2, 0), (2,), (1,)):
        for slot in slots:
            length, adapter = lengths[slot]
            ours.forward(slot, 0, ids[:length], adapter)
        at = [lengths[slot][0] for slot in slots]
        adapters = [lengths[slot][1] for slot in slots]
        found = ours.decode(slots, ids[at], at, adapters)
        for row, place, adapter in zip(found, at, adapters, strict=True):
            np.testing.assert_array_equal(row, whole[adapter][place])


def test_more_sequences_than_a_program_has_rows_for() -> None:
    config = parse_config(CONFIG)
    ours = transformer(config, slots=11)
    ids = ids_of(12)
    whole = ours.all_logits(ids)
    for slot in range(11):
        ours.forward(slot, 0, ids[: slot + 1], 0)
    found = ours.decode(range(11), ids[1:12], range(1, 12), [0] * 11)
    np.testing.assert_array_equal(found, whole[1:12])


def test_more_adapters_than_a_program_has_places_for() -> None:
    config = parse_config({**CONFIG, "num_hidden_layers": 1})
    ours = Transformer(config, ArrayWeights(config, random_weights(config)), 64, 8, 8, 8)
    for index in range(1, 8):
        ours.set_adapter(index, adapter_of(config, index, 8), 1.0)
    ids = ids_of(6)
    adapters = [1, 2, 0, 3, 2, 4, 5, 6]
    for slot, adapter in enumerate(adapters):
        ours.forward(slot, 0, ids[:5], adapter)
    found = ours.decode(range(8), ids[[5] * 8], [5] * 8, adapters)
    for row, adapter in zip(found, adapters, strict=True):
        np.testing.assert_array_equal(row, ours.all_logits(ids, adapter)[-1])


def test_threads_do_not_change_bits() -> None:
    config = parse_config(BLOCKS)
    models = [transformer(config, *kind) for kind in (KINDS[0], KINDS[2])]
    ids = ids_of(40)
    seen: list[list[Any]] = []
    for threads in (1, 2, 3, 4, 7):
        pool(threads)
        seen.append([])
        for model in models:
            for slot in (0, 1):
                seen[-1].append(model.forward(slot, 0, ids[: 20 + slot], slot))
            seen[-1].append(model.decode([0, 1], ids[[20, 21]], [20, 21], [0, 1]))
    pool(1)
    for found in seen[1:]:
        for one, other in zip(found, seen[0], strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_layer_of_a_decode_step_is_few_kernels() -> None:
    counts = {}
    for layers in (1, 3):
        config = parse_config({**BLOCKS, "num_hidden_layers": layers})
        ours = transformer(config, "q8", "int8", "f16")
        for batch, adapters in ((1, 0), (4, 0), (1, 1)):
            program = ours.program(Kind(batch, 1, adapters, every=False))
            counts[layers, batch, adapters] = program.launches.count
    for batch, adapters, most in ((1, 0, MOST_KERNELS), (4, 0, MOST_KERNELS), (1, 1, MOST_ADAPTED)):
        more = counts[3, batch, adapters] - counts[1, batch, adapters]
        assert more <= 2 * most, f"{more / 2} kernels a layer, {batch} rows, {adapters} adapters"
        assert counts[1, batch, adapters] <= most + 2


# Formats


@pytest.mark.parametrize("form", ["bf16", "q8", "q4"])
def test_strict_activations_give_the_answers_of_the_decoded_weights(form: str) -> None:
    config = parse_config(BLOCKS)
    weights = ArrayWeights(config, random_weights(config), WEIGHTS[form])
    ours = Transformer(config, weights, 128, 1, activations="f32")
    theirs = ReferenceLlama(config, weights.arrays, 128)
    ids = ids_of(20).tolist()
    np.testing.assert_allclose(
        ours.all_logits(np.array(ids)), theirs.all_logits(np.array(ids)), rtol=0, atol=2e-4
    )
    logits = ours.forward(0, 0, np.array(ids, np.int32), 0)
    for _ in range(20):
        best = int(theirs.all_logits(np.array(ids))[-1].argmax())
        assert int(logits.argmax()) == best
        logits = ours.forward(0, len(ids), np.array([best], np.int32), 0)
        ids.append(best)


@pytest.mark.parametrize(
    ("form", "activations"), [("q8", "int8"), ("q4", "int8"), ("bf16", "bf16")]
)
def test_rounded_activations_stay_near_the_strict_logits(
    form: str, activations: Activations
) -> None:
    config = parse_config(BLOCKS)
    ids = ids_of(50)
    strict = transformer(config, form).all_logits(ids)
    found = transformer(config, form, activations, "f16").all_logits(ids)
    assert np.abs(found - strict).max() > 0  # it is another arithmetic
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(strict, axis=1)
    assert ((found * strict).sum(1) / lengths).min() >= 0.999


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_logits_equal_those_of_transformers(kind: str) -> None:
    torch = pytest.importorskip("torch", reason="the oracle needs torch")
    theirs = pytest.importorskip("transformers", reason="the oracle needs transformers")
    raw = {**BLOCKS, "model_type": kind, "rope_theta": 1e6}
    config = parse_config(raw)
    weights = random_weights(config)
    made = theirs.AutoConfig.for_model(
        **{name: value for name, value in raw.items() if name != "rope_theta"},
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    oracle = theirs.AutoModelForCausalLM.from_config(made, attn_implementation="eager").float()
    from homebox.model.loading.loader import file_name_of

    state = {file_name_of(name): torch.from_numpy(array) for name, array in weights.items()}
    missing, unexpected = oracle.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    oracle.tie_weights()
    ids = ids_of(100)
    with torch.no_grad():
        wanted = oracle(torch.from_numpy(ids[None].astype(np.int64))).logits[0].numpy()
    found = transformer(config).all_logits(ids)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(found.argmax(1), wanted.argmax(1))


# Slots and adapters


def test_an_emptied_adapter_slot_is_the_base() -> None:
    config = parse_config(CONFIG)
    ours = Transformer(config, ArrayWeights(config, random_weights(config)), 64, 1, 2, 4)
    ids = ids_of(20)
    base = ours.all_logits(ids)
    ours.set_adapter(1, adapter_of(config, 1, 4), 1.0)
    assert np.abs(ours.all_logits(ids, 1) - base).max() > 0.1
    ours.set_adapter(1, None, 0.0)
    np.testing.assert_array_equal(ours.all_logits(ids, 1), base)
    np.testing.assert_array_equal(ours.all_logits(ids), base)


def test_a_larger_rank_leaves_the_adapters_as_they_were() -> None:
    config = parse_config(CONFIG)
    ours = Transformer(config, ArrayWeights(config, random_weights(config)), 64, 1, 4, 32)
    ids = ids_of(20)
    before = []
    for index, rank in ((1, 4), (2, 8), (3, 20)):
        ours.set_adapter(index, adapter_of(config, index, rank), 1.0)
        before.append(ours.all_logits(ids, index))
        compiled = len(ours.stages[0].programs)
        ours.set_adapter(index, adapter_of(config, index, rank), 1.0)
        assert len(ours.stages[0].programs) == compiled  # a swap compiles nothing
    assert ours.adapters is not None
    assert ours.adapters.rank == 32
    for index, wanted in zip((1, 2, 3), before, strict=True):
        np.testing.assert_array_equal(ours.all_logits(ids, index), wanted)


def test_a_kept_past_is_not_disturbed() -> None:
    config = parse_config(CONFIG)
    ours = transformer(config)
    ids, others = ids_of(100), ids_of(100, seed=1)
    ours.forward(0, 0, ids[:70], 0)
    kept = ours.snapshot(0)
    wanted = ours.forward(0, 70, ids[70:], 0)
    ours.restore(1, kept)
    ours.forward(1, 70, others[70:], 0)
    ours.restore(0, kept)
    np.testing.assert_array_equal(ours.forward(0, 70, ids[70:], 0), wanted)
    ours.pages.drop(kept)
    for slot in (0, 1):
        ours.release(slot)
    assert ours.pages.free_pages == ours.pages.count


def test_prepared_programs_are_those_that_answers_use() -> None:
    config = parse_config({**CONFIG, "num_hidden_layers": 1})
    ours = Transformer(config, ArrayWeights(config, random_weights(config)), 320, 8, 2, 4)
    while ours.prepare():
        pass
    ready = len(ours.stages[0].programs)
    ids = ids_of(300)
    for slot, length in enumerate((3, 17, 40, 65, 255, 256, 8, 1)):
        ours.forward(slot, 0, ids[:length], 0)
    for count in range(1, 9):
        at = [ours.pages.length(slot) for slot in range(count)]
        ours.decode(range(count), ids[at], at, [0] * count)
    assert len(ours.stages[0].programs) == ready


def test_a_gap_in_a_sequence_is_an_error() -> None:
    config = parse_config(CONFIG)
    ours = transformer(config)
    ids = ids_of(10)
    ours.forward(0, 0, ids[:5], 0)
    for call in (
        lambda: ours.forward(0, 6, ids[6:], 0),
        lambda: ours.decode([1], ids[:1], [1], [0]),
    ):
        with pytest.raises(EngineError, match="holds"):
            call()


# Whole models


def test_answers_of_a_loaded_model_equal_the_numpy_decoder(tmp_path: Path) -> None:
    write_model(tmp_path, {"max_position_embeddings": 128})
    ours = load(tmp_path)
    loaded = load_directory(tmp_path)
    theirs = Model("r", loaded, ReferenceLlama(loaded.config, loaded.weights, 128), 128)
    assert (ours.name, ours.context, ours.base_hash) == (tmp_path.name, 128, theirs.base_hash)
    prompt = ours.chat.render([{"role": "user", "content": "the fish swims"}])
    for sampling in (
        SamplingParams(max_tokens=30),
        SamplingParams(max_tokens=30, temperature=1.0, top_p=0.9, seed=5),
    ):
        assert list(ours.generate(prompt, sampling)) == list(theirs.generate(prompt, sampling))


def test_stories_gives_the_published_ids(shared: Path) -> None:
    folder = shared / "data/weights/stories260K"
    model = load(folder)
    for case in json.loads((folder / "reference.json").read_text())["cases"]:
        prompt = case["prompt_ids"]
        count = len(case["greedy_ids"]) - len(prompt)
        parts = list(model.generate(prompt, SamplingParams(max_tokens=count)))
        assert (
            prompt + [index for piece in parts for index in piece.token_ids] == case["greedy_ids"]
        )
        assert case["prompt"] + "".join(piece.text for piece in parts) == case["text"]
        logits = model.logits(prompt)[-1]
        np.testing.assert_allclose(logits, case["last_logits"], rtol=0, atol=1e-4)
