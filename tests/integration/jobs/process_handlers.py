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


@job("process.facts", registry=REGISTRY, runs_in="process", max_attempts=1)
def facts(ctx: Any) -> dict[str, Any]:
    return {
        "queue": ctx.queue,
        "created_at": ctx.created_at.isoformat(),
        "is_last_attempt": ctx.is_last_attempt,
        "is_cancelled": ctx.is_cancelled,
        "request_id": ctx.request_id,
    }


@job("process.talk", registry=REGISTRY, runs_in="process", max_attempts=1)
def talk(ctx: Any) -> None:
    log = ctx.log.bind(shop=7)
    log.debug("too fine")
    log.info("packed", boxes={"small": 2}, odd={1, object}, password="x" * 12)
    log.warning("%s of %s", 1, 2)
    try:
        raise KeyError("no such box")
    except KeyError:
        log.exception("not packed", text="\ud800")


@job("process.reach", registry=REGISTRY, runs_in="process", max_attempts=3)
def reach(ctx: Any, *, what: str) -> None:
    if what == "ctx.result =":
        ctx.result = 7
    elif what == "transaction":
        with ctx.transaction():
            pass
    else:
        getattr(ctx, what)
