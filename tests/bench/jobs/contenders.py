"""The contenders, each as its own documentation would have it, with the same handlers, slots and event loop.

A contender enqueues one job or many (as callers of a service do: concurrently, one call a job) and works until it is
killed. Its library is imported in its own process alone.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

from tests.bench.jobs.tally import Tally

CONCURRENT_CALLERS = 50
SLOTS = 100  # jobs at work in one worker, of the tuned ones
TEN_MS_SECONDS = 0.01


class Contender:
    """What the bench asks for. `kind` is `noop` or `sleep`."""

    def __init__(self, postgres_url: str, redis_url: str) -> None:
        self.postgres_url = postgres_url
        self.redis_url = redis_url

    async def open(self) -> None:
        """Connects for enqueueing."""

    async def close(self) -> None:
        """Disconnects."""

    async def enqueue(self, kind: str) -> None:
        """One job."""
        raise NotImplementedError

    async def enqueue_many(self, kind: str, count: int) -> None:
        """Many, one call each, so many callers at a time."""
        left = iter(range(count))

        async def caller() -> None:
            for _ in left:
                await self.enqueue(kind)

        await asyncio.gather(*(caller() for _ in range(CONCURRENT_CALLERS)))

    async def work(self) -> None:
        """Runs jobs for ever."""
        raise NotImplementedError


def handlers() -> tuple[Callable[..., Awaitable[None]], Callable[..., Awaitable[None]]]:
    """The two handlers, for any calling convention."""
    tally = Tally.of_worker()

    async def noop(*_context: Any, **_arguments: Any) -> None:
        tally.add()

    async def sleep(*_context: Any, **_arguments: Any) -> None:
        tally.add()
        await asyncio.sleep(TEN_MS_SECONDS)

    return noop, sleep


class Arq(Contender):
    """arq with its defaults."""

    options: dict[str, Any] = {}

    async def open(self) -> None:
        from arq.connections import RedisSettings, create_pool

        self._pool = await create_pool(RedisSettings.from_dsn(self.redis_url))

    async def close(self) -> None:
        await self._pool.aclose()

    async def enqueue(self, kind: str) -> None:
        await self._pool.enqueue_job(kind)

    async def work(self) -> None:
        from arq.connections import RedisSettings
        from arq.worker import Worker, func

        noop, sleep = handlers()
        worker = Worker(
            [func(noop, name="noop"), func(sleep, name="sleep")],  # type: ignore[arg-type]
            redis_settings=RedisSettings.from_dsn(self.redis_url),
            handle_signals=False,
            **self.options,
        )
        await worker.async_run()


class TunedArq(Arq):
    """arq with what makes it fast: many slots, a short pause, no results."""

    options = {
        "max_jobs": SLOTS,
        "poll_delay": 0.01,
        "keep_result": 0,
        "queue_read_limit": 5 * SLOTS,
        "log_results": False,
    }


class Saq(Contender):
    """saq on Redis."""

    async def open(self) -> None:
        from saq import Queue

        self._queue = Queue.from_url(self.redis_url)
        await self._queue.connect()

    async def close(self) -> None:
        await self._queue.disconnect()

    async def enqueue(self, kind: str) -> None:
        await self._queue.enqueue(kind, ttl=-1)

    async def work(self) -> None:
        from saq import Queue, Worker

        noop, sleep = handlers()
        queue = Queue.from_url(self.redis_url)
        worker = Worker(queue, functions=[("noop", noop), ("sleep", sleep)], concurrency=SLOTS)  # type: ignore[list-item]
        await worker.start()


class Taskiq(Contender):
    """taskiq with its Redis stream broker, which acknowledges."""

    def _broker(self) -> Any:
        from taskiq_redis import RedisStreamBroker

        return RedisStreamBroker(self.redis_url)

    async def open(self) -> None:
        broker = self._broker()

        async def nothing() -> None: ...

        self._tasks = {kind: broker.register_task(nothing, task_name=kind) for kind in ("noop", "sleep")}
        await broker.startup()
        self._broker_open = broker

    async def close(self) -> None:
        await self._broker_open.shutdown()

    async def enqueue(self, kind: str) -> None:
        await self._tasks[kind].kiq()

    async def work(self) -> None:
        from taskiq.api import run_receiver_task

        noop, sleep = handlers()

        async def bare_noop() -> None:
            await noop()

        async def bare_sleep() -> None:
            await sleep()

        broker = self._broker()
        broker.is_worker_process = True
        broker.register_task(bare_noop, task_name="noop")
        broker.register_task(bare_sleep, task_name="sleep")
        await broker.startup()
        await run_receiver_task(broker, max_async_tasks=SLOTS)


class Procrastinate(Contender):
    """procrastinate, durable on PostgreSQL alone."""

    def _app(self) -> Any:
        from procrastinate import App, PsycopgConnector

        return App(connector=PsycopgConnector(conninfo=self.postgres_url, max_size=SLOTS // 4))

    async def open(self) -> None:
        app = self._app()

        async def nothing() -> None: ...

        self._tasks = {kind: app.task(nothing, name=kind) for kind in ("noop", "sleep")}
        await app.open_async()
        if not await app.check_connection_async():
            await app.schema_manager.apply_schema_async()
        self._app_open = app

    async def close(self) -> None:
        await self._app_open.close_async()

    async def enqueue(self, kind: str) -> None:
        await self._tasks[kind].defer_async()

    async def work(self) -> None:
        noop, sleep = handlers()
        app = self._app()
        app.task(noop, name="noop")
        app.task(sleep, name="sleep")
        async with app.open_async():
            await app.run_worker_async(concurrency=SLOTS, install_signal_handlers=False)


class Ours(Contender):
    """This project: rows in PostgreSQL, hints by Redis."""

    def _resources(self) -> Any:
        from scalable_fastapi_system.infra.resources import Resources
        from scalable_fastapi_system.infra.settings import Settings

        sections: dict[str, Any] = {
            "environment": "test",
            "database": {"database_url": self.postgres_url},
            "redis": {"redis_url": self.redis_url},
            "jobs": {"concurrency": SLOTS},
        }
        return Resources(Settings(_env_file=None, **sections))

    async def open(self) -> None:
        from scalable_fastapi_system.jobs import JobClient

        resources = self._resources()
        await resources.start()
        self._client = JobClient(resources, is_worker=True)
        await self._client.start()

    async def close(self) -> None:
        await self._client.stop()
        await self._client.resources.stop()

    async def enqueue(self, kind: str) -> None:
        await self._client.enqueue_now(kind)

    async def work(self) -> None:
        from scalable_fastapi_system.jobs import JobRegistry, job
        from scalable_fastapi_system.jobs.durable import DurableWorker

        noop, sleep = handlers()
        registry = JobRegistry()

        # the context is not annotated: its class would have to be imported by every contender
        @job("noop", registry=registry)
        async def durable_noop(ctx: Any) -> None:
            await noop()

        @job("sleep", registry=registry)
        async def durable_sleep(ctx: Any) -> None:
            await sleep()

        resources = self._resources()
        await resources.start()
        await DurableWorker(resources, registry=registry, handle_signals=False).serve()


CONTENDERS: dict[str, type[Contender]] = {
    "arq": Arq,
    "arq-tuned": TunedArq,
    "saq": Saq,
    "taskiq": Taskiq,
    "procrastinate": Procrastinate,
    "ours": Ours,
}
# Those whose libraries ask for another redis-py than ours live in an environment of their own.
IN_OTHER_ENVIRONMENT = frozenset({"saq", "taskiq", "procrastinate"})
DURABLE = frozenset({"procrastinate", "ours"})


def make(name: str) -> Contender:
    """A contender on the stores that the environment names."""
    return CONTENDERS[name](os.environ["BENCH_POSTGRES_URL"], os.environ["BENCH_REDIS_URL"])
