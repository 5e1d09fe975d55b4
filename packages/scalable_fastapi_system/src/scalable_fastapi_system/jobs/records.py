"""The values that pass between the parts of the engine: a job to insert, a claim, an end, a hint, a row as read."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from scalable_fastapi_system.jobs.states import JobState


@dataclass(frozen=True, slots=True)
class NewJob:
    """A row to insert. `args` is JSON text; `run_at` None means now, by the database's clock."""

    id: UUID
    kind: str
    queue: str
    args: str
    max_attempts: int
    owner_id: int | None = None
    priority: int = 0
    run_at: datetime | None = None
    deadline_at: datetime | None = None
    timeout_seconds: float | None = None
    unique_key: str | None = None
    concurrency_key: str | None = None
    then_id: UUID | None = None
    waits_for: int = 0
    needs_success: bool = False
    request_id: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Hint:
    """That a job may be ready. Lane: who it is done for, so that one owner's many do not delay another's few."""

    job_id: UUID
    attempt: int
    queue: str
    lane: int = 0
    priority: int = 0
    delay_seconds: float = 0.0

    @property
    def member(self) -> str:
        """What Redis holds: the same for every push of the same attempt, so that pushing twice is pushing once."""
        return f"{self.job_id.hex}.{self.attempt}"


@dataclass(slots=True)
class Claim:
    """A job that this worker runs now. `attempt` is the fence: every write about it carries the number."""

    job_id: UUID
    attempt: int
    kind: str
    queue: str
    args: str
    owner_id: int | None
    priority: int
    max_attempts: int
    failures: int
    crashes: int
    created_at: datetime
    run_at: datetime
    deadline_at: datetime | None
    timeout_seconds: float | None
    concurrency_key: str | None
    then_id: UUID | None
    request_id: str | None
    traceparent: str | None


class Outcome(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"  # for good
    RETRIED = "retried"  # failed, and will be tried again
    SNOOZED = "snoozed"  # asked to be run later; counts as nothing
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"  # the worker drained; counts as nothing
    CRASHED = "crashed"  # the worker went silent
    QUARANTINED = "quarantined"


@dataclass(slots=True)
class Ending:
    """What to write when an attempt has ended. JSON fields are text."""

    claim: Claim
    outcome: Outcome
    result: str | None = None
    error: str | None = None
    progress: str | None = None
    delay_seconds: float = 0.0

    @property
    def state(self) -> JobState:
        return _STATE_OF.get(self.outcome, self._waiting_state)

    @property
    def _waiting_state(self) -> JobState:
        return JobState.SCHEDULED if self.delay_seconds > 0 else JobState.QUEUED


_STATE_OF = {
    Outcome.SUCCEEDED: JobState.SUCCEEDED,
    Outcome.FAILED: JobState.FAILED,
    Outcome.CANCELLED: JobState.CANCELLED,
    Outcome.QUARANTINED: JobState.QUARANTINED,
}


@dataclass(slots=True)
class ClaimResult:
    """What came of asking for jobs by their hints.

    early: not due yet, with the seconds to go. foreign: of a kind that this worker does not know.
    blocked: held back by a running job of the same concurrency key. What is in none of the lists is over or taken.
    """

    claims: list[Claim] = field(default_factory=list)
    early: list[Hint] = field(default_factory=list)
    foreign: list[UUID] = field(default_factory=list)
    blocked: list[UUID] = field(default_factory=list)


@dataclass(slots=True)
class Renewal:
    """The answer to a heartbeat: which of the worker's jobs are to be cancelled, and which are no longer its own."""

    cancelled: set[UUID]
    lost: set[UUID]


@dataclass(slots=True)
class SweepReport:
    """What a reconciler's sweep changed, and the hints to push for it."""

    crashed: int = 0
    quarantined: int = 0
    promoted: int = 0
    overdue: int = 0
    hints: list[Hint] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What a worker tells about itself at every heartbeat."""

    worker_id: str
    hostname: str
    version: str
    queues: tuple[str, ...]
    kinds: tuple[str, ...]
    concurrency: int
    running: int
    is_draining: bool


@dataclass(frozen=True, slots=True)
class Orders:
    """What a worker is told in answer to its heartbeat: what operators want of it, and whose ends are to be told."""

    paused_queues: frozenset[str] = frozenset()
    must_drain: bool = False
    webhook_owners: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as a reader sees it."""

    id: UUID
    kind: str
    queue: str
    state: JobState
    owner_id: int | None
    priority: int
    attempt: int
    max_attempts: int
    failures: int
    crashes: int
    interruptions: int
    created_at: datetime
    run_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested_at: datetime | None
    lease_expires_at: datetime | None
    deadline_at: datetime | None
    waits_for: int
    then_id: UUID | None
    concurrency_key: str | None
    unique_key: str | None
    worker_id: str | None
    request_id: str | None
    args: Any
    progress: Any
    result: Any
    error: Any

    @property
    def status(self) -> str:
        """The state's name."""
        return self.state.label
