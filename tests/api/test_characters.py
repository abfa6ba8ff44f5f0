"""Characters of several tokens: whole in every chunk of every stream, byte for byte in the end."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from homebox.model import load
from tests.api.box import Box, body
from tests.api.real import RealModel

TEXT = "naïve 媽媽 🤗👩‍👩‍👧 ﷽ é\u0301 fin"
FORM = {"type": "regex", "regex": TEXT}
SPOILT = "\ufffd"


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    model: Any = RealModel(load("tiny", slots=2))
    box = Box(tmp_path_factory.mktemp("characters") / "state", model)
    yield box
    box.close()


def chat(data: dict[str, Any]) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in data["choices"])


def completions(data: dict[str, Any]) -> str:
    return "".join(choice["text"] for choice in data["choices"])


def responses(data: dict[str, Any]) -> str:
    return str(data["delta"]) if data["type"] == "response.output_text.delta" else ""


def messages(data: dict[str, Any]) -> str:
    return str(data.get("delta", {}).get("text", ""))


ENDPOINTS: list[tuple[str, dict[str, Any], Callable[[dict[str, Any]], str]]] = [
    ("/v1/chat/completions", body("x", response_format=FORM), chat),
    (
        "/v1/completions",
        {"model": "homebox", "prompt": "x", "response_format": FORM, "max_tokens": 200},
        completions,
    ),
    ("/v1/responses", {"model": "homebox", "input": "x", "text": {"format": FORM}}, responses),
]


def pieces(
    box: Box, path: str, asked: dict[str, Any], read: Callable[[dict[str, Any]], str]
) -> list[str]:
    with box.http.stream("POST", path, json=asked | {"stream": True}) as response:
        assert response.status_code == 200, response.read()
        lines = [line for line in response.iter_lines() if line.startswith("data: {")]
    found = [read(json.loads(line.removeprefix("data: "))) for line in lines]
    return [piece for piece in found if piece]


@pytest.mark.parametrize(("path", "asked", "read"), ENDPOINTS)
def test_streams_never_cut_a_character(
    box: Box, path: str, asked: dict[str, Any], read: Callable[[dict[str, Any]], str]
) -> None:
    found = pieces(box, path, asked, read)
    assert "".join(found) == TEXT
    assert not any(SPOILT in piece for piece in found)
    assert len(found) > 1  # it came in pieces


def test_tokens_are_told_by_their_bytes(box: Box) -> None:
    answer = box.chat("x", response_format=FORM, logprobs=True).json()
    choice = answer["choices"][0]
    assert choice["message"]["content"] == TEXT
    likely = choice["logprobs"]["content"]
    assert b"".join(bytes(each["bytes"]) for each in likely).decode().strip() == TEXT
    assert any(SPOILT in each["token"] for each in likely)  # the control: some are no text


def test_an_answer_that_ends_inside_a_character(box: Box) -> None:
    """What is cut off is a beginning; only the character that the cut went through is spoilt."""
    whole = box.chat("x", response_format=FORM).json()["usage"]["completion_tokens"]
    spoilt = 0
    for most in range(1, whole, 3):
        asked = body("x", response_format=FORM, max_tokens=most)
        answer = box.http.post("/v1/chat/completions", json=asked).json()["choices"][0]
        text = answer["message"]["content"]
        assert answer["finish_reason"] == "length"
        assert TEXT.startswith(text.rstrip(SPOILT))
        assert "".join(pieces(box, "/v1/chat/completions", asked, chat)) == text
        spoilt += SPOILT in text
    assert spoilt


@pytest.mark.parametrize("stop", ["媽媽", "🤗", "👩‍👧", "\u0301", " fin"])
def test_stops_of_several_tokens(box: Box, stop: str) -> None:
    asked = body("x", response_format=FORM, stop=stop)
    answer = box.http.post("/v1/chat/completions", json=asked).json()["choices"][0]
    assert (answer["message"]["content"], answer["finish_reason"]) == (TEXT.split(stop)[0], "stop")
    assert "".join(pieces(box, "/v1/chat/completions", asked, chat)) == TEXT.split(stop)[0]


def test_stops_end_each_choice_by_itself(box: Box) -> None:
    asked = body("Tell me", n=4, temperature=1.8, seed=3, max_tokens=30)
    free = box.http.post("/v1/chat/completions", json=asked).json()["choices"]
    told = box.http.post("/v1/chat/completions", json=asked | {"stop": ["e", " t"]}).json()
    for without, held in zip(free, told["choices"], strict=True):
        text = without["message"]["content"]
        places = [place for place in (text.find("e"), text.find(" t")) if place >= 0]
        assert held["message"]["content"] == text[: min(places, default=len(text))]
        assert held["index"] == without["index"]


def test_pieces_of_tokens_are_their_bytes(box: Box) -> None:
    """Every token of the vocabulary has a piece: text, or bytes where it is no text by itself."""
    size = box.model.config.vocab_size
    ids = list(range(256, size, max(size // 97, 1)))
    found = box.http.post("/tokenize", json={"content": TEXT, "with_pieces": True}).json()
    kinds = {type(each["piece"]) for each in found["tokens"]}
    assert kinds == {str, list}
    data = b"".join(
        each["piece"].encode() if isinstance(each["piece"], str) else bytes(each["piece"])
        for each in found["tokens"]
    )
    assert data.decode().strip() == TEXT
    halves = [each["id"] for each in found["tokens"] if isinstance(each["piece"], list)]
    for given in ([index] for index in halves[:8]):
        text = box.http.post("/detokenize", json={"tokens": given}).json()["content"]
        assert set(text) <= {SPOILT, " "}
    text = box.http.post("/detokenize", json={"tokens": ids}).json()["content"]
    assert isinstance(text, str)
