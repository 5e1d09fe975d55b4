"""A failover of Postgres: SQLSTATE 25006 leads to new connections, and writes are back without a restart (row 29).

The address is a forwarder's, as a cluster's service is: it leads new connections to another server and leaves those that
are there, so that a connection to a server without writes works on until somebody drops it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psycopg
import pytest
from scalable_fastapi_system.infra.database import DatabaseManager, Write
from scalable_fastapi_system.infra.database.connecting import close_pool
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.jobs.store.postgres_pool import create_pool
from scalable_fastapi_system.kit.errors import ServiceUnavailableException
from sqlalchemy import Column, Integer, MetaData, Table, bindparam, insert

from hack.dev.postgres import Postgres
from tests.integration.outages.conftest import World, start_world
from tests.support.forwarder import Forwarder
from tests.support.stores import Stores

pytestmark = pytest.mark.only_on("postgres", reason="a standby of PostgreSQL is promoted")

__all__ = ["start_world"]  # a fixture
AWAY = (503, "SERVICE_UNAVAILABLE")
PATIENCE_SECONDS = 60.0
things = Table("things", MetaData(), Column("id", Integer, primary_key=True))
ADD = Write(insert(things).values(id=bindparam("id")))
INSERT = "INSERT INTO things VALUES ($1)"
Adding = Callable[[int], Awaitable[object]]


@pytest.fixture
def standby(disposable_postgres: Postgres, stores: Stores) -> Iterator[Postgres]:
    """A second server that follows `disposable_postgres`."""
    server = stores.standby_of(disposable_postgres)
    yield server
    server.discard()


@pytest.fixture
async def address(disposable_postgres: Postgres) -> AsyncIterator[Forwarder]:
    """What leads to `disposable_postgres`, at first."""
    forwarder = Forwarder(disposable_postgres.port)
    await forwarder.start()
    yield forwarder
    await forwarder.stop()


def url_through(address: Forwarder, server: Postgres) -> str:
    parts = urlsplit(server.url())
    netloc = f"{parts.username}:{parts.password}@{parts.hostname}:{address.port}"
    return urlunsplit(parts._replace(netloc=netloc))


@pytest.fixture
async def manager(
    address: Forwarder, disposable_postgres: Postgres, make_settings: Callable[..., Settings]
) -> AsyncIterator[DatabaseManager]:
    url = url_through(address, disposable_postgres)
    manager = DatabaseManager(make_settings(database={"database_url": url}))
    await asyncio.to_thread(things.metadata.create_all, manager.engine)  # the forwarder needs this loop
    await manager.start()
    yield manager
    await manager.stop()


@pytest.fixture
async def job_pool(manager: DatabaseManager) -> AsyncIterator[asyncpg.Pool]:
    """A pool as the job engine has them."""
    pool = await create_pool(manager, size=3)
    yield pool
    await close_pool(pool)


async def caught_up(standby: Postgres, count: int) -> None:
    """Waits until the standby has this many rows."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await asyncio.to_thread(row_count, standby) != count:
            await asyncio.sleep(0.05)


def row_count(server: Postgres) -> int | None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        if connection.execute("SELECT to_regclass('things')").fetchone() == (None,):
            return None
        row = connection.execute("SELECT count(*) FROM things").fetchone()
        assert row is not None
        return int(row[0])


@pytest.mark.parametrize("way", ["session", "statement", "jobs", "jobs in a transaction"])
async def test_a_server_without_writes_loses_its_connections_and_the_next_one_gets_the_writes(
    way: str,
    manager: DatabaseManager,
    job_pool: asyncpg.Pool,
    address: Forwarder,
    disposable_postgres: Postgres,
    standby: Postgres,
) -> None:
    async def by_session(number: int) -> None:
        async with manager.transaction() as session:
            await session.execute(insert(things).values(id=number))

    async def in_transaction(number: int) -> None:
        async with job_pool.acquire() as connection, connection.transaction():
            await connection.execute(INSERT, number)

    ways: dict[str, Adding] = {
        "session": by_session,
        "statement": lambda number: ADD.run(manager, id=number),
        "jobs": lambda number: job_pool.execute(INSERT, number),
        "jobs in a transaction": in_transaction,
    }
    add = ways[way]
    await caught_up(standby, 0)
    address.target_port = standby.port
    await manager.forget_connections()
    await job_pool.expire_connections()
    # Several at once, so that each pool holds several connections to the server without writes.
    results = await asyncio.gather(*(add(number) for number in range(3)), return_exceptions=True)
    expected = asyncpg.ReadOnlySQLTransactionError if way.startswith("jobs") else ServiceUnavailableException
    assert [type(result) for result in results] == [expected] * 3
    address.target_port = disposable_postgres.port
    # What a pool opened in between leads to the same server, and is found out by the next refusal.
    stored = 0
    for first in range(3, 33, 3):
        results = await asyncio.gather(*(add(first + one) for one in range(3)), return_exceptions=True)
        refused = [result for result in results if isinstance(result, BaseException)]
        assert {type(result) for result in refused} <= {expected}
        stored += 3 - len(refused)
    assert refused == []
    assert await asyncio.to_thread(row_count, disposable_postgres) == stored


async def test_a_promoted_standby_takes_over_with_every_accepted_job(
    start_world: Callable[..., World],
    address: Forwarder,
    disposable_postgres: Postgres,
    standby: Postgres,
) -> None:
    """The primary acknowledges what its standby has, dies under load, and the standby is promoted."""
    await asyncio.to_thread(
        run_sql,
        disposable_postgres,
        "ALTER SYSTEM SET synchronous_standby_names = '*'",
        "SELECT pg_reload_conf()",
    )
    url = url_through(address, disposable_postgres)
    world = await asyncio.to_thread(start_world, DATABASE__DATABASE_URL=url)
    await world.sign_in()
    try:
        async with world.asking():
            await world.more()
            address.target_port = standby.port
            await asyncio.to_thread(disposable_postgres.kill)
            # It follows a primary that is gone: it reads, and refuses every write.
            await world.more(good=False, kinds=("login", "job"), by=5)
            await world.more(kinds=("read",), by=5)
            await asyncio.to_thread(run_sql, standby, "SELECT pg_promote()")
            await world.more()
        for name, answers in world.seen().items():
            assert answers <= {(200, None), (202, None), AWAY}, name
        assert world.strange == []
        await world.all_jobs_succeed()
        assert world.pids() == world.started_pids
    finally:
        await world.http.aclose()


def run_sql(server: Postgres, *statements: str) -> None:
    with psycopg.connect(server.superuser_url(), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)
