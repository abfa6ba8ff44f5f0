"""The control socket: how commands of the same user reach the daemon that runs on a state.

One connection is one command: a line of JSON goes in, lines with `progress` may come back, and the
last line holds `result` or `error`. The socket lies in the state directory with mode 0600, so that
who may read the state may command the daemon, and nobody else: no web page, no other user.

Invariant: a client always gets a last line or a DaemonError, never silence.
"""

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from homebox import errors
from homebox.errors import DaemonError, HomeboxError, UsageError
from homebox.listener import Listener

log = logging.getLogger("homebox.control")

SOCKET = "control.sock"
MAX_LINE = 1 << 20
CONNECT_TIMEOUT = 5.0  # seconds

Tell = Callable[[Mapping[str, Any]], None]
# Takes the arguments and a function that tells progress from any thread; gives JSON.
Command = Callable[[Mapping[str, Any], Tell], Awaitable[Any]]


class ControlServer:
    """The daemon's end."""

    def __init__(self, state: Path, commands: Mapping[str, Command]) -> None:
        self._state = state
        self._commands = commands
        self._listener: Listener | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. The caller holds the lock of the state, so an old socket belongs to nobody."""
        with _reachable(self._state) as path:
            path.unlink(missing_ok=True)
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                # Linux gives the file the mode that the socket has before: it is never open.
                os.fchmod(listening.fileno(), 0o600)
                listening.bind(str(path))
            except BaseException:
                listening.close()
                raise
            listener = Listener([listening], self._protocol)
            listener.start()
            self._listener = listener

    async def stop(self) -> None:
        """Stop listening, break running commands off, and remove the socket."""
        if self._listener is not None:
            await self._listener.close()
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        if self._listener is not None:
            await self._listener.end()
        (self._state / SOCKET).unlink(missing_ok=True)

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(MAX_LINE), self._accept)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            last = await self._answer(reader, writer)
            writer.write(_line(last))
            await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client left, or the daemon stops
        finally:
            writer.close()

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> dict[str, Any]:
        """Run one command and give the last line."""
        loop = asyncio.get_running_loop()

        def tell(progress: Mapping[str, Any]) -> None:
            line = _line({"progress": progress})
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_write_if_taken, writer, line)

        try:
            command, arguments = _parse(await _read_line(reader))
            if command not in self._commands:
                raise UsageError(f"the daemon knows no command {command!r}; update homebox")
            return {"result": await self._commands[command](arguments, tell)}
        except HomeboxError as error:
            return _error(error)
        except Exception as error:
            log.exception("a control command failed")
            return _error(HomeboxError(f"the daemon made a mistake: {error!r}; its log says more"))


class Client:
    """The command's end; one connection per call."""

    def __init__(self, state: Path) -> None:
        self._state = state

    def call(self, command: str, tell: Tell | None = None, **arguments: Any) -> Any:
        """Run a command in the daemon; raises its error, or DaemonError if it broke off."""
        connection = _connect(self._state)
        if connection is None:
            raise DaemonError(f"no daemon runs on {self._state}")
        with connection, connection.makefile("rb") as lines:
            try:
                connection.sendall(_line({"command": command, "arguments": arguments}))
                for line in lines:
                    message = json.loads(line)
                    if "progress" in message:
                        if tell is not None:
                            tell(message["progress"])
                    elif "error" in message:
                        raise _raised(message["error"])
                    else:
                        return message["result"]
            except (OSError, ValueError) as error:
                raise DaemonError(f"the daemon broke off: {error}") from error
        raise DaemonError("the daemon broke off before it answered; see its log")


def find(state: Path) -> Client | None:
    """Find the daemon that runs on a state directory; None if there is none."""
    connection = _connect(state)
    if connection is None:
        return None
    connection.close()
    return Client(state)


def _connect(state: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _reachable(state) as path:
            connection.settimeout(CONNECT_TIMEOUT)
            connection.connect(str(path))
            # Learning may be silent for long; a dead daemon closes the socket.
            connection.settimeout(None)
            return connection
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        connection.close()
        return None
    except OSError as error:
        connection.close()
        raise DaemonError(f"{state / SOCKET} cannot be reached: {error.strerror}") from error


@contextlib.contextmanager
def _reachable(state: Path) -> Iterator[Path]:
    """Give a path of the socket that is short enough for the system (107 bytes on Linux)."""
    path = state / SOCKET
    if len(os.fsencode(path)) < 100:
        yield path
        return
    handle = os.open(state, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield Path(f"/proc/self/fd/{handle}") / SOCKET
    finally:
        os.close(handle)


async def _read_line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError as error:
        raise UsageError("the command is too long") from error


def _parse(line: bytes) -> tuple[str, dict[str, Any]]:
    try:
        message = json.loads(line)
        command, arguments = message["command"], message.get("arguments", {})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError('a command is a line like {"command": "status"}') from error
    if not isinstance(command, str) or not isinstance(arguments, dict):
        raise UsageError('a command is a line like {"command": "status"}')
    return command, arguments


def _write_if_taken(writer: asyncio.StreamWriter, line: bytes) -> None:
    """Tell progress unless the client has gone or takes nothing: progress may be lost."""
    buffered = writer.transport.get_write_buffer_size()
    if not writer.transport.is_closing() and buffered < MAX_LINE:
        writer.write(line)


def _line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _error(error: HomeboxError) -> dict[str, Any]:
    return {
        "error": {
            "kind": type(error).__name__,
            "message": str(error),
            "exit_code": error.exit_code,
        }
    }


def _raised(value: Mapping[str, Any]) -> HomeboxError:
    """Build the daemon's error anew, so that callers may catch it by its class."""
    kind = getattr(errors, str(value["kind"]), None)
    if not (isinstance(kind, type) and issubclass(kind, HomeboxError)):
        kind = HomeboxError
    error: HomeboxError = HomeboxError.__new__(kind)
    error.args = (value["message"],)
    return error
