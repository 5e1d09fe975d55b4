"""A deploy rolls: a worker process of the old version and one of the new side by side, and no job suffers by it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.jobs import JobCall, JobState, call
from scalable_fastapi_system.jobs.tables import job_attempts
from sqlalchemy import select, text

from tests.integration.jobs.conftest import FAST
from tests.integration.jobs.harness import Lab, running_lab
from tests.integration.jobs.rolling_worker import registry_of

REPOSITORY = Path(__file__).parents[3]
PATIENCE_SECONDS = 90.0


class Version:
    """A worker process."""

    def __init__(self, lab: Lab, name: str, process: asyncio.subprocess.Process) -> None:
        self._lab = lab
        self.id = f"{name}:{process.pid}"
        self.process = process

    async def is_at_work(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.id not in {worker.id for worker in await self._lab.client.workers()}:
                assert self.process.returncode is None, "the worker ended"
                await asyncio.sleep(0.05)

    async def drain(self) -> None:
        self.process.terminate()
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await self.process.wait() == 0


@pytest.fixture(params=["redis", "without redis"])
async def lab(
    request: pytest.FixtureRequest, make_settings: Callable[..., Settings], database_section: dict[str, Any]
) -> AsyncIterator[Lab]:
    sections = {} if request.param == "without redis" else {"redis_url": request.getfixturevalue("redis_url")}
    settings = make_settings(
        database=database_section,
        redis=sections,
        jobs={**FAST, "lease_seconds": 5.0, "drain_seconds": 5.0},
    )
    # The API of the new version: it has been deployed first.
    async with running_lab(settings, registry_of("new")) as lab:
        async with lab.resources.database.transaction() as session:
            await session.execute(
                text("CREATE TABLE effects (job_id char(36) NOT NULL, version text NOT NULL)")
            )
        yield lab


@pytest.fixture
async def start(lab: Lab, database_environment: dict[str, str]) -> AsyncIterator[Callable[[str], object]]:
    started: list[Version] = []
    settings = lab.settings
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "ENVIRONMENT": "test",
        **database_environment,
        **{f"JOBS__{name.upper()}": str(getattr(settings.jobs, name)) for name in FAST},
    }
    if settings.redis.redis_url:
        environment["REDIS__REDIS_URL"] = str(settings.redis.redis_url)

    async def start(name: str) -> Version:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.integration.jobs.rolling_worker",
            name,
            cwd=REPOSITORY,
            env=environment,
        )
        version = Version(lab, name, process)
        started.append(version)
        await version.is_at_work()
        return version

    yield start
    for version in started:
        if version.process.returncode is None:
            version.process.kill()
            await version.process.wait()


def orders(count: int) -> list[JobCall]:
    """As many of each: what both versions can do, an argument that only the new one takes, a kind only it knows."""
    return [
        one
        for number in range(count)
        for one in (
            call("orders.ship", number=number),
            call("orders.ship", number=number, carrier="van"),
            call("orders.wrap", number=number),
        )
    ]


async def test_old_and_new_workers_side_by_side_lose_nothing_and_do_each_job_once(
    lab: Lab, start: Callable[[str], object]
) -> None:
    old = await start("old")  # type: ignore[misc]
    handles = await lab.client.enqueue_many_now(orders(10))

    # While there is only the old version, it does what it can and leaves the rest, unharmed.
    for handle in handles[0::3]:
        await lab.ended(handle.id, timeout_seconds=PATIENCE_SECONDS)
    for handle in handles[1::3]:
        tried = await lab.until(handle.id, lambda job: job.attempt > 0, timeout_seconds=PATIENCE_SECONDS)
        assert not tried.state.is_terminal
    for handle in handles[2::3]:
        assert await lab.state(handle.id) is JobState.QUEUED
    waiting = await lab.until(
        handles[1].id, lambda job: job.state is JobState.SCHEDULED, timeout_seconds=PATIENCE_SECONDS
    )
    assert waiting.error["type"] == "UnknownArguments"

    new = await start("new")  # type: ignore[misc]
    handles += await lab.client.enqueue_many_now(orders(10))
    await lab.until(handles[-3].id, lambda job: job.state.is_terminal, timeout_seconds=PATIENCE_SECONDS)
    await old.drain()
    handles += await lab.client.enqueue_many_now(orders(3))
    ended = [await lab.ended(handle.id, timeout_seconds=PATIENCE_SECONDS) for handle in handles]
    await new.drain()

    assert {job.state for job in ended} == {JobState.SUCCEEDED}
    assert {(job.failures, job.crashes, job.error) for job in ended} == {(0, 0, None)}
    needing_the_new = [job for job in ended if job.kind == "orders.wrap" or "carrier" in job.args]
    assert {job.result for job in needing_the_new} == {"new"}
    async with lab.resources.database.transaction() as session:
        effects = [row.job_id for row in await session.execute(text("SELECT job_id FROM effects"))]
        attempts = (await session.execute(select(job_attempts.c.outcome))).scalars().all()
    assert sorted(map(str, effects)) == sorted(str(handle.id) for handle in handles)
    assert set(attempts) <= {"interrupted"}
