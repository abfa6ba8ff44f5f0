"""Guessing ahead changes no answer by a bit: the built-in model, with and without."""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from homebox.errors import RequestError
from homebox.model import GenerationRequest, Model, Piece, SamplingParams, load
from homebox.model.generation import sequence as sequences
from homebox.model.generation.speculation import Drafter, Repetitions, Statistics
from homebox.model.guides import JsonSchema, Wanted, guide_for

PROMPTS = (
    "Say it again: the fish swims in the sea. The fish swims in the sea. The fish",
    "What is your name?",
    "one two three four five one two three four five one two",
    "aaaaaaaaaaaaaaaaaaaaaaaa",
)


@pytest.fixture(scope="module")
def model() -> Model:
    return load("tiny", context=512)


@dataclass
class OnlyEven:
    """Allows even ids, and knows what follows each third token."""

    count: int
    taken: list[int] = field(default_factory=list)

    def mask(self) -> Any:
        flags = np.zeros(-(-self.count // 32) * 32, np.uint8)
        flags[: self.count : 2] = 1
        if self.ahead():
            flags[:] = 0
            flags[self.ahead()[0]] = 1
        return np.packbits(flags, bitorder="little").view(np.uint32)

    def take(self, token: int) -> None:
        self.taken.append(token)
        if len(self.taken) == 25:
            raise RequestError("that was the last one", param="tools")

    def ahead(self) -> Sequence[int]:
        place = len(self.taken) % 7
        return [40, 42, 44][place - 3 :] if 3 <= place < 6 else []


def ids_of(model: Model, text: str) -> list[int]:
    return model.chat.render([{"role": "user", "content": text}])


def say(model: Model, requests: Sequence[GenerationRequest], on: bool) -> list[list[Any]]:
    """Return for each answer text, ids, likelihoods and end; an error as its text."""
    model.speculation.on = on
    running = [model.start(request) for request in requests]
    found: list[list[Piece]] = [[] for _ in running]
    errors = [""] * len(running)
    while not all(each.finished for each in running):
        for number, outcome in enumerate(model.step(running)):
            if isinstance(outcome, Exception):
                errors[number] = str(outcome)
            elif outcome is not None:
                found[number].append(outcome)
    return [
        [
            "".join(piece.text for piece in pieces),
            [index for piece in pieces for index in piece.token_ids],
            [each for piece in pieces for each in piece.logprobs],
            pieces[-1].finish_reason if pieces else None,
            running[number].completion_tokens,
            errors[number],
        ]
        for number, pieces in enumerate(found)
    ]


def requests(model: Model, seed: int) -> list[GenerationRequest]:
    """Return some answers that are wanted together, all different."""
    draw = random.Random(seed)
    out = []
    for _ in range(draw.choice((1, 1, 2, 3, 4, 5))):
        sampling = SamplingParams(
            max_tokens=draw.choice((1, 2, 9, 40)),
            temperature=draw.choice((0.0, 0.0, 0.3, 1.2)),
            top_p=draw.choice((1.0, 0.9)),
            top_k=draw.choice((0, 3)),
            repetition_penalty=draw.choice((1.0, 1.0, 1.2)),
            frequency_penalty=draw.choice((0.0, 0.0, -1.5, 0.5)),
            logit_bias=draw.choice(((), ((5, -100.0), (40, 3.0)))),
            logprobs=draw.choice((None, 0, 3)),
            seed=draw.getrandbits(32),
            stop=draw.choice(((), ("fish", "e s"), ("\n",))),
        )
        guide = OnlyEven(model.config.vocab_size) if draw.random() < 0.3 else None
        prompt = ids_of(model, draw.choice(PROMPTS))
        out.append(GenerationRequest(prompt, sampling, guide=guide))
    return out


SEEDS = range(40)


def test_answers_are_the_same_with_and_without(model: Model) -> None:
    before = (model.speculation.statistics.drafted, model.speculation.statistics.accepted)
    for seed in SEEDS:
        assert say(model, requests(model, seed), True) == say(model, requests(model, seed), False)
    drafted, accepted = (
        model.speculation.statistics.drafted - before[0],
        model.speculation.statistics.accepted - before[1],
    )
    assert drafted > accepted > 100  # right and wrong guesses were both there


SCHEMA = {
    "type": "object",
    "properties": {
        "identification": {"enum": ["the fish swims", "the fish sleeps"]},
        "occupation": {"type": "string", "maxLength": 12},
        "measurements": {"type": "array", "items": {"type": "integer"}, "maxItems": 4},
    },
    "required": ["identification", "occupation", "measurements"],
    "additionalProperties": False,
}


def test_short_numbers_in_weights_and_cache_change_nothing_of_that() -> None:
    model = load("tiny", context=512, kv="q8", weights="q8")
    for seed in range(100, 106):
        assert say(model, requests(model, seed), True) == say(model, requests(model, seed), False)
    assert model.speculation.statistics.accepted > 5


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_under_a_grammar_are_the_same_and_it_tells_what_must_come(
    model: Model, temperature: float
) -> None:
    counts = model.speculation.statistics

    def ask(on: bool) -> list[list[Any]]:
        wanted = Wanted(form=JsonSchema(SCHEMA))
        return say(
            model,
            [
                GenerationRequest(
                    ids_of(model, text),
                    SamplingParams(temperature=temperature, seed=seed, max_tokens=300, logprobs=1),
                    guide=guide_for(model.tokenizer, model.stop_ids, wanted),
                )
                for seed, text in enumerate(PROMPTS[:2])
            ],
            on,
        )

    plain = ask(False)
    before = counts.accepted
    assert ask(True) == plain
    assert counts.accepted - before >= 10  # names and quotation marks are known beforehand
    for text, _, _, reason, _, error in plain:
        assert (reason, error) == ("stop", "")
        assert list(json.loads(text)) == SCHEMA["required"]


def test_choices_with_seeds_say_among_others_what_they_say_alone(model: Model) -> None:
    params = SamplingParams(max_tokens=30, temperature=1.0, seed=11, logprobs=2)
    prompt = ids_of(model, PROMPTS[0])
    wanted = [GenerationRequest(prompt, params.for_choice(index)) for index in range(6)]
    together = say(model, wanted, True)
    assert together == [say(model, [each], True)[0] for each in wanted]
    assert len({each[0] for each in together}) > 3


def test_taking_every_guess_would_be_noticed(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(self: Any, logits: Any) -> Piece:
        pieces = []
        for row, wanted in zip(logits, [*self._drafts, None], strict=True):
            self._position += 1
            pieces.append(self._choose(row))
            if self.finished:
                break
            if wanted is not None:
                self._ids[-1] = wanted
        return sequences.joined(pieces)

    monkeypatch.setattr(sequences.Sequence, "answer", answer)
    different = sum(
        say(model, requests(model, seed), True) != say(model, requests(model, seed), False)
        for seed in range(12)
    )
    assert different > 0


def test_what_is_kept_of_a_slot_is_what_was_said(model: Model) -> None:
    """After an end inside of a guess the slot holds exactly what it tells, with the right bits."""
    prompt = ids_of(model, PROMPTS[0])
    for count in range(1, 24):
        model.speculation.on = True
        sequence = model.start(GenerationRequest(prompt, SamplingParams(max_tokens=count)))
        told: list[tuple[list[int], int]] = []

        def taken(ids: Sequence[int], told: Any = told, slot: int = sequence._slot) -> None:
            told.append((list(ids), model.transformer.pages.length(slot)))  # type: ignore[attr-defined]

        sequence._on_taken = taken
        ids: list[int] = []
        while not sequence.finished:
            piece = sequence.step()
            ids += piece.token_ids if piece else ()
        held, length = told[-1]
        assert held == [*prompt, *ids][: len(prompt) + len(ids) - 1]
        assert length == len(held)


# Repetitions


def longest(ids: list[int]) -> int:
    """Return the length of the longest match of the end of `ids` before its end, at most 16."""
    best = 0
    for place in range(len(ids) - 1):
        count = 0
        while count <= place and count < 16 and ids[place - count] == ids[len(ids) - 1 - count]:
            count += 1
        best = max(best, count)
    return best


def test_guesses_follow_a_longest_match() -> None:
    draw = random.Random(0)
    for _ in range(300):
        ids = [draw.randrange(4) for _ in range(draw.randrange(1, 30))]
        finder = Repetitions()
        cut = draw.randrange(len(ids))
        finder.extend(ids[:cut])
        finder.extend(ids[cut:])
        guessed, length = finder.following(5)
        if longest(ids) < 2:
            assert (guessed, length) == ([], 0)
        else:
            assert 2 <= length <= longest(ids)
            end = ids[-length:]
            places = [i for i in range(len(ids) - length) if ids[i : i + length] == end]
            assert any(
                guessed == [(ids + guessed)[i + length + j] for j in range(5)] for i in places
            )


def test_a_repetition_that_runs_goes_on() -> None:
    finder = Repetitions()
    finder.extend([9, 1, 2, 1, 2])
    assert finder.following(7) == ([1, 2, 1, 2, 1, 2, 1], 2)


def guesses_in(ids: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield (drafted, accepted) of each step of an answer that says `ids`."""
    known = [ids[0]]
    drafter = Drafter(known, Statistics())
    at = 1
    while at < len(ids):
        drafts = drafter.propose(7)
        right = 0
        while right < len(drafts) and at + right < len(ids) and drafts[right] == ids[at + right]:
            right += 1
        if drafts:
            drafter.settle(len(drafts), right)
        known.extend(ids[at : at + right + 1])
        at += right + 1
        yield len(drafts), right


def test_what_repeats_is_guessed_in_full_batches_and_what_does_not_hardly() -> None:
    draw = random.Random(1)
    page = [draw.randrange(1000) for _ in range(400)]
    steps = list(guesses_in([*page, 7, *page]))
    again = steps[len(page) :]
    assert len(again) < len(page) / 7  # eight tokens a step, nearly
    # Pairs repeat all the time here, but what follows them is by chance.
    noise = [draw.randrange(12) for _ in range(2000)]
    steps = list(guesses_in(noise))
    assert sum(drafted > 0 for drafted, _ in steps) < 0.1 * len(steps)
