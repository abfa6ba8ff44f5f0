"""What a good model would answer to the clients' requests, decided from the text of the prompt.

The one idea: a small random model cannot decide anything, so this decides for it, and knows only
what the model would know: the prompt as its ids say it, template and all. The tools are called by
their own names and argument names, read from the schemas in that prompt.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TITLE = "Swap apple for banana"
THOUGHT = "<think>\nThis is a small change.\n</think>\n\n"
NO_THOUGHT = "<think>\n\n</think>\n\n"
EPHEMERAL = "<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>"

_TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)(?:<\|im_end\|>|\Z)", re.DOTALL)
_TOOLS = re.compile(r"<tools>\n(.*)\n</tools>", re.DOTALL)
_RESULT = re.compile(r"<tool_response>\n(.*?)\n</tool_response>", re.DOTALL)
_REPLACE = re.compile(r"[Ii]n the file (\S+) replace the word (\w+) with (\w+)")
_EDIT = re.compile(r"Edit (\S+): (\w+) to (\w+)")
_FRUIT = json.dumps({"fruit": "apple", "count": 3})

# The first whose words are in the question; the answers to requests without tools.
_TALK = (
    ("fruit and a count", _FRUIT),
    ("fruit and count", _FRUIT),
    ("a fruit", _FRUIT),
    ("Return JSON", json.dumps({"a": 1})),
    ("one two three four", "one two three four"),
    ("Count to five", "One, two, three, four, five."),
)


@dataclass(frozen=True)
class Conversation:
    """A prompt, taken apart: who said what, and which tools are offered."""

    turns: tuple[tuple[str, str], ...]
    tools: Mapping[str, Mapping[str, Any]]  # name -> schema of the arguments

    @property
    def system(self) -> str:
        """The first turn, if it is the system's."""
        return self.turns[0][1] if self.turns and self.turns[0][0] == "system" else ""

    @property
    def question(self) -> str:
        """What the owner said last."""
        return self.turns[self._asked()][1] if self.turns else ""

    @property
    def results(self) -> list[str]:
        """What tools gave since then."""
        return [found for _, text in self.turns[self._asked() :] for found in _RESULT.findall(text)]

    def _asked(self) -> int:
        for number in reversed(range(len(self.turns))):
            role, text = self.turns[number]
            said_by_owner = role == "user" and not text.startswith(("\n<tool_", "<tool_"))
            if said_by_owner and EPHEMERAL not in text:
                return number
        return 0


def read_prompt(prompt: str) -> Conversation:
    """Take the text of a prompt of Qwen3's template apart."""
    turns = tuple(_TURN.findall(prompt))
    offered = _TOOLS.search(turns[0][1]) if turns else None
    lines = offered.group(1).splitlines() if offered else []
    tools = [json.loads(line) for line in lines]
    functions = [tool.get("function", tool) for tool in tools]
    return Conversation(turns, {each["name"]: each.get("parameters") or {} for each in functions})


def answer(prompt: str) -> str:
    """Return what is to be said after `prompt`, without the mark of its end."""
    if not _TURN.search(prompt):
        return " upon a time."
    talk = read_prompt(prompt)
    thought = "" if prompt.endswith(NO_THOUGHT) or not talk.tools else THOUGHT
    return thought + (_act(talk) if talk.tools else _say(talk))


def _say(talk: Conversation) -> str:
    if "title generator" in talk.system:
        return TITLE
    return next((said for words, said in _TALK if words in talk.question), "Hi there!")


def _act(talk: Conversation) -> str:
    wanted = _REPLACE.search(talk.question)
    if wanted:
        return _replace(talk, *wanted.groups())
    wanted = _EDIT.search(talk.question)
    if wanted:
        return _edit(talk, *wanted.groups())
    if "get_weather" in talk.tools and "eather" in talk.question:
        return "It is sunny." if talk.results else _call("get_weather", {"city": "Paris"})
    if "llm_version" in talk.tools and "version" in talk.question:
        return f"It is {talk.results[-1]}." if talk.results else _call("llm_version", {})
    return _say(talk)


def _replace(talk: Conversation, path: str, old: str, new: str) -> str:
    """Read the file where there is a tool for it, edit it, and say so."""
    steps = ["read"] * ("read" in talk.tools) + ["edit"]
    done = len(talk.results)
    if done >= len(steps):
        return "DONE"
    if steps[done] == "read":
        return _call("read", {_named(talk.tools["read"], "path"): path})
    return _edit(talk, path, old, new)


def _edit(talk: Conversation, path: str, old: str, new: str) -> str:
    schema = talk.tools["edit"]
    values = {_named(schema, "path"): path}
    if "edits" in schema["properties"]:
        part = schema["properties"]["edits"]["items"]
        values["edits"] = [{_named(part, "old"): old, _named(part, "new"): new}]
    else:
        values |= {_named(schema, "old"): old, _named(schema, "new"): new}
    return _call("edit", values)


def _named(schema: Mapping[str, Any], word: str) -> str:
    """Return the argument whose name has a word in it."""
    return next(name for name in schema["properties"] if word in name.lower())


def _call(name: str, arguments: Mapping[str, Any]) -> str:
    call = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{call}\n</tool_call>"
