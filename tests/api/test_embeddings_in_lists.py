"""Embeddings in lists: in their order, as if each were alone, and as long as the model has them."""

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from homebox.model import load
from tests.api.box import Box, body
from tests.api.real import RealModel

TEXTS = [
    "I believe the meaning of life is",
    "Write a joke about AI",
    "x",
    "a " * 253,
    "b " * 64,
    "I believe the meaning of life is",
]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    model: Any = RealModel(load("tiny", slots=2))
    box = Box(tmp_path_factory.mktemp("lists") / "state", model)
    yield box
    box.close()


def embedded(box: Box, given: Any) -> tuple[list[np.ndarray], int]:
    """Return the vectors of texts, float32, and how many tokens they have."""
    fields = {"model": "homebox", "input": given, "encoding_format": "base64"}
    response = box.http.post("/v1/embeddings", json=fields)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert [each["index"] for each in answer["data"]] == list(range(len(answer["data"])))
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"]
    data = [base64.b64decode(each["embedding"]) for each in answer["data"]]
    return [np.frombuffer(each, "<f4") for each in data], answer["usage"]["prompt_tokens"]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return [each.tobytes() for each in one] == [each.tobytes() for each in other]


def test_a_list_is_its_texts_in_their_order(box: Box) -> None:
    alone = [embedded(box, text) for text in TEXTS]
    together, count = embedded(box, TEXTS)
    assert same(together, [vector for (vector,), _ in alone])
    assert count == sum(tokens for _, tokens in alone)
    assert same(embedded(box, TEXTS[::-1])[0], together[::-1])
    ids = [box.model.tokenizer.encode(text) for text in TEXTS]
    assert same(embedded(box, ids)[0], together)
    assert same(embedded(box, [TEXTS[0], ids[1]])[0], together[:2])
    assert len({each.tobytes() for each in together}) == len(TEXTS) - 1


def test_answers_beside_them_change_nothing(box: Box) -> None:
    alone = embedded(box, TEXTS)[0]
    said = box.chat("Tell me about soup", temperature=0, max_tokens=40).json()["choices"]

    def work(number: int) -> bool:
        if number % 2:
            return same(embedded(box, TEXTS)[0], alone)
        fields = body("Tell me about soup", temperature=0, max_tokens=40)
        answer = box.http.post("/v1/chat/completions", json=fields).json()
        return bool(answer["choices"] == said)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))


def test_vectors_are_not_normalised(box: Box) -> None:
    lengths = [float(np.linalg.norm(each)) for each in embedded(box, TEXTS)[0]]
    assert all(abs(length - 1) > 0.1 for length in lengths)
    numbers = box.http.post("/v1/embeddings", json={"model": "homebox", "input": "x"}).json()
    vector = numbers["data"][0]["embedding"]
    assert np.float32(vector).tobytes() == embedded(box, "x")[0][0].tobytes()
    assert len(vector) == box.model.config.hidden_size
