"""Which marks begin a call or a thought, and which of them a model knows.

The one idea: a table. A model writes the formats whose signs stand in its chat template or its
vocabulary; a model that shows none of them gets Hermes' format, which most others imitate.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from homebox.model.answers.calls import Calls
from homebox.model.answers.json_formats import read_calls, read_mistral, read_python_tag
from homebox.model.answers.python_calls import read_python_calls
from homebox.model.answers.reader import Marks, Steps
from homebox.model.answers.section_formats import (
    CHANNEL,
    DEEPSEEK_BEGIN,
    DEEPSEEK_END,
    MESSAGE_ENDS,
    SECTION_MARKS,
    START,
    read_channel,
    read_section,
)
from homebox.model.answers.tagged_formats import (
    KEY_MARKS,
    read_function,
    read_functionary,
    read_tool_call,
)
from homebox.model.tokenizer.base import CALL_MARKS

Read = Callable[[Calls, Marks], Steps[bool | None]]


@dataclass(frozen=True, slots=True)
class Format:
    """One way to write calls; `read` begins behind one of the marks `opens`, the first is its sign.

    It returns whether a thought follows. `closes` may stand behind the calls, `inner` are further
    marks of the format. `frames` tells that the format also wraps answers without calls.
    """

    opens: tuple[str, ...]
    read: Read
    closes: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()
    frames: bool = False


FORMATS = (
    Format((CALL_MARKS[0],), read_tool_call, (CALL_MARKS[1],), KEY_MARKS),
    Format(("<function=",), read_function, ("</tool_call>",)),
    Format(("<seed:tool_call>",), read_tool_call, ("</seed:tool_call>",)),
    Format(("<|python_tag|>",), read_python_tag),
    Format(("[TOOL_CALLS]",), read_mistral, inner=("[ARGS]", "[CALL_ID]")),
    Format(("Action:",), read_calls),
    Format(("<|START_ACTION|>",), read_calls, ("<|END_ACTION|>",)),
    Format((DEEPSEEK_BEGIN,), read_section, (DEEPSEEK_END,), SECTION_MARKS),
    Format(
        ("<|tool_calls_section_begin|>",),
        read_section,
        ("<|tool_calls_section_end|>",),
        SECTION_MARKS,
    ),
    Format(("<tool_calls>",), read_calls, ("</tool_calls>",)),
    Format(("<|tool_call|>",), read_calls, ("<|/tool_call|>",)),
    Format(("<TOOLCALL>",), read_calls, ("</TOOLCALL>",)),
    Format(("<functioncall>",), read_calls, ("</functioncall>",)),
    Format(("functools",), read_calls),
    Format(("<|tool_call_start|>",), read_python_calls, ("<|tool_call_end|>",)),
    Format(("<function_calls>",), read_python_calls, ("</function_calls>",)),
    Format((">>>",), read_functionary, frames=True),
    Format(
        (CHANNEL, START),
        read_channel,
        inner=("<|message|>", "<|constrain|>", *MESSAGE_ENDS),
        frames=True,
    ),
)
HERMES = FORMATS[0]
THOUGHTS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
# Pairs of marks around the text for the reader.
WRAPPERS = (("<|START_RESPONSE|>", "<|END_RESPONSE|>"), ("<response>", "</response>"))


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a model may write: formats of calls, pairs of marks around thoughts and texts."""

    formats: tuple[Format, ...] = ()
    thoughts: tuple[tuple[str, str], ...] = ()
    wrappers: tuple[tuple[str, str], ...] = ()


def dialect_of(template: str = "", marks: Iterable[str] = ()) -> Dialect:
    """Return what a model with this chat template and these steering tokens may write."""
    known = frozenset(marks)

    def shown(texts: Iterable[str]) -> bool:
        return any(text in known or text in template for text in texts)

    formats = tuple(each for each in FORMATS if shown(each.opens[:1]))
    return Dialect(
        formats=formats or (HERMES,),
        thoughts=tuple(pair for pair in THOUGHTS if shown(pair)),
        wrappers=tuple(pair for pair in WRAPPERS if shown(pair)),
    )
