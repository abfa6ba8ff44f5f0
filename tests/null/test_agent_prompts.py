"""The recorded requests of agents, through the templates of real models."""

import json
from pathlib import Path

import pytest

from homebox.api.checks import parse
from homebox.errors import RequestError
from homebox.model.chat.template_chat import TemplateChat
from homebox.model.tokenizer.base import Tokenizer

# Templates that write tools and calls of tools.
MODELS = (
    "Qwen/Qwen3-0.6B",
    "Qwen/Qwen2.5-7B-Instruct",
    "zai-org/GLM-5.1",
    "meta-llama/Llama-3.1-8B-Instruct",
    "moonshotai/Kimi-K2-Thinking",
)


@pytest.mark.parametrize("model", MODELS)
def test_every_request_renders_and_every_tool_is_offered(
    shared: Path, qwen3: Tokenizer, model: str
) -> None:
    cases = json.loads((shared / "data/templates/chat_template_cases.json").read_text())
    template = next(case["template"] for case in cases if case["name"] == model)
    chat = TemplateChat(qwen3, template)
    rendered, called = 0, 0
    for path in sorted((shared / "clients/captures").glob("*/*POST_v1_chat_completions.json")):
        try:
            request = parse(json.dumps(json.loads(path.read_text())["body"]).encode())
        except RequestError:
            continue  # what no model can answer yet
        more = request.variables()
        if request.offered_tools:
            more["tools"] = request.offered_tools
        messages = request.rendered_messages()
        found = chat.render_text(messages, **more)
        assert chat.encode(found) == chat.render(messages, **more)
        for tool in request.offered_tools:
            assert tool["function"]["name"] in found.text
        said = {
            found.text[span.start : span.end]
            for span in found.spans
            if span.field == "tool_calls" and span.provenance == "assistant"
        }
        for message in request.messages:
            for call in message.tool_calls or ():
                # Kimi's template names a call by its id.
                assert call.function.name in said or (call.id in said and "Kimi" in model)
                called += 1
        rendered += 1
    assert rendered >= 20
    assert called >= 3
