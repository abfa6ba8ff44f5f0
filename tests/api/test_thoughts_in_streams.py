"""Budgets of thoughts over HTTP, with a model that thinks: a small random Qwen3 (see clients)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from homebox.model import load
from tests.api.box import Box, body, events
from tests.api.real import RealModel
from tests.clients.qwen3_folder import write_qwen3

MOST = 48
# As QwQ's and DeepSeek's templates end: every answer begins inside a thought.
BEGUN = (
    "{%- if add_generation_prompt and enable_thinking is not false %}{{- '<think>\n' }}{%- endif %}"
)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Iterator[Box]:
    folder = tmp_path_factory.mktemp("thinking")
    settings = write_qwen3(folder / "qwen3", shared) / "tokenizer_config.json"
    changed = json.loads(settings.read_text("utf-8"))
    changed["chat_template"] += BEGUN
    settings.write_text(json.dumps(changed), "utf-8")
    model: Any = RealModel(load(str(folder / "qwen3"), slots=2, context=512))
    box = Box(folder / "state", model)
    yield box
    box.close()


def asked(**fields: Any) -> dict[str, Any]:
    """Return a question; the weights are random, so no answer ends and no thought does."""
    return body("Tell me a short story.", max_tokens=MOST, temperature=1.0, seed=3) | fields


def whole(box: Box, fields: dict[str, Any]) -> tuple[str, str, str, dict[str, Any]]:
    response = box.http.post("/v1/chat/completions", json=fields)
    assert response.status_code == 200, response.text
    answer = response.json()
    message = answer["choices"][0]["message"]
    thought = message.get("reasoning_content") or ""
    reason = answer["choices"][0]["finish_reason"]
    return thought, message["content"] or "", reason, answer["usage"]


def streamed(box: Box, fields: dict[str, Any]) -> tuple[str, str, str, dict[str, Any]]:
    more = {"stream": True, "stream_options": {"include_usage": True}}
    thought, text, reason = "", "", ""
    with box.http.stream("POST", "/v1/chat/completions", json=fields | more) as response:
        *chunks, last, _ = events(response)
    for chunk in chunks:
        delta = chunk["choices"][0]["delta"]
        if delta.get("reasoning_content"):
            assert not text, "a thought came behind the answer"
        thought += delta.get("reasoning_content") or ""
        text += delta.get("content") or ""
        reason = chunk["choices"][0]["finish_reason"] or reason
    return thought, text, reason, last["usage"]


def test_without_a_budget_all_is_thought(box: Box) -> None:
    """The control: nothing but a budget ends the thoughts of these weights."""
    thought, text, reason, usage = whole(box, asked())
    assert (bool(thought), text, reason) == (True, "", "length")
    assert usage["completion_tokens"] == MOST
    assert MOST - 2 <= usage["completion_tokens_details"]["reasoning_tokens"] <= MOST


@pytest.mark.parametrize("budget", [0, 1, 5, 20])
def test_a_budget_ends_the_thought_and_the_answer_follows(box: Box, budget: int) -> None:
    found = whole(box, asked(reasoning_budget=budget))
    thought, text, reason, usage = found
    assert max(budget - 2, 0) <= usage["completion_tokens_details"]["reasoning_tokens"] <= budget
    assert (bool(thought), bool(text), reason) == (budget > 0, True, "length")
    assert "think>" not in text
    # It is the thought that would have been, up to there.
    assert whole(box, asked())[0].startswith(thought.strip())
    said = streamed(box, asked(reasoning_budget=budget))
    assert said[:3] == found[:3]
    for name in ("completion_tokens", "completion_tokens_details"):
        assert said[3][name] == usage[name]


def test_a_form_is_for_what_follows_the_thought(box: Box) -> None:
    form = {"type": "regex", "regex": "(yes|no), said the fox"}
    for read in (whole, streamed):
        thought, text, reason, _ = read(box, asked(reasoning_budget=6, response_format=form))
        assert thought
        assert (text in ("yes, said the fox", "no, said the fox"), reason) == (True, "stop")


def test_messages_have_budgets_too(box: Box) -> None:
    thinking = {"type": "enabled", "budget_tokens": 6}
    answer = box.http.post("/v1/messages", json=asked(thinking=thinking)).json()
    assert [block["type"] for block in answer["content"]] == ["thinking", "text"]
    assert answer["content"][0]["signature"] is not None
    off = box.http.post("/v1/messages", json=asked(thinking={"type": "disabled"})).json()
    assert [block["type"] for block in off["content"]] == ["text"]
    with box.http.stream("POST", "/v1/messages", json=asked(thinking=thinking, stream=True)) as r:
        lines = [line.removeprefix("data: ") for line in r.iter_lines() if line.startswith("data:")]
    events_ = [json.loads(line) for line in lines]
    starts = [each for each in events_ if each["type"] == "content_block_start"]
    assert [(s["index"], s["content_block"]["type"]) for s in starts] == [
        (0, "thinking"),
        (1, "text"),
    ]
    kinds = [each["delta"]["type"] for each in events_ if each["type"] == "content_block_delta"]
    assert kinds.index("signature_delta") < kinds.index("text_delta")
    joined = "".join(
        each["delta"].get("thinking", "")
        for each in events_
        if each["type"] == "content_block_delta"
    )
    assert joined == answer["content"][0]["thinking"]
