"""The items of /v1/responses, read as the messages of a conversation.

The one idea: what the model said in one go comes back as several items (its reasoning, its text,
its calls); they are one message of the assistant again, so that a history is rendered as it was
generated. Invariant: `messages_of` raises RequestError and nothing else.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from homebox.api.bodies.fields import converted, parts_of, text_of
from homebox.api.requests import ChatMessage, ContentPart, FunctionCall, Name, ToolCall
from homebox.errors import RequestError

TEXTS = ("input_text", "output_text", "text", "refusal")
THOUGHTS = ("reasoning_text", "summary_text", "text")
KNOWN = "message, function_call, function_call_output or reasoning"


class MessageItem(Struct):
    """A message; its content is text, whole or in parts."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[ContentPart]
    provenance: Any = None


class CallItem(Struct):
    """A call that the model made earlier."""

    call_id: Name
    name: Annotated[str, Meta(min_length=1, max_length=256)]
    arguments: str = "{}"


class ResultItem(Struct):
    """What a call gave."""

    call_id: Name
    output: str | list[ContentPart]


class ReasoningItem(Struct):
    """What the model thought earlier, as it was or in short."""

    summary: list[ContentPart] | None = None
    content: list[ContentPart] | None = None


def messages_of(given: str | list[dict[str, Any]], where: str = "input") -> list[ChatMessage]:
    """Return the messages that the items stand for; raises RequestError that names the item."""
    if isinstance(given, str):
        return [ChatMessage("user", given)]
    messages: list[ChatMessage] = []
    own: ChatMessage | None = None  # the assistant's message that is being put together
    for index, item in enumerate(given):
        place = f"{where}[{index}]"
        kind = item.get("type", "message")
        if kind == "message":
            message = converted(item, MessageItem, place)
            where = f"{place}.content"
            if message.role != "assistant":
                own = None
                content = parts_of(message.content, where, TEXTS)
                messages.append(ChatMessage(message.role, content, provenance=message.provenance))
                continue
            if own is None or own.content is not None:
                own = _begun(messages)
            own.content = text_of(message.content, where, TEXTS)
        elif kind == "function_call":
            own = own or _begun(messages)
            call = converted(item, CallItem, place)
            own.tool_calls = [
                *(own.tool_calls or ()),
                ToolCall(call.call_id, FunctionCall(call.name, call.arguments or "{}")),
            ]
        elif kind == "function_call_output":
            own = None
            result = converted(item, ResultItem, place)
            text = text_of(result.output, f"{place}.output", TEXTS)
            messages.append(ChatMessage("tool", text, tool_call_id=result.call_id))
        elif kind == "reasoning":
            thoughts = _thoughts(converted(item, ReasoningItem, place), place)
            if own is None or own.content is not None or own.tool_calls:
                own = _begun(messages)
            own.reasoning_content = (own.reasoning_content or "") + thoughts or None
        else:
            raise RequestError(
                f"{place}: items of type {str(kind)[:100]!r} are not supported; send {KNOWN}",
                f"{place}.type",
            )
    return [message for message in messages if not _empty(message)]


def _begun(messages: list[ChatMessage]) -> ChatMessage:
    messages.append(ChatMessage("assistant"))
    return messages[-1]


def _thoughts(item: ReasoningItem, where: str) -> str:
    if item.content:
        return text_of(item.content, f"{where}.content", THOUGHTS)
    return text_of(item.summary, f"{where}.summary", THOUGHTS)


def _empty(message: ChatMessage) -> bool:
    """Whether nothing is left of an item: reasoning that came back encrypted or empty."""
    said = message.content is not None or message.tool_calls or message.reasoning_content
    return message.role == "assistant" and not said
