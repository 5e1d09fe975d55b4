"""A lab on each kind of store: PostgreSQL with hints by Redis, PostgreSQL alone, SQLite."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from scalable_fastapi_system.infra.database.manager import DatabaseManager
from scalable_fastapi_system.infra.database.migrate import Migrator
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.jobs import JobRegistry

from tests.integration.jobs.harness import Lab, running_lab

FAST = {
    "heartbeat_seconds": 0.1,
    "reconcile_seconds": 0.1,
    "poll_seconds": 0.2,
    "lease_seconds": 1.0,
    "drain_seconds": 0.5,
}


@pytest.fixture
def registry() -> JobRegistry:
    return JobRegistry()


@pytest.fixture
def job_settings(make_settings: Callable[..., Settings], postgres_url: str, redis_url: str) -> Settings:
    """PostgreSQL and Redis, with short intervals."""
    return make_settings(database={"database_url": postgres_url}, redis={"redis_url": redis_url}, jobs=FAST)


@pytest.fixture
async def lab(job_settings: Settings, registry: JobRegistry) -> AsyncIterator[Lab]:
    async with running_lab(job_settings, registry) as lab:
        yield lab


@pytest.fixture(params=["postgres+redis", "postgres", "sqlite"])
async def any_lab(
    request: pytest.FixtureRequest,
    make_settings: Callable[..., Settings],
    registry: JobRegistry,
    tmp_path: Path,
) -> AsyncIterator[Lab]:
    """Every way to run jobs."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'jobs.db'}"
        settings = make_settings(database={"database_url": url}, jobs=FAST)
        migrate(settings)
    elif request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
        settings = make_settings(database={"database_url": url}, jobs=FAST)
    else:
        settings = request.getfixturevalue("job_settings")
    async with running_lab(settings, registry) as lab:
        yield lab


def migrate(settings: Settings) -> None:
    """Brings a SQLite file to the newest schema."""
    database = DatabaseManager(settings)
    try:
        Migrator(database).upgrade()
    finally:
        database.engine.dispose()
