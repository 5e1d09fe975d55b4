"""The product on SQLite and on Postgres. No worker runs, so jobs stay where they were put."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from scalable_fastapi_system.infra.settings import Settings

from tests.integration.domains.conftest import Owner, System, running


@pytest.fixture(params=["sqlite", "postgres"])
async def system(
    request: pytest.FixtureRequest, tmp_path: Path, make_settings: Callable[..., Settings]
) -> AsyncIterator[System]:
    sections: dict[str, Any] = {
        "database": {"database_url": "sqlite://"},
        "jobs": {"mode": "worker"},
        "storage": {"url": f"file://{tmp_path / 'files'}"},
        "rate_limit": {"enabled": False},
    }
    if request.param == "postgres":
        sections["database"] = {"database_url": request.getfixturevalue("postgres_url")}
        sections["redis"] = {"redis_url": request.getfixturevalue("redis_url")}
    async with running(make_settings(**sections)) as system:
        yield system


@pytest.fixture
async def owner(system: System) -> Owner:
    return await system.owner()
