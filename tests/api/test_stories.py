"""A published model of 260 thousand weights that knows no chat, served from a GGUF file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from homebox.model import load
from tests.api.box import Box, body
from tests.api.real import RealModel


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Iterator[Box]:
    file = shared / "data/gguf/stories260K-F16.gguf"
    model: Any = RealModel(load(str(file), slots=2, context=256))
    box = Box(tmp_path_factory.mktemp("stories") / "state", model)
    yield box
    box.close()


def complete(box: Box, prompt: Any, **fields: Any) -> Any:
    asked = {"model": "homebox", "prompt": prompt, "max_tokens": 24, "temperature": 0} | fields
    response = box.http.post("/v1/completions", json=asked)
    assert response.status_code == 200, response.text
    return response.json()


def test_it_tells_a_story_and_the_same_one_from_ids(box: Box) -> None:
    prompt = "Once upon a time"
    asked = {"content": prompt, "add_special": True}
    ids = box.http.post("/tokenize", json=asked).json()["tokens"]
    assert ids[0] == 1  # the begin of text
    first, same = complete(box, prompt), complete(box, ids)
    assert first["choices"][0]["text"] == same["choices"][0]["text"]
    assert first["usage"]["prompt_tokens"] == len(ids)
    assert "there was a little" in first["choices"][0]["text"]  # as every story of it begins
    both = complete(box, [prompt, "The sky is"])
    assert both["choices"][0]["text"] == first["choices"][0]["text"]


def test_a_chat_is_a_text_to_go_on_with(box: Box) -> None:
    asked = body("Once upon a time", max_tokens=24, temperature=0)
    answer = box.http.post("/v1/chat/completions", json=asked).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["choices"][0]["message"]["content"]
    prompt = box.http.post("/apply-template", json=asked).json()["prompt"]
    assert "Once upon a time" in prompt


def test_pieces_that_are_no_text(box: Box) -> None:
    """What the small vocabulary has no token for is made of single bytes."""
    text = "a string with 媽 and 🤗"
    asked = {"content": text, "with_pieces": True}
    pieces = [each["piece"] for each in box.http.post("/tokenize", json=asked).json()["tokens"]]
    single = [piece for piece in pieces if isinstance(piece, list)]
    assert [byte for piece in single for byte in piece] == list("媽🤗".encode())
    joined = b"".join(p.encode() if isinstance(p, str) else bytes(p) for p in pieces)
    assert joined.decode().strip() == text
    form = {"type": "regex", "regex": "媽🤗"}
    chosen = complete(box, "The", response_format=form)["choices"][0]
    assert (chosen["text"], chosen["finish_reason"]) == ("媽🤗", "stop")
