"""The database manager on real servers: sessions, transactions, hooks, outages, hot reads."""

import asyncio
import gc
import threading
import time
from pathlib import Path

import pytest
from scalable_fastapi_system.infra.database import DatabaseManager, Read, bulk_insert, on_commit
from scalable_fastapi_system.infra.database.observe import StatementCount, counted
from scalable_fastapi_system.infra.ending import end_tasks
from scalable_fastapi_system.kit.errors import ServiceUnavailableException
from sqlalchemy import Column, Integer, MetaData, String, Table, bindparam, event, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidRequestError
from structlog.testing import capture_logs

pytestmark = pytest.mark.databases("sqlite", "postgres", "mariadb", "pgbouncer")

things = Table(
    "things", MetaData(), Column("id", Integer, primary_key=True), Column("name", String(20), unique=True)
)


@pytest.fixture
async def database(make_settings, database_section):
    manager = DatabaseManager(make_settings(database=database_section))
    things.metadata.create_all(manager.engine)
    await manager.start()
    yield manager
    await manager.stop()


async def names(manager):
    async with manager.AsyncSessionLocal() as session:
        return list((await session.scalars(select(things.c.name).order_by(things.c.id))).all())


def noting(ran, what):
    async def hook():
        ran.append(what)

    return hook


async def test_a_transaction_is_committed_when_its_block_ends(database):
    async with database.transaction() as session:
        await session.execute(things.insert().values(name="kept"))
    assert await names(database) == ["kept"]


async def test_an_exception_rolls_back_and_forgets_the_hooks(database):
    ran = []

    async def hook():
        ran.append(True)

    with pytest.raises(KeyError):
        async with database.transaction() as session:
            await session.execute(things.insert().values(name="gone"))
            on_commit(session, hook)
            raise KeyError
    assert await names(database) == []
    assert ran == []


async def test_a_hook_runs_after_the_commit_and_sees_the_data(database):
    seen = []

    async def hook():
        seen.extend(await names(database))

    async with database.transaction() as session:
        await session.execute(things.insert().values(name="there"))
        on_commit(session, hook)
        assert seen == []
    assert seen == ["there"]


async def test_a_rollback_within_the_block_forgets_the_hooks_made_before_it_and_no_later_one(database):
    ran = []
    async with database.transaction() as session:
        on_commit(session, noting(ran, "before anything was begun"))
        await session.execute(things.insert().values(name="undone"))
        on_commit(session, noting(ran, "undone"))
        async with session.begin_nested():
            on_commit(session, noting(ran, "undone with what its savepoint was in"))
        await session.rollback()
        await session.execute(things.insert().values(name="kept"))
        on_commit(session, noting(ran, "kept"))
    assert ran == ["kept"]
    assert await names(database) == ["kept"]


async def test_a_savepoint_that_is_rolled_back_forgets_its_own_hooks_alone(database):
    ran = []
    async with database.transaction() as session:
        on_commit(session, noting(ran, "around"))
        async with session.begin_nested():
            on_commit(session, noting(ran, "released"))
        with pytest.raises(KeyError):
            async with session.begin_nested():
                on_commit(session, noting(ran, "undone"))
                async with session.begin_nested():
                    on_commit(session, noting(ran, "released into what was undone"))
                raise KeyError
        on_commit(session, noting(ran, "after"))
    assert ran == ["around", "released", "after"]


async def test_a_hook_of_what_the_block_itself_committed_survives_a_later_rollback_and_runs_at_its_end(
    database,
):
    ran = []
    async with database.transaction() as session:
        await session.execute(things.insert().values(name="committed"))
        on_commit(session, noting(ran, "committed"))
        await session.commit()
        await session.execute(things.insert().values(name="undone"))
        on_commit(session, noting(ran, "undone"))
        await session.rollback()
        assert ran == []
    assert ran == ["committed"]
    assert await names(database) == ["committed"]


async def test_a_hook_that_raises_is_logged_and_keeps_no_other_from_running(database):
    ran = []

    async def fails():
        raise KeyError("of the hook")

    with capture_logs() as logs:
        async with database.transaction() as session:
            on_commit(session, fails)
            on_commit(session, lambda: ran.append("a plain function"))
            on_commit(session, noting(ran, "the last"))
            await session.execute(things.insert().values(name="kept"))
    assert ran == ["a plain function", "the last"]
    assert await names(database) == ["kept"]
    assert "hook after commit failed" in [line["event"] for line in logs]


