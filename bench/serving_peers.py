"""The servers that bench/serving.py compares: homebox and llama.cpp's, on the same file.

The one idea: both get the same model file, threads, context, slots and type of keys and values
(f16), and from then on only HTTP. Invariant: a server that was started is ended.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.serving_load import KEY

CONTEXT = 32768
SLOTS = 8
PATIENCE = 600.0  # seconds for a start
REPOSITORY = Path(__file__).parents[1]


@dataclass(frozen=True)
class Peer(ABC):
    """A server that can be started on a model; `state` outlives its processes."""

    model: Path
    threads: int
    state: Path

    name = ""

    @abstractmethod
    def command(self, port: int) -> list[str]:
        """Return how it is started."""

    def variables(self) -> dict[str, str]:
        """Return what it finds in its environment besides."""
        return {}

    @contextmanager
    def running(self) -> Iterator[str]:
        """Run it for as long as the block lasts; gives its address."""
        port = free_port()
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(
                self.command(port),
                cwd=REPOSITORY,
                stdout=output,
                stderr=output,
                env={**os.environ, **self.variables()},
            )
            try:
                url = f"http://127.0.0.1:{port}"
                wait_for(url, process, output)
                yield url
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


class Homebox(Peer):
    """This project's daemon."""

    name = "homebox"

    def command(self, port: int) -> list[str]:
        words = [sys.executable, "-m", "homebox", "serve", "--model", str(self.model)]
        words += ["--state", str(self.state / "homebox"), "--device", "cpu"]
        return [*words, "--port", str(port), "--context", str(CONTEXT)]

    def variables(self) -> dict[str, str]:
        return {
            "HOMEBOX_THREADS": str(self.threads),
            "HOMEBOX_MODEL_SLOTS": str(SLOTS),
            "HOMEBOX_SERVER_TOKEN": KEY,
        }


@dataclass(frozen=True)
class LlamaServer(Peer):
    """llama.cpp's server, built by bench/build_llama_server.sh."""

    program: Path = Path("llama-server")
    name = "llama-server"

    def command(self, port: int) -> list[str]:
        words = [str(self.program), "--model", str(self.model), "--host", "127.0.0.1"]
        words += ["--port", str(port), "--threads", str(self.threads)]
        words += ["--threads-batch", str(self.threads), "--ctx-size", str(CONTEXT)]
        return [*words, "--parallel", str(SLOTS), "--kv-unified", "--api-key", KEY, "--no-webui"]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, process: "subprocess.Popen[bytes]", output: object) -> None:
    """Wait until a server answers for its health; raises RuntimeError if it ends or never does."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    output.seek(0)  # type: ignore[attr-defined]
    last = re.sub(r"\s+", " ", output.read()[-800:])  # type: ignore[attr-defined]
    raise RuntimeError(f"{process.args[0]} did not start: {last}")  # type: ignore[index]
