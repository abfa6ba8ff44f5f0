"""The last hidden states, and embeddings made of them: values, bits, adapters, several devices."""

from pathlib import Path

import numpy as np
import pytest

from homebox.errors import ContextLengthError, NoFreeSlotError, RequestError
from homebox.model import load
from homebox.model.architectures.config_file import parse_config
from homebox.model.decoder.activations import Activations
from tests.parity import ours, reference
from tests.parity.cases import BY_NAME
from tests.parity.weights import write_directory
from tests.unit.model_files import CONFIG, random_weights
from tests.unit.reference_llama import ReferenceLlama
from tests.unit.test_model_transformer import BLOCKS, KINDS, adapter_of, ids_of, transformer
from tests.unit.test_stages import made, split

FAMILIES = ("llama", "granite", "gemma3", "gpt_oss", "olmo2", "qwen3_moe-mixed")


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_states_equal_the_numpy_decoder(kind: str) -> None:
    config = parse_config({**BLOCKS, "model_type": kind, "tie_word_embeddings": False})
    model = transformer(config)
    oracle = ReferenceLlama(config, random_weights(config), 192)
    oracle.set_adapter(1, adapter_of(config, 1, 8), 0.5)
    ids = ids_of(100)
    for adapter in (0, 1):
        found = model.hidden(ids, adapter)
        assert found.shape == (100, config.hidden_size)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, oracle.hidden(ids, adapter), rtol=0, atol=1e-4)
    assert model.hidden(ids[:0]).shape == (0, config.hidden_size)
    assert model.pages.free_pages == model.pages.count


@pytest.mark.parametrize("name", FAMILIES)
def test_the_head_makes_the_logits_of_transformers_of_them(name: str, tmp_path: Path) -> None:
    """The head has more rows than columns, so that no other states have these logits."""
    case = BY_NAME[name]
    known = reference.read(case)
    write_directory(tmp_path, case, known.tensors)
    model = ours.opened(tmp_path)
    states = model.transformer.hidden(np.array(known.ids, np.int32))[list(reference.ROWS)]
    head = model.weights["embed" if model.config.tied else "head"].astype(np.float64)
    assert np.linalg.matrix_rank(head) == model.config.hidden_size
    logits = states @ head.T * model.config.logit_scale
    if cap := model.config.logit_cap:
        logits = cap * np.tanh(logits / cap)
    assert np.abs(logits - known.logits).max() < 1e-4
    # Control: states before the last norm would be seen.
    assert np.abs(states * 1.01 @ head.T * model.config.logit_scale - known.logits).max() > 1e-4


@pytest.mark.parametrize(("form", "activations", "cache"), KINDS)
def test_a_row_has_the_same_bits_on_every_way(
    form: str, activations: Activations, cache: str
) -> None:
    one = made(None, BLOCKS, form, activations, cache)
    parts = made(split(1), BLOCKS, form, activations, cache)
    ids = ids_of(100)
    for adapter in (0, 1):
        wanted = one.hidden(ids, adapter)
        np.testing.assert_array_equal(parts.hidden(ids, adapter), wanted)
        for count in (1, 63, 65):
            np.testing.assert_array_equal(one.hidden(ids[:count], adapter), wanted[:count])
    assert not np.array_equal(one.hidden(ids, 1), one.hidden(ids, 0))
    # Layers without the head give hidden states in any case, and have one program for both.
    parts.all_logits(ids, 1)
    assert len(parts.stages[0].programs) == 2  # with the adapter and without
    assert len(parts.stages[1].programs) == 3


def test_running_sequences_are_not_disturbed() -> None:
    model = transformer(parse_config(CONFIG))
    ids = ids_of(40)
    wanted = model.all_logits(ids)
    model.forward(0, 0, ids[:30], 0)
    model.hidden(ids_of(100, 1))
    np.testing.assert_array_equal(model.forward(0, 30, ids[30:], 0), wanted[-1])


def test_an_embedding_is_the_mean_of_the_states() -> None:
    model = load("tiny")
    ids = model.tokenizer.encode("The quick brown fox jumps over the lazy dog, again and again.")
    found = model.embed(ids)
    states = model.transformer.hidden(np.array(ids, np.int32))
    assert found.shape == (model.config.hidden_size,)
    assert found.dtype == np.float32
    exact = states.astype(np.longdouble).mean(0)
    np.testing.assert_allclose(found, exact.astype(np.float64), rtol=2e-7, atol=1e-9)
    np.testing.assert_array_equal(found, model.embed(ids))
    np.testing.assert_array_equal(model.embed(ids[:1]), states[0])
    with pytest.raises(RequestError, match="empty"):
        model.embed([])
    with pytest.raises(RequestError, match="token ids"):
        model.embed([model.config.vocab_size])
    with pytest.raises(ContextLengthError):
        model.embed([1] * (model.context + 1))


def test_an_embedding_takes_a_slot_and_one_chunk_a_step() -> None:
    model = load("tiny", slots=1)
    ids = [5 + i % 50 for i in range(200)]
    states = model.transformer.hidden(np.array(ids, np.int32)).astype(np.float64)
    total = np.zeros(states.shape[1])
    for state in states:
        total += state
    steps = list(model.embedding(ids))
    assert steps[:-1] == [None, None, None]
    assert steps[-1] is not None
    assert np.array_equal(steps[-1], (total / 200).astype(np.float32))
    # Between its steps answers run; one that is left gives its slot back.
    begun = model.embedding(ids)
    assert next(begun) is None
    with pytest.raises(NoFreeSlotError):
        next(model.embedding(ids))
    begun.close()  # type: ignore[attr-defined]
    assert np.array_equal(model.embed(ids), steps[-1])