async def test_a_hook_that_waits_for_what_was_cancelled_keeps_no_other_from_running(database):
    ran = []
    cancelled = asyncio.get_running_loop().create_future()
    cancelled.cancel()

    async def waits():
        await cancelled

    async with database.transaction() as session:
        on_commit(session, waits)
        on_commit(session, noting(ran, "the last"))
        await session.execute(things.insert().values(name="kept"))
    assert ran == ["the last"]


@pytest.mark.parametrize("how", ["close", "reset", "invalidate"])
async def test_a_block_may_close_its_session_before_its_end(database, how):
    async with database.transaction() as session:
        await session.execute(things.insert().values(name="kept"))
        await session.commit()
        await session.execute(select(things.c.name))
        await getattr(session, how)()
    assert await names(database) == ["kept"]


async def test_hooks_run_to_their_end_where_their_caller_is_cancelled(database):
    ran, is_running, may_end = [], asyncio.Event(), asyncio.Event()

    async def slow():
        is_running.set()
        await may_end.wait()
        ran.append("slow")

    async def change():
        async with database.transaction() as session:
            await session.execute(things.insert().values(name="kept"))
            on_commit(session, slow)
            on_commit(session, noting(ran, "the one behind it"))

    caller = asyncio.create_task(change())
    await is_running.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ran == []
    may_end.set()
    await database.wait_for_hooks()
    assert ran == ["slow", "the one behind it"]


@pytest.mark.parametrize("kind", ["transaction", "read_session"])
async def test_a_session_that_was_closed_begins_nothing_anew(database, kind):
    async with getattr(database, kind)() as session:
        await session.execute(select(things.c.name))
    with pytest.raises(InvalidRequestError):
        await session.execute(select(things.c.name))
    assert [usage.in_use for usage in database.pool_usage()] == [0] * len(database.pool_usage())


def missing_file():
    Path("/nothing/here").read_bytes()


async def refused_connection():
    await asyncio.open_connection("127.0.0.1", 1)


async def own_deadline():
    async with asyncio.timeout(0.01):
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    "what", ["file", "file in run_sync", "connection", "time-out", "time-out of a statement"]
)
@pytest.mark.parametrize("kind", ["transaction", "read_session"])
async def test_what_the_block_itself_could_not_reach_is_not_told_as_the_database(database, kind, what):
    with pytest.raises(OSError) as caught:  # noqa: PT011 - FileNotFoundError, ConnectionRefusedError, TimeoutError
        async with getattr(database, kind)() as session:
            await session.execute(select(things.c.name))
            if what == "file":
                missing_file()
            elif what == "file in run_sync":
                await session.run_sync(lambda _: missing_file())
            elif what == "connection":
                await refused_connection()
            elif what == "time-out":
                await own_deadline()
            else:
                async with asyncio.timeout(0):
                    await session.execute(select(things.c.name))
    assert not isinstance(caught.value, ServiceUnavailableException)


@pytest.mark.parametrize("server", ["primary", "replica"])
async def test_the_database_refuses_writes_in_each_transaction_of_a_reading_session(
    make_settings, database_section, server
):
    section = dict(database_section)
    if server == "replica":  # a server that would write
        section["replica_url"] = section["database_url"]
    manager = DatabaseManager(make_settings(database=section))
    things.metadata.create_all(manager.engine)
    await manager.start()
    refused = 0
    async with manager.read_session() as session:
        for end in (session.rollback, session.commit, session.rollback):
            assert await session.scalar(select(things.c.name)) is None
            if manager.backend != "sqlite":  # where a savepoint takes the lock of a writer
                async with session.begin_nested():
                    assert await session.scalar(select(things.c.name)) is None
            await end()
            with pytest.raises(DBAPIError):
                await session.execute(things.insert().values(name="never"))
            refused += 1
            await session.rollback()
    assert refused == 3
    async with manager.transaction() as session:  # the connection that refused them writes again
        await session.execute(things.insert().values(name="written"))
    assert await names(manager) == ["written"]
    await manager.stop()


async def test_a_mistake_of_the_statement_is_not_taken_for_an_outage(database):
    with pytest.raises(IntegrityError):
        async with database.transaction() as session:
            await session.execute(things.insert().values(name="same"))
            await session.execute(things.insert().values(name="same"))


async def test_synchronous_sessions_see_the_same_data(database):
    async with database.transaction() as session:
        await session.execute(things.insert().values(name="shared"))
    with database.SessionLocal() as session:
        assert session.scalars(select(things.c.name)).all() == ["shared"]


