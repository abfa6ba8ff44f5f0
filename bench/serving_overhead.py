"""`python -m bench.serving_overhead`: what a token costs the server besides the model's arithmetic.

The one idea: processor time, not time that passes, so that other work on the machine does not
count, and nothing is hidden behind the model. The built-in model runs on one thread; what its
passes take is subtracted, choices are given (sampling is the model's), and the client is a process
of its own. What is left is the engine's loop, text from tokens, JSON, HTTP and the log.
"""

import argparse
import asyncio
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.serving_load import KEY, ask

BOUND = 100.0  # microseconds
SETTLING = 120.0  # seconds at most
TEXT = "The harbour was quiet, and the boats lay side by side until the morning came. "


class Chosen:
    """Says the tokens of a text over and over."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids: Iterator[int] = itertools.cycle(ids)
        self.seed = 0

    def next(self, logits: object, allowed: object = None) -> int:
        """Return the next id."""
        return next(self._ids)


def parts(spent: list[float]) -> Any:
    """Return the parts of a daemon whose model notes the seconds that it computes."""
    from homebox.hosting.parts import real_parts

    real = real_parts()

    def load(*args: Any, **options: Any) -> Any:
        model = real.load(*args, **options)
        ids = model.tokenizer.encode(TEXT)
        model.sampler = lambda params, prompt: Chosen(ids)
        for name in ("decode", "forward"):
            setattr(model.transformer, name, timed(getattr(model.transformer, name), spent))
        return model

    return dataclasses.replace(real, load=load)


def timed(action: Any, spent: list[float]) -> Any:
    """Return `action`, adding the processor time of each call to `spent`."""

    def run(*args: Any, **options: Any) -> Any:
        begun = time.thread_time()
        try:
            return action(*args, **options)
        finally:
            spent[0] += time.thread_time() - begun

    return run


def client(url: str, streams: int, tokens: int) -> None:
    """Read so many streams to their ends."""
    import aiohttp

    body = {
        "model": "homebox",
        "messages": [{"role": "user", "content": "Talk."}],
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }

    async def work() -> None:
        headers = {"Authorization": f"Bearer {KEY}"}
        timeout = aiohttp.ClientTimeout(total=600)
        async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
            await asyncio.gather(*(ask(session, url, body) for _ in range(streams)))

    asyncio.run(work())


def settle() -> None:
    """Wait until this process has nothing left to prepare."""
    until = time.monotonic() + SETTLING
    while time.monotonic() < until:
        begun = time.process_time()
        time.sleep(0.5)
        if time.process_time() - begun < 0.02:
            return
    raise RuntimeError("the server does not come to rest")


def measure(streams: int, tokens: int, rounds: int) -> float:
    """Return the least microseconds of processor time for a token over some rounds."""
    from homebox.config import Config, ModelConfig, PathsConfig, ServerConfig
    from homebox.daemon import running

    spent = [0.0]
    found = []
    with tempfile.TemporaryDirectory() as state:
        config = Config(
            paths=PathsConfig(state=str(Path(state) / "state")),
            server=ServerConfig(port=0, token=KEY),
            model=ModelConfig(speculation=False, slots=8, device="cpu"),
        )
        with running(config, parts(spent)) as box:
            command = [sys.executable, "-m", "bench.serving_overhead", "--client", box.url]
            command += ["--streams", str(streams), "--tokens", str(tokens)]
            for _ in range(rounds + 1):
                settle()
                spent[0] = 0.0
                begun = time.process_time()
                subprocess.run(command, check=True)
                seconds = time.process_time() - begun - spent[0]
                found.append(seconds / (streams * tokens) * 1e6)
    return min(found[1:])


def main() -> int:
    """Measure one stream and eight; 1 if one costs more than it should."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--client", default="", help=argparse.SUPPRESS)
    parser.add_argument("--streams", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    if args.client:
        client(args.client, args.streams, args.tokens)
        return 0
    os.environ["HOMEBOX_THREADS"] = "1"
    numbers = [args.streams] if args.streams else [1, 8]
    found = {number: measure(number, args.tokens, args.rounds) for number in numbers}
    if args.json:
        print(json.dumps({f"overhead_us_{number}": round(us, 1) for number, us in found.items()}))
    else:
        for number, us in found.items():
            verdict = "holds" if us <= BOUND else "MISSED"
            print(f"{number} streams: {us:.1f} us of processor time a token (100 {verdict})")
    return 0 if all(us <= BOUND for us in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
