"""What is easily written wrong with jobs: the error says what to write."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.jobs import (
    JobCall,
    JobContext,
    JobRegistry,
    call,
    cron,
    enqueue,
    enqueue_batch,
    enqueue_chain,
    enqueue_many,
    job,
)
from scalable_fastapi_system.jobs import schedules as schedules_module
from scalable_fastapi_system.jobs.client import JobClient
from scalable_fastapi_system.jobs.enqueueing import SESSION_KEY
from scalable_fastapi_system.jobs.limits import Limits

_job: Any = job
_cron: Any = cron


async def plain(ctx: JobContext) -> None: ...


@pytest.fixture
def declared() -> Any:
    return job("shop.work", registry=JobRegistry())(plain)


@pytest.fixture
def session() -> Any:
    client = SimpleNamespace(
        limits=Limits(1000, 1000), settings=Settings(_env_file=None), find_handler=lambda kind: None
    )
    return SimpleNamespace(info={SESSION_KEY: client})


def test_job_needs_its_parentheses() -> None:
    with pytest.raises(TypeError, match=r'write @job\("plain"\) above it: the name of the kind'):
        _job(plain)


def test_a_kind_is_text() -> None:
    with pytest.raises(TypeError, match=r'the name of a job kind is text, such as "orders\.ship", and not 7'):
        _job(7)


def test_a_job_is_declared_once(declared: Any) -> None:
    with pytest.raises(TypeError, match=r"<job shop\.work> is a job already"):
        job("shop.other", registry=JobRegistry())(declared)


def test_a_class_or_a_value_is_no_handler() -> None:
    with pytest.raises(TypeError, match=r"shop\.work: a handler is a function, and not 7"):
        _job("shop.work", registry=JobRegistry())(7)


def test_cron_stands_above_job() -> None:
    with pytest.raises(TypeError, match=r"write @cron\(…\) above @job\(…\): plain is no job yet"):
        _cron("0 3 * * *")(plain)


def test_cron_needs_its_parentheses(declared: Any) -> None:
    with pytest.raises(TypeError, match=r'write @cron\("0 3 \* \* \*"\) above @job'):
        _cron(declared)
    assert "shop.work" not in schedules_module.schedules


@pytest.mark.parametrize("function", [enqueue, enqueue_many, enqueue_chain])
async def test_a_function_without_job_cannot_be_enqueued(session: Any, function: Any) -> None:
    advice = r"plain is no job: write @job\(…\) above it, or give the name of a kind"
    with pytest.raises(TypeError, match=advice):
        if function is enqueue:
            await function(session, plain)
        else:
            await function(session, [call(plain)])  # type: ignore[arg-type]


@pytest.mark.parametrize("handler", [None, 7, JobCall("shop.work")])
async def test_what_is_neither_a_job_nor_a_name_cannot_be_enqueued(session: Any, handler: Any) -> None:
    with pytest.raises(TypeError, match="a job or the name of a kind is needed"):
        await enqueue(session, handler)


async def test_many_are_enqueued_by_calls(session: Any, declared: Any) -> None:
    advice = r"write call\(handler, …\)"
    for many in ([declared], ["shop.work"], [plain]):
        for function in (enqueue_many, enqueue_chain):
            with pytest.raises(TypeError, match=advice):
                await function(session, many)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=advice):
            await enqueue_batch(session, many, on_complete=call("shop.work"))  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=advice):
            await JobClient.enqueue_many_now(session, many)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=advice):
        await enqueue_batch(session, [call("shop.work")], on_complete=declared)
