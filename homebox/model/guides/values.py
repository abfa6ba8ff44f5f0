"""Values of a call's parameters that stand without quotation marks, as grammars.

The one idea: `answers/typed.py` read backwards: what the grammar lets a model write for a parameter
is read there as a value that its schema allows. Invariant: a text never holds what ends it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import llguidance

from homebox.model.answers.typed import kinds_of
from homebox.model.guides.rules import Rules
from homebox.model.guides.tools import Tool
from homebox.model.guides.vocabulary import quoted

LONGEST = 10_000  # characters of a text with a length in its schema
_ANCHORED = re.compile(r"(\^?)((?:\\.|\[(?:\\.|[^\]\\])*\]|[^\\\[^$])*)(\$?)", re.DOTALL)


def value_rule(rules: Rules, tool: Tool, name: str, never: Sequence[str], end: str) -> str:
    """Return a rule for the value of a parameter and the `end` behind it.

    `never` are regular expressions of what a text must not hold, since it would end there.
    """
    schema = tool.parameters[name]
    kinds = set(kinds_of(schema))
    if kinds and "string" not in kinds:
        return rules.add(f"{rules.add(tool.json_of(name))} {quoted(end)}")
    schema = _of_texts(schema)
    listed = [each for each in _listed(schema) if isinstance(each, str)]
    good = [each for each in listed if not any(re.search(it, each) for it in never)]
    if good or listed:
        return rules.add(" | ".join(quoted(each + end) for each in good or listed))
    return rules.token(f"{_text(schema, never)} {quoted(end)}")


def _of_texts(schema: Any) -> Mapping[str, Any]:
    """Return the part of a schema that speaks of texts: itself, or one of its choices."""
    if not isinstance(schema, Mapping):
        return {}
    for choice in ("anyOf", "oneOf"):
        inner = schema.get(choice)
        for each in inner if isinstance(inner, list) else ():
            kinds = set(kinds_of(each))
            if isinstance(each, Mapping) and (not kinds or "string" in kinds):
                return {**schema, **each}
    return schema


def _listed(schema: Mapping[str, Any]) -> Sequence[Any]:
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else []


def _text(limits: Mapping[str, Any], never: Sequence[str]) -> str:
    """Return texts as terms of a terminal: all that hold nothing of `never`."""
    low, high = limits.get("minLength", 0), limits.get("maxLength")
    low = low if isinstance(low, int) and 0 <= low <= LONGEST else 0
    bounded = isinstance(high, int) and low <= high <= LONGEST
    count = f"{{{low},{high if bounded else ''}}}" if low or bounded else "*"
    terms = [f"/(?s:.){count}/", *(f"~/(?s:.)*{_in_slashes(each)}(?s:.)*/" for each in never)]
    pattern = limits.get("pattern")
    if isinstance(pattern, str) and (whole := _anywhere(pattern)) is not None:
        terms.append(f"/{whole}/")
    return f"({' & '.join(terms)})"


def _anywhere(pattern: str) -> str | None:
    """Return a pattern of whole texts which `pattern` is found in; None if it is no simple one."""
    found = _ANCHORED.fullmatch(pattern)
    if found is None or len(pattern) > LONGEST or ((found[1] or found[3]) and "|" in found[2]):
        return None
    head = "" if found[1] else "(?s:.)*"
    tail = "" if found[3] else "(?s:.)*"
    return f"{head}({llguidance.regex_to_lark(found[2], 'dw')}){tail}"


def _in_slashes(pattern: str) -> str:
    return pattern.replace("/", r"\/")
