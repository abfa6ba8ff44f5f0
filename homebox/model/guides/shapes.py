"""How calls look in each format, as the models' own templates write them.

The one idea: a table again, the other way round than `answers/formats.py`: what a model may write
behind a mark, so that the reader of that format is certain to read it. Invariant: every blank is
the template's, so that a call which is shown to the model again is the same text.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from homebox.model.answers.calls import NAME
from homebox.model.answers.section_formats import (
    CHANNEL,
    DEEPSEEK,
    DEEPSEEK_BEGIN,
    DEEPSEEK_END,
    MESSAGE,
)
from homebox.model.answers.tagged_formats import KEY_MARKS
from homebox.model.guides.rules import Rules
from homebox.model.guides.tools import Tool
from homebox.model.guides.values import value_rule
from homebox.model.guides.vocabulary import Vocabulary, quoted

MOST = 16  # calls in one array or section
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


class Words:
    """Writes the terms of a grammar's rules for one vocabulary."""

    def __init__(self, vocabulary: Vocabulary, template: str) -> None:
        self.rules = Rules()
        self.template = template
        self._vocabulary = vocabulary

    def mark(self, text: str) -> str:
        """Return a mark; nothing for one that ends the answer anyway."""
        index = self._vocabulary.tokenizer.special.get(text)
        return "" if index in self._vocabulary.stop_ids else self._vocabulary.mark(text)

    def steers(self, text: str) -> bool:
        """Tell whether a mark is a token."""
        return text in self._vocabulary.tokenizer.special

    def known(self, text: str) -> bool:
        """Tell whether the model knows a mark."""
        return text in self._vocabulary.tokenizer.special or text in self.template


Call = Callable[[Words, Tool], str]


@dataclass(frozen=True, slots=True)
class Shape:
    """One format: behind its mark `head`, then calls, `between` them, and `close`.

    `again` stands between the end of it and the next mark; None if there is no next one, and then
    nothing else may follow either. `before` is what stands before a value in a format in which not
    all is JSON, %s the parameter, and `never` what no such value holds, since it would end there.
    What is `weak` may also be the beginning of a text; what `thinks`, that of a thought.
    """

    call: Call
    head: str = ""
    between: str | None = None
    tail: str = ""
    close: str = ""
    again: str | None = None
    before: str = ""
    never: tuple[str, ...] = ()
    weak: bool = False
    thinks: bool = False


def _json(name: str = "name", arguments: str = "arguments", before: str = "") -> Call:
    def call(words: Words, tool: Tool) -> str:
        start = quoted(f'{{{before}"{name}": "{tool.name}", "{arguments}": ')
        return f'{start} {words.rules.add(tool.json)} "}}"'

    return call


def _fenced(words: Words, tool: Tool) -> str:
    start = quoted(f'    {{\n        "tool_name": "{tool.name}",\n        "parameters": ')
    return f'{start} {words.rules.add(tool.json)} "\\n    }}"'


def _numbered(words: Words, tool: Tool) -> str:
    rest = quoted(f'", "tool_name": "{tool.name}", "parameters": ')
    number = words.rules.token("/0|[1-9][0-9]?/")
    return f'"{{\\"tool_call_id\\": \\"" {number} {rest} {words.rules.add(tool.json)} "}}"'


def _tagged(words: Words, tool: Tool) -> str:
    """Qwen3-coder's and Seed's tags."""
    parts = [quoted(f"<function={tool.name}>\n")]
    for name in tool.parameters:
        if not NAME.fullmatch(name):
            continue
        value = value_rule(words.rules, tool, name, ("</parameter>",), "\n</parameter>\n")
        part = f"{quoted(f'<parameter={name}>' + chr(10))} {value}"
        parts.append(part if name in tool.required else f"({part})?")
    return " ".join((*parts, '"</function>"'))


