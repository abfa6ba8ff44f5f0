"""OpenAI's own document judges what the endpoints of its API answer.

Requests drawn from the document are answered or refused, and never break anything.
"""

import copy
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import integers
from schemathesis import GenerationMode

from tests.api.box import Box
from tests.api.conftest import MakeBox
from tests.api.openai_document import Judge
from tests.api.telling_model import TellingModel, thinking

__all__ = ["thinking"]

JSON = "application/json"
EXAMPLES = {GenerationMode.POSITIVE: 40, GenerationMode.NEGATIVE: 16}  # for each endpoint
PARAMETERS = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "text": {"type": "string"}},
    "required": ["path", "text"],
}
TOOL = {"type": "function", "function": {"name": "edit", "parameters": PARAMETERS}}
FLAT = {"type": "function", "name": "edit", "parameters": PARAMETERS, "strict": True}
NAMED = {"type": "function", "name": "edit"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
HISTORY = [
    {"role": "user", "content": "call"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "edit", "arguments": "{}"}}
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "done"},
]
ITEMS = [
    {"role": "user", "content": "call"},
    {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]},
    {"type": "function_call", "call_id": "c1", "name": "edit", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "done"},
]
CHATS: list[dict[str, Any]] = [
    {},
    {"n": 2, "temperature": 1, "seed": 3},
    {"logprobs": True, "top_logprobs": 2},
    {"messages": [{"role": "user", "content": "think"}]},
    {"messages": [{"role": "user", "content": "call"}], "tools": [TOOL]},
    {
        "messages": [{"role": "user", "content": "call twice"}],
        "tools": [TOOL],
        "tool_choice": "required",
    },
    {"messages": HISTORY, "tools": [TOOL]},
    {"max_tokens": 3},
    {"stop": "said"},
    {"messages": [{"role": "user", "content": "nothing"}]},
]
COMPLETIONS: list[dict[str, Any]] = [
    {},
    {"prompt": ["one", "two"], "n": 2},
    {"prompt": [72, 105], "max_tokens": 0, "echo": True},
    {"prompt": [[72, 105], [72]], "logprobs": 2},
    {"echo": True, "logprobs": 3},
    {"logprobs": 0, "stop": ["said"]},
]
RESPONSES: list[dict[str, Any]] = [
    {},
    {"instructions": "Be brief.", "metadata": {"a": "b"}, "user": "u", "store": False},
    {"input": "think", "reasoning": {"effort": "low"}},
    {"input": "think", "reasoning": {"summary": "auto"}},
    {"input": "only think", "max_output_tokens": 20},
    {"input": "call", "tools": [FLAT]},
    {"input": "call twice", "tools": [FLAT], "tool_choice": {"type": "function", "name": "edit"}},
    {"input": "think and call", "tools": [FLAT], "parallel_tool_calls": False},
    {"input": ITEMS, "tools": [FLAT]},
    {
        "input": "call",
        "tools": [FLAT],
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [NAMED]},
    },
    {"text": {"format": {"type": "json_schema", "name": "f", "schema": SCHEMA, "strict": True}}},
    {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
    {"input": "count 40", "max_output_tokens": 16},
    {"input": "nothing"},
]  # fmt: skip


@pytest.fixture(scope="session")
def judge(shared: Path) -> Judge:
    return Judge(shared)


@pytest.fixture
def telling(make_box: MakeBox) -> Box:
    return make_box(TellingModel())


def chat(more: dict[str, Any]) -> dict[str, Any]:
    return {"model": "homebox", "messages": [{"role": "user", "content": "hello"}]} | more


