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
FORMATS = frozenset(
    "date time date-time duration email hostname ipv4 ipv6 uri uuid".split(),
)
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

    return _Walk(refuse, param).schema(schema, "#", 0)


def relaxed(schema: Any, param: str) -> Any:
    """Return a schema without the keywords that cannot be enforced, and without other parameters.

    Raises RequestError for what is no schema at all, or too large.
    """
    _bounded(schema, param)
    return _closed(_Walk(lambda keyword, place: None, param).schema(schema, "#", 0))


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
    if _deeper_than(schema, 2 * MAX_DEPTH + 20):
        raise RequestError(f"{param} nests more than {MAX_DEPTH} levels", param=param)
    if size > MAX_SCHEMA:
        raise RequestError(f"{param} is longer than {MAX_SCHEMA} characters", param=param)


class _Walk:
    """Copies a schema, and tells of each keyword that cannot be enforced."""

    def __init__(self, refuse: Callable[[str, str], None], param: str) -> None:
        self._refuse = refuse
        self._param = param

    def schema(self, schema: Any, place: str, depth: int) -> Any:
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, Mapping):
            raise self._wrong(f"holds no schema at {place}")
        if depth > MAX_DEPTH:
            raise self._wrong(f"nests more than {MAX_DEPTH} levels")
        out: dict[str, Any] = {}
        for key, value in schema.items():
            if isinstance(value, Mapping | list) and len(value) > MAX_MEMBERS:
                raise self._wrong(f"has more than {MAX_MEMBERS} members at {place}/{key}")
            if key == "format" and value not in FORMATS:
                # Formats are of texts; OpenAPI's int32 and the like say nothing here.
                if "string" in str(schema.get("type", "string")):
                    self._refuse(f"format {str(value)[:100]!r}", place)
            elif key not in REFUSED:
                out[key] = self._value(key, value, f"{place}/{key}", depth + 1)
            elif not (key == "uniqueItems" and value is False):
                self._refuse(key, place)
        return out

    def _value(self, key: str, value: Any, place: str, depth: int) -> Any:
        if key in _NAMED and isinstance(value, Mapping):
            return {name: self.schema(it, f"{place}/{name}", depth) for name, it in value.items()}
        if key in _SEVERAL and isinstance(value, list):
            return [self.schema(it, f"{place}/{n}", depth) for n, it in enumerate(value)]
        if key in _ONE:
            return self.schema(value, place, depth)
        if key in _COUNTS and isinstance(value, float) and value.is_integer():
            return int(value)  # 2.0 counts as 2
        return value

    def _wrong(self, what: str) -> RequestError:
        return RequestError(f"{self._param} {what}", param=self._param)


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


def _deeper_than(value: Any, most: int) -> bool:
    level = [value] if isinstance(value, Mapping | list) else []
    for _ in range(most):
        lists = [each.values() if isinstance(each, Mapping) else each for each in level]
        level = [it for each in lists for it in each if isinstance(it, Mapping | list)]
        if not level:
            return False
    return True
