"""Reads that may lag: a primary and its streaming standby, both real, either of them gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from psycopg import sql
from scalable_fastapi_system.infra.database import DatabaseManager, Read
from scalable_fastapi_system.infra.database.observe import StatementCount, counted
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.kit.errors import ServiceUnavailableException
from sqlalchemy import Column, Integer, MetaData, String, Table, func, insert, select, text
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from hack.dev.postgres import Postgres

pytestmark = pytest.mark.only_on("postgres", reason="PostgreSQL's streaming replication")

things = Table("things", MetaData(), Column("id", Integer, primary_key=True), Column("name", String(20)))
NAMES = Read(select(things.c.name).order_by(things.c.id), may_lag=True)
ON_STANDBY = text("SELECT pg_is_in_recovery()")
WHERE = Read(select(text("pg_is_in_recovery() AS on_standby")), may_lag=True)
EXACT = Read(select(text("pg_is_in_recovery() AS on_standby")))


@pytest.fixture
async def manager(
    disposable_postgres: Postgres, standby: Postgres, make_settings: Callable[..., Settings]
) -> AsyncIterator[DatabaseManager]:
    section = {
        "database_url": disposable_postgres.url(),
        "replica_url": standby.url(),
        "replica_retry_seconds": 0.2,
    }
    manager = DatabaseManager(make_settings(database=section))
    things.metadata.create_all(manager.engine)
    await manager.start()
    yield manager
    await manager.stop()


async def add(manager: DatabaseManager, name: str) -> None:
    async with manager.transaction() as session:
        await session.execute(insert(things).values(name=name))


async def names(manager: DatabaseManager) -> list[str]:
    async with manager.read_session() as session:
        return list((await session.scalars(select(things.c.name).order_by(things.c.id))).all())


async def is_on_standby(manager: DatabaseManager) -> bool:
    async with manager.read_session() as session:
        return bool((await session.execute(ON_STANDBY)).scalar_one())


async def until(condition: Callable[[], Any], *, timeout_seconds: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_reads_that_may_lag_go_to_the_replica_and_all_else_to_the_primary(
    manager: DatabaseManager,
) -> None:
    await add(manager, "on the primary")
    assert await is_on_standby(manager)
    assert await WHERE.one(manager) == {"on_standby": True}
    assert await EXACT.one(manager) == {"on_standby": False}
    async with manager.transaction() as session:
        assert not (await session.execute(ON_STANDBY)).scalar_one()

    async def has_arrived() -> bool:
        return await names(manager) == ["on the primary"]

    await until(has_arrived)
    assert [row["name"] for row in await NAMES.all(manager)] == ["on the primary"]
    assert {usage.name for usage in manager.pool_usage()} == {
        "sessions",
        "reads",
        "replica_sessions",
        "replica_reads",
    }


async def test_reads_fall_back_to_the_primary_and_return_to_the_replica(
    manager: DatabaseManager, standby: Postgres
) -> None:
    await add(manager, "a")
    assert await is_on_standby(manager)
    with capture_logs() as logs:
        standby.stop()
        for _ in range(20):
            assert await names(manager) == ["a"]
            assert await WHERE.one(manager) == {"on_standby": False}
    told = [entry for entry in logs if "replica" in entry["event"]]
    assert [entry["event"] for entry in told] == ["the read replica is away, reads go to the primary"]
    assert told[0]["log_level"] == "warning"

    standby.start()
    with capture_logs() as logs:

        async def is_back() -> bool:
            return await is_on_standby(manager)

        await until(is_back)
    assert [entry["event"] for entry in logs] == ["the read replica is back"]
    assert await WHERE.one(manager) == {"on_standby": True}


async def test_a_hot_read_notices_the_outage_itself_and_is_answered_all_the_same(
    manager: DatabaseManager, standby: Postgres
) -> None:
    assert await WHERE.one(manager) == {"on_standby": True}
    standby.kill()
    assert await WHERE.one(manager) == {"on_standby": False}
    assert manager.replica is not None
    assert manager.replica.is_away


async def test_of_many_callers_one_at_a_time_tries_a_replica_that_is_away(
    manager: DatabaseManager, standby: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    standby.stop()
    assert await names(manager) == []
    replica = manager.replica
    assert replica is not None
    monkeypatch.setattr(replica, "_retry_seconds", 3600.0)
    replica._left_alone_until = 0.0
    assert [replica.is_worth_trying() for _ in range(5)] == [True, False, False, False, False]


async def test_a_replica_without_a_free_connection_is_a_503_and_does_not_load_the_primary(
    disposable_postgres: Postgres, standby: Postgres, make_settings: Callable[..., Settings]
) -> None:
    section: dict[str, Any] = {
        "pool_size": 1, "max_overflow": 0, "read_pool_size": 1, "pool_timeout_seconds": 0.2,
    }  # fmt: skip
    section |= {"database_url": disposable_postgres.url(), "replica_url": standby.url()}
    manager = DatabaseManager(make_settings(database=section))
    await manager.start()
    async with manager.read_session() as session:
        await session.execute(ON_STANDBY)
        with pytest.raises(ServiceUnavailableException):
            await is_on_standby(manager)
    assert await is_on_standby(manager)
    assert manager.replica is not None
    async with (await manager.replica.database.asyncpg_pool()).acquire():
        with pytest.raises(ServiceUnavailableException):
            await WHERE.one(manager)
    assert await WHERE.one(manager) == {"on_standby": True}
    await manager.stop()


@pytest.mark.parametrize("is_direct", [True, False])
async def test_a_statement_that_takes_too_long_is_no_outage_and_not_asked_again_of_the_primary(
    disposable_postgres: Postgres,
    standby: Postgres,
    make_settings: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
    is_direct: bool,
) -> None:
    monkeypatch.setattr(DatabaseManager, "is_direct", is_direct)
    section = {
        "database_url": disposable_postgres.url(), "replica_url": standby.url(), "statement_timeout_seconds": 1,
    }  # fmt: skip
    manager = DatabaseManager(make_settings(database=section))
    await manager.start()
    assert await WHERE.one(manager) == {"on_standby": True}
    slow = Read(select(func.pg_sleep(30)), may_lag=True)
    token = counted.set(StatementCount())
    with pytest.raises(ServiceUnavailableException):
        await slow.one(manager)
    assert counted.get().total == 1  # type: ignore[union-attr]
    counted.reset(token)
    assert manager.replica is not None
    assert not manager.replica.is_away
    assert await WHERE.one(manager) == {"on_standby": True}
    await manager.stop()


async def test_a_read_that_is_in_the_way_of_the_replication_is_asked_of_the_primary_and_is_no_outage(
    manager: DatabaseManager, standby: Postgres
) -> None:
    for statement in ("ALTER SYSTEM SET max_standby_streaming_delay = 0", "SELECT pg_reload_conf()"):
        standby.execute(sql.SQL(statement).format())
    await add(manager, "a")

    async def has_arrived() -> bool:
        return bool(await NAMES.all(manager))

    await until(has_arrived)
    slow = Read(select(text("pg_sleep(2), pg_is_in_recovery() AS on_standby FROM things")), may_lag=True)
    reader = asyncio.create_task(slow.one(manager))
    await asyncio.sleep(0.5)
    async with manager.transaction() as session:  # takes a lock that the standby takes in its turn
        await session.execute(text("ALTER TABLE things ADD COLUMN more integer"))
    answer = await reader
    assert answer is not None
    assert answer["on_standby"] is False
    assert manager.replica is not None
    assert not manager.replica.is_away
    assert await WHERE.one(manager) == {"on_standby": True}


async def test_the_loss_of_the_primary_leaves_reads_on_the_replica(
    manager: DatabaseManager, disposable_postgres: Postgres
) -> None:
    assert await is_on_standby(manager)
    disposable_postgres.kill()
    with pytest.raises(ServiceUnavailableException):
        await add(manager, "lost")
    assert await is_on_standby(manager)
    assert await WHERE.one(manager) == {"on_standby": True}


async def test_without_a_replica_a_reading_session_is_one_on_the_primary_that_cannot_write(
    make_settings: Callable[..., Settings], database_section: dict[str, Any]
) -> None:
    manager = DatabaseManager(make_settings(database=database_section))
    things.metadata.create_all(manager.engine)
    await manager.start()
    await add(manager, "a")
    assert await names(manager) == ["a"]
    with pytest.raises(DBAPIError):
        async with manager.read_session() as session:
            await session.execute(insert(things).values(name="b"))
    await add(manager, "c")  # the connection that refused it writes again
    assert await names(manager) == ["a", "c"]
    await manager.stop()
