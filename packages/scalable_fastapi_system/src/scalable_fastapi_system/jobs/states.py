"""The states of a job and which of them are an end."""

from __future__ import annotations

from enum import IntEnum


class JobState(IntEnum):
    """Where a job stands. The numbers are what the tables hold; the order is that of a job's life."""

    SCHEDULED = 0  # waits for its time, its next try, or the jobs before it
    QUEUED = 1
    RUNNING = 2
    SUCCEEDED = 3
    FAILED = 4
    CANCELLED = 5
    QUARANTINED = 6  # took down too many workers to be tried again unasked

    @property
    def is_terminal(self) -> bool:
        return self >= JobState.SUCCEEDED

    @property
    def label(self) -> str:
        """The name that clients see: `queued`, `running`, …"""
        return self.name.lower()

    @classmethod
    def from_label(cls, label: str) -> JobState:
        """The state of that name. Raises KeyError for any other text."""
        return cls[label.upper()]


LIVE_STATES = (JobState.SCHEDULED, JobState.QUEUED, JobState.RUNNING)
REPLAYABLE_STATES = (JobState.FAILED, JobState.CANCELLED, JobState.QUARANTINED)
