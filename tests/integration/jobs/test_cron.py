"""Schedules on every store: once a slot, whoever ticks; missed slots by the policy; pauses."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from scalable_fastapi_system.jobs import JobContext, JobRegistry, job
from scalable_fastapi_system.jobs.schedules import CronSchedule
from scalable_fastapi_system.jobs.store.overview import set_schedule_paused
from scalable_fastapi_system.jobs.tables import cron_runs, cron_schedules, jobs
from sqlalchemy import select, update

from tests.integration.jobs.harness import Lab


def every_second(registry: JobRegistry, expression: str = "* * * * * *", **options: Any) -> CronSchedule:
    @job("tick", registry=registry)
    async def tick(ctx: JobContext, *, note: str) -> str:
        return note

    return CronSchedule("ticks", expression, tick, (("note", "hello"),), **options)


async def slots(lab: Lab) -> Sequence[datetime]:
    async with lab.resources.database.transaction() as session:
        return list(
            (await session.execute(select(cron_runs.c.slot_at).order_by(cron_runs.c.slot_at))).scalars()
        )


async def test_a_slot_runs_once_however_many_workers_tick(any_lab: Lab, registry: JobRegistry) -> None:
    schedule = every_second(registry, misfire="all")  # a slow machine ticks late
    for _ in range(3):
        await any_lab.start_worker(schedules=[schedule])
    async with asyncio.timeout(40):
        while len(taken := await slots(any_lab)) < 4:
            await asyncio.sleep(0.1)
    gaps = {(after - before).total_seconds() for before, after in itertools.pairwise(taken)}
    assert gaps == {1.0}
    async with any_lab.resources.database.transaction() as session:
        rows = (await session.execute(select(jobs.c.id, jobs.c.kind, jobs.c.args))).all()
        runs = (await session.execute(select(cron_runs.c.slot_at, cron_runs.c.job_id))).all()
    of_slot = {run.slot_at: run.job_id for run in runs}
    assert {of_slot[slot] for slot in taken} <= {row.id for row in rows}
    assert len({of_slot[slot] for slot in taken}) == len(taken)
    assert len(rows) <= len(of_slot)  # not one job more than slots; some may have come between the two looks
    assert {(row.kind, row.args["note"]) for row in rows} == {("tick", "hello")}


async def test_slots_missed_by_everybody_are_treated_by_the_policy(
    any_lab: Lab, registry: JobRegistry
) -> None:
    worker = await any_lab.start_worker()
    store = worker.engine.store
    schedule = every_second(registry, misfire="all")
    assert await store.due_slots([schedule]) == []  # seen for the first time: it has missed nothing
    await shift(any_lab, timedelta(minutes=-2))
    assert len(await store.due_slots([schedule])) in range(120, 125)
    await shift(any_lab, timedelta(minutes=-2))
    skipping = every_second(JobRegistry(), misfire="skip")
    punctual = len(await store.due_slots([skipping]))
    assert 0 < punctual <= 32
    await shift(any_lab, timedelta(minutes=-2))
    punctual = len(await store.due_slots([every_second(JobRegistry(), misfire="once")]))
    assert 0 < punctual <= 32


@pytest.mark.parametrize("misfire", ["skip", "once", "all"])
@pytest.mark.parametrize("before", [("0 0 1 * *", "UTC"), ("*/5 * * * *", "Asia/Tokyo")])
async def test_a_schedule_that_is_changed_has_missed_nothing(
    any_lab: Lab, monkeypatch: pytest.MonkeyPatch, before: tuple[str, str], misfire: Any
) -> None:
    store = (await any_lab.start_worker()).engine.store
    clock = Clock(monkeypatch)
    await store.due_slots([every_second(JobRegistry(), before[0], timezone=before[1], misfire=misfire)])
    clock.now += timedelta(days=3, seconds=100)
    every_five_minutes = every_second(JobRegistry(), "*/5 * * * *", misfire=misfire)
    assert await store.due_slots([every_five_minutes]) == []
    clock.now += timedelta(seconds=199)
    assert await store.due_slots([every_five_minutes]) == []
    clock.now += timedelta(seconds=2)
    assert len(await store.due_slots([every_five_minutes])) == 1
    # what it misses from here on is its own
    clock.now += timedelta(minutes=20, seconds=60)
    caught_up = {"skip": 0, "once": 1, "all": 4}
    assert len(await store.due_slots([every_five_minutes])) == caught_up[misfire]


@pytest.mark.parametrize("misfire", ["skip", "once", "all"])
async def test_while_workers_of_two_releases_run_the_slots_of_both_do(
    any_lab: Lab, monkeypatch: pytest.MonkeyPatch, misfire: Any
) -> None:
    store = (await any_lab.start_worker()).engine.store
    clock = Clock(monkeypatch)
    began = clock.now
    old = every_second(JobRegistry(), "0 * * * *", misfire=misfire)
    new = every_second(JobRegistry(), "0,1 * * * *", misfire=misfire)
    await store.due_slots([old])
    clock.now += timedelta(minutes=59, seconds=50)
    for _ in range(60):
        clock.now += timedelta(seconds=0.7)
        await store.due_slots([new])
        clock.now += timedelta(seconds=0.7)
        await store.due_slots([old])
    assert await slots(any_lab) == [began + timedelta(minutes=60), began + timedelta(minutes=61)]


async def test_a_schedule_that_is_changed_while_it_is_paused_stays_so(
    any_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = (await any_lab.start_worker()).engine.store
    clock = Clock(monkeypatch)
    await store.due_slots([every_second(JobRegistry(), "0 * * * *")])
    async with any_lab.resources.database.transaction() as session:
        await set_schedule_paused(session, name="ticks", is_paused=True)
    clock.now += timedelta(hours=3, seconds=5)
    changed = every_second(JobRegistry(), "* * * * *")
    assert await store.due_slots([changed]) == []
    async with any_lab.resources.database.transaction() as session:
        await set_schedule_paused(session, name="ticks", is_paused=False)
    assert await store.due_slots([changed]) == []


async def test_a_paused_schedule_lets_its_slots_pass(any_lab: Lab, registry: JobRegistry) -> None:
    worker = await any_lab.start_worker()
    store = worker.engine.store
    schedule = every_second(registry)
    await store.due_slots([schedule])
    async with any_lab.resources.database.transaction() as session:
        assert await set_schedule_paused(session, name="ticks", is_paused=True)
        assert not await set_schedule_paused(session, name="others", is_paused=True)
    await asyncio.sleep(1.1)
    assert await store.due_slots([schedule]) == []
    async with any_lab.resources.database.transaction() as session:
        await set_schedule_paused(session, name="ticks", is_paused=False)
    assert await slots(any_lab) == []
    await asyncio.sleep(1.1)
    assert await store.due_slots([schedule]) != []


class Clock:
    """The database's, as schedules see it: it stands still but for what a test adds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = datetime(2026, 6, 10, 12, 0, tzinfo=UTC)

        async def now(session: object) -> datetime:
            return self.now

        monkeypatch.setattr("scalable_fastapi_system.jobs.schedules.database_now", now)


