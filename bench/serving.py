"""`python -m bench.serving`: homebox and llama.cpp's server on one file, as an agent meets them.

A recorded session of an agent is sent again, request by request; then the server is started anew
and gets the first request once more; then 1, 4 and 8 streams run together. Rounds alternate between
the servers, medians count, and each ratio is told with what it should reach. README.md has the
rules that make it a fair comparison.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.serving_load import fixed, run, session_figures, stream_figures
from bench.serving_peers import Homebox, LlamaServer, Peer

STREAMS = (1, 4, 8)
TOPICS = ("harbours", "bread", "clocks", "bees", "bridges", "violins", "glass", "snow")


@dataclass(frozen=True)
class Reach:
    """What a ratio of two figures should be."""

    metric: str
    of: str  # the figure that it is divided by: a peer's, or one of our own
    bound: float
    most: bool  # whether the bound is the most, not the least

    def holds(self, ratio: float) -> bool:
        """Whether a ratio is within the bound."""
        return ratio <= self.bound if self.most else ratio >= self.bound


REACHES = (
    Reach("ttft_cold_s", "llama-server", 0.5, True),
    Reach("ttft_warm_s", "llama-server", 0.5, True),
    Reach("session_s", "llama-server", 0.5, True),
    Reach("ttft_restart_s", "ttft_cold_s", 0.1, True),
    *(Reach(f"streams_{n}_tokens_per_s", "llama-server", 2.0, False) for n in STREAMS),
    *(Reach(f"streams_{n}_p99_gap_s", "llama-server", 1.0, True) for n in STREAMS),
)


def recorded_session(folder: Path) -> list[dict[str, Any]]:
    """Return the bodies of a recorded session, in order."""
    files = sorted(folder.glob("*_POST_v1_chat_completions.json"))
    if len(files) < 3:
        raise SystemExit(f"{folder} holds no recorded session")
    return [json.loads(path.read_text("utf-8"))["body"] | {"model": "homebox"} for path in files]


def stream_bodies(count: int) -> list[dict[str, Any]]:
    """Return requests that have nothing in common after their first words."""
    said = "{0} {1}: tell me all that you know about {0}, please, and begin with the oldest. "
    texts = ["".join(said.format(topic, i) for i in range(8)) for topic in TOPICS[:count]]
    return [{"model": "homebox", "messages": [{"role": "user", "content": t}]} for t in texts]


def warm_up(url: str) -> None:
    """Let a server load what its first answers need, by requests that share nothing with others."""
    words = " ".join(f"word{number}" for number in range(700))
    message = {"role": "user", "content": f"Nothing but words: {words}"}
    body = {"model": "homebox", "messages": [message]}
    run(url, [fixed(body, 16, True)], exact=False)
    run(url, [fixed(body, 16, True)] * 8, together=True, exact=False)


def measure(peer: Peer, args: argparse.Namespace) -> dict[str, float]:
    """Run everything once on a server that starts with nothing."""
    session = [fixed(body, args.tokens, args.varied) for body in recorded_session(args.session)]
    figures: dict[str, float] = {}
    with peer.running() as url:
        warm_up(url)
        figures |= session_figures(run(url, session))
        for count in args.streams:
            bodies = [fixed(body, args.stream_tokens, args.varied) for body in stream_bodies(count)]
            figures |= stream_figures(run(url, bodies, together=True))
    with peer.running() as url:
        warm_up(url)
        (again,) = run(url, session[1:2])
        figures["ttft_restart_s"] = again.first
        figures["cached_after_restart"] = again.cached_tokens / again.prompt_tokens
    return figures


def compare(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the medians of every server's figures over alternating rounds."""
    rounds: dict[str, list[dict[str, float]]] = {}
    for number in range(args.rounds):
        with tempfile.TemporaryDirectory() as state:
            peers: list[Peer] = [Homebox(args.model, args.threads, Path(state))]
            if args.llama_server:
                program = Path(args.llama_server)
                peers.append(LlamaServer(args.model, args.threads, Path(state), program))
            for peer in peers if number % 2 == 0 else reversed(peers):
                rounds.setdefault(peer.name, []).append(measure(peer, args))
                print(f"round {number + 1}: {peer.name} done", file=sys.stderr, flush=True)
    return {
        name: {key: statistics.median(each[key] for each in found) for key in found[0]}
        for name, found in rounds.items()
    }


def judged(figures: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Return each ratio that can be formed, with what it should reach."""
    ours = figures["homebox"]
    found = []
    for reach in REACHES:
        other = ours.get(reach.of) or figures.get(reach.of, {}).get(reach.metric)
        if reach.metric in ours and other:
            ratio = ours[reach.metric] / other
            row = {"metric": reach.metric, "of": reach.of, "ratio": round(ratio, 3)}
            found.append(row | {"bound": reach.bound, "holds": reach.holds(ratio)})
    return found


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--model", type=Path, required=True, help="a GGUF file; see bench/serving_model.py")
    add("--session", type=Path, required=True, help="folder of recorded requests")
    add("--llama-server", default=os.environ.get("LLAMA_SERVER", ""), help="the peer's program")
    add("--rounds", type=int, default=3)
    add("--threads", type=int, default=2)
    add("--tokens", type=int, default=64, help="of each answer of the session")
    add("--stream-tokens", type=int, default=128, help="of each answer of the streams")
    add("--streams", type=_numbers, default=STREAMS, help="how many run together: 1,4,8")
    add("--text", choices=("varied", "loop"), default="varied", help="see bench/README.md")
    add("--json", action="store_true", help="print one JSON object")
    found = parser.parse_args(words)
    found.varied = found.text == "varied"
    return found


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print figures and ratios; 1 if one misses its bound."""
    args = arguments(words)
    # Whoever ends the benchmark must not leave a server behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    figures = compare(args)
    ratios = judged(figures)
    if args.json:
        print(json.dumps({"model": args.model.name, "figures": figures, "ratios": ratios}))
    else:
        for name, found in figures.items():
            for key, value in found.items():
                print(f"{name:13} {key:28} {value:12.4f}")
        for row in ratios:
            verdict = "holds" if row["holds"] else "MISSED"
            print(f"{row['metric']} / {row['of']}: {row['ratio']} (bound {row['bound']} {verdict})")
    return 0 if all(row["holds"] for row in ratios) else 1


if __name__ == "__main__":
    sys.exit(main())
