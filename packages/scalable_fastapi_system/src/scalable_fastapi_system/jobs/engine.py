"""`Engine`: what runs claimed jobs in one worker, whatever brings the claims.

It keeps the set of running attempts, executes handlers, writes ends and progress in batches, and tells others about jobs
that have become ready. A write that meets an unreachable database is repeated until it is answered: an end is either
written, or the lease has passed to somebody else and the answer says so.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from scalable_fastapi_system.jobs import metrics
from scalable_fastapi_system.jobs.batching import Batcher
from scalable_fastapi_system.jobs.limits import Limits
from scalable_fastapi_system.jobs.records import Ending, Hint, Outcome
from scalable_fastapi_system.jobs.registry import JobRegistry
from scalable_fastapi_system.jobs.runner import execute
from scalable_fastapi_system.jobs.running import Running
from scalable_fastapi_system.jobs.store import JobStore
from scalable_fastapi_system.kit.errors import ServiceUnavailableException

if TYPE_CHECKING:
    from scalable_fastapi_system.infra.http_client import HttpClient
    from scalable_fastapi_system.infra.resources import Resources

_log = structlog.get_logger("jobs")

_RETRY_FIRST_SECONDS = 0.05
_RETRY_LAST_SECONDS = 1.0
_PROGRESS_INTERVAL_SECONDS = 0.5


def is_store_away(error: BaseException) -> bool:
    """Whether the tables may answer if asked again: connections, restarts, time-outs, deadlocks, standbys."""
    if isinstance(error, ServiceUnavailableException | PoolTimeoutError | OSError | TimeoutError):
        return True
    if isinstance(error, DBAPIError):
        from scalable_fastapi_system.infra.database.outage import as_unavailable

        return as_unavailable(error) is not None or _is_passing(
            str(getattr(error.orig, "sqlstate", None) or "")
        )
    module = type(error).__module__
    if not module.startswith("asyncpg"):
        return False
    import asyncpg

    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):
        return True  # the connection or the pool is closed, or in a state that only a new one ends
    return _is_passing(str(getattr(error, "sqlstate", None) or ""))


def _is_passing(sqlstate: str) -> bool:
    # 08 connection, 25006 standby, 40 serialization and deadlock, 53 resources, 55P03 lock, 57 cancelled or going down
    return sqlstate.startswith(("08", "40", "53", "57")) or sqlstate in {"25006", "55P03"}


class Engine:
    """See the module. `announce` (hints) and `publish` (progress) are given by whoever talks to Redis."""

    def __init__(
        self,
        resources: Resources,
        store: JobStore,
        registry: JobRegistry,
        *,
        worker_id: str,
        announce: Callable[[Sequence[Hint]], Awaitable[None]],
        publish: Callable[[Sequence[tuple[UUID, int, str]]], Awaitable[None]],
    ) -> None:
        self.resources = resources
        self.settings = resources.settings.jobs
        self.limits = Limits.of(self.settings)
        self.store = store
        self.registry = registry
        self.worker_id = worker_id
        self.running: dict[UUID, Running] = {}
        self.random = random.random
        self.webhook_owners: frozenset[int] = frozenset()
        self.progress = ProgressWriter(self)
        self._announce = announce
        self.publish = publish
        self._endings: Batcher[Ending, bool] = Batcher(self._write_endings, max_size=1000)

    @cached_property
    def http(self) -> HttpClient:
        """The worker's client for services outside, of the loop that runs the handlers; made at its first use."""
        from scalable_fastapi_system.infra.http_client import HttpClient

        return HttpClient(self.resources.settings)

    async def close_http(self) -> None:
        """Closes the client where there is one."""
        http: HttpClient | None = self.__dict__.pop("http", None)
        if http is not None:
            await http.close()

    async def announce(self, hints: Sequence[Hint]) -> None:
        """Tells workers that jobs may be ready. Never raises: the reconciler finds what is not told."""
        if hints:
            await self._announce(hints)

    async def run(self, run: Running) -> None:
        """Executes one attempt and writes its end. Does not raise."""
        try:
            ending = await execute(self, run)
            run.is_ending = True
            if ending is not None and not await self._endings.submit(ending):
                metrics.leases_lost.inc()
                _log.warning("job had another owner", job_id=str(run.claim.job_id), attempt=run.claim.attempt)
        except Exception:  # noqa: BLE001 - it is logged, and the reconciler repairs what it left
            # A defect of the engine, or a store that takes no end of it: the lease runs out and the job is taken back.
            _log.exception("job could not be ended", job_id=str(run.claim.job_id))
        finally:
            # An attempt that was overtaken may end while the next one runs here.
            if self.running.get(run.claim.job_id) is run:
                del self.running[run.claim.job_id]

    async def drain_endings(self) -> None:
        """Returns when every end handed in has been written."""
        await self._endings.drain()
        await self.progress.drain()

    async def insist(self, call: Callable[[], Awaitable[Any]], what: str) -> Any:
        """Repeats a call of the store until the store answers."""
        pause_seconds = _RETRY_FIRST_SECONDS
        while True:
            try:
                return await call()
            except Exception as error:
                if not is_store_away(error):
                    raise
                metrics.store_errors.inc()
                _log.warning("job store away", at=what, reason=type(error).__name__)
            await asyncio.sleep(pause_seconds * (0.5 + self.random()))
            pause_seconds = min(_RETRY_LAST_SECONDS, pause_seconds * 2)

    # -- inside -------------------------------------------------------------------------------------

    async def _write_endings(self, endings: Sequence[Ending]) -> list[bool]:
        written: set[UUID] = set()
        hints: list[Hint] = []
        tries = 0

        async def write() -> None:
            nonlocal tries
            tries += 1
            report = await self.store.finish(
                endings, worker_id=self.worker_id, webhook_owners=self.webhook_owners
            )
            written.update(report.written)
            hints.extend(report.hints)

        try:
            await self.insist(write, "finish")
        except Exception as error:  # noqa: BLE001 - whatever the database has against one of them
            if len(endings) == 1:
                return [await self._write_refused(endings[0], error)]
            # One that the database refuses must not take the others with it.
            return [(await self._write_endings([ending]))[0] for ending in endings]
        if hints:
            await self.announce(hints)
        if tries > 1 and len(written) < len(endings):
            # An earlier try may have been committed although its answer was lost.
            written |= await self._ended_by_us([one for one in endings if one.claim.job_id not in written])
        return [ending.claim.job_id in written for ending in endings]

    async def _write_refused(self, ending: Ending, error: Exception) -> bool:
        """The database does not take this end as it is (a result that it cannot store): the job has failed with that."""
        _log.error("job's end refused by the store", job_id=str(ending.claim.job_id), exc_info=error)
        note = self.limits.note(
            type(error).__name__, "the end of the job could not be stored", attempt=ending.claim.attempt
        )
        substitute = Ending(ending.claim, Outcome.FAILED, error=note)
        report = await self.insist(
            lambda: self.store.finish(
                [substitute], worker_id=self.worker_id, webhook_owners=self.webhook_owners
            ),
            "finish refused",
        )
        return ending.claim.job_id in report.written

    async def _ended_by_us(self, endings: Sequence[Ending]) -> set[UUID]:
        from sqlalchemy import select

        from scalable_fastapi_system.jobs.tables import jobs

        attempts = {ending.claim.job_id: ending.claim.attempt for ending in endings}

        async def look() -> set[UUID]:
            async with self.resources.database.transaction() as session:
                rows = await session.execute(
                    select(jobs.c.id, jobs.c.attempt).where(
                        jobs.c.id.in_(list(attempts)),
                        jobs.c.worker_id == self.worker_id,
                        jobs.c.finished_at.is_not(None),
                    )
                )
                return {job_id for job_id, attempt in rows if attempts[job_id] == attempt}

        found: set[UUID] = await self.insist(look, "look for lost answers")
        return found


class ProgressWriter:
    """Writes the newest progress of all running jobs in one statement, at most every half second."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._new: dict[UUID, Running] = {}
        self._task: asyncio.Task[None] | None = None

    def note(self, run: Running) -> None:
        """The job has new progress; called on the loop."""
        self._new[run.claim.job_id] = run
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write())

    async def drain(self) -> None:
        """Ends the writer: what is not written yet goes with the end of its job."""
        task = self._task
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait({task})

    async def _write(self) -> None:
        engine = self._engine
        while self._new:
            noted, self._new = self._new, {}
            rows = [
                (job_id, run.claim.attempt, run.progress)
                for job_id, run in noted.items()
                if run.progress is not None and not run.is_ending and not run.is_finished
            ]
            try:
                if rows:
                    await engine.store.save_progress(rows, worker_id=engine.worker_id)
                    await engine.publish(rows)
            except Exception as error:  # noqa: BLE001 - progress is a courtesy; the next report is soon
                _log.warning("progress not written", count=len(rows), reason=type(error).__name__)
            await asyncio.sleep(_PROGRESS_INTERVAL_SECONDS)
