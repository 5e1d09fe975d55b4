"""The readiness check sees where a schema is as Alembic does, without Alembic."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from domains.registry import PRODUCT
from scalable_fastapi_system.infra.database import DatabaseManager
from scalable_fastapi_system.infra.database.migrate import Migrator
from scalable_fastapi_system.infra.database.schema_state import (
    PLATFORM_MIGRATIONS,
    read_revisions,
    schema_state,
    versions_folder,
)
from scalable_fastapi_system.infra.settings import Settings
from sqlalchemy import text

pytestmark = pytest.mark.databases("sqlite", "postgres", "mariadb", "pgbouncer")

# In a process of its own: this one has imported everything.
PROGRAM = """
import asyncio, json, sys
from scalable_fastapi_system.infra.database import DatabaseManager
from scalable_fastapi_system.infra.health import Readiness
from scalable_fastapi_system.infra.settings import load_settings

async def main():
    database = DatabaseManager(load_settings())
    reason = await Readiness(database).reason_not_ready()
    await database.stop()
    print(json.dumps({"reason": reason, "loaded": [name for name in ("alembic", "psycopg") if name in sys.modules]}))

asyncio.run(main())
"""


@pytest.fixture
async def database(make_settings: Callable[..., Settings], database_section: dict[str, Any]):
    assert PRODUCT.migrations is not None
    made = DatabaseManager(make_settings(database=database_section), migrations=(PRODUCT.migrations,))
    yield made
    await made.stop()


async def test_it_agrees_with_alembic_wherever_the_schema_is(database: DatabaseManager) -> None:
    migrator = Migrator(database)

    async def seen() -> str:
        assert await schema_state(database) == migrator.status().state
        return await schema_state(database)

    assert await seen() == "empty"
    migrator.upgrade()
    assert await seen() == "current"
    migrator.downgrade("platform@-1")
    assert await seen() == "behind"
    migrator.upgrade()
    with migrator._engine.begin() as connection:
        connection.execute(
            text("UPDATE alembic_version SET version_num = 'p9999' WHERE version_num LIKE 'p%'")
        )
    assert await seen() == "ahead"


def test_it_reads_the_revisions_that_alembic_loads(make_settings: Callable[..., Settings]) -> None:
    assert PRODUCT.migrations is not None
    settings = make_settings(database={"database_url": "sqlite://"})
    scripts = Migrator(DatabaseManager(settings, migrations=(PRODUCT.migrations,)))._scripts()
    read = read_revisions(versions_folder(name) for name in (PLATFORM_MIGRATIONS, PRODUCT.migrations))
    assert read.known == {script.revision for script in scripts.walk_revisions()}
    assert read.heads == set(scripts.get_heads())


def test_it_reads_merges_and_files_without_annotations(tmp_path: Path) -> None:
    for name, lines in {
        "a.py": 'revision = "a"\ndown_revision = None\n',
        "b.py": 'revision: str = "b"\ndown_revision: str | None = "a"\n',
        "c.py": "revision = 'c'\ndown_revision = ('b', 'd')\n",
        "d.py": 'revision = "d"\ndown_revision = "a"\n',
        "__init__.py": 'revision = "no"\n',
        "_e.py": 'revision = "e"\ndown_revision = "c"\n',
        "shared.py": "columns = []\n",
    }.items():
        (tmp_path / name).write_text(lines)
    read = read_revisions([tmp_path])
    assert (read.known, read.heads) == ({"a", "b", "c", "d", "e"}, {"e"})


def test_a_revision_that_is_no_literal_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("revision = make()\n")
    with pytest.raises(ValueError, match="malformed"):
        read_revisions([tmp_path])


@pytest.mark.only_on("postgres", reason="the driver that is not loaded is psycopg")
def test_a_service_that_is_ready_has_loaded_neither_alembic_nor_its_driver(postgres_url: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"DATABASE__DATABASE_URL": postgres_url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == {"reason": None, "loaded": []}