async def test_a_hot_read_gives_rows_by_name_and_is_one_statement(database):
    async with database.transaction() as session:
        await session.execute(things.insert(), [{"name": "a"}, {"name": "b"}])
    by_name = Read(select(things.c.id, things.c.name).where(things.c.name == bindparam("name")).limit(1))
    everything = Read(select(things.c.name).order_by(things.c.id))
    token = counted.set(StatementCount())
    row = await by_name.one(database, name="b")
    assert row == {"id": row["id"], "name": "b"}
    assert counted.get().total == 1
    counted.reset(token)
    assert await by_name.one(database, name="nobody") is None
    assert [row["name"] for row in await everything.all(database)] == ["a", "b"]


def test_sessions_work_from_a_loop_that_was_never_started(make_settings, database_section):
    manager = DatabaseManager(make_settings(database=database_section))

    async def ask():
        async with manager.transaction() as session:
            return await session.scalar(text("select 41 + 1"))

    assert [asyncio.run(ask()) for _ in range(3)] == [42, 42, 42]


def test_a_temporary_database_is_migrated_on_first_use_and_gone_with_its_manager(make_settings):
    from pathlib import Path

    manager = DatabaseManager(make_settings())
    with manager.SessionLocal() as session:
        assert session.execute(text("select count(*) from users")).scalar() == 0
    file = Path(manager.url.removeprefix("sqlite:///"))
    assert file.exists()
    manager.engine.dispose()
    del session
    manager._remove()
    assert not file.exists()


async def test_an_unreachable_database_is_a_503_within_its_time(make_settings):
    manager = DatabaseManager(
        make_settings(
            database={"database_url": "postgresql://u:p@127.0.0.1:9/none", "connect_timeout_seconds": 1}
        )
    )
    started = time.monotonic()
    with pytest.raises(ServiceUnavailableException) as caught:
        async with manager.transaction() as session:
            await session.execute(text("select 1"))
    assert caught.value.headers["Retry-After"]
    with pytest.raises(ServiceUnavailableException):
        await Read(select(things.c.id)).one(manager)
    assert time.monotonic() - started < 5
    assert await manager.health_check() == "unhealthy"
    await manager.stop()


async def test_a_restart_of_the_server_costs_no_restart_of_ours(disposable_database, make_settings):
    manager = DatabaseManager(make_settings(database=disposable_database.section))
    await manager.start()
    one = Read(select(bindparam("x", 7, type_=Integer).label("x")))
    assert (await one.one(manager))["x"] == 7
    async with manager.transaction() as session:
        assert await session.scalar(text("select 1")) == 1
    disposable_database.stop()
    with pytest.raises(ServiceUnavailableException):
        async with manager.transaction() as session:
            await session.execute(text("select 1"))
    with pytest.raises(ServiceUnavailableException):
        await one.one(manager)
    disposable_database.start()
    if disposable_database.pooler is not None:  # it looks again after its server_login_retry
        async with asyncio.timeout(60):
            while await manager.health_check() != "healthy":
                await asyncio.sleep(0.1)
    async with manager.transaction() as session:
        assert await session.scalar(text("select 1")) == 1
    assert (await one.one(manager))["x"] == 7
    await manager.stop()


@pytest.mark.only_on(
    "postgres",
    "mariadb",
    reason="a SQLite file has no server; PgBouncer 1.18 ends where cancel requests wait for one that stands still",
)
async def test_a_server_that_stands_still_is_a_503_on_open_and_new_connections(
    disposable_database, make_settings
):
    limits = {"statement_timeout_seconds": 1, "connect_timeout_seconds": 1, "pool_size": 1, "max_overflow": 0}
    one = Read(select(bindparam("x", 7, type_=Integer).label("x")))
    manager = DatabaseManager(make_settings(database={**disposable_database.section, **limits}))
    await manager.start()
    assert (await one.one(manager))["x"] == 7
    disposable_database.freeze()
    try:
        async with asyncio.timeout(60):
            for _ in range(3):  # the first uses the open connection, the next open one
                with pytest.raises(ServiceUnavailableException):
                    async with manager.transaction() as session:
                        await session.execute(text("select 1"))
            with pytest.raises(ServiceUnavailableException):
                await one.one(manager)
    finally:
        disposable_database.thaw()
    async with asyncio.timeout(60):
        while await manager.health_check() != "healthy":
            await asyncio.sleep(0.1)
        assert (await one.one(manager))["x"] == 7
    things.metadata.create_all(manager.engine)
    with pytest.raises(ServiceUnavailableException):
        async with asyncio.timeout(60), manager.transaction() as session:
            await session.execute(text("select 1"))
            disposable_database.freeze()
            try:
                await bulk_insert(session, things, [{"name": "many"}])
            finally:
                disposable_database.thaw()
    await manager.stop()


