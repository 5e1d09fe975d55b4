"""Metrics of one pod with several processes: each scrape, whoever answers it, tells of all of them (row 37)."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.requirements.conftest import StartService
from tests.support.service_processes import ServiceProcess

WORKERS = 2
PATIENCE_SECONDS = 60.0
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(api: ServiceProcess) -> Series:
    """Every sample, from whichever process takes the new connection."""
    async with httpx.AsyncClient(timeout=60) as http:
        text = (await http.get(f"{api.url}/metrics")).raise_for_status().text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
    assert len(found) == len(samples), "no series twice"
    return found


def value(series: Series, name: str, **labels: str) -> float:
    return series.get((name, frozenset(labels.items())), 0.0)


def served(series: Series) -> float:
    return value(series, "http_requests_total", method="GET", status="2xx", handler="/")


async def until(api: ServiceProcess, condition: Callable[[Series], bool]) -> Series:
    """The first scrape for which it holds."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition(series := await scrape(api)):
            await asyncio.sleep(0.2)
    return series


async def ask(api: ServiceProcess, count: int) -> None:
    """So many requests, each on a connection of its own, so that every process gets some."""

    async def one() -> None:
        async with httpx.AsyncClient(timeout=60) as http:
            (await http.get(f"{api.url}/")).raise_for_status()

    for _ in range(count // 10):
        await asyncio.gather(*(one() for _ in range(10)))


def serving(api: ServiceProcess) -> list[int]:
    """The processes that serve: gunicorn's children."""
    return [pid for pid in api.pids() if pid != api.child.pid]


@pytest.mark.only_on("postgres", "mariadb", "pgbouncer", reason="SQLite has no pool")
async def test_a_scrape_tells_of_all_processes_and_a_dead_one_keeps_its_counts_but_not_its_gauges(
    start_service: StartService, database_environment: dict[str, str]
) -> None:
    api = await asyncio.to_thread(
        start_service,
        "api",
        API__WORKERS=str(WORKERS),
        **{**database_environment, "DATABASE__POOL_SIZE": "3", "DATABASE__MAX_OVERFLOW": "2"},
    )
    assert len(serving(api)) == WORKERS
    rooms = ("db_pool_max_connections", WORKERS * 5.0)
    await until(api, lambda series: value(series, rooms[0], pool="sessions") == rooms[1])
    await ask(api, 200)
    for _ in range(10):
        series = await scrape(api)
        assert served(series) == 200
        assert value(series, "http_request_duration_seconds_count", method="GET", handler="/") == 200
        assert (
            value(series, "http_request_duration_seconds_bucket", method="GET", handler="/", le="+Inf") == 200
        )
        assert not [name for name, labels in series if "pid" in dict(labels)], "no series per process"
    builds = [number for (name, _), number in series.items() if name == "service_build_info"]
    assert builds == [1.0]

    before = set(serving(api))
    os.kill(min(before), signal.SIGKILL)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(set(serving(api)) - before) != 1 or len(serving(api)) != WORKERS:
            await asyncio.sleep(0.1)
    # The newcomer adds its connections, the dead process's are gone; what was counted stays counted.
    series = await until(api, lambda series: value(series, rooms[0], pool="sessions") == rooms[1])
    assert served(series) == 200
    await ask(api, 50)
    series = await scrape(api)
    assert served(series) == 250
    assert value(series, rooms[0], pool="sessions") == rooms[1]
