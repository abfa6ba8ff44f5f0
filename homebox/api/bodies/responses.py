"""The body of POST /v1/responses, turned into a chat request.

The one idea: only spellings differ. What a response says of its request (its tools, its form, its
settings) is kept with the turn, so that the ledger can give the response back.

Invariant: a field that would change the answer is honoured or refused by name.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from homebox.api.bodies.fields import refuse
from homebox.api.bodies.items import messages_of
from homebox.api.checks import check, check_depth
from homebox.api.requests import (
    MESSAGES,
    STOPS,
    TOOLS,
    TOP_LOGPROBS,
    ChatMessage,
    ChatRequest,
    Count,
    Penalty,
    Share,
    Text,
)
from homebox.errors import RequestError

LOGPROBS = "message.output_text.logprobs"
REFUSED = {
    "background": "homebox answers while the caller waits",
    "conversation": "send previous_response_id or the whole input",
    "prompt": "there are no stored prompts; send input and instructions",
}
# As the request calls a field -> as callers of this endpoint know it.
FIELDS = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "response_format.json_schema": "text.format",
    "reasoning_effort": "reasoning.effort",
}
Label = Annotated[str, Meta(max_length=512)]


class Reasoning(Struct):
    """How much to think, and whether thoughts are told as a summary."""

    effort: Annotated[str, Meta(max_length=64)] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class ResponsesChat(ChatRequest):
    """A chat request that knows what its response repeats of it."""

    response: dict[str, Any] = msgspec.field(default_factory=dict)

    def offered(self) -> dict[str, Any]:
        """Return what the model was shown besides messages, and what the response needs."""
        more = {"response": self.response} if self.response else {}
        return {**super().offered(), **more}


class ResponsesBody(Struct):
    """The body as it comes."""

    model: str
    input: str | Annotated[list[dict[str, Any]], Meta(max_length=MESSAGES)] | None = None
    instructions: str | None = None
    previous_response_id: Annotated[str, Meta(max_length=128)] | None = None
    store: bool | None = None
    stream: bool | None = None
    tools: Annotated[list[dict[str, Any]], Meta(max_length=TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    reasoning: Reasoning | None = None
    max_output_tokens: Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Share | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=TOP_LOGPROBS)] | None = None
    include: Annotated[list[Label], Meta(max_length=64)] | None = None
    metadata: Annotated[dict[str, Label], Meta(max_length=16)] | None = None
    # The input is never cut: what does not fit is refused, whatever is said here.
    truncation: Literal["auto", "disabled"] | None = None
    user: Label | None = None
    prompt_cache_key: Label | None = None
    safety_identifier: Label | None = None
    background: bool | None = None
    conversation: Any = None
    prompt: Any = None
    # As for chat completions.
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Text | Annotated[list[Text], Meta(max_length=STOPS)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Share | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=100)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    enable_thinking: bool | None = None
    reasoning_budget: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None

    @property
    def stored(self) -> bool:
        """Whether the response can be had again by its id."""
        return self.store is not False

    @property
    def wants_logprobs(self) -> bool:
        """Whether the text comes with log-probabilities."""
        return bool(self.top_logprobs) or LOGPROBS in (self.include or ())

    @property
    def summarised(self) -> bool:
        """Whether thoughts are told where clients look for a summary of them."""
        given = self.reasoning or Reasoning()
        return bool(given.summary or given.generate_summary)

    def chat(self, history: list[ChatMessage]) -> ResponsesChat:
        """Return the checked request that goes on after `history`; raises RequestError."""
        refuse(self, REFUSED)
        for name in ("input", "tools", "text", "tool_choice", "chat_template_kwargs"):
            check_depth(getattr(self, name), name)
        added = messages_of(self.input or [])
        if not added and not history:
            raise RequestError("input is missing: send a text or items", "input")
        told = [] if self.instructions is None else [ChatMessage("system", self.instructions)]
        tools = _tools(self.tools or [])
        choice, tools = _chosen(self.tool_choice, tools)
        request = ResponsesChat(
            model=self.model,
            messages=[*told, *history, *added],
            stream=self.stream,
            max_completion_tokens=self.max_output_tokens,
            response_format=_nested(_format(self.text or {})),
            tools=tools or None,
            tool_choice=choice,
            reasoning_effort=(self.reasoning or Reasoning()).effort,
            logprobs=self.wants_logprobs or None,
            top_logprobs=self.top_logprobs if self.wants_logprobs else None,
            response=self._kept(tools) if self.stored else {},
            **{name: getattr(self, name) for name in SAME},
        )
        if len(request.messages) > MESSAGES:
            raise RequestError(f"input may be at most {MESSAGES} messages with all before", "input")
        check(request)
        return request

    def told(self) -> dict[str, Any]:
        """Return what the response repeats of its request."""
        given = self.reasoning or Reasoning()
        labels = {"user": self.user, "safety_identifier": self.safety_identifier}
        return {
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata or {},
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "previous_response_id": self.previous_response_id,
            "prompt_cache_key": self.prompt_cache_key,
            "reasoning": {
                "effort": given.effort,
                "summary": given.summary or given.generate_summary,
            },
            "store": self.stored,
            "text": {**(self.text or {}), "format": _format(self.text or {}) or {"type": "text"}},
            "tool_choice": self.tool_choice or "auto",
            "tools": [flat(tool) for tool in _tools(self.tools or [])],
            "top_logprobs": self.top_logprobs or 0,
            **{name: value for name, value in labels.items() if value is not None},
        }

    def _kept(self, tools: list[dict[str, Any]]) -> dict[str, Any]:
        """Return what the turn itself does not say of `told`."""
        told = self.told()
        instructed = told.pop("instructions") is not None
        if self.tool_choice != "none" and told["tools"] == [flat(tool) for tool in tools]:
            del told["tools"]
        return {**told, "instructed": instructed, "summarised": self.summarised}


# Fields that both requests call the same.
SAME = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "stop",
    "logit_bias",
    "parallel_tool_calls",
    "enable_thinking",
    "reasoning_budget",
    "chat_template_kwargs",
    "prompt_cache_key",
    "user",
)


def flat(tool: dict[str, Any]) -> dict[str, Any]:
    """Return a tool of a chat request as responses show it."""
    return {"type": "function", "parameters": None, "strict": None, **tool["function"]}


def _tools(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return tools in the chat's shape; raises RequestError for those that are no functions."""
    nested = []
    for index, tool in enumerate(tools):
        kind = tool.get("type", "function")
        if kind != "function":
            raise RequestError(
                f"tools[{index}]: tools of type {str(kind)[:100]!r} are not supported; send "
                "functions",
                f"tools[{index}].type",
            )
        if not isinstance(tool.get("name"), str):
            raise RequestError(f"tools[{index}]: a function needs a name", f"tools[{index}].name")
        named = ("name", "description", "parameters", "strict")
        function = {name: tool[name] for name in named if tool.get(name) is not None}
        nested.append({"type": "function", "function": function})
    return nested


