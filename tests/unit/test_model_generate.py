"""Models, sequences and adapters over the numpy decoder, which published weights vouch for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homebox.errors import (
    BusyError,
    ContextLengthError,
    EngineError,
    ModelFormatError,
    ModelNotFoundError,
    NoFreeSlotError,
    RequestError,
    UsageError,
)
from homebox.model import GenerationRequest, Model, Piece, SamplingParams, Sequence
from homebox.model.generation.generate import text_of
from homebox.model.generation.stepping import Pace
from homebox.model.loading.loader import load_directory
from homebox.model.lora import init_adapter
from tests.unit.model_files import write_model
from tests.unit.reference_llama import ReferenceLlama


class Scripted:
    """A transformer that says given tokens; `V` is the vocabulary."""

    prefill_chunk = 4
    shared_chunk = 2

    def __init__(self, vocab: int, says: list[int]) -> None:
        self.vocab, self.says, self.count = vocab, says, 0
        self.calls: list[tuple[int, int, list[int], int]] = []
        self.adapters: list[tuple[int, bool, float]] = []
        self.released: list[int] = []

    def forward(self, slot: int, position: int, ids: Any, adapter: int) -> Any:
        self.calls.append((slot, position, ids.tolist(), adapter))
        logits = np.zeros(self.vocab, np.float32)
        logits[self.says[min(self.count, len(self.says) - 1)]] = 9.0
        self.count += len(ids) == 1 or position + len(ids) >= 5
        return logits

    def decode(self, slots: Any, ids: Any, positions: Any, adapters: Any) -> Any:
        rows = zip(slots, ids, positions, adapters, strict=True)
        return np.stack([self.forward(s, p, np.array([i]), a) for s, i, p, a in rows])

    def prepare(self) -> bool:
        return False

    def truncate(self, slot: int, length: int) -> None:
        pass

    def release(self, slot: int) -> None:
        self.released.append(slot)

    def all_logits(self, ids: Any, adapter: int = 0) -> Any:
        return np.zeros((len(ids), self.vocab), np.float32)

    def set_adapter(self, index: int, tensors: Any, scale: float) -> None:
        self.adapters.append((index, tensors is not None, scale))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    write_model(path)
    return path


@pytest.fixture
def model(directory: Path) -> Model:
    loaded = load_directory(directory)
    return Model("m", loaded, ReferenceLlama(loaded.config, loaded.weights, 64), 64, slots=3)


def scripted(directory: Path, answer: str, marks: tuple[str, ...] = ()) -> tuple[Model, Scripted]:
    """Return a model that answers `answer` and then the marks."""
    loaded = load_directory(directory)
    says = loaded.tokenizer.encode(answer) + [loaded.tokenizer.special[mark] for mark in marks]
    transformer = Scripted(loaded.config.vocab_size, says)
    model = Model("s", loaded, transformer, 64)
    model.speculation.on = False  # it says a word for each call
    return model, transformer


PROMPT = [50, 60, 70, 80, 90]


def pieces(model: Model, **sampling: Any) -> list[Piece]:
    prompt = [*PROMPT[:-1], model.tokenizer.special["<|assistant|>"]]
    return list(model.generate(prompt, SamplingParams(**sampling)))


def joined(parts: list[Piece]) -> str:
    return "".join(piece.text for piece in parts)


# Published weights


def test_the_numpy_decoder_gives_the_published_answers(shared: Path) -> None:
    folder = shared / "data/weights/stories260K"
    loaded = load_directory(folder)
    model = Model("stories", loaded, ReferenceLlama(loaded.config, loaded.weights, 512), 512)
    for case in json.loads((folder / "reference.json").read_text())["cases"]:
        prompt = case["prompt_ids"]
        assert model.tokenizer.encode(case["prompt"]) == prompt
        assert [1, *model.tokenizer.encode(case["prompt"], add_special=False)] == prompt
        assert model.chat.render([{"role": "user", "content": case["prompt"]}]) == prompt
        count = len(case["greedy_ids"]) - len(prompt)
        parts = list(model.generate(prompt, SamplingParams(max_tokens=count)))
        ids = [index for piece in parts for index in piece.token_ids]
        assert prompt + ids == case["greedy_ids"]
        assert case["prompt"] + joined(parts) == case["text"]
        logits = model.logits(prompt)
        np.testing.assert_allclose(logits[-1], case["last_logits"], rtol=0, atol=1e-4)


# Sequences


def test_prompt_is_taken_in_chunks_then_one_token_a_step(directory: Path) -> None:
    model, transformer = scripted(directory, "the fish")
    sequence = model.start(GenerationRequest(PROMPT, SamplingParams(max_tokens=3)))
    assert sequence.step() is None
    assert sequence.prefilled == 4
    first = sequence.step()
    assert first is not None
    assert len(first.token_ids) == 1
    sequence.step()
    positions = [(position, len(ids)) for _, position, ids, _ in transformer.calls]
    assert positions == [(0, 4), (4, 1), (5, 1)]
    assert transformer.calls[2][2] == list(first.token_ids)
    assert (sequence.prompt_tokens, sequence.completion_tokens) == (5, 2)


def test_chunked_prefill_equals_one_pass(model: Model) -> None:
    ids = [int(value) for value in np.random.default_rng(0).integers(0, 400, 40)]
    logits = model.logits(ids)
    sequence = model.start(GenerationRequest(ids, SamplingParams(max_tokens=8)))
    got: list[int] = []
    while not sequence.finished:
        piece = sequence.step()
        got += piece.token_ids if piece else ()
    assert got[0] == int(np.argmax(logits[-1]))
    whole = list(ids)
    for index in got:
        assert int(np.argmax(model.logits(whole)[-1])) == index
        whole.append(index)


def test_the_end_mark_stops_and_is_counted(directory: Path) -> None:
    model, _ = scripted(directory, "the fish swims", ("<|end|>",))
    parts = pieces(model)
    assert joined(parts) == "the fish swims"
    assert parts[-1].finish_reason == "stop"
    assert all(piece.finish_reason is None for piece in parts[:-1])
    assert parts[-1].token_ids == (model.tokenizer.special["<|end|>"],)


def test_a_role_mark_stops_too(directory: Path) -> None:
    model, _ = scripted(directory, "the fish", ("<|user|>",))
    assert joined(pieces(model)) == "the fish"


def test_tool_calls_are_shown(directory: Path) -> None:
    model, transformer = scripted(directory, "x")
    text = "<tool_call> get_time city: Oslo</tool_call>"
    transformer.says = [*model.tokenizer.encode_answer(text), model.tokenizer.special["<|end|>"]]
    assert joined(pieces(model)) == text


def test_max_tokens_is_a_length(directory: Path) -> None:
    model, _ = scripted(directory, "the fish swims the fish swims")
    for count in range(1, 5):
        parts = pieces(model, max_tokens=count)
        model.transformer.count = 0  # type: ignore[attr-defined]
        assert sum(len(piece.token_ids) for piece in parts) == count
        assert parts[-1].finish_reason == "length"


def test_a_full_context_is_a_length(directory: Path) -> None:
    model, _ = scripted(directory, "fish")
    parts = pieces(model)
    assert parts[-1].finish_reason == "length"
    assert sum(len(piece.token_ids) for piece in parts) == 64 - len(PROMPT)


@pytest.mark.parametrize("stop", ["fish", "sh sw", "swims", " ", "🎣", "s named"])
def test_stop_texts_across_tokens(directory: Path, stop: str) -> None:
    text = "the fish swims 🎣 named"
    model, _ = scripted(directory, text, ("<|end|>",))
    parts = pieces(model, stop=(stop,))
    assert joined(parts) == text.split(stop)[0]
    assert parts[-1].finish_reason == "stop"


def test_held_back_text_comes_at_the_end(directory: Path) -> None:
    model, _ = scripted(directory, "the fish", ("<|end|>",))
    assert joined(pieces(model, stop=("fishes",))) == "the fish"
    model, _ = scripted(directory, "the fish")
    count = len(model.tokenizer.encode("the fish"))
    assert joined(pieces(model, stop=("fishes",), max_tokens=count)) == "the fish"


def test_characters_are_never_cut(directory: Path) -> None:
    text = "日本 🎣🎣 é"
    model, _ = scripted(directory, text, ("<|end|>",))
    parts = pieces(model)
    assert joined(parts) == text
    assert not any("\ufffd" in piece.text for piece in parts)
    count = len(model.tokenizer.encode("日本 🎣")) - 1
    model, _ = scripted(directory, text)
    cut = pieces(model, max_tokens=count)
    assert joined(cut) == "日本 \ufffd"


def test_text_after_a_mark_loses_its_first_space_and_a_continuation_keeps_it(
    directory: Path,
) -> None:
    model, _ = scripted(directory, "fish", ("<|end|>",))
    assert joined(pieces(model)) == "fish"
    model, _ = scripted(directory, "fish", ("<|end|>",))
    ids = [*PROMPT[:-1], model.tokenizer.encode("the")[-1]]
    assert text_of(model.start(GenerationRequest(ids, SamplingParams()))) == " fish"


@pytest.mark.parametrize("ids", [[], [-1], [400], [3, 1 << 40]])
def test_prompts_that_cannot_be_are_refused(model: Model, ids: list[int]) -> None:
    with pytest.raises(RequestError):
        model.start(GenerationRequest(ids, SamplingParams()))
    with pytest.raises(RequestError):
        model.logits(ids)


def test_a_prompt_that_fills_the_context_is_refused(model: Model) -> None:
    with pytest.raises(ContextLengthError, match=r"64 tokens.*resulted in 64 tokens"):
        model.start(GenerationRequest([5] * 64, SamplingParams()))
    assert model.logits([5] * 64).shape == (64, 400)
    with pytest.raises(ContextLengthError):
        model.logits([5] * 65)


def test_the_same_seed_gives_the_same_answer(model: Model) -> None:
    sampling = SamplingParams(temperature=1.5, seed=3, max_tokens=20)
    assert list(model.generate(PROMPT, sampling)) == list(model.generate(PROMPT, sampling))


# Slots and adapters


def test_slots_are_given_back_once(model: Model) -> None:
    running = [model.start(GenerationRequest(PROMPT, SamplingParams())) for _ in range(3)]
    with pytest.raises(NoFreeSlotError):
        model.start(GenerationRequest(PROMPT, SamplingParams()))
    running[1].close()
    running[1].close()
    assert running[1].finished
    assert running[1].step() is None
    model.start(GenerationRequest(PROMPT, SamplingParams()))
    with pytest.raises(NoFreeSlotError):
        model.start(GenerationRequest(PROMPT, SamplingParams()))


def test_leaving_a_generation_early_frees_its_slot(model: Model) -> None:
    for _ in range(5):
        generation = model.generate(PROMPT, SamplingParams())
        next(generation)
        generation.close()
    for _ in range(5):
        list(model.generate(PROMPT, SamplingParams(max_tokens=2)))


def test_an_engine_error_frees_the_slot(directory: Path) -> None:
    model, transformer = scripted(directory, "x")
    transformer.forward = lambda *_: np.full(400, np.nan, np.float32)  # type: ignore[method-assign, assignment, misc]
    for _ in range(10):
        with pytest.raises(EngineError):
            list(model.generate(PROMPT[:3], SamplingParams()))


def test_sequences_in_turns_do_not_disturb_each_other(model: Model) -> None:
    prompts = [[5, 6, 7], [8] * 20, [9, 10]]
    sampling = SamplingParams(max_tokens=10)
    alone = [list(model.generate(prompt, sampling)) for prompt in prompts]
    running = [model.start(GenerationRequest(prompt, sampling)) for prompt in prompts]
    found: list[list[Piece]] = [[], [], []]
    while not all(sequence.finished for sequence in running):
        for number, sequence in enumerate(running):
            piece = sequence.step()
            found[number] += [piece] if piece else []
    assert found == alone


def test_sequences_stepped_together_say_what_they_say_alone(model: Model) -> None:
    prompts = [[5, 6, 7], [8] * 40, [9, 10]]
    sampling = SamplingParams(max_tokens=10, temperature=1.0, seed=3)
    alone = [list(model.generate(prompt, sampling)) for prompt in prompts]
    running = [model.start(GenerationRequest(prompt, sampling)) for prompt in prompts]
    found: list[list[Piece]] = [[], [], []]
    while not all(sequence.finished for sequence in running):
        for number, outcome in enumerate(model.step(running)):
            assert not isinstance(outcome, Exception)
            found[number] += [outcome] if outcome else []
    assert found == alone


def test_a_step_decodes_all_and_reads_one_chunk(directory: Path) -> None:
    model, transformer = scripted(directory, "the fish swims")
    model.pace = Pace(seconds=0.0)  # any chunk takes too long
    first, second = (model.start(GenerationRequest([50, 60], SamplingParams())) for _ in range(2))
    model.step([first])
    model.step([first, second])
    long = [model.start(GenerationRequest([50] * 9, SamplingParams())) for _ in range(2)]
    batches: list[Any] = []
    decode = transformer.decode
    transformer.decode = lambda *rows: batches.append(rows[0]) or decode(*rows)  # type: ignore[method-assign, func-returns-value]
    model.step([*long, first, second])
    assert [len(batch) for batch in batches] == [2]
    # A chunk is small while others wait for their tokens, and large when nobody does.
    assert [each.prefilled for each in long] == [1, 0]
    first.close()
    second.close()
    assert sorted(transformer.released) == sorted(batches[0])
    model.step(long)
    assert [each.prefilled for each in long] == [5, 0]


def test_a_step_that_breaks_ends_its_sequences_only(directory: Path) -> None:
    model, transformer = scripted(directory, "the fish swims")
    writing, reading = (
        model.start(GenerationRequest(prompt, SamplingParams())) for prompt in ([50], [50] * 9)
    )
    model.step([writing])

    def fail(*_: Any) -> Any:
        raise EngineError("the device is gone")

    transformer.decode = fail  # type: ignore[method-assign]
    broken, outcome = model.step([writing, reading])
    assert isinstance(broken, EngineError)
    assert outcome is None
    assert writing.finished
    assert not reading.finished
    assert model.step([writing]) == [None]


def adapter(model: Model, seed: int, size: float = 0.5) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    return {
        name: array
        if name.endswith("A")
        else (size * generator.standard_normal(array.shape)).astype(np.float32)
        for name, array in init_adapter(model.config, 4, seed).items()
    }


def test_adapters_change_answers_and_leave_the_base_alone(model: Model) -> None:
    before = model.logits(PROMPT)
    model.adapters.add("one", adapter(model, 1))
    model.adapters.add("two", adapter(model, 2))
    model.adapters.add("zero", init_adapter(model.config, 4, 3))
    assert model.adapters.names() == ["one", "two", "zero"]
    np.testing.assert_array_equal(model.logits(PROMPT), before)
    np.testing.assert_allclose(model.logits(PROMPT, "zero"), before, atol=1e-6)
    assert np.abs(model.logits(PROMPT, "one") - before).max() > 0.1
    assert np.abs(model.logits(PROMPT, "one") - model.logits(PROMPT, "two")).max() > 0.1


def test_scale_is_alpha_over_rank(directory: Path) -> None:
    model, transformer = scripted(directory, "x")
    model.adapters.add("a", init_adapter(model.config, 4, 0), alpha=16.0)
    assert transformer.adapters == [(1, True, 4.0)]


def test_a_sequence_keeps_its_adapter_until_it_ends(model: Model) -> None:
    model.adapters.add("old", adapter(model, 1))
    alone = list(model.generate(PROMPT, SamplingParams(max_tokens=12), "old"))
    sequence: Sequence = model.start(
        GenerationRequest(PROMPT, SamplingParams(max_tokens=12), "old")
    )
    found = [sequence.step()]
    model.adapters.remove("old")
    with pytest.raises(ModelNotFoundError, match="old"):
        model.start(GenerationRequest(PROMPT, SamplingParams(), "old"))
    for number in range(6):
        model.adapters.add(f"new {number}", adapter(model, 10 + number))
    with pytest.raises(BusyError, match="no place"):
        model.adapters.add("one too many", adapter(model, 20))
    while not sequence.finished:
        found.append(sequence.step())
    assert [piece for piece in found if piece] == alone
    model.adapters.add("now there is a place", adapter(model, 20))


def test_adapter_names_and_tensors_are_checked(model: Model) -> None:
    model.adapters.add("a", adapter(model, 1))
    for name in ("a", "base"):
        with pytest.raises(UsageError, match="resident"):
            model.adapters.add(name, adapter(model, 1))
    with pytest.raises(ModelNotFoundError):
        model.adapters.remove("b")
    with pytest.raises(ModelNotFoundError):
        model.adapters.remove("base")
    with pytest.raises(UsageError, match="rank 32"):
        model.adapters.add("b", init_adapter(model.config, 32, 0))
    with pytest.raises(ModelFormatError):
        model.adapters.add("b", {})
    with pytest.raises(ModelNotFoundError):
        model.logits(PROMPT, "nobody")
    assert model.adapters.names() == ["a"]


def test_adapter_places_are_used_again(model: Model) -> None:
    for number in range(20):
        model.adapters.add(str(number), adapter(model, number))
        model.adapters.remove(str(number))
    assert model.adapters.names() == []
