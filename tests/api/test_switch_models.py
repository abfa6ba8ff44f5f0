"""Switching between real models: their answers, their adapters, and the memory they give back."""

import dataclasses
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from homebox.config import Config
from homebox.control import Client
from homebox.daemon import Box, running
from homebox.errors import ModelFormatError, OutOfDeviceMemoryError
from homebox.hosting.chosen import read_choice
from homebox.hub.catalogue import Catalogue
from homebox.hub.local import import_model
from homebox.learning.checkpoint import save_adapter, save_spec
from homebox.memory.manifest import LineageEntry
from homebox.memory.store import canonical_json
from homebox.memory.turns import now
from homebox.model.lora import adapter_shapes
from tests.api.box import body, events, text_of
from tests.api.test_daemon import config_for
from tests.api.test_load import wait_for
from tests.unit.model_files import CONFIG, write_model


@pytest.fixture
def stories(shared: Path) -> Path:
    return shared / "data" / "gguf" / "stories260K-F16.gguf"


def start(state: Path, **values: Any) -> Config:
    return config_for(state, **{"model.slots": 4} | values)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with running(start(tmp_path / "state")) as box:
        yield box


@pytest.fixture
def client(box: Box, tmp_path: Path) -> Client:
    return Client(tmp_path / "state")


def ask(box: Box, text: str, **fields: Any) -> str:
    fields = {"max_tokens": 12, "stream": True, **fields}
    url = f"{box.url}/v1/chat/completions"
    with httpx.stream(
        "POST", url, json=body(text, **fields), trust_env=False, timeout=120
    ) as response:
        assert response.status_code == 200, response.read()
        chunks = events(response)
        assert chunks[-1] == "[DONE]"
        assert chunks[-2]["choices"][0]["finish_reason"] in ("stop", "length")
        return text_of(chunks)


def learn(box: Box, seed: int) -> str:
    """Keep and serve an adapter of random numbers, as if it had been learned."""
    state, model = box.daemon.state, box.daemon.model
    dice = np.random.default_rng(seed)
    tensors = {
        name: dice.normal(0, 0.2, shape).astype(np.float32)
        for name, shape in adapter_shapes(model.config, 4).items()
    }
    job = save_spec(state.store, {"kind": "test", "recipe": {"alpha": 8.0}, "seed": seed})
    weights = save_adapter(state.store, model.base_hash, job, tensors)
    entry = LineageEntry(
        weights=weights,
        parent=state.lineage.head(model.base_hash),
        base=model.base_hash,
        ledger_root=state.ledger.root(),
        report=state.store.put(canonical_json({"seed": seed})),
        time=now(),
        reason=f"test {seed}",
        lessons=(),
    )
    state.lineage.promote(entry)
    Client(state.path).call("reload")
    return weights


def test_ten_streams_and_a_switch_there_and_back(box: Box, client: Client, stories: Path) -> None:
    alone = ask(box, "What is your name?", max_tokens=60)
    with ThreadPoolExecutor(16) as pool:

        def begin(count: int) -> "list[Future[str]]":
            options = {"max_tokens": 60}
            return [pool.submit(ask, box, "What is your name?", **options) for _ in range(count)]

        answers = begin(10)
        wait_for(lambda: client.call("status")["answering"] == 4)
        found = client.call("use", name=str(stories))
        assert (found["model"], found["context"]) == (stories.stem, 512)
        others = begin(2)
        assert client.call("use", name="tiny")["model"] == "tiny"
        assert [each.result(120) for each in answers] == [alone] * 10
        assert len({each.result(120) for each in others}) == 1
        assert others[0].result() != alone
    assert ask(box, "What is your name?", max_tokens=60) == alone


