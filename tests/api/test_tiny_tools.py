"""The built-in model calls tools through the whole server, asked by OpenAI's own client."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from homebox.model import load
from tests.api.box import Box
from tests.api.real import RealModel


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    served: Any = RealModel(load("tiny", slots=2))
    box = Box(tmp_path_factory.mktemp("tiny") / "state", served)
    yield box
    box.close()


@pytest.fixture
def client(box: Box) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{box.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def tool(name: str, argument: str) -> Any:
    properties = {argument: {"type": "string"}}
    parameters = {"type": "object", "properties": properties, "required": [argument]}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [tool("get_weather", "city"), tool("read_file", "path")]


@pytest.mark.parametrize(
    ("question", "name", "arguments"),
    [
        ("What is the weather in Oslo?", "get_weather", {"city": "Oslo"}),
        ("Read the file soup.txt.", "read_file", {"path": "soup.txt"}),
    ],
)
def test_a_round_trip(
    box: Box, client: openai.OpenAI, question: str, name: str, arguments: dict[str, str]
) -> None:
    talk: list[Any] = [{"role": "user", "content": question}]
    with client.chat.completions.stream(model="homebox", messages=talk, tools=TOOLS) as stream:
        for _ in stream:
            pass
        choice = stream.get_final_completion().choices[0]
    assert choice.finish_reason == "tool_calls"
    assert not choice.message.content
    assert choice.message.role == "assistant"
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.function.name == name
    assert json.loads(call.function.arguments) == arguments
    function = {"name": name, "arguments": call.function.arguments.replace(" ", "")}
    talk += [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": call.id, "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": call.id, "content": "a kettle"},
    ]
    second = client.chat.completions.create(model="homebox", messages=talk, tools=TOOLS)
    assert "a kettle" in str(second.choices[0].message.content)
    # The next prompt goes on with the very tokens that were read and said.
    served: Any = box.model
    before, after = served.prompts[-2:]
    said = (
        f"<tool_call> {name} {next(iter(arguments))}: {next(iter(arguments.values()))}</tool_call>"
    )
    ids = [*before, *served.tokenizer.encode_answer(said), served.tokenizer.special["<|end|>"]]
    assert after[: len(ids)] == ids


def test_without_tools_nothing_is_called(client: openai.OpenAI) -> None:
    talk: list[Any] = [{"role": "user", "content": "What is the weather in Oslo?"}]
    for more in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        answer = client.chat.completions.create(model="homebox", messages=talk, **more)  # type: ignore[call-overload]
        assert answer.choices[0].message.tool_calls is None
        assert answer.choices[0].finish_reason == "stop"
