"""Nothing of one key reaches another: two keys, one box, the built-in model, requests mixed."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from homebox.api.tokens import add_key, open_keys
from homebox.memory.state import open_state
from homebox.model import load
from homebox.model.generation.generate import text_of
from homebox.model.generation.request import GenerationRequest
from homebox.model.generation.sampling import SamplingParams
from homebox.model.prefixes.sharing import Prefixes, Space
from tests.api.box import Box, body
from tests.api.real import RealModel

TOPICS = ("soup", "bread", "Rex the dog", "the sea", "a red bicycle")
WORDS = "amber brook cedar delta ember fjord glade heath islet jetty knoll lagoon".split()


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    root = tmp_path / "state"
    open_state(root).close()
    return {name: add_key(root, name) for name in ("ann", "ben")}


@pytest.fixture
def box(tmp_path: Path, keys: dict[str, str]) -> Iterator[Box]:
    # So little memory for keys and values that pages change hands all the time.
    model: Any = RealModel(load("tiny", slots=3, kv_memory=24))
    box = Box(tmp_path / "state", model, keys=open_keys(tmp_path / "state"))
    yield box
    box.close()


def ask(box: Box, key: str, messages: list[dict[str, str]], **fields: Any) -> Any:
    request = body("", messages=messages, max_tokens=8, temperature=0.8, seed=5) | fields
    response = box.http.post(
        "/v1/chat/completions", json=request, headers={"authorization": f"Bearer {key}"}
    )
    assert response.status_code == 200, response.text
    return response.json()


def question(words: list[str]) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Remember these words well: {' '.join(words)}. " * 6}]


def cached(answer: Any) -> int:
    return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_the_words_of_one_key_are_not_there_for_another(box: Box, keys: dict[str, str]) -> None:
    messages = question(WORDS)
    first = ask(box, keys["ann"], messages)
    assert cached(first) == 0
    assert cached(ask(box, keys["ben"], messages)) == 0
    assert cached(ask(box, keys["ann"], messages)) > 64


def test_control_without_owners_words_are_shared(
    box: Box, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Prefixes, "space_of", lambda _, request: Space("all", request.adapter))
    messages = question(WORDS)
    ask(box, keys["ann"], messages)
    assert cached(ask(box, keys["ben"], messages)) > 64


def test_mixed_requests_are_answered_as_if_each_were_alone(box: Box, keys: dict[str, str]) -> None:
    dice = random.Random(17)
    asked: list[tuple[str, list[dict[str, str]]]] = []
    for _ in range(200):
        owner = dice.choice(["ann", "ben"])
        # Both say much of the same, so that there is a lot to mix up; a word tells whose it is.
        words = [owner, *dice.sample(WORDS, 2)] if dice.random() < 0.5 else dice.sample(WORDS, 3)
        asked.append((owner, question([dice.choice(TOPICS), *words])))
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda each: ask(box, keys[each[0]], each[1]), asked))
    texts = [answer["choices"][0]["message"]["content"] for answer in found]
    statistics = box.model.prefixes.statistics
    assert statistics.evictions > 20
    assert sum(cached(answer) > 0 for answer in found) > 20
    alone = RealModel(load("tiny", slots=1))
    alone.model.prefixes.enabled = False
    for (_, messages), text in list(zip(asked, texts, strict=True))[::5]:
        assert said(alone, messages) == text


def said(model: Any, messages: list[dict[str, str]]) -> str:
    prompt = model.prompt(messages)
    sampling = SamplingParams(max_tokens=8, temperature=0.8, seed=5)
    return text_of(model.start(GenerationRequest(prompt.ids, sampling)))
