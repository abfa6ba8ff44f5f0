"""Values that a format writes without quotation marks, as JSON.

The one idea: a tool's schema says whether `7` is a number or a text; without a schema it is a text.
Some templates print values as Python does (`[True, 'a']`), so models write them so; those are read,
too. A text that is no value of its type stays a text, for the tool to complain of.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from homebox.model.answers.json_values import clean

# Of values that a schema lists without naming their type.
_KINDS = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}
# A string in single or double quotation marks, a word, or anything else that JSON has as well.
_TOKEN = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[A-Za-z]+|[^'"A-Za-z]+""", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"'}


def typed(text: str, schema: Any) -> str:
    """Return `text` as the JSON text of a value of the parameter with this JSON schema."""
    kinds = set(kinds_of(schema))
    if "null" in kinds and text.strip() in ("null", "None"):
        return "null"
    if kinds and "string" not in kinds:
        for reading in (text, of_python(text)):
            value = None if reading is None else clean(reading)
            if value is not None:
                return value
    return quoted(text)


def quoted(text: str) -> str:
    """Return `text` as a JSON string."""
    return json.dumps(text, ensure_ascii=False)


def of_python(text: str) -> str | None:
    """Return the JSON of a value as Python prints it, as far as the tokens of both go."""
    pieces = []
    place = 0
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None:
            return None
        token = found.group()
        if token[0] in "'\"":
            inner = _ESCAPE.sub(_character, token[1:-1])
            token = quoted(inner)
        pieces.append(_PYTHON_WORDS.get(token, token))
        place = found.end()
    return "".join(pieces)


def _character(found: re.Match[str]) -> str:
    code = found[1] or found[2] or found[3]
    if code is None:
        return _ESCAPED.get(found[4], found[0])
    return chr(int(code, 16)) if int(code, 16) < 0x110000 else found[0]


def kinds_of(schema: Any) -> Iterator[str]:
    """Yield the types that a schema names, as far as they show without following references."""
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
    elif kind is None:
        listed = [schema["const"]] if "const" in schema else schema.get("enum")
        values = listed if isinstance(listed, list) else []
        yield from (_KINDS.get(type(value), "object") for value in values)
