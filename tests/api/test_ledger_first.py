"""The ledger row exists before the last byte of the answer, with the control that must fail."""

import json
import sqlite3
import threading
from concurrent.futures import Future
from typing import Any

import pytest

from homebox.api.exchange import Exchange
from homebox.errors import StateError
from homebox.memory.turns import Turn
from tests.api.box import Box, body, events


class HeldLedger:
    """A ledger whose disk takes its time: rows are committed when the test says so."""

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger
        self.asked = threading.Event()
        self._waiting: list[tuple[Turn, Future[str]]] = []

    def submit(self, turn: Turn) -> "Future[str]":
        future: Future[str] = Future()
        self._waiting.append((turn, future))
        self.asked.set()
        return future

    def commit(self) -> None:
        for turn, future in self._waiting:
            future.set_result(self._ledger.submit(turn).result())

    def fail(self) -> None:
        for _, future in self._waiting:
            future.set_exception(StateError("the disk is full"))


def hold_ledger(box: Box, monkeypatch: pytest.MonkeyPatch) -> HeldLedger:
    held = HeldLedger(box.state.ledger)
    original = Exchange.__init__

    def init(self: Exchange, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.ledger = held  # type: ignore[assignment]

    monkeypatch.setattr(Exchange, "__init__", init)
    return held


def read_in_background(box: Box, stream: bool) -> tuple[list[str], threading.Event]:
    """Read an answer as it comes; the event is set when it is complete."""
    got: list[str] = []
    complete = threading.Event()

    def read() -> None:
        with box.http.stream(
            "POST", "/v1/chat/completions", json=body("hello", stream=stream)
        ) as response:
            got.extend(response.iter_text())
        complete.set()

    threading.Thread(target=read, daemon=True).start()
    return got, complete


def complete(text: str, stream: bool) -> bool:
    if stream:
        return '"finish_reason":"stop"' in text
    return '"message"' in text


@pytest.mark.parametrize("stream", [False, True])
def test_no_answer_ends_before_its_row_is_committed(
    box: Box, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    held = hold_ledger(box, monkeypatch)
    got, done = read_in_background(box, stream)
    assert held.asked.wait(10)
    assert not done.wait(0.3)
    assert not complete("".join(got), stream)
    assert box.state.ledger.count() == 0
    held.commit()
    assert done.wait(10)
    assert complete("".join(got), stream)
    assert box.state.ledger.count() == 1


@pytest.mark.parametrize("stream", [False, True])
def test_control_without_waiting_for_the_ledger_the_check_fails(
    box: Box, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    held = hold_ledger(box, monkeypatch)

    async def write_without_waiting(self: Exchange, reasons: list[str]) -> None:
        self.finished = True
        self.ledger.submit(self._turn(self.choices[0], reasons[0]))

    monkeypatch.setattr(Exchange, "_write", write_without_waiting)
    got, done = read_in_background(box, stream)
    assert held.asked.wait(10)
    assert done.wait(10)
    assert complete("".join(got), stream)
    assert box.state.ledger.count() == 0


def test_an_answer_that_cannot_be_written_is_not_given(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = hold_ledger(box, monkeypatch)
    got, done = read_in_background(box, True)
    assert held.asked.wait(10)
    held.fail()
    assert done.wait(10)
    last = json.loads("".join(got).strip().rpartition("data: ")[2])
    assert last["error"]["message"] == "the disk is full"


def test_rows_are_on_the_disk_not_in_memory(box: Box) -> None:
    with box.http.stream("POST", "/v1/chat/completions", json=body("x", stream=True)) as response:
        turn = response.headers["x-homebox-turn"]
        events(response)
    connection = sqlite3.connect(f"file:{box.state.path}/ledger.db?mode=ro", uri=True)
    assert connection.execute("SELECT id FROM turns").fetchall() == [(turn,)]
    connection.close()
