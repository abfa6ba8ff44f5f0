"""Embeddings, tokens, templates, feedback, readiness and metrics, with the built-in model."""

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from homebox.memory.feedback import Feedback
from homebox.model import load
from tests.api.box import Box
from tests.api.conftest import MakeBox
from tests.api.real import RealModel


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    model: Any = RealModel(load("tiny", slots=2))
    box = Box(tmp_path_factory.mktemp("small") / "state", model)
    yield box
    box.close()


def told(box: Box, path: str, **body: Any) -> Any:
    response = box.http.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def refused(box: Box, path: str, **body: Any) -> tuple[int, str | None]:
    response = box.http.post(path, json=body)
    return response.status_code, response.json()["error"]["param"]


# -- embeddings -----------------------------------------------------------------------------------


def test_embeddings_are_means_of_hidden_states(box: Box) -> None:
    texts = ["My dog is called Rex.", "soup"]
    with openai.OpenAI(base_url=f"{box.url}/v1", api_key="any", max_retries=0) as client:
        plain = client.embeddings.create(model="homebox", input=texts, encoding_format="float")
        packed = client.embeddings.create(model="homebox", input=texts)
    for text, one, other in zip(texts, plain.data, packed.data, strict=True):
        ids = np.array(box.model.tokenizer.encode(text), np.int32)
        states = box.model.transformer.hidden(ids).astype(np.float64)
        expected = states.mean(0).astype(np.float32)
        assert one.embedding == pytest.approx(expected.tolist(), rel=1e-6, abs=1e-7)
        assert np.array_equal(np.float32(one.embedding), np.float32(other.embedding))
    count = sum(len(box.model.tokenizer.encode(text)) for text in texts)
    assert plain.usage.prompt_tokens == plain.usage.total_tokens == count
    assert [each.index for each in plain.data] == [0, 1]


def test_embeddings_of_ids_are_those_of_their_text(box: Box) -> None:
    ids = box.model.tokenizer.encode("hello there")
    one = told(box, "/v1/embeddings", input="hello there")["data"][0]["embedding"]
    for given in (ids, [ids], ["hello there"]):
        assert told(box, "/v1/embeddings", input=given)["data"][0]["embedding"] == one
    text = told(box, "/v1/embeddings", input=ids, encoding_format="base64")
    data = base64.b64decode(text["data"][0]["embedding"])
    assert np.frombuffer(data, "<f4").tolist() == one


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [[]]}, "input[0]"),
        ({"input": [1, "x"]}, "input"),
        ({"input": [10**9]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": {"a": 1}}, "input"),
        ({"input": "x", "dimensions": 3}, "dimensions"),
        ({"input": "x", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "word " * 10_000}, "input"),
        ({}, "input"),
    ],
)
def test_what_cannot_be_embedded_is_refused(box: Box, body: Any, param: str) -> None:
    assert refused(box, "/v1/embeddings", **body) == (400, param)


# -- tokens ---------------------------------------------------------------------------------------


def test_texts_become_ids_and_texts_again(box: Box) -> None:
    text = "Grüße, 世界! <|im_end|>"
    for name in ("content", "prompt", "text"):
        found = told(box, "/tokenize", **{name: text})
        assert found["tokens"] == box.model.tokenizer.encode(text, False)
        assert found["count"] == len(found["tokens"])
        assert found["max_model_len"] == box.model.context
    special = told(box, "/tokenize", content=text, add_special=True)["tokens"]
    assert special == box.model.tokenizer.encode(text)
    pieces = told(box, "/tokenize", content=text, with_pieces=True)["tokens"]
    joined = b"".join(
        bytes(each["piece"]) if isinstance(each["piece"], list) else each["piece"].encode()
        for each in pieces
    )
    assert joined.decode().lstrip() == text
    assert told(box, "/detokenize", tokens=found["tokens"])["content"] == text


