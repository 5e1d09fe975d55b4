"""One trace id from the request over both services' log lines and spans to the webhook's receiver (row 38)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.integration.jobs.test_webhooks import Receiver
from tests.integration.requirements.conftest import StartService, sign_in
from tests.support.service_processes import ServiceProcess

PATIENCE_SECONDS = 60.0
TRACE = "ab" * 16
REQUEST = "request-of-the-trace"


async def until(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of `condition()`."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (found := condition()):
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(what) from None
    return found


async def listen(receiver: Receiver, path: str) -> asyncio.Server:
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{path}"
    return server


@pytest.fixture
async def hook() -> AsyncIterator[Receiver]:
    """The endpoint of a webhook."""
    receiver = Receiver()
    server = await listen(receiver, "/hook")
    yield receiver
    server.close()


@pytest.fixture
async def collector() -> AsyncIterator[Receiver]:
    """What spans are exported to."""
    receiver = Receiver()
    server = await listen(receiver, "")
    yield receiver
    server.close()


def tracing_to(collector: Receiver, *, batch_milliseconds: int) -> dict[str, str]:
    """The variables of a service that exports every span."""
    return {
        "TRACING__ENABLED": "true",
        "TRACING__SAMPLE_RATIO": "1.0",
        "TRACING__OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": str(batch_milliseconds),
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
    }


def lines(service: ServiceProcess) -> list[dict[str, Any]]:
    """What it has logged as JSON."""
    return [json.loads(line) for line in service.log().splitlines() if line.startswith("{")]


def spans(collector: Receiver) -> set[tuple[str, str]]:
    """(service, span) of the trace, as the collector was told."""
    found = set()
    for _, body in list(collector.requests):
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            attributes = {one.key: one.value.string_value for one in group.resource.attributes}
            for scope in group.scope_spans:
                found |= {
                    (attributes["service.name"].rpartition("-")[2], span.name)
                    for span in scope.spans
                    if span.trace_id.hex() == TRACE
                }
    return found


async def test_one_trace_id_runs_from_the_request_over_log_and_job_to_the_webhook(
    start_service: StartService,
    database_environment: dict[str, str],
    redis_url: str,
    hook: Receiver,
    collector: Receiver,
) -> None:
    environment = {
        **database_environment,
        "REDIS__REDIS_URL": redis_url,
        "JOBS__MODE": "worker",  # on SQLite too: one in the API's process began before there was a webhook
        "HTTP_CLIENT__ALLOW_PRIVATE_ADDRESSES": "true",
        **tracing_to(collector, batch_milliseconds=100),
    }
    api = await asyncio.to_thread(start_service, "api", **environment)
    async with httpx.AsyncClient(base_url=api.url, timeout=60) as http:
        await sign_in(http)
        (await http.post("/webhooks", json={"url": hook.url})).raise_for_status()
        # A worker that begins now knows whom to tell from the beginning.
        worker = await asyncio.to_thread(start_service, "worker", **environment)
        headers = {"traceparent": f"00-{TRACE}-{'cd' * 8}-01", "x-request-id": REQUEST}
        accepted = await http.post("/process-data", json={"id": 1}, headers=headers)
    task_id = accepted.raise_for_status().json()["task_id"]

    await until(lambda: hook.requests, "the webhook is told")
    told, body = hook.requests[0]
    assert json.loads(body)["data"]["id"] == task_id
    assert told["traceparent"].split("-")[1] == TRACE

    def logged() -> dict[tuple[str, str | None], Any]:
        every = [*lines(api), *lines(worker)]
        return {
            (line["event"], line.get("kind") or line.get("route")): line
            for line in every
            if line.get("trace_id") == TRACE
        }

    wanted = {
        ("request", "/process-data"),
        ("job succeeded", "data.process"),
        ("job succeeded", "webhooks.deliver"),
    }
    await until(lambda: wanted <= set(logged()), "every part has its line with the trace's id")
    assert {line["request_id"] for line in logged().values()} == {REQUEST}
    parts = {
        ("api", "POST /process-data"),
        ("worker", "job data.process"),
        ("worker", "job webhooks.deliver"),
    }
    await until(lambda: parts <= spans(collector), "every part has its span in the trace")


async def test_the_last_spans_are_sent_before_the_api_ends(
    start_service: StartService, database_environment: dict[str, str], collector: Receiver
) -> None:
    """Its processes end by the signal, and a batch is due in minutes."""
    environment = {**database_environment, **tracing_to(collector, batch_milliseconds=300_000)}
    api = await asyncio.to_thread(start_service, "api", **environment)
    async with httpx.AsyncClient(base_url=api.url, timeout=60) as http:
        headers = {"traceparent": f"00-{TRACE}-{'cd' * 8}-01"}
        (await http.get("/", headers=headers)).raise_for_status()
    await asyncio.to_thread(api.child.stop, grace_seconds=30)
    assert ("api", "GET /") in spans(collector)
