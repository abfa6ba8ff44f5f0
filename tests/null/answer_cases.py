"""Answers in the formats that models write, and what they say; and ways to parse and compare them.

An outcome is a list of ("text", ...), ("thought", ...) and ("call", name, arguments) in order.
"""

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from homebox.model.answers import (
    AnswerParser,
    CallArguments,
    CallBegins,
    CallEnds,
    Event,
    Markup,
    Text,
    Thought,
    dialect_of,
)
from homebox.model.answers.section_formats import DEEPSEEK, DEEPSEEK_BEGIN, DEEPSEEK_END


def tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [
    tool("get_weather", city={"type": "string"}, days={"type": "integer"}),
    tool(
        "run",
        code={"type": "string"},
        options={"type": "object"},
        fast={"type": "boolean"},
        limit={"anyOf": [{"type": "number"}, {"type": "null"}]},
    ),
    tool("get_time"),
]
OSLO = ("call", "get_weather", {"city": "Oslo"})
BERGEN = ("call", "get_weather", {"city": "Bergen", "days": 3})
NOW = ("call", "get_time", {})
CODE = 'if a < b:\n\tprint("</tool_call> {é}")  # 😀'
RUN = ("call", "run", {"code": CODE, "options": {"deep": [{}, [1.5e3]]}, "fast": True})
J_OSLO = '{"name": "get_weather", "arguments": {"city": "Oslo"}}'
J_BERGEN = '{"arguments": {"city": "Bergen", "days": 3}, "name": "get_weather"}'
J_RUN = json.dumps({"name": "run", "arguments": RUN[2]}, ensure_ascii=False)
A_OSLO, A_BERGEN = '{"city": "Oslo"}', '{"city":"Bergen","days":3}'
A_RUN = json.dumps(RUN[2])
CALL_BEGIN, CALL_END = DEEPSEEK.format("call\u2581begin"), DEEPSEEK.format("call\u2581end")
SEP = DEEPSEEK.format("sep")


@dataclass(frozen=True)
class Case:
    name: str
    signs: str  # what the model's template holds
    text: str
    outcome: list[Any]
    prompt: str = ""
    tools: Sequence[Any] = field(default_factory=lambda: TOOLS)


def stays(name: str, signs: str, text: str, **more: Any) -> Case:
    return Case(name, signs, text, [("text", text)], **more)


HERMES = "<tool_call>"
CODER = "<tool_call><function="
GLM = "<tool_call><arg_key>"
THINK = "<think><tool_call>"
LLAMA = "<|python_tag|>"
MISTRAL = "[TOOL_CALLS][THINK]"
COMMAND = "Action:"
COMMAND_A = "<|START_ACTION|><|START_THINKING|><|START_RESPONSE|><|END_RESPONSE|>"
KIMI = "<|tool_calls_section_begin|>"
HARMONY = "<|start|><|channel|>"

