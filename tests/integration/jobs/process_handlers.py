"""Handlers for processes: they are found by their module, so they live in one."""

from __future__ import annotations

import os
import time
from typing import Any

from scalable_fastapi_system.jobs import FailJobError, JobRegistry, job

REGISTRY = JobRegistry()


@job("process.add", registry=REGISTRY, runs_in="process", max_attempts=1)
def add(ctx: Any, *, numbers: list[int], worker_pid: int) -> dict[str, Any]:
    ctx.progress(0.5, "adding")
    assert os.getpid() != worker_pid
    return {"sum": sum(numbers), "attempt": ctx.attempt, "key": ctx.idempotency_key}


@job("process.spin", registry=REGISTRY, runs_in="process", max_attempts=1, timeout_seconds=8.0)
def spin(ctx: Any, *, path: str) -> None:
    with open(path, "w") as file:  # noqa: PTH123
        file.write(str(os.getpid()))
    while True:
        time.monotonic()


@job("process.fail", registry=REGISTRY, runs_in="process", max_attempts=3)
def fail(ctx: Any, *, how: str) -> None:
    if how == "exit":
        os._exit(9)
    if how == "for good":
        raise FailJobError("never")
    raise ValueError("in a process")
