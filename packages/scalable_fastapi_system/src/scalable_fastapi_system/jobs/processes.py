"""Handlers in processes of their own, where a time-out or a cancel really ends them.

Each attempt gets a process, started by a server that was forked early and holds no threads, locks or connections of the
worker. The handler gets a `ProcessContext`: facts and progress, no resources. Its result comes back as JSON, so it obeys the
same limits as any other.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson

from scalable_fastapi_system.jobs.errors import FailJobError, JobError, RetryJobError, SnoozeJobError
from scalable_fastapi_system.jobs.limits import encode
from scalable_fastapi_system.kit.domain import load_object

if TYPE_CHECKING:
    from scalable_fastapi_system.jobs.context import JobContext
    from scalable_fastapi_system.jobs.registry import JobHandler

_END_GRACE_SECONDS = 2.0


class ProcessFailedError(JobError):
    """What a handler in a process raised; its own type and traceback are in the message."""


@dataclass(frozen=True, slots=True)
class ProcessContext:
    """What a handler in a process knows of its job."""

    job_id: UUID
    kind: str
    attempt: int
    failures: int
    owner_id: int | None
    idempotency_key: str
    request_id: str | None
    _tell: Callable[[str, Any], None] = field(repr=False)

    def progress(self, value: float | Mapping[str, Any], message: str | None = None) -> None:
        """As `JobContext.progress`."""
        self._tell("progress", (value, message))


async def run_in_process(
    handler: JobHandler[..., Any], context: JobContext, arguments: dict[str, Any]
) -> Any:
    """Runs a handler in a process; ends the process when it is cancelled. Raises ProcessFailedError for what it raised."""
    function = handler.function
    reference = f"{function.__module__}:{function.__qualname__}"
    facts = {
        "job_id": context.job_id,
        "kind": context.kind,
        "attempt": context.attempt,
        "failures": context.failures,
        "owner_id": context.owner_id,
        "idempotency_key": context.idempotency_key,
        "request_id": context.request_id,
    }
    loop = asyncio.get_running_loop()
    done: asyncio.Future[tuple[str, Any]] = loop.create_future()
    spawner = multiprocessing.get_context("forkserver")
    ours, theirs = spawner.Pipe()
    process = spawner.Process(target=_main, args=(theirs, reference, facts, arguments), daemon=True)
    is_over = threading.Event()

    def finish(outcome: tuple[str, Any]) -> None:
        if not done.done():
            done.set_result(outcome)

    def listen() -> None:
        outcome: tuple[str, Any] = ("vanished", None)
        try:
            process.start()
            theirs.close()
            if is_over.is_set():
                process.kill()  # its time was over, or it was cancelled, before it had started
            while True:
                what, value = ours.recv()
                if what != "progress":
                    outcome = (what, value)
                    break
                loop.call_soon_threadsafe(_report, context, value)
        except (EOFError, OSError) as error:
            if process.pid is None:
                outcome = ("error", ("OSError", f"the process could not be started: {error}", None))
        process.join(_END_GRACE_SECONDS)
        if outcome[0] == "vanished":
            outcome = ("vanished", process.exitcode)
        if not loop.is_closed():
            loop.call_soon_threadsafe(finish, outcome)

    threading.Thread(target=listen, name=f"job-{handler.kind}", daemon=True).start()
    try:
        what, value = await done
    finally:
        is_over.set()
        if process.pid is not None and process.is_alive():
            process.kill()
    if what == "result":
        return orjson.loads(value)
    if what == "error":
        raise _error_of(value)
    raise ProcessFailedError(f"the process ended without a result, with exit code {value}")


def _report(context: JobContext, value: tuple[Any, str | None]) -> None:
    from scalable_fastapi_system.jobs.context import snapshot_of

    context._report(snapshot_of(*value))


def _error_of(value: tuple[str, str, float | None]) -> Exception:
    name, message, delay_seconds = value
    if name == "RetryJobError":
        return RetryJobError(message, delay_seconds=delay_seconds)
    if name == "SnoozeJobError":
        return SnoozeJobError(delay_seconds or 0.0, message)
    if name == "FailJobError":
        return FailJobError(message)
    return ProcessFailedError(f"{name}: {message}")


def _main(pipe: Connection, reference: str, facts: dict[str, Any], arguments: dict[str, Any]) -> None:
    """The process. What it imports is the handler's module and what that imports."""

    def tell(what: str, value: Any) -> None:
        pipe.send((what, value))

    try:
        found = load_object(reference)
        function = getattr(found, "function", found)  # the name in the module is the declared handler
        result = function(ProcessContext(**facts, _tell=tell), **arguments)
        tell("result", encode(result))
    except BaseException as error:  # noqa: BLE001 - it is told, and raised again in the worker
        message = _explain(error)
        tell("error", (type(error).__name__, message, getattr(error, "delay_seconds", None)))


def _explain(error: BaseException) -> str:
    import traceback

    if isinstance(error, JobError):
        return str(error)
    return f"{error}\n{''.join(traceback.format_exception(error))}"
