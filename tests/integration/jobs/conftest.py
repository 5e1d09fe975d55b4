"""A lab on each kind of store: PostgreSQL with hints by Redis, PostgreSQL alone, SQLite; where a module asks, more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.jobs import JobRegistry

from tests.integration.jobs.harness import Lab, running_lab
from tests.support.databases import section_for
from tests.support.stores import Stores

FAST = {
    "heartbeat_seconds": 0.1,
    "reconcile_seconds": 0.1,
    "poll_seconds": 0.2,
    "lease_seconds": 1.0,
    "drain_seconds": 0.5,
}


LABS = ("postgres+redis", "postgres", "sqlite")
ALL_LABS = (*LABS, "pgbouncer+redis", "pgbouncer", "mariadb+redis", "mariadb")
# Without Redis nothing wakes a worker there: MariaDB has no LISTEN, and through the pooler nothing is heard. It polls.
WAKING_LABS = tuple(lab for lab in ALL_LABS if lab not in {"pgbouncer", "mariadb"})


@pytest.fixture
def registry() -> JobRegistry:
    return JobRegistry()


@pytest.fixture
def job_settings(
    make_settings: Callable[..., Settings], database_section: dict[str, Any], redis_url: str
) -> Settings:
    """The database and Redis, with short intervals."""
    return make_settings(database=database_section, redis={"redis_url": redis_url}, jobs=FAST)


@pytest.fixture
async def lab(job_settings: Settings, registry: JobRegistry) -> AsyncIterator[Lab]:
    async with running_lab(job_settings, registry) as lab:
        yield lab


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module runs on `LABS`, or on those that it names so; with `--database` on all of that database.

    A test's mark `labs` names those that it can run on at all.
    """
    if "any_lab" not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker("labs")
    chosen = metafunc.config.getoption("--database")
    labs = mark.args if mark else ALL_LABS if chosen else getattr(metafunc.module, "LABS", LABS)
    if chosen:
        labs = [lab for lab in labs if lab.partition("+")[0] == chosen]
    metafunc.parametrize("any_lab", labs, indirect=True)


@pytest.fixture
async def any_lab(
    request: pytest.FixtureRequest,
    make_settings: Callable[..., Settings],
    registry: JobRegistry,
    stores: Stores,
    tmp_path: Path,
) -> AsyncIterator[Lab]:
    """Every way to run jobs: a kind of database, `+redis` where Redis carries the hints."""
    kind, _, hints = request.param.partition("+")
    sections: dict[str, Any] = {"database": section_for(kind, request, stores, tmp_path, is_migrated=True)}
    if hints:
        sections["redis"] = {"redis_url": request.getfixturevalue("redis_url")}
    settings = make_settings(jobs=FAST, **sections)
    async with running_lab(settings, registry) as lab:
        yield lab
