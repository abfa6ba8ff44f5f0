"""Values that a format writes without quotation marks, as JSON.

The one idea: a tool's schema says whether `7` is a number or a text; without a schema it is a text.
A text that is no value of its type stays a text, for the tool to complain of.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from homebox.model.answers.json_values import clean

# Templates print these values as Python does.
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}


def typed(text: str, schema: Any) -> str:
    """Return `text` as the JSON text of a value of the parameter with this JSON schema."""
    kinds = set(_kinds(schema))
    bare = text.strip()
    word = _PYTHON_WORDS.get(bare, bare)
    if "null" in kinds and word == "null":
        return "null"
    if kinds and "string" not in kinds:
        value = clean(word)
        if value is not None:
            return value
    return quoted(text)


def quoted(text: str) -> str:
    """Return `text` as a JSON string."""
    return json.dumps(text, ensure_ascii=False)


def _kinds(schema: Any) -> Iterator[str]:
    if not isinstance(schema, Mapping):
        return
    yield from _named(schema)
    for choice in ("anyOf", "oneOf"):
        inner = schema.get(choice)
        for each in inner if isinstance(inner, list) else ():
            if isinstance(each, Mapping):
                yield from _named(each)


def _named(schema: Mapping[str, Any]) -> Iterator[str]:
    kind = schema.get("type")
    yield from (each for each in (kind if isinstance(kind, list) else [kind]) if type(each) is str)
    if "$ref" in schema:
        yield "object"
