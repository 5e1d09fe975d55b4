"""Jobs where PgBouncer in transaction mode is between the API and PostgreSQL, and no Redis wakes anybody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.jobs import JobContext, JobRegistry, job
from sqlalchemy import text

from tests.integration.jobs.conftest import FAST
from tests.integration.jobs.harness import Lab, running_lab
from tests.support.pgbouncer import PgBouncer

pytestmark = pytest.mark.only_on("pgbouncer", reason="LISTEN and NOTIFY on either side of the pooler")

POOL_SIZE = 2  # of the fixture `pgbouncer`


def pooled(make_settings: Callable[..., Settings], pgbouncer: PgBouncer, url: str) -> Settings:
    """Settings of a process that reaches the database through the pooler."""
    address = pgbouncer.url(urlsplit(url).path.lstrip("/"))
    return make_settings(database={"database_url": address, "prepared_statements": False}, jobs=FAST)


async def test_an_enqueue_through_the_pooler_wakes_a_worker_that_is_connected_directly(
    make_settings: Callable[..., Settings], registry: JobRegistry, postgres_url: str, pgbouncer: PgBouncer
) -> None:
    @job("stamp", registry=registry)
    async def stamp(ctx: JobContext) -> None: ...

    hourly = {**FAST, "poll_seconds": 3600.0, "reconcile_seconds": 3600.0}
    workers = make_settings(database={"database_url": postgres_url}, jobs=hourly)
    async with (
        running_lab(workers, registry) as direct,
        running_lab(pooled(make_settings, pgbouncer, postgres_url), registry) as api,
    ):
        await direct.start_worker()
        for _ in range(5):
            handle = await api.client.enqueue_now(stamp)
            await api.ended(handle.id)


async def test_a_worker_behind_the_pooler_leaves_no_listener_on_its_servers(
    make_settings: Callable[..., Settings], registry: JobRegistry, postgres_url: str, pgbouncer: PgBouncer
) -> None:
    @job("stamp", registry=registry)
    async def stamp(ctx: JobContext) -> None: ...

    async with running_lab(pooled(make_settings, pgbouncer, postgres_url), registry) as lab:
        await lab.start_worker()
        for _ in range(3):
            handle = await lab.client.enqueue_now(stamp)
            await lab.ended(handle.id)
        # As many transactions at once as the pooler has servers: each of them is on another.
        everyone_is_in = asyncio.Barrier(POOL_SIZE)
        heard = await asyncio.gather(*(_channels(lab, everyone_is_in) for _ in range(POOL_SIZE)))
    assert len({server for server, _ in heard}) == POOL_SIZE
    assert [channel for _, channels in heard for channel in channels] == []


async def _channels(lab: Lab, everyone_is_in: asyncio.Barrier) -> tuple[int, list[str]]:
    """A server's process, and what it listens to."""
    async with asyncio.timeout(60), lab.resources.database.transaction() as session:
        server = (await session.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        await everyone_is_in.wait()
        channels = (await session.execute(text("SELECT pg_listening_channels()"))).scalars()
        return server, list(channels)
