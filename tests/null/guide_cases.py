"""One made-up model for each format of calls: its marks, its template, how its calls begin."""

from dataclasses import dataclass, field
from typing import Any

from homebox.model.answers.section_formats import DEEPSEEK, DEEPSEEK_BEGIN, DEEPSEEK_END
from homebox.model.guides import Wanted
from tests.null.guided import END, Letters


@dataclass(frozen=True)
class Family:
    name: str
    marks: tuple[str, ...]
    template: str
    begins: str  # what a model writes, by which the guide knows that it calls
    end: str = END
    stops: tuple[str, ...] = ()
    made: list[Letters] = field(default_factory=list)

    @property
    def tokenizer(self) -> Letters:
        if not self.made:
            self.made.append(Letters(self.marks, self.template, self.end))
        return self.made[0]

    @property
    def stop_ids(self) -> list[int]:
        special = self.tokenizer.special
        return [special[mark] for mark in (self.end, *self.stops)]


def tool(name: str, properties: dict[str, Any], *required: str, **more: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(required), **more}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [
    tool(
        "get_weather",
        {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 0}},
        "city",
    ),
    tool(
        "run",
        {
            "code": {"type": "string"},
            "options": {"type": "object"},
            "fast": {"type": "boolean"},
            "limit": {"anyOf": [{"type": "number"}, {"type": "null"}]},
            "mode": {"enum": ["a", "b<"]},
            "list": {"type": "array", "items": {"type": "string", "maxLength": 3}},
            "level": {"enum": [1, 2]},
            "word": {"type": "string", "pattern": "^[a-z]+$", "minLength": 1, "maxLength": 4},
        },
        "code",
        "mode",
    ),
    tool("get_time", {}),
]
CALL = ("<tool_call>", "</tool_call>")
KEYS = ("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
SECTION = [DEEPSEEK.format(each) for each in ("call\u2581begin", "sep", "call\u2581end")]
KIMI = tuple(
    f"<|tool_call{each}|>"
    for each in ("s_section_begin", "s_section_end", "_begin", "_argument_begin", "_end")
)
HARMONY = ("<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|call|>")
FAMILIES = [
    Family("hermes", CALL, "<tool_call>", "<tool_call>"),
    Family("hermes, no tokens", (), "<tool_call>", "<tool_call>"),
    Family("thinking", (*CALL, "<think>", "</think>"), "<think><tool_call>", "<tool_call>"),
    Family("qwen coder", CALL, "<tool_call>\n<function=x>\n<parameter=y>", "<tool_call>"),
    Family("glm", (*CALL, *KEYS), "<tool_call><arg_key>", "<tool_call>"),
    Family("glm, no tokens", (), "<tool_call><arg_key>", "<tool_call>"),
    Family("glm 4.5", CALL, "<tool_call><arg_key></arg_key>\\n", "<tool_call>"),
    Family("built-in", CALL, "", "<tool_call>"),
    Family("seed", ("<seed:tool_call>", "</seed:tool_call>"), "x", "<seed:tool_call>"),
    Family("llama 3", ("<|python_tag|>",), '"parameters": ', "<|python_tag|>"),
    Family("mistral", ("[TOOL_CALLS]",), "x", "[TOOL_CALLS]"),
    Family("mistral 11", ("[TOOL_CALLS]", "[ARGS]"), "x", "[TOOL_CALLS]"),
    Family("mistral 13", ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"), "[CALL_ID]", "[TOOL_CALLS]"),
    Family("command-r", (), "Action:", "Action: ```json\n["),
    Family("command-a", ("<|START_ACTION|>", "<|END_ACTION|>"), "x", "<|START_ACTION|>"),
    Family("deepseek 3.1", (DEEPSEEK_BEGIN, DEEPSEEK_END, *SECTION), "x", DEEPSEEK_BEGIN),
    Family("deepseek 3", (DEEPSEEK_BEGIN, DEEPSEEK_END, *SECTION), "```json", DEEPSEEK_BEGIN),
    Family("kimi", KIMI, "x", KIMI[0]),
    Family("jamba", (), "<tool_calls></tool_calls>", "<tool_calls>"),
    Family("granite", ("<|tool_call|>",), "x", "<|tool_call|>"),
    Family("phi 4", ("<|tool_call|>", "<|/tool_call|>"), "x", "<|tool_call|>"),
    Family("nemotron", (), "<TOOLCALL></TOOLCALL>", "<TOOLCALL>"),
    Family("glaive", (), "<functioncall></functioncall>", "<functioncall>"),
    Family("firefunction", (), "functools", "functools["),
    Family("lfm2", ("<|tool_call_start|>", "<|tool_call_end|>"), "x", "<|tool_call_start|>"),
    Family("olmo 3", (), "<function_calls></function_calls>", "<function_calls>"),
    Family("functionary 3.2", (), ">>>", ">>>get_"),
    Family("functionary 3.1", (), "<function=", "<function="),
    Family(
        "gpt-oss",
        HARMONY,
        "x",
        "<|channel|>commentary to=",
        end="<|return|>",
        stops=("<|call|>",),
    ),
    Family("no format", (), "x", '{"name": "run"'),
]
BY_NAME = {family.name: family for family in FAMILIES}


def wanted(choice: str = "auto", parallel: bool = True, **more: Any) -> Wanted:
    return Wanted(tools=TOOLS, tool_choice=choice, parallel=parallel, **more)
