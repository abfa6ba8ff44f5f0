"""Chats in parallel streams while the real learner trains and swaps; counts what went wrong.

`python -m tests.api.learn_under_load --model tiny --requests 50` is the long run: it tells some
facts, learns, and asks in 8 streams all the while. None may fail, none may be cut off, and every
answer must be in the ledger with the words that the client read.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from homebox.config import load_config
from homebox.control import Client
from homebox.daemon import Box, running

STREAMS = 8
FACTS = (
    "My dog is called Quark.",
    "I live in Rosk.",
    "My sister's name is Olea.",
    "My favourite colour is teal.",
)
QUESTIONS = ("What is my dog's name?", "Where do I live?", "What do fish eat?", "Hello!")


@dataclass(frozen=True)
class Answer:
    """What a client read."""

    turn: str
    text: str
    complete: bool
    first: float  # seconds to the first text
    seconds: float


def ask(url: str, text: str, max_tokens: int = 32) -> Answer:
    body = {"model": "homebox", "messages": [{"role": "user", "content": text}], "stream": True}
    begun, first, said, complete = time.perf_counter(), 0.0, "", False
    with (
        httpx.Client(base_url=url, trust_env=False, timeout=600) as http,
        http.stream("POST", "/v1/chat/completions", json={**body, "max_tokens": max_tokens}) as got,
    ):
        got.raise_for_status()
        for line in got.iter_lines():
            complete = complete or line == "data: [DONE]"
            if line.startswith("data: {"):
                content = json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
                first = first or (time.perf_counter() - begun if content else 0.0)
                said += content
        turn = got.headers["x-homebox-turn"]
    return Answer(turn, said, complete, first, time.perf_counter() - begun)


def load_and_learn(box: Box, requests: int) -> tuple[list[Answer], list[str], Any]:
    """Give the answers, the problems, and the report of the learning run."""
    for fact in FACTS:
        ask(box.url, fact)
    reports: list[Any] = []
    client = Client(box.daemon.state.path)
    learner = threading.Thread(target=lambda: reports.append(client.call("learn")))
    learner.start()

    def try_to_ask(number: int) -> Answer | Exception:
        try:
            return ask(box.url, QUESTIONS[number % len(QUESTIONS)])
        except Exception as error:
            return error

    with ThreadPoolExecutor(STREAMS) as pool:
        results = list(pool.map(try_to_ask, range(requests)))
        # The swap must happen under load too, however long the learning takes.
        while learner.is_alive():
            results += pool.map(try_to_ask, range(STREAMS))
    learner.join()
    kept = {turn.id: turn.messages[-1].content for turn in box.daemon.state.ledger.turns()}
    answers = [item for item in results if isinstance(item, Answer)]
    problems = [repr(item) for item in results if isinstance(item, Exception)]
    problems += [f"{item.turn} was cut off" for item in answers if not item.complete]
    problems += [f"{item.turn} is lost" for item in answers if kept.get(item.turn) != item.text]
    return answers, problems, reports[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--requests", type=int, default=50)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        overrides = {
            "paths.state": str(Path(root) / "state"),
            "server.port": 0,
            "server.require_token": False,
            "model.path": args.model,
        }
        with running(load_config(None, overrides, {})) as box:
            answers, problems, report = load_and_learn(box, args.requests)
    print("\n".join(report["lines"]))
    print(
        f"{len(answers)} answers in {STREAMS} streams, {len(problems)} problems; first text after "
        f"{max(a.first for a in answers):.2f} s at most, whole answers after "
        f"{max(a.seconds for a in answers):.2f} s at most; promoted: {report['promoted']}"
    )
    print("\n".join(problems), end="")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
