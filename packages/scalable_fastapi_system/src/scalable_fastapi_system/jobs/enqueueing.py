"""Enqueueing: a job becomes a row in the caller's own transaction, so the job and the data it is about are stored
together or not at all. Workers hear of it after the commit; what they do not hear, the reconciler finds.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from scalable_fastapi_system.infra.database import on_commit
from scalable_fastapi_system.infra.tracing import current_traceparent
from scalable_fastapi_system.jobs import metrics
from scalable_fastapi_system.jobs.errors import JobUsageError
from scalable_fastapi_system.jobs.limits import (
    LEAST_TIMEOUT_SECONDS,
    MAX_ATTEMPTS,
    MAX_KEY_LENGTH,
    MAX_PRIORITY,
    MAX_QUEUE_LENGTH,
    MAX_SECONDS,
    MIN_PRIORITY,
    encode,
    is_seconds,
    is_within,
    refuse_long_integers,
)
from scalable_fastapi_system.jobs.records import Hint, NewJob
from scalable_fastapi_system.jobs.registry import JobHandler
from scalable_fastapi_system.jobs.store.inserting import insert_jobs, insert_or_find
from scalable_fastapi_system.kit.clock import utc_now
from scalable_fastapi_system.kit.errors import ValidationException
from scalable_fastapi_system.kit.ids import is_request_id, new_id
from scalable_fastapi_system.kit.texts import is_short_text

if TYPE_CHECKING:
    from scalable_fastapi_system.jobs.client import JobClient

SESSION_KEY = "jobs"


@dataclass(frozen=True, slots=True)
class JobHandle:
    """An enqueued job. `is_new` is False where a live job with the same unique key (or the id) was there already."""

    id: UUID
    kind: str
    is_new: bool = True


@dataclass(frozen=True, slots=True)
class JobOptions:
    """Everything about a job but its kind and arguments; see `enqueue`."""

    job_id: UUID | None = None
    owner_id: int | None = None
    run_at: datetime | None = None
    delay_seconds: float | None = None
    priority: int | None = None
    queue: str | None = None
    max_attempts: int | None = None
    timeout_seconds: float | None = None
    deadline_at: datetime | None = None
    unique_key: str | None = None
    concurrency_key: str | None = None


@dataclass(frozen=True, slots=True)
class JobCall:
    """A job to be, with its arguments: a step of a chain, a member of a batch. Made by `call`.

    Raises TypeError for what is neither a job nor the name of a kind.
    """

    handler: JobHandler[..., Any] | str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    options: JobOptions = field(default_factory=JobOptions)

    def __post_init__(self) -> None:
        handler: object = self.handler
        if isinstance(handler, JobHandler | str):
            return
        if inspect.isroutine(handler):
            raise TypeError(
                f"{handler.__name__} is no job: write @job(…) above it, or give the name of a kind"
            )
        raise TypeError(f"a job or the name of a kind is needed, and not {handler!r}")


def call(handler: JobHandler[..., Any] | str, **arguments: Any) -> JobCall:
    """A job for `enqueue_many`, `enqueue_chain` or `enqueue_batch`; takes what `enqueue` takes."""
    options = {name: arguments.pop(name) for name in _OPTION_NAMES if name in arguments}
    return JobCall(handler, arguments, JobOptions(**options))


_OPTION_NAMES = tuple(JobOptions.__dataclass_fields__)


async def enqueue(
    session: AsyncSession,
    handler: JobHandler[..., Any] | str,
    *,
    job_id: UUID | None = None,
    owner_id: int | None = None,
    run_at: datetime | None = None,
    delay_seconds: float | None = None,
    priority: int | None = None,
    queue: str | None = None,
    max_attempts: int | None = None,
    timeout_seconds: float | None = None,
    deadline_at: datetime | None = None,
    unique_key: str | None = None,
    concurrency_key: str | None = None,
    **arguments: Any,
) -> JobHandle:
    """Inserts a job in the session's transaction; it exists, and runs, once that commits.

    run_at (aware) or delay_seconds: not before. deadline_at: not after; a job that has not begun by then fails.
    priority: smaller first. unique_key: while a job of the owner with this key is live, that job is the answer.
    concurrency_key: of the jobs with this key one runs at a time. Raises ValidationException where the arguments do not
    fit the handler's signature or an option cannot be kept, PayloadTooLargeException where the arguments are too large.
    """
    options = JobOptions(
        job_id, owner_id, run_at, delay_seconds, priority, queue, max_attempts, timeout_seconds, deadline_at,
        unique_key, concurrency_key,
    )  # fmt: skip
    client = client_of(session)
    row = new_job(client, JobCall(handler, arguments, options))
    if job_id is not None:
        inserted = await insert_or_find(session, row)
    else:
        inserted = (await insert_jobs(session, [row]))[0]
    if inserted.is_new:
        await _announce_after_commit(session, client, [row])
    return JobHandle(inserted.job_id, row.kind, inserted.is_new)


async def enqueue_many(session: AsyncSession, calls: Sequence[JobCall]) -> list[JobHandle]:
    """Inserts jobs together, in few statements."""
    client = client_of(session)
    rows = [new_job(client, one) for one in calls]
    inserted = await insert_jobs(session, rows)
    new = [row for row, answer in zip(rows, inserted, strict=True) if answer.is_new]
    await _announce_after_commit(session, client, new)
    return [
        JobHandle(answer.job_id, row.kind, answer.is_new) for row, answer in zip(rows, inserted, strict=True)
    ]


async def enqueue_chain(session: AsyncSession, steps: Sequence[JobCall]) -> list[JobHandle]:
    """Inserts jobs that run one after another, each when the one before has succeeded.

    A step that fails for good cancels those after it; when it is retried by hand, they wait for it again. Only the first
    may have a time to wait for. Raises JobUsageError where another has one.
    """
    client = client_of(session)
    rows: list[NewJob] = []
    following: UUID | None = None
    for step in reversed(steps):
        row = replace(new_job(client, step), then_id=following, waits_for=1, needs_success=True)
        following = row.id
        rows.append(row)
    if not rows:
        return []
    rows.reverse()
    _refuse_times(rows[1:], "a step of a chain begins when the one before it has succeeded")
    rows[0] = replace(rows[0], waits_for=0, needs_success=False)
    await _insert_new(session, client, rows)
    return [JobHandle(row.id, row.kind) for row in rows]


async def enqueue_batch(
    session: AsyncSession, members: Sequence[JobCall], *, on_complete: JobCall
) -> tuple[JobHandle, list[JobHandle]]:
    """Inserts jobs that run side by side, and one that runs when all of them have ended, however they ended.

    Gives that last one first. Its handler learns how the members ended from `JobClient.batch(ctx.job_id)`.
    """
    if not members:
        raise JobUsageError("a batch needs a member")
    client = client_of(session)
    last = replace(new_job(client, on_complete), waits_for=len(members))
    _refuse_times([last], "what follows a batch begins when its members have ended")
    rows = [replace(new_job(client, member), then_id=last.id) for member in members]
    await _insert_new(session, client, [last, *rows])
    return JobHandle(last.id, last.kind), [JobHandle(row.id, row.kind) for row in rows]


def new_job(client: JobClient, one: JobCall) -> NewJob:
    """The row for a call: validated, with the handler's own settings where the call has none."""
    if not isinstance(one, JobCall):
        raise TypeError(f"write call(handler, …) for each job of many, and not {one!r}")
    options = one.options
    _check_options(options)
    if isinstance(one.handler, str):
        kind, handler = one.handler, client.find_handler(one.handler)
    else:
        kind, handler = one.handler.kind, one.handler
    if handler is None:
        # A kind that only workers know, such as one of another version. They validate the arguments.
        try:
            raw = encode(dict(one.arguments))
            refuse_long_integers(raw)
        except ValueError as error:
            raise ValidationException(f"The arguments of {kind} cannot be stored: {error}") from None
        queue, priority, max_attempts, timeout_seconds = "default", 0, None, None
        unique_key, concurrency_key = options.unique_key, options.concurrency_key
    else:
        values = handler.validate_args(dict(one.arguments))
        raw = handler.encode_values(values)
        queue, priority = handler.queue, handler.priority
        max_attempts, timeout_seconds = handler.max_attempts, None
        unique_key = options.unique_key
        if unique_key is None and handler.unique:
            unique_key = handler.unique_key_of(raw)
        concurrency_key = options.concurrency_key or handler.concurrency_key_of(values)
    for name, key in (("unique_key", unique_key), ("concurrency_key", concurrency_key)):
        if key is not None and not is_short_text(key, MAX_KEY_LENGTH):
            raise ValidationException(
                f"A key is text of 1 to {MAX_KEY_LENGTH} characters that can be stored", field=name
            )
    return NewJob(
        id=options.job_id or new_id(),
        kind=kind,
        queue=queue if options.queue is None else options.queue,
        args=client.limits.check_args(raw),
        max_attempts=options.max_attempts or max_attempts or client.settings.jobs.default_max_attempts,
        owner_id=options.owner_id,
        priority=priority if options.priority is None else options.priority,
        run_at=_run_at(options),
        deadline_at=options.deadline_at,
        timeout_seconds=options.timeout_seconds or timeout_seconds,
        unique_key=None if unique_key is None else f"{_scope(options.owner_id)}:{unique_key}",
        concurrency_key=concurrency_key,
        request_id=current_request_id(),
        traceparent=current_traceparent(),
    )


