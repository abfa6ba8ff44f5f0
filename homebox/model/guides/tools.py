"""The tools that an answer may call, each with a schema that can be enforced.

The one idea: a tool that says strict is enforced to the letter or refused; of any other, what
cannot be enforced is left to the tool itself, one parameter at a time.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from homebox.errors import RequestError
from homebox.model.answers.calls import NAME
from homebox.model.guides.compiler import unusable
from homebox.model.guides.schemas import checked, grammar_of, relaxed
from homebox.model.guides.vocabulary import Vocabulary

_ROOT = "root__"


@dataclass(frozen=True, slots=True, eq=False)
class Tool:
    """A tool: its name, and the schema of its arguments, which is always one of an object."""

    name: str
    schema: Mapping[str, Any]
    loose: bool

    @property
    def json(self) -> str:
        """The arguments as the body of a grammar's rule."""
        return grammar_of(self.schema, self.loose)

    @property
    def required(self) -> frozenset[str]:
        """The names of the parameters that each call must have."""
        names = self.schema.get("required")
        return frozenset(names if isinstance(names, list) else ())

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The schemas of the parameters, by name."""
        found = self.schema.get("properties")
        return found if isinstance(found, Mapping) else {}

    def json_of(self, name: str) -> str:
        """Return a parameter as the body of a grammar's rule."""
        return grammar_of(self.parameter(name), self.loose)

    def parameter(self, name: str) -> dict[str, Any]:
        """Return the schema of a parameter, such that it can stand alone."""
        schema = self.parameters[name]
        root = _moved(self.schema)
        alone = _moved(schema) if isinstance(schema, Mapping) else {}
        return {**alone, "$defs": {_ROOT: root}} if _refers(alone) else alone


def offered(tools: Iterable[Mapping[str, Any]], vocabulary: Vocabulary) -> list[Tool]:
    """Return the tools of a request; RequestError names the field of one that is none."""
    found: dict[str, Tool] = {}
    for number, tool in enumerate(tools):
        param = f"tools[{number}].function"
        inner = tool.get("function") if isinstance(tool, Mapping) else None
        function = inner if isinstance(inner, Mapping) else tool
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise RequestError(
                f"{param}.name must be 1 to 128 letters, digits, _, -, ., : or /",
                param=f"{param}.name",
            )
        if name in found:
            raise RequestError(f"{param}.name: there are two tools {name}", param=f"{param}.name")
        found[name] = _tool(name, function, f"{param}.parameters", vocabulary)
    return list(found.values())


def _tool(name: str, function: Mapping[str, Any], param: str, vocabulary: Vocabulary) -> Tool:
    schema = function.get("parameters")
    if schema is None:
        schema = {"type": "object", "properties": {}}
    if not isinstance(schema, Mapping) or schema.get("type", "object") != "object":
        raise RequestError(f"{param} must be a JSON Schema of type object", param=param)
    if function.get("strict") is True:
        exact = _object(checked(schema, param))
        reason = unusable(vocabulary, grammar_of(exact))
        if reason:
            raise RequestError(f"{param} cannot be enforced strictly: {reason}", param=param)
        return Tool(name, exact, loose=False)
    loose = _object(relaxed(schema, param))
    if unusable(vocabulary, grammar_of(loose, loose=True)):
        loose = _part_by_part(loose, vocabulary)
    return Tool(name, loose, loose=True)


def _object(schema: Mapping[str, Any]) -> dict[str, Any]:
    out = {**schema, "type": "object"}
    if "properties" in out and not out["properties"] and "patternProperties" not in out:
        # A tool without parameters is called with {}.
        out.setdefault("additionalProperties", False)
    return out


def _part_by_part(schema: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """Return a schema in which a parameter that cannot be enforced is any value of its type."""
    known = schema.get("properties")
    kept: dict[str, Any] = {}
    for name, inner in known.items() if isinstance(known, Mapping) else ():
        alone = Tool("", schema, loose=True).parameter(name)
        good = not unusable(vocabulary, grammar_of(alone, loose=True))
        kept[name] = inner if good else _any_of_type(inner, vocabulary)
    names = schema.get("required")
    required = [each for each in names if each in kept] if isinstance(names, list) else []
    out: dict[str, Any] = {"type": "object", "properties": kept, "required": required}
    if schema.get("additionalProperties") is False:
        out["additionalProperties"] = False
    out |= {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    if not unusable(vocabulary, grammar_of(out, loose=True)):
        return out
    return {"type": "object"}


def _any_of_type(schema: Any, vocabulary: Vocabulary) -> Any:
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    out = {} if kind is None else {"type": kind}
    return {} if unusable(vocabulary, grammar_of(out)) else out


def _refers(schema: Any) -> bool:
    return '"$ref"' in json.dumps(schema)


def _moved(schema: Any) -> Any:
    """Return a schema whose references to the root of its document point to where that is now."""
    if isinstance(schema, list):
        return [_moved(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    out = {}
    for key, value in schema.items():
        if key == "$ref" and isinstance(value, str) and value.startswith("#"):
            out[key] = f"#/$defs/{_ROOT}{value[1:]}"
        elif key not in ("$id", "$schema"):
            out[key] = _moved(value)
    return out
