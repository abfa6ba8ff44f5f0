"""`homebox chat`: talk with the model, through the daemon if one runs, else through one of its own.

It is always a conversation over HTTP, so that what is said here is served, counted and written down
exactly as what any other client says.
"""

import argparse
import contextlib
import http.client
import json
import sys
from collections.abc import Iterator
from typing import Any

from homebox.commands.common import (
    Subparsers,
    add_command,
    configuration,
    daemon_of,
    print_json,
    show_plan,
    spelled,
)
from homebox.config import Config
from homebox.connect.address import Address, address_of
from homebox.errors import DaemonError, HomeboxError, RequestError

HELP = "/new begins a new conversation, /quit ends; everything else goes to the model"
TIMEOUT = 600.0  # seconds without a byte


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = add_command(
        subparsers,
        "chat",
        run,
        "talk with the model; lines from a pipe are one message each",
        'homebox chat --once "What do fish eat?"',
        model=True,
    )
    parser.add_argument("--once", metavar="TEXT", help="say this, print the answer, end")
    parser.add_argument("--system", metavar="TEXT", help="what the model is told first")
    parser.add_argument(
        "--weights", metavar="NAME", help='"base", or the beginning of a weights hash'
    )
    parser.add_argument("--max-tokens", type=int, metavar="N", help="longest answer")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 (default) is greedy")
    parser.add_argument("--context", type=int, help="without a daemon: tokens of context")


def run(args: argparse.Namespace) -> int:
    """Hold the conversation."""
    config = configuration(args, model__context=args.context)
    with _box(config) as address:
        conversation = Conversation(address, args)
        if args.once is not None:
            conversation.say(args.once)
        elif sys.stdin.isatty():
            _talk(conversation)
        else:
            for line in sys.stdin:
                if line.strip() == "/quit":
                    break
                if line.strip():
                    conversation.say(line.rstrip("\n"))
    return 0


@contextlib.contextmanager
def _box(config: Config) -> Iterator[Address]:
    """Reach the daemon that runs, or one that runs as long as the block."""
    client = daemon_of(config)
    if client is not None:
        yield address_of(client)
        return
    from homebox.daemon import running

    with running(configuration_for_itself(config)) as box:
        show_plan(box.daemon.model)
        yield Address(box.url, box.daemon.token, box.daemon.certificate)


def configuration_for_itself(config: Config) -> Config:
    """Listen on any free port of this machine only."""
    import dataclasses

    server = dataclasses.replace(config.server, host="127.0.0.1", port=0)
    return dataclasses.replace(config, server=server)


def _talk(conversation: "Conversation") -> None:
    """Read from a terminal until /quit or the end of input; Ctrl-C stops an answer."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # editing and history for input()
    print(HELP)
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return
        if line == "/quit":
            return
        if line == "/new":
            conversation.begin()
        elif line == "/help":
            print(HELP)
        elif line:
            try:
                conversation.say(line)
            except KeyboardInterrupt:
                print(" (stopped)")
            except HomeboxError as error:
                print(f"homebox: {error}", file=sys.stderr)


class Conversation:
    """The messages so far, and the server they are sent to."""

    def __init__(self, address: Address, args: argparse.Namespace) -> None:
        self._address = address
        self._as_json = bool(args.json)
        self._system = args.system
        self._fields = {
            "model": model_name(args.weights),
            "max_tokens": args.max_tokens,
            "temperature": args.temperature,
        }
        self.messages: list[dict[str, str]] = []
        self.begin()

    def begin(self) -> None:
        """Forget the conversation."""
        self.messages = [{"role": "system", "content": self._system}] if self._system else []

    def say(self, text: str) -> None:
        """Send a message and print the answer as it comes."""
        self.messages.append({"role": "user", "content": text})
        answer = ""
        try:
            for piece in self._stream():
                answer += piece
                if not self._as_json:
                    print(spelled(piece), end="", flush=True)
        except BaseException:
            self.messages.pop()
            raise
        self.messages.append({"role": "assistant", "content": answer})
        if self._as_json:
            print_json({"message": self.messages[-1], "turn": self.turn, "weights": self.weights})
        else:
            print()

    def _stream(self) -> Iterator[str]:
        body = {"messages": self.messages, "stream": True, **self._fields}
        connection = self._address.connect(TIMEOUT)
        try:
            connection.request(
                "POST",
                "/v1/chat/completions",
                json.dumps(body).encode(),
                self._address.headers,
            )
            response = connection.getresponse()
            if response.status != 200:
                raise RequestError(_message(json.loads(response.read())))
            self.turn = response.headers["x-homebox-turn"]
            self.weights = response.headers["x-homebox-weights"]
            yield from _pieces(response)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise DaemonError(f"the daemon cannot be talked to: {error!r}") from error
        finally:
            connection.close()


def model_name(weights: str | None) -> str:
    """Name the served model that holds these weights."""
    if not weights:
        return "homebox"
    return "base" if weights == "base" else f"homebox@{weights.removeprefix('homebox@')}"


def _pieces(response: http.client.HTTPResponse) -> Iterator[str]:
    for line in response:
        data = line.decode().strip().removeprefix("data: ")
        if data == "[DONE]":
            return
        if not data:
            continue
        event = json.loads(data)
        if "error" in event:
            raise HomeboxError(_message(event))
        for choice in event["choices"]:
            yield choice["delta"].get("content") or ""
    raise DaemonError("the answer broke off")


def _message(value: Any) -> str:
    return str(value["error"]["message"])
