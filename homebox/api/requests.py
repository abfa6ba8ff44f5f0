"""Chat requests: bytes from the network in, typed and bounded values out.

The one idea: `ChatRequest` is what every endpoint that talks turns its body into, so that each
rule is written once. Nothing behind this module sees an unchecked request. What homebox cannot do
is refused by name instead of being ignored where the caller would notice the difference in the
answer; unknown fields are tolerated, as every client sends some.

Invariant: `decoded` raises RequestError and nothing else, whatever the bytes.
"""

import functools
import re
import secrets
from typing import Annotated, Any, Literal, TypeVar, cast

import msgspec
from msgspec import Meta, Struct

from homebox.errors import RequestError
from homebox.model.generation.sampling import SamplingParams

STOPS = 16
CHOICES = 16
TOP_LOGPROBS = 20
STOP_LENGTH = 512
MESSAGES = 16_384
TOOLS = 1_024
# Whom a client may name as the author of a message: those who are trusted least.
CLAIMED = frozenset({"tool", "file", "web"})
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
    n: Annotated[int, Meta(ge=1, le=CHOICES)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=TOP_LOGPROBS)] | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    response_format: dict[str, Any] | None = None
    tools: Annotated[list[dict[str, Any]], Meta(max_length=TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    enable_thinking: bool | None = None
    reasoning_effort: Annotated[str, Meta(max_length=64)] | None = None
    reasoning_budget: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    prompt_cache_key: str | None = None
    user: str | None = None
    # What other servers and older protocols know, to be refused (see checks.py).
    continue_final_message: Any = None
    functions: Any = None
    grammar: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    json_schema: Any = None
    structured_outputs: Any = None

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

    @property
    def chosen_tool(self) -> str:
        """How tools are to be used: "auto", "none", "required", or the name of the one to call."""
        if isinstance(self.tool_choice, dict):
            return str(self.tool_choice["function"]["name"])
        return self.tool_choice or "auto"

    def variables(self) -> dict[str, Any]:
        """Return what goes to the chat template besides messages and tools."""
        # "none" is not an effort that templates know; those that can think ask for the switch.
        quiet = self.enable_thinking is None and self.reasoning_effort == "none"
        known = {
            "enable_thinking": False if quiet else self.enable_thinking,
            "parallel_tool_calls": self.parallel_tool_calls if self.offered_tools else None,
            "reasoning_effort": None if quiet else self.reasoning_effort,
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
        biases = self.logit_bias or {}
        return SamplingParams(
            max_tokens=room if asked is None else min(asked, room),
            # Drawn here, so that the ledger knows the seed and an answer can be had again.
            seed=secrets.randbits(62) if self.seed is None else self.seed,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            logit_bias=tuple((int(token), bias) for token, bias in biases.items()),
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            **given,
        )


S = TypeVar("S", bound=Struct)


def decoded(body: bytes, kind: type[S]) -> S:
    """Read a body of some kind; raises RequestError that names the field."""
    try:
        return cast(S, _decoder(kind).decode(body))
    except msgspec.ValidationError as error:
        raise _named(str(error), kind) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"The body is not valid JSON: {error}") from None


@functools.cache
def _decoder(kind: type[Struct]) -> "msgspec.json.Decoder[Any]":
    return msgspec.json.Decoder(kind)


def _named(text: str, kind: type[Struct]) -> RequestError:
    """Turn "Expected `int`, got `str` - at `$.max_tokens`" into an error about `max_tokens`."""
    place = re.search(r" - at `\$\.?([^`]*)`$", text)
    path = place.group(1).replace("[...]", "[]") if place else ""
    said = text[: place.start()] if place else text
    missing = re.search(r"missing required field `(\w+)`", text)
    if missing:
        path = f"{path}.{missing.group(1)}".lstrip(".")
        said = "is missing"
    if not path:
        return RequestError(f"The body: {said}", None)
    if said.startswith("Invalid enum value") and (known := values_at(kind, path)):
        said += f"; it may be {', '.join(known)}"
    return RequestError(f"{path} {said}" if missing else f"{path}: {said}", path)


def values_at(kind: type[Struct], path: str) -> list[str]:
    """Return the values that the field at a path such as `messages[0].role` may have, if few."""
    types: list[Any] = [msgspec.inspect.type_info(kind)]
    for step in re.findall(r"\w+|\[", re.sub(r"\[\d*\]", "[", path)):
        types = [inner for each in types for inner in _inside(each, step)]
    return [str(value) for each in types for value in getattr(each, "values", ())]


def _inside(given: Any, step: str) -> list[Any]:
    """Return the types of a member of a value of type `given`: a field, or "[" for an element."""
    if isinstance(given, msgspec.inspect.StructType):
        found = [field.type for field in given.fields if field.encode_name == step]
    elif isinstance(given, msgspec.inspect.ListType):
        found = [given.item_type] if step == "[" else []
    else:
        found = []
    types = [each.type if isinstance(each, msgspec.inspect.Metadata) else each for each in found]
    return [
        member
        for each in types
        for member in (each.types if isinstance(each, msgspec.inspect.UnionType) else [each])
    ]
