"""The body of POST /v1/messages (Anthropic's shape), turned into a chat request.

The one idea: a user's message there holds the results of tools and what the user said; here each
result is a message of its tool, so that only the user's words count as the owner's.
Invariant: a field that would change the answer is honoured or refused by name.
"""

import json
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from homebox.api.bodies.fields import converted, refuse
from homebox.api.checks import check, check_depth
from homebox.api.requests import (
    MESSAGES,
    STOPS,
    TOOLS,
    ChatMessage,
    ChatRequest,
    ContentPart,
    Count,
    FunctionCall,
    Share,
    Text,
    ToolCall,
)
from homebox.errors import RequestError
from homebox.model.generation.sampling import SamplingParams

# As the request calls a field -> as callers of this endpoint know it.
FIELDS = {
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "stop": "stop_sequences",
    "response_format": "output_config.format",
    "response_format.json_schema": "output_config.format",
    "reasoning_effort": "output_config.effort",
    "reasoning_budget": "thinking.budget_tokens",
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
}
REFUSED = {
    "container": "homebox runs no code for its callers",
    "mcp_servers": "homebox calls no tools itself; send them as tools",
    "context_management": "homebox never edits what it is sent",
}
# Changes with every request and says nothing to a model, but would end every shared prefix.
BILLING = "x-anthropic-billing-header:"
CHOICES = {"auto": "auto", "any": "required", "none": "none"}


class Block(Struct):
    """One block of a message's content."""

    type: str
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: Any = None
    is_error: bool | None = None
    thinking: str | None = None


class Message(Struct):
    """One message."""

    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]]


class Thinking(Struct):
    """Whether the model may think first, and how much."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None


class Output(Struct):
    """What the answer must be."""

    format: dict[str, Any] | None = None
    effort: Annotated[str, Meta(max_length=64)] | None = None


class MessagesChat(ChatRequest):
    """A chat request whose caller had to name a limit: one above the context means the context."""

    def sampling(self, prompt_tokens: int, context: int) -> SamplingParams:
        """Return sampling parameters that fit into the context."""
        most = context if self.max_tokens is None else min(self.max_tokens, context)
        bounded = msgspec.structs.replace(self, max_tokens=most)
        return super(MessagesChat, bounded).sampling(prompt_tokens, context)


class MessagesBody(Struct):
    """The body as it comes."""

    model: str
    messages: Annotated[list[Message], Meta(min_length=1, max_length=MESSAGES)]
    max_tokens: Count | None = None
    system: str | list[dict[str, Any]] | None = None
    stream: bool | None = None
    stop_sequences: Annotated[list[Text], Meta(max_length=STOPS)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    tools: Annotated[list[dict[str, Any]], Meta(max_length=TOOLS)] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: Thinking | None = None
    output_config: Output | None = None
    output_format: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    container: Any = None
    mcp_servers: Any = None
    context_management: Any = None
    # As for chat completions.
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def chat(self, counted: bool = False) -> MessagesChat:
        """Return the checked request; raises RequestError. `counted`: nothing will be answered."""
        refuse(self, REFUSED)
        if self.max_tokens is None and not counted:
            raise RequestError("max_tokens is missing", "max_tokens")
        for name in ("tools", "tool_choice", "system", "chat_template_kwargs"):
            check_depth(getattr(self, name), name)
        messages = _system(self.system)
        for index, message in enumerate(self.messages):
            check_depth(message.content, f"messages[{index}]")
            messages += _messages(message, f"messages[{index}]")
        if not counted and messages[-1].role == "assistant":
            raise RequestError(
                "messages: the last one must be the user's; homebox does not continue an answer "
                "that the caller began",
                "messages",
            )
        choice, parallel = _chosen(self.tool_choice)
        thinking = self.thinking or Thinking("disabled")
        output = self.output_config or Output()
        request = MessagesChat(
            model=self.model,
            messages=messages,
            stream=self.stream,
            max_tokens=self.max_tokens,
            stop=self.stop_sequences,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=self.seed,
            tools=_tools(self.tools or []) or None,
            tool_choice=choice,
            parallel_tool_calls=parallel,
            response_format=_form(output.format or self.output_format),
            enable_thinking=thinking.type != "disabled",
            reasoning_budget=thinking.budget_tokens if thinking.type == "enabled" else None,
            reasoning_effort=output.effort,
            chat_template_kwargs=self.chat_template_kwargs,
            user=_user(self.metadata),
        )
        check(request)
        return request


def _system(system: str | list[dict[str, Any]] | None) -> list[ChatMessage]:
    if isinstance(system, list):
        texts = _texts(system, "system")
        system = "\n\n".join(text for text in texts if not text.startswith(BILLING))
    return [ChatMessage("system", system)] if system else []


def _messages(message: Message, where: str) -> list[ChatMessage]:
    """Return the messages that one of Anthropic's stands for."""
    if isinstance(message.content, str):
        return [ChatMessage(message.role, message.content)]
    blocks = [
        (converted(block, Block, f"{where}.content[{index}]"), f"{where}.content[{index}]")
        for index, block in enumerate(message.content)
    ]
    if message.role == "assistant":
        return [_assistant(blocks)]
    found: list[ChatMessage] = []
    said: list[ContentPart] | None = None  # the pieces of the words that come now
    for block, place in blocks:
        if block.type == "tool_result" and message.role == "user":
            said = None
            found.append(_result(block, place))
            continue
        part = ContentPart("text", _text(block, place))
        if said is None:
            said = []
            found.append(ChatMessage(message.role, said))
        said.append(part)
    return found or [ChatMessage(message.role, "")]