@pytest.mark.only_on(
    "postgres", "mariadb", "pgbouncer", reason="a writer of SQLite waits 20 s for the one lock"
)
async def test_a_lock_that_is_not_had_in_time_is_a_503(make_settings, database_section):
    manager = DatabaseManager(make_settings(database={**database_section, "statement_timeout_seconds": 0.5}))
    things.metadata.create_all(manager.engine)
    await manager.start()
    async with manager.transaction() as holder:
        await holder.execute(things.insert().values(id=1, name="holds"))
        with pytest.raises(ServiceUnavailableException):
            async with manager.transaction() as session:
                await session.execute(things.insert().values(id=1, name="waits"))
    assert await names(manager) == ["holds"]
    await manager.stop()


async def test_a_manager_that_nobody_stops_closes_what_its_sessions_by_hand_opened(
    make_settings, database_section
):
    def use() -> None:
        manager = DatabaseManager(make_settings(database=database_section))
        with manager.SessionLocal() as session:
            assert session.execute(text("SELECT 1")).scalar_one() == 1

    use()
    gc.collect()  # a connection that nobody closed says so when it is found


A_SECOND_LONG = {
    "postgresql": "SELECT pg_sleep(1)",
    "mysql": "SELECT SLEEP(1)",
    "sqlite": "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 3000000) SELECT max(x) FROM n",
}


@pytest.mark.parametrize("cancels", [1, 2])
async def test_a_caller_that_is_cancelled_amid_a_statement_keeps_no_lock(database, cancels):
    async with database.transaction() as session:
        await session.execute(things.insert().values(id=1, name="before"))
    has_locked = asyncio.Event()

    async def change_and_wait():
        async with database.transaction() as session:
            await session.execute(things.update().values(name="never stored"))
            has_locked.set()
            await session.execute(text(A_SECOND_LONG[database.backend]))

    caller = asyncio.create_task(change_and_wait())
    await has_locked.wait()
    await asyncio.sleep(0.05)
    for _ in range(cancels):
        caller.cancel()
        await asyncio.sleep(0)
    async with database.transaction() as session:  # on SQLite a 503 after 20 s, if the lock were kept
        await session.execute(things.update().values(name="after"))
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert await names(database) == ["after"]


@pytest.mark.only_on("sqlite", reason="only SQLite's connections have threads")
@pytest.mark.parametrize("journal", ["wal", "delete"])
async def test_a_caller_that_is_cancelled_between_a_statement_and_its_rows_keeps_no_lock(
    database, monkeypatch, journal
):
    monkeypatch.setattr("scalable_fastapi_system.infra.database.sqlite.SQLITE_BUSY_SECONDS", 2.0)
    loop = asyncio.get_running_loop()

    def cancel():
        time.sleep(0.2)  # a busy loop: meanwhile the driver's thread has the first row, which nobody fetches
        caller.cancel()

    def cancel_soon(name):
        loop.call_soon_threadsafe(cancel)
        return name

    def configure(connection, _record):
        connection.create_function("cancel_soon", 1, cancel_soon)
        cursor = connection.cursor()  # "delete" is what there is on a file system that cannot have the other
        cursor.execute(f"PRAGMA journal_mode={journal}")
        assert cursor.fetchone() == (journal,)
        cursor.close()

    event.listen(database.async_engine.sync_engine, "connect", configure)
    async with database.transaction() as session:
        await session.execute(things.insert(), [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}])

    async def change_and_read():
        async with database.transaction() as session:
            await session.execute(things.insert().values(id=3, name="never stored"))
            await session.execute(text("SELECT cancel_soon(name) FROM things"))

    caller = asyncio.create_task(change_and_read())
    await asyncio.wait([caller])
    async with database.transaction() as session:  # a 503 after 2 s, if the lock were kept
        await session.execute(things.delete().where(things.c.id == 2))
    assert caller.cancelled()  # whose traceback has kept the statement until now
    assert await names(database) == ["a"]


