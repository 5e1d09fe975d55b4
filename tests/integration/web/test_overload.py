"""More requests than the process has room for (row 11): the rest is refused at once, what was admitted is not harmed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from scalable_fastapi_system import create_app
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.web.http_protocol import http_protocol
from scalable_fastapi_system.web.limits import request_timeout

from hack.dev.ports import HOST, find_free

ROOM = 20
STREAMS = 30
SOME = 3
SETTINGS = Settings(
    _env_file=None,
    environment="test",
    api={"max_concurrent_requests": ROOM, "max_event_streams": STREAMS},
    rate_limit={"enabled": False},
)


class Gate:
    """Keeps requests at work until it is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.inside = 0

    async def pass_through(self) -> dict[str, bool]:
        self.inside += 1
        try:
            await self.opened.wait()
        finally:
            self.inside -= 1
        return {"done": True}

    @request_timeout(None)
    async def download(self) -> dict[str, bool]:
        return {"done": True}

    @request_timeout(None)
    async def stream(self) -> StreamingResponse:
        async def events() -> AsyncIterator[bytes]:
            yield b": begun\n\n"
            await self.pass_through()

        return StreamingResponse(events(), media_type="text/event-stream")

    async def until_inside(self, count: int) -> None:
        async with asyncio.timeout(60):
            while self.inside != count:
                await asyncio.sleep(0.01)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def http(gate: Gate) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the whole application with one endpoint more, behind real sockets and the service's own protocol."""
    app: FastAPI = create_app(SETTINGS)
    app.get("/gate")(gate.pass_through)
    app.get("/download")(gate.download)
    app.get("/stream", responses={200: {"content": {"text/event-stream": {}}}})(gate.stream)
    port = find_free()
    config = uvicorn.Config(
        app, host=HOST, port=port, http=http_protocol(SETTINGS), log_config=None, proxy_headers=False
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(60):
        while not server.started:
            await asyncio.sleep(0.01)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=f"http://{HOST}:{port}", timeout=60, limits=limits) as client:
        async with asyncio.timeout(60):
            while (await client.get("/health/ready")).status_code != 200:
                await asyncio.sleep(0.01)
        yield client
        gate.opened.set()
        server.should_exit = True
        await serving


def told_of(refusal: httpx.Response) -> tuple[int, dict[str, str], dict[str, object]]:
    """The refusal without what is its own: its id, and the length and date that go with it."""
    headers = {
        name: value
        for name, value in refusal.headers.items()
        if name not in {"x-request-id", "date", "content-length"}
    }
    return refusal.status_code, headers, {**refusal.json(), "request_id": None}


async def test_at_three_times_the_room_what_fits_is_served_and_the_rest_refused_at_once(
    http: httpx.AsyncClient, gate: Gate
) -> None:
    asked = [asyncio.create_task(http.get("/gate")) for _ in range(3 * ROOM)]
    # The gate is shut: whatever is answered now was not made to wait for a request at work.
    async with asyncio.timeout(60):
        while sum(one.done() for one in asked) < 2 * ROOM:
            await asyncio.sleep(0.01)
    await gate.until_inside(ROOM)
    for refused in [one.result() for one in asked if one.done()]:
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.headers["content-type"] == "application/problem+json"
        body = refused.json()
        assert (body["success"], body["error_code"]) == (False, "SERVICE_UNAVAILABLE")
        assert body["request_id"] == refused.headers["x-request-id"]
    # By the middleware, which is asked where the bytes alone do not tell enough.
    other = await http.get("/gate", headers={"Origin": "https://example.com"})
    assert told_of(other) == told_of(next(one.result() for one in asked if one.done()))
    gate.opened.set()
    statuses = Counter(answer.status_code for answer in await asyncio.gather(*asked))
    assert statuses == {200: ROOM, 503: 2 * ROOM}


async def test_probes_and_metrics_are_answered_by_a_full_process(http: httpx.AsyncClient, gate: Gate) -> None:
    asked = [asyncio.create_task(http.get("/gate")) for _ in range(ROOM)]
    await gate.until_inside(ROOM)
    assert (await http.get("/")).status_code == 503
    for path in ("/health/live", "/health/ready", "/health", "/metrics"):
        answer = await http.get(path)
        assert answer.status_code == 200, answer.text
    gate.opened.set()
    await asyncio.gather(*asked)


async def test_room_comes_back_with_every_request_that_ends_however_it_ends(
    http: httpx.AsyncClient, gate: Gate
) -> None:
    for _ in range(3):
        asked = [asyncio.create_task(http.get("/gate")) for _ in range(ROOM)]
        await gate.until_inside(ROOM)
        assert (await http.get("/")).status_code == 503
        for one in asked[: ROOM // 2]:
            one.cancel()  # the client leaves; the endpoint goes on
        gate.opened.set()
        await asyncio.gather(*asked, return_exceptions=True)
        await gate.until_inside(0)
        gate.opened.clear()
        async with asyncio.timeout(60):
            while (await http.get("/")).status_code != 200:
                await asyncio.sleep(0.01)


async def in_progress(http: httpx.AsyncClient) -> float:
    text = (await http.get("/metrics")).text
    (line,) = [line for line in text.splitlines() if line.startswith("http_requests_inprogress ")]
    return float(line.split()[1])


async def test_streams_take_no_room_of_others_and_have_a_bound_of_their_own(
    http: httpx.AsyncClient, gate: Gate
) -> None:
    followed = [asyncio.create_task(http.get("/stream")) for _ in range(STREAMS)]
    asked = [asyncio.create_task(http.get("/gate")) for _ in range(SOME)]
    await gate.until_inside(STREAMS + SOME)
    # nor are they among the requests by which pods are scaled
    async with asyncio.timeout(60):
        while await in_progress(http) != SOME:
            await asyncio.sleep(0.05)
    assert (await http.get("/")).status_code == 200
    assert (await http.get("/stream")).status_code == 503
    assert (await http.get("/download")).status_code == 200  # which takes its time too, and is none

    gate.opened.set()
    assert {answer.status_code for answer in await asyncio.gather(*followed, *asked)} == {200}
    assert (await http.get("/stream")).status_code == 200
