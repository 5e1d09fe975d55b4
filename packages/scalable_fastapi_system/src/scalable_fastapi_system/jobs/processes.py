"""Handlers in processes of their own, where a time-out or a cancel really ends them.

Each attempt gets a process, started by a server that was forked early and holds no threads, locks or connections of the
worker. The handler gets a `ProcessContext`: facts, progress and a log, no resources. Its result comes back as JSON, so it
obeys the same limits as any other.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import multiprocessing
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson
import structlog
from pydantic_core import to_json

from scalable_fastapi_system.jobs.errors import FailJobError, JobError, RetryJobError, SnoozeJobError
from scalable_fastapi_system.jobs.limits import encode, is_within
from scalable_fastapi_system.kit.domain import load_object
from scalable_fastapi_system.kit.texts import is_storable

if TYPE_CHECKING:
    from scalable_fastapi_system.jobs.context import JobContext
    from scalable_fastapi_system.jobs.registry import JobHandler

_END_GRACE_SECONDS = 2.0


class ProcessFailedError(JobError):
    """What a handler in a process raised; its own type and traceback are in the message."""


class NotInProcessError(FailJobError, AttributeError):
    """A handler in a process asked its context for what stays in the worker: the job fails, for it would each time."""


def _in_worker(name: str, advice: str) -> Any:
    def refuse(context: ProcessContext, *_value: Any) -> Any:
        raise NotInProcessError(f"{context.kind}: ctx.{name} is not in a process: {advice}")

    return property(refuse, refuse)


_ELSEWHERE = "take a handler in the loop or in a thread, or make it in the handler"


@dataclass(slots=True)
class ProcessContext:
    """What a handler in a process knows of its job.

    `log` writes through the worker, as a handler elsewhere would. `is_cancelled` is never true: a process that is to stop is
    killed. What holds connections of the worker raises NotInProcessError.
    """

    job_id: UUID
    kind: str
    queue: str
    attempt: int
    failures: int
    is_last_attempt: bool
    created_at: datetime
    owner_id: int | None
    idempotency_key: str
    request_id: str | None
    log: Any = field(repr=False)
    _tell: Callable[[str, Any], None] = field(repr=False)

    resources = _in_worker("resources", _ELSEWHERE)
    http = _in_worker("http", _ELSEWHERE)
    transaction = _in_worker("transaction", "it needs an async handler")
    result = _in_worker("result", "return the result")

    @property
    def is_cancelled(self) -> bool:
        return False

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
        "queue": context.queue,
        "attempt": context.attempt,
        "failures": context.failures,
        "is_last_attempt": context.is_last_attempt,
        "created_at": context.created_at,
        "owner_id": context.owner_id,
        "idempotency_key": context.idempotency_key,
        "request_id": context.request_id,
    }
    loop = asyncio.get_running_loop()
    bindings = contextvars.copy_context()  # a thread has none, and the log's lines carry the job's id
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
                if what == "progress":
                    loop.call_soon_threadsafe(_report, context, value)
                elif what == "line":
                    loop.call_soon_threadsafe(_write_line, context, value, context=bindings)
                else:
                    outcome = (what, value)
                    break
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


def _write_line(context: JobContext, value: tuple[str, bytes]) -> None:
    method, line = value
    members = orjson.loads(line)
    getattr(context.log, method)(members.pop("event", None), **members)


def _error_of(value: tuple[str, str, float | None]) -> Exception:
    name, message, delay_seconds = value
    if name == "RetryJobError":
        return RetryJobError(message, delay_seconds=delay_seconds)
    if name == "SnoozeJobError":
        return SnoozeJobError(delay_seconds or 0.0, message)
    if name == "FailJobError":
        return FailJobError(message)
    if name == "NotInProcessError":
        return NotInProcessError(message)
    return ProcessFailedError(f"{name}: {message}")


def _main(pipe: Connection, reference: str, facts: dict[str, Any], arguments: dict[str, Any]) -> None:
    """The process. What it imports is the handler's module and what that imports."""

    sending = threading.Lock()  # a library's threads may log while the handler tells its progress

    def tell(what: str, value: Any) -> None:
        with sending:
            pipe.send((what, value))

    try:
        found = load_object(reference)
        function = getattr(found, "function", found)  # the name in the module is the declared handler
        result = function(ProcessContext(**facts, log=_log_through(tell), _tell=tell), **arguments)
        tell("result", encode(result))
    except BaseException as error:  # noqa: BLE001 - it is told, and raised again in the worker
        message = _explain(error)
        tell("error", (type(error).__name__, message, getattr(error, "delay_seconds", None)))


def _log_through(tell: Callable[[str, Any], None]) -> Any:
    """A logger whose lines are written by the worker, by its settings: they are masked there, and as JSON where it is."""

    def send(_logger: Any, method: str, event: Any) -> Any:
        tell("line", (method, _line_of(event)))
        raise structlog.DropEvent

    return structlog.wrap_logger(
        None,
        processors=[structlog.processors.format_exc_info, send],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
    )


def _line_of(event: Mapping[str, Any]) -> bytes:
    """The members of a line as JSON, whatever they are: a line that cannot be written must not end the handler."""
    try:
        return to_json(event, inf_nan_mode="strings", fallback=_shown)
    except Exception:  # noqa: BLE001 - half a character, bytes that are no text, nested without end
        return orjson.dumps(
            {name: value if _is_plain(value) else _shown(value) for name, value in event.items()}
        )


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - whatever a value's own code raises
        return f"<{type(value).__name__} whose repr raised {type(error).__name__}>"


def _is_plain(value: object) -> bool:
    if isinstance(value, str):
        return is_storable(value)
    return value is None or is_within(value, -(2**53), 2**53)


def _explain(error: BaseException) -> str:
    import traceback

    if isinstance(error, JobError):
        return str(error)
    return f"{error}\n{''.join(traceback.format_exception(error))}"
