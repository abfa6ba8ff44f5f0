"""The daemon as a whole, on the fake model: learning under load, swap, rollback, control."""

import asyncio
import contextlib
import gc
import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from homebox import control
from homebox.config import Config, load_config
from homebox.control import Client, find
from homebox.daemon import Box, running
from homebox.errors import (
    AmbiguousWeightsError,
    BusyError,
    ConfigError,
    DaemonError,
    LearningError,
    StateError,
    UnknownWeightsError,
    UsageError,
)
from homebox.hosting import hosted
from homebox.hosting.access import read_token
from homebox.hosting.acts import FORGOTTEN
from homebox.hosting.notifier import Notifier
from homebox.scheduler import Learning
from tests.api.box import body, events, text_of
from tests.api.fake_learner import parts
from tests.api.fake_model import FakeModel
from tests.api.learn_under_load import load_and_learn
from tests.api.test_load import wait_for


def config_for(state: Path, **values: Any) -> Config:
    overrides = {"paths.state": str(state), "server.port": 0, "learning.steps": 30}
    overrides["server.require_token"] = False
    return load_config(None, overrides | values, {"HOMEBOX_CONFIG": ""})


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def box(state: Path, model: FakeModel) -> Iterator[Box]:
    with running(config_for(state), parts(model)) as box:
        yield box


@pytest.fixture
def client(box: Box, state: Path) -> Client:
    client = find(state)
    assert client is not None
    return client


def say(box: Box, text: str, model: str = "homebox") -> str:
    response = httpx.post(
        f"{box.url}/v1/chat/completions", json=body(text, model=model), trust_env=False, timeout=30
    )
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def test_learn_swaps_and_rollback_gives_the_former_back(box: Box, client: Client) -> None:
    assert say(box, "I am Ada") == "<base> you said: I am Ada"
    progress: list[Any] = []
    first = client.call("learn", progress.append)
    assert first["promoted"] is True
    assert progress[-1] == {"stage": "train", "done": 29, "total": 30, "text": "step 29"}
    assert say(box, "x") == f"<{first['weights'][:8]}> you said: x"
    second = client.call("learn")
    assert second["previous"] == first["weights"]
    assert say(box, "x") == f"<{second['weights'][:8]}> you said: x"
    move = client.call("rollback", name=first["weights"][:9], reason="test")
    assert (move["old"], move["new"]) == (second["weights"], first["weights"])
    assert say(box, "x") == f"<{first['weights'][:8]}> you said: x"
    assert client.call("rollback", name="base", reason="test")["new"] == "base"
    assert say(box, "x") == "<base> you said: x"
    assert say(box, "x", f"homebox@{second['weights']}").startswith(f"<{second['weights'][:8]}>")


def test_unknown_and_ambiguous_weights_are_refused(box: Box, client: Client) -> None:
    say(box, "hello")
    weights = [client.call("learn")["weights"] for _ in range(17)]
    ambiguous = next(w[0] for w in weights if sum(x[0] == w[0] for x in weights) > 1)
    with pytest.raises(UnknownWeightsError, match=weights[-1][:12]):
        client.call("rollback", name="nonsense", reason="")
    with pytest.raises(AmbiguousWeightsError, match="fits several"):
        client.call("rollback", name=ambiguous, reason="")
    assert client.call("status")["weights"] == weights[-1]


def test_learning_that_promotes_nothing_changes_nothing(box: Box, client: Client) -> None:
    report = client.call("learn")
    assert report["promoted"] is False
    assert report["reason"] == "nothing was said"
    assert say(box, "x").startswith("<base>")


def test_fifty_requests_in_eight_streams_while_learning_swaps(box: Box, client: Client) -> None:
    """None fails, none is cut, all are in the ledger, and each is of one adapter."""
    say(box, "hello")
    stop = threading.Event()
    reports: list[Any] = []

    def learn() -> None:
        while not stop.is_set():
            reports.append(client.call("learn"))

    learner = threading.Thread(target=learn)
    learner.start()

    def ask(number: int) -> tuple[str, str]:
        with (
            httpx.Client(base_url=box.url, trust_env=False, timeout=60) as http,
            http.stream(
                "POST", "/v1/chat/completions", json=body(f"I am {number}", stream=True)
            ) as response,
        ):
            chunks = events(response)
            assert chunks[-1] == "[DONE]"
            return response.headers["x-homebox-turn"], text_of(chunks)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(50)))
    stop.set()
    learner.join(30)
    assert all(report["promoted"] for report in reports)
    assert reports
    known = {"base", *(report["weights"][:8] for report in reports)}
    kept = {turn.id: turn for turn in box.daemon.state.ledger.turns()}
    assert len(kept) == 51
    for number, (turn, said) in enumerate(answers):
        adapter, _, rest = said.removeprefix("<").partition(">")
        assert adapter in known
        assert rest == f" you said: I am {number}"
        assert kept[turn].messages[-1].content == said
        assert kept[turn].adapter.startswith(adapter)


