"""What a full process refuses by its bytes alone, and what it leaves to the parser and the middleware."""

from __future__ import annotations

import asyncio
import json
from contextvars import ContextVar
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from scalable_fastapi_system.infra.metrics import MetricsManager
from scalable_fastapi_system.web.refusals import Refusals
from scalable_fastapi_system.web.room import Room
from scalable_fastapi_system.web.route_table import RouteTable
from structlog.testing import capture_logs

HOST = b"Host: test\r\n"


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def refusals(registry: CollectorRegistry) -> Refusals:
    app = FastAPI()

    @app.get("/things/{thing_id}")
    @app.post("/things/{thing_id}")
    async def thing(thing_id: int) -> None: ...

    @app.get("/health/live")
    async def live() -> None: ...

    routes = RouteTable(app, body_limit_bytes=1000, timeout_seconds=1)
    return Refusals(Room(1, 1), routes, MetricsManager(registry), [(b"x-content-type-options", b"nosniff")])


def parts(answer: bytes | None) -> tuple[list[bytes], dict[str, Any]]:
    assert answer is not None
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert b"content-length: %d" % len(body) in lines
    return lines, json.loads(body)


async def test_a_whole_request_is_refused_with_all_that_a_failure_has(
    refusals: Refusals, registry: CollectorRegistry
) -> None:
    request = b"GET /things/7?x=1 HTTP/1.1\r\n" + HOST + b"Connection: keep-alive\r\n\r\n"
    lines, body = parts(refusals.refuse(request, [(b"date", b"now")]))
    assert lines[0] == b"HTTP/1.1 503 Service Unavailable"
    assert {
        b"date: now",
        b"x-content-type-options: nosniff",
        b"retry-after: 1",
        b"cache-control: no-store",
    } < set(lines)
    assert (body["status"], body["error_code"], body["instance"]) == (503, "SERVICE_UNAVAILABLE", "/things/7")
    assert f"x-request-id: {body['request_id']}".encode() in lines
    labels = {"method": "GET", "status": "5xx", "handler": "/things/{thing_id}"}
    async with asyncio.timeout(30):  # counted once a second
        while not registry.get_sample_value("http_requests_shed_total"):
            await asyncio.sleep(0.05)
    assert registry.get_sample_value("http_requests_total", labels) == 1
    assert registry.get_sample_value("http_requests_shed_total") == 1


@pytest.mark.parametrize(
    ("told", "is_kept"), [(b"abc-1", True), (b"a b", False), (b"x" * 65, False), (b"", False)]
)
async def test_a_good_inbound_request_id_is_kept(refusals: Refusals, told: bytes, is_kept: bool) -> None:
    request = b"GET /things/7 HTTP/1.1\r\n" + HOST + b"X-Request-Id: " + told + b"\r\n\r\n"
    _, body = parts(refusals.refuse(request, []))
    assert (body["request_id"] == told.decode()) == is_kept
    assert body["request_id"]


async def test_a_request_with_its_whole_body_is_refused(refusals: Refusals) -> None:
    request = b"POST /things/7 HTTP/1.1\r\n" + HOST + b"content-length: 5\r\n\r\nabcde"
    assert refusals.refuse(request, []) is not None


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /things/7 HTTP/1.1\r\n" + HOST,
        b"GET /things/7 HTTP/1.1\r\n" + HOST + b"\r\nGET /things/8 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"POST /things/7 HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcd",
        b"POST /things/7 HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcdef",
        b"POST /things/7 HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nabcde",
        b"POST /things/7 HTTP/1.1\r\nContent-Length: +5\r\n\r\nabcde",
        b"GET /things/7 HTTP/1.1\r\nContent-Length : 0\r\n\r\n",
        b"GET /things/7 HTTP/1.1\r\nContent-Length: 0\x0b\r\n\r\n",
        b"GET /things/7 HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n",
        b"POST /things/7 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /things/7 HTTP/1.1\r\nX: a\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /things/7 HTTP/1.1\r\nX: a\r\n b\r\n\r\n",
        b"GET /things/7 HTTP/1.1\r\nOrigin: https://example.com\r\n\r\n",
        b"GET /things/7 HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"GET /things/7 HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\n\r\n",
        b"POST /things/7 HTTP/1.1\r\nExpect: 100-continue\r\n\r\n",
        b"GET /things/%37 HTTP/1.1\r\n\r\n",
        b"GET http://test/things/7 HTTP/1.1\r\n\r\n",
        b"HEAD /things/7 HTTP/1.1\r\n\r\n",
        b"OPTIONS /things/7 HTTP/1.1\r\n\r\n",
        b"STRANGE /things/7 HTTP/1.1\r\n\r\n",
        b"GET /things/7 HTTP/1.0\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\n" + HOST + b"\r\n",
        b"no http at all\r\n\r\n",
    ],
)
async def test_what_is_in_doubt_and_what_is_exempt_is_left_to_others(
    refusals: Refusals, registry: CollectorRegistry, request_bytes: bytes
) -> None:
    assert refusals.refuse(request_bytes, []) is None
    assert registry.get_sample_value("http_requests_shed_total") == 0


