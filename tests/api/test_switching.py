"""Switching a running daemon to another model: nobody is cut off, and something always serves."""

import asyncio
import dataclasses
import gc
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from homebox.api.door import Door
from homebox.config import Config
from homebox.control import Client
from homebox.daemon import Box, running
from homebox.errors import (
    BusyError,
    DaemonError,
    HomeboxError,
    LearningError,
    ModelFormatError,
    ModelNotFoundError,
    OutOfDeviceMemoryError,
    StateError,
)
from homebox.hosting import chosen, replacing, retiring, switching
from homebox.hosting.chosen import Choice, read_choice, write_choice
from homebox.hosting.notifier import Notifier
from tests.api.box import body, events, text_of
from tests.api.model_files import Shelf, write_model
from tests.api.test_daemon import config_for
from tests.api.test_load import wait_for


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def shelf() -> Shelf:
    return Shelf(delay=0.001)


def config(state: Path, **values: Any) -> Config:
    """Configure a daemon as a start without --model does; its configuration names model a."""
    found = config_for(state, **{"model.path": str(state.parent / "a.model")} | values)
    return dataclasses.replace(found, given=frozenset(), configured_model=found.model.path)


@pytest.fixture
def box(state: Path, shelf: Shelf, tmp_path: Path) -> Iterator[Box]:
    for name, size in (("a", 40), ("b", 50), ("large", 70), ("huge", 170)):
        write_model(tmp_path, name, size)
    (tmp_path / "torn.model").write_text("{")
    with running(config(state, **{"server.max_queue": 6}), shelf.parts()) as box:
        yield box
        shelf.holding.set()


@pytest.fixture
def client(box: Box, state: Path) -> Client:
    return Client(state)


class Talk:
    """Streaming requests in threads of their own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._pool = ThreadPoolExecutor(16)

    def begin(self, text: str, model: str = "homebox") -> "Future[str]":
        return self._pool.submit(self._ask, text, model)

    def _ask(self, text: str, model: str) -> str:
        with (
            httpx.Client(base_url=self._url, trust_env=False, timeout=60) as http,
            http.stream(
                "POST", "/v1/chat/completions", json=body(text, model=model, stream=True)
            ) as response,
        ):
            if response.status_code != 200:
                response.read()
                return f"{response.status_code} {response.headers.get('Retry-After')}"
            chunks = events(response)
            assert chunks[-1] == "[DONE]"
            return text_of(chunks)


@pytest.fixture
def talk(box: Box) -> Talk:
    return Talk(box.url)


def use(client: Client, path: Path, name: str) -> "Future[Any]":
    """Ask for a switch in a thread of its own."""
    return ThreadPoolExecutor(1).submit(client.call, "use", name=str(path / f"{name}.model"))


def models(box: Box) -> dict[str, Any]:
    found = httpx.get(f"{box.url}/v1/models", trust_env=False, timeout=30).json()
    return {model["id"]: model for model in found["data"]}


def test_ten_streams_end_on_the_model_they_began_on(
    box: Box, client: Client, talk: Talk, tmp_path: Path, shelf: Shelf
) -> None:
    answers = [talk.begin(f"count {150 + i}") for i in range(4)]
    wait_for(lambda: client.call("status")["answering"] == 4)
    answers += [talk.begin(f"count {150 + i}") for i in range(4, 10)]
    wait_for(lambda: client.call("status")["waiting"] == 6)
    found = client.call("use", name=str(tmp_path / "b.model"))
    assert (found["model"], found["changed"], found["pause_s"]) == ("b", True, 0.0)
    assert talk.begin("count 3").result(30) == "b:aaa"
    # None of them was over when the new model began to answer.
    assert client.call("status")["answering"] > 0
    assert [each.result(60) for each in answers] == ["a:" + "a" * (150 + i) for i in range(10)]
    wait_for(lambda: gc.collect() >= 0 and shelf.alive() == ["b"])
    assert client.call("status")["answering"] == 0


@pytest.mark.parametrize("name", ["b", "large"])
def test_a_switch_that_did_not_wait_would_be_noticed(
    box: Box, client: Client, talk: Talk, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: without the wait for whoever passed the door, answers are cut."""

    async def at_once(self: Any, service: Any, seconds: float | None = None) -> bool:
        return True

    monkeypatch.setattr(Door, "left", at_once)
    answer = talk.begin("count 1000")
    wait_for(lambda: client.call("status")["answering"] == 1)
    client.call("use", name=str(tmp_path / f"{name}.model"))
    assert len(answer.result(30)) < 1000