def streamed(box: Box, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the events of a stream; checks that names of events are those in their data."""
    with box.http.stream("POST", path, json=body | {"stream": True}) as response:
        assert response.status_code == 200
        name = ""
        for line in response.iter_lines():
            kind, _, data = line.partition(": ")
            if kind == "event":
                name = data
            elif kind == "data" and data != "[DONE]":
                value = json.loads(data)
                assert not name or value["type"] == name
                yield value


def posted(box: Box, path: str, body: dict[str, Any]) -> Any:
    response = box.http.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_chat_completions(telling: Box, judge: Judge) -> None:
    for more in CHATS:
        judge.check(
            "CreateChatCompletionResponse", posted(telling, "/v1/chat/completions", chat(more))
        )
        usage = {"stream_options": {"include_usage": True}}
        chunks = list(streamed(telling, "/v1/chat/completions", chat(more | usage)))
        assert len(chunks) > 1
        for chunk in chunks:
            judge.check("CreateChatCompletionStreamResponse", chunk)


def test_completions(telling: Box, judge: Judge) -> None:
    for more in COMPLETIONS:
        body = {"model": "homebox", "prompt": "Once"} | more
        judge.check("CreateCompletionResponse", posted(telling, "/v1/completions", body))
        usage = {"stream_options": {"include_usage": True}}
        chunks = list(streamed(telling, "/v1/completions", body | usage))
        assert chunks
        for chunk in chunks:
            judge.check("CreateCompletionResponse", chunk)


def test_responses(telling: Box, judge: Judge) -> None:
    for more in RESPONSES:
        body = {"model": "homebox", "input": "hello"} | more
        judge.check("CreateResponse", body)
        value = posted(telling, "/v1/responses", body)
        judge.check("Response", value)
        if more.get("store") is not False:
            judge.check("Response", telling.http.get(f"/v1/responses/{value['id']}").json())
        for event in streamed(telling, "/v1/responses", body):
            judge.check_event(event)


def test_embeddings_and_models(telling: Box, judge: Judge) -> None:
    for texts in ("a", ["a", "b"], [1, 2]):
        body = {"model": "homebox", "input": texts}
        judge.check("CreateEmbeddingResponse", posted(telling, "/v1/embeddings", body))
    models = telling.http.get("/v1/models").json()
    judge.check("ListModelsResponse", models)
    for model in models["data"]:
        judge.check("Model", telling.http.get(f"/v1/models/{model['id']}").json())


def kind(name: str) -> dict[str, str]:
    return {"Content-Type": name}


def test_errors(telling: Box, judge: Judge) -> None:
    http = telling.http
    wrong = [
        http.post("/v1/chat/completions", json=chat({"model": "nope"})),
        http.post("/v1/chat/completions", content=b"{", headers=kind("application/json")),
        http.post("/v1/chat/completions", json=chat({"max_tokens": "x"})),
        http.post("/v1/responses", json={"model": "homebox", "input": "x" * 9000}),
        http.post("/v1/completions", json={"model": "homebox", "prompt": "a", "suffix": "b"}),
        http.post("/v1/responses", json={"model": "homebox", "input": [{"type": "image"}]}),
        http.get("/v1/responses/resp_0"),
        http.get("/v1/models/nope"),
        http.get("/v1/nothing"),
        http.put("/v1/models"),
        http.post("/v1/chat/completions", content=b"x", headers=kind("text/plain")),
        http.get("/v1/models", headers={"Origin": "https://evil.example"}),
    ]  # fmt: skip
    for response in wrong:
        assert 400 <= response.status_code < 500
        judge.check("ErrorResponse", response.json())


def test_what_the_sdk_was_seen_to_send(telling: Box, judge: Judge, shared: Path) -> None:
    answered: Counter[str] = Counter()
    for file in sorted((shared / "clients/captures/sdk").glob("*_POST_*.json")):
        recorded = json.loads(file.read_text(encoding="utf-8"))
        path, body = recorded["path"], recorded["body"] | {"model": "homebox"}
        name = SAID[path.removeprefix("/v1")]
        response = telling.http.post(path, json=body | {"stream": False})
        answered[path] += response.status_code == 200
        judge.check(name if response.status_code == 200 else "ErrorResponse", response.json())
        if body.get("stream"):
            for event in streamed(telling, path, body):
                if "responses" in path:
                    judge.check_event(event)
    assert answered["/v1/responses"] == 3
    assert answered["/v1/completions"] == 1
    assert answered["/v1/chat/completions"] > 10


def test_a_stream_that_breaks(telling: Box, judge: Judge) -> None:
    body = {"model": "homebox", "input": "boom"}
    events = list(streamed(telling, "/v1/responses", body))
    for event in events:
        judge.check_event(event)
    assert events[-1]["type"] == "response.failed"
    kept = telling.http.get(f"/v1/responses/{events[-1]['response']['id']}").json()
    judge.check("Response", kept)
    assert kept["status"] == "failed"


def _without(value: Any, *path: str | int) -> Any:
    broken = copy.deepcopy(value)
    inner = broken
    for step in path[:-1]:
        inner = inner[step]
    del inner[path[-1]]
    return broken


def test_control_a_broken_answer_is_not_let_through(telling: Box, judge: Judge) -> None:
    completion = posted(telling, "/v1/chat/completions", chat({}))
    response = posted(telling, "/v1/responses", {"model": "homebox", "input": "think"})
    events = list(streamed(telling, "/v1/responses", {"model": "homebox", "input": "think"}))
    broken = [
        ("CreateChatCompletionResponse", _without(completion, "choices", 0, "message", "content")),
        ("CreateChatCompletionResponse", completion | {"created": "now"}),
        ("Response", _without(response, "tools")),
        ("Response", _without(response, "output", 1, "content", 0, "annotations")),
        ("Response", response | {"status": "done"}),
        ("ErrorResponse", {"error": "no"}),
        ("CreateCompletionResponse", completion),
    ]
    for name, value in broken:
        with pytest.raises(ValueError, match=name):
            judge.check(name, value)
    for event in events:
        with pytest.raises(ValueError, match="sequence_number"):
            judge.check_event(_without(event, "sequence_number"))


POSTS = ("/chat/completions", "/completions", "/responses", "/embeddings")
GOOD: dict[str, dict[str, Any]] = {
    "/chat/completions": {"messages": [{"role": "user", "content": "call"}], "tools": [TOOL]},
    "/completions": {"prompt": "Once"},
    "/responses": {"input": "call", "tools": [FLAT]},
    "/embeddings": {"input": "Once"},
}
SAID = {
    "/chat/completions": "CreateChatCompletionResponse",
    "/completions": "CreateCompletionResponse",
    "/responses": "Response",
    "/embeddings": "CreateEmbeddingResponse",
}


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_requests_drawn_from_the_document(
    path: str, mode: GenerationMode, telling: Box, judge: Judge
) -> None:
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=EXAMPLES[mode],
        phases=[Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=judge.operation(path).as_strategy(generation_mode=mode), place=integers(0, 40))
    def post(case: Any, place: int) -> None:
        body = case.body
        if isinstance(body, dict) and place:  # one drawn field in a request that is good
            name = list(body)[place % len(body)] if body else "model"
            body = GOOD[path] | {name: body.get(name)} | {"model": "homebox"}
        content = body if isinstance(body, bytes) else json.dumps(body, default=str).encode()
        response = telling.http.post("/v1" + path, content=content, headers=kind(JSON))
        statuses[response.status_code] += 1
        assert response.status_code < 500, (body, response.text)
        if response.headers["Content-Type"].startswith(JSON):
            name = SAID[path] if response.status_code == 200 else "ErrorResponse"
            judge.check(name, response.json())

    post()
    assert statuses.total() >= EXAMPLES[mode] // 2
    assert any(400 <= status < 500 for status in statuses)
    if mode is GenerationMode.POSITIVE:
        assert statuses[200], statuses
    assert telling.chat("alive").status_code == 200
