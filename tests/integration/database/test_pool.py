"""The pool of asynchronous sessions: what it keeps after a burst, and how it tells the dead from the living."""

import asyncio
import logging
import time

import asyncpg
import pytest
from scalable_fastapi_system.infra.database import DatabaseManager, liveness, pool
from sqlalchemy import event, text

pytestmark = pytest.mark.only_on("postgres", reason="tells connections apart by pg_backend_pid")


@pytest.fixture
async def database(make_settings, empty_postgres_url):
    manager = DatabaseManager(
        make_settings(database={"database_url": empty_postgres_url, "pool_size": 2, "max_overflow": 2})
    )
    await manager.start()
    yield manager
    await manager.stop()


@pytest.fixture
def opened(database):
    """How many connections have been opened since."""
    count = []
    event.listen(database._pooled_engine.sync_engine, "connect", lambda *_: count.append(1))
    return count


async def ask(database, *, seconds=0.0):
    async with database.transaction() as session:
        if seconds:
            await session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})
        return await session.scalar(text("SELECT pg_backend_pid()"))


async def burst(database, count):
    return set(await asyncio.gather(*(ask(database, seconds=0.05) for _ in range(count))))


async def test_a_load_that_needs_the_overflow_does_not_open_connections_again_and_again(database, opened):
    for _ in range(5):
        assert len(await burst(database, 4)) == 4
    assert len(opened) == 4
    assert database.pool_status() == {"size": 2, "checked_out": 0, "overflow": 2}


async def test_the_overflow_is_closed_when_it_was_not_needed_for_a_while(database, opened, monkeypatch):
    await burst(database, 4)
    monkeypatch.setattr(pool, "LINGER_SECONDS", 0.0)
    await asyncio.gather(*(ask(database) for _ in range(2)))
    await asyncio.gather(*(ask(database) for _ in range(2)))
    assert database.pool_status() == {"size": 2, "checked_out": 0, "overflow": 0}
    assert len(opened) == 4


async def test_no_more_are_opened_than_size_and_overflow(database, opened):
    await burst(database, 12)
    assert len(opened) == 4


async def test_a_transaction_on_a_warm_connection_asks_nothing_but_its_own_statements(database, monkeypatch):
    await ask(database)
    pings = []
    dialect = database._pooled_engine.dialect
    do_ping = dialect.do_ping
    monkeypatch.setattr(dialect, "do_ping", lambda connection: pings.append(1) or do_ping(connection))
    await ask(database)
    assert pings == []
    monkeypatch.setattr(liveness, "TRUSTED_SECONDS", 0.0)
    await ask(database)
    assert pings == [1]


async def test_a_connection_that_the_server_closed_is_replaced_before_use(database, postgres_server, opened):
    pid = await ask(database)
    await asyncio.to_thread(terminate, postgres_server, pid)
    await asyncio.sleep(0.05)  # the loop hears of it
    assert await ask(database) != pid
    assert len(opened) == 2


async def test_a_connection_that_died_without_a_word_is_found_by_asking(database, opened, monkeypatch):
    pid = await ask(database)
    monkeypatch.setattr(liveness, "TRUSTED_SECONDS", 0.0)
    engine = database._pooled_engine
    refused = []

    def do_ping(connection):
        if not refused:
            refused.append(1)
            raise engine.dialect.loaded_dbapi.InterfaceError("connection is closed")
        return True

    monkeypatch.setattr(engine.dialect, "do_ping", do_ping)
    assert await ask(database) != pid
    assert len(opened) == 2


async def test_the_pool_of_a_service_that_starts_again_keeps_its_size(database):
    engine = database._pooled_engine
    await burst(database, 4)
    await engine.dispose()
    started = time.monotonic()
    await ask(database)
    assert time.monotonic() - started < 5
    assert database.pool_status() == {"size": 2, "checked_out": 0, "overflow": 0}


def terminate(server, pid):
    """Ends a session of the server, and waits until it has ended."""
    from psycopg import sql

    server.execute(sql.SQL("SELECT pg_terminate_backend({}, 30000)").format(sql.Literal(pid)))


async def test_a_loop_that_ends_while_a_connection_is_closing_is_no_error(database, monkeypatch, caplog):
    """As a job's thread does whose work is called off: what is under way in its loop is cancelled."""
    closed = []

    async def close(self, **_limits):
        closed.append(self)
        await asyncio.Event().wait()

    async def use():
        async with database.async_engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def called_off():
        task = asyncio.create_task(use())
        while not closed and not task.done():
            await asyncio.sleep(0.01)
        assert not task.done(), task.result()

    monkeypatch.setattr(asyncpg.Connection, "close", close)
    with caplog.at_level(logging.INFO):
        await asyncio.to_thread(asyncio.run, called_off())
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert [connection.is_closed() for connection in closed] == [True]
