"""The database goes away and comes back under steady requests: 503 and never 500, and it mends itself (rows 29 and 33)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from scalable_fastapi_system.identity.api_key_format import new_key

from tests.integration.outages.conftest import WAIT_SECONDS, World
from tests.support.databases import DisposableDatabase
from tests.support.service_processes import API, ServiceProcess

pytestmark = pytest.mark.databases("postgres", "mariadb", "pgbouncer")

NEEDS_DATABASE = ("read", "login", "job")
NEEDS_NONE = ("live", "no store")
AWAY = (503, "SERVICE_UNAVAILABLE")


@pytest.mark.parametrize("how", ["restarted", "crashed", "frozen"])
async def test_an_outage_of_the_database_is_a_503_where_it_is_needed_and_is_over_when_it_is_back(
    world: World, how: str
) -> None:
    if how == "frozen" and world.database.pooler is not None:
        pytest.skip("PgBouncer 1.18 ends where cancel requests wait for a server that stands still")
    async with world.asking():
        await world.more()
        if how == "restarted":
            await asyncio.to_thread(world.database.stop)
        elif how == "crashed":
            await asyncio.to_thread(world.database.kill)
        else:
            world.database.freeze()
        try:
            await world.until_ready_is(503)
            await world.until_report(status="degraded", database="unhealthy", redis="healthy")
            await world.more(good=False, kinds=NEEDS_DATABASE, by=2)
            await world.more(kinds=NEEDS_NONE)
        finally:
            if how == "frozen":
                world.database.thaw()
            else:
                await asyncio.to_thread(world.database.start)
        await world.until_ready_is(200)
        await world.until_report(status="healthy", database="healthy")
        await world.more()
    seen = world.seen()
    for name in NEEDS_NONE:
        assert seen.pop(name) == {(200, None)}
    assert seen.pop("job") == {(202, None), AWAY}
    for answers in seen.values():
        assert answers <= {(200, None), AWAY}
    assert world.strange == []
    await world.all_jobs_succeed()
    assert world.pids() == world.started_pids


@pytest.mark.only_on("postgres", "pgbouncer", reason="PostgreSQL has a process for each connection")
@pytest.mark.databases("postgres")
async def test_one_connection_that_crashes_takes_no_request_with_it_for_long(world: World) -> None:
    """As an out-of-memory killer ends one backend: Postgres then ends all sessions and recovers by itself."""
    async with world.asking():
        await world.more()
        await asyncio.to_thread(crash_a_backend, world)
        await world.more()
    for name, answers in world.seen().items():
        assert answers <= {(200, None), (202, None), AWAY}, name
    assert world.strange == []
    await world.all_jobs_succeed()
    assert world.pids() == world.started_pids


def crash_a_backend(world: World) -> None:
    """SIGKILL to a process that serves a client."""
    children = world.database.server.child._family()[1:]
    served = [child for child in children if " 127.0.0.1(" in " ".join(child.cmdline())]
    assert served, [child.cmdline() for child in children]
    served[0].kill()


@pytest.fixture
def lonely_api(tmp_path: Path, disposable_database: DisposableDatabase) -> Iterator[ServiceProcess]:
    """An API whose database is stopped."""
    disposable_database.stop()
    api = ServiceProcess("api", API, tmp_path, disposable_database.environment)
    try:
        api.start(until="/health/live")
        yield api
    finally:
        api.kill()


async def test_an_api_that_starts_before_its_database_serves_as_soon_as_it_is_there(
    lonely_api: ServiceProcess, disposable_database: DisposableDatabase
) -> None:
    api = lonely_api
    started_pids = api.pids()
    assert api.status("/health/ready") == 503
    async with httpx.AsyncClient(base_url=api.url, timeout=60) as http:
        headers = {"X-API-Key": new_key()}
        early = await asyncio.gather(*(http.get("/users/me", headers=headers) for _ in range(10)))
        assert {answer.status_code for answer in early} == {503}
        await asyncio.to_thread(disposable_database.start)
        async with asyncio.timeout(WAIT_SECONDS):
            while await asyncio.to_thread(api.status, "/health/ready") != 200:
                await asyncio.sleep(0.1)
        late = await asyncio.gather(*(http.get("/users/me", headers=headers) for _ in range(10)))
        assert {answer.status_code for answer in late} == {401}, "known to nobody, says the database"
    assert api.pids() == started_pids
