"""The tables as the code declares them are those that the migrations make, and the migrations can be taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from scalable_fastapi_system.infra.database import DatabaseManager, metadata
from scalable_fastapi_system.infra.database.migrate import Migrator
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.jobs import tables
from sqlalchemy import inspect

pytestmark = pytest.mark.databases("sqlite", "postgres", "mariadb", "pgbouncer")

TABLES = {
    table.name
    for table in vars(tables).values()
    if getattr(table, "metadata", None) is metadata and hasattr(table, "columns")
}


@pytest.fixture
def database(
    make_settings: Callable[..., Settings], empty_database_section: dict[str, Any]
) -> Iterator[DatabaseManager]:
    database = DatabaseManager(make_settings(database=empty_database_section))
    yield database
    database.engine.dispose()


def test_declared_and_migrated_tables_are_the_same(database: DatabaseManager) -> None:
    assert "jobs" in TABLES
    Migrator(database).upgrade()
    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"compare_type": True, "include_object": _only_ours},
        )
        differences = compare_metadata(context, metadata)
    assert differences == []


def test_the_migration_can_be_taken_back(database: DatabaseManager) -> None:
    migrator = Migrator(database)
    migrator.upgrade()
    migrator.downgrade("p0001")
    with database.engine.connect() as connection:
        assert not TABLES & set(inspect(connection).get_table_names())
    migrator.upgrade()
    with database.engine.connect() as connection:
        assert set(inspect(connection).get_table_names()) >= TABLES


def _only_ours(thing: object, name: str | None, kind: str, _reflected: bool, _to: object) -> bool:
    # The indexes of `jobs` are made by hand in the migration: on PostgreSQL each is partial.
    if kind == "table":
        return name in TABLES
    return kind != "index" or (getattr(thing, "table", None) is not tables.jobs and _table(thing) != "jobs")


def _table(index: object) -> str | None:
    return getattr(getattr(index, "table", None), "name", None)
