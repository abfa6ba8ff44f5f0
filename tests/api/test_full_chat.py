"""Chat completions in full with a real model: choices, log-probabilities, forms, forced calls."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import numpy as np
import openai
import pytest

from homebox.model import load
from tests.api.box import Box, body, events, text_of
from tests.api.real import RealModel

ASKED: Any = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    model: Any = RealModel(load("tiny", slots=4))
    box = Box(tmp_path_factory.mktemp("full") / "state", model)
    yield box
    box.close()


@pytest.fixture
def client(box: Box) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{box.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(model="homebox", messages=ASKED, **more)


# -- log-probabilities ----------------------------------------------------------------------------


def test_log_probabilities_are_those_of_the_model(box: Box, client: openai.OpenAI) -> None:
    answer = ask(client, logprobs=True, top_logprobs=5, max_tokens=6, temperature=0)
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    model = box.model
    prompt = model.prompts[-1]
    logits = model.logits(prompt)[-1].astype(np.float64)
    expected = logits - logits.max() - math.log(np.exp(logits - logits.max()).sum())
    first = content[0]
    assert first.logprob == pytest.approx(expected.max(), abs=1e-9)
    assert len(first.top_logprobs) == 5
    likeliest = sorted(expected)[::-1][:5]
    assert [each.logprob for each in first.top_logprobs] == pytest.approx(likeliest, abs=1e-9)
    assert first.top_logprobs[0].token == first.token
    assert bytes(first.bytes).decode() == first.token
    likeliest_piece = model.tokenizer.piece_bytes(int(expected.argmax()))
    assert bytes(first.bytes) == likeliest_piece


def test_a_stream_carries_every_log_probability_once(box: Box, client: openai.OpenAI) -> None:
    options = {"logprobs": True, "top_logprobs": 2, "max_tokens": 12, "temperature": 0}
    whole = ask(client, **options).choices[0].logprobs.content
    parts = [
        each
        for chunk in ask(client, stream=True, **options)
        for choice in chunk.choices
        if choice.logprobs
        for each in choice.logprobs.content
    ]
    assert [each.model_dump() for each in parts] == [each.model_dump() for each in whole]


def test_top_logprobs_need_logprobs(box: Box) -> None:
    response = box.chat("hi", top_logprobs=2)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "top_logprobs")


# -- several choices, seeds, biases ---------------------------------------------------------------


def texts(answer: Any) -> list[str | None]:
    return [choice.message.content for choice in answer.choices]


def test_choices_have_seeds_of_their_own_and_can_be_had_again(
    box: Box, client: openai.OpenAI
) -> None:
    options = {"temperature": 2.0, "max_tokens": 12, "seed": 7}
    first, again = ask(client, n=4, **options), ask(client, n=4, **options)
    assert [choice.index for choice in first.choices] == [0, 1, 2, 3]
    assert texts(first) == texts(again)
    assert len(set(texts(first))) > 1
    # Alone or beside others, a seed gives the same answer; choice i has the seed of the first + i.
    assert texts(ask(client, **options)) == texts(first)[:1]
    assert texts(ask(client, **{**options, "seed": 9})) == texts(first)[2:3]
    assert (
        first.usage.completion_tokens
        == sum(
            len(box.state.ledger.turn(turn.id).token_ids)  # type: ignore[union-attr]
            for turn in list(box.state.ledger.turns())[-10:-6]
        )
    )


def test_a_stream_of_choices_is_the_whole_answer(box: Box, client: openai.OpenAI) -> None:
    options = {"n": 3, "temperature": 1.0, "max_tokens": 10, "seed": 3}
    whole = texts(ask(client, **options))
    said = {0: "", 1: "", 2: ""}
    roles, reasons = [], []
    for chunk in ask(client, stream=True, **options):
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
            roles += [choice.index] if choice.delta.role else []
            reasons += [choice.index] if choice.finish_reason else []
    assert [said[i] for i in range(3)] == whole
    assert sorted(roles) == sorted(reasons) == [0, 1, 2]


def test_a_bias_forbids_and_forces_tokens(box: Box, client: openai.OpenAI) -> None:
    usual = ask(client, max_tokens=1, temperature=0, logprobs=True, top_logprobs=2)
    first = usual.choices[0].logprobs.content[0]
    ids = {
        i: box.model.tokenizer.piece_bytes(i).decode("utf-8", "replace")
        for i in range(box.model.config.vocab_size)
    }
    token = next(i for i, text in ids.items() if text == first.token)
    other = ask(client, max_tokens=1, temperature=0, logit_bias={str(token): -100})
    assert texts(other) != texts(usual)
    forced = ask(client, max_tokens=3, temperature=0, logit_bias={str(token): 100})
    assert texts(forced) == [ids[token].lstrip() + ids[token] * 2]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias[]"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "regex"}}, "response_format.regex"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tool_choice": {"type": "magic"}}, "tool_choice"),
        ({"reasoning_budget": -1}, "reasoning_budget"),
    ],
)
def test_what_cannot_be_is_refused_by_name(box: Box, fields: Any, param: str) -> None:
    response = box.chat("hi", **fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


# -- forms ----------------------------------------------------------------------------------------

FRUIT = {
    "type": "object",
    "properties": {
        "fruit": {"type": "string", "maxLength": 12},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["fruit", "count"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_schema_holds(box: Box, client: openai.OpenAI, temperature: float) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "f", "schema": FRUIT}}
    answer = ask(client, response_format=form, max_tokens=100, temperature=temperature, seed=1)
    assert answer.choices[0].finish_reason == "stop"
    jsonschema_rs.validate(FRUIT, json.loads(answer.choices[0].message.content))
    free = ask(client, max_tokens=100, temperature=temperature, seed=1)
    with pytest.raises(ValueError):  # the control: nothing held it
        json.loads(free.choices[0].message.content)


def test_a_regular_expression_and_a_grammar_hold(box: Box) -> None:
    pattern = r"[a-c]{3}-[0-9]{2}"
    answer = box.chat("hi", response_format={"type": "regex", "regex": pattern}).json()
    assert re.fullmatch(pattern, answer["choices"][0]["message"]["content"])
    grammar = 'start: "yes" | "no"'
    answer = box.chat("hi", response_format={"type": "lark", "lark": grammar}).json()
    assert answer["choices"][0]["message"]["content"] in ("yes", "no")


def test_a_keyword_that_cannot_be_honoured_is_refused(box: Box) -> None:
    schema = {"type": "object", "not": {"required": ["a"]}}
    form = {"type": "json_schema", "json_schema": {"name": "f", "strict": True, "schema": schema}}
    response = box.chat("hi", response_format=form)
    assert response.status_code == 400
    assert "not" in response.json()["error"]["message"]


# -- calls that must come -------------------------------------------------------------------------

TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": FRUIT, "strict": True}}
    for name in ("buy", "sell")
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["required", "sell"])
def test_a_call_that_must_come_comes(
    box: Box, client: openai.OpenAI, choice: str, stream: bool
) -> None:
    chosen: Any = choice
    if choice != "required":
        chosen = {"type": "function", "function": {"name": choice}}
    options = {"tools": TOOLS, "tool_choice": chosen, "max_tokens": 200, "temperature": 0}
    if stream:
        names, texts, reasons = [], [], []
        for chunk in ask(client, stream=True, parallel_tool_calls=False, **options):
            for part in chunk.choices:
                reasons.append(part.finish_reason)
                for call in part.delta.tool_calls or []:
                    names.append(call.function.name)
                    texts.append(call.function.arguments or "")
        name, arguments, reason = names[0], "".join(texts), reasons[-1]
    else:
        (found,) = ask(client, parallel_tool_calls=False, **options).choices
        (call,) = found.message.tool_calls
        name, arguments, reason = call.function.name, call.function.arguments, found.finish_reason
    assert reason == "tool_calls"
    assert name in ("buy", "sell") if choice == "required" else name == choice
    jsonschema_rs.validate(FRUIT, json.loads(arguments))


# -- what is shared -------------------------------------------------------------------------------


def test_a_conversation_that_goes_on_is_read_from_the_cache(box: Box) -> None:
    history = [{"role": "user", "content": "Tell me about soup. " * 20}]
    first = box.http.post(
        "/v1/chat/completions", json=body("", messages=history, max_tokens=20)
    ).json()
    history += [first["choices"][0]["message"], {"role": "user", "content": "And bread?"}]
    history[1] = {"role": "assistant", "content": history[1]["content"]}
    again = box.http.post(
        "/v1/chat/completions", json=body("", messages=history, max_tokens=20)
    ).json()
    usage = again["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] >= first["usage"]["prompt_tokens"]
    box.engine.call(box.model.prefixes.clear).result(30)
    cold = box.http.post(
        "/v1/chat/completions", json=body("", messages=history, max_tokens=20)
    ).json()
    assert cold["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert again["choices"] == cold["choices"]


def test_a_stream_says_how_many_tokens_there_were(box: Box) -> None:
    request = body("hello", stream=True, stream_options={"include_usage": True}, max_tokens=5)
    with box.http.stream("POST", "/v1/chat/completions", json=request) as response:
        found = events(response)
    assert found[-1] == "[DONE]"
    usage = found[-2]["usage"]
    assert found[-2]["choices"] == []
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 0}
    assert text_of(found)