def _chosen(
    choice: str | dict[str, Any] | None, tools: list[dict[str, Any]]
) -> tuple[str | dict[str, Any] | None, list[dict[str, Any]]]:
    """Return how tools are to be used, and those that may be, in the chat's shape."""
    if not isinstance(choice, dict):
        return choice, tools
    kind = choice.get("type")
    if kind == "function" and isinstance(choice.get("name"), str):
        return {"type": "function", "function": {"name": choice["name"]}}, tools
    allowed = choice.get("tools")
    if kind != "allowed_tools" or not isinstance(allowed, list):
        raise RequestError(
            'tool_choice must be "auto", "none", "required", {"type": "function", "name": ...} or '
            '{"type": "allowed_tools", "mode": ..., "tools": [...]}',
            "tool_choice",
        )
    names = {str(each.get("name")) for each in allowed if isinstance(each, dict)}
    if choice.get("mode", "auto") not in ("auto", "required"):
        raise RequestError('tool_choice.mode must be "auto" or "required"', "tool_choice.mode")
    kept = [tool for tool in tools if tool["function"]["name"] in names]
    if len(kept) < len(names):
        raise RequestError("tool_choice allows tools that are not among tools", "tool_choice.tools")
    return choice.get("mode", "auto"), kept


def _format(text: dict[str, Any]) -> dict[str, Any] | None:
    form = text.get("format")
    if form is not None and not isinstance(form, dict):
        raise RequestError("text.format must be an object with a type", "text.format")
    if form is not None and form.get("type") == "json_schema" and "schema" not in form:
        raise RequestError("text.format of type json_schema needs a schema", "text.format.schema")
    return form


def _nested(form: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a format of `text` as the chat's response format."""
    if form is None or form.get("type") != "json_schema":
        return form
    named = {name: value for name, value in form.items() if name != "type"}
    return {"type": "json_schema", "json_schema": named}
