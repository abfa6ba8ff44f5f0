"""What a model's own template writes of an assistant's turn is read back as that turn.

The templates are those of the shared data; a turn is what the rendered text has more with it.
"""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from homebox.model.answers import AnswerParser, Dialect, dialect_of
from homebox.model.chat import render_template
from tests.null.answer_cases import CODE, TOOLS, outcome
from tests.null.test_answers import EVERYTHING

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("get_weather", {"city": 'Tromsø "</tool_call>" 🌧', "days": 3}),
    ("run", {"code": CODE, "options": {"deep": [{}, [1.5, None]]}, "fast": True}),
]
# template -> how many calls a turn may have, and what ends the turn
FAMILIES = {
    "mistralai/Mistral-7B-Instruct-v0.3 (JSON Schema)": (2, "</s>"),
    "NousResearch/Hermes-2-Pro-Llama-3-8B (JSON Schema)": (2, "<|im_end|>"),
    "meta-llama/Llama-3.1-8B-Instruct": (1, "<|eot_id|>"),
    "Qwen/Qwen2.5-7B-Instruct": (2, "<|im_end|>"),
    "Qwen/Qwen3-0.6B": (2, "<|im_end|>"),
    "CohereLabs/c4ai-command-a-03-2025": (2, "<|END_OF_TURN_TOKEN|>"),
    "ai21labs/AI21-Jamba-Large-1.6": (2, "<|eom|>"),
    "moonshotai/Kimi-K2-Thinking": (2, "<|im_end|>"),
    "zai-org/GLM-5.1": (2, None),
}


def cases(shared: Path) -> dict[str, Any]:
    path = shared / "data" / "templates" / "chat_template_cases.json"
    return {case["name"]: case for case in json.loads(path.read_text(encoding="utf-8"))}


def message(calls: list[tuple[str, dict[str, Any]]], name: str) -> dict[str, Any]:
    written = [
        {
            "id": f"functions.{tool}:{number}" if "Kimi" in name else f"abcdef12{number}",
            "type": "function",
            "function": {"name": tool, "arguments": arguments},
        }
        for number, (tool, arguments) in enumerate(calls)
    ]
    return {"role": "assistant", "content": "", "tool_calls": written}


def described() -> list[dict[str, Any]]:
    tools = copy.deepcopy(TOOLS)
    for tool in tools:
        tool["function"]["description"] = "A tool."
        for schema in tool["function"]["parameters"]["properties"].values():
            schema |= {"description": "A value.", "type": schema.get("type", "number")}
    return tools


def rendered(case: dict[str, Any], messages: list[dict[str, Any]], more: bool) -> str:
    ends = {"bos_token": "<s>", "eos_token": "</s>"}
    variables = ends | {key: case["data"][key] for key in ends if key in case["data"]}
    return render_template(
        case["template"],
        messages=messages,
        tools=described(),
        add_generation_prompt=more,
        **variables,
    )


def turn(case: dict[str, Any], end: str | None, said: dict[str, Any]) -> tuple[str, str]:
    """Render a turn of the assistant's: the prompt before it, and its text without its end."""
    asked = [{"role": "user", "content": "Weather?"}]
    prompt = rendered(case, asked, more=True)
    whole = rendered(case, [*asked, said], more=False)
    assert whole.startswith(prompt)
    answer = whole[len(prompt) :]
    return prompt, answer if end is None else answer[: answer.index(end)]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_rendered_turn_is_read_back(name: str, shared: Path) -> None:
    case = cases(shared)[name]
    most, end = FAMILIES[name]
    calls = CALLS[:most]
    prompt, answer = turn(case, end, message(calls, name))
    expected = [("call", tool, arguments) for tool, arguments in calls]
    for dialect in (dialect_of(case["template"]), EVERYTHING):
        parser = AnswerParser(dialect, described(), prompt)
        events = [event for piece in answer for event in parser.feed(piece)] + parser.end()
        assert outcome(events) == expected
    # The control: what does not know the model's marks reads none of it, but for bare JSON.
    blind = AnswerParser(Dialect(), described(), prompt)
    found = outcome(blind.feed(answer) + blind.end())
    assert (found == expected) == ("Llama-3.1" in name)


@pytest.mark.parametrize("name", ["Qwen/Qwen3-0.6B", "zai-org/GLM-5.1"])
def test_a_rendered_thought_is_read_back(name: str, shared: Path) -> None:
    case = cases(shared)[name]
    said = {"role": "assistant", "content": "Rain.", "reasoning_content": "Wet,\nI think"}
    prompt, answer = turn(case, FAMILIES[name][1], said)
    parser = AnswerParser(dialect_of(case["template"]), (), prompt)
    events = parser.feed(answer) + parser.end()
    assert outcome(events) == [("thought", "Wet,\nI think"), ("text", "Rain.")]
