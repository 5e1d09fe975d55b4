"""The databases that a suite runs on: the settings that lead to a fresh one, and a server of a test's own to disturb."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from hack.dev.errors import DevError
from hack.dev.postgres import APP_ROLE, Postgres
from hack.dev.processes import wait_until
from tests.support import mariadb, pgbouncer
from tests.support.mariadb import MariaDB
from tests.support.pgbouncer import PgBouncer
from tests.support.stores import Stores

DATABASES = ("sqlite", "postgres", "mariadb", "pgbouncer")
_POOLER_SECONDS = 30.0


def find_missing_programs(kind: str | None) -> str | None:
    """What to install for a run on this kind; None where everything is there."""
    if kind == "mariadb" and mariadb.find_programs() is None:
        return mariadb.MISSING
    if kind == "pgbouncer" and pgbouncer.find_pgbouncer() is None:
        return pgbouncer.MISSING
    return None


def section_for(
    kind: str, request: pytest.FixtureRequest, stores: Stores, folder: Path, *, is_migrated: bool
) -> dict[str, Any]:
    """The settings of `database` for one of `DATABASES`, fresh. A SQLite file is made in the folder.

    Skips where the server of that kind is not installed.
    """
    if kind == "sqlite":
        file = stores.new_sqlite_file(folder, is_migrated=is_migrated)
        return {"database_url": f"sqlite:///{file}"}
    if kind == "mariadb":
        return {
            "database_url": request.getfixturevalue("mariadb_url" if is_migrated else "empty_mariadb_url")
        }
    url = request.getfixturevalue("postgres_url" if is_migrated else "empty_postgres_url")
    if kind == "pgbouncer":
        return _pooled(request.getfixturevalue("pgbouncer"), url)
    return {"database_url": url}


def environment_of(section: dict[str, Any]) -> dict[str, str]:
    """The section as the variables that a service's process reads."""
    return {f"DATABASE__{name.upper()}": str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in section.items()}  # fmt: skip


class DisposableDatabase:
    """A server of one kind that a test may stop, kill and freeze; a pooler before it lives on."""

    def __init__(self, server: Postgres | MariaDB, *, pooler: PgBouncer | None = None) -> None:
        self.server = server
        self.pooler = pooler

    @property
    def section(self) -> dict[str, Any]:
        """The settings `database` that lead to its database with the product's schema."""
        url = self.server.url(APP_ROLE)
        return {"database_url": url} if self.pooler is None else _pooled(self.pooler, url)

    @property
    def environment(self) -> dict[str, str]:
        """The section as variables of a process."""
        return environment_of(self.section)

    def start(self) -> None:
        """Starts it and waits until it answers, through the pooler too: that one tries it again only now and then."""
        self.server.start()
        if self.pooler is not None:
            url = str(self.section["database_url"])
            if not wait_until(lambda: _answers(url), timeout_seconds=_POOLER_SECONDS):
                raise DevError("PgBouncer does not find the server again", log=self.pooler.log_tail())

    def stop(self) -> None:
        """A clean shutdown."""
        self.server.stop()

    def kill(self) -> None:
        """SIGKILL."""
        self.server.kill()

    def freeze(self) -> None:
        """It stands still, its connections open."""
        self.server.child.freeze()

    def thaw(self) -> None:
        """It goes on."""
        self.server.child.thaw()

    def discard(self) -> None:
        """Ends it and removes its data."""
        if self.pooler is not None:
            self.pooler.discard()
        self.server.discard()


def disposable_for(kind: str, stores: Stores) -> DisposableDatabase:
    """A running server of that kind; skips for SQLite, and where the program is not installed."""
    if kind == "sqlite":
        pytest.skip("SQLite is a file: there is no server to stop")
    if missing := find_missing_programs(kind):
        pytest.skip(missing)
    if kind == "mariadb":
        programs = mariadb.find_programs()
        assert programs is not None
        return DisposableDatabase(stores.disposable_mariadb(programs))
    server = stores.disposable_postgres()
    if kind == "postgres":
        return DisposableDatabase(server)
    program = pgbouncer.find_pgbouncer()
    assert program is not None
    return DisposableDatabase(
        server, pooler=stores.new_pgbouncer(program, pool_size=2, server_url=server.url())
    )


def _pooled(pooler: PgBouncer, url: str) -> dict[str, Any]:
    name = urlsplit(url).path.lstrip("/")
    return {"database_url": pooler.url(name), "prepared_statements": False}


def _answers(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=5) as connection:
            connection.execute("SELECT 1")  # the pooler lets clients in without asking the server
    except psycopg.OperationalError:
        return False
    return True
