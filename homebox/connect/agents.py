"""The configuration of each agent: where it lies, and what this box has to say in it.

Facts: opencode 1.18's schema (https://opencode.ai/config.json) and OpenClaw 2026.9's reference of
`models.providers`. Nothing but the provider called "homebox" is ever replaced; the model that the
agent takes is only set where none was.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homebox.connect.offer import PROVIDER, Offer

Json = dict[str, Any]
PATIENCE = 1800  # seconds for an answer: a small machine reads a long prompt for minutes


@dataclass(frozen=True)
class Agent:
    """One client; `fragment` is what must be there, `defaults` what is only set where it is not."""

    name: str
    program: str
    file: Callable[[Mapping[str, str]], Path]
    fragment: Callable[[Offer], Json]
    defaults: Callable[[Offer], Json]
    # Keys whose value is ours as a whole: what an earlier version wrote there must go.
    owned: tuple[str, ...]
    # The command of a round trip, and what it needs in the environment, for a configuration file.
    trial: Callable[[str, Path, Path, str], list[str]]
    variables: Callable[[Path, Path], Mapping[str, str]]


def _opencode_file(environ: Mapping[str, str]) -> Path:
    folder = Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "opencode"
    commented = folder / "opencode.jsonc"
    return commented if commented.exists() else folder / "opencode.json"


def _opencode(offer: Offer) -> Json:
    model = {
        "name": offer.model,
        "tool_call": True,
        "limit": {"context": offer.context, "output": offer.output},
    }
    options: Json = {"baseURL": offer.address.base_url, "apiKey": offer.address.token or "none"}
    if offer.private:
        options["headers"] = offer.headers
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "homebox",
        "options": options,
        "models": {offer.model: model},
    }
    return {"provider": {PROVIDER: provider}}


def _opencode_defaults(offer: Offer) -> Json:
    return {"$schema": "https://opencode.ai/config.json", "model": f"{PROVIDER}/{offer.model}"}


def _opencode_trial(program: str, file: Path, folder: Path, prompt: str) -> list[str]:
    return [program, "run", "--model", f"{PROVIDER}/homebox", prompt]


def _openclaw_file(environ: Mapping[str, str]) -> Path:
    if environ.get("OPENCLAW_CONFIG_PATH"):
        return Path(environ["OPENCLAW_CONFIG_PATH"])
    folder = environ.get("OPENCLAW_STATE_DIR")
    return (Path(folder) if folder else Path.home() / ".openclaw") / "openclaw.json"


def _openclaw(offer: Offer) -> Json:
    model = {
        "id": offer.model,
        "name": offer.model,
        "reasoning": False,
        "input": ["text"],
        "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0},
        "contextWindow": offer.context,
        "maxTokens": offer.output,
        # Without the first, requests of one conversation do not say that they are.
        "compat": {"supportsPromptCacheKey": True, "supportsUsageInStreaming": True},
    }
    provider = {
        "baseUrl": offer.address.base_url,
        "apiKey": offer.address.token or "none",
        "api": "openai-completions",
        "timeoutSeconds": PATIENCE,
        "models": [model],
        **({"headers": offer.headers} if offer.private else {}),
    }
    return {"models": {"providers": {PROVIDER: provider}}}


def _openclaw_defaults(offer: Offer) -> Json:
    return {"agents": {"defaults": {"model": {"primary": f"{PROVIDER}/{offer.model}"}}}}


def _openclaw_trial(program: str, file: Path, folder: Path, prompt: str) -> list[str]:
    start = [program, "agent", "exec", "--config", str(file), "--cwd", str(folder)]
    return [*start, "--model", f"{PROVIDER}/homebox", "--json", prompt]


AGENTS = {
    "opencode": Agent(
        "opencode",
        "opencode",
        _opencode_file,
        _opencode,
        _opencode_defaults,
        ("provider", PROVIDER),
        _opencode_trial,
        lambda file, folder: {"OPENCODE_CONFIG": str(file)},
    ),
    "openclaw": Agent(
        "openclaw",
        "openclaw",
        _openclaw_file,
        _openclaw,
        _openclaw_defaults,
        ("models", "providers", PROVIDER),
        _openclaw_trial,
        lambda file, folder: {
            "OPENCLAW_CONFIG_PATH": str(file),
            "OPENCLAW_STATE_DIR": str(folder / "state"),
        },
    ),
}


def default_file(agent: Agent) -> Path:
    """Find the file that the agent itself would read."""
    return agent.file(os.environ)
