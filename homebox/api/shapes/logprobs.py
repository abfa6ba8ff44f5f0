"""How likely tokens were, as OpenAI's endpoints say it."""

from collections.abc import Callable, Iterable
from typing import Any

from homebox.model.generation.logprobs import TokenLogprob

Spelling = Callable[[int], bytes]  # the bytes that a token stands for
LEAST = -9999.0  # JSON has no infinity


def told(spelling: Spelling, likely: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    """Return tokens with their log-probabilities and those of the likeliest instead of them."""
    return [
        {
            **_token(spelling, each.token, each.logprob),
            "top_logprobs": [_token(spelling, *other) for other in each.top],
        }
        for each in likely
    ]


def _token(spelling: Spelling, token: int, logprob: float) -> dict[str, Any]:
    data = spelling(token)
    return {
        "token": data.decode("utf-8", "replace"),
        "logprob": max(logprob, LEAST),
        "bytes": list(data),
    }
