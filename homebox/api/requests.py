"""Chat requests: bytes from the network in, typed and bounded values out.

Nothing behind this module sees an unchecked request. What homebox cannot do yet is refused by
name instead of being ignored where the caller would notice the difference in the answer; unknown
fields are tolerated, as every client sends some.

Invariant: `parse` raises RequestError and nothing else, whatever the bytes.
"""

import re
import secrets
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from homebox.errors import RequestError
from homebox.model.generation.sampling import SamplingParams

STOPS = 16
STOP_LENGTH = 512
MESSAGES = 16_384
TOOLS = 1_024
DEPTH = 200  # of values in values; what nests deeper can be parsed and not be written again
TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal"})
# Whom a client may name as the author of a message: those who are trusted least.
CLAIMED = frozenset({"tool", "file", "web"})
# What chat_template_kwargs may not name, as other fields of the request say it.
RESERVED = frozenset({"self", "messages", "tools", "add_generation_prompt"})
SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
)

Count = Annotated[int, Meta(ge=1)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Text = Annotated[str, Meta(min_length=1, max_length=STOP_LENGTH)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]


class ContentPart(Struct):
    """One part of a message's content; only parts with text are understood."""

    type: str
    text: str | None = None
    refusal: str | None = None


class FunctionCall(Struct):
    """Which function the assistant called; `arguments` is JSON text as the model wrote it."""

    name: str
    arguments: str = "{}"


class ToolCall(Struct):
    """One call in an assistant message of the history."""

    id: Name
    function: FunctionCall
    type: Literal["function"] = "function"


class ChatMessage(Struct):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Meta(max_length=TOOLS)] | None = None
    tool_call_id: str | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    provenance: Any = None

    @property
    def claimed(self) -> str:
        """Who wrote the message by its own word, if that is somebody who is trusted little."""
        known = isinstance(self.provenance, str) and self.provenance in CLAIMED
        return self.provenance if known else ""

    def details(self) -> dict[str, Any]:
        """Return the fields that a message may have besides role, content and author."""
        thoughts = self.reasoning_content or self.reasoning
        fields = {
            "name": self.name,
            "reasoning_content": thoughts if isinstance(thoughts, str) else None,
            "tool_call_id": self.tool_call_id,
            "tool_calls": msgspec.to_builtins(self.tool_calls) if self.tool_calls else None,
        }
        return {name: value for name, value in fields.items() if value is not None}

    @property
    def text(self) -> str:
        """The content as one string; the parts of an array follow each other directly."""
        if self.content is None:
            return ""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text or part.refusal or "" for part in self.content)


class StreamOptions(Struct):
    """What the stream carries besides text."""

    include_usage: bool | None = None


