"""Many rows at once: COPY on PostgreSQL, many-row INSERTs elsewhere, the same for whoever calls it."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from scalable_fastapi_system.identity.models import User
from scalable_fastapi_system.infra.database import (
    DatabaseManager,
    JSONColumn,
    Read,
    UTCDateTime,
    bulk_insert,
)
from scalable_fastapi_system.infra.database.observe import StatementCount, counted
from scalable_fastapi_system.infra.settings import Settings
from sqlalchemy import (
    Boolean,
    Column,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    String,
    Table,
    Uuid,
    func,
    select,
)
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from tests.support.databases import section_for
from tests.support.stores import Stores

pytestmark = pytest.mark.databases("sqlite", "postgres", "mariadb", "pgbouncer")

tables = MetaData()
things = Table(
    "things",
    tables,
    Column("id", Integer, primary_key=True),
    Column("key", Uuid, default=uuid4),
    Column("name", String(50), unique=True),
    Column("label", String(60), default=lambda context: context.get_current_parameters()["name"].upper()),
    Column("kind", String(10), default="plain"),
    Column("state", String(10), server_default="new"),
    Column("amount", Numeric(10, 2)),
    Column("is_good", Boolean),
    Column("data", LargeBinary),
    Column("facts", JSONColumn()),
    Column("at", UTCDateTime()),
)
stamped = Table(
    "stamped",
    tables,
    Column("id", Integer, primary_key=True),
    Column("at", UTCDateTime(), default=func.now()),
)


@pytest.fixture
async def database(
    make_settings: Callable[..., Settings], database_section: dict[str, Any]
) -> AsyncIterator[DatabaseManager]:
    manager = DatabaseManager(make_settings(database=database_section))
    tables.create_all(manager.engine)
    await manager.start()
    yield manager
    await manager.stop()


async def count(database: DatabaseManager) -> int:
    async with database.transaction() as session:
        return int((await session.execute(select(func.count()).select_from(things))).scalar_one())


def row(number: int) -> dict[str, Any]:
    return {"name": f"n{number}", "facts": {"number": number}}


async def test_every_kind_of_value_and_default_is_stored_as_an_insert_would(
    database: DatabaseManager,
) -> None:
    at = datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
    given: dict[str, Any] = {
        "amount": Decimal("12.50"),
        "is_good": True,
        "data": b"\x00\xff\\N\n\t",
        "facts": {"a": [1, None, "é"]},
        "at": at,
    }
    async with database.transaction() as session:
        stored = await bulk_insert(session, things, [{"name": "a\tb\\N\né", **given}])
        assert stored == 1
        await session.execute(things.insert(), [{"name": "by insert", **given}])
    async with database.transaction() as session:
        copied, inserted = (await session.execute(select(things).order_by(things.c.id))).mappings().all()
    assert isinstance(copied["key"], UUID)
    assert copied["name"] == "a\tb\\N\né"
    assert copied["label"] == "A\tB\\N\nÉ"
    assert copied["at"] == at.astimezone(UTC)
    same = {name: copied[name] for name in copied if name not in {"id", "key", "name", "label"}}
    assert same == {name: inserted[name] for name in same}
    assert same["kind"] == "plain"
    assert same["state"] == "new"


async def test_rows_come_from_a_generator_in_batches(database: DatabaseManager) -> None:
    async def rows() -> AsyncIterator[dict[str, Any]]:
        for number in range(2500):
            yield row(number)

    async with database.transaction() as session:
        await session.execute(select(1))
        token = counted.set(StatementCount())
        assert await bulk_insert(session, things, rows(), batch_size=1000) == 2500
        asked = counted.get()
        counted.reset(token)
        assert asked is not None
        verb = "COPY" if database.backend == "postgresql" else "INSERT"
        assert len([one for one in asked.statements if one.startswith(verb)]) == 3
    assert await count(database) == 2500


async def test_memory_is_that_of_a_batch_whatever_the_number_of_rows(database: DatabaseManager) -> None:
    def rows(number_of_rows: int) -> Iterator[dict[str, Any]]:
        for _ in range(number_of_rows):
            yield {"name": str(uuid4()), "data": b"x" * 1000, "facts": None}

    async def peak_of(number_of_rows: int) -> int:
        tracemalloc.start()
        async with database.transaction() as session:
            await bulk_insert(session, things, rows(number_of_rows), batch_size=200)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    await peak_of(400)  # what the first use loads
    small, large = await peak_of(400), await peak_of(8000)
    assert large < small + 2_000_000  # twenty times the rows are 8 MB of values


async def test_what_is_rolled_back_is_gone_and_what_came_before_goes_with_it(
    database: DatabaseManager,
) -> None:
    with pytest.raises(KeyError):
        async with database.transaction() as session:
            await bulk_insert(session, things, [row(1)])
            raise KeyError
    assert await count(database) == 0


async def test_no_row_is_no_statement_that_fails(database: DatabaseManager) -> None:
    async with database.transaction() as session:
        assert await bulk_insert(session, things, []) == 0


async def test_a_row_that_a_constraint_refuses_is_an_integrity_error_and_nothing_is_stored(
    database: DatabaseManager,
) -> None:
    with pytest.raises(IntegrityError):
        async with database.transaction() as session:
            await bulk_insert(session, things, [row(1), row(2), row(1)])
    assert await count(database) == 0
    async with database.transaction() as session:  # the pool's connection is as good as before
        assert await bulk_insert(session, things, [row(1)]) == 1


async def test_rows_and_columns_that_do_not_fit_are_named(database: DatabaseManager) -> None:
    async with database.transaction() as session:
        with pytest.raises(ValueError, match="things has no column 'nam'"):
            await bulk_insert(session, things, [{"nam": "a"}])
        with pytest.raises(ValueError, match="row 3 names other columns"):
            await bulk_insert(
                session, things, [{"name": "a"}, {"name": "b"}, {"name": "c", "kind": "d"}], batch_size=2
            )
        await session.rollback()


async def test_a_value_of_the_wrong_kind_is_the_databases_refusal(database: DatabaseManager) -> None:
    if database.backend == "sqlite":
        pytest.skip("SQLite stores any kind of value in any column")
    with pytest.raises(DBAPIError) as raised:
        async with database.transaction() as session:
            await bulk_insert(session, things, [{"name": "a", "amount": "not a number"}])
    if database.backend == "postgresql":
        assert isinstance(raised.value, DataError)
    assert await count(database) == 0


async def test_a_default_that_only_the_database_can_make_is_asked_for(database: DatabaseManager) -> None:
    async with database.transaction() as session:
        if database.backend == "postgresql":
            with pytest.raises(ValueError, match=r"stamped\.at has an SQL expression"):
                await bulk_insert(session, stamped, [{"id": 1}])
        assert await bulk_insert(session, stamped, [{"id": 1, "at": datetime.now(UTC)}]) == 1


async def test_a_mapped_class_takes_rows_with_its_columns_defaults(
    database_kind: str,
    request: pytest.FixtureRequest,
    stores: Stores,
    make_settings: Callable[..., Settings],
    tmp_path: Path,
) -> None:
    section = section_for(database_kind, request, stores, tmp_path, is_migrated=True)
    database = DatabaseManager(make_settings(database=section))
    await database.start()
    async with database.transaction() as session:
        session.add(User(username="Before", email="before@example.com"))
        users: list[dict[str, Any]] = [
            {
                "username": f"User{number}",
                "email": f"User{number}@Example.com",
                "hashed_password": "",
                "is_active": True,
            }
            for number in range(50)
        ]
        assert await bulk_insert(session, User, users) == 50
    found = Read(
        select(*User.__table__.c).where(User.__table__.c.username_key == "user7")  # type: ignore[attr-defined]
    )
    user = await found.one(database)
    assert user is not None
    assert user["email"] == "user7@example.com"
    assert user["created_at"].tzinfo is not None
    await database.stop()
