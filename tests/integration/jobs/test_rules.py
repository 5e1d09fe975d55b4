"""The rules beyond a job's plain way: keys, chains, batches, limits, fences, fairness, unknown kinds."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from scalable_fastapi_system.jobs import (
    JobContext,
    JobLostError,
    JobRegistry,
    JobState,
    RetryJobError,
    SnoozeJobError,
    call,
    enqueue,
    enqueue_batch,
    enqueue_chain,
    enqueue_many,
    job,
)
from scalable_fastapi_system.jobs.errors import JobUsageError
from scalable_fastapi_system.jobs.store import create_store
from scalable_fastapi_system.jobs.tables import cron_runs, job_attempts, job_queues, jobs
from scalable_fastapi_system.kit.errors import PayloadTooLargeException, ValidationException
from sqlalchemy import insert, select, text, update

from tests.integration.jobs.harness import Lab

LABS = ("postgres+redis", "postgres", "sqlite", "pgbouncer", "mariadb")

# -- unique keys --------------------------------------------------------------------------------------


async def test_a_unique_key_gives_the_live_job_and_is_free_after_it(
    any_lab: Lab, registry: JobRegistry
) -> None:
    @job("once", registry=registry)
    async def once(ctx: JobContext) -> None: ...

    async with any_lab.resources.database.transaction() as session:
        first = await enqueue(session, once, owner_id=1, unique_key="report")
        second = await enqueue(session, once, owner_id=1, unique_key="report")
        other = await enqueue(session, once, owner_id=2, unique_key="report")
    third = await any_lab.client.enqueue_now(once, owner_id=1, unique_key="report")
    assert (first.is_new, second.is_new, third.is_new) == (True, False, False)
    assert first.id == second.id == third.id != other.id
    await any_lab.start_worker()
    await any_lab.ended(first.id)
    again = await any_lab.client.enqueue_now(once, owner_id=1, unique_key="report")
    assert again.is_new


async def test_a_unique_handler_is_unique_by_its_arguments(any_lab: Lab, registry: JobRegistry) -> None:
    @job("by_arguments", registry=registry, unique=True)
    async def by_arguments(ctx: JobContext, *, page: int) -> None: ...

    one = await any_lab.client.enqueue_now(by_arguments, page=1)
    two = await any_lab.client.enqueue_now(by_arguments, page=2)
    same = await any_lab.client.enqueue_now(by_arguments, page=1)
    assert one.id == same.id != two.id


async def test_one_hundred_concurrent_enqueues_of_a_key_make_one_job(
    any_lab: Lab, registry: JobRegistry
) -> None:
    @job("crowd", registry=registry)
    async def crowd(ctx: JobContext) -> None: ...

    count = 20 if any_lab.resources.database.backend == "sqlite" else 100
    handles = await asyncio.gather(*(any_lab.client.enqueue_now(crowd, unique_key="k") for _ in range(count)))
    assert len({handle.id for handle in handles}) == 1
    assert sum(handle.is_new for handle in handles) == 1


# -- concurrency keys ---------------------------------------------------------------------------------


async def test_jobs_of_one_concurrency_key_run_one_at_a_time(any_lab: Lab, registry: JobRegistry) -> None:
    at_work: dict[str, int] = {"a": 0, "b": 0}
    most: dict[str, int] = {"a": 0, "b": 0}

    @job("keyed", registry=registry, concurrency_key="shop:{shop}")
    async def keyed(ctx: JobContext, *, shop: str) -> None:
        at_work[shop] += 1
        most[shop] = max(most[shop], at_work[shop])
        await asyncio.sleep(0.02)
        at_work[shop] -= 1

    await any_lab.start_worker()
    await any_lab.start_worker()
    async with any_lab.resources.database.transaction() as session:
        handles = await enqueue_many(session, [call(keyed, shop=shop) for shop in "abababab"])
    for handle in handles:
        assert (await any_lab.ended(handle.id, timeout_seconds=20)).state is JobState.SUCCEEDED
    assert most == {"a": 1, "b": 1}


@pytest.mark.labs("postgres", "sqlite", "pgbouncer", "mariadb")
async def test_jobs_with_and_without_concurrency_keys_take_one_order(
    any_lab: Lab, registry: JobRegistry
) -> None:
    @job("plain", registry=registry)
    async def plain(ctx: JobContext) -> None: ...

    @job("keyed", registry=registry, concurrency_key="shop:{shop}")
    async def keyed(ctx: JobContext, *, shop: str) -> None: ...

    async def claimed(limit: int) -> list[UUID]:
        store = create_store(any_lab.resources.database)
        await store.start()
        try:
            claims = await store.claim_next(
                ["default"], limit, worker_id="w", kinds=registry.kinds(), lease_seconds=60
            )
        finally:
            await store.stop()
        return [claim.job_id for claim in claims]

    first = await any_lab.client.enqueue_now(keyed, shop="z")
    async with any_lab.resources.database.transaction() as session:
        await enqueue_many(session, [call(plain) for _ in range(20)])
        many = await enqueue_many(session, [call(keyed, shop=shop, priority=5) for shop in "abcab"])
        urgent = await enqueue(session, keyed, shop="y", priority=-100)
        late = await enqueue(session, keyed, shop="x", priority=-50)
    assert await claimed(1) == [urgent.id]
    assert await claimed(1) == [late.id]
    taken = set(await claimed(5))
    assert first.id in taken, "those without a key leave no room for one that is older"
    taken |= set(await claimed(20)) | set(await claimed(20))
    assert len(taken & {handle.id for handle in many}) == 3
    assert await claimed(5) == [], "each key has one at work"


# -- chains and batches -------------------------------------------------------------------------------


async def test_a_chain_runs_in_order(any_lab: Lab, registry: JobRegistry) -> None:
    order: list[int] = []

    @job("step", registry=registry)
    async def step(ctx: JobContext, *, number: int) -> None:
        await asyncio.sleep(0.01)
        order.append(number)

    await any_lab.start_worker()
    async with any_lab.resources.database.transaction() as session:
        handles = await enqueue_chain(session, [call(step, number=number) for number in range(4)])
    await any_lab.ended(handles[-1].id)
    assert order == [0, 1, 2, 3]


async def test_a_failed_step_cancels_the_rest_and_a_retry_revives_it(
    any_lab: Lab, registry: JobRegistry
) -> None:
    is_broken = True

    @job("brittle", registry=registry, max_attempts=1)
    async def brittle(ctx: JobContext, *, number: int) -> int:
        if number == 1 and is_broken:
            raise ValueError("broken")
        return number

    await any_lab.start_worker()
    async with any_lab.resources.database.transaction() as session:
        handles = await enqueue_chain(session, [call(brittle, number=number) for number in range(4)])
    last = await any_lab.ended(handles[3].id)
    assert last.state is JobState.CANCELLED
    states = [await any_lab.state(handle.id) for handle in handles]
    assert states == [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.CANCELLED]
    is_broken = False
    await any_lab.client.retry(handles[1].id)
    last = await any_lab.ended(handles[3].id)
    assert (last.state, last.result) == (JobState.SUCCEEDED, 3)


async def test_a_retried_step_or_callback_waits_for_what_has_not_ended(
    any_lab: Lab, registry: JobRegistry
) -> None:
    order: list[str] = []

    @job("part", registry=registry)
    async def part(ctx: JobContext, *, name: str) -> None:
        order.append(name)

    async with any_lab.resources.database.transaction() as session:
        steps = await enqueue_chain(session, [call(part, name=name) for name in ("one", "two", "three")])
        last, members = await enqueue_batch(
            session, [call(part, name="member") for _ in range(3)], on_complete=call(part, name="last")
        )
    for handle in (steps[1], last, members[0]):
        await any_lab.client.cancel(handle.id)
    for handle in (steps[1], last):
        change = await any_lab.client.retry(handle.id)
        assert (change.state, change.has_changed) == (JobState.SCHEDULED, True)
    assert (await any_lab.client.get(last.id)).waits_for == 2
    await any_lab.start_worker()
    for handle in (steps[2], last):
        assert (await any_lab.ended(handle.id)).state is JobState.SUCCEEDED
    assert [name for name in order if name in {"one", "two", "three"}] == ["one", "two", "three"]
    assert [name for name in order if name in {"member", "last"}] == ["member", "member", "last"]


async def test_a_batch_calls_back_when_all_have_ended(any_lab: Lab, registry: JobRegistry) -> None:
    @job("member", registry=registry, max_attempts=1)
    async def member(ctx: JobContext, *, number: int) -> int:
        if number == 3:
            raise ValueError("one fails")
        return number

    @job("all_done", registry=registry)
    async def all_done(ctx: JobContext) -> dict[str, int]:
        async with ctx.resources.database.transaction() as session:
            rows = await session.execute(select(jobs.c.state).where(jobs.c.then_id == ctx.job_id))
            states = [JobState(state).label for state in rows.scalars()]
        return {label: states.count(label) for label in set(states)}

    await any_lab.start_worker()
    async with any_lab.resources.database.transaction() as session:
        callback, members = await enqueue_batch(
            session, [call(member, number=number) for number in range(8)], on_complete=call(all_done)
        )
    assert len(members) == 8
    ended = await any_lab.ended(callback.id)
    assert ended.result == {"succeeded": 7, "failed": 1}


async def test_a_time_that_would_not_be_kept_is_refused(any_lab: Lab, registry: JobRegistry) -> None:
    @job("part", registry=registry)
    async def part(ctx: JobContext) -> None: ...

    async with any_lab.resources.database.transaction() as session:
        first, _ = await enqueue_chain(session, [call(part, delay_seconds=60), call(part)])
        with pytest.raises(JobUsageError, match="a step of a chain"):
            await enqueue_chain(session, [call(part), call(part, delay_seconds=60)])
        with pytest.raises(JobUsageError, match="what follows a batch"):
            await enqueue_batch(session, [call(part)], on_complete=call(part, run_at=datetime.now(UTC)))
    assert await any_lab.state(first.id) is JobState.SCHEDULED


async def test_cancelling_a_waiting_member_counts_it_off(any_lab: Lab, registry: JobRegistry) -> None:
    @job("held", registry=registry)
    async def held(ctx: JobContext) -> None: ...

    async with any_lab.resources.database.transaction() as session:
        callback, members = await enqueue_batch(session, [call(held), call(held)], on_complete=call(held))
    await any_lab.client.cancel(members[0].id)
    assert (await any_lab.client.get(callback.id)).waits_for == 1
    await any_lab.start_worker()
    assert (await any_lab.ended(callback.id)).state is JobState.SUCCEEDED


# -- ends that are not ends ---------------------------------------------------------------------------


async def test_a_snooze_counts_as_nothing(any_lab: Lab, registry: JobRegistry) -> None:
    @job("sleepy", registry=registry, max_attempts=1)
    async def sleepy(ctx: JobContext) -> int:
        if ctx.attempt < 3:
            raise SnoozeJobError(0.05)
        return ctx.attempt

    await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(sleepy)
    ended = await any_lab.ended(handle.id)
    assert (ended.result, ended.failures) == (3, 0)
    assert await attempts_of(any_lab, handle.id) == []


async def test_a_retry_may_name_its_delay(any_lab: Lab, registry: JobRegistry) -> None:
    times: list[float] = []

    @job("patient", registry=registry)
    async def patient(ctx: JobContext) -> None:
        times.append(time.monotonic())
        if len(times) == 1:
            raise RetryJobError("not yet", delay_seconds=0.3)

    await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(patient)
    ended = await any_lab.ended(handle.id)
    assert times[1] - times[0] >= 0.3
    assert ended.failures == 1
    assert ended.error is None
    assert [one["outcome"] for one in await attempts_of(any_lab, handle.id)] == ["retried"]


async def test_a_job_past_its_deadline_fails_without_running(any_lab: Lab, registry: JobRegistry) -> None:
    @job("stale", registry=registry)
    async def stale(ctx: JobContext) -> None:
        raise AssertionError("it ran")

    handle = await any_lab.client.enqueue_now(stale, deadline_at=datetime.now(UTC) - timedelta(seconds=1))
    await any_lab.start_worker()
    ended = await any_lab.ended(handle.id)
    assert (ended.state, ended.error["type"]) == (JobState.FAILED, "Expired")


async def test_an_ended_job_can_be_retried_by_hand(any_lab: Lab, registry: JobRegistry) -> None:
    @job("second_chance", registry=registry, max_attempts=1)
    async def second_chance(ctx: JobContext) -> int:
        if ctx.attempt == 1:
            raise ValueError("first")
        return ctx.attempt

    await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(second_chance)
    assert (await any_lab.ended(handle.id)).state is JobState.FAILED
    assert (await any_lab.client.retry(handle.id)).has_changed
    ended = await any_lab.until(handle.id, lambda found: found.state is JobState.SUCCEEDED)
    assert ended.result == 2
    assert not (await any_lab.client.retry(handle.id)).has_changed


# -- limits -------------------------------------------------------------------------------------------


async def test_what_is_too_large_is_refused_and_never_cut(any_lab: Lab, registry: JobRegistry) -> None:
    @job("large", registry=registry)
    async def large(ctx: JobContext, *, text: str = "", size: int = 0) -> str:
        return "x" * size

    with pytest.raises(PayloadTooLargeException, match="262144"):
        await any_lab.client.enqueue_now(large, text="x" * 300_000)
    with pytest.raises(ValidationException, match=r"U\+0000"):
        await any_lab.client.enqueue_now(large, text="a\x00b")
    await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(large, size=100_000)
    ended = await any_lab.ended(handle.id)
    assert (ended.state, ended.failures, ended.result) == (JobState.FAILED, 1, None)
    assert "100002 bytes, more than 65536" in ended.error["message"]


async def test_an_error_is_shortened_and_says_so(any_lab: Lab, registry: JobRegistry) -> None:
    @job("loud", registry=registry, max_attempts=1)
    async def loud(ctx: JobContext) -> None:
        raise ValueError("no\x00 " * 50_000)

    await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(loud)
    error = (await any_lab.ended(handle.id)).error
    assert "characters)" in error["message"]
    assert "bytes)" in error["traceback"]
    assert len(str(error)) < 9000


async def test_a_result_that_is_no_json_fails_the_job(any_lab: Lab, registry: JobRegistry) -> None:
    @job("strange", registry=registry, max_attempts=1)
    async def strange(ctx: JobContext) -> Any:
        return object()

    await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(strange)
    ended = await any_lab.ended(handle.id)
    assert (ended.state, ended.error["type"]) == (JobState.FAILED, "ValueError")


# -- the handler's transaction ------------------------------------------------------------------------


async def test_writes_and_end_are_one_commit(any_lab: Lab, registry: JobRegistry) -> None:
    @job("effect", registry=registry)
    async def effect(ctx: JobContext) -> None:
        async with ctx.transaction() as session:
            await session.execute(insert(job_queues).values(name=f"effect-{ctx.attempt}"))
            ctx.result = {"made": ctx.attempt}
        assert (await any_lab.client.get(ctx.job_id)).state is JobState.SUCCEEDED

    await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(effect)
    ended = await any_lab.ended(handle.id)
    assert ended.result == {"made": 1}
    assert await effects(any_lab) == ["effect-1"]


async def test_a_failed_transaction_leaves_nothing_and_is_tried_again(
    any_lab: Lab, registry: JobRegistry
) -> None:
    @job("half", registry=registry)
    async def half(ctx: JobContext) -> None:
        async with ctx.transaction() as session:
            await session.execute(insert(job_queues).values(name=f"effect-{ctx.attempt}"))
            if ctx.attempt == 1:
                raise RetryJobError("midway", delay_seconds=0)

    await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(half)
    assert (await any_lab.ended(handle.id)).attempt == 2
    assert await effects(any_lab) == ["effect-2"]


@pytest.mark.parametrize("finish", [True, False])
async def test_an_attempt_that_lost_its_job_writes_nothing(
    any_lab: Lab, registry: JobRegistry, finish: bool
) -> None:
    seen: list[str] = []

    @job("zombie", registry=registry)
    async def zombie(ctx: JobContext) -> str:
        if ctx.attempt > 1:
            return "the second"
        # what a reconciler does when this worker has been silent for too long
        async with ctx.resources.database.transaction() as session:
            await session.execute(
                update(jobs)
                .where(jobs.c.id == ctx.job_id)
                .values(state=int(JobState.QUEUED), worker_id=None, lease_expires_at=None)
            )
        try:
            async with ctx.transaction(finish=finish) as session:
                await session.execute(insert(job_queues).values(name="effect-of-a-zombie"))
        except (
            JobLostError,
            asyncio.CancelledError,
        ):  # a heartbeat may notice it first, and ends the attempt
            seen.append("lost")
            raise
        return "the first"

    await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(zombie)
    ended = await any_lab.ended(handle.id)
    assert ended.result == "the second"
    async with asyncio.timeout(20):  # the first one is told on its own time
        while not seen:
            await asyncio.sleep(0.01)
    assert seen == ["lost"]
    assert await effects(any_lab) == []


# -- who is next --------------------------------------------------------------------------------------


async def test_a_smaller_priority_number_runs_first(any_lab: Lab, registry: JobRegistry) -> None:
    order: list[int] = []

    @job("ranked", registry=registry)
    async def ranked(ctx: JobContext, *, rank: int) -> None:
        order.append(rank)

    async with any_lab.resources.database.transaction() as session:
        await enqueue_many(session, [call(ranked, rank=rank, priority=rank) for rank in (5, -3, 0, 7, -100)])
    await any_lab.start_worker(max_jobs=1)
    await until(lambda: len(order) == 5)
    assert order == [-100, -3, 0, 5, 7]


async def test_owners_take_turns(any_lab: Lab, registry: JobRegistry) -> None:
    order: list[int | None] = []

    @job("turns", registry=registry)
    async def turns(ctx: JobContext) -> None:
        order.append(ctx.owner_id)

    async with any_lab.resources.database.transaction() as session:
        await enqueue_many(session, [call(turns, owner_id=1) for _ in range(30)])
    async with any_lab.resources.database.transaction() as session:
        await enqueue_many(session, [call(turns, owner_id=owner) for owner in (2, 3, 2, 3)])
    await any_lab.start_worker(max_jobs=1)
    await until(lambda: len(order) == 34)
    assert max(index for index, owner in enumerate(order) if owner in {2, 3}) < 10


async def test_a_paused_queue_waits(any_lab: Lab, registry: JobRegistry) -> None:
    @job("paused", registry=registry)
    async def paused(ctx: JobContext) -> None: ...

    await any_lab.client.pause_queue("default")
    await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(paused)
    await asyncio.sleep(0.5)
    assert await any_lab.state(handle.id) is JobState.QUEUED
    await any_lab.client.resume_queue("default")
    await any_lab.ended(handle.id)


# -- versions side by side ----------------------------------------------------------------------------


async def test_a_kind_that_only_the_new_version_knows_is_left_to_it(
    any_lab: Lab, registry: JobRegistry
) -> None:
    new_registry = JobRegistry()

    @job("old_and_new", registry=registry)
    async def old_and_new(ctx: JobContext) -> None: ...

    new_registry.add(old_and_new)

    @job("only_new", registry=new_registry)
    async def only_new(ctx: JobContext) -> str:
        return "done by the new one"

    old = await any_lab.start_worker()
    handles = [await any_lab.client.enqueue_now("only_new") for _ in range(5)]
    await asyncio.sleep(0.6)
    assert {await any_lab.state(handle.id) for handle in handles} == {JobState.QUEUED}
    new = await any_lab.start_worker(registry=new_registry)
    for handle in handles:
        ended = await any_lab.ended(handle.id, timeout_seconds=20)
        assert ended.result == "done by the new one"
        assert ended.worker_id == new.worker_id
        assert (ended.failures, ended.crashes) == (0, 0)
    shared = await any_lab.client.enqueue_now(old_and_new)
    await any_lab.ended(shared.id)
    assert old.allow_pick_jobs


# -- handlers outside the loop ------------------------------------------------------------------------


async def test_a_plain_function_runs_in_a_thread(any_lab: Lab, registry: JobRegistry) -> None:
    @job("threaded", registry=registry)
    def threaded(ctx: Any, *, number: int) -> int:
        ctx.progress(0.5, "in a thread")
        time.sleep(0.05)
        return number + ctx.attempt

    await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(threaded, number=1)
    ended = await any_lab.ended(handle.id)
    assert (ended.result, ended.progress) == (2, {"fraction": 0.5, "message": "in a thread"})


async def test_a_thread_that_takes_too_long_is_abandoned(any_lab: Lab, registry: JobRegistry) -> None:
    @job("endless", registry=registry, timeout_seconds=0.2, max_attempts=1)
    def endless(ctx: Any) -> None:
        started = time.monotonic()
        while not ctx.is_cancelled:
            time.sleep(0.01)
            if time.monotonic() - started > 1:
                return

    await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(endless)
    ended = await any_lab.ended(handle.id)
    assert "longer than" in ended.error["message"]
    await asyncio.sleep(1.0)


# -- housekeeping -------------------------------------------------------------------------------------


async def test_old_jobs_are_deleted_and_young_ones_kept(any_lab: Lab, registry: JobRegistry) -> None:
    @job("aged", registry=registry, max_attempts=1)
    async def aged(ctx: JobContext, *, fails: bool = False) -> None:
        if fails:
            raise ValueError

    worker = await any_lab.start_worker()
    handles = [await any_lab.client.enqueue_now(aged, fails=index == 0) for index in range(4)]
    waiting = await any_lab.client.enqueue_now(aged, delay_seconds=3600)
    for handle in handles:
        await any_lab.ended(handle.id)
    old = datetime.now(UTC) - timedelta(days=31)
    async with any_lab.resources.database.transaction() as session:
        ids = [handle.id for handle in handles[:3]]
        await session.execute(update(jobs).where(jobs.c.id.in_(ids)).values(finished_at=old))
    assert await worker.engine.store.purge(older_than=timedelta(days=30)) == 3
    async with any_lab.resources.database.transaction() as session:
        left = set((await session.execute(select(jobs.c.id))).scalars())
        history = (await session.execute(select(job_attempts.c.job_id))).all()
        runs = (await session.execute(select(cron_runs.c.job_id))).all()
    assert left == {handles[3].id, waiting.id}
    assert (history, runs) == ([], [])


async def test_depth_is_counted_by_queue_and_state(any_lab: Lab, registry: JobRegistry) -> None:
    @job("counted", registry=registry)
    async def counted(ctx: JobContext) -> None:
        await asyncio.sleep(60)

    worker = await any_lab.start_worker(max_jobs=1)
    for delay_seconds in (0, 0, 0, 3600):
        await any_lab.client.enqueue_now(counted, delay_seconds=delay_seconds)
    await until(lambda: len(worker.engine.running) == 1)
    found = {(one.queue, JobState(one.state)): one.count for one in await worker.engine.store.count()}
    assert found == {
        ("default", JobState.SCHEDULED): 1,
        ("default", JobState.QUEUED): 2,
        ("default", JobState.RUNNING): 1,
    }


# -- helpers ------------------------------------------------------------------------------------------


async def until(condition: Any, *, timeout_seconds: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def attempts_of(lab: Lab, job_id: Any) -> list[dict[str, Any]]:
    async with lab.resources.database.transaction() as session:
        rows = await session.execute(
            select(job_attempts).where(job_attempts.c.job_id == job_id).order_by(job_attempts.c.attempt)
        )
        return [dict(row._mapping) for row in rows]


async def effects(lab: Lab) -> list[str]:
    async with lab.resources.database.transaction() as session:
        rows = await session.execute(text("SELECT name FROM job_queues ORDER BY name"))
        return [name for (name,) in rows]
