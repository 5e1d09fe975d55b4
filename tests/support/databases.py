"""The databases that a suite runs on, each as the settings that lead to a fresh one."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

DATABASES = ("sqlite", "postgres", "mariadb", "pgbouncer")


def section_for(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, *, is_migrated: bool
) -> dict[str, Any]:
    """The settings of `database` for one of `DATABASES`; a SQLite file is always empty.

    Skips where the server of that kind is not installed.
    """
    if kind == "sqlite":
        return {"database_url": f"sqlite:///{tmp_path / 'a.db'}"}
    if kind == "mariadb":
        return {
            "database_url": request.getfixturevalue("mariadb_url" if is_migrated else "empty_mariadb_url")
        }
    url = request.getfixturevalue("postgres_url" if is_migrated else "empty_postgres_url")
    if kind == "pgbouncer":
        name = urlsplit(url).path.lstrip("/")
        return {"database_url": request.getfixturevalue("pgbouncer").url(name), "prepared_statements": False}
    return {"database_url": url}
