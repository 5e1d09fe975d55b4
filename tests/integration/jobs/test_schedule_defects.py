"""A schedule that cannot be kept, or a part of a sweep that fails: what comes after it is done all the same."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from scalable_fastapi_system.jobs import JobContext, JobRegistry, job
from scalable_fastapi_system.jobs.schedules import CronSchedule
from scalable_fastapi_system.jobs.tables import cron_schedules
from scalable_fastapi_system.kit.errors import ServiceUnavailableException
from sqlalchemy import update

from tests.integration.jobs.harness import Lab

pytestmark = pytest.mark.timeout(60)


def every_second(registry: JobRegistry, kind: str, **options: Any) -> CronSchedule:
    @job(kind, registry=registry, **options)
    async def tick(ctx: JobContext) -> None: ...

    return CronSchedule(kind, "* * * * * *", tick)


async def make_due(lab: Lab) -> None:
    async with lab.resources.database.transaction() as session:
        await session.execute(
            update(cron_schedules).values(last_slot_at=datetime.now(UTC) - timedelta(seconds=5))
        )


async def test_a_row_that_the_database_refuses_costs_its_own_schedule_only(
    any_lab: Lab, registry: JobRegistry
) -> None:
    refused = every_second(registry, "refused")
    # As of a release that let it through. SQLite counts no characters, and takes it.
    object.__setattr__(refused, "expression", ",".join(map(str, range(60))) + " * * * * *")
    sound = every_second(registry, "sound")
    worker = await any_lab.start_worker()
    await worker.engine.store.due_slots([refused, sound])
    await make_due(any_lab)
    queued = await worker.engine.store.due_slots([refused, sound])
    assert "sound" in {(await any_lab.client.get(hint.job_id)).kind for hint in queued}


@pytest.mark.parametrize(
    "error", [RuntimeError("a defect"), FileNotFoundError("shops.txt"), KeyError("shop")]
)
async def test_a_key_that_cannot_be_made_costs_its_own_schedule_only(
    any_lab: Lab, registry: JobRegistry, error: Exception
) -> None:
    is_declared = False

    def key() -> str:
        if is_declared:
            raise error
        return "key"

    broken = every_second(registry, "broken", concurrency_key=key)
    is_declared = True
    sound = every_second(registry, "sound")
    worker = await any_lab.start_worker()
    assert await worker.engine.store.due_slots([broken, sound]) == []
    await make_due(any_lab)
    queued = await worker.engine.store.due_slots([broken, sound])
    assert {(await any_lab.client.get(hint.job_id)).kind for hint in queued} == {"sound"}


async def test_a_store_that_is_away_is_no_fault_of_a_schedule(
    any_lab: Lab, registry: JobRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> Any:
        raise ServiceUnavailableException("away")

    worker = await any_lab.start_worker()
    schedules = [every_second(registry, "one"), every_second(registry, "two")]
    monkeypatch.setattr(worker.engine.store._database, "transaction", away)  # type: ignore[attr-defined]
    with pytest.raises(ServiceUnavailableException):
        await worker.engine.store.due_slots(schedules)
    monkeypatch.undo()


async def test_counts_and_what_follows_a_sweep_come_whatever_happens_to_the_schedules(
    any_lab: Lab, registry: JobRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted, followed, purged = asyncio.Event(), asyncio.Event(), asyncio.Event()
    worker = any_lab.new_worker(schedules=[every_second(registry, "tick")])
    store: Any = worker.engine.store

    async def broken(_schedules: Any) -> Any:
        raise RuntimeError("a defect")

    async def count() -> Any:
        counted.set()
        raise RuntimeError("another one")

    async def purge(**_options: Any) -> int:
        purged.set()
        return 0

    async def follow() -> None:
        followed.set()

    monkeypatch.setattr(store, "due_slots", broken)
    monkeypatch.setattr(store, "count", count)
    monkeypatch.setattr(store, "purge", purge)
    monkeypatch.setattr(worker.reconciler, "_after_sweep", follow)
    monkeypatch.setattr(worker.reconciler, "_purge_at", 0.0)
    await any_lab.start_worker(worker)
    async with asyncio.timeout(20):
        await asyncio.gather(counted.wait(), purged.wait(), followed.wait())
