"""What is off the record leaves no trace in any file of the state or the cache, nor in the log."""

import logging
import secrets
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from homebox.api.shapes.chat import ChatShape
from homebox.api.tokens import KeyRing, add_key, open_keys
from homebox.model import load
from tests.api.box import Box, body
from tests.api.conftest import MakeBox
from tests.api.real import RealModel
from tests.api.test_chat_commands import ROUTES, posted, said, say, talk

OFF = {"X-Homebox-Record": "off"}


@pytest.fixture
def box(make_box: MakeBox) -> Box:
    return make_box(notes=2000)


def marker() -> str:
    return "zq" + "".join(secrets.choice("bcdfghjklmnp") for _ in range(20))


def traces(box: Box, word: str, log: str = "") -> list[str]:
    """List the files of the state that hold a word, in any of the spellings that are used here."""
    if box.listening is not None:
        box.listening.settle(30)
    root = box.state.path
    data = [(path, path.read_bytes()) for path in root.rglob("*") if path.is_file()]
    ids = b"".join(ord(letter).to_bytes(4, "little") for letter in word)  # as ids of tokens
    found = [path.name for path, text in data if word.encode() in text or ids in text]
    return found + (["log"] if word in log else [])


def chats(word: str) -> list[tuple[str, dict[str, Any]]]:
    """List requests of every kind that say a word, and need no model's answer to be written."""
    told = f"My dog is called {word}."
    named = {"model": "homebox", "max_tokens": 9}
    return [
        (ROUTES[0], body(told)),
        (ROUTES[0], body(told, stream=True)),
        (ROUTES[0], body(told, prompt_cache_key=f"{word}:1")),
        (ROUTES[0], body(f"/remember {told}")),
        (ROUTES[0], body(f"/fix {word}")),
        (ROUTES[1], {"model": "homebox", "input": told, "instructions": word}),
        (ROUTES[2], {**named, "messages": talk(told), "system": word}),
        ("/v1/completions", {**named, "prompt": told}),
    ]


@pytest.mark.parametrize("off", [True, False])
def test_nothing_is_written_anywhere(box: Box, off: bool, caplog: pytest.LogCaptureFixture) -> None:
    """With the header nothing is found; the control, without it, finds every one of them."""
    caplog.set_level(logging.DEBUG)
    for route, asked in chats("x"):
        word = marker()
        asked = {name: _said(value, "x", word) for name, value in asked.items()}
        response = box.http.post(route, json=asked, headers=OFF if off else {})
        assert response.status_code == 200, response.text
        assert (response.headers.get("x-homebox-record") == "off") is off
        turn = response.headers["x-homebox-turn"]
        assert (box.state.ledger.turn(turn) is None) is off
        assert bool(traces(box, word, caplog.text)) is not off, route
    assert (box.state.ledger.count() == 0) is off
    assert (box.state.ledger.lessons() == []) is off


def _said(value: Any, old: str, new: str) -> Any:
    if isinstance(value, str):
        return value.replace(f" {old}", f" {new}") if value != old else new
    if isinstance(value, list):
        return [_said(each, old, new) for each in value]
    return {k: _said(v, old, new) for k, v in value.items()} if isinstance(value, dict) else value


def test_an_opinion_off_the_record_is_refused(box: Box) -> None:
    turn = box.chat("hi").headers["x-homebox-turn"]
    opinion = {"turn": turn, "rating": "bad", "text": "no"}
    refused = box.http.post("/v1/feedback", json=opinion, headers=OFF)
    assert refused.status_code == 400
    assert "off the record" in refused.json()["error"]["message"]
    hidden = box.http.post(ROUTES[0], json=body("hi"), headers=OFF).headers["x-homebox-turn"]
    unknown = box.http.post("/v1/feedback", json={"turn": hidden, "rating": "good"})
    assert unknown.status_code == 404
    assert "off the record" in unknown.json()["error"]["message"]
    assert box.state.ledger.feedback() == []


def test_a_word_that_says_neither_is_refused(box: Box) -> None:
    for word in ("of", "false", ""):
        response = box.http.post(ROUTES[0], json=body("hi"), headers={"X-Homebox-Record": word})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "x-homebox-record"
    assert box.state.ledger.count() == 0


def test_going_on_from_what_was_never_written(box: Box) -> None:
    asked = {"model": "homebox", "input": "hi"}
    first = box.http.post(ROUTES[1], json=asked, headers=OFF).json()
    again = box.http.post(ROUTES[1], json=asked | {"previous_response_id": first["id"]})
    assert again.status_code == 404
    assert again.json()["error"]["code"] == "previous_response_not_found"
    assert "off the record" in again.json()["error"]["message"]
    assert box.http.get(f"/v1/responses/{first['id']}").status_code == 404


