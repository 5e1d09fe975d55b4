"""Running one attempt: from a claim to its ending. Every way a handler can end is decided here."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog

from scalable_fastapi_system.infra.error_tracking import report_error
from scalable_fastapi_system.infra.tracing import current_trace_id, job_span, mark_failed
from scalable_fastapi_system.jobs import metrics
from scalable_fastapi_system.jobs.context import JobContext, SyncJobContext
from scalable_fastapi_system.jobs.errors import FailJobError, JobLostError, RetryJobError, SnoozeJobError
from scalable_fastapi_system.jobs.limits import ResultTooLargeError, decode
from scalable_fastapi_system.jobs.records import Claim, Ending, Outcome
from scalable_fastapi_system.jobs.registry import Backoff, JobHandler
from scalable_fastapi_system.jobs.running import Running
from scalable_fastapi_system.kit.clock import utc_now
from scalable_fastapi_system.kit.errors import ValidationException

if TYPE_CHECKING:
    from scalable_fastapi_system.jobs.engine import Engine

_log = structlog.get_logger("jobs")

# For so long after its enqueue a job whose arguments do not fit waits for a worker of another version; then it fails.
ROLLOUT_SECONDS = 600.0
_FIRST_PAUSE_SECONDS = 0.5
# An attempt that is tried again has failed, too: its span is of the attempt, not of the job.
_ERRORS = frozenset({Outcome.FAILED, Outcome.RETRIED})
# The handler's own may be what is broken.
_PAUSE_OF_A_DEFECT = Backoff()


class _TimedOutError(Exception):
    """The attempt took longer than its limit."""


async def execute(engine: Engine, run: Running) -> Ending | None:
    """Runs the handler of a claim. The ending to write; None where it is written already or not ours to write.

    An attempt at which something around the handler raises has failed like any other: it is counted, and the last one
    fails the job. Left to its lease it would come back for ever, for a lease that runs out counts as no failure.
    """
    claim = run.claim
    structlog.contextvars.bind_contextvars(
        job_id=str(claim.job_id), kind=claim.kind, attempt=claim.attempt, request_id=claim.request_id
    )
    started = time.perf_counter()
    try:
        ending = await _traced_attempt(engine, run)
    except Exception as error:  # noqa: BLE001 - nothing but the handler asks the store here: no outage that passes
        _log.exception("what runs the job failed")
        ending = _ending_of_defect(engine, run, error)
    seconds = time.perf_counter() - started
    outcome = Outcome.SUCCEEDED if run.is_finished else ending.outcome if ending is not None else None
    metrics.observe_end(claim.kind, outcome.value if outcome is not None else "lost", seconds)
    _log_end(run, ending, outcome, seconds)
    return ending


async def _traced_attempt(engine: Engine, run: Running) -> Ending | None:
    claim = run.claim
    with job_span(
        claim.kind, traceparent=claim.traceparent, job_id=str(claim.job_id), attempt=claim.attempt
    ) as span:
        if span is not None:
            structlog.contextvars.bind_contextvars(trace_id=current_trace_id())
        ending = await _attempt(engine, run)
        if span is not None and ending is not None:
            span.set_attribute("job.outcome", ending.outcome.value)
            if ending.outcome in _ERRORS:
                mark_failed(span, (_summary(ending.error) or {}).get("type") or "error")
    return ending


async def _attempt(engine: Engine, run: Running) -> Ending | None:
    claim = run.claim
    handler = engine.registry.get(claim.kind)
    if handler is None:  # claims name the kinds they know; only a registry that shrank comes here
        return Ending(claim, Outcome.SNOOZED, delay_seconds=1.0)
    if claim.deadline_at is not None and utc_now() >= claim.deadline_at:
        note = engine.limits.note("Expired", "the job's deadline passed before it ran", attempt=claim.attempt)
        return Ending(claim, Outcome.FAILED, error=note)
    timeout_seconds = (
        claim.timeout_seconds or handler.timeout_seconds or engine.settings.default_timeout_seconds
    )
    try:
        try:
            arguments = handler.decode_args(claim.args)
        except ValidationException as error:
            if _age_seconds(claim) > ROLLOUT_SECONDS:
                raise
            return _left_to_another_version(engine, claim, error)
        context = JobContext(engine, run)
        try:
            async with asyncio.timeout(timeout_seconds) as limit:
                result = await _call(handler, context, arguments, timeout_seconds)
        except TimeoutError as error:
            if not limit.expired() or run.stop_reason is not None:
                raise
            raise _TimedOutError(f"took longer than {timeout_seconds:g} seconds") from error.__cause__
        run.is_ending = True
        if run.is_finished:
            if result is not None:
                _log.warning("a result returned after ctx.transaction() is not stored: set ctx.result in it")
            return None
        encoded = engine.limits.encode_result(result)
        return Ending(claim, Outcome.SUCCEEDED, result=encoded, progress=run.progress)
    except asyncio.CancelledError as error:
        run.is_ending = True
        _clear_cancel()
        if run.is_finished:
            return None
        # Where nobody told it to stop, the handler awaited something that was cancelled: a failure like any other.
        # Handed back as interrupted, it would run again at once, for ever.
        return (
            _failed(engine, run, handler.backoff, error) if run.stop_reason is None else _stopped(engine, run)
        )
    except (KeyboardInterrupt, GeneratorExit):
        raise  # meant for the process, and for this coroutine
    except BaseException as error:  # noqa: BLE001 - a handler may raise anything: the panics of Rust's libraries are no Exception
        run.is_ending = True
        if run.is_finished:
            return None
        ending = _failed(engine, run, handler.backoff, error)
        if ending is not None and ending.outcome is Outcome.FAILED:
            report_error(error, job_id=claim.job_id, kind=claim.kind, request_id=claim.request_id)
        return ending


async def _call(
    handler: JobHandler[..., Any], context: JobContext, arguments: dict[str, Any], timeout_seconds: float
) -> Any:
    if handler.runs_in == "loop":
        return await handler.function(context, **arguments)
    if handler.runs_in == "thread":
        return await _in_thread(handler.function, SyncJobContext(context), arguments)
    from scalable_fastapi_system.jobs.processes import run_in_process

    return await run_in_process(handler, context, arguments)


async def _in_thread(function: Callable[..., Any], context: SyncJobContext, arguments: dict[str, Any]) -> Any:
    """A thread of its own, as a daemon: one that is abandoned after a time-out must not keep the process alive."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def deliver(result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    def main() -> None:
        result: Any = None
        failure: BaseException | None = None
        try:
            result = function(context, **arguments)
        except StopIteration as error:
            failure = RuntimeError(f"the handler raised StopIteration: {error}")
        except BaseException as error:  # noqa: BLE001 - it is raised again, where it is waited for
            failure = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(deliver, result, failure)

    run = contextvars.copy_context().run
    threading.Thread(target=run, args=(main,), name=f"job-{context.kind}", daemon=True).start()
    return await future


