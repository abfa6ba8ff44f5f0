"""Kills a daemon with SIGKILL at random moments while it switches between real models and answers.

`python -m tests.crash.kill_switch OTHER --kills 20` is the long run; OTHER is a model beside the
built-in one. After every kill the next start must serve what the last switch that was reported
made, or what one in progress was about to, and say nothing of trouble; answers of each model must
be the same words every time.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

from homebox.control import Client
from homebox.errors import HomeboxError
from homebox.model.loading.open_model import model_name

ROOT = Path(__file__).parents[2]


class Victim:
    """A running daemon."""

    def __init__(self, state: Path, memory: int) -> None:
        command = [sys.executable, "-m", "homebox", "serve", "--state", str(state), "--port", "0"]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "HOMEBOX_MODEL_MEMORY": str(memory), "HOMEBOX_THREADS": "1"},
        )
        assert self.process.stdout is not None
        found = re.search(r"on (http://[^/]+)/v1", self.process.stdout.readline())
        if found is None:
            raise RuntimeError(f"the daemon did not start: {self.process.communicate()}")
        self.url = found.group(1)
        self.control = Client(state)
        self.key = (state / "token").read_text().strip()

    def ask(self) -> str:
        """Return the words of an answer."""
        message = {"role": "user", "content": "Once upon a time"}
        answer = httpx.post(
            f"{self.url}/v1/chat/completions",
            json={"model": "homebox", "messages": [message], "max_tokens": 12},
            headers={"Authorization": f"Bearer {self.key}"},
            trust_env=False,
            timeout=60,
        )
        answer.raise_for_status()
        return str(answer.json()["choices"][0]["message"]["content"])

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def campaign(root: Path, other: str, kills: int, memory: int, seed: int = 0) -> list[str]:
    """Kill so often; return what went wrong."""
    dice, problems = random.Random(seed), list[str]()
    words: dict[str, set[str]] = {}
    names = ("tiny", model_name(other))
    allowed = {names[0]}
    for number in range(kills + 1):
        victim = Victim(root / "state", memory)
        try:
            status = victim.control.call("status")
            serving = status["model"]
            if serving not in allowed or status["trouble"]:
                problems.append(f"kill {number}: {serving}, not {allowed}: {status['trouble']}")
            words.setdefault(serving, set()).add(victim.ask())
            if number == kills:
                break
            allowed = _switch_and_die(victim, other, names, serving, dice)
        finally:
            victim.kill()
    problems += [f"{name} said {said}" for name, said in words.items() if len(said) > 1]
    return problems


def _switch_and_die(
    victim: Victim, other: str, names: tuple[str, str], serving: str, dice: random.Random
) -> set[str]:
    """Switch to and fro until death; return what the next start may serve."""
    now, going = [serving], [serving]

    def switch() -> None:
        try:
            while True:
                going[0] = names[now[0] == names[0]]
                victim.control.call("use", name="tiny" if going[0] == "tiny" else other)
                now[0] = going[0]
        except HomeboxError:
            pass  # it died

    thread = threading.Thread(target=switch)
    thread.start()
    time.sleep(dice.uniform(0.0, 0.8))
    victim.kill()
    thread.join(60)
    return {now[0], going[0]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", type=int, default=0, help="MiB; little lets one go first")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        problems = campaign(Path(root), args.other, args.kills, args.memory, args.seed)
    print(f"{args.kills} kills, {len(problems)} problems", *problems, sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
