"""Whatever is accepted is closed, also what arrives in the moment of stopping."""

import asyncio
import gc
import socket
import warnings

import pytest

from homebox.listener import Listener, bind

TURNS = 6  # of the loop, in which an accepted socket becomes a connection


class Protocol(asyncio.Protocol):
    """Counts what is open, and fills the pipe of whoever connects."""

    open = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        Protocol.open += 1
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(b"x" * (1 << 23))  # more than the system takes: a close would wait

    def connection_lost(self, exc: BaseException | None) -> None:
        Protocol.open -= 1


async def stop_after(turns: int) -> list[bytes]:
    """Let clients connect, stop after some turns of the loop; give what the clients find."""
    sockets = await bind("127.0.0.1", 0)
    address = sockets[0].getsockname()
    listener = Listener(sockets, Protocol)
    listener.start()
    clients = [socket.create_connection(address, timeout=20) for _ in range(5)]
    for _ in range(turns):
        await asyncio.sleep(0)
    await listener.end()
    assert Protocol.open == 0
    found = []
    for client in clients:
        with client:
            try:
                while client.recv(1 << 20):
                    pass
                found.append("end")
            except ConnectionResetError:
                found.append("reset")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=20)
    return found


@pytest.mark.parametrize("turns", range(TURNS))
def test_no_socket_stays_open_whenever_it_stops(turns: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        found = asyncio.run(stop_after(turns))
        gc.collect()
    assert len(found) == 5


def test_the_turns_above_see_connections_come_into_being() -> None:
    """Control: at first nothing is accepted, in the last turn everything."""

    async def accepted(turns: int) -> int:
        sockets = await bind("127.0.0.1", 0)
        listener = Listener(sockets, Protocol)
        address = sockets[0].getsockname()
        listener.start()
        with socket.create_connection(address, timeout=20):
            for _ in range(turns):
                await asyncio.sleep(0)
            count = Protocol.open
            await listener.end()
        return count

    assert asyncio.run(accepted(0)) == 0
    assert asyncio.run(accepted(TURNS)) == 1


def test_ending_twice_is_harmless() -> None:
    async def run() -> None:
        listener = Listener(await bind("127.0.0.1", 0), Protocol)
        listener.start()
        await listener.end()
        await listener.end()

    asyncio.run(run())


def test_a_port_in_use_is_an_error_and_leaves_nothing_open() -> None:
    async def run() -> None:
        sockets = await bind("127.0.0.1", 0)
        port = sockets[0].getsockname()[1]
        listener = Listener(sockets, Protocol)
        listener.start()
        with pytest.raises(OSError, match="in use"):
            await bind("127.0.0.1", port)
        await listener.end()

    asyncio.run(run())


def test_names_and_all_addresses_are_bound() -> None:
    async def run(host: str) -> set[str]:
        sockets = await bind(host, 0)
        addresses = {bound.getsockname()[0] for bound in sockets}
        await Listener(sockets, Protocol).end()
        return addresses

    assert "127.0.0.1" in asyncio.run(run("localhost"))
    assert "0.0.0.0" in asyncio.run(run(""))
    with pytest.raises(OSError, match="address"):
        asyncio.run(run("192.0.2.7"))  # of nobody: TEST-NET-1
