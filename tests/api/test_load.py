"""Disconnects, overload, shutdown: what others do to the box, and what it does then."""

import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.api.box import Box, body, events, text_of
from tests.api.conftest import MakeBox
from tests.api.fake_model import FakeModel


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something becomes true; how long it takes is not what is tested."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


def begin(box: Box, text: str, stream: bool) -> socket.socket:
    content = json.dumps(body(text, stream=stream)).encode()
    connection = socket.socket()
    # What is sent to a reader who takes nothing shall not vanish in the system for long.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", box.port))
    connection.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(content), content)
    )
    return connection


def test_a_disconnect_stops_the_answer_and_is_logged(make_box: MakeBox) -> None:
    box = make_box(FakeModel(context=1 << 24))
    for stream in (True, False):
        connection = begin(box, "endless", stream)
        if stream:
            while b"xx" not in connection.recv(1 << 16).replace(b'"content":"x"', b"xx"):
                pass
        wait_for(lambda: len(box.model.sequences) == 1 and box.model.steps > 20)
        connection.close()
        wait_for(lambda: not box.model.sequences)
        count = 1 if stream else 2
        wait_for(lambda: box.state.ledger.count() == count)  # noqa: B023
        turn = list(box.state.ledger.turns())[-1]
        assert turn.finish_reason == "cancelled"
        assert turn.completion_tokens == len(turn.messages[-1].content) > 0
        assert set(turn.messages[-1].content) == {"x"}


def test_a_disconnect_is_noticed_before_the_first_token(box: Box) -> None:
    for stream in (True, False):
        connection = begin(box, "hold", stream)
        wait_for(lambda: len(box.model.sequences) == 1)
        connection.close()
        wait_for(lambda: not box.model.sequences)


def test_a_disconnect_leaves_the_queue(make_box: MakeBox) -> None:
    box = make_box(FakeModel(slots=1), max_waiting=1)
    held = begin(box, "hold", False)
    wait_for(lambda: box.engine.load == (1, 0))
    waiting = begin(box, "endless", False)
    wait_for(lambda: box.engine.load == (1, 1))
    assert box.chat("x").status_code == 429
    waiting.close()
    wait_for(lambda: box.engine.load == (1, 0))
    held.close()
    assert box.chat("x").status_code == 200


def test_overload_is_refused_politely_and_nothing_is_lost(make_box: MakeBox) -> None:
    box = make_box(FakeModel(slots=2), max_waiting=3)
    statuses: list[int] = []
    answers: list[str] = []

    def ask(number: int) -> None:
        response = box.chat(f"hold {number}")
        statuses.append(response.status_code)
        if response.status_code == 200:
            answers.append(response.json()["choices"][0]["message"]["content"])
        else:
            assert response.headers["retry-after"]
            assert response.json()["error"]["type"] == "rate_limit_error"

    with ThreadPoolExecutor(20) as pool:
        for number in range(20):
            pool.submit(ask, number)
        # 2 run and 3 wait; the others are refused at once, not after the held ones.
        wait_for(lambda: len(statuses) == 15)
        box.model.release.set()
    assert sorted(statuses) == [200] * 5 + [429] * 15
    assert len(set(answers)) == 5
    assert box.state.ledger.count() == 5


def test_many_streams_at_once_stay_apart(make_box: MakeBox) -> None:
    box = make_box(FakeModel(slots=4), max_waiting=100)

    def ask(number: int) -> str:
        with box.http.stream(
            "POST", "/v1/chat/completions", json=body(f"I am {number}", stream=True)
        ) as response:
            return text_of(events(response))

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(ask, range(60)))
    assert said == [f"<base> you said: I am {number}" for number in range(60)]
    kept = sorted(turn.messages[-1].content for turn in box.state.ledger.turns())
    assert kept == sorted(said)
    assert not box.model.sequences


def test_stopping_lets_answers_end_and_refuses_new_ones(make_box: MakeBox) -> None:
    box = make_box()
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.append(box.chat("hold").text))
    reader.start()
    wait_for(lambda: len(box.model.sequences) == 1)
    stopping = threading.Thread(target=lambda: box.run(box.server.stop()))
    stopping.start()
    wait_for(lambda: refused(box))
    box.model.release.set()
    reader.join(20)
    stopping.join(20)
    assert "you said: hold" in said[0]
    assert box.state.ledger.count() == 1


def refused(box: Box) -> bool:
    try:
        socket.create_connection(("127.0.0.1", box.port), timeout=5).close()
    except (ConnectionRefusedError, ConnectionResetError):  # reset: it closed while we came
        return True
    return False


def test_stopping_cuts_off_what_does_not_end(make_box: MakeBox) -> None:
    box = make_box(FakeModel(context=1 << 24), drain=0.1)
    connection = begin(box, "endless", True)
    wait_for(lambda: len(box.model.sequences) == 1)
    box.run(box.server.stop())
    wait_for(lambda: not box.model.sequences)
    (turn,) = box.state.ledger.turns()
    assert turn.finish_reason == "cancelled"
    connection.close()


def test_a_reader_who_takes_nothing_is_cut_off(make_box: MakeBox) -> None:
    box = make_box(FakeModel(context=1 << 24), write_timeout=0.3)
    connection = begin(box, "endless", True)
    wait_for(lambda: len(box.model.sequences) == 1)
    wait_for(lambda: not box.model.sequences)
    wait_for(lambda: box.state.ledger.count() == 1)
    (turn,) = box.state.ledger.turns()
    assert turn.finish_reason == "cancelled"
    connection.close()
