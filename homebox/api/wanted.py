"""What a request wants its answer to be, for whoever enforces it."""

from typing import Any

from homebox.api.requests import ChatRequest
from homebox.errors import RequestError
from homebox.model.guides import Form, JsonObject, JsonSchema, Lark, Regex, Wanted

_FIELD = "response_format"
_KNOWN = "text, json_object, json_schema, regex or lark"


def wanted_of(chat: ChatRequest, begun: str) -> Wanted:
    """Return what is wanted of the answer to a prompt that ends in `begun`.

    Raises RequestError for a response format that is none.
    """
    return Wanted(
        tools=chat.offered_tools,
        tool_choice=chat.chosen_tool,
        parallel=chat.parallel_tool_calls is not False,
        form=form_of(chat.response_format),
        thinking_budget=chat.reasoning_budget,
        prompt=begun,
    )


def form_of(given: dict[str, Any] | None) -> Form | None:
    """Return the form that a response format asks for; None for text."""
    kind = (given or {"type": "text"}).get("type")
    if given is None or kind == "text":
        return None
    if kind == "json_object":
        # Some clients send the schema of the object along with this type.
        return JsonObject() if given.get("schema") is None else _schema(given, _FIELD)
    if kind == "json_schema":
        return _schema(given.get("json_schema"), f"{_FIELD}.json_schema")
    if kind == "regex":
        return Regex(_text(given, "regex"))
    if kind == "lark":
        return Lark(_text(given, "lark"))
    raise RequestError(f"{_FIELD}.type must be {_KNOWN}, not {str(kind)[:100]!r}", _FIELD)


def _schema(given: Any, where: str) -> JsonSchema:
    if not isinstance(given, dict):
        raise RequestError(f"{where} must be an object with a name and a schema", where)
    schema = given.get("schema", {})
    if not isinstance(schema, dict):
        raise RequestError(f"{where}.schema must be a JSON schema, an object", f"{where}.schema")
    return JsonSchema(schema, strict=bool(given.get("strict")), name=str(given.get("name") or ""))


def _text(given: dict[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not value:
        raise RequestError(f"{_FIELD}.{name} must be a text", f"{_FIELD}.{name}")
    return value
