"""What a client must know of this box: one value that every configuration is made from."""

from dataclasses import dataclass
from typing import Any

from homebox.connect.address import Address
from homebox.errors import DaemonError

MODEL = "homebox"
PROVIDER = "homebox"
# Agents send 7,000 to 13,000 tokens of instructions and tools before any work.
AGENT_CONTEXT = 16_384
LONGEST_ANSWER = 8192


@dataclass(frozen=True)
class Offer:
    """A model behind a base URL; `context` and `output` are in tokens.

    `private`: nothing of what the client says is to be written down.
    """

    address: Address
    context: int
    output: int
    model: str = MODEL
    private: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """What every request of a client carries that is off the record."""
        return {"X-Homebox-Record": "off"} if self.private else {}

    @property
    def warning(self) -> str:
        """Say why agents will not be happy here; empty if they will."""
        if self.context >= AGENT_CONTEXT:
            return ""
        return (
            f"a context of {self.context} tokens is too small for agents, which need "
            f'{AGENT_CONTEXT} or more: bring a model that has it ("homebox pull"), serve it '
            '("homebox use NAME --context 32768"), and connect again'
        )


def offer_of(address: Address, context: int = 0) -> Offer:
    """Ask the box what it offers; a given `context` (tokens) is believed. Raises DaemonError."""
    if not context:
        models = address.get("/v1/models")["data"]
        found = [model for model in models if model["id"] == MODEL]
        if not found:
            raise DaemonError(f"{address.base_url} serves no model called {MODEL}")
        context = int(found[0]["context_length"])
    # What an answer may take is taken from the prompt, and from when a history is compacted.
    return Offer(address, context, max(min(LONGEST_ANSWER, context // 4), 1))


def plain(offer: Offer) -> dict[str, Any]:
    """Say it for any client of OpenAI's API."""
    return {
        "base_url": offer.address.base_url,
        "api_key": offer.address.token or "none",
        "model": offer.model,
        "context": offer.context,
        "output": offer.output,
        **({"headers": offer.headers} if offer.private else {}),
    }
