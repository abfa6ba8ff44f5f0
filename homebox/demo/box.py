"""A daemon of the demonstration's own, and a client of it.

The daemon is a process of its own on a temporary state; everything is said and asked over HTTP,
while learning and rollback go through the control socket. Invariant: the owner's own state and
configuration are neither read nor changed, and the process ends with the block.
"""

import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from homebox.control import Client, find
from homebox.errors import DaemonError
from homebox.learning.exam.writing import Messages, Question

START_SECONDS = 120.0


class Box:
    """A daemon of its own on a temporary state, spoken to over HTTP."""

    def __init__(self, state: Path, url: str, client: Client, token: str = "") -> None:
        self.state = state
        self.client = client
        self._address = urlsplit(url)
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    def ask(self, messages: Messages) -> str:
        """Send one conversation to /v1/chat/completions; give the answer's text."""
        body = {"model": "homebox", "messages": messages, "max_tokens": 48, "temperature": 0}
        connection = http.client.HTTPConnection(
            self._address.hostname or "127.0.0.1", self._address.port, timeout=120
        )
        try:
            connection.request(
                "POST", "/v1/chat/completions", json.dumps(body).encode(), self._headers
            )
            response = connection.getresponse()
            data = json.loads(response.read())
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise DaemonError(f"the demo's daemon did not answer: {error}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise DaemonError(f"the demo's daemon answered {response.status}: {data}")
        return str(data["choices"][0]["message"]["content"])

    def marks(self, questions: Sequence[Question]) -> list[bool]:
        """Ask every question in a conversation of its own."""
        return [question.right(self.ask(question.messages)) for question in questions]


@contextlib.contextmanager
def running_box(model: str, device: str | None = None) -> Iterator[Box]:
    """Run `homebox serve` on a temporary state for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="homebox-demo-") as folder:
        state, config = Path(folder, "state"), Path(folder, "homebox.toml")
        config.write_text("", encoding="utf-8")
        # The owner's own configuration must not change what the demo shows.
        kept = {"HOMEBOX_CACHE_DIR", "HOMEBOX_CPU", "HOMEBOX_THREADS"}
        environment = {
            name: value
            for name, value in os.environ.items()
            if name in kept or not name.startswith("HOMEBOX_")
        }
        options = ["--state", str(state), "--config", str(config), "--model", model]
        options += ["--device", device] if device else []
        with Path(folder, "log").open("w+", encoding="utf-8") as log:
            process = subprocess.Popen(  # our own program, our own arguments
                [sys.executable, "-m", "homebox", "serve", "--port", "0", *options],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
            try:
                yield _reached(state, process, Path(folder, "log"))
            finally:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(20)
                process.kill()
                process.wait()


def _reached(state: Path, process: "subprocess.Popen[bytes]", log: Path) -> Box:
    """Wait until the daemon listens."""
    limit = time.monotonic() + START_SECONDS
    while time.monotonic() < limit:
        if process.poll() is not None:
            text = log.read_text(encoding="utf-8").strip() or "no message"
            raise DaemonError(f"the demo's daemon ended at once: {text}")
        client = find(state) if state.is_dir() else None
        if client is not None:
            address = client.call("address")
            return Box(state, address["url"], client, address.get("token", ""))
        time.sleep(0.05)
    raise DaemonError(f"the demo's daemon did not listen within {START_SECONDS:.0f} s")
