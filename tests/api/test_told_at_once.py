"""A daemon learns from turns as they come: notes at once, weights later, and back by a rollback."""

import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx

from homebox.config import Config
from homebox.control import Client, find
from homebox.daemon import Box, running
from homebox.hosting.parts import Parts
from homebox.learning.report import Progress, Report
from homebox.memory.ledger import Ledger
from homebox.memory.lessons import ALIVE
from homebox.memory.lineage import Lineage
from homebox.memory.manifest import LineageEntry
from homebox.memory.state import open_state
from homebox.memory.store import Store, canonical_json
from homebox.memory.turns import Message, now
from tests.api.box import body
from tests.api.fake_learner import read, save
from tests.api.fake_model import FakeModel
from tests.api.test_daemon import config_for


def learn(
    model: FakeModel,
    ledger: Ledger,
    store: Store,
    lineage: Lineage,
    settings: Config,
    dry_run: bool = False,
) -> Generator[Progress, None, Report]:
    """Promote weights that are said to know every lesson but the newest."""
    yield Progress("train", 0, 1, "as if")
    lessons = [lesson.hash for lesson in ledger.lessons(ALIVE)]
    head = lineage.head(model.base_hash)
    weights = save(store, model.base_hash, len(lessons))
    report = store.put(canonical_json({"known": lessons[:-1], "passed": True}))
    lineage.promote(
        LineageEntry(
            weights=weights,
            parent=head,
            base=model.base_hash,
            ledger_root=ledger.root(),
            report=report,
            time=now(),
            reason="as if",
            lessons=tuple(sorted(lessons)),
        )
    )
    return Report(True, weights, head, ["learned"], {})


def say(box: Box, text: str, **fields: Any) -> httpx.Response:
    address = f"{box.url}/v1/chat/completions"
    response = httpx.post(address, json=body(text, **fields), trust_env=False, timeout=30)
    assert response.status_code == 200, response.text
    return response


def system_of(model: FakeModel) -> str:
    first = model.chat.given[0][0]
    return str(first["content"]) if first["role"] == "system" else ""


def notes_of(state: Path) -> dict[str, int]:
    client = find(state)
    assert isinstance(client, Client)
    found: dict[str, int] = client.call("status")["notes"]
    return found


def told(box: Box) -> list[str]:
    """Return the values of the lessons, once there are some."""
    until = time.monotonic() + 60
    while not box.daemon.state.ledger.lessons() and time.monotonic() < until:
        time.sleep(0.02)
    return [lesson.value for lesson in box.daemon.state.ledger.lessons()]


def test_from_words_to_notes_to_weights_and_back(tmp_path: Path) -> None:
    state, model = tmp_path / "state", FakeModel()
    parts = Parts(lambda config: model, learn, read)
    values = {"lessons.prompt_tokens": 1000}
    with running(config_for(state, **values, **{"model.path": "fake.gguf"}), parts) as box:
        say(box, "My dog is called Rex.")
        say(box, "I live in Bergen.")
        say(box, "Hello")
        assert "Rex" in system_of(model) and "Bergen" in system_of(model)
        before = notes_of(state)
        assert (before["lessons"], before["known"], before["saved_tokens"]) == (2, 0, 0)
        report = box.learn()
        assert report.data["notes"]["known"] == 1
        assert any("1 known by the weights" in line for line in report.lines)
        say(box, "Hello")
        assert "Rex" not in system_of(model) and "Bergen" in system_of(model)
        after = notes_of(state)
        assert after["tokens"] + after["saved_tokens"] == before["tokens"]
        box.rollback("base", "test")
        say(box, "Hello")
        # What the weights knew was undone with them.
        assert system_of(model) == ""
        say(box, "Hello", model="base")
        assert system_of(model) == ""


def test_what_was_said_before_the_start_is_read_in_the_background(tmp_path: Path) -> None:
    state, model = tmp_path / "state", FakeModel()
    with open_state(state) as opened:
        opened.ledger.append(
            conversation="c",
            model="homebox",
            adapter="base",
            sampling={},
            messages=[
                Message("user", "My dog is called Rex.", "owner"),
                Message("assistant", "Good to know.", "assistant"),
            ],
            finish_reason="stop",
            prompt_tokens=1,
            completion_tokens=1,
        )
    with running(config_for(state), Parts(lambda config: model, learn, read)) as box:
        assert told(box) == ["Rex"]
        say(box, "What is my dog called?")
        assert "Rex" in system_of(model)


def test_notes_can_be_switched_off(tmp_path: Path) -> None:
    state, model = tmp_path / "state", FakeModel()
    parts = Parts(lambda config: model, learn, read)
    with running(config_for(state, **{"lessons.prompt": False}), parts) as box:
        say(box, "/remember My dog is called Rex.")
        say(box, "Hello")
        assert system_of(model) == ""
        client = find(state)
        assert client is not None
        assert client.call("status")["notes"] is None
        assert told(box) == ["Rex"]
