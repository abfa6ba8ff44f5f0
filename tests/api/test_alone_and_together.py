"""Answers are the same, to the bit, alone or among others, guessed ahead or not, cached or cold."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from homebox.model import load
from tests.api.box import Box, body, events
from tests.api.real import RealModel

SAMPLINGS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 1.0, "seed": 1},
    {"temperature": 1.6, "seed": 2, "top_k": 40},
    {"temperature": 1.0, "seed": 3, "top_p": 0.8, "presence_penalty": 1.5},
    {"temperature": 0.7, "seed": 4, "min_p": 0.05, "repetition_penalty": 1.3},
    {"temperature": 1.3, "seed": 5, "frequency_penalty": -1.0, "logit_bias": {"40": 3}},
    {"temperature": 0, "response_format": {"type": "regex", "regex": "(the cat sat, ){4}"}},
]
TEXTS = ["What is the best book?", "the cat sat on the mat, the cat sat on"]


def opened(folder: Any, slots: int, guess: bool) -> Box:
    model = load("tiny", slots=slots)
    model.speculation.on = guess
    served: Any = RealModel(model)
    return Box(folder / "state", served)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A box that answers one at a time and guesses nothing."""
    box = opened(tmp_path_factory.mktemp("single"), 1, False)
    yield box
    box.close()


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A box that answers four at a time and guesses ahead."""
    box = opened(tmp_path_factory.mktemp("several"), 4, True)
    yield box
    box.close()


def whole(box: Box, fields: dict[str, Any]) -> tuple[Any, ...]:
    """Return text, likelihoods, end and number of tokens of an answer."""
    response = box.http.post("/v1/chat/completions", json=fields)
    assert response.status_code == 200, response.text
    answer = response.json()
    choice = answer["choices"][0]
    return (
        choice["message"]["content"],
        choice["logprobs"]["content"],
        choice["finish_reason"],
        answer["usage"]["completion_tokens"],
    )


def streamed(box: Box, fields: dict[str, Any]) -> tuple[Any, ...]:
    """Return the same of an answer that comes as a stream, which must have its order."""
    more = {"stream": True, "stream_options": {"include_usage": True}}
    with box.http.stream("POST", "/v1/chat/completions", json=fields | more) as response:
        *chunks, last, done = events(response)
    assert (done, last["choices"]) == ("[DONE]", [])
    assert len({chunk["id"] for chunk in (*chunks, last)}) == 1
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"]["role"] == "assistant"
    assert all("role" not in choice["delta"] for choice in choices[1:])
    assert all(choice["finish_reason"] is None for choice in choices[:-1])
    likely = [each for one in choices if one["logprobs"] for each in one["logprobs"]["content"]]
    return (
        "".join(choice["delta"].get("content") or "" for choice in choices),
        likely,
        choices[-1]["finish_reason"],
        last["usage"]["completion_tokens"],
    )


def asked() -> list[dict[str, Any]]:
    options = {"max_tokens": 24, "logprobs": True, "top_logprobs": 3}
    return [body(text, **options, **fields) for text in TEXTS for fields in SAMPLINGS]


def test_alone_and_together_whole_and_streamed(single: Box, several: Box) -> None:
    alone = [whole(single, fields) for fields in asked()]
    before = several.model.speculation.statistics.accepted
    with ThreadPoolExecutor(len(alone)) as pool:
        together = list(pool.map(lambda fields: streamed(several, fields), asked()))
    assert together == alone
    assert several.model.speculation.statistics.accepted > before
    assert [streamed(single, fields) for fields in asked()[:3]] == alone[:3]
    # The control: samplings and texts make a difference.
    assert len({each[0] for each in alone}) > 4


def test_likelihoods_are_those_of_the_text(several: Box) -> None:
    for fields in asked()[:3]:
        text, likely, _, count = whole(several, fields)
        assert len(likely) == count
        said = b"".join(bytes(each["bytes"]) for each in likely)
        assert said.startswith(text.encode()) or said.lstrip().startswith(text.encode())
        assert all(each["logprob"] <= 0 and len(each["top_logprobs"]) == 3 for each in likely)


def test_seeds_tell_answers_apart(single: Box, several: Box) -> None:
    fields = [body("Tell me", temperature=1.5, max_tokens=16, seed=seed) for seed in range(6)]
    logged = [each | {"logprobs": True} for each in fields]
    texts = [whole(single, each)[0] for each in logged]
    assert len(set(texts)) > 2
    with ThreadPoolExecutor(12) as pool:
        again = list(pool.map(lambda each: whole(several, each)[0], logged * 2))
    assert again == texts * 2


# -- what is reused -------------------------------------------------------------------------------

SHARED = "Every morning the old fisherman rowed his boat past the harbour wall. " * 6
A = SHARED + "That day he caught a silver fish that spoke to him."
B = "A young clockmaker in a city far from the sea built machines. " * 6
C = SHARED + "But the wind tore the sails and the waves grew tall."


def complete(box: Box, prompt: str) -> tuple[str, int, int]:
    """Return an answer's text, and how many tokens its prompt has and found ready."""
    asked = {"model": "homebox", "prompt": prompt, "max_tokens": 8, "temperature": 0}
    answer = box.http.post("/v1/completions", json=asked).json()
    usage = answer["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return answer["choices"][0]["text"], usage["prompt_tokens"], cached


def test_one_slot_remembers_several_conversations(single: Box, several: Box) -> None:
    """A conversation is there after others, one of which begins like it, used its only slot."""
    first, length, cached = complete(single, A)
    assert cached <= 1  # the token that begins every text
    assert complete(single, B)[2] <= 1
    other, _, shared = complete(single, C)
    assert length // 2 < shared < length
    on = A + " He made his first wish with care."
    for prompt, least in ((A, length - 1), (on, length - 2), (C, shared), (on, length)):
        assert complete(single, prompt)[2] >= least
    # No answer depends on it: in the other box nothing of the first one is there.
    cold = complete(several, on)
    assert (cold[0], cold[2] <= 1) == (complete(single, on)[0], True)
    assert [complete(several, prompt)[0] for prompt in (A, C)] == [first, other]


def test_branches_of_one_beginning_live_side_by_side(single: Box, several: Box) -> None:
    begin = "You are a careful gardener and speak of plants only. " * 8
    branches = [begin + each for each in ("Roses?", "Tulips?", "Herbs?", "Trees?")]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda text: complete(several, text), branches))
    grown = [f"{text}{said} And then" for text, (said, _, _) in zip(branches, found, strict=True)]
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda text: complete(several, text), grown))
    for (_, length, _), (_, _, cached) in zip(found, again, strict=True):
        assert cached >= length - 1
    cold = [complete(single, text)[0] for text in reversed(grown)]
    assert [each[0] for each in reversed(again)] == cold


def test_metrics_count_what_was_reused(several: Box) -> None:
    def cached() -> float:
        text = several.http.get("/metrics").text
        samples = [s for each in text_string_to_metric_families(text) for s in each.samples]
        wanted = ("homebox_tokens_total", {"kind": "cached"})
        (found,) = [s.value for s in samples if (s.name, s.labels) == wanted]
        return found

    before = cached()
    counts = [complete(several, "Count what is there already. " * 9)[2] for _ in range(2)]
    assert counts[1] > 0
    assert cached() - before == sum(counts)


def test_a_refused_or_broken_off_question_spoils_nothing(single: Box) -> None:
    text, length, _ = complete(single, A)
    fields = body("x", stream=True, max_tokens=200, temperature=1.9)
    with single.http.stream("POST", "/v1/chat/completions", json=fields) as response:
        next(response.iter_lines())
    refused = single.http.post("/v1/completions", content=json.dumps({"prompt": A}))
    assert refused.status_code in (400, 415)
    said, _, cached = complete(single, A)
    assert (said, cached >= length - 1) == (text, True)
