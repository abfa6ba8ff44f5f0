"""Listening sockets, and the connections that came by them until the last one is closed.

asyncio's own server loses what it accepted in the moment it is closed: before Python 3.14 such a
socket is neither served nor closed, and nothing tells when aborted connections are gone. Here
every accepted socket has an owner from `accept` to `close`.

Invariant: after `end`, no socket that was accepted here is open.
"""

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakSet

log = logging.getLogger("homebox.listener")

BACKLOG = 128
# Where one version of IP is switched off, "localhost" still has both addresses.
ABSENT = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}
RETRY = 1.0  # seconds until a new try after the system had no file handle left
HANDSHAKE = 10.0  # seconds that a client has for TLS's
HANDSHAKES = 256  # at the same time; connections beyond are closed at once


class Listener:
    """Accepts on bound sockets, which it owns; `factory` makes the protocol of a connection.

    With `tls` a connection has its protocol after the handshake.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        factory: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._sockets = list(sockets)
        self._factory = factory
        self._tls = tls
        self._raw: WeakSet[socket.socket] = WeakSet()
        self._accepting: dict[asyncio.Task[None], socket.socket] = {}
        self._transports: WeakSet[asyncio.BaseTransport] = WeakSet()

    def start(self) -> None:
        """Listen; raises OSError, and closes the sockets then."""
        try:
            for listening in self._sockets:
                listening.setblocking(False)
                listening.listen(BACKLOG)
        except BaseException:
            self._close_sockets()
            raise
        for listening in self._sockets:
            self._watch(listening)

    async def close(self) -> None:
        """Accept nothing more; returns when every accepted socket has its protocol."""
        loop = asyncio.get_running_loop()
        for listening in self._sockets:
            loop.remove_reader(listening)
        self._close_sockets()
        if self._tls is not None:
            # A handshake takes as long as its client likes; it ends where the bytes do.
            for accepted in self._accepting.values():
                with contextlib.suppress(OSError):
                    accepted.shutdown(socket.SHUT_RDWR)
        await asyncio.gather(*self._accepting)

    async def end(self) -> None:
        """Cut off what is still open; returns when the loop has let go of every socket."""
        await self.close()
        transports = list(self._transports)
        for transport in transports:
            # Closing alone would wait for readers who take nothing.
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()
        sockets = list(self._raw)
        while any(map(_is_open, transports)) or any(raw.fileno() >= 0 for raw in sockets):
            await asyncio.sleep(0)

    def _watch(self, listening: socket.socket) -> None:
        if listening in self._sockets:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(BACKLOG):
            try:
                accepted, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.error("no connection can be accepted for %g s: %s", RETRY, error)
                loop.remove_reader(listening)
                loop.call_later(RETRY, self._watch, listening)
                return
            if self._tls is not None and len(self._accepting) >= HANDSHAKES:
                accepted.close()
                continue
            accepted.setblocking(False)
            task = loop.create_task(self._connect(accepted))
            self._accepting[task] = accepted
            task.add_done_callback(self._accepting.pop)

    async def _connect(self, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._raw.add(accepted)
        limit = HANDSHAKE if self._tls else None
        try:
            transport, _ = await loop.connect_accepted_socket(
                self._factory, accepted, ssl=self._tls, ssl_handshake_timeout=limit
            )
        except Exception as error:
            if self._tls is not None and isinstance(error, OSError):
                # What is no TLS, or trusts us not: asyncio closes the socket itself.
                log.debug("a handshake failed: %s", error)
                return
            accepted.close()
            log.exception("a connection could not be served")
        else:
            self._transports.add(transport)

    def _close_sockets(self) -> None:
        while self._sockets:
            self._sockets.pop().close()


async def bind(host: str, port: int) -> list[socket.socket]:
    """Bind TCP sockets to every address that `host` has ("": all of this machine's).

    Raises OSError if an address is in use, or if this machine has none of them.
    """
    found = await asyncio.get_running_loop().getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    problem: OSError | None = None
    with contextlib.ExitStack() as undo:
        sockets = []
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                sockets.append(undo.enter_context(_bound(family, address)))
            except OSError as error:
                if error.errno not in ABSENT:
                    raise
                problem = error
        if problem is not None and not sockets:
            raise problem
        undo.pop_all()
    return sockets


def _bound(family: int, address: tuple[Any, ...]) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        # What is left of earlier connections must not hold the port after a restart.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
    except BaseException:
        listening.close()
        raise
    return listening


def _is_open(transport: asyncio.BaseTransport) -> bool:
    return bool(transport.get_extra_info("socket").fileno() >= 0)
