"""`Running`: one attempt at work in this worker, shared by its handler's context, the heart and the runner."""

from __future__ import annotations

import asyncio
import time
from typing import Literal

from scalable_fastapi_system.jobs.records import Claim

# Why a handler is told to stop: a client's cancel, another owner, the worker's end.
StopReason = Literal["cancel", "lost", "drain"]


class Running:
    """One attempt. `is_ending` from the moment its handler is done: then nothing interrupts it any more."""

    __slots__ = (
        "claim",
        "is_ending",
        "is_finished",
        "is_progress_new",
        "progress",
        "started",
        "stop_reason",
        "task",
    )

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.task: asyncio.Task[None] | None = None
        self.stop_reason: StopReason | None = None
        self.is_ending = False
        self.is_finished = False  # the handler's own transaction wrote the end
        self.progress: str | None = None
        self.is_progress_new = False
        self.started = time.monotonic()

    def stop(self, reason: StopReason) -> None:
        """Interrupts the handler; the first reason counts. Called again, it interrupts a handler that went on."""
        if self.is_ending or self.task is None:
            return
        if self.stop_reason is None or reason == "lost":
            self.stop_reason = reason
        self.task.cancel()
