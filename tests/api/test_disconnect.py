"""Who leaves stops the work that was done for them, within one step of the model."""

import json
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from homebox.scheduler import Generation
from tests.api.box import Box, body
from tests.api.conftest import MakeBox
from tests.api.fake_model import CHUNK, FakeModel, FakeSequence
from tests.api.test_load import begin, wait_for

PLENTY = 1 << 20


class GatedModel(FakeModel):
    """Makes a step only when it is let; `begun` counts those that were begun or wait to be."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.gate = threading.Semaphore(0)
        self.begun = 0
        self.started = 0

    def start(self, *request: Any) -> FakeSequence:
        self.started += 1
        return super().start(*request)

    def step(self, sequences: Sequence[FakeSequence]) -> Any:
        self.begun += 1
        self.gate.acquire()
        return super().step(sequences)


@pytest.fixture
def model() -> GatedModel:
    return GatedModel(context=1 << 20, slots=4)


@pytest.fixture
def box(make_box: MakeBox, model: GatedModel) -> Any:
    yield make_box(model)
    model.gate.release(PLENTY)


def leave(box: Box, connection: socket.socket) -> None:
    """Close a connection, and wait until the server has done all that it does about it."""
    connection.close()
    wait_for(lambda: not box.server._answering.running)


def in_the_prompt(box: Box, model: GatedModel, stream: bool) -> tuple[socket.socket, int]:
    """Begin an answer and stop its model in the fourth step of a long prompt."""
    before = model.begun
    connection = begin(box, "long " * CHUNK, stream)
    model.gate.release(3)
    wait_for(lambda: model.begun == before + 4)
    assert len(model.sequences) == 1
    assert model.sequences
    return connection, before


@pytest.mark.parametrize("stream", [True, False])
def test_in_the_prompt(box: Box, model: GatedModel, stream: bool) -> None:
    connection, before = in_the_prompt(box, model, stream)
    leave(box, connection)
    model.gate.release(PLENTY)
    wait_for(lambda: not model.sequences)
    assert model.begun == before + 4  # the one that ran when they left, and no other
    wait_for(lambda: box.state.ledger.count() == 1)
    (turn,) = box.state.ledger.turns()
    assert (turn.finish_reason, turn.completion_tokens) == ("cancelled", 0)
    assert box.chat("x").status_code == 200


def test_control_without_cancelling_the_whole_prompt_is_read(
    box: Box, model: GatedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Generation, "cancel", lambda self: None)
    connection, before = in_the_prompt(box, model, True)
    leave(box, connection)
    model.gate.release(PLENTY)
    wait_for(lambda: not model.sequences)
    assert model.begun > before + 10


@pytest.mark.parametrize("count", [1, 4])
def test_in_the_answer_all_choices_end(box: Box, model: GatedModel, count: int) -> None:
    content = json.dumps(body("endless", stream=True, n=count)).encode()
    connection = socket.create_connection(("127.0.0.1", box.port), timeout=20)
    connection.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(content), content)
    )
    step_until(model, lambda: len(model.sequences) == count and model.begun >= 20)
    made = model.begun
    leave(box, connection)
    model.gate.release(PLENTY)
    wait_for(lambda: not model.sequences)
    assert model.begun == made
    wait_for(lambda: box.state.ledger.count() == count)
    assert {turn.finish_reason for turn in box.state.ledger.turns()} == {"cancelled"}


def step_until(model: GatedModel, condition: Callable[[], bool]) -> None:
    """Let the model make steps, one by one: newcomers are taken in between them."""
    wait_for(lambda: model.begun > 0)
    while not condition():
        made = model.begun + 1
        model.gate.release()
        wait_for(lambda: model.begun == made)  # noqa: B023


def crowd(box: Box, model: GatedModel) -> list[socket.socket]:
    """Fill all slots, and put three more into the queue."""
    running = [begin(box, f"hold {number}", True) for number in range(model.slots)]
    step_until(model, lambda: box.engine.load == (model.slots, 0))
    waiting = [begin(box, f"wait {number}", number % 2 == 0) for number in range(3)]
    wait_for(lambda: box.engine.load == (model.slots, 3))
    for connection in waiting:
        connection.close()
    wait_for(lambda: box.server._answering.running == model.slots)
    return running


def test_in_the_queue_nothing_is_begun(box: Box, model: GatedModel) -> None:
    running = crowd(box, model)
    model.release.set()
    model.gate.release(PLENTY)
    wait_for(lambda: not model.sequences and box.engine.load == (0, 0))
    assert model.started == model.slots
    for connection in running:
        connection.close()


def test_control_without_cancelling_the_queue_is_served(
    box: Box, model: GatedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Generation.cancel
    monkeypatch.setattr(Generation, "cancel", lambda self: None)
    running = crowd(box, model)
    model.release.set()
    model.gate.release(PLENTY)
    wait_for(lambda: model.started == model.slots + 3)
    monkeypatch.setattr(Generation, "cancel", real)
    for connection in running:
        connection.close()


@pytest.mark.parametrize("sent", [1, 20, 70, 200])
def test_in_the_request_nothing_is_begun(box: Box, model: GatedModel, sent: int) -> None:
    content = json.dumps(body("x" * 500)).encode()
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(content)
    )
    connection = socket.create_connection(("127.0.0.1", box.port), timeout=20)
    connection.sendall((head + content)[:sent])
    wait_for(lambda: len(box.server._open) == 1)
    connection.close()
    wait_for(lambda: not box.server._open)
    assert model.started == 0