async def test_every_refusal_of_a_path_has_an_id_of_its_own_and_each_path_its_own_body(
    refusals: Refusals,
) -> None:
    told = [
        parts(refusals.refuse(b"GET /things/%d HTTP/1.1\r\n\r\n" % number, []))[1] for number in (1, 1, 2)
    ]
    assert [body["instance"] for body in told] == ["/things/1", "/things/1", "/things/2"]
    assert len({body["request_id"] for body in told}) == 3


async def test_the_same_words_again_are_refused_as_the_first_time_and_counted(
    refusals: Refusals, registry: CollectorRegistry
) -> None:
    plain = b"GET /things/7 HTTP/1.1\r\n" + HOST + b"\r\n"
    named = b"GET /things/7 HTTP/1.1\r\nX-Request-Id: abc-1\r\n\r\n"
    for _ in range(3):
        lines, body = parts(refusals.refuse(plain, [(b"date", b"now")]))
        assert {b"date: now", f"x-request-id: {body['request_id']}".encode()} < set(lines)
        assert parts(refusals.refuse(named, []))[1]["request_id"] == "abc-1"
    async with asyncio.timeout(30):
        while registry.get_sample_value("http_requests_shed_total") != 6:
            await asyncio.sleep(0.05)
    refusals.refuse(plain, [])  # what was known is forgotten with what was counted
    async with asyncio.timeout(30):
        while registry.get_sample_value("http_requests_shed_total") != 7:
            await asyncio.sleep(0.05)


async def test_however_many_paths_are_refused_all_are_counted_and_the_memory_is_bounded(
    refusals: Refusals, registry: CollectorRegistry
) -> None:
    for number in range(3000):
        refusals.refuse(b"GET /things/%d HTTP/1.1\r\n\r\n" % number, [])
    assert len(refusals._refused) <= 1024
    assert len(refusals._known) <= 1024
    async with asyncio.timeout(30):
        while registry.get_sample_value("http_requests_shed_total") != 3000:
            await asyncio.sleep(0.05)
    labels = {"method": "GET", "handler": "/things/{thing_id}"}
    assert registry.get_sample_value("http_requests_total", {**labels, "status": "5xx"}) == 3000
    assert not registry.get_sample_value("http_request_duration_seconds_count", labels)


async def test_the_log_has_one_line_for_all_that_were_refused_within_a_second(refusals: Refusals) -> None:
    with capture_logs() as lines:
        for _ in range(5):
            refusals.refuse(b"GET /things/7 HTTP/1.1\r\n" + HOST + b"\r\n", [])
        async with asyncio.timeout(30):
            while not lines:
                await asyncio.sleep(0.05)
    assert [(line["event"], line["count"]) for line in lines] == [
        ("requests refused, the process is full", 5)
    ]


async def test_what_is_told_of_all_who_were_refused_is_not_of_the_request_whose_connection_was_read_from(
    refusals: Refusals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a request reads on from its connection, what comes then is read in its context."""
    request: ContextVar[str] = ContextVar("request")
    request.set("another")
    seen: list[str | None] = []
    monkeypatch.setattr(refusals, "_count", lambda: seen.append(request.get(None)))
    refusals.refuse(b"GET /things/7 HTTP/1.1\r\n" + HOST + b"\r\n", [])
    async with asyncio.timeout(30):
        while not seen:
            await asyncio.sleep(0.05)
    assert seen == [None]


def test_a_request_takes_room_from_its_reading_to_its_end() -> None:
    room = Room(1, 1)
    assert not room.is_full
    room.starting += 1
    assert room.is_full
    room.enter()
    assert (room.at_work, room.starting) == (1, 0)
    assert room.is_full
    assert not room.is_over
    room.note_waiting(1)
    assert not room.is_full


def test_a_server_that_does_not_tell_of_starting_a_request_leaves_the_count_right() -> None:
    room = Room(1, 1)
    room.enter()
    assert (room.at_work, room.starting) == (1, 0)
