"""The product on each kind of database. No worker runs, so jobs stay where they were put."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from scalable_fastapi_system.infra.settings import Settings

from tests.integration.domains.conftest import Owner, System, running


@pytest.fixture
async def system(
    database_kind: str,
    database_section: dict[str, Any],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    make_settings: Callable[..., Settings],
) -> AsyncIterator[System]:
    sections: dict[str, Any] = {
        "database": database_section,
        "jobs": {"mode": "worker"},
        "storage": {"url": f"file://{tmp_path / 'files'}"},
        "rate_limit": {"enabled": False},
    }
    if database_kind != "sqlite":
        sections["redis"] = {"redis_url": request.getfixturevalue("redis_url")}
    async with running(make_settings(**sections)) as system:
        yield system


@pytest.fixture
async def owner(system: System) -> Owner:
    return await system.owner()
