"""`python -m bench.serving_learning`: how long chats wait beside learning, and what a swap costs.

One daemon in a fresh state is told some facts. Then chats are timed in turns without and with a
learning run beside them, and at last one run goes to its end under streams: each must be answered
in full, by the weights that it names. Invariant: both halves of a ratio are measured on the same
process, with prompts of the same lengths of which none was seen before.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from bench.serving_load import KEY, Answer, fixed, percentile, run
from bench.serving_peers import Homebox
from homebox.control import Client
from homebox.errors import HomeboxError

LENGTHS = (30, 500, 3000)  # tokens of a prompt
REACH = 1.5  # the time to first token beside learning, by that without
TOKENS = 16  # of a timed answer
STREAMS = 6
FACTS = (
    "My dog is called Quark.",
    "I live in Rosk.",
    "My sister's name is Olea.",
    "My favourite colour is teal.",
)
QUESTIONS = ("What is my dog's name?", "Where do I live?", "What do fish eat?", "Hello!")
WORDS = "and then one saw how some old boat came home with bread for all of us in the rain".split()


@dataclass(frozen=True)
class Beside(Homebox):
    """The daemon, with a context that fits the prompts."""

    context: int = 4096

    def command(self, port: int) -> list[str]:
        words = [sys.executable, "-m", "homebox", "serve", "--model", str(self.model)]
        words += ["--state", str(self.folder), "--device", "cpu"]
        return [*words, "--port", str(port), "--context", str(self.context)]

    @property
    def folder(self) -> Path:
        """The state."""
        return self.state / "homebox"


class Learner:
    """`homebox learn --now` in a thread: what it is at, and its report."""

    def __init__(self, state: Path) -> None:
        self._client = Client(state)
        self.stage = ""
        self.report: Any = None
        self.trouble = ""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it still learns."""
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            self.report = self._client.call("learn", self._tell)
        except HomeboxError as error:
            self.trouble = str(error)

    def _tell(self, progress: Any) -> None:
        self.stage = progress["stage"]

    def reach(self, stages: Sequence[str]) -> None:
        """Wait until it is in one of these stages, or over."""
        while self.alive and self.stage not in stages:
            time.sleep(0.02)

    def stop(self) -> None:
        """End the run, as a rollback to what is served does."""
        if self.alive:
            self._client.call("rollback", name="base", reason="the benchmark stops learning")
        self._thread.join()


class Chats:
    """Makes prompts of so many tokens, none of which begins like another one."""

    def __init__(self, url: str, seed: int) -> None:
        self._url = url
        self._dice = random.Random(seed)
        few, many = (self._ask(words, 2).prompt_tokens for words in (8, 108))
        self._of_word = (many - few) / 100
        self._frame = few - 8 * self._of_word

    def ask(self, tokens: int) -> Answer:
        """Send one chat of so many tokens and read its answer."""
        return self._ask(max(1, round((tokens - self._frame) / self._of_word)), TOKENS)

    def _ask(self, words: int, tokens: int) -> Answer:
        text = " ".join(self._dice.choice(WORDS) for _ in range(words))
        messages = [{"role": "user", "content": text}]
        body = fixed({"model": "homebox", "messages": messages}, tokens, True)
        return run(self._url, [body], exact=False)[0]


@dataclass
class Times:
    """Answers to prompts of one length, by what the box did meanwhile."""

    answers: dict[str, list[Answer]] = field(default_factory=dict)

    def figures(self) -> dict[str, dict[str, float]]:
        """Return milliseconds to the first token and between tokens, by stage."""
        found = {}
        for stage, answers in self.answers.items():
            first = [1000 * answer.first for answer in answers]
            gaps = [1000 * gap for answer in answers for gap in answer.gaps] or [float("nan")]
            found[stage] = {
                "count": len(answers),
                "prompt_tokens": answers[0].prompt_tokens,
                "ttft_p50_ms": percentile(first, 0.5),
                "ttft_p95_ms": percentile(first, 0.95),
                "gap_p50_ms": percentile(gaps, 0.5),
                "gap_p95_ms": percentile(gaps, 0.95),
            }
        return found


QUIET = "quiet"


def measure(url: str, state: Path, args: argparse.Namespace) -> dict[int, Times]:
    """Time chats in turns without and with learning."""
    chats, times = Chats(url, args.seed), {length: Times() for length in args.lengths}
    # Short ones take less time, and vary more.
    cycle = [length for length in args.lengths for _ in range(8 if length <= 100 else 3)]
    cycle = cycle[:-2] if len(args.lengths) > 1 else cycle

    def some(learner: Learner | None) -> None:
        until = time.monotonic() + args.seconds
        while time.monotonic() < until and (learner is None or learner.alive):
            for length in cycle:
                time.sleep(0.03)  # so that learning is in the middle of something
                stage = QUIET if learner is None else learner.stage
                answer = chats.ask(length)
                if learner is None or learner.stage == stage:
                    times[length].answers.setdefault(stage, []).append(answer)

    for length in cycle:  # programs are compiled, memory is touched
        chats.ask(length)
    for number in range(args.rounds):
        some(None)
        learner = Learner(state)
        learner.reach(args.stages)
        some(learner)
        learner.stop()
        print(f"round {number + 1} done", file=sys.stderr, flush=True)
    return times


# -- the swap ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """One answer as far as a swap concerns it."""

    question: str
    status: int
    weights: str
    text: str
    whole: bool


