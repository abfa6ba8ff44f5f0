"""The body of POST /v1/completions: prompts as they are, and how to go on with them.

Invariant: what cannot be done (a text to fit in before a suffix, the best of several) is refused by
name; fields that only other servers know are ignored.
"""

from typing import Annotated, Any, cast

from msgspec import Meta, Struct

from homebox.api.bodies.fields import refuse
from homebox.api.checks import check, check_depth
from homebox.api.plain import AUTHOR
from homebox.api.requests import (
    CHOICES,
    STOPS,
    ChatMessage,
    ChatRequest,
    Penalty,
    Share,
    StreamOptions,
    Text,
)
from homebox.errors import RequestError

TOKENS = 16  # of an answer, where the caller says nothing
ANSWERS = 64  # to all prompts of a request together
TOP = 5
REFUSED = {"suffix": "homebox goes on with a text, it does not fill gaps"}
Token = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class CompletionBody(Struct):
    """The body as it comes."""

    model: str
    prompt: str | list[str | Token | list[Token]]
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=TOP)] | None = None
    n: Annotated[int, Meta(ge=1, le=CHOICES)] | None = None
    best_of: Annotated[int, Meta(ge=0, le=CHOICES)] | None = None
    suffix: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: Text | Annotated[list[Text], Meta(max_length=STOPS)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Share | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=100)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    response_format: dict[str, Any] | None = None
    user: str | None = None

    @property
    def silent(self) -> bool:
        """Whether nothing is to be written: the prompt is told, or only kept ready."""
        return self.max_tokens == 0

    def prompts(self) -> list[str | list[int]]:
        """Return the prompts; raises RequestError for a mixture, or for too many."""
        given = self.prompt
        if isinstance(given, str):
            return [given]
        kinds = {type(each) for each in given}
        if len(kinds) != 1:
            raise RequestError(
                "prompt must be a text, a list of texts, a list of token ids, or a list of such "
                "lists",
                "prompt",
            )
        if kinds == {int}:
            return [cast(list[int], given)]
        prompts = cast(list[str | list[int]], given)
        if len(prompts) * (self.n or 1) > ANSWERS:
            raise RequestError(
                f"prompt: {len(prompts)} prompts with n={self.n or 1} ask for more than {ANSWERS} "
                "answers; send several requests",
                "prompt",
            )
        return prompts

    def chat(self) -> ChatRequest:
        """Return how to answer, as a checked request; raises RequestError."""
        refuse(self, REFUSED)
        if self.best_of not in (None, 0, self.n or 1):
            raise RequestError(
                f"best_of must be n ({self.n or 1}): homebox gives every answer that it makes",
                "best_of",
            )
        check_depth(self.response_format, "response_format")
        request = ChatRequest(
            model=self.model,
            messages=[said(self.prompts()[0])],
            max_tokens=TOKENS if self.max_tokens is None else max(self.max_tokens, 1),
            logprobs=None if self.logprobs is None else True,
            top_logprobs=self.logprobs,
            **{name: getattr(self, name) for name in SAME},
        )
        check(request)
        return request


# Fields that both requests call the same.
SAME = (
    "n",
    "stream",
    "stream_options",
    "stop",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "logit_bias",
    "response_format",
    "user",
)


def said(prompt: str | list[int]) -> ChatMessage:
    """Return a prompt as the ledger keeps it."""
    return ChatMessage("user", prompt if isinstance(prompt, str) else "", provenance=AUTHOR)