@pytest.mark.parametrize("asked", [True, False])
def test_a_run_that_a_forgetting_stops_leaves_one_line(
    state: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    asked: bool,
) -> None:
    """The control, in which nobody asks for the end of the run, leaves a traceback."""
    if not asked:

        async def unasked(learning: Learning) -> None:
            await asyncio.wait([asyncio.wrap_future(learning.result)])

        monkeypatch.setattr(hosted, "ended", unasked)
    long = config_for(state, **{"learning.steps": 20_000})
    begun, refused = threading.Event(), []
    with running(long, parts(FakeModel())) as box:
        client = find(state)
        assert client is not None
        say(box, "My dog is called Rex.")
        (turn,) = box.daemon.state.ledger.outline()

        def learn() -> None:
            with pytest.raises(LearningError) as error:
                client.call("learn", lambda _: begun.set())
            refused.append(str(error.value))

        learner = threading.Thread(target=learn)
        learner.start()
        assert begun.wait(30)
        client.call("forget", name=turn.id)
        learner.join(30)
        gc.collect()
        say(box, "Hello.")  # so that the loop has said what it had to
    assert refused == [FORGOTTEN]
    told = [record for record in caplog.records if record.name in ("homebox.hosting", "asyncio")]
    assert [each.getMessage() for each in told if each.name == "homebox.hosting"] == [FORGOTTEN]
    assert any("never retrieved" in each.getMessage() for each in told) is not asked
    assert all(each.exc_info is None for each in told) is asked


def test_a_second_learn_is_refused_politely(box: Box, client: Client, state: Path) -> None:
    say(box, "hello")
    begun = threading.Event()
    first: list[Any] = []
    thread = threading.Thread(
        target=lambda: first.append(client.call("learn", lambda _: begun.set()))
    )
    thread.start()
    assert begun.wait(20)
    with pytest.raises(BusyError, match="running already"):
        client.call("learn")
    assert client.call("status")["learning"]["stage"] == "train"
    thread.join(20)
    assert first[0]["promoted"]


def test_rollback_stops_a_running_learning(state: Path, model: FakeModel) -> None:
    with running(config_for(state, **{"learning.steps": 100_000}), parts(model)) as box:
        client = Client(state)
        say(box, "hello")
        failures: list[Exception] = []
        begun = threading.Event()

        def learn() -> None:
            try:
                client.call("learn", lambda _: begun.set())
            except LearningError as error:
                failures.append(error)

        thread = threading.Thread(target=learn)
        thread.start()
        assert begun.wait(20)
        with pytest.raises(UnknownWeightsError):
            client.call("rollback", name="nonsense", reason="")
        assert client.call("status")["learning"] is not None
        client.call("rollback", name="base", reason="test")
        thread.join(20)
        assert "stopped by a rollback" in str(failures[0])
        assert client.call("status")["learning"] is None


def test_head_moved_by_others_is_served_after_reload(box: Box, client: Client) -> None:
    say(box, "hello")
    weights = client.call("learn")["weights"]
    box.daemon.state.lineage.rollback(FakeModel.base_hash, "base", "test")
    assert say(box, "x").startswith(f"<{weights[:8]}>")
    assert client.call("reload") == {"weights": "base"}
    assert say(box, "x").startswith("<base>")


def test_a_restart_serves_head(state: Path) -> None:
    with running(config_for(state), parts()) as box:
        say(box, "hello")
        weights = box.learn().weights
    assert find(state) is None
    with running(config_for(state), parts()) as box:
        assert say(box, "x").startswith(f"<{weights[:8]}>")
        assert box.daemon.status()["turns"] == 2


def test_another_base_is_served_bare_and_says_so(state: Path) -> None:
    with running(config_for(state), parts()) as box:
        say(box, "hello")
        box.learn()
        assert len(box.daemon.greeting) == 1
    other = FakeModel()
    other.base_hash = "07e4" * 16
    with running(config_for(state), parts(other)) as box:
        assert say(box, "x").startswith("<base>")
        assert "learn --now" in box.daemon.greeting[1]


def test_damaged_weights_are_named_and_not_served(state: Path) -> None:
    with running(config_for(state), parts()) as box:
        say(box, "hello")
        box.learn()
    for path in (state / "objects").rglob("*"):
        if path.is_file() and path.stat().st_size > 10_000:
            path.chmod(0o600)
            path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(StateError, match=r"damaged.*rollback"), running(config_for(state), parts()):
        pass
    assert find(state) is None


