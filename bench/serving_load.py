"""What bench/serving.py measures of a server, through HTTP alone: times of tokens at a client.

The one idea: one client for all servers, which takes the time of every chunk when its bytes arrive
and looks into them only afterwards. A token counts from its text on: chunks without any (roles,
signs of life) are no answer.
"""

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

LONGEST = 3600.0  # seconds for one answer
KEY = "sk-local"


@dataclass
class Answer:
    """One answer as it arrived; times in seconds."""

    begun: float
    arrivals: list[float] = field(default_factory=list)  # of chunks with text
    ended: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    @property
    def first(self) -> float:
        """Seconds to the first text."""
        return self.arrivals[0] - self.begun

    @property
    def total(self) -> float:
        """Seconds to the end."""
        return self.ended - self.begun

    @property
    def gaps(self) -> list[float]:
        """Seconds between chunks."""
        pairs = zip(self.arrivals, self.arrivals[1:], strict=False)
        return [after - before for before, after in pairs]


def fixed(body: dict[str, Any], tokens: int, varied: bool) -> dict[str, Any]:
    """Return a request whose answer has exactly so many tokens, the likeliest ones.

    `varied` keeps the answer from repeating itself, as random weights else do.
    """
    return {
        **body,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        **({"frequency_penalty": 2.0} if varied else {}),
    }


async def ask(
    session: aiohttp.ClientSession, url: str, body: dict[str, Any], exact: bool = True
) -> Answer:
    """Send a request and read its answer to the end; `exact`: of as many tokens as it may have."""
    lines: list[tuple[float, bytes]] = []
    answer = Answer(time.perf_counter())
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        if response.status != 200:
            raise RuntimeError(f"{url} answered {response.status}: {await response.text()}")
        async for line in response.content:
            lines.append((time.perf_counter(), line))
    answer.ended = time.perf_counter()
    for when, line in lines:
        if line.startswith(b"data: {"):
            _note(answer, when, json.loads(line[6:]))
    if not answer.arrivals:
        if exact or not answer.completion_tokens:
            raise RuntimeError(f"{url} said nothing")
        answer.arrivals.append(answer.ended)  # marks alone, which are no text: it came at its end
    if exact and answer.completion_tokens != body["max_tokens"]:
        said, wanted = answer.completion_tokens, body["max_tokens"]
        raise RuntimeError(f"{url} said {said} tokens, not {wanted}: the runs cannot be compared")
    return answer


def _note(answer: Answer, when: float, event: dict[str, Any]) -> None:
    if "error" in event:
        raise RuntimeError(f"the server broke off: {event['error']}")
    usage = event.get("usage")
    if usage:
        answer.prompt_tokens = usage["prompt_tokens"]
        answer.completion_tokens = usage["completion_tokens"]
        answer.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    for choice in event["choices"]:
        delta = choice["delta"]
        if any(delta.get(name) for name in ("content", "reasoning_content", "tool_calls")):
            answer.arrivals.append(when)


def run(
    url: str, bodies: Sequence[dict[str, Any]], together: bool = False, exact: bool = True
) -> list[Answer]:
    """Send requests one after the other, or all together; see `ask`."""

    async def work() -> list[Answer]:
        timeout = aiohttp.ClientTimeout(total=LONGEST)
        headers = {"Authorization": f"Bearer {KEY}"}
        # A connection for each request: how long idle ones are kept is each server's own affair.
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(
            timeout=timeout, headers=headers, connector=connector
        ) as session:
            if together:
                return list(
                    await asyncio.gather(*(ask(session, url, each, exact) for each in bodies))
                )
            return [await ask(session, url, each, exact) for each in bodies]

    return asyncio.run(work())


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share of the values lies, nearest rank."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def session_figures(answers: Sequence[Answer]) -> dict[str, float]:
    """Return the figures of a replayed session; the first answer is the title's."""
    _, cold, *warm = answers
    tokens = sum(each.completion_tokens - 1 for each in answers)
    writing = sum(each.ended - each.arrivals[0] for each in answers)
    return {
        "ttft_cold_s": cold.first,
        "ttft_warm_s": statistics.median(each.first for each in warm),
        "session_s": sum(each.total for each in answers),
        "session_tokens_per_s": tokens / writing,
        "cached_share": sum(e.cached_tokens for e in warm) / sum(e.prompt_tokens for e in warm),
    }


def stream_figures(answers: Sequence[Answer]) -> dict[str, float]:
    """Return the figures of answers that ran together."""
    count = len(answers)
    tokens = sum(each.completion_tokens for each in answers)
    took = max(each.ended for each in answers) - min(each.begun for each in answers)
    gaps = [gap for each in answers for gap in each.gaps]
    return {
        f"streams_{count}_tokens_per_s": tokens / took,
        f"streams_{count}_p99_gap_s": percentile(gaps, 0.99),
    }
