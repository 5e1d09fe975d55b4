"""Following a job: from the start, from where one left off, by many at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
from contextvars import ContextVar
from typing import Any
from uuid import UUID

import pytest
from scalable_fastapi_system.jobs import JobContext, JobRegistry, job
from scalable_fastapi_system.jobs.events import JobEvent, _Reader

from tests.integration.jobs.harness import Lab


async def collect(lab: Lab, job_id: UUID, **options: Any) -> list[JobEvent]:
    async with asyncio.timeout(30):
        return [event async for event in lab.client.events.follow(job_id, **options)]


def steps_job(registry: JobRegistry, *, pause_seconds: float = 0.6) -> Any:
    @job("steps", registry=registry)
    async def steps(ctx: JobContext, *, count: int) -> None:
        for number in range(count):
            await ctx.progress({"done": number})
            await asyncio.sleep(pause_seconds)

    return steps


async def test_a_job_is_followed_to_its_end(any_lab: Lab, registry: JobRegistry) -> None:
    steps = steps_job(registry)
    await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(steps, count=3)
    events = await collect(any_lab, handle.id)
    told = [event.progress["done"] for event in events if event.type == "progress"]
    assert told[0] == 0
    assert told == sorted(set(told))  # a slow machine may pass over one that the next has overtaken
    assert events[-1].progress == {"done": 2}
    assert events[-1].is_last
    assert events[-1].status == "succeeded"
    assert [event.is_last for event in events[:-1]] == [False] * (len(events) - 1)


async def test_who_reads_for_all_has_nothing_of_the_request_that_it_began_with(
    lab: Lab, registry: JobRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    request: ContextVar[str] = ContextVar("request")
    seen: list[str | None] = []
    read = _Reader._read

    async def note(reader: _Reader) -> None:
        seen.append(request.get(None))
        await read(reader)

    monkeypatch.setattr(_Reader, "_read", note)
    steps = steps_job(registry, pause_seconds=0)
    await lab.start_worker()
    handle = await lab.client.enqueue_now(steps, count=0)
    request.set("the first")
    assert (await collect(lab, handle.id))[-1].is_last
    assert set(seen) == {None}


async def test_an_ended_job_has_one_last_event(any_lab: Lab, registry: JobRegistry) -> None:
    steps = steps_job(registry, pause_seconds=0)
    await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(steps, count=0)
    await any_lab.ended(handle.id)
    events = await collect(any_lab, handle.id)
    assert [(event.type, event.status) for event in events] == [("state", "succeeded")]


async def test_who_comes_back_gets_what_was_missed_and_nothing_twice(lab: Lab, registry: JobRegistry) -> None:
    steps = steps_job(registry)
    await lab.start_worker()
    handle = await lab.client.enqueue_now(steps, count=6)
    sender = lab.client.sender
    assert sender is not None

    async def published() -> list[int]:
        """What the worker has told so far: a slow machine may pass over a report that the next has overtaken."""
        reports = await sender.connections.call(lambda client: client.xrange(sender.keys.events(handle.id)))
        return [json.loads(fields[b"p"])["done"] for _, fields in reports]

    first: list[JobEvent] = []
    async with asyncio.timeout(30):
        async for event in lab.client.events.follow(handle.id):
            first.append(event)
            if event.type == "progress" and event.progress["done"] >= 1:
                break
        while (await published())[-1] < 3:  # several reports come while nobody listens
            await asyncio.sleep(0.05)
    rest = await collect(lab, handle.id, last_event_id=first[-1].id)
    seen = [event.progress["done"] for event in (*first, *rest) if event.type == "progress"]
    assert seen == await published()
    assert rest[-1].is_last


async def test_many_listeners_are_one_reader(lab: Lab, registry: JobRegistry) -> None:
    steps = steps_job(registry)
    await lab.start_worker()
    handles = [await lab.client.enqueue_now(steps, count=2) for _ in range(3)]
    reads = 0
    events = lab.client.events

    async with asyncio.timeout(20):
        following = [asyncio.create_task(collect(lab, handle.id)) for handle in handles for _ in range(20)]
        await asyncio.sleep(0.1)
        (reader,) = events._readers.values()
        original = reader._read_states

        async def counted(job_ids: Any) -> Any:
            nonlocal reads
            reads += 1
            return await original(job_ids)

        reader._read_states = counted  # type: ignore[method-assign]
        results = await asyncio.gather(*following)
    assert all(result[-1].is_last for result in results)
    assert reads < 10


async def test_a_job_that_does_not_exist_ends_at_once(any_lab: Lab, registry: JobRegistry) -> None:
    assert await collect(any_lab, UUID(int=7)) == []


async def test_who_comes_back_after_the_end_is_not_kept_waiting(any_lab: Lab, registry: JobRegistry) -> None:
    steps = steps_job(registry, pause_seconds=0)
    await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(steps, count=0)
    job = await any_lab.ended(handle.id)
    (last,) = await collect(any_lab, handle.id)
    assert await collect(any_lab, handle.id, last_event_id=last.id) == []
    assert any_lab.client.events.has_told_all(job, last.id)
    assert not any_lab.client.events.has_told_all(job, None)


@pytest.mark.parametrize("position", [f"{10**20 - 1}-0", f"0-{2**64}", f"{2**64 - 1}-{2**64 - 1}"])
async def test_an_event_id_that_redis_would_refuse_disturbs_nobody(
    lab: Lab, registry: JobRegistry, position: str
) -> None:
    steps = steps_job(registry, pause_seconds=0.2)
    await lab.start_worker()
    handle = await lab.client.enqueue_now(steps, count=3)
    events = await collect(lab, handle.id, last_event_id=f"{position}/1.1")
    assert events[-1].is_last
    assert lab.client.sender is not None
    assert lab.client.sender.connections.failures == 0


async def test_a_process_that_leaves_ends_its_listeners_and_begins_with_no_new_ones(
    any_lab: Lab, registry: JobRegistry
) -> None:
    handle = await any_lab.client.enqueue_now(steps_job(registry), count=1)  # it waits: there is no worker
    events, told, is_told = any_lab.client.events, [], asyncio.Event()

    async def listen() -> None:
        async for event in events.follow(handle.id):
            told.append(event)
            is_told.set()

    async with asyncio.timeout(30):
        listening = asyncio.create_task(listen())
        await is_told.wait()
        events.end()
        await listening
    assert [event.is_last for event in told] == [False]
    assert await collect(any_lab, handle.id) == []
    await events.stop()
    events.start()
    async with asyncio.timeout(30), contextlib.aclosing(events.follow(handle.id)) as following:
        assert (await anext(following)).job_id == handle.id