def test_state_and_port_in_use_are_one_clear_line(box: Box, state: Path, tmp_path: Path) -> None:
    owner = f"in use by process {os.getpid()}"
    with pytest.raises(StateError, match=owner), running(config_for(state), parts()):
        pass
    port = int(box.url.rpartition(":")[2])
    config = config_for(tmp_path / "other", **{"server.port": port})
    with pytest.raises(DaemonError, match=rf"port {port} .*in use"), running(config, parts()):
        pass
    # Whoever was turned away holds nothing any more.
    with running(config_for(tmp_path / "other"), parts()) as other:
        assert say(other, "x")


def test_the_control_socket_is_the_owners_alone(box: Box, client: Client, state: Path) -> None:
    mode = (state / control.SOCKET).stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"",
        b"nonsense\n",
        b"[]\n",
        b'"x"\n',
        b"{}\n",
        b'{"command": 5}\n',
        b'{"command": "no such command"}\n',
        b'{"command": "status", "arguments": []}\n',
        b'{"command": "rollback"}\n',
        b'{"command": "rollback", "arguments": {"name": 5, "reason": ""}}\n',
        b'{"command": "lesson", "arguments": {"prefix": "", "state": "new"}}\n',
        b"[" * 100_000 + b"\n",
        b"x" * (1 << 21) + b"\n",
        b"\xff\n",
    ],
)
def test_nonsense_on_the_control_socket_is_refused(
    client: Client, state: Path, line: bytes
) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(state / control.SOCKET))
        with contextlib.suppress(OSError):  # the daemon may have heard enough already
            connection.sendall(line)
            connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile("rb").readline()
    assert json.loads(answer)["error"]["exit_code"] == 2
    assert client.call("status")["running"]


def test_progress_that_nobody_reads_holds_nothing_up(box: Box, client: Client, state: Path) -> None:
    say(box, "hello")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(state / control.SOCKET))
        connection.sendall(b'{"command": "learn"}\n')
        wait_for(lambda: client.call("status")["weights"] != "base")


def test_lessons_are_approved_by_prefix(client: Client) -> None:
    with pytest.raises(UsageError, match="fits no lesson"):
        client.call("lesson", action="approve", prefix="abcdef")


def test_a_deep_state_directory_has_its_socket_too(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    with running(config_for(deep), parts()):
        client = find(deep)
        assert client is not None
        assert client.call("status")["state"] == str(deep)


def test_without_a_daemon_there_is_no_client(tmp_path: Path) -> None:
    assert find(tmp_path) is None
    assert find(tmp_path / "missing") is None
    (tmp_path / control.SOCKET).write_bytes(b"")
    assert find(tmp_path) is None
    with pytest.raises(DaemonError, match="no daemon"):
        Client(tmp_path).call("status")


def test_a_daemon_that_goes_away_is_an_error(state: Path) -> None:
    problems: list[Exception] = []
    begun = threading.Event()
    config = config_for(state, **{"learning.steps": 1_000_000})

    def learn() -> None:
        try:
            Client(state).call("learn", lambda _: begun.set())
        except DaemonError as error:
            problems.append(error)

    with running(config, parts()) as box:
        say(box, "hello")
        thread = threading.Thread(target=learn)
        thread.start()
        assert begun.wait(20)
    thread.join(20)
    assert "broke off" in str(problems[0])


def test_token_from_configuration_or_service_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(tmp_path)
    assert read_token(config) == ""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_token(config) == ""
    (tmp_path / "token").write_text("from systemd\n")
    assert read_token(config) == "from systemd"
    assert read_token(config_for(tmp_path, **{"server.token": "mine"})) == "mine"
    (tmp_path / "token").write_text("\n")
    with pytest.raises(ConfigError, match="empty"):
        read_token(config)


def test_the_service_manager_hears_from_the_engine_thread(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(20)
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "20000")
        heard = []
        with running(config_for(state), parts()) as box:
            while "READY=1" not in heard or "WATCHDOG=1" not in heard:
                heard.append(manager.recv(100).decode())
            # A hang of the model itself must be silent: the signs of life come from its thread.
            blocked, entered = threading.Event(), threading.Event()

            def block() -> None:
                entered.set()
                blocked.wait(20)

            box.daemon.engine.call(block)
            assert entered.wait(20)
            manager.settimeout(0.2)
            with pytest.raises(TimeoutError):
                while True:
                    manager.recv(100)
            blocked.set()
            manager.settimeout(20)
            assert manager.recv(100) == b"WATCHDOG=1"
        while heard[-1] != "STOPPING=1":
            heard.append(manager.recv(100).decode())


def test_without_a_service_manager_nothing_is_sent() -> None:
    Notifier(address="", interval=0.0).beat()
    Notifier(address="/nonexistent/socket", interval=0.0).send("READY=1")


def test_the_long_run_finds_nothing_on_the_fake_model(box: Box) -> None:
    answers, problems, report = load_and_learn(box, 16)
    assert problems == []
    assert len(answers) >= 16
    assert report["promoted"]
