"""Workers and clients in the test's own loop, on a registry of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

from scalable_fastapi_system.infra.resources import Resources
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.jobs import JobClient, JobRecord, JobRegistry, JobState
from scalable_fastapi_system.jobs.durable import DurableWorker


class Lab:
    """One installation: resources, a client, and the workers that a test starts."""

    def __init__(self, settings: Settings, registry: JobRegistry) -> None:
        self.settings = settings
        self.registry = registry
        self.resources = Resources(settings)
        self.client = JobClient(self.resources, registry=registry, is_worker=True)
        self.workers: list[DurableWorker] = []
        self._tasks: dict[DurableWorker, asyncio.Task[None]] = {}

    async def start(self) -> None:
        await self.resources.start()
        await self.client.start()

    async def stop(self) -> None:
        for worker in list(self.workers):
            await self.stop_worker(worker)
        await self.client.stop()
        await self.resources.stop()

    def new_worker(self, **options: Any) -> DurableWorker:
        """One that does not serve yet, for what a test must put in its place first: a worker that serves may be in a claim."""
        options = {"registry": self.registry, "handle_signals": False, **options}
        return DurableWorker(self.resources, **options)

    async def start_worker(self, worker: DurableWorker | None = None, **options: Any) -> DurableWorker:
        """A worker, or the new one that is given, that has connected and taken its place."""
        worker = worker or self.new_worker(**options)
        self.workers.append(worker)
        self._tasks[worker] = asyncio.create_task(worker.serve())
        async with asyncio.timeout(30):
            while worker.heart.beat_at == float("-inf"):
                await asyncio.sleep(0.01)
        return worker

    async def stop_worker(self, worker: DurableWorker) -> None:
        """A drain, as SIGTERM asks for it."""
        self.workers.remove(worker)
        task = self._tasks.pop(worker)
        worker.request_stop()
        async with asyncio.timeout(40):
            await asyncio.shield(task)  # which would take the time-out's cancel for the end of its drain

    async def kill_worker(self, worker: DurableWorker) -> None:
        """As SIGKILL would: nothing is written or handed back from here on."""
        self.workers.remove(worker)
        task = self._tasks.pop(worker)
        worker.engine.store.finish = _silence  # type: ignore[method-assign]
        worker.close = _nothing  # type: ignore[method-assign]
        dead = [*worker._helpers, *worker.tasks.values(), task]
        for one in dead:
            one.cancel()
        await asyncio.wait(dead, timeout=0.2)
        for one in (*dead, worker.engine._endings._task):
            if one is not None and not one.done():
                one.cancel()
                await asyncio.wait({one}, timeout=1)
        await worker.engine.store.stop()
        await worker.channel.close()
        if worker._pool is not None:
            await worker._pool.aclose(close_connection_pool=True)

    async def state(self, job_id: UUID) -> JobState:
        return (await self.client.get(job_id)).state

    async def ended(self, job_id: UUID, *, timeout_seconds: float = 30.0) -> JobRecord:
        """The job once it has ended."""
        return await self.until(job_id, lambda job: job.state.is_terminal, timeout_seconds=timeout_seconds)

    async def until(
        self, job_id: UUID, condition: Callable[[JobRecord], bool], *, timeout_seconds: float = 30.0
    ) -> JobRecord:
        """The job once a condition holds; fails with its last state."""
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        while True:
            job = await self.client.get(job_id)
            if condition(job):
                return job
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(f"after {timeout_seconds} s: {job}")
            await asyncio.sleep(0.01)


async def _silence(*_args: Any, **_options: Any) -> Any:
    await asyncio.sleep(3600)


async def _nothing() -> None: ...


@contextlib.asynccontextmanager
async def running_lab(settings: Settings, registry: JobRegistry) -> AsyncIterator[Lab]:
    lab = Lab(settings, registry)
    await lab.start()
    try:
        yield lab
    finally:
        await lab.stop()
