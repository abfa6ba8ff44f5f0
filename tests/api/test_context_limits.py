"""What does not fit is refused with numbers before anything is said; what fits may fill it all."""

from collections.abc import Iterator
from typing import Any

import pytest

from homebox.model import load
from tests.api.box import Box, body, events
from tests.api.real import RealModel

CONTEXT = 64
LONG = "What is the best book? " * 40


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    model: Any = RealModel(load("tiny", slots=2, context=CONTEXT))
    box = Box(tmp_path_factory.mktemp("limits") / "state", model)
    yield box
    box.close()


ENDPOINTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", body(LONG)),
    ("/v1/completions", {"model": "homebox", "prompt": LONG}),
    ("/v1/responses", {"model": "homebox", "input": LONG}),
    ("/v1/messages", body(LONG, max_tokens=5)),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "asked"), ENDPOINTS)
def test_too_long_a_question_is_refused_before_a_stream_begins(
    box: Box, path: str, asked: dict[str, Any], stream: bool
) -> None:
    rows = box.state.ledger.count()
    response = box.http.post(path, json=asked | {"stream": stream})
    assert response.status_code == 400
    assert response.headers["content-type"].startswith("application/json")
    message = response.json()["error"]["message"]
    content = {"content": LONG} if "prompt" in asked else {"messages": body(LONG)["messages"]}
    count = len(box.http.post("/tokenize", json=content | {"add_special": True}).json()["tokens"])
    assert str(CONTEXT) in message
    assert str(count) in message
    if path != "/v1/messages":
        assert response.json()["error"]["code"] == "context_length_exceeded"
    assert box.state.ledger.count() == rows


def test_too_long_a_text_is_not_embedded(box: Box) -> None:
    response = box.http.post("/v1/embeddings", json={"model": "homebox", "input": LONG})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


def endless(box: Box) -> dict[str, Any]:
    """Return fields by which an answer never ends of itself."""
    ends = box.model.model.stop_ids
    return {"logit_bias": {str(index): -100 for index in ends}, "temperature": 1.0, "seed": 1}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("most", [None, CONTEXT])
def test_an_answer_ends_where_the_context_does(box: Box, stream: bool, most: int | None) -> None:
    asked = body("Once upon a time", max_tokens=most, **endless(box))
    if stream:
        more = {"stream": True, "stream_options": {"include_usage": True}}
        with box.http.stream("POST", "/v1/chat/completions", json=asked | more) as response:
            *chunks, last, done = events(response)
        assert done == "[DONE]"
        usage, reason = last["usage"], chunks[-1]["choices"][0]["finish_reason"]
    else:
        answer = box.http.post("/v1/chat/completions", json=asked).json()
        usage, reason = answer["usage"], answer["choices"][0]["finish_reason"]
    assert reason == "length"
    assert usage["total_tokens"] == CONTEXT


@pytest.mark.parametrize("room", [0, 1, 2])
def test_the_last_places_of_a_context(box: Box, room: int) -> None:
    prompt = [box.model.tokenizer.encode("a")[-1]] * (CONTEXT - room)
    asked = {"model": "homebox", "prompt": prompt, "max_tokens": 9} | endless(box)
    response = box.http.post("/v1/completions", json=asked)
    if room == 0:
        assert response.status_code == 400
    else:
        answer = response.json()
        assert answer["usage"]["completion_tokens"] == room
        assert answer["choices"][0]["finish_reason"] == "length"


def test_many_full_contexts_one_after_the_other(box: Box) -> None:
    """Answers that fill their slots, with guesses past the end, leave room for the next ones."""
    for number in range(12):
        text = f"again and again and {number} again and again and"
        answer = box.chat(text, **endless(box) | {"temperature": 0}).json()
        assert answer["usage"]["total_tokens"] == CONTEXT


def test_sdk_names_for_ends(box: Box) -> None:
    """Each endpoint says in its own words that an answer was cut off."""
    asked = body("Once", max_tokens=3) | {"temperature": 0}
    message = box.http.post("/v1/messages", json=asked).json()
    assert message["stop_reason"] == "max_tokens"
    asked = {"model": "homebox", "input": "Once", "max_output_tokens": 3}
    response = box.http.post("/v1/responses", json=asked).json()
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
