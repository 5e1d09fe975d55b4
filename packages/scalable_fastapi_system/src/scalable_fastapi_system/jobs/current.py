"""Which job client is meant where none is named: the request's or job's own, else the newest of the process.

The guide's `background_task(task_id, task_data)` has no argument for it.
"""

from __future__ import annotations

import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING

from scalable_fastapi_system.jobs.errors import JobUsageError

if TYPE_CHECKING:
    from scalable_fastapi_system.jobs.client import JobClient

_of_context: ContextVar[JobClient | None] = ContextVar("job_client", default=None)
_newest: weakref.ref[JobClient] | None = None


def set_newest(client: JobClient) -> None:
    """Makes this the client of a process that has but one."""
    global _newest  # noqa: PLW0603 - see the module
    _newest = weakref.ref(client)


def use(client: JobClient) -> None:
    """Makes this the client of the running context: a request, a job, and the tasks that they start."""
    _of_context.set(client)


def current_client() -> JobClient:
    """The client to use. Raises JobUsageError where the process has none."""
    client = _of_context.get() or (_newest() if _newest is not None else None)
    if client is None:
        raise JobUsageError("there is no job client: make the application (create_app) or a worker first")
    return client
