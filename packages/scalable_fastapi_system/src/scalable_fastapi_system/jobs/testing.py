"""Help for tests of code that enqueues, and of handlers.

    result = await run_job(profile, dataset_id=7, resources=app.state.resources)     # a handler, now, without a store
    await run_until_idle(client)                                                     # everything that is due
    (job,) = await enqueued(client, "datasets.profile"); assert job.args == {"dataset_id": 7}

`run_until_idle` runs the real engine against the client's database, so retries, chains and transactions are real; it takes
the place of a worker, and none may run beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog

from scalable_fastapi_system.jobs.client import JobClient
from scalable_fastapi_system.jobs.limits import Limits, decode
from scalable_fastapi_system.jobs.records import JobRecord
from scalable_fastapi_system.jobs.registry import JobHandler
from scalable_fastapi_system.jobs.states import JobState
from scalable_fastapi_system.kit.ids import new_id

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from scalable_fastapi_system.infra.resources import Resources

_IDLE_TIMEOUT_SECONDS = 30.0


@dataclass
class InlineContext:
    """A JobContext without a job: `reports` holds the progress that the handler told."""

    resources: Any = None
    owner_id: int | None = None
    job_id: UUID = field(default_factory=new_id)
    attempt: int = 1
    failures: int = 0
    kind: str = ""
    queue: str = "default"
    request_id: str | None = None
    is_cancelled: bool = False
    is_last_attempt: bool = False
    result: Any = None
    reports: list[Any] = field(default_factory=list)
    log: Any = field(default_factory=lambda: structlog.get_logger("jobs.handler"))

    @property
    def idempotency_key(self) -> str:
        return str(self.job_id)

    async def progress(self, value: Any, message: str | None = None) -> None:
        self.reports.append((value, message) if message is not None else value)

    @asynccontextmanager
    async def transaction(self, *, finish: bool = True) -> AsyncIterator[AsyncSession]:
        async with self.resources.database.transaction() as session:
            yield session


async def run_job(
    handler: JobHandler[..., Any],
    *,
    resources: Resources | None = None,
    context: InlineContext | None = None,
    **arguments: Any,
) -> Any:
    """Runs a handler here and now, as a job would: arguments and result go through JSON and its limits.

    Its exceptions come through as they are. Returns the result, or `ctx.result` where the handler returns nothing.
    """
    inline = context or InlineContext(resources=resources)
    inline.kind, inline.queue = handler.kind, handler.queue
    values = handler.decode_args(handler.encode_args(arguments).decode())
    if handler.runs_in == "loop":
        result = await handler.function(inline, **values)
    else:
        result = await asyncio.to_thread(handler.function, _SyncInlineContext(inline), **values)
    limits = Limits(args_bytes=256 * 1024, result_bytes=64 * 1024)
    return decode(limits.encode_result(inline.result if result is None else result))


class _SyncInlineContext:
    """For handlers in threads and processes: progress without await."""

    def __init__(self, inline: InlineContext) -> None:
        self._inline = inline

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inline, name)

    def progress(self, value: Any, message: str | None = None) -> None:
        self._inline.reports.append((value, message) if message is not None else value)


async def run_until_idle(client: JobClient, *, timeout_seconds: float = _IDLE_TIMEOUT_SECONDS) -> int:
    """Runs every job that is due, and what they enqueue or release, until none is. How many attempts ended.

    Jobs that wait for a later time stay; retries count as that. Raises TimeoutError where it does not come to an end.
    """
    from scalable_fastapi_system.jobs.durable import DurableWorker

    worker = DurableWorker(client.resources, registry=client.registry, use_redis=False, handle_signals=False)
    serving = asyncio.create_task(worker.serve())
    try:
        async with asyncio.timeout(timeout_seconds):
            while True:
                await asyncio.sleep(0.01)
                if worker.engine.running or worker.heart.beat_at == float("-inf"):
                    continue
                page = await client.list(limit=1, states=[JobState.QUEUED, JobState.RUNNING])
                if not page.items and not worker.engine.running:
                    return worker.jobs_complete
                worker.local.wake()
    finally:
        worker.request_stop()
        await serving


async def enqueued(
    client: JobClient, kind: str | JobHandler[..., Any] | None = None, *, limit: int = 1000
) -> Sequence[JobRecord]:
    """The jobs that wait, the oldest first; of one kind if it is named."""
    name = kind.kind if isinstance(kind, JobHandler) else kind
    page = await client.list(limit=limit, states=[JobState.SCHEDULED, JobState.QUEUED], kind=name)
    return list(reversed(page.items))


async def assert_enqueued(
    client: JobClient, kind: str | JobHandler[..., Any], *, times: int = 1, **arguments: Any
) -> Sequence[JobRecord]:
    """Fails unless exactly so many jobs of the kind wait that have these arguments (others may have more)."""
    found = await enqueued(client, kind)
    fitting = [job for job in found if all(job.args.get(name) == value for name, value in arguments.items())]
    if len(fitting) != times:
        raise AssertionError(
            f"{len(fitting)} jobs of {kind!r} with {arguments!r} wait, not {times}; of that kind there are: "
            f"{[job.args for job in found]}"
        )
    return fitting