def _keyed(words: Words, tool: Tool) -> str:
    """GLM's keys and values; its version 4.5 writes each on a line."""
    line = "\n" if "</arg_key>\\n" in words.template or "</arg_key>\n" in words.template else ""
    key, key_end, value, value_end = (words.mark(mark) for mark in KEY_MARKS)
    gap = f" {quoted(line)}" if line else ""
    steers = words.steers("</arg_value>")
    end, behind = ("", f" {value_end}{gap}") if steers else (f"</arg_value>{line}", "")
    parts = [quoted(tool.name + line)]
    for name in tool.parameters:
        text = value_rule(words.rules, tool, name, ("</arg_value>",), end)
        part = f"{key} {quoted(name)} {key_end}{gap} {value} {text}{behind}"
        parts.append(part if name in tool.required else f"({part})?")
    return " ".join(parts)


def plain_call(words: Words, tool: Tool) -> str:
    """The built-in model's words: name key: value, key: value."""
    keys = [name for name in tool.parameters if _PLAIN_KEY.fullmatch(name)]
    never = ("</tool_call>", f", ({'|'.join(map(re.escape, keys))}): ")
    behind: dict[str, str] = {}  # the rule of what stands behind a key

    def following(place: int) -> list[str]:
        """Return the keys that may come next; the last may be "", for none."""
        rest = keys[place:]
        needed = next((number for number, key in enumerate(rest) if key in tool.required), None)
        return [*rest, ""] if needed is None else rest[: needed + 1]

    for place in range(len(keys), 0, -1):
        ways = [
            # What ends a text is part of its terminal, or the text would swallow its beginning.
            f"{value_rule(words.rules, tool, keys[place - 1], never, f', {key}: ' if key else '')} "
            + (behind[key] if key else "")
            for key in following(place)
        ]
        behind[keys[place - 1]] = words.rules.add(" | ".join(ways))
    begins = [f"{quoted(f'{key}: ')} {behind[key]}" if key else '""' for key in following(0)]
    return f"{quoted(tool.name + ' ')} {words.rules.add(' | '.join(begins))}"


def _separated(words: Words, parts: Sequence[tuple[str, bool]]) -> str:
    """Return parts in their order with commas between; those that are not needed may be missing."""
    first = later = ""
    for part, needed in reversed(parts):
        item = words.rules.add(part)
        if needed:
            first, later = f"{item} {later}", f'", " {item} {later}'
        else:
            rest = f"({item} {later})"
            first = f"{rest} | {first}" if first else f"{rest}?"
            later = f'(", " {item})? {later}'
        first, later = words.rules.add(first), words.rules.add(later)
    return first


def _function(words: Words, tool: Tool) -> str:
    return f'{quoted(f"{tool.name}>")} {words.rules.add(tool.json)} "</function>"'


def _inner_function(words: Words, tool: Tool) -> str:
    return _tagged(words, tool).replace('"<function=', '"', 1)


def _named(words: Words, tool: Tool) -> str:
    """Mistral's newer format: the name, perhaps an id, and the arguments."""
    number = ""
    if "[CALL_ID]" in words.template:
        number = f"{words.mark('[CALL_ID]')} {words.rules.token('/[a-zA-Z0-9]{9}/')} "
    return f"{quoted(tool.name)} {number}{words.mark('[ARGS]')} {words.rules.add(tool.json)}"


def _on_a_line(words: Words, tool: Tool) -> str:
    return f"{quoted(tool.name + chr(10))} {words.rules.add(tool.json)}"


def _deepseek(words: Words, tool: Tool) -> str:
    begin, sep, end = (
        words.mark(DEEPSEEK.format(each)) for each in ("call\u2581begin", "sep", "call\u2581end")
    )
    arguments = words.rules.add(tool.json)
    if "```json" in words.template:
        name = quoted(f"{tool.name}\n```json\n")
        return f'{begin} "function" {sep} {name} {arguments} "\\n```" {end}'
    return f"{begin} {quoted(tool.name)} {sep} {arguments} {end}"


def _kimi(words: Words, tool: Tool) -> str:
    begin, sep, end = (
        words.mark(f"<|tool_call_{each}|>") for each in ("begin", "argument_begin", "end")
    )
    number = words.rules.token("/0|[1-9][0-9]?/")
    name = quoted(f"functions.{tool.name}:")
    return f"{begin} {name} {number} {sep} {words.rules.add(tool.json)} {end}"


