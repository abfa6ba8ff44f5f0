"""What types cannot say of a chat request, checked.

Invariant: `parse` and `check` raise RequestError and nothing else, whatever the bytes.
"""

from typing import Any

from homebox.api.requests import ChatMessage, ChatRequest, ContentPart, decoded
from homebox.errors import RequestError

BIASES = 1_024
DEPTH = 200  # of values in values; what nests deeper can be parsed and not be written again
TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal"})
_KINDS = {dict: "a JSON schema, an object", str: "a text", bool: "true or false"}
# What chat_template_kwargs may not name, as other fields of the request say it.
RESERVED = frozenset({"self", "messages", "tools", "add_generation_prompt", "recall"})
# Fields of other servers and older protocols that would change the answer -> what to send instead.
_FORM = "send the form as response_format (json_schema, regex or lark)"
REFUSED = {
    "continue_final_message": "send the beginning as a prompt to /v1/completions",
    "functions": "send tools",
    "grammar": _FORM,
    "guided_choice": _FORM,
    "guided_grammar": _FORM,
    "guided_json": _FORM,
    "guided_regex": _FORM,
    "json_schema": _FORM,
    "structured_outputs": _FORM,
}


def parse(body: bytes) -> ChatRequest:
    """Read a chat request; raises RequestError that names the field."""
    request = decoded(body, ChatRequest)
    check(request)
    return request


def check(request: ChatRequest) -> None:
    """Check what types cannot say; raises RequestError that names the field."""
    for name, instead in REFUSED.items():
        if getattr(request, name):
            raise RequestError(f"{name} is not supported: {instead}", name)
    for name in ("tools", "chat_template_kwargs", "response_format"):
        check_depth(getattr(request, name), name)
    _check_tools(request.tools or [])
    _check_choice(request)
    _check_settings(request)
    _check_history(request.messages)


def _check_settings(request: ChatRequest) -> None:
    if request.top_logprobs is not None and not request.logprobs:
        raise RequestError("top_logprobs needs logprobs: true", "top_logprobs")
    biases = request.logit_bias or {}
    if len(biases) > BIASES:
        raise RequestError(f"logit_bias may name at most {BIASES} tokens", "logit_bias")
    for token in biases:
        if not (token.isascii() and token.isdigit() and len(token) < 10):
            raise RequestError(f"logit_bias: {token[:40]!r} is not the id of a token", "logit_bias")
    for name in request.chat_template_kwargs or ():
        if name in RESERVED or not name.isidentifier():
            raise RequestError(
                f"chat_template_kwargs may not set {name[:100]!r}", "chat_template_kwargs"
            )


def _check_choice(request: ChatRequest) -> None:
    """Check tool_choice against the tools, and turn older spellings into today's."""
    choice = request.tool_choice
    if isinstance(choice, dict):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if choice.get("type") != "function" or not isinstance(name, str):
            raise RequestError(
                'tool_choice must be "auto", "none", "required" or '
                '{"type": "function", "function": {"name": ...}}',
                "tool_choice",
            )
        if name not in {tool["function"]["name"] for tool in request.tools or []}:
            raise RequestError(f"tool_choice: no tool is called {name[:100]!r}", "tool_choice")
    elif choice not in (None, "auto", "none", "required"):
        raise RequestError(
            f'tool_choice must be "auto", "none", "required" or a function, not {choice[:100]!r}',
            "tool_choice",
        )
    if choice == "required" and not request.tools:
        raise RequestError('tool_choice is "required", but there are no tools', "tool_choice")


def check_depth(value: Any, name: str) -> None:
    """Refuse JSON that nests too deeply; raises RequestError that names the field."""
    level = [value]
    for _ in range(DEPTH):
        inner = [item for item in level if isinstance(item, list | dict)]
        if not inner:
            return
        level = [
            each for item in inner for each in (item.values() if isinstance(item, dict) else item)
        ]
    raise RequestError(f"{name} nests too deeply: at most {DEPTH} levels", name)


def _check_tools(tools: list[dict[str, Any]]) -> None:
    """Refuse tools that are no functions with a name."""
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        if tool.get("type", "function") != "function":
            raise RequestError(
                f"{where}: tools of type {str(tool['type'])[:100]!r} are not supported; send "
                "functions",
                f"{where}.type",
            )
        given = tool.get("function")
        function: dict[str, Any] = given if isinstance(given, dict) else {}
        name = function.get("name")
        if not isinstance(name, str) or not 0 < len(name) <= 256:
            raise RequestError(f"{where}: a function needs a name", f"{where}.function.name")
        kinds = {"parameters": dict, "description": str, "strict": bool}
        for field, kind in kinds.items():
            if not isinstance(function.get(field), kind | None):
                raise RequestError(
                    f"{where}: {field} must be {_KINDS[kind]}", f"{where}.function.{field}"
                )


def _check_history(messages: list[ChatMessage]) -> None:
    """Refuse content that is not text, and tool results that answer no call."""
    calls: set[str] = set()
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if isinstance(message.content, list):
            for part in message.content:
                _check_part(part, where)
        if message.tool_calls:
            if message.role != "assistant":
                raise RequestError(f"{where}: only the assistant calls tools", where)
            calls.update(call.id for call in message.tool_calls)
        if message.role == "tool" and message.tool_call_id not in calls:
            raise RequestError(
                f"{where}: no earlier assistant message has a tool call with the id "
                f"{message.tool_call_id!r}",
                f"{where}.tool_call_id",
            )


def _check_part(part: ContentPart, where: str) -> None:
    if part.type not in TEXT_PARTS:
        raise RequestError(
            f"{where}: content of type {part.type!r} is not supported; send text", where
        )
    if part.text is None and part.refusal is None:
        raise RequestError(f"{where}: a part of type {part.type!r} needs text", where)
