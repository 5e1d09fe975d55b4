"""Durable jobs: accepted means done or visibly failed, whatever dies.

A job is a row that is inserted in the caller's transaction. Redis carries hints of what may be ready; the claim of the row
is the gate, and every later write about it names the attempt that it belongs to. See docs/jobs.md.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Backoff": "registry",
    "FailJobError": "errors",
    "JobCall": "enqueueing",
    "JobClient": "client",
    "JobContext": "context",
    "JobError": "errors",
    "JobHandle": "enqueueing",
    "JobHandler": "registry",
    "JobLostError": "errors",
    "JobRecord": "records",
    "JobRegistry": "registry",
    "JobState": "states",
    "RetryJobError": "errors",
    "SnoozeJobError": "errors",
    "ANY_OWNER": "client",
    "background_task": "background",
    "call": "enqueueing",
    "cron": "schedules",
    "enqueue": "enqueueing",
    "enqueue_batch": "enqueueing",
    "enqueue_chain": "enqueueing",
    "enqueue_many": "enqueueing",
    "job": "registry",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
