"""The built-in model under guides: whatever it would rather say, it keeps to schemas and calls."""

import gc
import json
import random
import weakref
from collections.abc import Sequence
from typing import Any

import jsonschema_rs
import pytest

from homebox.model import Model, SamplingParams, load
from homebox.model.answers import CallArguments, CallBegins, parser_for
from homebox.model.generation.request import GenerationRequest
from homebox.model.generation.stepping import step_all
from homebox.model.guides import JsonSchema, Regex, Wanted
from homebox.model.guides.json_guard import tokens_of
from homebox.model.guides.vocabulary import vocabulary_of
from tests.null.guide_cases import TOOLS
from tests.null.random_schemas import random_schema

PROMPT = "<|assistant|>"
AT_ONCE = 8


@pytest.fixture(scope="module")
def model() -> Model:
    return load("tiny", context=512, slots=AT_ONCE)


def answers(
    model: Model,
    wants: Sequence[Wanted | None],
    most: int = 120,
    shown: frozenset[int] = frozenset(),
) -> list[str | None]:
    """Return the model's answers, several at a time; None for one that came to no end."""
    prompt = model.chat.render([{"role": "user", "content": "Say it as JSON."}])
    waiting = list(enumerate(wants))[::-1]
    texts: list[str | None] = [None] * len(wants)
    running: dict[int, tuple[Any, list[str]]] = {}
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            number, want = waiting.pop()
            sampling = SamplingParams(max_tokens=most, temperature=1.0, seed=number)
            guide = None if want is None else model.guide(want)
            running[number] = (model.start(GenerationRequest(prompt, sampling, guide=guide)), [])
        numbers = list(running)
        outcomes = step_all(model.transformer, [running[number][0] for number in numbers])
        for number, outcome in zip(numbers, outcomes, strict=True):
            if isinstance(outcome, Exception):
                raise outcome
            sequence, pieces = running[number]
            pieces.append(outcome.text if outcome else "")
            if sequence.finished:
                texts[number] = "".join(pieces) if sequence.finish_reason == "stop" else None
                del running[number]
    return texts


def check_schemas(model: Model, first: int, count: int) -> None:
    schemas = [random_schema(random.Random(number)) for number in range(first, first + count)]
    wants = [Wanted(form=JsonSchema(schema), prompt=PROMPT) for schema in schemas]
    ended = 0
    for schema, text in zip(schemas, answers(model, wants), strict=True):
        if text is not None:
            ended += 1
            assert jsonschema_rs.is_valid(schema, json.loads(text)), (schema, text)
    assert ended > 0.8 * count  # the others are longer than they may be


def test_answers_validate(model: Model) -> None:
    check_schemas(model, 0, 96)


@pytest.mark.whole
def test_a_thousand_answers_validate(model: Model) -> None:
    check_schemas(model, 0, 1_000)


def test_without_guides_they_do_not(model: Model) -> None:
    """The control."""
    for text in answers(model, [None] * 8, most=20):
        with pytest.raises(ValueError):
            json.loads(text or "{")


def test_what_guides_know_of_a_vocabulary_goes_with_its_model() -> None:
    there = load("tiny", context=64, slots=1)
    guide = there.guide(Wanted(form=JsonSchema({"type": "object"}), prompt=PROMPT))
    vocabulary = vocabulary_of(there.tokenizer, there.stop_ids, there.config.vocab_size)
    known = weakref.ref(vocabulary), weakref.ref(tokens_of(vocabulary))
    assert tokens_of(vocabulary) is known[1]()  # made once
    del guide, vocabulary
    gc.collect()
    assert None not in [each() for each in known]
    del there
    gc.collect()
    assert [each() for each in known] == [None, None]


def test_calls_of_the_built_in_model(model: Model) -> None:
    wants = [Wanted(tools=TOOLS, tool_choice="required", prompt=PROMPT) for _ in range(8)]
    wants += [Wanted(tools=TOOLS, tool_choice="get_weather", parallel=False, prompt=PROMPT)] * 8
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}
    found = 0
    for number, text in enumerate(answers(model, wants, most=200)):
        if text is None:
            continue
        parser = parser_for(model.tokenizer, TOOLS, PROMPT, eager=True)
        events = parser.feed(text) + parser.end()
        begins = [each for each in events if isinstance(each, CallBegins)]
        assert begins and (number < 8 or [each.name for each in begins] == ["get_weather"]), text
        for begin in begins:
            pieces = [e for e in events if isinstance(e, CallArguments) and e.index == begin.index]
            arguments = json.loads("".join(each.text for each in pieces))
            assert jsonschema_rs.is_valid(schemas[begin.name], arguments), text
            found += 1
    assert found >= 3  # the others are too long


def test_regular_expressions_are_exact(model: Model) -> None:
    """The vocabulary's blank before a first word, which is no part of the text, changes nothing."""
    patterns = ["yes|no", "[0-9]{3}-[0-9]{2}", " x", "Once upon"]
    wants = [Wanted(form=Regex(pattern), prompt=PROMPT) for pattern in patterns]
    texts = answers(model, wants)
    assert texts[0] in ("yes", "no") and texts[2:] == [" x", "Once upon"]
    assert texts[1] is not None and len(texts[1]) == 6 and texts[1][3] == "-"


def test_guesses_of_the_grammar_change_no_answer(model: Model) -> None:
    wants = [
        Wanted(form=JsonSchema(random_schema(random.Random(n))), prompt=PROMPT) for n in range(16)
    ]
    with_guesses = answers(model, wants)
    model.speculation.on, before = False, model.speculation.on
    try:
        assert answers(model, wants) == with_guesses
    finally:
        model.speculation.on = before