def test_streams_go_on_through_many_switches(
    box: Box, client: Client, talk: Talk, tmp_path: Path
) -> None:
    done = threading.Event()

    def chat() -> list[str]:
        said = []
        while not done.is_set():
            said.append(talk.begin("count 20").result(60))
        return said

    with ThreadPoolExecutor(3) as pool:
        talks = [pool.submit(chat) for _ in range(3)]
        for name in ("b", "large", "a", "large", "b", "a"):
            assert client.call("use", name=str(tmp_path / f"{name}.model"))["model"] == name
        done.set()
        said = [text for each in talks for text in each.result(60)]
    assert {text for text in said if not text.endswith(":" + "a" * 20)} == set()
    assert len({text.partition(":")[0] for text in said}) > 1


def test_when_memory_is_short_new_requests_wait_and_the_old_model_goes_first(
    box: Box, client: Client, talk: Talk, tmp_path: Path, shelf: Shelf
) -> None:
    box.daemon.model.release.clear()  # type: ignore[attr-defined]
    model = box.daemon.model
    old = talk.begin("hold")
    wait_for(lambda: client.call("status")["answering"] == 1)
    switch = use(client, tmp_path, "large")
    wait_for(lambda: (client.call("status")["switch"] or {}).get("stage") == "drain")
    new = talk.begin("count 2")
    wait_for(lambda: client.call("status")["waiting"] == 1)
    status = client.call("status")
    assert (status["model"], status["learning"], status["answering"]) == ("a", None, 1)
    assert httpx.get(f"{box.url}/health", trust_env=False).json() == {"status": "switching"}
    with pytest.raises(BusyError, match="already"):
        client.call("use", name=str(tmp_path / "b.model"))
    with pytest.raises(BusyError, match="switching"):
        client.call("rollback", name="base", reason="")
    with pytest.raises(BusyError, match="switching"):
        client.call("learn")
    shelf.holding.clear()
    shelf.entered.clear()
    model.release.set()  # type: ignore[attr-defined]
    del model
    assert old.result(30) == "a:<base> you said: hold"
    assert shelf.entered.wait(30)
    assert shelf.alive() == []  # nothing is loaded before the old model's memory is back
    status = client.call("status")
    assert (status["model"], status["weights"], status["switch"]["stage"]) == ("a", "base", "load")
    assert "process" in status["memory"]
    shelf.holding.set()
    found = switch.result(30)
    assert found["model"] == "large"
    assert found["pause_s"] > 0
    assert new.result(30) == "large:aa"
    assert httpx.get(f"{box.url}/health", trust_env=False).json()["status"] == "ok"


def test_programs_that_do_not_fit_beside_the_old_model_let_it_go_first(
    box: Box, client: Client, talk: Talk, tmp_path: Path, shelf: Shelf
) -> None:
    shelf.greedy.add("b")
    answer = talk.begin("count 100")
    wait_for(lambda: client.call("status")["answering"] == 1)
    assert client.call("use", name=str(tmp_path / "b.model"))["pause_s"] > 0
    assert answer.result(30) == "a:" + "a" * 100
    assert talk.begin("count 1").result(30) == "b:a"
    assert shelf.names() == ["a", "b", "b"]
    assert shelf.alive() == ["b"]


