"""`JobClient`: what a process that enqueues needs, made once beside its `Resources`.

It gives sessions their way to enqueue, pushes hints after commits, starts the embedded worker where there is no other,
and reads and changes jobs. It works on any event loop; on the loop of `start()` it keeps connections.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from scalable_fastapi_system.infra.redis import RedisConnections
from scalable_fastapi_system.jobs import current, metrics
from scalable_fastapi_system.jobs.batching import Batcher
from scalable_fastapi_system.jobs.enqueueing import (
    SESSION_KEY,
    JobCall,
    JobHandle,
    call,
    count_enqueued,
    hints_of,
    new_job,
)
from scalable_fastapi_system.jobs.events import EventHub
from scalable_fastapi_system.jobs.hints import HintSender
from scalable_fastapi_system.jobs.limits import Limits
from scalable_fastapi_system.jobs.records import Hint, JobRecord, NewJob
from scalable_fastapi_system.jobs.registry import JobHandler, JobRegistry, registry
from scalable_fastapi_system.jobs.states import JobState
from scalable_fastapi_system.jobs.store import changing, inserting, overview, reading
from scalable_fastapi_system.jobs.store.base import Inserted
from scalable_fastapi_system.kit.errors import NotFoundException, ServiceUnavailableException
from scalable_fastapi_system.kit.pagination import Page, decode_cursor, page_of

if TYPE_CHECKING:
    from scalable_fastapi_system.infra.resources import Resources
    from scalable_fastapi_system.jobs.embedded import EmbeddedWorker

_INSERT_POOL_SIZE = 2


class AnyOwner:
    """Stands for every owner, where an administrator looks."""


ANY_OWNER = AnyOwner()
Owner = int | None | AnyOwner

_log = structlog.get_logger("jobs")


class JobClient:
    """See the module. `registry` holds the handlers that this process knows."""

    def __init__(
        self, resources: Resources, *, registry: JobRegistry = registry, is_worker: bool = False
    ) -> None:
        """`is_worker`: of a worker's process, which needs no embedded one."""
        self.resources = resources
        self.settings = resources.settings
        self.limits = Limits.of(resources.settings.jobs)
        self.registry = registry
        self.sender = (
            HintSender(RedisConnections(resources.settings.redis))
            if resources.settings.redis.redis_url
            else None
        )
        self._uses_notify = self.sender is None and resources.database.backend == "postgresql"
        self._home: weakref.ref[asyncio.AbstractEventLoop] | None = None
        self._pool: Any = None
        self._pool_lock = asyncio.Lock()
        self._inserts: Batcher[NewJob, Inserted] | None = None
        self._pushes: Batcher[Sequence[Hint], None] | None = None
        self._embedded: EmbeddedWorker | None = None
        self._has_loaded_jobs = False
        if resources.settings.are_jobs_embedded and not is_worker:
            from scalable_fastapi_system.jobs.embedded import EmbeddedWorker

            self._embedded = EmbeddedWorker(resources, registry=registry)
        self.events = EventHub(self)
        resources.database.session_info[SESSION_KEY] = self
        current.set_newest(self)

    # -- life ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Keeps connections on the running loop, and starts the embedded worker if there is one."""
        metrics.prepare_enqueued((handler.kind, handler.queue) for handler in self.registry)
        self.events.start()
        self._home = weakref.ref(asyncio.get_running_loop())
        self._inserts = Batcher(self._insert_batch)
        self._pushes = Batcher(self._push_batch)
        if self._embedded is not None:
            self._embedded.start(stays=True)

    async def stop(self) -> None:
        """Ends those who follow jobs, stops the embedded worker (it drains) and closes what `start` opened."""
        await self.events.stop()
        if self._embedded is not None:
            await asyncio.to_thread(self._embedded.stop)
        await self.resources.database.wait_for_hooks()  # which announce jobs
        if self._inserts is not None:
            await self._inserts.drain()
            self._inserts = None
        if self._pushes is not None:
            await self._pushes.drain()
            self._pushes = None
        if self.sender is not None:
            await self.sender.connections.stop()
        pool, self._pool = self._pool, None
        if pool is not None:
            from scalable_fastapi_system.infra.database.connecting import close_pool

            await close_pool(pool)
        self._home = None

    def _is_home(self) -> bool:
        return self._home is not None and self._home() is asyncio.get_running_loop()

    def find_handler(self, kind: str) -> JobHandler[..., Any] | None:
        """The handler of a kind; the product's jobs are imported when one is asked for that is not known yet.

        None where no job of this process has the kind, also where the product's jobs need a library that only the
        workers have: an error line says so, once.
        """
        handler = self.registry.get(kind)
        if handler is None and not self._has_loaded_jobs:
            self._has_loaded_jobs = True
            try:
                self.resources.product.load_jobs()
            except ImportError as error:
                _log.error(
                    "the product's jobs cannot be imported here: of jobs that are enqueued by name neither the arguments"
                    " are checked nor what @job says of queue, priority, attempts and keys is known",
                    problem=str(error),
                )
            handler = self.registry.get(kind)
        return handler

    # -- enqueueing ---------------------------------------------------------------------------------

    async def enqueue_now(self, handler: JobHandler[..., Any] | str, **arguments: Any) -> JobHandle:
        """Enqueues in a transaction of its own; concurrent calls share one statement and one commit.

        Takes what `enqueue` takes. Returns when the job is stored. Raises ServiceUnavailableException where the database
        is away: then nothing is known to be stored.
        """
        row = new_job(self, call(handler, **arguments))
        inserted = await self._insert(row)
        if inserted.is_new:
            await self.announce([row], hints_of([row]))
        return JobHandle(inserted.job_id, row.kind, inserted.is_new)

    async def enqueue_many_now(self, calls: Sequence[JobCall]) -> list[JobHandle]:
        """Enqueues many in one transaction of its own."""
        rows = [new_job(self, one) for one in calls]
        if self._is_home() and self.resources.database.backend == "postgresql":
            inserted = list(await self._insert_batch(rows))
        else:
            async with self.resources.database.transaction() as session:
                inserted = await inserting.insert_jobs(session, rows)
        new = [row for row, answer in zip(rows, inserted, strict=True) if answer.is_new]
        await self.announce(new, hints_of(new))
        return [JobHandle(one.job_id, row.kind, one.is_new) for row, one in zip(rows, inserted, strict=True)]

    async def _insert(self, row: NewJob) -> Inserted:
        if self._inserts is not None and self._is_home() and self.resources.database.backend == "postgresql":
            return await self._inserts.submit(row)
        async with self.resources.database.transaction() as session:
            answer = await inserting.insert_or_find(session, row)
            await self.notify_in(session)
            return answer

    async def _insert_batch(self, rows: Sequence[NewJob]) -> Sequence[Inserted]:
        from scalable_fastapi_system.jobs.engine import is_store_away
        from scalable_fastapi_system.jobs.store.postgres_pool import create_pool, insert_rows

        try:
            async with self._pool_lock:
                if self._pool is None:
                    self._pool = await create_pool(self.resources.database, size=_INSERT_POOL_SIZE)
            inserted = await insert_rows(self._pool, rows)
            if self._uses_notify:
                await self._pool.execute("SELECT pg_notify('sfs_jobs', '')")
        except Exception as error:
            if is_store_away(error):
                raise ServiceUnavailableException("The database cannot be reached at the moment") from error
            raise
        return inserted

    async def notify_in(self, session: AsyncSession) -> None:
        """Without Redis: has PostgreSQL wake the workers when this transaction commits."""
        if self._uses_notify:
            await session.execute(text("SELECT pg_notify('sfs_jobs', '')"))

    async def announce(self, rows: Sequence[NewJob], hints: Sequence[Hint]) -> None:
        """After the commit: tells the workers. Never raises."""
        count_enqueued(rows)
        await self.push(hints)

    async def push(self, hints: Sequence[Hint]) -> None:
        """Pushes hints, those of concurrent callers in one round trip, or wakes the embedded worker. Never raises."""
        if self._embedded is not None:
            self._embedded.wake()
        elif self.sender is not None and hints:
            if self._pushes is not None and self._is_home():
                await self._pushes.submit(hints)
            else:
                await self.sender.push(hints)

    async def _push_batch(self, batches: Sequence[Sequence[Hint]]) -> Sequence[None]:
        if self.sender is not None:
            await self.sender.push([hint for hints in batches for hint in hints])
        return [None] * len(batches)

    # -- reading ------------------------------------------------------------------------------------

    async def get(self, job_id: UUID, *, owner: Owner = ANY_OWNER) -> JobRecord:
        """A job. Raises NotFoundException where there is none, or none of this owner's."""
        async with self.resources.database.transaction() as session:
            return await self.get_in(session, job_id=job_id, owner=owner)

    async def get_in(self, session: AsyncSession, *, job_id: UUID, owner: Owner) -> JobRecord:
        """As `get`, in a session."""
        owner_id, is_any = _owner(owner)
        record = await reading.get_job(session, job_id=job_id, owner_id=owner_id, is_any_owner=is_any)
        if record is None:
            raise NotFoundException("There is no such job")
        return record

    async def list(
        self,
        *,
        owner: Owner = ANY_OWNER,
        limit: int = 50,
        cursor: str | None = None,
        states: Sequence[JobState] = (),
        kind: str | None = None,
        queue: str | None = None,
    ) -> Page[JobRecord]:
        """Jobs from the newest on, a page at a time."""
        async with self.resources.database.transaction() as session:
            return await self.list_in(
                session, owner=owner, limit=limit, cursor=cursor, states=states, kind=kind, queue=queue
            )

    async def list_in(
        self,
        session: AsyncSession,
        *,
        owner: Owner,
        limit: int,
        cursor: str | None = None,
        states: Sequence[JobState] = (),
        kind: str | None = None,
        queue: str | None = None,
    ) -> Page[JobRecord]:
        """As `list`, in a session."""
        owner_id, is_any = _owner(owner)
        before_id = decode_cursor(cursor, types=[UUID])[0] if cursor else None
        records = await reading.list_jobs(
            session,
            owner_id=owner_id,
            is_any_owner=is_any,
            limit=limit + 1,
            before_id=before_id,
            states=states,
            kind=kind,
            queue=queue,
        )
        return page_of(records, limit=limit, key=lambda record: [record.id])

    # -- changing -----------------------------------------------------------------------------------

    async def cancel(self, job_id: UUID, *, owner: Owner = ANY_OWNER) -> changing.Change:
        """Cancels a waiting job at once, asks a running one to stop (within about two seconds), leaves an ended one."""
        async with self.resources.database.transaction() as session:
            await self.get_in(session, job_id=job_id, owner=owner)
            change = await changing.cancel_job(session, job_id=job_id)
        await self.push(change.hints)
        return change

    async def retry(self, job_id: UUID, *, owner: Owner = ANY_OWNER) -> changing.Change:
        """Queues a failed, cancelled or quarantined job again; one that waits for its next try runs at once."""
        async with self.resources.database.transaction() as session:
            await self.get_in(session, job_id=job_id, owner=owner)
            change = await changing.retry_job(session, job_id=job_id)
            await self.notify_in(session)
        await self.push(change.hints)
        return change

    # -- operating ----------------------------------------------------------------------------------

    async def pause_queue(self, name: str) -> None:
        """Workers take nothing from the queue any more; what runs goes on."""
        async with self.resources.database.transaction() as session:
            await overview.set_queue_paused(session, name=name, is_paused=True)

    async def resume_queue(self, name: str) -> None:
        """Ends a pause."""
        async with self.resources.database.transaction() as session:
            await overview.set_queue_paused(session, name=name, is_paused=False)

    async def queues(self) -> Sequence[overview.QueueView]:
        """Every queue with its depth, age and workers."""
        async with self.resources.database.transaction() as session:
            return await overview.list_queues(session)

    async def workers(self) -> Sequence[overview.WorkerView]:
        """Every worker that was seen lately."""
        async with self.resources.database.transaction() as session:
            return await overview.list_workers(session)

    async def drain_worker(self, worker_id: str) -> bool:
        """Has a worker drain and end. Whether there is such a worker."""
        async with self.resources.database.transaction() as session:
            return await overview.ask_to_drain(session, worker_id=worker_id)

    async def why(self, job_id: UUID, *, owner: Owner = ANY_OWNER) -> overview.Reason | None:
        """Why a job is not at work yet; None for one that has ended."""
        async with self.resources.database.transaction() as session:
            job = await self.get_in(session, job_id=job_id, owner=owner)
            return await overview.why_waiting(session, job)

    async def batch(self, job_id: UUID) -> dict[JobState, int]:
        """How the members of a batch stand, by its callback's id."""
        async with self.resources.database.transaction() as session:
            return await overview.count_members(session, job_id=job_id)


def _owner(owner: Owner) -> tuple[int | None, bool]:
    return (None, True) if isinstance(owner, AnyOwner) else (owner, False)
