"""A server that leaves: what comes on kept-alive connections is answered, the answer says so, and nothing is reset."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Callable

import httpx
import pytest
import uvicorn
import uvloop
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.web.http_protocol import http_protocol
from starlette.responses import PlainTextResponse

from tests.integration.web.conftest import StartAPI

WITHIN_SECONDS = 60.0
REQUEST = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


class Connection:
    """One raw connection to a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def get(self) -> bytes:
        """The head of the answer to one request."""
        self._writer.write(REQUEST)
        head = await self._reader.readuntil(b"\r\n\r\n")
        await self._reader.readexactly(2)
        return head

    async def end(self) -> bytes:
        """What comes until the server closes."""
        rest = await self._reader.read()
        self._writer.close()
        await self._writer.wait_closed()
        return rest


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


async def opened(listener: socket.socket) -> Connection:
    return Connection(*await asyncio.open_connection(*listener.getsockname()))


async def until(condition) -> None:
    while not condition():
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("leave_seconds", "is_served"), [(WITHIN_SECONDS, True), (0.0, False)], ids=["in time", "later"]
)
async def test_a_leaving_server_serves_kept_alive_connections_once_more(
    make_settings: Callable[..., Settings],
    listener: socket.socket,
    leave_seconds: float,
    is_served: bool,
) -> None:
    protocol = http_protocol(make_settings())
    protocol.leave_seconds = leave_seconds
    config = uvicorn.Config(
        PlainTextResponse("ok"), http=protocol, lifespan="off", log_config=None, timeout_keep_alive=600
    )
    server = uvicorn.Server(config)
    async with asyncio.timeout(WITHIN_SECONDS * 2):
        serving = asyncio.create_task(server._serve(sockets=[listener]))
        await until(lambda: server.started)
        used, never_used = await opened(listener), await opened(listener)
        assert b"connection: close" not in await used.get()
        await until(lambda: len(server.server_state.connections) == 2)

        server.should_exit = True
        if is_served:
            await until(lambda: not any(one.is_serving() for one in server.servers))
            for connection in (used, never_used):
                head = await connection.get()
                assert head.startswith(b"HTTP/1.1 200 ")
                assert b"connection: close" in head
        for connection in (used, never_used):
            assert await connection.end() == b""
        await serving


@pytest.mark.parametrize(
    "make_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def test_a_request_that_came_while_a_leaving_server_was_busy_is_answered(
    make_settings: Callable[..., Settings],
    listener: socket.socket,
    make_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    ours, (wakes, waker) = socket.socket(), socket.socketpair()

    class Busy(http_protocol(make_settings())):  # type: ignore[misc]
        leave_seconds = 0.05

        def shutdown(self) -> None:
            super().shutdown()
            self.loop.add_reader(wakes, self.work)
            waker.send(b".")

        def work(self) -> None:
            self.loop.remove_reader(wakes)
            ours.sendall(REQUEST)
            time.sleep(0.1)  # the time for leaving is over before anything else can be read

    async def main() -> bytes:
        config = uvicorn.Config(PlainTextResponse("ok"), http=Busy, lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve(sockets=[listener]))
        await until(lambda: server.started)
        await asyncio.to_thread(ours.connect, listener.getsockname())
        await until(lambda: server.server_state.connections)
        server.should_exit = True
        ours.settimeout(WITHIN_SECONDS)
        answer = await asyncio.to_thread(ours.makefile("rb").read)
        await serving
        return answer

    with ours, wakes, waker, asyncio.Runner(loop_factory=make_loop) as runner:
        answer = runner.run(main())
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in answer


async def test_a_process_that_leaves_ends_the_streams_of_those_who_follow_a_job(start_api: StartAPI) -> None:
    """A request may take 600 s to end, and this job never does: nothing but the process itself ends its stream."""
    api = await asyncio.to_thread(start_api, JOBS__MODE="worker", API__SHUTDOWN_GRACE_SECONDS="600")
    ada = {"username": "ada", "password": "correct-horse-battery"}
    async with (
        asyncio.timeout(WITHIN_SECONDS * 2),
        httpx.AsyncClient(base_url=api.url, timeout=WITHIN_SECONDS) as http,
    ):
        (await http.post("/auth/register", json={**ada, "email": "ada@example.com"})).raise_for_status()
        token = (await http.post("/auth/login", json=ada)).json()["access_token"]
        http.headers["Authorization"] = f"Bearer {token}"
        task_id = (await http.post("/process-data", json={"id": 1})).json()["task_id"]  # no worker takes it
        async with http.stream("GET", f"/tasks/{task_id}/events") as followed:
            lines = followed.aiter_lines()
            async for line in lines:
                if line.startswith("data: "):
                    break
            api.child.signal(signal.SIGTERM)
            rest = [line async for line in lines]  # raises where the stream is cut off before its last chunk
    assert [line for line in rest if line.startswith("event: ")] == []
    assert await asyncio.to_thread(api.child.wait_or_kill, grace_seconds=WITHIN_SECONDS * 2)
    assert api.child.exit_code == 0
    assert "Traceback" not in api.log()
    assert '"level":"error"' not in api.log()