def test_too_many_who_wait_for_a_switch_are_told_when_to_come_back(
    box: Box, client: Client, talk: Talk, tmp_path: Path, shelf: Shelf
) -> None:
    shelf.holding.clear()
    shelf.entered.clear()
    switch = use(client, tmp_path, "large")
    assert shelf.entered.wait(30)
    waiting = [talk.begin("count 1") for _ in range(6)]
    wait_for(lambda: client.call("status")["waiting"] == 6)
    assert talk.begin("count 1").result(30) == "429 2"
    shelf.holding.set()
    switch.result(30)
    assert [each.result(30) for each in waiting] == ["large:a"] * 6


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("torn", ModelFormatError),
        ("huge", OutOfDeviceMemoryError),
        ("missing", ModelNotFoundError),
    ],
)
def test_a_model_that_cannot_be_had_leaves_the_old_one_serving(
    box: Box,
    client: Client,
    talk: Talk,
    tmp_path: Path,
    state: Path,
    name: str,
    error: type[HomeboxError],
) -> None:
    before = talk.begin("count 200")
    wait_for(lambda: client.call("status")["answering"] == 1)
    with pytest.raises(error, match=name if name != "huge" else "170 do not fit"):
        client.call("use", name=str(tmp_path / f"{name}.model"))
    assert before.result(30) == "a:" + "a" * 200
    assert talk.begin("count 1").result(30) == "a:a"
    status = client.call("status")
    assert status["model"] == "a"
    assert status["switch"] is None
    assert (name in status["trouble"]) == (name != "missing")  # a slip of the pen is no trouble
    assert read_choice(state) is None


def test_a_load_that_fails_half_way_brings_the_old_model_back(
    box: Box, client: Client, talk: Talk, tmp_path: Path, shelf: Shelf, state: Path
) -> None:
    shelf.broken.add("large")
    shelf.holding.clear()
    shelf.entered.clear()
    switch = use(client, tmp_path, "large")
    assert shelf.entered.wait(30)
    waiting = talk.begin("count 1")
    wait_for(lambda: client.call("status")["waiting"] == 1)
    shelf.holding.set()
    with pytest.raises(HomeboxError, match="driver fell over"):
        switch.result(30)
    assert waiting.result(30) == "a:a"
    assert shelf.names() == ["a", "a"]
    assert "driver fell over" in client.call("status")["trouble"]
    assert read_choice(state) is None


def test_if_the_old_model_is_gone_too_the_built_in_one_serves(
    box: Box, client: Client, talk: Talk, tmp_path: Path, shelf: Shelf
) -> None:
    shelf.broken |= {"large", "a"}
    with pytest.raises(HomeboxError, match="driver fell over"):
        client.call("use", name=str(tmp_path / "large.model"))
    assert talk.begin("count 1").result(30) == "tiny:a"
    assert client.call("status")["model"] == "tiny"


def test_if_nothing_can_be_served_requests_are_refused_and_not_kept(
    box: Box, client: Client, talk: Talk, tmp_path: Path, shelf: Shelf
) -> None:
    shelf.broken |= {"large", "a", "tiny"}
    with pytest.raises(HomeboxError, match="driver fell over"):
        client.call("use", name=str(tmp_path / "large.model"))
    assert talk.begin("count 1").result(30) == "503 2"
    assert httpx.get(f"{box.url}/health", trust_env=False).status_code == 503
    assert client.call("status")["trouble"]


def test_answers_that_do_not_end_are_not_cut_off(
    box: Box, client: Client, talk: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replacing, "DRAIN", 0.2)
    model: Any = box.daemon.model
    model.release.clear()
    old = talk.begin("hold")
    wait_for(lambda: client.call("status")["answering"] == 1)
    with pytest.raises(BusyError, match="1 answers are still running"):
        client.call("use", name=str(tmp_path / "large.model"))
    assert talk.begin("count 1").result(30) == "a:a"
    model.release.set()
    assert old.result(30) == "a:<base> you said: hold"