def _assistant(blocks: list[tuple[Block, str]]) -> ChatMessage:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for block, place in blocks:
        if block.type == "tool_use":
            if not block.id or not block.name or len(block.id) > 256:
                raise RequestError(f"{place}: a tool_use needs an id and a name", place)
            arguments = json.dumps(block.input or {}, ensure_ascii=False, separators=(",", ":"))
            calls.append(ToolCall(block.id, FunctionCall(block.name, arguments)))
        elif block.type == "thinking":
            thoughts.append(block.thinking or "")
        elif block.type != "redacted_thinking":
            texts.append(_text(block, place))
    return ChatMessage(
        "assistant",
        "".join(texts) if texts or not calls else None,
        tool_calls=calls or None,
        reasoning_content="".join(thoughts) or None,
    )


def _result(block: Block, where: str) -> ChatMessage:
    """Return a result as its tool's message; that it is an error is said in words."""
    if not block.tool_use_id:
        raise RequestError(f"{where}: a tool_result needs a tool_use_id", f"{where}.tool_use_id")
    content = block.content
    if isinstance(content, list):
        text = "".join(_texts(content, f"{where}.content"))
    elif isinstance(content, str) or content is None:
        text = content or ""
    else:
        raise RequestError(f"{where}.content must be a text or blocks", f"{where}.content")
    if block.is_error and not text.lower().startswith("error"):
        text = f"Error: {text}"
    return ChatMessage("tool", text, tool_call_id=block.tool_use_id)


def _texts(blocks: list[Any], where: str) -> list[str]:
    places = [f"{where}[{index}]" for index in range(len(blocks))]
    return [
        _text(converted(block, Block, place), place)
        for block, place in zip(blocks, places, strict=True)
    ]


def _text(block: Block, where: str) -> str:
    if block.type != "text":
        raise RequestError(
            f"{where}: blocks of type {block.type[:100]!r} are not supported here; send text",
            where,
        )
    if block.text is None:
        raise RequestError(f"{where}: a block of type text needs text", where)
    return block.text


def _tools(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return tools in the chat's shape; raises RequestError for those that the server would run."""
    nested = []
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        kind = tool.get("type") or "custom"
        if kind != "custom":
            raise RequestError(
                f"{where}: tools of type {str(kind)[:100]!r} are not supported; send tools with "
                "an input_schema",
                f"{where}.type",
            )
        if not isinstance(tool.get("name"), str):
            raise RequestError(f"{where}: a tool needs a name", f"{where}.name")
        if not isinstance(tool.get("input_schema"), dict):
            raise RequestError(f"{where}: a tool needs an input_schema", f"{where}.input_schema")
        function = {"name": tool["name"], "parameters": tool["input_schema"]}
        for name in ("description", "strict"):
            if tool.get(name) is not None:
                function[name] = tool[name]
        nested.append({"type": "function", "function": function})
    return nested


def _chosen(choice: dict[str, Any] | None) -> tuple[str | dict[str, Any] | None, bool | None]:
    """Return how tools are to be used in the chat's words, and whether several at once."""
    if choice is None:
        return None, None
    kind, name = choice.get("type"), choice.get("name")
    parallel = False if choice.get("disable_parallel_tool_use") is True else None
    if kind == "tool" and isinstance(name, str):
        return {"type": "function", "function": {"name": name}}, parallel
    if not isinstance(kind, str) or kind not in CHOICES:
        raise RequestError(
            'tool_choice must be {"type": "auto"}, "any", "none", or "tool" with a name',
            "tool_choice",
        )
    return CHOICES[kind], parallel


def _form(form: dict[str, Any] | None) -> dict[str, Any] | None:
    if form is None:
        return None
    if form.get("type") != "json_schema" or not isinstance(form.get("schema"), dict):
        raise RequestError(
            'output_config.format must be {"type": "json_schema", "schema": {...}}',
            "output_config.format",
        )
    return {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": form["schema"]},
    }


def _user(metadata: dict[str, Any] | None) -> str | None:
    user = (metadata or {}).get("user_id")
    return user if isinstance(user, str) else None