CASES = [
    # Hermes, Qwen
    Case("one", HERMES, f"<tool_call>\n{J_OSLO}\n</tool_call>", [OSLO]),
    Case(
        "around",
        HERMES,
        f"Let me see.\n<tool_call>{J_OSLO}</tool_call>\nAnd\n\n"
        f"<tool_call>\n{J_RUN}\n</tool_call> ok\n",
        [("text", "Let me see."), OSLO, ("text", "And"), RUN, ("text", "ok\n")],
    ),
    Case(
        "parallel",
        HERMES,
        f"<tool_call>{J_BERGEN}</tool_call>\n<tool_call>\n{J_OSLO}</tool_call>",
        [BERGEN, OSLO],
    ),
    Case("several in one", HERMES, f"<tool_call>{J_OSLO}\n{J_BERGEN}</tool_call>", [OSLO, BERGEN]),
    Case("no end mark", HERMES, f"<tool_call>\n{J_OSLO}\n", [OSLO]),
    Case("no end, more", HERMES, f"<tool_call>{J_OSLO}<tool_call>{J_BERGEN}", [OSLO, BERGEN]),
    Case("fenced", HERMES, f"<tool_call>```json\n{J_OSLO}\n```</tool_call>", [OSLO]),
    Case("no arguments", HERMES, '<tool_call>{"name": "get_time"}</tool_call>', [NOW]),
    Case("null", HERMES, '<tool_call>{"name":"get_time","arguments":null}</tool_call>', [NOW]),
    Case(
        "as the API has it",
        HERMES,
        '<tool_call>{"type":"function","function":{"name":"get_weather","arguments":'
        '"{\\"city\\": \\"Oslo\\"}"},"id":"x"}</tool_call>',
        [OSLO],
    ),
    Case(
        "raw line ends",
        HERMES,
        '<tool_call>{"name":"run","arguments":{"code":"a\n\tb\\u00e9\\ud83d\\ude00"}}</tool_call>',
        [("call", "run", {"code": "a\n\tbé😀"})],
    ),
    Case(
        "unknown tool",
        HERMES,
        '<tool_call>{"name":"fly","arguments":{}}</tool_call>',
        [("call", "fly", {})],
    ),
    stays("truncated", HERMES, '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Os'),
    stays("only the mark", HERMES, "Then <tool_call>"),
    stays("half a mark", HERMES, "Then <tool_c"),
    stays(
        "mark in code", HERMES, "The literal token `<tool_call>` begins `<tool_call>{`, it says."
    ),
    stays("mark in a sentence", HERMES, "A <tool_call> holds JSON until </tool_call>, I think."),
    stays("nonsense", HERMES, "<tool_call>{]]}</tool_call>"),
    stays("no JSON", HERMES, "<tool_call>{'name': 'get_weather', 'arguments': {}}</tool_call>"),
    stays("no object", HERMES, '<tool_call>{"name":"get_weather","arguments":[1]}</tool_call>'),
    stays("text object", HERMES, '<tool_call>{"name":"get_time","arguments":"[]"}</tool_call>'),
    stays("nan", HERMES, '<tool_call>{"name":"get_weather","arguments":{"days":NaN}}</tool_call>'),
    stays("huge", HERMES, '<tool_call>{"name":"run","arguments":{"limit":1e999}}</tool_call>'),
    stays("a key twice", HERMES, '<tool_call>{"name":"run","arguments":{"a":1,"\\u0061":2}}'),
    stays("name twice", HERMES, '<tool_call>{"name":"run","name":"get_time"}</tool_call>'),
    stays("twice, deeper", HERMES, '<tool_call>{"args":{},"function":{"name":"run","args":{}}}'),
    stays("functions", HERMES, '<tool_call>{"function":{"name":"run"},"function":{"args":{}}}'),
    stays("also", HERMES, '<tool_call>{"function":{"args":{}},"function":{"name":"run"}}'),
    stays("no name", HERMES, '<tool_call>{"arguments":{}}</tool_call>'),
    stays("odd name", HERMES, '<tool_call>{"name":"a b"}</tool_call>'),
    stays("half a pair", HERMES, '<tool_call>{"name":"run","arguments":{"code":"\\ud83d"}}'),
    stays("no tools", HERMES, f"<tool_call>{J_OSLO}</tool_call>", tools=()),
    Case(
        "after nonsense",
        HERMES,
        f"<tool_call><tool_call>x<tool_call>{J_OSLO}</tool_call>",
        [("text", "<tool_call><tool_call>x"), OSLO],
    ),
    Case(
        "good, then bad",
        HERMES,
        f"<tool_call>{J_OSLO}</tool_call>\n<tool_call>{{bad}}</tool_call>",
        [OSLO, ("text", "<tool_call>{bad}</tool_call>")],
    ),
    # thoughts
    Case(
        "thought",
        THINK,
        "<think>\nhm, 1 < 2\n</think>\n\nHello",
        [("thought", "hm, 1 < 2"), ("text", "Hello")],
    ),
    Case(
        "thought, call",
        THINK,
        f"<think>I say <tool_call>{J_OSLO}</tool_call></think>\n<tool_call>{J_OSLO}</tool_call>",
        [("thought", f"I say <tool_call>{J_OSLO}</tool_call>"), OSLO],
    ),
    Case("empty thought", THINK, "<think>\n\n</think>\n\nHello", [("text", "Hello")]),
    Case(
        "opened by the template",
        THINK,
        "so\n</think>\nHello",
        [("thought", "so"), ("text", "Hello")],
        prompt="<|im_start|>assistant\n<think>\n",
    ),
    Case(
        "opened twice",
        THINK,
        "\n<think>\nso</think>Hello",
        [("thought", "so"), ("text", "Hello")],
        prompt="<think>",
    ),
    Case(
        "closed by the template",
        THINK,
        "Hello",
        [("text", "Hello")],
        prompt="<think>\n\n</think>\n\n",
    ),
    Case("closed again", THINK, "</think>\nHello", [("text", "Hello")]),
    Case("thought without an end", THINK, "<think>a </thin", [("thought", "a </thin")]),
    Case(
        "thoughts without tools",
        THINK,
        "<think>a</think>b",
        [("thought", "a"), ("text", "b")],
        tools=(),
    ),
    Case(
        "between calls",
        THINK,
        f"<tool_call>{J_OSLO}</tool_call>\n<think>b</think>\n<tool_call>{J_OSLO}</tool_call>",
        [OSLO, ("thought", "b"), OSLO],
    ),
    stays("thought in a sentence", THINK, "The tags <think> and </think> are marks."),
    stays("unknown thought", HERMES, "<think>a</think>b"),
    *(
        Case(
            f"thought {mark}", f"x{close}", f"{mark} a {close} b", [("thought", "a"), ("text", "b")]
        )
        for mark, close in (
            ("<thinking>", "</thinking>"),
            ("<thought>", "</thought>"),
            ("<reasoning>", "</reasoning>"),
            ("<seed:think>", "</seed:think>"),
            ("[THINK]", "[/THINK]"),
            ("◁think▷", "◁/think▷"),
            ("<|START_THINKING|>", "<|END_THINKING|>"),
        )
    ),
    # Qwen3-coder
    Case(
        "one",
        CODER,
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>",
        [OSLO],
    ),
    Case(
        "typed",
        CODER,
        f"ok\n<tool_call>\n<function=run>\n<parameter=code>\n{CODE}\n</parameter>\n<parameter=options>\n"
        '{"deep": [{}, [1.5e3]]}\n</parameter>\n<parameter=fast>\nTrue\n</parameter>\n</function>\n'
        "</tool_call>",
        [("text", "ok"), RUN],
    ),
    Case(
        "values that are none",
        CODER,
        "<tool_call><function=run><parameter=fast>soon</parameter><parameter=code>7</parameter>"
        "<parameter=limit>None</parameter><parameter=other>8</parameter></function></tool_call>",
        [("call", "run", {"fast": "soon", "code": "7", "limit": None, "other": "8"})],
    ),
    Case(
        "parallel, no outer mark",
        CODER,
        "<function=get_time>\n</function>\n</tool_call>\n<tool_call>\n<function=get_weather><parameter=city>"
        "Bergen</parameter><parameter=days>3</parameter></function></tool_call> bye",
        [NOW, BERGEN, ("text", "bye")],
    ),
    Case(
        "as Python prints it",
        CODER,
        "<function=run><parameter=options>{'deep': [{}, \"it's\", 'a\\\\n\\'', None, -1.5, True]}"
        "</parameter></function>",
        [("call", "run", {"options": {"deep": [{}, "it's", "a\\n'", None, -1.5, True]}})],
    ),
    Case(
        "Seed",
        "<seed:tool_call>",
        "<seed:tool_call>\n<function=get_weather>\n<parameter=city>Oslo</parameter>\n</function>\n"
        "</seed:tool_call>",
        [OSLO],
    ),
    Case(
        "end tags in values",
        CODER,
        "<function=run><parameter=code>a</parameter>\n b</parameter></function>",
        [("call", "run", {"code": "a</parameter>\n b"})],
    ),
    stays("truncated", CODER, "<tool_call>\n<function=get_weather>\n<parameter=city>\nOs"),
    stays("no end", CODER, "<function=get_weather><parameter=city>Oslo</parameter></tool_call>"),
    stays(
        "a key twice",
        CODER,
        "<function=run><parameter=a>1</parameter><parameter=a>1</parameter></function>",
    ),
    # GLM
    Case(
        "parallel",
        GLM,
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Bergen</arg_value>\n"
        "<arg_key>days</arg_key><arg_value>3</arg_value></tool_call><tool_call>get_time</tool_call>",
        [BERGEN, NOW],
    ),
    stays("no value", GLM, "<tool_call>get_weather<arg_key>city</arg_key></tool_call>"),
    # the built-in model
    Case("one", HERMES, "<tool_call> get_weather city: Oslo</tool_call>", [OSLO]),
    Case(
        "two values",
        HERMES,
        "Yes. <tool_call> get_weather city: Bergen, days: 3</tool_call>"
        "<tool_call> get_time </tool_call>",
        [("text", "Yes."), BERGEN, NOW],
    ),
    Case(
        "commas",
        HERMES,
        "<tool_call> get_weather city: Oslo, or: Bergen, 5, days: 3</tool_call>",
        [("call", "get_weather", {"city": "Oslo, or: Bergen, 5", "days": 3})],
    ),
    stays("a sentence", HERMES, "<tool_call> note: this is none</tool_call>"),
    stays("truncated", HERMES, "<tool_call> get_weather city: Os"),
    # Llama
    Case("bare", LLAMA, '{"name": "get_weather", "parameters": {"city": "Oslo"}}', [OSLO]),
    Case(
        "bare, typed",
        LLAMA,
        '\n{"type": "function", "name": "get_weather", "parameters": {"city": "Oslo"}}\n',
        [OSLO],
    ),
    Case("no mark before", HERMES, f"{J_OSLO}\n</tool_call>\n", [OSLO]),
    Case("bare, several", LLAMA, f"{J_OSLO}; {J_BERGEN}", [OSLO, BERGEN]),
    Case("bare, text", LLAMA, f"{J_OSLO} is it; yes", [OSLO, ("text", "is it; yes")]),
    Case("bare, array", "", f"[{J_OSLO}, {J_BERGEN}]", [OSLO, BERGEN]),
    Case("bare, fenced", "", f"```json\n{J_RUN}\n```", [RUN]),
    Case("tag", LLAMA, f"<|python_tag|>{J_OSLO}; {J_BERGEN}", [OSLO, BERGEN]),
    Case(
        "tag, text",
        LLAMA,
        f"Sure.\n<|python_tag|>{J_OSLO}\n",
        [("text", "Sure."), OSLO],
    ),
    Case(
        "built-in tools",
        LLAMA,
        '<|python_tag|>get_weather.call(city="Bergen", days=3)',
        [BERGEN],
    ),
    Case("built-in, none", LLAMA, "<|python_tag|>get_time.call()", [NOW]),
    stays("tag, code", LLAMA, "<|python_tag|>import os\nprint(1)"),
    stays("bare, unknown", LLAMA, '{"name": "Bob", "parameters": {"a": 1}}'),
    stays("bare, other JSON", LLAMA, '{"answer": 5, "name": "get_time"}'),
    stays("bare, later", LLAMA, f"It is {J_OSLO}"),
    stays("bare, truncated", LLAMA, J_OSLO[:-1]),
    stays("fence", LLAMA, "```python\nprint({})\n```"),
    stays("one tick", LLAMA, "`a` is a letter, [1] a note"),
    # Mistral
    Case("array", MISTRAL, f" [TOOL_CALLS] [{J_OSLO}, {J_BERGEN}] ", [OSLO, BERGEN]),
    Case(
        "array with ids",
        MISTRAL,
        '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Oslo"}, "id": "abcdef123"}]',
        [OSLO],
    ),
    Case(
        "by name",
        MISTRAL,
        f"Hm.[TOOL_CALLS]get_weather[ARGS]{A_OSLO}[TOOL_CALLS]run[ARGS]{A_RUN}",
        [("text", "Hm."), OSLO, RUN],
    ),
    Case(
        "by name, with id",
        MISTRAL,
        f"[THINK]a[/THINK][TOOL_CALLS]get_weather[CALL_ID]123456789[ARGS]{A_BERGEN}",
        [("thought", "a"), BERGEN],
    ),
    Case(
        "array that breaks",
        MISTRAL,
        f"[TOOL_CALLS][{J_OSLO}, {{1}}]",
        [OSLO, ("text", ", {1}]")],
    ),
    stays("truncated", MISTRAL, '[TOOL_CALLS]get_weather[ARGS]{"city": "Os'),
    stays("empty", MISTRAL, "[TOOL_CALLS][]"),
    stays("brackets", MISTRAL, "[TOOL_RESULTS] [T [TOOL_CALL"),
    # Command-R
    Case(
        "action",
        COMMAND,
        'Action: ```json\n[\n    {\n        "tool_name": "get_weather",\n        "parameters": '
        '{"city": "Oslo"}\n    },\n    {"tool_name": "get_time", "parameters": {}}\n]```',
        [OSLO, NOW],
    ),
    stays(
        "no action",
        COMMAND,
        'Action: ```json\n[{"tool_name": "directly_answer", "parameters": {}}]```',
    ),
    stays("the word", COMMAND, "Action: go."),
    Case(
        "marks",
        COMMAND_A,
        "<|START_THINKING|>I will.<|END_THINKING|><|START_ACTION|>[\n"
        '    {"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Oslo"}},\n'
        '    {"tool_call_id": "1", "tool_name": "get_time", "parameters": {}}\n]<|END_ACTION|>',
        [("thought", "I will."), OSLO, NOW],
    ),
    Case(
        "response",
        COMMAND_A,
        "<|START_RESPONSE|>Hello<|END_RESPONSE|>",
        [("text", "Hello")],
        tools=(),
    ),
    Case(
        "thought and response",
        "<think></think><response></response>",
        "<think>a</think><response>The tag <response> is mine</response>",
        [("thought", "a"), ("text", "The tag <response> is mine")],
    ),
    stays("no response", "<response></response>", "XML: <response>1</response>"),
    # DeepSeek, Kimi
    Case(
        "V3",
        DEEPSEEK_BEGIN,
        f"Ok{DEEPSEEK_BEGIN}{CALL_BEGIN}function{SEP}get_weather\n```json\n{A_OSLO}\n```{CALL_END}\n"
        f"{CALL_BEGIN}function{SEP}run\n```json\n{A_RUN}\n```{CALL_END}{DEEPSEEK_END}",
        [("text", "Ok"), OSLO, RUN],
    ),
    Case(
        "V3.1",
        DEEPSEEK_BEGIN + "</think>",
        f"a</think>{DEEPSEEK_BEGIN}{CALL_BEGIN}get_weather{SEP}{A_OSLO}{CALL_END}{CALL_BEGIN}"
        f"get_weather{SEP}{A_BERGEN}{CALL_END}{DEEPSEEK_END}",
        [("thought", "a"), OSLO, BERGEN],
        prompt="<think>",
    ),
    stays("truncated", DEEPSEEK_BEGIN, f"{DEEPSEEK_BEGIN}{CALL_BEGIN}get_weather{SEP}{{"),
    Case(
        "parallel",
        KIMI,
        f"<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
        f"<|tool_call_argument_begin|>{A_OSLO}<|tool_call_end|><|tool_call_begin|>functions.get_time:1"
        "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
        [OSLO, NOW],
    ),
    # functionary
    Case(
        "opened by the template",
        ">>>",
        f"all\nLet me see.\n>>>get_weather\n{A_OSLO}\n>>>run\n{A_RUN}",
        [("text", "Let me see."), OSLO, RUN],
        prompt="<|start_header_id|>assistant<|end_header_id|>\n\n>>>",
    ),
    Case("call at once", ">>>", f"get_weather\n{A_OSLO}", [OSLO], prompt=">>>"),
    stays("prompt of Python", ">>>", "all of\n>>> print(1)\n>>>x\n1", prompt=">>>"),
    Case(
        "tags",
        "<function=",
        f"<function=get_weather>{A_OSLO}</function>\n<function=run>{A_RUN}</function>",
        [OSLO, RUN],
    ),
    # gpt-oss
    Case(
        "channels",
        HARMONY,
        "<|channel|>analysis<|message|>Hm. <|end|><|start|>assistant<|channel|>commentary"
        "<|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather "
        f"<|constrain|>json<|message|>{A_OSLO}<|call|>",
        [("thought", "Hm."), ("text", "I look."), OSLO],
    ),
    Case(
        "recipient first",
        HARMONY,
        f"<|start|>assistant to=functions.run<|channel|>commentary json<|message|>{A_RUN}<|call|>",
        [RUN],
    ),
    Case(
        "final",
        HARMONY,
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>Yes<|return|>",
        [("thought", "a"), ("text", "Yes")],
        tools=(),
    ),
    Case(
        "recipient first, header begun by the template",
        HARMONY,
        f" to=get_weather<|channel|>analysis json<|message|>{A_OSLO}<|call|>",
        [OSLO],
        prompt="<|end|><|start|>assistant",
    ),
    Case(
        "header begun by the template",
        HARMONY,
        "<|channel|>analysis to=python<|message|>1+1<|call|>",
        [("thought", "1+1")],
        prompt="<|end|><|start|>assistant",
    ),
    Case(
        "damaged headers",
        HARMONY,
        "<|channel|>??<|end|><|start|>assistant<|channel|>analysis<|message|>a<|end|>"
        "<|start|>assistant<|channel|>commentary?<|channel|>commentary<|message|>b<|end|>"
        f"<|start|>assistant<|channel|>commentary to=functions.get_weather<|message|>{A_OSLO}",
        [("thought", "a"), ("text", "b"), OSLO],
    ),
    Case(
        "arguments that are none",
        HARMONY,
        "<|channel|>commentary to=functions.run<|message|>{1}<|call|>",
        [("text", "<|channel|>commentary to=functions.run<|message|>{1}")],
    ),
    stays("no header", HARMONY, " to be", prompt="<|start|>assistant"),
    stays("header without an end", HARMONY, "<|channel|>" + "final " * 60),
    # one mark and JSON
    Case(
        "Jamba",
        "<tool_calls>",
        f"<tool_calls>[\n{J_OSLO},\n{J_BERGEN}\n]</tool_calls>",
        [OSLO, BERGEN],
    ),
    Case("Nemotron", "<TOOLCALL>", f"<TOOLCALL>[{J_OSLO}]</TOOLCALL>", [OSLO]),
    Case("Granite", "<|tool_call|>", f"<|tool_call|>[{J_OSLO}]", [OSLO]),
    Case("Phi", "<|tool_call|>", f"<|tool_call|>[{J_OSLO}]<|/tool_call|>", [OSLO]),
    Case("Firefunction", "<functioncall>", f"<functioncall>{J_OSLO}", [OSLO]),
    Case("functools", "functools", f" functools[{J_OSLO}]", [OSLO]),
    stays("module", "functools", "import functools\nfunctools.cache(a)"),
    # as Python
    Case("bare list", LLAMA, '[get_weather(city="Oslo"), get_time()]', [OSLO, NOW]),
    stays(
        "no literal",
        "<|tool_call_start|>",
        "Ok <|tool_call_start|>[run(options={'deep': [None, (1, 2)]})]<|tool_call_end|>",
    ),
    Case(
        "typed",
        "<|tool_call_start|>",
        "<|tool_call_start|>[run(code='a, \\'b\\' (', options={'deep': [None, -1]}, fast=True)]"
        "<|tool_call_end|>Done",
        [
            ("call", "run", {"code": "a, 'b' (", "options": {"deep": [None, -1]}, "fast": True}),
            ("text", "Done"),
        ],
    ),
    Case(
        "a call a line",
        "<function_calls>",
        'a\n<function_calls>\nget_weather(city="Oslo")\nget_time()\n</function_calls>\nb',
        [("text", "a"), OSLO, NOW, ("text", "b")],
    ),
    stays("expression", LLAMA, "[get_weather(city=name)]"),
    stays("no name of an argument", LLAMA, '[get_weather("Oslo")]'),
    stays("an argument twice", LLAMA, '[get_weather(city="Oslo", city="Oslo")]'),
    stays("truncated list", LLAMA, '[get_weather(city="Os'),
    stays("unknown in a list", LLAMA, "[fly()]"),
    stays("link", LLAMA, "[get_time](http://a) and [x(1) for x in y]"),
    # none
    stays("empty", HERMES, ""),
    stays("blanks", HERMES, " \n "),
    stays("marks of others", HERMES, "[TOOL_CALLS][<|python_tag|><|channel|>>>>all\n◁think▷"),
]


