"""What a handler raises to say how it ended, and what the engine raises at a handler.

JobError
├── RetryJobError     try again, after the delay given or the usual back-off; counts as a failure
├── FailJobError      do not try again
├── SnoozeJobError    run later; counts as nothing
├── JobLostError      this attempt no longer owns the job: nothing that it writes may stand
└── JobUsageError     the engine's functions were called in a way that cannot work
"""

from __future__ import annotations


class JobError(Exception):
    """The root of the engine's exceptions."""


class RetryJobError(JobError):
    """Raised by a handler: this attempt failed, and the next one should come after `delay_seconds`."""

    def __init__(self, message: str = "to be tried again", *, delay_seconds: float | None = None) -> None:
        super().__init__(message)
        self.delay_seconds = delay_seconds


class FailJobError(JobError):
    """Raised by a handler: the job failed, and trying again would not help."""


class SnoozeJobError(JobError):
    """Raised by a handler: not now, but in `delay_seconds`. Counts neither as a failure nor as an attempt."""

    def __init__(self, delay_seconds: float, message: str = "snoozed") -> None:
        super().__init__(message)
        self.delay_seconds = delay_seconds


class JobLostError(JobError):
    """Another worker owns the job by now, or it was cancelled: this attempt's writes were rolled back."""


class JobUsageError(JobError):
    """A call that cannot work, such as finishing twice in one attempt."""
