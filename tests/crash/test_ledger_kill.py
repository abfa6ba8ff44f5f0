"""Every turn whose id was given out is in the ledger, once, whenever the writer is killed."""

import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from homebox.errors import StateError
from homebox.memory import database
from homebox.memory.ledger import Ledger

# Four threads write turns as fast as they can and print each id after it was acknowledged.
WRITER = """
import sys, threading
from pathlib import Path
from homebox.memory import database
from homebox.memory.ledger import Ledger
from tests.unit.memory.kit import say

ledger = Ledger(Path(sys.argv[1]))
if len(sys.argv) > 2:
    exec(sys.argv[2])
lock = threading.Lock()

def write():
    while True:
        name = say(ledger, "x" * 500)
        with lock:
            sys.stdout.write(name + chr(10))
            sys.stdout.flush()

for _ in range(4):
    threading.Thread(target=write).start()
"""

# Acknowledge before the commit: what the ledger must never do.
EARLY = """
def early(connection, jobs, path, real=database._commit):
    import time
    for job in jobs:
        job.future.set_result("turn_" + "0" * 24)
    time.sleep(0.01)

database._commit = early
"""


def acknowledged_until_killed(path: Path, after: float, control: str | None = None) -> list[str]:
    """Let a writer run, kill it `after` seconds from its first id on, return its ids."""
    command = [sys.executable, "-c", WRITER, str(path), *([control] if control else [])]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        first = writer.stdout.readline()
        time.sleep(after)
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read()
    assert writer.returncode == -signal.SIGKILL
    # The last line may be cut off in the middle; then it was not told to anybody.
    return [
        line.strip() for line in [first, *rest.splitlines(keepends=True)] if line.endswith("\n")
    ]


def test_no_acknowledged_turn_is_lost_and_none_is_there_twice(tmp_path: Path) -> None:
    path, random_ = tmp_path / "ledger.db", random.Random(5)
    told: list[str] = []
    for _ in range(8):
        told += acknowledged_until_killed(path, random_.uniform(0.0, 0.15))
        ledger = Ledger(path)
        kept = [turn.id for turn in ledger.turns()]
        assert set(told) <= set(kept)
        assert len(kept) == len(set(kept)) == ledger.verify()
        ledger.close()
    assert len(told) > 20


def test_control_acknowledging_before_the_commit_is_noticed(tmp_path: Path) -> None:
    told = acknowledged_until_killed(tmp_path / "ledger.db", 0.05, EARLY)
    ledger = Ledger(tmp_path / "ledger.db")
    assert not set(told) <= {turn.id for turn in ledger.turns()}
    ledger.close()


def test_killed_while_migrating(tmp_path: Path) -> None:
    """A migration that is killed leaves the old schema, and the next start completes it."""
    path = tmp_path / "ledger.db"
    told = acknowledged_until_killed(path, 0.02)
    program = (
        "import os, sqlite3, sys\nfrom pathlib import Path\n"
        "from homebox.memory import database\n"
        "from homebox.memory.ledger import Ledger\n"
        "step = ('ALTER TABLE turns ADD COLUMN mood TEXT', 'SELECT die()', 'SELECT 1')\n"
        "database.STEPS = (*database.STEPS, step)\n"
        "connect = database.Database._connect\n"
        "def dying(self):\n"
        "    connection = connect(self)\n"
        "    connection.create_function('die', 0, lambda: os.kill(os.getpid(), 9))\n"
        "    return connection\n"
        "database.Database._connect = dying\n"
        "Ledger(Path(sys.argv[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)])
    assert done.returncode == -signal.SIGKILL
    ledger = Ledger(path)
    assert set(told) <= {turn.id for turn in ledger.turns()}
    ledger.close()
    with sqlite3.connect(path) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(turns)")]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.close()
    assert ("mood" in columns, version) == (False, len(database.STEPS))


def test_a_ledger_cut_short_is_refused_or_complete(tmp_path: Path) -> None:
    """Never opened as if nothing were wrong: damage of the file itself is reported."""
    path = tmp_path / "ledger.db"
    acknowledged_until_killed(path, 0.05)
    Ledger(path).close()
    whole = path.read_bytes()
    for length in (len(whole) // 2, 100):
        path.write_bytes(whole[:length])
        try:
            ledger = Ledger(path, read_only=True)
            ledger.verify()
        except StateError as error:
            assert str(path) in str(error) or "ledger" in str(error)
        else:
            raise AssertionError("half a ledger passed as a whole one")
    path.write_bytes(whole)
    assert Ledger(path, read_only=True).verify() > 0
