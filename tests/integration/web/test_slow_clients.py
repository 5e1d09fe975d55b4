"""Slow clients against the real server process (row 8): cut off in time, and good clients do not notice.

Nothing here is measured. The server's other limits (75 s for idle connections, 60 s for a request) are longer than
the deadlines, and without the slow-client limits none of these connections would end at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from hack.dev.ports import HOST
from tests.integration.web.conftest import StartAPI
from tests.support.service_processes import ServiceProcess

STALLED = 500
CUT_OFF_WITHIN_SECONDS = 55.0
HEAD = b"POST /auth/login HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def api(start_api: StartAPI) -> ServiceProcess:
    return start_api(API__SLOW_CLIENT_SECONDS="4", API__KEEP_ALIVE_SECONDS="600")


class Client:
    """One raw connection that says what it is told to and keeps what comes back."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, api: ServiceProcess, first: bytes = b"") -> Client:
        client = cls(*await asyncio.open_connection(HOST, api.port))
        client.writer.write(first)
        return client

    async def rest(self) -> bytes:
        """What comes until the server ends the connection."""
        async with asyncio.timeout(CUT_OFF_WITHIN_SECONDS):
            with contextlib.suppress(ConnectionError):
                return await self.reader.read(-1)
        return b""

    async def trickle(self, piece: bytes = b"x") -> bytes:
        """Sends a piece every 0.2 s for as long as the server takes it; what came back in the meantime."""

        async def send() -> None:
            with contextlib.suppress(ConnectionError):
                while not self.writer.is_closing():
                    self.writer.write(piece)
                    await self.writer.drain()
                    await asyncio.sleep(0.2)

        sending = asyncio.create_task(send())
        try:
            return await self.rest()
        finally:
            sending.cancel()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


def problem(raw: bytes) -> dict[str, object]:
    """The body of an answer, checked to be the one shape of failures, on a connection that the server ends."""
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    assert b"connection: close" in head.lower()
    assert b"x-content-type-options: nosniff" in head
    parsed: dict[str, object] = json.loads(body)
    assert parsed["success"] is False
    assert parsed["request_id"]
    assert parsed["request_id"] in head.decode()
    return parsed


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the size of a process's table of files")
def test_there_is_room_for_connections_before_they_come(api: ServiceProcess) -> None:
    sizes = [
        int(line.split()[1])
        for child in psutil.Process(api.child.pid).children()
        for line in Path(f"/proc/{child.pid}/status").read_text().splitlines()
        if line.startswith("FDSize")
    ]
    assert sizes
    assert min(sizes) >= 1024


async def test_a_connection_that_says_nothing_is_closed(api: ServiceProcess) -> None:
    client = await Client.open(api)
    assert await client.rest() == b""
    await client.close()


async def test_a_head_that_does_not_come_to_its_end_is_a_408(api: ServiceProcess) -> None:
    begun = b"GET /health/live HTTP/1.1\r\nHost: test\r\nX-Long: "
    stops, trickles = await Client.open(api, begun), await Client.open(api, begun)
    answer, answer_or_nothing = await asyncio.gather(stops.rest(), trickles.trickle())
    assert problem(answer)["error_code"] == "REQUEST_TIMEOUT"
    if answer_or_nothing:  # who still sends when the connection ends may lose the answer
        assert problem(answer_or_nothing)["error_code"] == "REQUEST_TIMEOUT"
    await stops.close()
    await trickles.close()


async def test_a_second_request_s_head_has_the_same_limit(api: ServiceProcess) -> None:
    request = b"GET /health/live HTTP/1.1\r\nHost: test\r\n\r\n"
    client = await Client.open(api, request)
    await client.reader.readuntil(b'"alive"}')
    client.writer.write(request[:20])
    assert problem(await client.rest())["status"] == 408
    await client.close()


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
async def test_a_body_that_does_not_come_to_its_end_is_a_408(api: ServiceProcess, framing: str) -> None:
    begun = HEAD + framing.encode() + b"\r\n\r\n"
    piece = b"1\r\nx\r\n" if "chunked" in framing else b"x"
    stops, trickles = await Client.open(api, begun), await Client.open(api, begun)
    answer, answer_or_nothing = await asyncio.gather(stops.rest(), trickles.trickle(piece))
    assert problem(answer)["error_code"] == "REQUEST_TIMEOUT"
    if answer_or_nothing:
        assert problem(answer_or_nothing)["error_code"] == "REQUEST_TIMEOUT"
    await stops.close()
    await trickles.close()