def test_a_conversation_becomes_the_prompt_that_is_asked(box: Box) -> None:
    messages = [{"role": "user", "content": "hello"}]
    found = told(box, "/tokenize", messages=messages)
    assert box.chat("hello", max_tokens=1).json()["usage"]["prompt_tokens"] == found["count"]
    assert found["tokens"] == box.model.prompts[-1]
    prompt = told(box, "/apply-template", model="homebox", messages=messages)["prompt"]
    assert prompt == told(box, "/detokenize", tokens=found["tokens"])["content"]
    assert "hello" in prompt


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "content"),
        ("/tokenize", {"content": 3}, "content"),
        ("/tokenize", {"messages": [{"role": "user", "content": "x", "tool_calls": 1}]}, None),
        ("/detokenize", {"tokens": [10**7]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": "x"}, "tokens"),
        ("/apply-template", {"model": "homebox", "messages": []}, "messages"),
    ],
)
def test_wrong_bodies_are_named(box: Box, path: str, body: Any, param: str | None) -> None:
    status, named = refused(box, path, **body)
    assert status == 400
    assert param is None or named == param


# -- feedback -------------------------------------------------------------------------------------


def test_an_opinion_is_kept_and_the_latest_counts(box: Box) -> None:
    answer = box.chat("hello")
    turn = answer.headers["x-homebox-turn"]
    assert told(box, "/v1/feedback", turn=turn, rating="bad", text="too short")["turn"] == turn
    told(box, "/v1/feedback", turn=answer.json()["id"], rating="edited", text="Hi, Ann!")
    (kept,) = [each for each in box.state.ledger.feedback() if each.turn == turn]
    assert (kept.rating, kept.text) == ("edited", "Hi, Ann!")
    assert box.state.ledger.verify() >= 1  # the chain of turns is as it was
    box.state.ledger.erase(turn)
    assert [each for each in box.state.ledger.feedback() if each.turn == turn] == []
    assert refused(box, "/v1/feedback", turn=turn, rating="good") == (404, "turn")


def test_opinions_belong_to_owners_of_turns(box: Box) -> None:
    turn = box.chat("hello").headers["x-homebox-turn"]
    foreign = Feedback(turn, "good")
    with pytest.raises(Exception, match="there is no turn"):
        box.state.ledger.give_feedback("somebody else", foreign).result(10)
    assert box.state.ledger.give_feedback("", foreign).result(10) == turn


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"turn": "turn_" + "0" * 24, "rating": "good"}, (404, "turn")),
        ({"turn": "x", "rating": "good"}, (404, "turn")),
        ({"turn": "", "rating": "good"}, (400, "turn")),
        ({"turn": "x", "rating": "fine"}, (400, "rating")),
        ({"turn": "x", "rating": "edited"}, (400, "text")),
        ({"rating": "good"}, (400, "turn")),
    ],
)
def test_wrong_opinions_are_refused(box: Box, body: Any, expected: tuple[int, str]) -> None:
    assert refused(box, "/v1/feedback", **body) == expected


# -- readiness and metrics ------------------------------------------------------------------------


def samples(response: httpx.Response) -> dict[tuple[str, tuple[str, ...]], float]:
    found = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            found[sample.name, tuple(sample.labels.values())] = sample.value
    return found


def test_metrics_count_what_happened(box: Box) -> None:
    before = samples(box.http.get("/metrics"))
    usage = box.chat("Tell me about soup.", max_tokens=8).json()["usage"]
    box.http.post("/v1/chat/completions", content=b"{", headers={"content-type": "text/plain"})
    after = samples(box.http.get("/metrics"))

    def grew(name: str, *labels: str) -> float:
        return after[name, labels] - before.get((name, labels), 0.0)

    chat = "/v1/chat/completions"
    assert grew("homebox_requests_total", chat, "200") == 1
    assert grew("homebox_requests_total", chat, "400") == 1
    assert grew("homebox_tokens_total", "prompt") == usage["prompt_tokens"]
    assert grew("homebox_tokens_total", "completion") == usage["completion_tokens"]
    assert grew("homebox_time_to_first_token_seconds_count") == 1
    assert grew("homebox_inter_token_seconds_count") == usage["completion_tokens"] - 1
    assert after["homebox_up", ()] == 1
    assert after["homebox_answers_running", ()] == 0
    assert after["homebox_learning", ()] == 0
    assert not any("soup" in str(key) for key in after)  # nobody's words


def test_readiness_is_about_the_next_request(make_box: MakeBox) -> None:
    box = make_box()
    assert box.http.get("/ready").json() == {"status": "ready"}

    async def close() -> None:
        box.server.door.close()

    box.run(close())
    response = box.http.get("/ready")
    assert (response.status_code, response.json()["status"]) == (503, "switching")
    assert int(response.headers["retry-after"]) > 0
    assert box.http.get("/health").status_code == 200
    assert samples(box.http.get("/metrics"))["homebox_up", ()] == 0
