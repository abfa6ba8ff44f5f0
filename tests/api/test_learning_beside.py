"""Chats in every phase of a real learning run say what they say without one, on their weights."""

import json
import threading
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from homebox.config import load_config
from homebox.daemon import Box, running
from homebox.hosting.parts import real_parts
from homebox.language.turns import assistant, user
from homebox.learning.exam.examinee import ModelExaminee
from homebox.learning.exam.limits import AMOUNTS
from homebox.learning.exam.questions import Question
from homebox.learning.gate import trial
from homebox.learning.gate.judging import Check, Verdict
from homebox.model import GenerationRequest, SamplingParams
from homebox.model.model import load
from tests.api.learn_under_load import ask

QUESTION = "What do fish eat?"
PHASES = ("verify", "select", "prepare", "train", "gate", "promote")


class Phases:
    """Lets each phase of a run go on once a chat has begun in it, which then runs beside it."""

    def __init__(self) -> None:
        self.url = ""
        self.told: dict[str, tuple[str, str]] = {}  # phase -> weights, text
        self._threads: list[threading.Thread] = []

    def learn(self, *words: Any, **more: Any) -> Generator[Any, None, Any]:
        steps = real_parts().learn(*words, **more)
        seen: set[str] = set()
        try:
            while True:
                progress = next(steps)
                yield progress
                if progress.stage not in seen:
                    seen.add(progress.stage)
                    begun = threading.Event()
                    thread = threading.Thread(target=self._chat, args=(progress.stage, begun))
                    thread.start()
                    self._threads.append(thread)
                    while not begun.is_set():
                        yield progress
        except StopIteration as done:
            return done.value

    def _chat(self, phase: str, begun: threading.Event) -> None:
        try:
            self.told[phase] = said(self.url, begun)
        finally:
            begun.set()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)


def said(url: str, begun: threading.Event | None = None) -> tuple[str, str]:
    """Ask for a long answer, the likeliest one; return weights and the whole stream's words."""
    body = {"model": "homebox", "messages": [{"role": "user", "content": QUESTION}]}
    body |= {"max_tokens": 120, "temperature": 0, "stream": True, "logit_bias": {"6": -100}}
    lines = []
    with (
        httpx.Client(base_url=url, trust_env=False, timeout=120) as http,
        http.stream("POST", "/v1/chat/completions", json=body) as got,
    ):
        assert got.status_code == 200
        for line in got.iter_lines():
            if '"content":"' in line.replace(" ", "") and begun is not None:
                begun.set()
            lines.append(line)
        assert "data: [DONE]" in lines
        return got.headers["x-homebox-weights"], words(lines)


def words(lines: list[str]) -> str:
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    choices = [choice for event in events for choice in event["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Phases:
    """A run whose exam is short and always passed."""
    few = {"untold": 1, "strangers": 1, "world": 1, "facts": 1, "tools": 1, "anchors": 1}
    monkeypatch.setitem(AMOUNTS, "tiny", replace(AMOUNTS["tiny"], **few))
    passed = Check("all", "all", 1.0, 1.0, True, 1)
    monkeypatch.setattr(trial, "judge", lambda *_: Verdict((passed,)))
    return Phases()


@pytest.fixture
def box(tmp_path: Path, quick: Phases) -> Iterator[Box]:
    settings = {
        "paths.state": str(tmp_path / "state"),
        "server.port": 0,
        "server.require_token": False,
        "learning.steps": 2,
        "learning.batch": 2,
        "learning.learning_rate": 0.03,  # enough for other words after two steps
    }
    parts = replace(real_parts(), learn=quick.learn)
    with running(load_config(None, settings, {}), parts) as box:
        quick.url = box.url
        yield box


def test_chats_in_every_phase_say_what_they_say_without_learning(box: Box, quick: Phases) -> None:
    ask(box.url, "My dog is called Quark.")
    before = said(box.url)
    assert before[0] == "base"
    report = box.learn()
    quick.join()
    assert report.promoted
    assert report.data["swap"]["pause_ms"] >= 0
    assert set(quick.told) == set(PHASES)
    assert all(found == before for found in quick.told.values())
    weights, text = said(box.url)
    assert weights == report.weights
    assert text != before[1]  # the control: other weights do say something else


def test_an_exam_waits_for_memory_that_answers_have_and_its_marks_stay_the_same() -> None:
    model = load("tiny", context=128, slots=3, kv_memory=1)  # three pages of 64 positions
    examinee = ModelExaminee(model)
    anchor = [[user("What do fish eat?"), assistant("I do not know what fish eat.")]]
    messages = [{"role": "user", "content": QUESTION}]
    question = [Question("", messages, "")]

    def over(steps: Generator[None, None, Any], most: int) -> Any:
        try:
            for _ in range(most):
                next(steps)
        except StopIteration as done:
            return done.value
        return None

    alone = (
        over(examinee.divergence(anchor, "base"), 1000),
        over(examinee.answers(question, "base"), 1000),
    )
    assert None not in alone
    prompt = model.chat.render(messages)
    busy = [
        model.start(GenerationRequest(prompt, SamplingParams(max_tokens=most), owner="x"))
        for most in (100, 9)
    ]
    waiting = examinee.divergence(anchor, "base"), examinee.answers(question, "base")
    assert [over(each, 20) for each in waiting] == [None, None]
    for each in busy:  # whoever was there first ends undisturbed
        while not each.finished:
            each.step()
        assert each.completion_tokens
    model.interrupt.set()  # in the smallest steps, too
    assert tuple(over(each, 1000) for each in waiting) == alone
    assert all(model.slots.take() >= 0 for _ in range(3))  # all of them came back
