"""Bodies of every shape with anything anywhere in them: refused or answered, never a fault.

A good request of each endpoint gets drawn values in drawn places, so that most of it is understood
and the odd part is reached.
"""

import copy
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.api.box import Box
from tests.api.conftest import MakeBox
from tests.api.telling_model import TellingModel, thinking

__all__ = ["thinking"]

SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}}
FUNCTION = {"name": "edit", "description": "d", "parameters": SCHEMA, "strict": True}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "call"}]},
            {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "edit", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c", "content": "done"},
        ],
        "tools": [{"type": "function", "function": FUNCTION}],
        "tool_choice": "auto",
        "response_format": {"type": "json_schema", "json_schema": {"name": "f", "schema": SCHEMA}},
        "logit_bias": {"5": 1}, "stop": ["x"], "n": 1, "stream_options": {"include_usage": True},
        "chat_template_kwargs": {"a": 1}, "logprobs": True, "top_logprobs": 1,
    },
    "/v1/responses": {
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "call"}]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
            {"type": "function_call", "call_id": "c", "name": "edit", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "done"},
        ],
        "instructions": "x",
        "tools": [{"type": "function", **FUNCTION}],
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"name": "edit"}]},
        "text": {"format": {"type": "json_schema", "name": "f", "schema": SCHEMA}},
        "reasoning": {"effort": "low", "summary": "auto"}, "metadata": {"a": "b"},
        "include": ["message.output_text.logprobs"], "previous_response_id": None, "store": True,
    },
    "/v1/messages": {
        "max_tokens": 99,
        "system": [{"type": "text", "text": "x"}],
        "messages": [
            {"role": "user", "content": "call"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "tool_use", "id": "c", "name": "edit", "input": {"path": "a"}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "c", "is_error": True,
                 "content": [{"type": "text", "text": "done"}]},
                {"type": "text", "text": "go on"}]},
        ],
        "tools": [{"name": "edit", "input_schema": SCHEMA}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "thinking": {"type": "enabled", "budget_tokens": 9}, "metadata": {"user_id": "u"},
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}, "effort": "low"},
        "stop_sequences": ["x"],
    },
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "x"}], "system": "y"},
    "/v1/completions": {
        "prompt": [[72, 105]], "max_tokens": 5, "echo": True, "logprobs": 1, "n": 1, "best_of": 1,
        "stop": "x", "logit_bias": {"5": 1}, "suffix": "", "seed": 3, "temperature": 0.5,
    },
}  # fmt: skip
WORDS = st.sampled_from(
    ["", "auto", "none", "text", "type", "role", "name", "assistant", "system", "edit", "c",
     "\ud800", "input", "content", "resp_0", "\x00", "<|im_end|>", "é", "json_schema", "$ref", "{"]
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from([1e308, -1, 2**63, 2**70, 0.5])
    | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value inside a value."""
    if path:
        yield path
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from places(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*path, index))


def with_value(body: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(body)
    inner: Any = changed
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return changed


@pytest.mark.parametrize("path", list(BODIES))
def test_anything_anywhere(path: str, make_box: MakeBox) -> None:
    box: Box = make_box(TellingModel())
    body = BODIES[path] | {"model": "homebox", "stream": False}
    found = list(places(body))
    statuses: Counter[int] = Counter()
    whole = box.http.post(path, json=body)
    assert whole.status_code == 200, whole.text

    @settings(
        max_examples=100,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(place=st.sampled_from(found), value=VALUES)
    def post(place: tuple[Any, ...], value: Any) -> None:
        content = json.dumps(with_value(body, place, value)).encode()
        response = box.http.post(
            path, content=content, headers={"Content-Type": "application/json"}
        )
        statuses[response.status_code] += 1
        assert response.status_code < 500, (place, value, response.text)
        if response.status_code != 200 and response.headers["Content-Type"] != "text/event-stream":
            assert response.json()["error"]["message"]

    post()
    assert set(statuses) <= {200, 400, 404}
    assert statuses[400] > 5
    if path != "/v1/messages/count_tokens":
        assert statuses[200] > 5
    assert box.chat("alive").status_code == 200