def _left_to_another_version(engine: Engine, claim: Claim, error: ValidationException) -> Ending:
    """Arguments that were taken when the job was enqueued and do not fit here belong to another version of the handler.

    While a deploy rolls, one that knows them is there or comes; the pauses grow with the job's age.
    """
    message = f"left to another version of the handler: {error.message}"
    return Ending(
        claim,
        Outcome.SNOOZED,
        error=engine.limits.note("UnknownArguments", message, attempt=claim.attempt),
        delay_seconds=max(_FIRST_PAUSE_SECONDS, _age_seconds(claim) / 10) * (0.5 + engine.random()),
    )


def _age_seconds(claim: Claim) -> float:
    return (utc_now() - claim.created_at).total_seconds()


def _clear_cancel() -> None:
    """The interruption was for the handler; the writing of the end goes on in the same task."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()


def _stopped(engine: Engine, run: Running) -> Ending | None:
    claim = run.claim
    if run.stop_reason == "lost":
        return None
    if run.stop_reason == "cancel":
        note = engine.limits.note("Cancelled", "cancelled while it ran", attempt=claim.attempt)
        return Ending(claim, Outcome.CANCELLED, error=note, progress=run.progress)
    return Ending(claim, Outcome.INTERRUPTED, progress=run.progress)


def _ending_of_defect(engine: Engine, run: Running, error: Exception) -> Ending | None:
    """A failed attempt, unless the handler has finished the job or was told to stop before."""
    run.is_ending = True
    if run.is_finished:
        return None
    report_error(error, job_id=run.claim.job_id, kind=run.claim.kind, request_id=run.claim.request_id)
    return _failed(engine, run, _PAUSE_OF_A_DEFECT, error)


def _failed(engine: Engine, run: Running, backoff: Backoff, error: BaseException) -> Ending | None:
    claim = run.claim
    if isinstance(error, JobLostError) or run.stop_reason == "lost":
        return None
    if run.stop_reason is not None:
        return _stopped(engine, run)  # what a handler raises when it is told to stop is not a failure
    if isinstance(error, SnoozeJobError):
        return Ending(claim, Outcome.SNOOZED, progress=run.progress, delay_seconds=error.delay_seconds)
    report = engine.limits.encode_error(error, attempt=claim.attempt)
    is_final = (
        isinstance(error, FailJobError | ResultTooLargeError) or claim.failures + 1 >= claim.max_attempts
    )
    if is_final:
        return Ending(claim, Outcome.FAILED, error=report, progress=run.progress)
    delay_seconds = error.delay_seconds if isinstance(error, RetryJobError) else None
    if delay_seconds is None:
        delay_seconds = backoff.delay_seconds(claim.failures + 1, engine.random)
    return Ending(
        claim, Outcome.RETRIED, error=report, progress=run.progress, delay_seconds=max(0.0, delay_seconds)
    )


def _log_end(run: Running, ending: Ending | None, outcome: Outcome | None, seconds: float) -> None:
    """One line an attempt, without arguments or results."""
    duration_ms = round(seconds * 1000, 2)
    if outcome is None:
        _log.warning("job lost", duration_ms=duration_ms)
    elif outcome in _ERRORS:
        error = ending.error if ending is not None else None
        _log.warning(f"job {outcome.value}", duration_ms=duration_ms, error=_summary(error))
    else:
        _log.info(f"job {outcome.value}", duration_ms=duration_ms)


def _summary(error: str | None) -> dict[str, Any] | None:
    value = decode(error)
    return {"type": value.get("type"), "message": value.get("message")} if isinstance(value, dict) else None
