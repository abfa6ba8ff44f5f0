"""OpenAI's own description of its API, as an outside judge of what we say and a source of requests.

The document follows OpenAPI 3.1 with leftovers of 3.0. In three places the real API says what the
document does not: a chunk of a text completion has no finish reason before its end, nothing is
known of how likely a prompt's first token was, and embeddings are texts where base64 is asked for.
"""

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import schemathesis
import yaml


@functools.cache
def document(shared: Path) -> dict[str, Any]:
    """Return the whole document; times in its examples become texts."""
    text = (shared / "data/api/openai-openapi.yaml").read_text(encoding="utf-8")
    found = json.loads(json.dumps(yaml.load(text, Loader=yaml.CSafeLoader), default=str))
    found = _today(found)
    completion = found["components"]["schemas"]["CreateCompletionResponse"]["properties"]
    choice = completion["choices"]["items"]["properties"]
    _may_be_null(choice, "finish_reason")
    likely = choice["logprobs"]["anyOf"][0]["properties"]
    for name in ("token_logprobs", "top_logprobs"):
        _may_be_null(likely[name], "items")
    embedding = found["components"]["schemas"]["Embedding"]["properties"]
    embedding["embedding"] = {"anyOf": [embedding["embedding"], {"type": "string"}]}
    return found


def _today(value: Any) -> Any:
    """Say `nullable`, which only 3.0 knows, in the words of 3.1."""
    if isinstance(value, list):
        return [_today(each) for each in value]
    if not isinstance(value, dict):
        return value
    value = {name: _today(each) for name, each in value.items()}
    if value.pop("nullable", None) is True:
        return {"anyOf": [value, {"type": "null"}]}
    return value


def _may_be_null(of: dict[str, Any], name: str) -> None:
    of[name] = {"anyOf": [of[name], {"type": "null"}]}


class Judge:
    """Validates values by the names of the document's schemas."""

    def __init__(self, shared: Path) -> None:
        self._document = document(shared)
        self.schemas = self._document["components"]["schemas"]
        self._validators: dict[str, Any] = {}
        self._events = {
            kind: name
            for name, schema in self.schemas.items()
            if name.startswith("Response") and name.endswith("Event")
            for kind in schema.get("properties", {}).get("type", {}).get("enum", ())
        }

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError, with what is wrong, if a value is not what the schema says."""
        if name not in self._validators:
            self._validators[name] = jsonschema_rs.Draft202012Validator(
                {"$ref": f"#/components/schemas/{name}", "components": {"schemas": self.schemas}}
            )
        errors = [
            f"{'/'.join(map(str, error.instance_path))}: {error.message[:400]}"
            for error in self._validators[name].iter_errors(value)
        ]
        if errors:
            raise ValueError(f"{name}: {errors[:3]} in {json.dumps(value)[:600]}")

    def check_event(self, event: dict[str, Any]) -> None:
        """Do the same for an event of a response's stream, by its type."""
        self.check(self._events[event["type"]], event)

    def operation(self, path: str) -> Any:
        """Return what draws requests to POST `path`, good ones and bad ones."""
        paths = {path: {"post": self._document["paths"][path]["post"]}}
        known = {name: self._document[name] for name in ("openapi", "info", "components")}
        return schemathesis.openapi.from_dict({**known, "paths": paths})[path]["POST"]