def _check_options(options: JobOptions) -> None:
    """Raises ValidationException for what cannot be kept; the keys are checked when they are made.

    What `@job` says was checked there, so a call without options costs a few comparisons.
    """
    if options.priority is not None and not is_within(options.priority, MIN_PRIORITY, MAX_PRIORITY):
        raise ValidationException(
            f"A priority is a number from {MIN_PRIORITY} to {MAX_PRIORITY}", field="priority"
        )
    if options.queue is not None and not is_short_text(options.queue, MAX_QUEUE_LENGTH):
        raise ValidationException(
            f"A queue has a name of 1 to {MAX_QUEUE_LENGTH} characters that can be stored", field="queue"
        )
    if options.max_attempts is not None and not is_within(options.max_attempts, 1, MAX_ATTEMPTS):
        raise ValidationException(f"Attempts are a number from 1 to {MAX_ATTEMPTS}", field="max_attempts")
    if options.timeout_seconds is not None and not is_seconds(
        options.timeout_seconds, least=LEAST_TIMEOUT_SECONDS
    ):
        raise ValidationException(
            f"A time limit is a number of seconds above 0, at most {MAX_SECONDS}", field="timeout_seconds"
        )
    if options.delay_seconds is not None and not is_seconds(options.delay_seconds, least=-MAX_SECONDS):
        raise ValidationException(
            f"A delay is a number of seconds, at most {MAX_SECONDS}", field="delay_seconds"
        )
    _check_time(options.run_at, "run_at")
    _check_time(options.deadline_at, "deadline_at")


