"""Following jobs: every change of state and progress, in order, to any number of listeners.

Progress goes through a capped Redis stream a job, so that a listener who comes back gets what it missed; states, and
progress where Redis is away, come from the table. One reader a process asks both twice a second for all jobs that are
followed, however many listen. An event's id says where in both sources its listener stands.
"""

from __future__ import annotations

import asyncio
import re
import weakref
from collections.abc import AsyncIterator, Iterable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog

from scalable_fastapi_system.infra.ending import end_tasks
from scalable_fastapi_system.infra.redis import RedisAwayError
from scalable_fastapi_system.jobs.limits import decode
from scalable_fastapi_system.jobs.states import JobState
from scalable_fastapi_system.kit.errors import ServiceUnavailableException

if TYPE_CHECKING:
    from scalable_fastapi_system.jobs.client import JobClient
    from scalable_fastapi_system.jobs.hints import Keys
    from scalable_fastapi_system.jobs.records import JobRecord

_log = structlog.get_logger("jobs.events")

STREAM_LENGTH = 200
STREAM_TTL_SECONDS = 3600
READ_INTERVAL_SECONDS = 0.5
_READ_AT_ONCE = 100
_WAITING_AT_MOST = 500
_START = "0-0"
# Redis refuses a larger one, and with it the read of all jobs that are followed.
_MAX_POSITION = 2**63 - 1
_EVENT_ID = re.compile(r"(\d{1,20}-\d{1,20})/(\d{1,10})\.(\d)")


@dataclass(frozen=True, slots=True)
class JobEvent:
    """`progress` or `state`; the last one of a job is the `state` that is its end."""

    id: str
    type: str
    job_id: UUID
    status: str
    attempt: int
    progress: Any

    @property
    def is_last(self) -> bool:
        return self.type == "state" and JobState.from_label(self.status).is_terminal


async def publish_progress(client: Any, keys: Keys, reports: Iterable[tuple[UUID, int, str]]) -> None:
    """Appends progress (job, attempt, JSON) to the jobs' streams in one round trip. Raises what redis-py raises."""
    async with client.pipeline(transaction=False) as pipe:
        for job_id, attempt, progress in reports:
            name = keys.events(job_id)
            pipe.xadd(name, {"a": attempt, "p": progress}, maxlen=STREAM_LENGTH, approximate=True)
            pipe.expire(name, STREAM_TTL_SECONDS)
        await pipe.execute()


@dataclass(slots=True)
class _Listener:
    """One who follows a job, and where it stands."""

    events: asyncio.Queue[JobEvent | None]
    position: str
    seen: tuple[int, int] | None
    progress: Any = None
    has_resumed: bool = False


class EventHub:
    """Followers of jobs in one process."""

    def __init__(self, client: JobClient) -> None:
        self._client = client
        self._readers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Reader] = (
            weakref.WeakKeyDictionary()
        )
        # The loops on which nobody is followed any more.
        self._leaving: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()

    async def follow(self, job_id: UUID, *, last_event_id: str | None = None) -> AsyncIterator[JobEvent]:
        """The job's events from where `last_event_id` left off (or its present state), to its end.

        Ends early where the process is stopping or the listener does not keep up: it may come back with its last id.
        """
        loop = asyncio.get_running_loop()
        if loop in self._leaving:
            return
        reader = self._readers.get(loop)
        if reader is None:
            reader = self._readers[loop] = _Reader(self._client)
        listener = _listener_at(last_event_id)
        reader.add(job_id, listener)
        try:
            while (event := await listener.events.get()) is not None:
                yield event
                if event.is_last:
                    return
        finally:
            reader.remove(job_id, listener)

    @staticmethod
    def has_told_all(job: JobRecord, last_event_id: str | None) -> bool:
        """Whether that event was the job's end, so that there is nothing left to tell."""
        return job.state.is_terminal and _listener_at(last_event_id).seen == (job.attempt, int(job.state))

    def start(self) -> None:
        """Lets the running loop's listeners follow, also after an end."""
        self._leaving.discard(asyncio.get_running_loop())

    def end(self) -> None:
        """Ends every listener of the running loop at once, and from now on each new one as it begins.

        A server that leaves calls it before it waits for its requests: a job may be followed for hours.
        """
        loop = asyncio.get_running_loop()
        self._leaving.add(loop)
        reader = self._readers.get(loop)
        if reader is not None:
            reader.end()

    async def stop(self) -> None:
        """As `end`; returns when the reader has ended too."""
        self.end()
        reader = self._readers.pop(asyncio.get_running_loop(), None)
        if reader is not None:
            await reader.stop()


