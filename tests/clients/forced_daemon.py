"""The daemon of `serve_forced` as a process, and clients that are run against it."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from homebox.memory.ledger import Ledger
from homebox.memory.turns import Turn

LONGEST = 560  # seconds for one client


class ForcedDaemon:
    """A daemon that has said where it listens."""

    def __init__(self, repository: Path, folder: Path, state: Path) -> None:
        self.state = state
        self._errors = (state.parent / f"{state.name}.errors").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.clients.serve_forced", str(folder), str(state)],
            cwd=repository,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        assert self._process.stdout is not None
        found = re.search(r"on (http://[^/]+)/v1", self._process.stdout.readline())
        assert found is not None, self.errors()
        self.url = found.group(1)

    def errors(self) -> str:
        """Return what it has written to its second output."""
        self._errors.flush()
        return Path(self._errors.name).read_text()

    def turns(self) -> list[Turn]:
        """Return what it has logged, in order."""
        return list(Ledger(self.state / "ledger.db", read_only=True).turns())

    def stop(self) -> int:
        """End it as a service manager would; gives its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self._process.communicate(timeout=60)
        self._errors.close()
        return self._process.returncode


def run_client(
    *command: str | Path, workdir: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a client in a folder of its own."""
    workdir.mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=LONGEST + 30,
        cwd=workdir,
        env={**os.environ, "WORKDIR": str(workdir), "TMO": str(LONGEST), **variables},
    )