def _check_time(moment: datetime | None, field: str) -> None:
    if moment is None:
        return
    if not isinstance(moment, datetime):
        raise ValidationException("A time is a datetime with a zone", field=field)
    if moment.tzinfo is None:
        raise ValidationException("A time needs a zone", field=field)


def client_of(session: AsyncSession) -> JobClient:
    """The client that belongs to the session's database manager. Raises JobUsageError where there is none."""
    client: JobClient | None = session.info.get(SESSION_KEY)
    if client is None:
        raise JobUsageError(
            "this session knows no job client: take it from the DatabaseManager of an application or a worker"
        )
    return client


def _refuse_times(rows: Sequence[NewJob], rule: str) -> None:
    if any(row.run_at is not None for row in rows):
        raise JobUsageError(f"{rule}: it cannot have a run_at or delay_seconds of its own")


async def _insert_new(session: AsyncSession, client: JobClient, rows: Sequence[NewJob]) -> None:
    if any(row.unique_key is not None for row in rows):
        raise JobUsageError("jobs of chains and batches cannot have unique keys: each is a new job")
    await insert_jobs(session, rows)
    await _announce_after_commit(session, client, rows)


async def _announce_after_commit(session: AsyncSession, client: JobClient, rows: Sequence[NewJob]) -> None:
    if not rows:
        return
    hints = hints_of(rows)
    await client.notify_in(session)
    on_commit(session, lambda: client.announce(rows, hints))


def hints_of(rows: Sequence[NewJob]) -> list[Hint]:
    """Hints for those of new jobs that wait for nothing but their time."""
    now = utc_now()
    return [
        Hint(
            row.id,
            0,
            row.queue,
            row.owner_id or 0,
            row.priority,
            0.0 if row.run_at is None else max(0.0, (row.run_at - now).total_seconds()),
        )
        for row in rows
        if row.waits_for == 0
    ]


def count_enqueued(rows: Sequence[NewJob]) -> None:
    """Counts inserted jobs for the metrics."""
    now = utc_now()
    for row in rows:
        is_due = row.waits_for == 0 and (row.run_at is None or row.run_at <= now)
        metrics.count_enqueued(row.kind, row.queue, metrics.DUE_NOW if is_due else metrics.DUE_LATER)


def _run_at(options: JobOptions) -> datetime | None:
    if options.run_at is not None and options.delay_seconds is not None:
        raise JobUsageError("run_at and delay_seconds exclude each other")
    if options.delay_seconds is not None:
        return utc_now() + timedelta(seconds=options.delay_seconds) if options.delay_seconds > 0 else None
    return options.run_at


def _scope(owner_id: int | None) -> str:
    return "-" if owner_id is None else str(owner_id)


def current_request_id() -> str | None:
    """The id of the request or job that the running code belongs to."""
    found = structlog.contextvars.get_contextvars().get("request_id")
    return found if isinstance(found, str) and is_request_id(found) else None
