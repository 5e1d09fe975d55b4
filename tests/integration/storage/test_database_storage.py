"""What only the database's storage has: connections, chunks, and what a crash leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from scalable_fastapi_system.infra.database import DatabaseManager
from scalable_fastapi_system.infra.storage import FileStorage, StorageError
from scalable_fastapi_system.infra.storage.database import CHUNK_BYTES, DatabaseStorage
from scalable_fastapi_system.infra.storage.tables import stored_file_chunks, stored_files
from sqlalchemy import func, select

pytestmark = pytest.mark.databases("sqlite", "postgres", "mariadb", "pgbouncer")

LARGE = b"0123456789" * 300_000  # six chunks


class MovedClock:
    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 100_000):
        yield data[start : start + 100_000]


async def counts(database: DatabaseManager) -> tuple[int, int]:
    """Rows of files and of chunks."""
    async with database.transaction() as session:
        files = (await session.execute(select(func.count()).select_from(stored_files))).scalar_one()
        chunks = (await session.execute(select(func.count()).select_from(stored_file_chunks))).scalar_one()
    return files, chunks


@pytest.fixture
async def database(
    database_section: dict[str, Any], make_database: Callable[..., DatabaseManager]
) -> DatabaseManager:
    database = make_database(database_section)
    await database.start()
    return database


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
def storage(database: DatabaseManager, clock: MovedClock) -> FileStorage:
    return DatabaseStorage(database.settings, database, clock)


@pytest.mark.databases("postgres")
@pytest.mark.only_on("postgres", "mariadb", "pgbouncer", reason="SQLite has no pool")
async def test_neither_a_slow_writer_nor_a_slow_reader_holds_a_connection(
    database_section: dict[str, Any], make_database: Callable[..., DatabaseManager]
) -> None:
    database = make_database(database_section)
    await database.start()
    storage = DatabaseStorage(database.settings, database)
    waits, goes_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield LARGE
        waits.set()
        await goes_on.wait()
        yield LARGE

    upload = asyncio.create_task(storage.put("slow", slow()))
    await waits.wait()
    async with asyncio.timeout(30):  # a connection that is held is held until the upload goes on
        while database.pool_status()["checked_out"]:
            await asyncio.sleep(0.05)
    goes_on.set()
    await upload

    reader = storage.open("slow")
    await anext(reader)
    assert database.pool_status()["checked_out"] == 0
    await reader.aclose()


async def test_a_file_takes_as_many_chunks_as_it_needs_and_leaves_none(
    storage: FileStorage, database: DatabaseManager
) -> None:
    await storage.put("a", pieces(LARGE))
    assert await counts(database) == (1, -(-len(LARGE) // CHUNK_BYTES))
    await storage.put("a", pieces(b"shorter"))
    assert await counts(database) == (1, 1)
    await storage.delete("a")
    assert await counts(database) == (0, 0)


async def test_more_chunks_than_one_transaction_deletes_go_too(
    storage: FileStorage, database: DatabaseManager
) -> None:
    await storage.put("a", pieces(b"x" * (CHUNK_BYTES * 130)))
    assert await counts(database) == (1, 130)
    await storage.delete("a")
    assert await counts(database) == (0, 0)


async def test_what_a_crashed_writer_left_is_collected_by_its_age(
    storage: FileStorage, database: DatabaseManager, clock: MovedClock
) -> None:
    await storage.put("kept", pieces(LARGE))
    crashed = DatabaseStorage(database.settings, database, clock)

    async def no_clean_up(_file_id: object) -> None:
        """The process died here."""

    crashed._clean_up = no_clean_up  # type: ignore[method-assign,assignment]

    async def dying() -> AsyncIterator[bytes]:
        yield LARGE
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await crashed.put("lost", dying())
    with_remains = await counts(database)
    assert with_remains > (1, 6)

    assert await storage.delete_incomplete(older_than_seconds=3600) == 0
    assert await counts(database) == with_remains
    clock.ahead = timedelta(hours=2)
    assert await storage.delete_incomplete(older_than_seconds=3600) == 1
    assert await counts(database) == (1, 6)


async def test_a_writer_that_was_given_up_stops_when_it_wakes(
    storage: FileStorage, database: DatabaseManager, clock: MovedClock
) -> None:
    sleeps, goes_on = asyncio.Event(), asyncio.Event()

    async def sleeping() -> AsyncIterator[bytes]:
        yield LARGE
        sleeps.set()  # who asks for more has written all but the last chunks of what it got
        await goes_on.wait()
        yield LARGE

    upload = asyncio.create_task(storage.put("a", sleeping()))
    await sleeps.wait()
    clock.ahead = timedelta(hours=2)
    assert await storage.delete_incomplete(older_than_seconds=3600) == 1
    goes_on.set()

    with pytest.raises(StorageError, match="given up"):
        await upload
    assert await counts(database) == (0, 0)


async def test_the_type_and_the_digest_are_kept(storage: FileStorage) -> None:
    stored = await storage.put("a", pieces(LARGE), content_type="text/csv")

    found = await storage.stat("a")
    assert (found.content_type, found.sha256) == ("text/csv", stored.sha256)
