"""What to make of a worker that fell silent: which of its jobs may be the cause, and what becomes of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from scalable_fastapi_system.jobs.states import JobState
from scalable_fastapi_system.jobs.store.base import SweepRules


def blame(rows: Sequence[tuple[str | None, int]], alive: set[str]) -> list[bool]:
    """For each (worker, crashes so far): whether the silence counts as a crash of that job.

    Of the jobs that a dead worker ran, those that went through the most crashes before are blamed; the others were
    bystanders. Together with the few suspects that a worker runs at once, this closes in on the one that kills. A
    worker that still beats did not die: it lost sight of a job, which is nobody's fault.
    """
    most: dict[str | None, int] = defaultdict(int)
    for worker_id, crashes in rows:
        most[worker_id] = max(most[worker_id], crashes)
    return [worker_id not in alive and crashes == most[worker_id] for worker_id, crashes in rows]


def state_after_crash(crashes: int, *, is_blamed: bool, is_cancelled: bool, rules: SweepRules) -> JobState:
    """Where a job goes whose worker fell silent."""
    if is_cancelled:
        return JobState.CANCELLED
    if is_blamed and crashes >= rules.max_crashes:
        return JobState.QUARANTINED
    return JobState.QUEUED


def crash_note(worker_id: str | None, attempt: int, crashes: int, state: JobState) -> dict[str, Any]:
    """What is kept as the error of such a job."""
    if state is JobState.QUARANTINED:
        message = f"quarantined: {crashes} workers fell silent while they ran it, the last was {worker_id}"
    else:
        message = f"the worker {worker_id} fell silent while it ran this"
    return {"type": "WorkerLost", "message": message, "attempt": attempt}
