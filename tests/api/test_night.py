"""Learning on its own, paused, resumed and stopped, in a daemon with its real engine thread."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from homebox.config import load_config
from homebox.control import Client
from homebox.daemon import Box, running
from homebox.errors import LearningError, UsageError
from homebox.night import night
from tests.api.box import body
from tests.api.fake_learner import parts
from tests.api.fake_model import FakeModel

LONG = 1_000_000  # steps that no test waits for


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def started(state: Path, steps: int, **more: object) -> Iterator[Box]:
    overrides = {
        "paths.state": str(state),
        "server.port": 0,
        "server.require_token": False,
        "learning.steps": steps,
        "schedule.enabled": False,
        **more,
    }
    with running(load_config(None, overrides, {}), parts(FakeModel())) as box:  # type: ignore[arg-type]
        yield box


@pytest.fixture
def box(state: Path) -> Iterator[Box]:
    yield from started(state, LONG)


def soon(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def learning(client: Client) -> tuple[threading.Thread, list[str]]:
    """Begin a run; gives its thread and what it raised."""
    raised: list[str] = []
    begun = threading.Event()

    def learn() -> None:
        try:
            client.call("learn", lambda _: begun.set())
        except LearningError as error:
            raised.append(str(error))

    thread = threading.Thread(target=learn)
    thread.start()
    assert begun.wait(30)
    return thread, raised


def tell(box: Box, text: str = "My dog is called Quark.") -> None:
    response = httpx.post(f"{box.url}/v1/chat/completions", json=body(text), trust_env=False)
    assert response.status_code == 200


def test_a_paused_run_takes_no_step_while_answers_go_on(box: Box, state: Path) -> None:
    client = Client(state)
    thread, raised = learning(client)
    assert client.call("steer", order="pause")["paused"] == "paused by the owner"
    engine = box.daemon.engine
    assert engine.learning is not None
    soon(lambda: engine.call(lambda: True).result(30))  # the step that ran is over
    at = engine.learning.progress
    for number in range(5):
        tell(box, f"hello {number}")
    assert engine.learning.progress is at
    assert client.call("steer", order="resume")["paused"] == ""
    soon(lambda: engine.learning is not None and engine.learning.progress is not at)
    # A paused run can be stopped, too.
    client.call("steer", order="pause")
    client.call("steer", order="stop")
    thread.join(30)
    assert "stopped by the owner" in raised[0]
    with pytest.raises(UsageError, match="nothing is being learned"):
        client.call("steer", order="pause")


def test_orders_that_do_not_exist_are_refused(box: Box, state: Path) -> None:
    with pytest.raises(UsageError, match="pause"):
        Client(state).call("steer", order="dance")


def test_a_box_learns_in_the_night_and_says_so(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(night, "BEAT", 0.02)
    always = {
        "schedule.enabled": True,
        "schedule.begin": "00:00",
        "schedule.end": "00:00",
        "schedule.idle_minutes": 0.0,
        "schedule.max_load": 1.0,
        "schedule.mains_only": False,
        "paths.state": str(state),
    }
    client = Client(state)
    for box in started(state, 3, **{**always, "schedule.enabled": False}):
        tell(box)
        time.sleep(0.2)
        assert client.call("status")["weights"] == "base"  # control: not without being asked
    for _ in started(state, 3, **always):
        soon(lambda: bool(client.call("status")["night"]["done"]))
        found = client.call("status")
        assert found["weights"] != "base"
        assert found["night"]["result"].startswith("learned 1")