def test_each_base_keeps_what_it_learned(
    box: Box, client: Client, stories: Path, tmp_path: Path
) -> None:
    bare = ask(box, "Once")
    first, second = learn(box, 1), learn(box, 2)
    learned = ask(box, "Once")
    assert learned != bare
    small = tmp_path / "small"
    write_model(small, CONFIG)
    for path in (stories, small):
        found = client.call("use", name=str(path))
        assert found["weights"] == "base"
        assert "belongs to another base" in found["lines"][-1]
    of_small, bare_small = learn(box, 3), ask(box, "Once", model="base")
    learned_small = ask(box, "Once")
    assert learned_small != bare_small
    assert client.call("use", name="tiny")["weights"] == second
    assert ask(box, "Once") == learned
    assert ask(box, "Once", model="base") == bare
    assert client.call("rollback", name="previous", reason="test")["new"] == first
    before = ask(box, "Once")
    assert client.call("use", name=str(small))["weights"] == of_small
    assert ask(box, "Once") == learned_small
    assert client.call("use", name="tiny")["weights"] == first
    assert ask(box, "Once") == before


def test_short_memory_lets_the_old_model_go_first(tmp_path: Path, stories: Path) -> None:
    """A budget that holds tiny alone, but not with another one beside it."""
    with running(start(tmp_path / "a")) as box:
        alone = sum(box.daemon._hosting.about.taken.values())
    budget = (alone >> 20) + 2
    with running(start(tmp_path / "state", **{"model.memory": budget})) as box:
        client = Client(tmp_path / "state")
        said = ask(box, "Hello")
        found = client.call("use", name=str(stories))
        assert found["pause_s"] > 0
        assert ask(box, "Hello") != said
        assert client.call("use", name="tiny")["pause_s"] > 0
        assert ask(box, "Hello") == said
        assert client.call("status")["trouble"] == ""
    # The control: with room for both nobody waits.
    with running(start(tmp_path / "state", **{"model.memory": 8 * budget})) as box:
        assert Client(tmp_path / "state").call("use", name=str(stories))["pause_s"] == 0


def test_what_never_fits_is_refused_with_numbers(tmp_path: Path, stories: Path) -> None:
    config = start(tmp_path / "state", **{"model.memory": 20})
    with running(
        dataclasses.replace(config, model=dataclasses.replace(config.model, path=str(stories)))
    ) as box:
        with pytest.raises(OutOfDeviceMemoryError, match=r"needs .* MB.*model\.memory"):
            Client(tmp_path / "state").call("use", name="tiny")
        assert ask(box, "Hello")
        assert box.daemon.status()["model"] == stories.stem


def test_a_broken_file_leaves_the_old_model_serving(
    box: Box, client: Client, stories: Path, tmp_path: Path
) -> None:
    said = ask(box, "Hello")
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(stories.read_bytes()[:100_000])
    with pytest.raises(ModelFormatError, match=r"torn\.gguf"):
        client.call("use", name=str(torn))
    assert ask(box, "Hello") == said
    assert "torn.gguf" in client.call("status")["trouble"]
    assert read_choice(tmp_path / "state") is None


def test_status_says_what_serves(box: Box, client: Client, tmp_path: Path, stories: Path) -> None:
    weights = learn(box, 1)
    ask(box, "Hello")
    status = client.call("status")
    assert (status["model"], status["path"], status["type"]) == ("tiny", "tiny", "f32")
    assert (status["weights"], status["context"]) == (weights, 4096)
    assert status["learned"]["weights"] == weights
    memory = status["memory"]
    assert memory["weights"] > 10_000_000
    assert memory["adapters"] > 0
    assert memory["keys_and_values"] == 0 < memory["keys_and_values_most"]  # nobody talks
    assert memory["process"] > memory["weights"]
    client.call("use", name=str(stories))
    status = client.call("status")
    assert (status["model"], status["path"]) == (stories.stem, str(stories))
    assert (status["learned"], status["context"], status["memory"]["adapters"]) == (None, 512, 0)


def test_an_imported_model_is_used_by_its_name(
    box: Box, client: Client, tmp_path: Path, stories: Path
) -> None:
    catalogue = Catalogue(tmp_path / "state" / "models")
    entry = import_model(catalogue, stories, "stories", lambda *_: None).entry
    found = client.call("use", name="stories")
    assert (found["model"], found["base"]) == ("stories", entry.base)
    choice = read_choice(tmp_path / "state")
    assert choice is not None
    assert (choice.name, choice.before) == ("stories", "tiny")
    listed = httpx.get(f"{box.url}/v1/models", trust_env=False).json()["data"]
    assert {model["base_name"] for model in listed} == {"stories"}