def parser(case: Case, eager: bool = False) -> AnswerParser:
    number = itertools.count()
    return AnswerParser(
        dialect_of(case.signs), case.tools, case.prompt, eager, ids=lambda: f"id{next(number)}"
    )


def parse(case: Case, pieces: Iterable[str], eager: bool = False) -> list[Event]:
    parsed = parser(case, eager)
    events = [event for piece in pieces for event in parsed.feed(piece)]
    return events + parsed.end()


def outcome(events: Iterable[Event]) -> list[tuple[Any, ...]]:
    """Put neighbouring pieces together, whatever marks are between them; calls count when whole."""
    found: list[tuple[Any, ...]] = []
    calls: dict[int, tuple[str, list[str]]] = {}
    for event in events:
        if isinstance(event, Text | Thought):
            kind = "text" if isinstance(event, Text) else "thought"
            if found and found[-1][0] == kind:
                found[-1] = (kind, found[-1][1] + event.text)
            else:
                found.append((kind, event.text))
        elif isinstance(event, CallBegins):
            calls[event.index] = (event.name, [])
        elif isinstance(event, CallArguments):
            calls[event.index][1].append(event.text)
        elif isinstance(event, CallEnds) and event.complete:
            name, pieces = calls[event.index]
            found.append(("call", name, json.loads("".join(pieces))))
        elif isinstance(event, CallEnds):
            found.append(("broken", calls[event.index][0], "".join(calls[event.index][1])))
    return found


def accounted(events: Iterable[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text | Thought | Markup))
