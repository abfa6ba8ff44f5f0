"""Asks for tools, and looks at answers as text: is a call valid, does an answer go in circles?

The one idea: a candidate is held against the base, call by call. Invariant: what counts as a call
is decided by the reader that serves, not here.
"""

import json
from collections.abc import Mapping
from typing import Any

from homebox.language.dice import Dice
from homebox.language.tools import TOOLS, announce, parse_call, tool_value
from homebox.language.turns import user
from homebox.language.values import Values
from homebox.language.world import WORLD_NAMES
from homebox.learning.exam.questions import Judge, Question
from homebox.learning.exam.writing import TOOL
from homebox.learning.lessons.teach import seed_of
from homebox.model import Model
from homebox.model.answers import CallArguments, CallBegins, CallEnds, parser_for
from homebox.model.chat.template_chat import TemplateChat

CIRCLES = 4  # the same words so often in a row are a loop
LONGEST = 8  # words of what is repeated

_Schema = Mapping[str, Any]


def _tool(name: str, about: str, **parameters: str) -> _Schema:
    schema = {
        "type": "object",
        "properties": {key: {"type": kind} for key, kind in parameters.items()},
        "required": list(parameters),
    }
    function = {"name": name, "description": about, "parameters": schema}
    return {"type": "function", "function": function}


OFFERED = (
    _tool("get_weather", "Get the weather in a city", city="string"),
    _tool("read_file", "Read a text file", path="string"),
    _tool("set_timer", "Set a timer", minutes="integer"),
    _tool("send_message", "Send a message to somebody", to="string", text="string"),
)
REQUESTS = (
    ("get_weather", "What is the weather like in Bergen right now?"),
    ("read_file", "Please read the file notes/plan.txt and tell me what it says."),
    ("set_timer", "Set a timer for 12 minutes."),
    ("send_message", "Send Dana the message that dinner is at seven."),
    ("get_weather", "Do I need an umbrella in Porto today?"),
    ("read_file", "Open setup.cfg for me."),
    ("set_timer", "Wake me in 45 minutes with a timer."),
    ("send_message", "Tell Ines by message that the train is late."),
    ("get_weather", "Check the weather in Osaka."),
    ("read_file", "What does README.md say?"),
    ("set_timer", "I put eggs on. Give me a timer of 6 minutes."),
    ("send_message", "Write to Omar: I will call tomorrow."),
)


def tool_questions(model: Model, toy: bool, count: int, seed: int) -> list[Question]:
    """Write requests for tools; none for a model whose chat format knows no tools."""
    if toy:
        return _toy_requests(count, seed)
    if not isinstance(model.chat, TemplateChat) or not _offers(model):
        return []
    return [
        Question(
            TOOL,
            [{"role": "user", "content": text}],
            name,
            name,
            tools=OFFERED,
            judge=_calls(model, name),
            general=True,
        )
        for name, text in REQUESTS[:count]
    ]


def _offers(model: Model) -> bool:
    """Tell whether the template shows tools to the model at all."""
    asked = [{"role": "user", "content": "x"}]
    return model.chat.render(asked, tools=OFFERED) != model.chat.render(asked)


def _toy_requests(count: int, seed: int) -> list[Question]:
    dice = Dice(seed_of("tools", str(seed)))
    values = Values(dice, unseen=True, excluded=WORLD_NAMES)
    questions = []
    for _ in range(count):
        tools = dice.sample(TOOLS, dice.between(1, 3))
        tool = dice.pick(tools)
        turns = [
            announce(tools),
            user(dice.pick(tool.requests).replace("{v}", tool_value(tool, values))),
        ]
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        judge = _toy_call(tool.name, tool.argument)
        questions.append(Question(TOOL, messages, tool.name, tool.name, judge=judge, general=True))
    return questions


def _toy_call(name: str, argument: str) -> Judge:
    def valid(answer: str) -> bool:
        call = parse_call(answer)
        return call is not None and call[0] == name and list(call[1]) == [argument]

    return valid


def _calls(model: Model, name: str) -> Judge:
    """Return what says whether an answer is a valid call of this tool with its arguments."""
    properties = {tool["function"]["name"]: tool["function"]["parameters"] for tool in OFFERED}
    required = set(properties[name]["required"])

    def valid(answer: str) -> bool:
        parser = parser_for(model.tokenizer, tools=OFFERED)
        names: list[str] = []
        arguments = ""
        for event in (*parser.feed(answer), *parser.end()):
            if isinstance(event, CallBegins):
                names.append(event.name)
            elif isinstance(event, CallArguments):
                arguments += event.text
            elif isinstance(event, CallEnds) and not event.complete:
                return False
        try:
            return names == [name] and set(json.loads(arguments)) == required
        except (ValueError, TypeError):
            return False

    return valid


def goes_in_circles(text: str) -> bool:
    """Say whether the same words stand `CIRCLES` times in a row."""
    words = text.split()
    for size in range(1, LONGEST + 1):
        run = 0
        for at in range(size, len(words)):
            run = run + 1 if words[at] == words[at - size] else 0
            if run >= size * (CIRCLES - 1):
                return True
    return False