async def _tell(session: aiohttp.ClientSession, url: str, question: str) -> Told:
    body = {"model": "homebox", "messages": [{"role": "user", "content": question}]}
    body |= {"max_tokens": 48, "temperature": 0, "stream": True}
    text, whole = "", False
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        weights = response.headers.get("x-homebox-weights", "")
        async for line in response.content:
            whole = whole or line.startswith(b"data: [DONE]")
            if line.startswith(b"data: {"):
                choices = json.loads(line[6:]).get("choices") or [{"delta": {}}]
                text += choices[0]["delta"].get("content") or ""
        return Told(question, response.status, weights, text, whole)


async def _streams(url: str, learner: Learner | None) -> tuple[list[Told], int]:
    """Ask in some streams until learning is over, each question once at least; count errors."""
    told: list[Told] = []
    dropped = 0

    async def stream(session: aiohttp.ClientSession, number: int) -> None:
        nonlocal dropped
        for count in range(10**9):
            over = learner is None or not learner.alive
            try:
                told.append(await _tell(session, url, QUESTIONS[(number + count) % len(QUESTIONS)]))
            except aiohttp.ClientError:
                dropped += 1
            if over and count >= len(QUESTIONS) - 1:
                return  # the last one began after the end
            if learner is not None and learner.stage != "gate":
                await asyncio.sleep(1.0)  # the run is to come to its end

    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        await asyncio.gather(*(stream(session, number) for number in range(STREAMS)))
    return told, dropped


def swap(url: str, state: Path) -> dict[str, Any]:
    """Let a run end under streams; count what did not end well."""
    alone = asyncio.run(_streams(url, None))[0]
    learner = Learner(state)
    told, dropped = asyncio.run(_streams(url, learner))
    learner.stop()
    alone += asyncio.run(_streams(url, None))[0]
    right = {(each.weights, each.question): each.text for each in alone}
    report = learner.report or {}
    return {
        "promoted": bool(report.get("promoted")),
        "lines": report.get("lines") or [learner.trouble],
        "answers": len(told),
        "by_weights": {
            name: sum(t.weights == name for t in told) for name in {t.weights for t in told}
        },
        "dropped": dropped,
        "not_200": sum(each.status != 200 for each in told),
        "cut_off": sum(not each.whole for each in told),
        "other_words": sum(right.get((t.weights, t.question)) != t.text for t in told),
    }


# -- the program -------------------------------------------------------------------------------


def judged(figures: dict[int, dict[str, dict[str, float]]]) -> list[dict[str, Any]]:
    """Return the ratios of every stage of learning to quiet."""
    rows = []
    for length, stages in figures.items():
        for stage, found in stages.items():
            if stage == QUIET:
                continue
            for key in ("ttft_p50_ms", "ttft_p95_ms", "gap_p50_ms", "gap_p95_ms"):
                ratio = found[key] / stages[QUIET][key]
                bound = REACH if key == "ttft_p50_ms" else None
                rows.append(
                    {
                        "length": length,
                        "stage": stage,
                        "metric": key,
                        "ratio": round(ratio, 3),
                        "bound": bound,
                        "holds": bound is None or ratio <= bound,
                    }
                )
    return rows


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--model", default="tiny", help='"tiny" or a path')
    add("--lengths", type=_numbers, default=LENGTHS, help="tokens of prompts: 30,500,3000")
    add("--rounds", type=int, default=2)
    add("--seconds", type=float, default=8.0, help="of each half of a round")
    add("--stages", type=lambda text: text.split(","), default=["train"], help="prepare,train,gate")
    add("--swap", action=argparse.BooleanOptionalAction, default=True, help="let a run end")
    add("--threads", type=int, default=os.cpu_count())
    add("--seed", type=int, default=0)
    add("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(words)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print figures and ratios; 1 if one misses its bound or an answer was lost."""
    args = arguments(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as folder:
        peer = Beside(args.model, args.threads, Path(folder), max(args.lengths) + 512)
        with peer.running() as url:
            tell = [
                {"model": "homebox", "messages": [{"role": "user", "content": f}]} for f in FACTS
            ]
            run(url, [fixed(body, 8, False) for body in tell], exact=False)
            times = measure(url, peer.folder, args) if args.rounds else {}
            swapped = swap(url, peer.folder) if args.swap else None
    figures = {length: found.figures() for length, found in times.items()}
    ratios = judged(figures)
    lost = swapped is not None and any(
        swapped[key] for key in ("dropped", "not_200", "cut_off", "other_words")
    )
    if args.json:
        found = {"model": args.model, "figures": figures, "ratios": ratios, "swap": swapped}
        print(json.dumps(found))
    else:
        show(figures, ratios, swapped)
    return 0 if all(row["holds"] for row in ratios) and not lost else 1


def show(
    figures: dict[int, dict[str, dict[str, float]]],
    ratios: list[dict[str, Any]],
    swapped: dict[str, Any] | None,
) -> None:
    """Print everything for a person."""
    for length, stages in figures.items():
        for stage, found in stages.items():
            words = "  ".join(f"{key} {value:.1f}" for key, value in found.items())
            print(f"{length:5} {stage:8} {words}")
    for row in ratios:
        verdict = "" if row["bound"] is None else "holds" if row["holds"] else "MISSED"
        print(f"{row['length']:5} {row['stage']:8} {row['metric']:12} {row['ratio']:6} {verdict}")
    for key, value in (swapped or {}).items():
        print(f"swap: {key}: {value}")


if __name__ == "__main__":
    sys.exit(main())
