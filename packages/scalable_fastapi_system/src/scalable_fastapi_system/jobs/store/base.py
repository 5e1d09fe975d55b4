"""What a worker asks of the tables: `JobStore`. Two implement it, and one suite of tests holds both to it.

Every write about a running job carries `id`, `attempt` and `worker_id`: where another attempt owns the row by
now, nothing is written and the caller is told. Times are the database's own. A store that is away raises one of
`STORE_AWAY`; whoever calls tries again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from scalable_fastapi_system.jobs.records import (
    Claim,
    ClaimResult,
    Ending,
    Hint,
    NewJob,
    Orders,
    Renewal,
    SweepReport,
    WorkerFacts,
)


@dataclass(frozen=True, slots=True)
class Inserted:
    """What became of a row: stored under its id, or `existing_id`, the live job that has its unique key already."""

    job_id: UUID
    is_new: bool


@dataclass(slots=True)
class FinishReport:
    """Which endings were written, and the hints that follow from them. The rest belong to another attempt."""

    written: set[UUID] = field(default_factory=set)
    hints: list[Hint] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SweepRules:
    """Bounds of one sweep of the reconciler.

    may_judge: whether to take jobs from silent workers at all. silent_seconds: a worker that has not beaten for so long, and let a lease expire, is taken for dead.
    overdue_seconds: a job queued for so long without being taken may have lost its hint.
    """

    queues: tuple[str, ...]
    kinds: tuple[str, ...]
    may_judge: bool
    silent_seconds: float
    max_crashes: int
    overdue_seconds: float
    limit: int


@dataclass(frozen=True, slots=True)
class QueueCount:
    """Live jobs of one queue in one state, and since when the oldest is due."""

    queue: str
    state: int
    count: int
    oldest_age_seconds: float


@dataclass(frozen=True, slots=True)
class Slot:
    """A moment at which a schedule is due, and the job to insert for it."""

    name: str
    slot_at: datetime
    job: NewJob


class JobStore(Protocol):
    """The tables as the engine uses them."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def now(self) -> datetime:
        """The database's clock."""
        ...

    async def insert(self, rows: Sequence[NewJob]) -> list[Inserted]:
        """Inserts in a transaction of its own; answers in the order of the rows."""
        ...

    async def claim(
        self, job_ids: Sequence[UUID], *, worker_id: str, kinds: Sequence[str], lease_seconds: float
    ) -> ClaimResult:
        """Takes those of the jobs that are due, free and of a known kind."""
        ...

    async def claim_next(
        self,
        queues: Sequence[str],
        limit: int,
        *,
        worker_id: str,
        kinds: Sequence[str],
        lease_seconds: float,
    ) -> list[Claim]:
        """Takes up to `limit` queued jobs without hints: by priority, then in turn over owners, the oldest first."""
        ...

    async def finish(
        self, endings: Sequence[Ending], *, worker_id: str, webhook_owners: frozenset[int]
    ) -> FinishReport:
        """Writes how attempts ended, releases or cancels what waited for them, plans webhooks; one transaction for all."""
        ...

    async def renew(
        self, running: Sequence[tuple[UUID, int]], *, worker_id: str, lease_seconds: float | None
    ) -> Renewal:
        """Prolongs the leases of (job, attempt) pairs, or only looks at them where `lease_seconds` is None."""
        ...

    async def save_progress(self, progress: Sequence[tuple[UUID, int, str]], *, worker_id: str) -> None:
        """Stores snapshots of (job, attempt, JSON); those of lost attempts are dropped."""
        ...

    async def release_strays(self, keep: Sequence[UUID], *, worker_id: str) -> list[Hint]:
        """Requeues what the tables say this worker runs and it knows nothing of: claims whose answer was lost."""
        ...

    async def sweep(self, rules: SweepRules) -> SweepReport | None:
        """One reconciler's sweep; None where another worker is at it."""
        ...

    async def beat(self, facts: WorkerFacts) -> Orders:
        """Records that the worker lives, and reads what operators want of it."""
        ...

    async def leave(self, worker_id: str) -> None:
        """Takes the worker off the list."""
        ...

    async def count(self) -> list[QueueCount]:
        """Live jobs by queue and state."""
        ...

    async def due_slots(self, schedules: Sequence[Any]) -> list[Hint]:
        """Inserts a job for each slot that is due and was taken by nobody; see `jobs.schedules`."""
        ...

    async def purge(self, *, older_than: timedelta) -> int:
        """Deletes ended jobs and what belongs to them, in small transactions. How many jobs."""
        ...
