"""Every database that the platform supports, each by a real server, and PostgreSQL through a pooler too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hack.dev.postgres import Postgres
    from tests.support.stores import Stores


@pytest.fixture
def database_section(empty_database_section: dict[str, Any]) -> dict[str, Any]:
    """The suite makes its own tables."""
    return empty_database_section


@pytest.fixture
def standby(disposable_postgres: Postgres, stores: Stores) -> Iterator[Postgres]:
    """A second server that follows `disposable_postgres` by streaming replication."""
    server = stores.standby_of(disposable_postgres)
    yield server
    server.discard()