async def test_a_body_that_is_sent_after_its_answer_and_never_ends_holds_no_connection(
    api: ServiceProcess,
) -> None:
    client = await Client.open(api, b"POST /nowhere HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\n")
    assert b"404" in await client.reader.readline()
    await client.trickle()
    await client.close()


async def test_a_client_that_does_not_read_is_cut_off_and_one_that_reads_slowly_is_not(
    api: ServiceProcess,
) -> None:
    """Both ask for far more than the sockets' buffers hold."""
    count = 100
    request = b"GET /openapi.json HTTP/1.1\r\nHost: test\r\n\r\n" * count
    slow = await Client.open(api, request)

    async def read_slowly() -> int:
        seen = 0
        while seen < count:
            piece = await slow.reader.read(65536)
            assert piece, f"cut off after {seen} of {count} answers"
            seen += piece.count(b"HTTP/1.1 200")
            await asyncio.sleep(0.05)
        return seen

    reading = asyncio.create_task(read_slowly())
    with socket.create_connection((HOST, api.port)) as silent:
        silent.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(silent, request)
        async with asyncio.timeout(CUT_OFF_WITHIN_SECONDS):
            while not _is_reset(silent):
                await asyncio.sleep(0.1)
    async with asyncio.timeout(CUT_OFF_WITHIN_SECONDS):
        assert await reading == count
    await slow.close()


def _is_reset(connection: socket.socket) -> bool:
    """Whether the peer has broken the connection off: the pending error, which asking for clears."""
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


async def test_500_stalled_sockets_do_not_stop_good_clients_and_are_all_closed(api: ServiceProcess) -> None:
    """More of each kind than a process has room for requests at work."""
    kinds = {
        "silent": b"",
        "in the head": b"GET /health/live HTTP/1.1\r\nHost: test\r\n",
        "in the body": HEAD + b"Content-Length: 1000\r\n\r\nx",
    }
    before = cut_off_heads(api)
    firsts = [list(kinds.values())[number % len(kinds)] for number in range(STALLED)]
    stalled = await asyncio.gather(*(Client.open(api, first) for first in firsts))
    ends = [asyncio.create_task(client.rest()) for client in stalled]
    statuses = []
    async with httpx.AsyncClient(base_url=api.url, timeout=60) as good:
        while not all(end.done() for end in ends):
            statuses.append((await good.get("/")).status_code)
            await asyncio.sleep(0.02)
        statuses.append((await good.get("/")).status_code)
    assert set(statuses) == {200}
    raw = await asyncio.gather(*ends)
    assert [problem(one)["status"] for one in raw if one] == [408] * sum(1 for first in firsts if first)
    assert cut_off_heads(api) - before == sum(1 for first in firsts if not first.startswith(HEAD))
    await asyncio.gather(*(client.close() for client in stalled))


def cut_off_heads(api: ServiceProcess) -> float:
    """How many connections the server says that it ended because no whole head came."""
    text = httpx.get(f"{api.url}/metrics", timeout=60).text
    name = 'http_connections_cut_off_total{waiting_for="head"}'
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


async def test_stalled_bodies_take_no_room_from_requests_at_work(start_api: StartAPI) -> None:
    api = start_api(API__MAX_CONCURRENT_REQUESTS="2")
    stalled = [await Client.open(api, HEAD + b"Content-Length: 9\r\n\r\n") for _ in range(20)]
    async with httpx.AsyncClient(base_url=api.url, timeout=60) as good:
        assert [(await good.get("/")).status_code for _ in range(20)] == [200] * 20
    for client in stalled:
        await client.close()


async def test_an_idle_connection_is_kept(api: ServiceProcess) -> None:
    """Longer than the limit for slow clients, which it is none of."""
    request = b"GET /health/live HTTP/1.1\r\nHost: test\r\n\r\n"
    idle, stalled = await Client.open(api, request), await Client.open(api)
    await idle.reader.readuntil(b'"alive"}')
    await stalled.rest()
    again = await Client.open(api)
    await again.rest()
    idle.writer.write(request)
    assert b"200" in await idle.reader.readline()
    for client in (idle, stalled, again):
        await client.close()


async def test_what_is_no_http_and_what_has_too_large_a_head_is_answered_in_the_one_shape(
    api: ServiceProcess,
) -> None:
    broken = await Client.open(api, b"no http at all\r\n\r\n")
    assert problem(await broken.rest())["error_code"] == "BAD_REQUEST"
    await broken.close()
    large = await Client.open(api, b"GET / HTTP/1.1\r\nHost: test\r\n")
    raw = await large.trickle(b"X-Large: " + b"x" * 30_000 + b"\r\n")
    if raw:
        assert problem(raw)["status"] == 431
    await large.close()
