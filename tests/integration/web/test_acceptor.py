"""New connections are taken many at a time: uvloop's one in a turn would let a busy process's callers wait for seconds."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest
import uvloop
from scalable_fastapi_system.web.acceptor import Acceptor

WAITING = 100
AT_ONCE = 32


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=2 * WAITING) as made:
        made.setblocking(False)
        yield made


class Echo(asyncio.Protocol):
    acceptor: Acceptor | None = None
    made = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        type(self).made += 1
        self.transport = transport
        if self.acceptor is not None:
            self.acceptor.take_more()

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]


async def turns_until_all_are_made(protocol: type[Echo]) -> int:
    turns = 0
    async with asyncio.timeout(60):
        while protocol.made < WAITING:
            turns += 1
            await asyncio.sleep(0)
    return turns


@pytest.mark.parametrize("is_with", [True, False])
def test_those_that_wait_are_accepted_in_few_turns_of_the_loop(
    listening: socket.socket, is_with: bool
) -> None:
    async def main() -> int:
        class Server(Echo):
            made = 0

        def make_taken() -> Echo:
            taken = Server()
            taken.acceptor = None
            return taken

        if is_with:
            Server.acceptor = Acceptor([listening], make_taken, most_at_once=AT_ONCE)
        clients = [socket.create_connection(listening.getsockname()) for _ in range(WAITING)]
        server = await asyncio.get_running_loop().create_server(Server, sock=listening)
        try:
            turns = await turns_until_all_are_made(Server)
            for client in (clients[0], clients[1], clients[-1]):
                client.settimeout(30)
                client.sendall(b"x")
                assert await asyncio.to_thread(client.recv, 1) == b"x"
            return turns
        finally:
            for client in clients:
                client.close()
            server.close()

    turns = uvloop.run(main())
    # Were it otherwise without, uvloop would take many at a time by itself, and this module were to go.
    assert turns < WAITING / 4 if is_with else turns >= WAITING


async def test_when_it_stops_what_it_took_is_connected_and_no_more_is_taken(listening: socket.socket) -> None:
    class Server(Echo):
        made = 0

    acceptor = Acceptor([listening], Server)
    clients = [socket.create_connection(listening.getsockname()) for _ in range(3)]
    acceptor.take_more()
    assert Server.made == 0
    await acceptor.stop()
    assert Server.made == 3
    clients.append(socket.create_connection(listening.getsockname()))
    acceptor.take_more()
    await acceptor.stop()
    assert Server.made == 3
    for client in clients:
        client.close()


async def test_a_closed_listener_is_left_alone(listening: socket.socket) -> None:
    listening.close()
    Acceptor([listening], Echo).take_more()
