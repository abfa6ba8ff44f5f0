"""The engine's decoder against the numpy decoder: same logits, in chunks, slots and adapters."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homebox.model import Model, SamplingParams, load
from homebox.model.config import parse_config
from homebox.model.loader import load_directory
from homebox.model.lora import init_adapter
from homebox.model.transformer import Transformer
from tests.unit.model_files import CONFIG, random_weights, write_model
from tests.unit.reference_llama import ReferenceLlama

SHAPES: dict[str, dict[str, Any]] = {
    "grouped heads": {},
    "one key head, untied": {"num_key_value_heads": 1, "tie_word_embeddings": False},
    "wide heads": {"head_dim": 16, "num_key_value_heads": 4, "vocab_size": 401},
}


def ids_of(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 400, count).astype(np.int32)


def adapter_of(config: Any, seed: int, rank: int) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    tensors = init_adapter(config, rank, seed)
    for name, array in tensors.items():
        if name.endswith(".B"):
            array += generator.standard_normal(array.shape).astype(np.float32) / 2
    return tensors


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_the_numpy_decoder(shape: str) -> None:
    config = parse_config({**CONFIG, **SHAPES[shape]})
    weights = random_weights(config)
    ours = Transformer(config, weights, 192, slots=2, adapters=4, rank=8)
    theirs = ReferenceLlama(config, weights, 192)
    for index, rank in ((1, 8), (2, 3)):
        tensors = adapter_of(config, index, rank)
        ours.set_adapter(index, tensors, 4.0 / rank)
        theirs.set_adapter(index, tensors, 4.0 / rank)
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


def test_an_emptied_adapter_slot_is_the_base() -> None:
    config = parse_config(CONFIG)
    ours = Transformer(config, random_weights(config), 64, slots=1, adapters=2, rank=4)
    ids = ids_of(20)
    base = ours.all_logits(ids)
    ours.set_adapter(1, adapter_of(config, 1, 4), 1.0)
    assert np.abs(ours.all_logits(ids, 1) - base).max() > 0.1
    ours.set_adapter(1, None, 0.0)
    np.testing.assert_allclose(ours.all_logits(ids, 1), base, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(ours.all_logits(ids), base)


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


def test_bits_do_not_depend_on_how_a_prompt_is_cut() -> None:
    config = parse_config(CONFIG)
    ours = Transformer(config, random_weights(config), 192, slots=1, adapters=2, rank=4)
    ids = ids_of(130)
    whole = ours.all_logits(ids)
    for start, end in ((0, 5), (5, 6), (6, 70), (70, 71), (71, 130)):
        np.testing.assert_array_equal(ours.forward(0, start, ids[start:end], 0), whole[end - 1])
