"""`JobContext`: what a handler gets besides its arguments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog

from scalable_fastapi_system.infra.database import on_commit
from scalable_fastapi_system.jobs.errors import JobLostError, JobUsageError
from scalable_fastapi_system.jobs.records import Ending, Outcome
from scalable_fastapi_system.jobs.running import Running
from scalable_fastapi_system.jobs.store.ending import finish_job, owns
from scalable_fastapi_system.jobs.store.reading import next_of_keys

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from scalable_fastapi_system.infra.http_client import HttpClient
    from scalable_fastapi_system.infra.resources import Resources
    from scalable_fastapi_system.jobs.engine import Engine

Progress = float | Mapping[str, Any]


class JobContext:
    """One attempt of one job, as its handler sees it.

    `resources` are those of the process: settings, database, cache, storage. `result` is what `transaction()` stores as
    the job's result.
    """

    __slots__ = ("_engine", "_loop", "_run", "attempt", "job_id", "kind", "log", "resources", "result")

    def __init__(self, engine: Engine, run: Running) -> None:
        self._engine = engine
        self._run = run
        self._loop = asyncio.get_running_loop()
        # asyncpg gives a subclass that other libraries do not know
        self.job_id = UUID(int=run.claim.job_id.int)
        self.attempt: int = run.claim.attempt
        self.kind: str = run.claim.kind
        self.resources: Resources = engine.resources
        self.log = structlog.get_logger("jobs.handler")
        self.result: Any = None

    @property
    def owner_id(self) -> int | None:
        """The user for whom the job was enqueued."""
        return self._run.claim.owner_id

    @property
    def queue(self) -> str:
        return self._run.claim.queue

    @property
    def failures(self) -> int:
        """How many attempts failed before this one."""
        return self._run.claim.failures

    @property
    def is_last_attempt(self) -> bool:
        """Whether the job has failed if this attempt fails."""
        return self._run.claim.failures + 1 >= self._run.claim.max_attempts

    @property
    def created_at(self) -> datetime:
        return self._run.claim.created_at

    @property
    def request_id(self) -> str | None:
        """The request that enqueued the job."""
        return self._run.claim.request_id

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt: hand it to services outside, so that they do a thing once."""
        return str(self.job_id)

    @property
    def http(self) -> HttpClient:
        """The worker's own client: that of `resources` is the application's, on another loop, where this runs in the API."""
        return self._engine.http

    @property
    def is_cancelled(self) -> bool:
        """Whether to stop: for handlers in threads, which nothing can interrupt, and for loops without an await.

        Also once the time is over: nobody waits for the handler any more.
        """
        return self._run.stop_reason is not None or self._run.is_ending

    async def progress(self, value: Progress, message: str | None = None) -> None:
        """Tells how far the job is: a fraction of 1, or a mapping; written at most every half second.

        Raises ValidationException over 4 KiB of JSON.
        """
        self._report(snapshot_of(value, message))

    def _report(self, snapshot: Mapping[str, Any]) -> None:
        run = self._run
        run.progress = self._engine.limits.encode_progress(snapshot)
        run.is_progress_new = True
        self._engine.progress.note(run)

    @asynccontextmanager
    async def transaction(self, *, finish: bool = True) -> AsyncIterator[AsyncSession]:
        """A database transaction that commits together with the job's success, exactly once over all attempts.

        What the block writes and the end of the job (with `self.result`) are one commit: either both are there or
        neither. With finish=False the job goes on, and the block commits only if this attempt still owns it; a later
        attempt may run such a block again. Raises JobLostError, and commits nothing, where the job has another owner.
        """
        run = self._run
        if run.is_finished:
            raise JobUsageError(f"{self.kind}: this attempt has finished its job already")
        engine = self._engine
        async with self.resources.database.transaction() as session:
            yield session
            await session.flush()
            if not finish:
                if not await owns(
                    session, job_id=self.job_id, attempt=self.attempt, worker_id=engine.worker_id
                ):
                    raise JobLostError(f"the job {self.job_id} has another owner")
            else:
                ending = Ending(
                    run.claim,
                    Outcome.SUCCEEDED,
                    result=engine.limits.encode_result(self.result),
                    progress=run.progress,
                )
                is_written, hints = await finish_job(
                    session,
                    ending,
                    worker_id=engine.worker_id,
                    has_webhooks=self.owner_id in engine.webhook_owners,
                )
                if not is_written:
                    raise JobLostError(f"the job {self.job_id} has another owner")
                if run.claim.concurrency_key is not None:
                    hints += await next_of_keys(session, {run.claim.concurrency_key})
                if hints:
                    on_commit(session, lambda: engine.announce(hints))
        run.is_finished = finish


class SyncJobContext:
    """The context of a handler in a thread: the same facts, and progress without await."""

    __slots__ = ("_context",)

    def __init__(self, context: JobContext) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        if name in {"transaction"}:
            raise AttributeError(f"{name} needs an async handler")
        return getattr(self._context, name)

    def progress(self, value: Progress, message: str | None = None) -> None:
        """As `JobContext.progress`, from a thread."""
        snapshot = snapshot_of(value, message)
        self._context._engine.limits.encode_progress(snapshot)  # raises here, in the handler
        self._context._loop.call_soon_threadsafe(self._context._report, snapshot)


def snapshot_of(value: Progress, message: str | None) -> dict[str, Any]:
    """Progress as it is stored."""
    snapshot: dict[str, Any] = dict(value) if isinstance(value, Mapping) else {"fraction": _fraction(value)}
    if message is not None:
        snapshot["message"] = message
    return snapshot


def _fraction(value: float) -> float:
    return min(1.0, max(0.0, float(value)))