async def shift(lab: Lab, by: timedelta) -> None:
    """As if no worker had run for so long; what ran in that time is forgotten."""
    async with lab.resources.database.transaction() as session:
        await session.execute(cron_runs.delete())
        await session.execute(update(jobs).values(unique_key=None))
        await session.execute(update(cron_schedules).values(last_slot_at=datetime.now(UTC) + by))


async def test_a_schedule_that_cannot_be_kept_does_not_hold_up_the_others(
    any_lab: Lab, registry: JobRegistry
) -> None:
    is_declared = False

    def key() -> str:
        if is_declared:
            raise ValueError("what a key is made of is gone")
        return "key"

    @job("unlucky", registry=registry, concurrency_key=key)
    async def unlucky(ctx: JobContext) -> None: ...

    broken = CronSchedule("broken", "* * * * * *", unlucky)
    is_declared = True
    sound = every_second(registry)
    worker = await any_lab.start_worker()
    assert await worker.engine.store.due_slots([broken, sound]) == []
    await shift(any_lab, timedelta(seconds=-5))
    assert len(await worker.engine.store.due_slots([broken, sound])) in range(5, 30)


async def test_the_settings_say_how_often_a_slots_job_is_tried(any_lab: Lab, registry: JobRegistry) -> None:
    any_lab.settings.jobs.default_max_attempts = 7
    worker = await any_lab.start_worker()
    schedule = every_second(registry)
    await worker.engine.store.due_slots([schedule])
    await shift(any_lab, timedelta(seconds=-5))
    assert await worker.engine.store.due_slots([schedule])
    async with any_lab.resources.database.transaction() as session:
        assert set((await session.execute(select(jobs.c.max_attempts))).scalars()) == {7}