class ChatRequest(Struct):
    """The body of POST /v1/chat/completions."""

    model: str
    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MESSAGES)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Share | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=100)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Text | Annotated[list[Text], Meta(max_length=STOPS)] | None = None
    n: int | None = None
    logprobs: bool | None = None
    logit_bias: dict[str, float] | None = None
    response_format: dict[str, Any] | None = None
    tools: Annotated[list[dict[str, Any]], Meta(max_length=TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    enable_thinking: bool | None = None
    reasoning_effort: Annotated[str, Meta(max_length=64)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    prompt_cache_key: str | None = None
    user: str | None = None

    @property
    def answer_tokens(self) -> int | None:
        """How many tokens the answer may have; None if the caller left it open."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens
        return self.max_tokens

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def offered_tools(self) -> list[dict[str, Any]]:
        """The tools that the model may call."""
        return [] if self.tool_choice == "none" else self.tools or []

    def variables(self) -> dict[str, Any]:
        """Return what goes to the chat template besides messages and tools."""
        known = {
            "enable_thinking": self.enable_thinking,
            "parallel_tool_calls": self.parallel_tool_calls if self.offered_tools else None,
            "reasoning_effort": self.reasoning_effort,
        }
        given = {name: value for name, value in known.items() if value is not None}
        return {**given, **(self.chat_template_kwargs or {})}

    def offered(self) -> dict[str, Any]:
        """Return what the model was shown besides messages, for the ledger."""
        fields = {"tools": self.offered_tools, "variables": self.variables()}
        return {name: value for name, value in fields.items() if value}

    def rendered_messages(self) -> list[dict[str, Any]]:
        """Give the messages as a chat template reads them: plain strings, developer as system."""
        rendered = []
        for message in self.messages:
            role = "system" if message.role == "developer" else message.role
            author = {"provenance": message.claimed} if message.claimed else {}
            rendered.append({"role": role, "content": message.text, **author, **message.details()})
        return rendered

    def sampling(self, prompt_tokens: int, context: int) -> SamplingParams:
        """Turn the request's wishes into sampling parameters that fit into the context.

        The answer may be as long as it asks for, at most what the prompt left of the context.
        """
        room = context - prompt_tokens
        asked = self.answer_tokens
        if asked is not None and asked > context:
            field = "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"
            raise RequestError(
                f"{field} is too large: {asked}. This model's context is {context} tokens.", field
            )
        given = {name: value for name in SAMPLING if (value := getattr(self, name)) is not None}
        if self.top_p == 0:
            given |= {"top_p": 1.0, "temperature": 0.0}
        if self.top_k == -1:
            given["top_k"] = 0
        return SamplingParams(
            max_tokens=room if asked is None else min(asked, room),
            # Drawn here, so that the ledger knows the seed and an answer can be had again.
            seed=secrets.randbits(63) if self.seed is None else self.seed,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            **given,
        )


_DECODER = msgspec.json.Decoder(ChatRequest)


def parse(body: bytes) -> ChatRequest:
    """Read a chat request; raises RequestError that names the field."""
    try:
        request = _DECODER.decode(body)
    except msgspec.ValidationError as error:
        raise _named(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"The body is not valid JSON: {error}") from None
    _refuse_unsupported(request)
    _check_depth(request.tools, "tools")
    _check_depth(request.chat_template_kwargs, "chat_template_kwargs")
    _check_tools(request.tools or [])
    _check_history(request.messages)
    return request


def _named(text: str) -> RequestError:
    """Turn "Expected `int`, got `str` - at `$.max_tokens`" into an error about `max_tokens`."""
    place = re.search(r" - at `\$\.?([^`]*)`$", text)
    if place is None:
        missing = re.search(r"missing required field `(\w+)`", text)
        return RequestError(text, missing.group(1) if missing else None)
    path = place.group(1).replace("[...]", "[]")
    missing = re.search(r"missing required field `(\w+)`", text)
    if missing:
        path = f"{path}.{missing.group(1)}"
    return RequestError(f"{path}: {text[: place.start()]}", path)


def _refuse_unsupported(request: ChatRequest) -> None:
    if request.n not in (None, 1):
        raise RequestError(f"n must be 1, not {request.n}: homebox gives one answer", "n")
    if request.logprobs:
        raise RequestError("logprobs are not supported", "logprobs")
    if request.logit_bias:
        raise RequestError("logit_bias is not supported", "logit_bias")
    wanted = (request.response_format or {}).get("type", "text")
    if wanted != "text":
        raise RequestError(f"response_format {wanted!r} is not supported", "response_format")
    if request.tool_choice not in (None, "auto", "none"):
        raise RequestError('tool_choice must be "auto" or "none"', "tool_choice")
    for name in request.chat_template_kwargs or ():
        if name in RESERVED or not name.isidentifier():
            raise RequestError(
                f"chat_template_kwargs may not set {name[:100]!r}", "chat_template_kwargs"
            )


def _check_depth(value: Any, name: str) -> None:
    """Refuse JSON that nests too deeply."""
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
        function = tool.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or not 0 < len(name) <= 256:
            raise RequestError(f"{where}: a function needs a name", f"{where}.function.name")


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
