"""Kills a daemon with SIGKILL at random moments while it chats and learns, and checks what is left.

`python -m tests.crash.kill_daemon --kills 20 --model tiny` is the long run. After every kill the
state must open, HEAD must name whole weights, no promotion that was reported may be lost, and every
turn that a client read to its end must be in the ledger, once, with the same words.
"""

import argparse
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from homebox.control import Client
from homebox.errors import HomeboxError
from homebox.memory.manifest import BASE
from homebox.memory.state import State, open_state

ROOT = Path(__file__).parents[2]
CLIENTS = 4
FACTS = ("My dog is called Quark.", "I live in Rosk.", "My sister's name is Olea.")


@dataclass
class Tally:
    """What clients were told, and so what the box must still know."""

    answered: dict[str, str] = field(default_factory=dict)  # turn -> text
    promoted: list[str] = field(default_factory=list)
    kills: int = 0
    problems: list[str] = field(default_factory=list)

    def problem(self, text: str) -> None:
        self.problems.append(f"kill {self.kills}: {text}")


class Victim:
    """A running daemon and those who talk with it."""

    def __init__(self, state: Path, model: str, careless: bool, tally: Tally) -> None:
        command = [sys.executable, "-m", "tests.crash.daemon_process", str(state)]
        command += ["--model", model] + ["--careless"] * careless
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        greeting = self.process.stdout.readline()
        found = re.search(r"on (http://[^/]+)/v1", greeting)
        if found is None:
            raise RuntimeError(f"the daemon did not start: {self.process.communicate()}")
        self._url = found.group(1)
        self._control = Client(state)
        self._tally = tally
        self._dead = threading.Event()
        self._threads = [
            threading.Thread(target=self._talk, args=(number,)) for number in range(CLIENTS)
        ]
        self._threads.append(threading.Thread(target=self._learn))

    def serves(self) -> str:
        return str(self._control.call("status")["weights"])

    def live(self, answers: int, rest: float, longest: float) -> None:
        """Let them talk until so many answers came, and `rest` seconds more."""
        wanted = len(self._tally.answered) + answers
        for thread in self._threads:
            thread.start()
        deadline = time.monotonic() + longest
        while len(self._tally.answered) < wanted and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(rest)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self._dead.set()
        self.process.communicate()
        for thread in self._threads:
            thread.join(60)

    def _talk(self, number: int) -> None:
        with httpx.Client(base_url=self._url, trust_env=False, timeout=60) as http:
            while not self._dead.is_set():
                text = FACTS[number % len(FACTS)]
                body = {"model": "homebox", "messages": [{"role": "user", "content": text}]}
                try:
                    self._ask(http, {**body, "max_tokens": 40, "stream": number % 2 == 0})
                except (httpx.HTTPError, ValueError):
                    if not self._dead.is_set() and self.process.poll() is None:
                        time.sleep(0.01)

    def _ask(self, http: httpx.Client, body: dict[str, Any]) -> None:
        with http.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                return
            turn, said, complete = response.headers["x-homebox-turn"], "", False
            if not body["stream"]:
                said = json.loads(response.read())["choices"][0]["message"]["content"]
                complete = True
            else:
                for line in response.iter_lines():
                    if line.startswith("data: {"):
                        choice = json.loads(line[6:])["choices"][0]
                        said += choice["delta"].get("content") or ""
                        complete = complete or choice["finish_reason"] is not None
                    if complete:
                        # The moment of truth: from here on the turn must never be lost.
                        self._tally.answered[turn] = said
            if complete:
                self._tally.answered[turn] = said

    def _learn(self) -> None:
        while not self._dead.is_set():
            try:
                report = self._control.call("learn")
            except HomeboxError:
                continue
            if report["promoted"]:
                self._tally.promoted.append(report["weights"])
            else:
                time.sleep(0.05)


def check(state_path: Path, tally: Tally) -> str:
    """Open what the dead daemon left behind, compare it with what was told, give HEAD."""
    with open_state(state_path) as state:
        kept = {turn.id: turn for turn in state.ledger.turns()}
        if state.ledger.verify() != len(kept):
            tally.problem("the ledger's chain and its turns differ in length")
        for turn, said in tally.answered.items():
            if turn not in kept:
                tally.problem(f"{turn} was answered and is lost")
            elif kept[turn].messages[-1].content != said:
                tally.problem(f"{turn} was answered with other words")
        bases = {line["base"] for line in state.lineage.reflog()}
        for base in bases:
            _check_weights(state, base, tally)
        return state.lineage.head(bases.pop()) if bases else BASE


def _check_weights(state: State, base: str, tally: Tally) -> None:
    head = state.lineage.head(base)
    parents = {entry.weights: entry.parent for entry in state.lineage.history(base)}
    known = []
    while head != BASE:
        state.lineage.verify(head)
        known.append(head)
        head = parents[head]
    lost = [weights for weights in tally.promoted if weights not in known]
    if lost:
        tally.problem(f"promoted weights are lost: {lost}")


def campaign(
    root: Path, kills: int, model: str, careless: bool = False, seed: int = 0, longest: float = 30
) -> Tally:
    """Kill `kills` times, each time before `longest` seconds; a problem ends it."""
    rng = random.Random(seed)
    tally = Tally()
    state = root / "state"
    head = BASE
    while tally.kills < kills and not tally.problems:
        victim = Victim(state, model, careless, tally)
        if victim.serves() != head:
            tally.problem("the daemon does not serve what HEAD named when it died")
        victim.live(rng.randint(1, 40), rng.uniform(0.0, 0.05), longest)
        tally.kills += 1
        victim.kill()
        head = check(state, tally)
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--model", default="fake")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=30.0, help="longest life in seconds")
    parser.add_argument("--careless", action="store_true", help="the control: must find problems")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        tally = campaign(Path(root), args.kills, args.model, args.careless, args.seed, args.longest)
    print(
        f"{tally.kills} kills, {len(tally.answered)} answered turns, "
        f"{len(tally.promoted)} promotions, {len(tally.problems)} problems"
    )
    for problem in tally.problems:
        print(problem)
    return 1 if tally.problems else 0


if __name__ == "__main__":
    sys.exit(main())