def test_a_private_conversation(box: Box) -> None:
    word = marker()
    opening = said(say(box, "Hello"))
    history = ["Hello", opening, "/private"]
    first = say(box, *history)
    assert "off the record" in said(first)
    assert first.headers["x-homebox-record"] == "off"
    history += [said(first), f"I live in {word}."]
    second = say(box, *history)
    assert second.headers["x-homebox-record"] == "off"
    history += [said(second), f"/remember my dog is called {word}"]
    third = say(box, *history)
    assert "off the record" in said(third)
    assert traces(box, word) == []
    history += [said(third), "/private off"]
    fourth = say(box, *history)
    assert "on the record again" in said(fourth)
    assert "x-homebox-record" not in fourth.headers
    history += [said(fourth), "I have a cat."]
    fifth = say(box, *history)
    assert "x-homebox-record" not in fifth.headers
    turn = box.turn(fifth)
    assert turn is not None
    # The history still holds what was private; the ledger does not.
    assert [m.content for m in turn.prompt] == ["Hello", opening, "I have a cat."]
    assert [m.content for m in turn.messages] == ["I have a cat.", said(fifth)]
    assert traces(box, word) == []
    # Another conversation that begins with the same word is on the record.
    assert "x-homebox-record" not in say(box, "Hello").headers


def test_a_conversation_with_a_name_stays_private_without_its_history(box: Box) -> None:
    key = {"prompt_cache_key": "talk"}
    say(box, "/private", **key)
    assert say(box, "What now?", **key).headers["x-homebox-record"] == "off"
    title = [{"role": "system", "content": "You are a title generator."}, *talk("What now?")]
    asked = body("", **key) | {"messages": title}
    assert box.http.post(ROUTES[0], json=asked).headers["x-homebox-record"] == "off"
    assert "x-homebox-record" not in say(box, "What now?", prompt_cache_key="other").headers
    say(box, "/private off", **key)
    assert "x-homebox-record" not in say(box, "What now?", **key).headers


@pytest.mark.parametrize("route", ROUTES)
def test_private_in_every_endpoint(box: Box, route: str) -> None:
    for stream in (False, True):
        response = posted(box, route, "/private", stream)
        assert response.headers["x-homebox-record"] == "off"
    assert box.state.ledger.count() == 0


def test_a_private_key_is_private_for_good(tmp_path: Path, make_box: MakeBox) -> None:
    keys_at = tmp_path / "keys"
    keys_at.mkdir()
    open_keys(keys_at)
    private, public = add_key(keys_at, "diary", private=True), add_key(keys_at, "desk")
    ring = KeyRing(keys_at)
    box = make_box(keys=ring, notes=2000)

    def ask(key: str, text: str, **headers: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}", **headers}
        return box.http.post(ROUTES[0], json=body(text), headers=headers)

    word = marker()
    hidden = ask(private, f"My dog is called {word}.", **{"X-Homebox-Record": "on"})
    assert hidden.headers["x-homebox-record"] == "off"
    assert "only its sender" in said(ask(private, "/private off"))
    assert traces(box, word) == []
    shown = ask(public, f"My dog is called {word}.")
    assert "x-homebox-record" not in shown.headers
    assert traces(box, word) != []
    # Who reads the list sees which are which, and an older list still opens.
    assert '"private": true' in (keys_at / "keys.json").read_text()
    assert KeyRing(keys_at).find(public) == ring.find(public)


def test_what_breaks_off_the_record_leaves_nothing(
    box: Box, caplog: pytest.LogCaptureFixture
) -> None:
    word = marker()
    response = box.http.post(ROUTES[0], json=body(f"boom {word}"), headers=OFF)
    assert response.status_code == 500
    with box.http.stream(
        "POST", ROUTES[0], json=body(f"endless {word}", stream=True), headers=OFF
    ) as stream:
        next(stream.iter_bytes())
    box.run(box.server._answering.settled())
    assert traces(box, word, caplog.text) == []


@pytest.mark.parametrize("off", [True, False])
def test_no_prefix_of_it_lies_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, off: bool
) -> None:
    """What stays the same in prompts is kept on disk: of others it is, as the control shows."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    caplog.set_level(logging.DEBUG)
    model = load("tiny", slots=1)
    model.keep_prefixes(64 << 20)
    real: Any = RealModel(model)
    box = Box(tmp_path / "state", real, notes=48)
    word = "Brimbolska"
    system = {"role": "system", "content": f"You are a friend of {word}. " * 60}
    try:
        for text in ("Hello.", "Good morning."):
            asked = body("", max_tokens=2) | {"messages": [system, *talk(text)]}
            sent = box.http.post(ROUTES[0], json=asked, headers=OFF if off else {})
            assert sent.status_code == 200, sent.text
        assert model.disk is not None
        while box.engine.call(model.disk.idle).result(60):
            pass
        ids = np.array(model.tokenizer.encode(f" of {word}. You")[1:-1], np.int32).tobytes()
        files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
        found = [path.name for path in files if ids in path.read_bytes()]
    finally:
        box.close()
    assert bool(found) is not off
    assert bool(traces(box, word, caplog.text)) is not off


@pytest.mark.parametrize("off", [True, False])
@pytest.mark.parametrize("stream", [True, False])
def test_a_mistake_of_ours_puts_no_words_into_the_log(
    box: Box,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    stream: bool,
    off: bool,
) -> None:
    word = marker()

    def fails(shape: ChatShape, step: Any) -> bytes:
        raise ValueError(f"cannot say {word}")

    monkeypatch.setattr(ChatShape, "step", fails)
    asked = body("Hello", stream=stream)
    box.http.post(ROUTES[0], json=asked, headers=OFF if off else {})
    assert "an answer" in caplog.text
    assert (word in caplog.text) is not off
