"""Calls written as JSON: {"name": ..., "arguments": {...}}, alone or in an array.

Formats, as their models' templates and cards show them: Hermes and Qwen (`<tool_call>`), Llama 3
(`parameters`, also behind `<|python_tag|>`, several separated by `;`), Mistral (`[TOOL_CALLS]` with
an array, or each call as `name[ARGS]{...}`), Command-R (`tool_name`, fenced after `Action:`, or
between `<|START_ACTION|>` marks), Granite, Phi, Jamba, Nemotron, Firefunction.
Members of other names (`id`, `type`) are read over. Arguments may be an object, a string that holds
one, or nothing.
"""

from homebox.model.answers.calls import Calls, read_name
from homebox.model.answers.json_values import clean, is_object, read_text, read_value
from homebox.model.answers.python_calls import read_dot_call, read_python_array
from homebox.model.answers.reader import Marks, Steps

_NAMES = ("name", "tool_name", "function")
_ARGUMENTS = ("arguments", "parameters", "args")
_FENCE = Marks(("```json", "```"))
_FENCE_END = Marks(("```",))
_SEPARATORS = Marks((";", ","))
# What a bare object may begin with; anything else is an answer in JSON.
_BARE = (*_NAMES, *_ARGUMENTS, "type", "id")
_CALL_ID = Marks(("[CALL_ID]",))
_ARGS = Marks(("[ARGS]",))


def read_calls(calls: Calls, closes: Marks) -> Steps[None]:
    """Read calls, in a fence or not, one or several, and the mark that closes them, if there."""
    reader = calls.reader
    yield from reader.spaces()
    fenced = yield from reader.literal(_FENCE)
    char = yield from reader.spaces()
    if char == "[":
        yield from _array(calls)
    else:
        yield from _object(calls)
        while (yield from reader.spaces()) == "{":
            yield from _object(calls)
    if fenced:
        yield from reader.spaces()
        yield from reader.literal(_FENCE_END)
    yield from reader.spaces()
    yield from reader.literal(closes)


def read_bare(calls: Calls, closes: Marks) -> Steps[None]:
    """Read calls that no mark announces: their names must be those of tools."""
    calls.only_known = True
    yield from read_calls(calls, closes)
    while (yield from calls.reader.literal(_SEPARATORS)):
        yield from read_calls(calls, closes)


def read_python_tag(calls: Calls, closes: Marks) -> Steps[None]:
    """Read what follows Llama's python tag: calls as JSON, or `name.call(key="value", ...)`."""
    reader = calls.reader
    if (yield from reader.spaces()) in ("{", "["):
        yield from read_calls(calls, closes)
        while (yield from reader.literal(_SEPARATORS)):
            yield from read_calls(calls, closes)
        return
    yield from read_dot_call(calls)


def read_mistral(calls: Calls, closes: Marks) -> Steps[None]:
    """Read what follows Mistral's mark: an array of calls, or a name and its arguments."""
    reader = calls.reader
    if (yield from reader.spaces()) in ("[", "{"):
        yield from read_calls(calls, closes)
        return
    name = yield from read_name(reader)
    yield from reader.spaces()
    if (yield from reader.literal(_CALL_ID)):
        yield from read_name(reader)
    yield from reader.literal(_ARGS)
    calls.begin(name)
    yield from read_arguments(calls)
    calls.finish()


def read_arguments(calls: Calls) -> Steps[None]:
    """Read arguments: an object, a string that holds one, or null for none."""
    char = yield from calls.reader.spaces()
    if char == "{":
        yield from read_value(calls.reader, calls.give)
    elif char == '"':
        text = yield from read_text(calls.reader)
        if not is_object(text):
            raise ValueError("arguments that are no object")
        calls.give(clean(text) or "")
    else:
        pieces: list[str] = []
        yield from read_value(calls.reader, pieces.append)
        if pieces != ["null"]:
            raise ValueError("arguments that are no object")
        calls.give("{}")


def _array(calls: Calls) -> Steps[None]:
    reader = calls.reader
    reader.skip()
    if (yield from reader.spaces()) != "{":
        yield from read_python_array(calls)
        return
    while True:
        yield from reader.spaces()
        yield from _object(calls)
        char = yield from reader.spaces()
        if char not in (",", "]"):
            raise ValueError("neither a comma nor the end")
        reader.skip()
        if char == "]":
            return


def _object(calls: Calls) -> Steps[None]:
    yield from _members(calls, set())
    calls.finish()


def _members(calls: Calls, seen: set[str], outer: bool = True) -> Steps[None]:
    """Read an object; `seen` are the members that were there, in the one around it as well."""
    reader = calls.reader
    if (yield from reader.peek()) != "{":
        raise ValueError("no object")
    reader.skip()
    while True:
        yield from reader.spaces()
        key = yield from read_text(reader)
        group = _group(key)
        if seen & {key, group} or (calls.only_known and key not in _BARE):
            raise ValueError("a member twice, or one of no call")
        if (yield from reader.spaces()) != ":":
            raise ValueError("no colon")
        reader.skip()
        char = yield from reader.spaces()
        nested = key == "function" and outer and char == "{"
        # The object in "function" brings the name itself.
        seen.add("function" if nested else group)
        if nested:
            yield from _members(calls, seen, outer=False)
        elif group == "name":
            calls.begin((yield from read_text(reader)))
        elif group == "arguments":
            yield from read_arguments(calls)
        else:
            yield from read_value(reader, _ignore)
        char = yield from reader.spaces()
        if char not in (",", "}"):
            raise ValueError("neither a comma nor the end")
        reader.skip()
        if char == "}":
            return


def _group(key: str) -> str:
    if key in _NAMES:
        return "name"
    return "arguments" if key in _ARGUMENTS else key


def _ignore(_: str) -> None:
    pass
