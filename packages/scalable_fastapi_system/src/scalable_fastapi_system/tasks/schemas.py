"""What the task endpoints take and give."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from scalable_fastapi_system.jobs.records import JobRecord
from scalable_fastapi_system.web.envelope import Envelope

# PostgreSQL has no text with a zero byte in it, and refuses a statement that asks for one.
STORABLE = r"^[^\x00]*$"
TaskStatus = Literal["scheduled", "queued", "running", "succeeded", "failed", "cancelled", "quarantined"]


class TaskError(BaseModel):
    """Why an attempt failed. The traceback is shown to administrators."""

    type: str
    message: str
    attempt: int
    traceback: str | None = None


class TaskSummary(BaseModel):
    """A task in a list."""

    id: UUID
    kind: str
    queue: str
    status: TaskStatus
    progress: dict[str, Any] | None
    attempt: int = Field(description="How often it was started.")
    created_at: datetime
    run_at: datetime | None = Field(description="Not before; null while it waits for other tasks.")
    started_at: datetime | None
    finished_at: datetime | None
    is_cancel_requested: bool


class TaskOut(TaskSummary):
    """A task with all that its owner may see."""

    owner_id: int | None
    priority: int
    failures: int
    max_attempts: int
    arguments: Any
    result: Any
    error: TaskError | None
    request_id: str | None


class AttemptOut(BaseModel):
    """An attempt that did not succeed."""

    attempt: int
    outcome: str
    started_at: datetime | None
    ended_at: datetime
    error: TaskError | None


class CreatedTask(BaseModel):
    """A task that was accepted."""

    task_id: UUID
    status: Literal["created"] = "created"


class CreatedTaskAnswer(Envelope[CreatedTask]):
    """The envelope with the guide's members beside it."""

    task_id: UUID
    status: Literal["created"] = "created"


class StartedProcessing(BaseModel):
    """Data processing that was accepted; `data_id` is the `id` in the data, if there is one."""

    task_id: UUID
    data_id: Any = None


class StartedProcessingAnswer(Envelope[StartedProcessing]):
    """The envelope with the guide's members beside it."""

    task_id: UUID
    data_id: Any = None


class TaskChange(BaseModel):
    """What a cancel or a retry did."""

    id: UUID
    status: TaskStatus
    has_changed: bool = Field(description="False where the task had ended, or was asked already.")


class TaskReason(BaseModel):
    """Why a task is not at work: the rule that holds it back, by name and in words. Null once it has ended."""

    rule: str | None
    message: str


class QueueOut(BaseModel):
    """A queue: its live jobs by state, how long the oldest has been due, and who works on it."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    is_paused: bool
    scheduled: int
    queued: int
    running: int
    oldest_due_seconds: float
    workers: int
    slots: int
    free_slots: int


class WorkerOut(BaseModel):
    """A worker that was seen lately."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    hostname: str
    version: str
    queues: list[str]
    kinds: list[str]
    concurrency: int
    running: int
    is_draining: bool
    is_alive: bool
    started_at: datetime
    seen_at: datetime


class ScheduleOut(BaseModel):
    """A schedule: when it runs what, and the last slot that was looked at."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    kind: str
    expression: str
    timezone: str
    misfire: str
    last_slot_at: datetime
    is_paused: bool


class TaskPage(BaseModel):
    """Tasks from the newest on, and the cursor of the next page."""

    items: list[TaskSummary]
    next_cursor: str | None


def summary_of(job: JobRecord) -> TaskSummary:
    """A job as a list shows it."""
    return TaskSummary(**_summary(job))


def task_of(job: JobRecord, *, is_admin: bool) -> TaskOut:
    """A job as its owner sees it; administrators see tracebacks too."""
    return TaskOut(
        **_summary(job),
        owner_id=job.owner_id,
        priority=job.priority,
        failures=job.failures,
        max_attempts=job.max_attempts,
        arguments=job.args,
        result=job.result,
        error=error_of(job.error, is_admin=is_admin),
        request_id=job.request_id,
    )


def error_of(error: Any, *, is_admin: bool) -> TaskError | None:
    """A stored error as it may be shown."""
    if not isinstance(error, dict):
        return None
    return TaskError(
        type=str(error.get("type", "Error")),
        message=str(error.get("message", "")),
        attempt=int(error.get("attempt", 0)),
        traceback=error.get("traceback") if is_admin else None,
    )


def _summary(job: JobRecord) -> dict[str, Any]:
    return {
        "id": job.id,
        "kind": job.kind,
        "queue": job.queue,
        "status": job.status,
        "progress": job.progress,
        "attempt": job.attempt,
        "created_at": job.created_at,
        "run_at": job.run_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "is_cancel_requested": job.cancel_requested_at is not None,
    }
