"""Simple tool calls, in a form whose values read like words of a sentence.

A call is `<tool_call> get_weather city: Oslo</tool_call>`: the value follows a space, as everywhere
else, so that the vocabulary cuts it into the pieces in which it was read.
"""

import re
from dataclasses import dataclass

from homebox.language.dice import Dice
from homebox.language.turns import Document, Turn, assistant, system, user
from homebox.language.values import Values

CALL_START = "<tool_call>"
CALL_END = "</tool_call>"
_CALL = re.compile(r"<tool_call>\s*(\w+) (\w+): (.*?)</tool_call>", re.DOTALL)


@dataclass(frozen=True)
class Tool:
    """A tool with one argument, the requests for it, and the sentence around its result."""

    name: str
    argument: str
    kind: str
    requests: tuple[str, ...]
    answer: str


TOOLS = (
    Tool(
        "get_weather",
        "city",
        "place",
        (
            "What is the weather in {v}?",
            "How is the weather in {v} today?",
            "Tell me the weather in {v}.",
            "What's the weather like in {v}?",
        ),
        "The weather in {v}: {r}.",
    ),
    Tool(
        "read_file",
        "path",
        "file",
        ("Read the file {v}.", "What is in {v}?", "Open {v} please.", "Show me {v}."),
        "The file {v} says: {r}.",
    ),
    Tool(
        "web_search",
        "query",
        "food",
        ("Search for {v}.", "Look up {v}.", "Find {v} on the web.", "Search the web for {v}."),
        "I found this about {v}: {r}.",
    ),
    Tool(
        "get_time",
        "city",
        "place",
        ("What time is it in {v}?", "Tell me the time in {v}.", "How late is it in {v}?"),
        "The time in {v}: {r}.",
    ),
)


def call(tool: Tool, value: str) -> str:
    """Write a call of a tool."""
    return f"{CALL_START} {tool.name} {tool.argument}: {value}{CALL_END}"


def parse_call(text: str) -> tuple[str, dict[str, str]] | None:
    """Read a call out of an answer: the tool's name and its arguments, or None."""
    found = _CALL.search(text)
    return (found.group(1), {found.group(2): found.group(3)}) if found else None


def announce(tools: list[Tool]) -> Turn:
    """Name the tools in a system message."""
    return system("Tools: " + ", ".join(f"{tool.name}({tool.argument})" for tool in tools))


def tool_value(tool: Tool, values: Values) -> str:
    """Draw the argument of a call."""
    if tool.kind == "file":
        return values.draw("food").split()[0] + ".txt"
    return values.draw(tool.kind)


def using_tools(dice: Dice, values: Values) -> Document:
    """Answer requests by calls and say their results."""
    tools = dice.sample(TOOLS, dice.between(1, 3))
    turns: Document = [announce(tools)]
    for _ in range(dice.pick((1, 1, 2))):
        tool = dice.pick(tools)
        value = tool_value(tool, values)
        if tool.name == "get_time":
            result = values.draw("time")
        else:
            result = " ".join(values.draw("thing") for _ in range(dice.between(1, 3)))
        turns += [
            user(dice.pick(tool.requests).replace("{v}", value)),
            assistant(call(tool, value)),
            Turn("tool", result),
            assistant(tool.answer.replace("{v}", value).replace("{r}", result)),
        ]
    return turns