def _python(words: Words, tool: Tool) -> str:
    """A call as Python writes it; arguments are values that JSON writes alike."""
    said = [
        (f"{quoted(f'{name}=')} {words.rules.add(tool.json_of(name))}", name in tool.required)
        for name in tool.parameters
        if NAME.fullmatch(name)
    ]
    return f'{quoted(f"{tool.name}(")} {_separated(words, said)} ")"'


def _harmony(words: Words, tool: Tool) -> str:
    to = quoted(f"commentary to=functions.{tool.name} ")
    kind = f'{words.mark("<|constrain|>")} "json"'
    return f"{to} {kind} {words.mark(MESSAGE)} {words.rules.add(tool.json)}"


_BRACKETED = _json()
BARE = Shape(_json(), weak=True)
BARE_LLAMA = Shape(_json(arguments="parameters"), weak=True)
_SECTION_END = "<|tool_calls_section_end|>"
_TAG = r"<parameter=%s>\n"
_TAG_END = ("</parameter>",)
_HERMES = Shape(_json(), head="\n", tail="\n", close="</tool_call>", again="\n")
_TAGS = Shape(
    _tagged,
    head="\n",
    tail="\n",
    close="</tool_call>",
    again="\n",
    before=_TAG,
    never=("</parameter>",),
)
_KEYS = Shape(
    _keyed,
    close="</tool_call>",
    again="",
    before=r"<arg_key>%s</arg_key>\n?<arg_value>",
    never=("</arg_value>",),
)
_PLAIN = Shape(
    plain_call,
    head=" ",
    close="</tool_call>",
    again="\n",
    before="[ ,]%s: ",
    never=("</tool_call>",),
)
_TABLE = {
    "<seed:tool_call>": Shape(
        _tagged,
        head="\n",
        tail="\n",
        close="</seed:tool_call>",
        again="\n",
        before=_TAG,
        never=("</parameter>",),
    ),
    "<|python_tag|>": Shape(_json(arguments="parameters")),
    "Action:": Shape(_fenced, head=" ```json\n[\n", between=",\n", tail="\n]```", weak=True),
    "<|START_ACTION|>": Shape(
        _numbered, head="[\n    ", between=",\n    ", tail="\n]", close="<|END_ACTION|>"
    ),
    DEEPSEEK_BEGIN: Shape(_deepseek, between="", close=DEEPSEEK_END),
    "<|tool_calls_section_begin|>": Shape(_kimi, between="", close=_SECTION_END),
    "<tool_calls>": Shape(
        _json(), head="[\n    ", between=",\n    ", tail="\n]", close="</tool_calls>"
    ),
    "<TOOLCALL>": Shape(_json(), head="[", between=", ", tail="]", close="</TOOLCALL>"),
    "<functioncall>": Shape(_json(), head=" ", tail=" ", close="</functioncall>", again="\n"),
    "functools": Shape(_json(), head="[", between=", ", tail="]", weak=True),
    "<|tool_call_start|>": Shape(
        _python, head="[", between=", ", tail="]", close="<|tool_call_end|>"
    ),
    "<function_calls>": Shape(_python, between="\n", close="</function_calls>"),
    ">>>": Shape(_on_a_line, again=""),
    CHANNEL: Shape(_harmony, thinks=True),
}


def shape_of(mark: str, words: Words) -> Shape | None:
    """Return how calls look behind a mark ("": without one); None if that is not known."""
    template = words.template
    if not mark:
        return BARE_LLAMA if '"parameters": ' in template else BARE
    if mark == "<tool_call>":
        if "<arg_key>" in template:
            return _KEYS
        if "<function=" in template:
            return _TAGS
        return _PLAIN if not template and words.steers("</tool_call>") else _HERMES
    if mark == "<function=":
        if "<parameter=" in template:
            return Shape(
                _inner_function,
                tail="\n",
                close="</tool_call>",
                again="\n",
                before=_TAG,
                never=("</parameter>",),
            )
        return Shape(_function, again="")
    if mark == "[TOOL_CALLS]":
        if words.known("[ARGS]"):
            return Shape(_named, again="")
        return Shape(_BRACKETED, head="[", between=", ", tail="]")
    if mark == "<|tool_call|>":
        close = "<|/tool_call|>" if words.known("<|/tool_call|>") else ""
        return Shape(_json(), head="[", between=", ", tail="]", close=close)
    return _TABLE.get(mark)
