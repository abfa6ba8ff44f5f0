"""A round trip through a real client, or through plain HTTP: does it work, and what was said."""

import http.client
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from homebox.connect.agents import Agent
from homebox.connect.offer import Offer

PROMPT = "Reply with the word OK and nothing else."
SHOWN = 500  # characters of what a client printed


@dataclass(frozen=True)
class Trial:
    """What happened; `ok` None: nothing could be tried."""

    ok: bool | None
    what: str
    seconds: float = 0.0
    said: str = ""


def try_agent(
    agent: Agent,
    offer: Offer,
    file: Path,
    program: str,
    turns: Callable[[], int] | None,
    timeout: float,
) -> Trial:
    """Let an agent say one thing; `turns` counts the turns in the box's memory, if it can be asked.

    A client that prints an answer from elsewhere is no success: the box must have seen a turn.
    """
    found = shutil.which(program or agent.program)
    if found is None:
        return Trial(None, f"{program or agent.program} is not installed here; nothing was tried")
    before = turns() if turns else 0
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="homebox-connect-") as name:
        folder = Path(name)
        environment = {**os.environ, **agent.variables(file, folder)}
        if offer.address.certificate:
            environment["NODE_EXTRA_CA_CERTS"] = offer.address.certificate
        command = agent.trial(found, file, folder, PROMPT)
        try:
            result = subprocess.run(  # the owner's own program, our own arguments
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Trial(False, f"{agent.name} did not end within {timeout:.0f} s", timeout)
        except OSError as error:
            return Trial(False, f"{found} cannot be run: {error.strerror or error}")
    seconds = round(time.monotonic() - begun, 1)
    said = result.stdout.decode(errors="replace").strip()
    problem = result.stderr.decode(errors="replace").strip()
    if result.returncode:
        what = f"{agent.name} ended with exit code {result.returncode}"
        return Trial(False, what, seconds, (problem or said)[-SHOWN:])
    if turns and turns() == before:
        what = f"{agent.name} ended well, but the box has seen no turn"
        return Trial(False, what, seconds, (said or problem)[-SHOWN:])
    return Trial(True, f"{agent.name} was answered by the box", seconds, _text(said)[:SHOWN])


def _text(said: str) -> str:
    """Find the answer in what a client printed: OpenClaw's JSON has it among its payloads."""
    try:
        payloads = json.loads(said)["payloads"]
        return "\n".join(str(payload["text"]) for payload in payloads)
    except (ValueError, TypeError, LookupError, RecursionError):
        return said


def try_plainly(offer: Offer, timeout: float) -> Trial:
    """Ask the box one thing over HTTP, as any client of OpenAI's API would."""
    body = {
        "model": offer.model,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 16,
    }
    begun = time.monotonic()
    connection = offer.address.connect(timeout)
    headers = {**offer.address.headers, **offer.headers}
    try:
        target = offer.address.target("/v1/chat/completions")
        connection.request("POST", target, json.dumps(body).encode(), headers)
        response = connection.getresponse()
        value = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Trial(False, f"{offer.address.base_url} cannot be talked to: {error!r}")
    finally:
        connection.close()
    seconds = round(time.monotonic() - begun, 1)
    if response.status != 200:
        message = str(value.get("error", {}).get("message", value))[:SHOWN]
        return Trial(False, f"the box answered {response.status}", seconds, message)
    said = str(value["choices"][0]["message"]["content"] or "")
    return Trial(True, "the box answered", seconds, said[:SHOWN])
