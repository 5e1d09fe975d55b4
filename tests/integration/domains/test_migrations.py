"""The product's migrations: the schema that they make is that of the models, and they go back as they came."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from domains.registry import PRODUCT
from scalable_fastapi_system.infra.database import DatabaseManager, metadata
from scalable_fastapi_system.infra.database.migrate import Migrator
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.infra.storage import tables
from sqlalchemy import inspect

pytestmark = pytest.mark.databases("sqlite", "postgres", "mariadb", "pgbouncer")

OURS = {"datasets", tables.stored_files.name, tables.stored_file_chunks.name}


@pytest.fixture
def migrator(
    empty_database_section: dict[str, Any], make_settings: Callable[..., Settings]
) -> Iterator[Migrator]:
    assert PRODUCT.migrations is not None
    database = DatabaseManager(
        make_settings(database=empty_database_section), migrations=(PRODUCT.migrations,)
    )
    yield Migrator(database)
    database.engine.dispose()


def test_models_and_migrations_agree(migrator: Migrator) -> None:
    PRODUCT.load_models()
    migrator.upgrade()

    options = {
        "compare_type": True,
        "include_name": lambda name, kind, _parents: kind != "table" or name in OURS,
        "include_object": lambda thing, name, kind, _reflected, _other: kind != "table" or name in OURS,
    }
    with migrator._database.engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
    assert found == []


def test_the_products_tables_go_and_come_back(migrator: Migrator) -> None:
    migrator.upgrade()
    migrator.downgrade("product@base")
    with migrator._database.engine.connect() as connection:
        assert "datasets" not in inspect(connection).get_table_names()
        assert "users" in inspect(connection).get_table_names()
    assert migrator.upgrade().state == "current"
    migrator.downgrade("platform@p0002")
    with migrator._database.engine.connect() as connection:
        assert not OURS - {"datasets"} & set(inspect(connection).get_table_names())
    assert migrator.upgrade().state == "current"
