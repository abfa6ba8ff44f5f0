"""Kills learning runs with SIGKILL and checks what is left: `python -m tests.crash.kill_learner`.

After every kill the state opens, HEAD names the base or the weights that a run which nobody killed
ends with, nothing in between, and every acknowledged turn is there. A run that is begun again often
enough ends, with that same hash.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from homebox.errors import HomeboxError
from homebox.memory.manifest import BASE
from homebox.memory.state import open_state
from tests.crash.learn_process import tell
from tests.learning.fake_model import FakeModel
from tests.learning.kit import OWNER

ROOT = Path(__file__).parents[2]


@dataclass
class Tally:
    """What happened."""

    kills: int = 0
    ended: int = 0  # runs that came to their end
    stages: Counter[str] = field(default_factory=Counter)  # in which they died
    told: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def problem(self, text: str) -> None:
        """Note what must not be."""
        self.problems.append(f"kill {self.kills}: {text}")


@dataclass(frozen=True)
class End:
    """How a process ended: its last stage, what it served (empty if it died), its seconds."""

    stage: str
    served: str
    seconds: float
    told: tuple[str, ...]


def prepare(state: Path) -> None:
    """Make a state that was told a few things."""
    with open_state(state) as opened:
        for text in OWNER:
            tell(opened.ledger, text, "c")


def learn(state: Path, *options: str, after: float | None = None) -> End:
    """Run a learning process; kill it some seconds after it has begun, if it is to be."""
    command = [sys.executable, "-m", "tests.crash.learn_process", str(state), *options]
    environment = {**os.environ, "XDG_CACHE_HOME": str(state.parent / "cache")}
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        begun = time.monotonic()
        if after is not None:
            time.sleep(after)
            process.send_signal(signal.SIGKILL)
        lines = [first, *process.stdout.readlines()]
        seconds = time.monotonic() - begun
    # The last line may be cut off in the middle; then it was not told to anybody.
    words = [line.split() for line in lines if line.endswith("\n")]
    served = [word[1] for word in words if word[0] == "served"]
    if process.returncode not in (0, -signal.SIGKILL) or bool(served) < (process.returncode == 0):
        raise RuntimeError(f"the run ended with {process.returncode}: {lines[-3:]}")
    stages = ["begin", *(word[1] for word in words if word[0] == "stage")]
    told = tuple(word[1] for word in words if word[0] == "told")
    return End(stages[-1], served[0] if served else "", seconds, told)


def check(state: Path, final: str, tally: Tally) -> str:
    """Open what is left and compare; gives what HEAD names."""
    try:
        with open_state(state) as opened:
            kept = {turn.id for turn in opened.ledger.outline()}
            if not tally.told <= kept:
                tally.problem(f"{len(tally.told - kept)} acknowledged turns are lost")
            if opened.ledger.verify() != len(kept):
                tally.problem("the chain and its turns differ in length")
            head = opened.lineage.head(FakeModel.base_hash)
            if head not in (BASE, final):
                tally.problem(f"HEAD is {head[:12]}, neither the base nor {final[:12]}")
            elif head != BASE:
                opened.lineage.verify(head)
            active = {lesson.state for lesson in opened.ledger.lessons()}
            if not active <= ({"active"} if head != BASE else {"new"}):
                tally.problem(f"lessons are {sorted(active)} while {head[:12]} is served")
            return head
    except HomeboxError as error:
        tally.problem(str(error))
        return ""


def story(
    prepared: Path,
    state: Path,
    final: str,
    kills: list[tuple[str, ...]],
    last: tuple[str, ...] = (),
) -> Tally:
    """Kill one run again and again, each time with these options, then let it end."""
    tally = Tally()
    shutil.copytree(prepared, state)
    for options in kills:
        _note(learn(state, *options), tally)
        check(state, final, tally)
    _end(learn(state, *last), state, final, tally)
    return tally


def campaign(root: Path, kills: int, seed: int = 0) -> Tally:
    """Kill so many times at random moments, and begin a fresh run whenever one came to its end."""
    dice, tally = random.Random(seed), Tally()
    prepare(root / "prepared")
    shutil.copytree(root / "prepared", root / "whole")
    whole = learn(root / "whole")
    state = root / "state"
    while tally.kills < kills and not tally.problems:
        if not state.exists():
            shutil.copytree(root / "prepared", state)
            tally.told.clear()
        end = learn(state, after=dice.uniform(0.0, 1.1 * whole.seconds))
        if not end.served:
            _note(end, tally)
            if check(state, whole.served, tally) == BASE and dice.random() < 0.8:
                continue
            end = learn(state)
        _end(end, state, whole.served, tally)
        shutil.rmtree(state)
    return tally


def _note(end: End, tally: Tally) -> None:
    tally.kills += 1
    tally.stages[end.stage] += 1
    tally.told.update(end.told)
    if end.served:
        tally.problem(f"was not killed, but served {end.served[:12]}")


def _end(end: End, state: Path, final: str, tally: Tally) -> None:
    tally.ended += 1
    tally.told.update(end.told)
    if end.served != final or check(state, final, tally) != final:
        tally.problem(f"ended with {end.served[:12]}, not {final[:12]}")
    if list((state / "learning").glob("*")):
        tally.problem("a run that is over left its checkpoint")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        tally = campaign(Path(root), args.kills, args.seed)
    stages = ", ".join(f"{stage} {count}" for stage, count in sorted(tally.stages.items()))
    print(f"{tally.kills} kills ({stages}), {tally.ended} ends, {len(tally.problems)} problems")
    for problem in tally.problems:
        print(problem)
    return 1 if tally.problems else 0


if __name__ == "__main__":
    sys.exit(main())