def test_what_was_learned_stays_with_its_base(
    box: Box, client: Client, talk: Talk, tmp_path: Path
) -> None:
    a, b = str(tmp_path / "a.model"), str(tmp_path / "b.model")
    talk.begin("I am Ada").result(30)
    first = client.call("learn")["weights"]
    second = client.call("learn")["weights"]
    learned = client.call("status")["learned"]
    assert (learned["weights"], learned["served"]) == (second, True)
    base_of_a = models(box)["homebox"]["base"]

    found = client.call("use", name=b)
    assert found["weights"] == "base"
    assert "belongs to another base" in found["lines"][-1]
    assert client.call("status")["learned"] is None
    listed = models(box)
    assert set(listed) == {"homebox", "base"}
    assert listed["homebox"]["base_name"] == "b"
    assert listed["homebox"]["base"] == found["base"] != base_of_a
    assert talk.begin("x", f"homebox@{first}").result(30).startswith("404")
    assert talk.begin("x").result(30).startswith("b:<base>")
    of_b = client.call("learn")["weights"]
    assert talk.begin("x").result(30).startswith(f"b:<{of_b[:8]}>")

    found = client.call("use", name=a)
    assert found["weights"] == second
    assert "another base" not in " ".join(found["lines"])
    assert talk.begin("x").result(30).startswith(f"a:<{second[:8]}>")
    assert set(models(box)) == {"homebox", "base", f"homebox@{first}", f"homebox@{second}"}
    assert client.call("rollback", name="previous", reason="test")["new"] == first
    assert talk.begin("x").result(30).startswith(f"a:<{first[:8]}>")
    learned = client.call("status")["learned"]
    assert (learned["weights"], learned["served"]) == (second, False)

    assert client.call("use", name=b)["weights"] == of_b
    assert client.call("use", name=a)["weights"] == first


def test_learning_is_stopped_by_a_switch_but_not_by_one_that_fails(
    state: Path, tmp_path: Path, shelf: Shelf
) -> None:
    for name in ("a", "b"):
        write_model(tmp_path, name)
    (tmp_path / "torn.model").write_text("{")
    with running(config(state, **{"learning.steps": 100_000}), shelf.parts()) as box:
        client = Client(state)
        Talk(box.url).begin("hello").result(30)
        begun = threading.Event()
        learning = ThreadPoolExecutor(1).submit(client.call, "learn", lambda _: begun.set())
        assert begun.wait(30)
        with pytest.raises(ModelFormatError):
            client.call("use", name=str(tmp_path / "torn.model"))
        assert client.call("status")["learning"]["stage"] == "train"
        client.call("use", name=str(tmp_path / "b.model"))
        with pytest.raises(LearningError, match="stopped by a switch"):
            learning.result(30)
        assert client.call("status")["learning"] is None


def test_the_same_model_again_changes_nothing(
    box: Box, client: Client, tmp_path: Path, shelf: Shelf, state: Path
) -> None:
    found = client.call("use", name=str(tmp_path / "a.model"))
    assert (found["changed"], shelf.names()) == (False, ["a"])
    choice = read_choice(state)
    assert choice is not None
    assert choice.name == str(tmp_path / "a.model")


def test_the_next_start_serves_what_was_chosen(
    box: Box, client: Client, tmp_path: Path, state: Path
) -> None:
    client.call("use", name=str(tmp_path / "b.model"))
    choice = read_choice(state)
    assert choice is not None
    a, b = str(tmp_path / "a.model"), str(tmp_path / "b.model")
    assert (choice.name, choice.before, choice.instead_of) == (b, a, a)


def served(configured: Config, shelf: Shelf) -> tuple[str, str]:
    """Start a daemon; give the model that it serves and what it complains of."""
    with running(configured, shelf.parts()) as box:
        status = box.daemon.status()
        return status["model"], status["trouble"]


def test_the_last_word_counts(tmp_path: Path, state: Path, shelf: Shelf) -> None:
    paths = {name: str(write_model(tmp_path, name)) for name in ("a", "b", "c")}
    start = config(state)
    assert served(start, shelf) == ("a", "")
    write_choice(state, Choice(paths["b"], paths["a"], paths["a"]))
    assert served(start, shelf) == ("b", "")
    given = config_for(state, **{"model.path": paths["c"]})
    assert served(given, shelf) == ("c", "")  # --model, for one run
    assert served(start, shelf) == ("b", "")
    newer = dataclasses.replace(
        config(state, **{"model.path": paths["c"]}), configured_model=paths["c"]
    )
    assert served(newer, shelf) == ("c", "")  # the file was changed after the choice
    assert served(start, shelf) == ("b", "")


