"""Every database that the platform supports, each by a real server, and PostgreSQL through a pooler too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.databases import DATABASES, section_for

if TYPE_CHECKING:
    from hack.dev.postgres import Postgres
    from tests.support.stores import Stores


@pytest.fixture(params=DATABASES)
def database_section(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Settings of an empty database of each kind."""
    return section_for(request.param, request, tmp_path, is_migrated=False)


@pytest.fixture
def standby(disposable_postgres: Postgres, stores: Stores) -> Iterator[Postgres]:
    """A second server that follows `disposable_postgres` by streaming replication."""
    server = stores.standby_of(disposable_postgres)
    yield server
    server.discard()
