"""Every database that the platform supports, each by a real server, and PostgreSQL through a pooler too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from hack.dev.postgres import Postgres
    from tests.support.stores import Stores

DATABASES = ("sqlite", "postgresql", "mariadb", "pgbouncer")


def section_for(kind: str, request: pytest.FixtureRequest, tmp_path: Path, *, is_migrated: bool) -> Any:
    """The settings of `database` for one of `DATABASES`; a SQLite file is always empty."""
    if kind == "sqlite":
        return {"database_url": f"sqlite:///{tmp_path / 'a.db'}"}
    if kind == "mariadb":
        name = "mariadb_url" if is_migrated else "empty_mariadb_url"
        return {"database_url": request.getfixturevalue(name)}
    url = request.getfixturevalue("postgres_url" if is_migrated else "empty_postgres_url")
    if kind == "pgbouncer":
        pooler = request.getfixturevalue("pgbouncer")
        return {
            "database_url": pooler.url(urlsplit(url).path.lstrip("/")),
            "prepared_statements": False,
        }
    return {"database_url": url}


@pytest.fixture(params=DATABASES)
def database_section(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Settings of an empty database of each kind."""
    section: dict[str, Any] = section_for(request.param, request, tmp_path, is_migrated=False)
    return section


@pytest.fixture
def standby(disposable_postgres: Postgres, stores: Stores) -> Iterator[Postgres]:
    """A second server that follows `disposable_postgres` by streaming replication."""
    server = stores.standby_of(disposable_postgres)
    yield server
    server.discard()