class _Reader:
    """The one that asks, on one loop."""

    def __init__(self, client: JobClient) -> None:
        self._client = client
        self._listeners: dict[UUID, list[_Listener]] = {}
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    def add(self, job_id: UUID, listener: _Listener) -> None:
        self._listeners.setdefault(job_id, []).append(listener)
        self._wake.set()
        if self._task is None or self._task.done():
            # It reads for all who follow: its log lines and spans are not of the request that it began with.
            self._task = asyncio.get_running_loop().create_task(self._run(), context=Context())

    def remove(self, job_id: UUID, listener: _Listener) -> None:
        found = self._listeners.get(job_id, [])
        if listener in found:
            found.remove(listener)
        if not found:
            self._listeners.pop(job_id, None)

    def end(self) -> None:
        for listeners in self._listeners.values():
            for listener in listeners:
                _end(listener)

    async def stop(self) -> None:
        self.end()
        if self._task is not None:
            await end_tasks([self._task])

    async def _run(self) -> None:
        while self._listeners:
            self._wake.clear()
            try:
                await self._read()
            except ServiceUnavailableException:
                pass  # listeners wait; what happens meanwhile is read when the database is back
            except Exception:  # noqa: BLE001 - nobody waits for this task; the next turn may work
                _log.exception("events could not be read")
            try:
                async with asyncio.timeout(READ_INTERVAL_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _read(self) -> None:
        job_ids = list(self._listeners)
        reports = await self._read_streams(job_ids)
        for job_id, found in (reports or {}).items():
            for listener in list(self._listeners.get(job_id, ())):
                for position, attempt, progress in found:
                    if _order(position) > _order(listener.position):
                        listener.position, listener.progress = position, progress
                        seen = (attempt, int(JobState.RUNNING))
                        listener.seen = max(listener.seen or seen, seen)
                        _tell(listener, "progress", job_id, *seen, progress)
        states = await self._read_states(job_ids)
        for job_id in job_ids:
            for listener in list(self._listeners.get(job_id, ())):
                if job_id not in states:
                    _end(listener)
                    continue
                state, attempt, progress = states[job_id]
                if listener.has_resumed:
                    listener.has_resumed = False
                    if listener.progress is None and listener.seen == (attempt, int(state)):
                        listener.progress = progress  # it was told this one before it went away
                # where streams can be read, progress comes from them, in order and once
                is_news = reports is None and progress is not None and progress != listener.progress
                if is_news and not state.is_terminal:
                    listener.progress = progress
                    _tell(listener, "progress", job_id, attempt, int(state), progress)
                if listener.seen != (attempt, int(state)):
                    listener.seen = (attempt, int(state))
                    _tell(listener, "state", job_id, attempt, int(state), progress)
                elif state.is_terminal:
                    _end(listener)  # it was told the end before it came back, and nothing more will follow

    async def _read_streams(self, job_ids: Sequence[UUID]) -> dict[UUID, list[tuple[str, int, Any]]] | None:
        """(position, attempt, progress) of each job that is new to one of its listeners; None where Redis cannot tell."""
        sender = self._client.sender
        if sender is None or sender.connections.is_away:
            return None

        async def read(client: Any) -> list[Any]:
            async with client.pipeline(transaction=False) as pipe:
                for job_id in job_ids:
                    least = min(
                        (listener.position for listener in self._listeners.get(job_id, ())),
                        key=_order,
                        default=_START,
                    )
                    pipe.xrange(sender.keys.events(job_id), min=f"({least}", count=_READ_AT_ONCE)
                found: list[Any] = await pipe.execute()
                return found

        try:
            answers = await sender.connections.call(read)
        except RedisAwayError:
            return None
        return {
            job_id: [
                (position.decode(), int(fields[b"a"]), decode(fields[b"p"])) for position, fields in found
            ]
            for job_id, found in zip(job_ids, answers, strict=True)
            if found
        }

    async def _read_states(self, job_ids: Sequence[UUID]) -> dict[UUID, tuple[JobState, int, Any]]:
        from sqlalchemy import select

        from scalable_fastapi_system.jobs.tables import jobs

        async with self._client.resources.database.transaction() as session:
            rows = await session.execute(
                select(jobs.c.id, jobs.c.state, jobs.c.attempt, jobs.c.progress).where(jobs.c.id.in_(job_ids))
            )
            return {row.id: (JobState(row.state), row.attempt, row.progress) for row in rows}


def _listener_at(last_event_id: str | None) -> _Listener:
    events: asyncio.Queue[JobEvent | None] = asyncio.Queue(_WAITING_AT_MOST)
    found = _EVENT_ID.fullmatch(last_event_id or "")
    if found is None or max(_order(found[1])) > _MAX_POSITION:
        return _Listener(events, _START, None)
    seen = (int(found[2]), int(found[3]))
    # without a stream nothing says which progress was the last: then the present one is told again
    return _Listener(events, found[1], seen, has_resumed=found[1] != _START)


def _tell(listener: _Listener, kind: str, job_id: UUID, attempt: int, state: int, progress: Any) -> None:
    event = JobEvent(
        id=f"{listener.position}/{attempt}.{state}",
        type=kind,
        job_id=job_id,
        status=JobState(state).label,
        attempt=attempt,
        progress=progress,
    )
    try:
        listener.events.put_nowait(event)
    except asyncio.QueueFull:
        _end(listener)  # it does not keep up; it may come back with its last id


def _end(listener: _Listener) -> None:
    while True:
        try:
            listener.events.put_nowait(None)
        except asyncio.QueueFull:
            listener.events.get_nowait()
        else:
            return


def _order(position: str) -> tuple[int, int]:
    milliseconds, _, sequence = position.partition("-")
    return int(milliseconds), int(sequence)