def test_a_start_without_the_chosen_model_serves_what_was_there_before(
    tmp_path: Path, state: Path, shelf: Shelf
) -> None:
    a, b = (write_model(tmp_path, name) for name in ("a", "b"))
    assert served(config(state), shelf) == ("a", "")
    write_choice(state, Choice(str(b), str(a), str(a)))
    b.unlink()
    name, trouble = served(config(state), shelf)
    assert name == "a"
    assert "b.model: there is no such model" in trouble
    write_model(tmp_path, "b")
    assert served(config(state), shelf) == ("b", "")  # it is only away, not forgotten
    # The control: what the command line names is served, or nothing.
    b.unlink()
    with pytest.raises(ModelNotFoundError):
        served(config_for(state, **{"model.path": str(b)}), shelf)


def test_a_choice_that_is_damaged_is_named(tmp_path: Path, state: Path, shelf: Shelf) -> None:
    write_model(tmp_path, "a")
    served(config(state), shelf)
    for text in ('{"name": 5}', "", "[]", "{", '{"name":"","before":"a","instead_of":"a"}'):
        (state / chosen.FILE).write_text(text)
        with pytest.raises(StateError, match="damaged; remove it"):
            served(config(state), shelf)


def test_a_choice_that_cannot_be_kept_is_said(
    box: Box, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(state: Path, choice: Choice) -> None:
        raise StateError("the disk is full")

    monkeypatch.setattr(switching, "write_choice", full)
    found = client.call("use", name=str(tmp_path / "b.model"))
    assert found["model"] == "b"
    assert "the next start serves" in found["lines"][-1]
    assert "the disk is full" in found["lines"][-1]


def test_a_daemon_can_be_stopped_while_it_loads(tmp_path: Path, state: Path, shelf: Shelf) -> None:
    write_model(tmp_path, "a")
    write_model(tmp_path, "b")
    with running(config(state), shelf.parts()):
        shelf.holding.clear()
        shelf.entered.clear()
        switch = use(Client(state), tmp_path, "b")
        assert shelf.entered.wait(30)
    with pytest.raises(DaemonError):
        switch.result(30)
    assert read_choice(state) is None


def test_a_model_that_goes_does_not_speak_for_the_one_that_serves(
    box: Box, client: Client, talk: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service manager must notice a hang of the model that gets the requests."""
    beats: list[float] = []
    monkeypatch.setattr(Notifier, "beat", lambda self: beats.append(time.monotonic()))
    box.daemon.model.release.clear()  # type: ignore[attr-defined]
    old: Any = box.daemon.model
    answer = talk.begin("hold")
    wait_for(lambda: client.call("status")["answering"] == 1)
    client.call("use", name=str(tmp_path / "b.model"))
    wait_for(lambda: len(beats) > 3)
    blocked, entered = threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        blocked.wait(30)

    box.daemon.engine.call(hang)
    assert entered.wait(30)
    silent, steps = len(beats), old.steps
    wait_for(lambda: old.steps > steps + 20)  # its thread goes round and round
    assert len(beats) == silent
    blocked.set()
    old.release.set()
    answer.result(30)
    wait_for(lambda: len(beats) > silent)


def test_first_steps_are_told_where_nobody_named_a_model(
    tmp_path: Path, state: Path, shelf: Shelf
) -> None:
    fresh = config_for(state)
    with running(fresh, shelf.parts()) as box:
        lines = box.daemon.greeting[-2:]
        assert "homebox pull" in lines[0]
        assert "homebox import" in lines[0]
        assert "homebox use" in lines[1]
    given = config_for(state, **{"model.path": "tiny"})
    with running(given, shelf.parts()) as box:
        assert "homebox pull" not in " ".join(box.daemon.greeting)


class Held:
    """A model that somebody holds for a while."""


@pytest.mark.parametrize(
    ("patience", "gone"), [(60.0, True), (0.0, False)], ids=["waits", "control"]
)
def test_memory_is_back_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, patience: float, gone: bool
) -> None:
    monkeypatch.setattr(retiring, "FREEING", patience)
    holders = [Held()]
    model = weakref.ref(holders[0])
    looks: list[bool] = []

    def collect() -> int:
        if len(looks) == 2:
            holders.clear()
        looks.append(True)
        return 0

    monkeypatch.setattr(retiring.gc, "collect", collect)
    asyncio.run(retiring.freed(model))
    assert (model() is None) is gone
    assert len(looks) == (3 if gone else 1)