@pytest.mark.only_on("sqlite", reason="only SQLite's connections have threads")
@pytest.mark.parametrize("cancels", [1, 2])
async def test_of_a_cancelled_caller_no_thread_and_no_task_is_left_to_a_closing_loop(
    make_settings, database_section, cancels
):
    threads_before = set(threading.enumerate())

    async def serve():
        manager = DatabaseManager(make_settings(database=database_section))
        await manager.start()
        caller = asyncio.create_task(ask(manager))
        await asyncio.sleep(0.05)
        for _ in range(cancels):
            caller.cancel()
            await asyncio.sleep(0)
        await asyncio.wait([caller])
        assert caller.cancelled()
        await manager.stop()
        return {
            thread.name for thread in set(threading.enumerate()) - threads_before if "worker" in thread.name
        }

    async def ask(manager):
        async with manager.transaction() as session:
            await session.execute(text(A_SECOND_LONG["sqlite"]))

    def serve_in_a_loop_of_its_own():
        return asyncio.run(serve())  # cancels what is left, and waits for it

    async with asyncio.timeout(30):
        assert await asyncio.to_thread(serve_in_a_loop_of_its_own) == set()


@pytest.mark.only_on(
    "postgres",
    "mariadb",
    "pgbouncer",
    reason="a writer of SQLite has the only lock, and deadlocks with nobody",
)
async def test_of_two_transactions_that_wait_for_each_other_one_is_undone_and_told_to_try_again(
    make_settings, database_section
):
    manager = DatabaseManager(make_settings(database=database_section))
    things.metadata.create_all(manager.engine)
    await manager.start()
    async with manager.transaction() as session:
        await session.execute(things.insert(), [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}])
    have_both = asyncio.Barrier(2)

    async def rename(first: int, second: int, name: str) -> None:
        async with manager.transaction() as session:
            for number in (first, second):
                row = things.update().where(things.c.id == number)
                await session.execute(row.values(name=f"{name}{number}"))
                if number == first:
                    await have_both.wait()

    ends = await asyncio.gather(rename(1, 2, "x"), rename(2, 1, "y"), return_exceptions=True)
    (undone,) = [end for end in ends if end is not None]
    assert isinstance(undone, ServiceUnavailableException)
    assert undone.headers == {"Retry-After": "1"}
    assert await names(manager) == (["y1", "y2"] if ends[0] is undone else ["x1", "x2"])
    await manager.stop()


@pytest.mark.only_on("postgres", "mariadb", "pgbouncer", reason="SQLite has no pool")
async def test_a_full_pool_is_a_503_and_not_an_endless_wait(make_settings, database_section):
    manager = DatabaseManager(
        make_settings(
            database={
                **database_section,
                "pool_size": 1,
                "max_overflow": 0,
                "pool_timeout_seconds": 0.2,
            }
        )
    )
    await manager.start()
    async with manager.transaction() as session:
        await session.execute(text("select 1"))
        with pytest.raises(ServiceUnavailableException):
            async with manager.transaction() as other:
                await other.execute(text("select 1"))
    await manager.stop()


@pytest.mark.only_on("postgres", reason="the parameters are libpq's")
@pytest.mark.databases("postgres")
@pytest.mark.parametrize(
    "parameters",
    [
        "sslmode=prefer&sslrootcert=/nowhere.pem",
        "sslmode=disable&channel_binding=prefer&connect_timeout=3&keepalives_idle=30&gssencmode=disable",
        "application_name=shop&options=-csearch_path%3Dpublic&target_session_attrs=any",
    ],
)
async def test_a_url_with_libpqs_parameters_leads_every_driver_to_the_server(
    make_settings, database_section, parameters
):
    url = f"{database_section['database_url']}?{parameters}"
    manager = DatabaseManager(make_settings(database={**database_section, "database_url": url}))
    await manager.start()
    shown = "SELECT current_setting('application_name')"
    async with manager.transaction() as session:
        names_seen = [await session.scalar(text(shown))]
    names_seen.append(await (await manager.asyncpg_pool()).fetchval(shown))
    with manager.SessionLocal() as session:
        names_seen.append(session.scalar(text(shown)))
    await manager.stop()
    assert names_seen == ["shop" if "shop" in parameters else ""] * 3


@pytest.mark.only_on(
    "sqlite",
    "postgres",
    "mariadb",
    reason="PgBouncer 1.18 ends at times where queries are cancelled under load",
)
async def test_a_loop_over_the_database_ends_wherever_its_cancel_meets_it(database):
    """A driver may lose a cancel that meets the answer; asyncmy on Python 3.11 loses one of six."""

    async def look():
        while True:
            await names(database)
            await asyncio.sleep(0.001)

    for number in range(60):
        looking = asyncio.create_task(look())
        await asyncio.sleep(0.0003 * (number % 20))
        await end_tasks([looking])
        assert looking.cancelled()
