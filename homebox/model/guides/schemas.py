"""JSON Schemas as grammars: what can be enforced, what is refused, and what tools may do without.

The one idea: the walk here knows every keyword that limits values, so that none is ever ignored: a
form refuses those that cannot be enforced, a tool's parameters do without them (`relaxed`).
Invariant: what `relaxed` returns allows all that the schema allows, except parameters that it does
not name. Keywords that no draft gives a meaning are notes.
Source: https://json-schema.org/draft/2020-12, with the older drafts' spellings.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from homebox.errors import RequestError

MAX_SCHEMA = 1 << 19  # characters of one schema's JSON
MAX_DEPTH = 64
REFUSED = frozenset(
    (
        "not if then else dependentSchemas dependentRequired dependencies uniqueItems contains "
        "minContains maxContains unevaluatedProperties unevaluatedItems propertyNames $dynamicRef "
        "$dynamicAnchor $recursiveRef $recursiveAnchor divisibleBy extends disallow x-guidance"
    ).split()
)
# Keywords that hold one schema, a list of them, or several by name.
_ONE = ("additionalProperties", "items", "additionalItems")
_SEVERAL = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_NAMED = ("properties", "patternProperties", "$defs", "definitions")
_COUNTS = frozenset("minLength maxLength minItems maxItems minProperties maxProperties".split())
MAX_MEMBERS = 1_000  # of one object, or values of one enum
_OPTIONS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def checked(schema: Any, param: str) -> Any:
    """Return a schema of which every keyword can be enforced; RequestError names one that cannot.

    Whether its values can be (an unknown format, a pattern with look-ahead) shows in compiling.
    """
    _bounded(schema, param)

    def refuse(keyword: str, place: str) -> None:
        raise RequestError(
            f"{param}: the keyword {keyword} at {place} is not supported; leave it out",
            param=param,
        )

    return _walked(schema, refuse, "#", 0)


def relaxed(schema: Any, param: str) -> Any:
    """Return a schema without the keywords that cannot be enforced, and without other parameters.

    Raises RequestError for what is no schema at all, or too large.
    """
    _bounded(schema, param)
    return _closed(_walked(schema, lambda keyword, place: None, "#", 0))


def grammar_of(schema: Any, loose: bool = False) -> str:
    """Return a schema as a rule's body in Lark's syntax: JSON on one line, a blank after , and :.

    With `loose`, oneOf counts as anyOf where its branches may overlap.
    """
    body = {} if schema is True else {"enum": []} if schema is False else dict(schema)
    body["x-guidance"] = {**_OPTIONS, "coerce_one_of": loose}
    return "%json " + json.dumps(body)


def _bounded(schema: Any, param: str) -> None:
    if not isinstance(schema, Mapping | bool):
        raise RequestError(f"{param} must be a JSON Schema: an object", param=param)
    try:
        size = len(json.dumps(schema, allow_nan=False))
    except RecursionError:
        raise RequestError(f"{param} nests more than {MAX_DEPTH} levels", param=param) from None
    except (TypeError, ValueError) as error:
        raise RequestError(f"{param} is not JSON: {error}", param=param) from None
    if size > MAX_SCHEMA:
        raise RequestError(f"{param} is longer than {MAX_SCHEMA} characters", param=param)


def _walked(schema: Any, refuse: Callable[[str, str], None], place: str, depth: int) -> Any:
    if isinstance(schema, bool):
        return schema
    if not isinstance(schema, Mapping):
        raise RequestError(f"the JSON Schema holds no schema at {place}")
    if depth > MAX_DEPTH:
        raise RequestError(f"the JSON Schema nests more than {MAX_DEPTH} levels")
    out: dict[str, Any] = {}
    for key, value in schema.items():
        if key in REFUSED:
            if not (key == "uniqueItems" and value is False):
                refuse(key, place)
            continue
        if key in _NAMED and isinstance(value, Mapping):
            value = {
                name: _walked(inner, refuse, f"{place}/{key}/{name}", depth + 1)
                for name, inner in value.items()
            }
        elif key in _SEVERAL and isinstance(value, list):
            value = [
                _walked(inner, refuse, f"{place}/{key}/{number}", depth + 1)
                for number, inner in enumerate(value)
            ]
        elif key in _ONE:
            value = _walked(value, refuse, f"{place}/{key}", depth + 1)
        elif key in _COUNTS and isinstance(value, float) and value.is_integer():
            value = int(value)  # 2.0 counts as 2
        if isinstance(value, Mapping | list) and len(value) > MAX_MEMBERS:
            raise RequestError(f"the JSON Schema has more than {MAX_MEMBERS} members at {place}")
        out[key] = value
    return out


def _closed(schema: Any, inside: bool = False) -> Any:
    """Return a schema whose objects have only the members that they name, if they name some.

    What is `inside` a combination of schemas stays as it is: one part does not know the others.
    """
    if not isinstance(schema, Mapping):
        return schema
    out = dict(schema)
    combined = any(key in schema for key in ("allOf", "anyOf", "oneOf", "$ref"))
    for key, value in schema.items():
        if key == "properties" and isinstance(value, Mapping):
            out[key] = {name: _closed(inner) for name, inner in value.items()}
        elif key in _SEVERAL and isinstance(value, list):
            out[key] = [_closed(inner, key in ("allOf", "anyOf", "oneOf")) for inner in value]
        elif key in _ONE:
            out[key] = _closed(value)
    named = isinstance(schema.get("properties"), Mapping) and schema["properties"]
    if named and not (combined or inside) and not schema.get("patternProperties"):
        out.setdefault("additionalProperties", False)
    return out
