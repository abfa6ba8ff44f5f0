"""What the server says: completions, stream chunks, models and errors in OpenAI's shapes."""

from dataclasses import dataclass
from typing import Any

import msgspec

from homebox.errors import HomeboxError, RequestError

JSON = "application/json"
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Answer:
    """What every part of one answer repeats: its id, the model's name, when it began."""

    id: str
    model: str
    created: int  # Unix seconds
    weights: str  # hash of the adapter, or "base"

    def completion(
        self, message: dict[str, Any], finish_reason: str, usage: dict[str, int]
    ) -> bytes:
        """Encode a whole answer."""
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
        return msgspec.json.encode(
            self._head("chat.completion") | {"choices": [choice], "usage": usage}
        )

    def chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        """Encode one server-sent event."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return event(self._head("chat.completion.chunk") | {"choices": [choice]})

    def usage_chunk(self, usage: dict[str, int]) -> bytes:
        """Encode the event that counts the tokens."""
        return event(self._head("chat.completion.chunk") | {"choices": [], "usage": usage})

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": f"hb_{self.weights[:16]}",
        }


def event(value: Any) -> bytes:
    """Encode one server-sent event."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Count the tokens of an answer."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def error_value(error: HomeboxError) -> dict[str, Any]:
    """Say an error in OpenAI's shape."""
    return {
        "error": {
            "message": str(error),
            "type": _error_type(error.status),
            "param": error.param if isinstance(error, RequestError) else None,
            "code": error.code,
        }
    }


def _error_type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    if status == 401:
        return "authentication_error"
    if status == 403:
        return "permission_error"
    return "invalid_request_error" if status < 500 else "server_error"


def model_value(
    name: str, created: int, context: int, weights: str, base: str, base_name: str = ""
) -> dict[str, Any]:
    """Describe one served model; `weights` is the hash of its adapter or "base"."""
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "homebox",
        "context_length": context,
        "max_model_len": context,
        "adapter": weights,
        "base": base,
        "base_name": base_name,
    }
