"""Handlers in processes: results, progress, and an end that is really one."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from scalable_fastapi_system.infra.logging import configure_logging
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.infra.settings.models import LoggingSettings
from scalable_fastapi_system.jobs import JobState

from tests.integration.jobs import process_handlers
from tests.integration.jobs.conftest import FAST
from tests.integration.jobs.harness import Lab, running_lab

pytestmark = pytest.mark.databases("sqlite")


@pytest.fixture
async def lab(make_settings: Callable[..., Settings], database_section: dict[str, Any]) -> AsyncIterator[Lab]:
    settings = make_settings(database=database_section, jobs=FAST)
    async with running_lab(settings, process_handlers.REGISTRY) as lab:
        await lab.start_worker()
        yield lab


async def test_a_result_and_progress_come_back(lab: Lab) -> None:
    handle = await lab.client.enqueue_now(process_handlers.add, numbers=[1, 2, 3], worker_pid=os.getpid())
    ended = await lab.ended(handle.id, timeout_seconds=30)
    assert ended.result == {"sum": 6, "attempt": 1, "key": str(handle.id)}
    assert ended.progress == {"fraction": 0.5, "message": "adding"}


async def test_a_time_out_kills_the_process(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    handle = await lab.client.enqueue_now(process_handlers.spin, path=str(path))
    ended = await lab.ended(handle.id, timeout_seconds=30)
    assert "longer than 8 seconds" in ended.error["message"]
    await gone(path)


async def test_a_process_whose_time_is_over_before_it_has_started_is_killed_too(
    lab: Lab, tmp_path: Path
) -> None:
    path = tmp_path / "pid"
    handle = await lab.client.enqueue_now(process_handlers.spin, path=str(path), timeout_seconds=0.001)
    ended = await lab.ended(handle.id, timeout_seconds=30)
    assert "longer than" in ended.error["message"]
    async with asyncio.timeout(30):  # a thread waits for each process
        while any(thread.name == "job-process.spin" for thread in threading.enumerate()):
            await asyncio.sleep(0.05)
    await gone(path)


async def test_a_cancel_kills_the_process(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    handle = await lab.client.enqueue_now(process_handlers.spin, path=str(path), timeout_seconds=60)
    async with asyncio.timeout(30):
        while not path.exists():
            await asyncio.sleep(0.02)
    await lab.client.cancel(handle.id)
    assert (await lab.ended(handle.id)).state is JobState.CANCELLED
    await gone(path)


async def test_failures_are_told_apart(lab: Lab) -> None:
    process_handlers.fail.backoff.base_seconds = 0.01
    error = await lab.client.enqueue_now(process_handlers.fail, how="error")
    final = await lab.client.enqueue_now(process_handlers.fail, how="for good")
    exited = await lab.client.enqueue_now(process_handlers.fail, how="exit")
    ended = await lab.ended(error.id, timeout_seconds=90)
    assert (ended.state, ended.failures) == (JobState.FAILED, 3)
    assert "ValueError: in a process" in ended.error["message"]
    ended = await lab.ended(final.id, timeout_seconds=30)
    assert (ended.failures, ended.error["message"]) == (1, "never")
    ended = await lab.ended(exited.id, timeout_seconds=30)
    assert "with exit code 9" in ended.error["message"]


async def test_what_a_context_tells_of_the_job_it_tells_in_a_process_too(lab: Lab) -> None:
    handle = await lab.client.enqueue_now(process_handlers.facts)
    ended = await lab.ended(handle.id, timeout_seconds=30)
    assert ended.result == {
        "queue": "default",
        "created_at": ended.created_at.isoformat(),
        "is_last_attempt": True,
        "is_cancelled": False,
        "request_id": None,
    }


async def test_log_lines_come_out_of_the_worker_as_those_of_any_handler(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(lab.settings.model_copy(update={"logging": LoggingSettings(format="json")}))
    handle = await lab.client.enqueue_now(process_handlers.talk)
    assert (await lab.ended(handle.id, timeout_seconds=30)).state is JobState.SUCCEEDED
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"shop":7' in line]
    assert [(line["level"], line["event"]) for line in lines] == [
        ("info", "packed"),
        ("warning", "1 of 2"),
        ("error", "not packed"),
    ]
    assert {line["job_id"] for line in lines} == {str(handle.id)}
    assert {(line["kind"], line["attempt"]) for line in lines} == {("process.talk", 1)}
    assert lines[0]["boxes"] == {"small": 2}
    assert "x" * 12 not in str(lines[0])
    assert "KeyError: 'no such box'" in lines[2]["exception"]


@pytest.mark.parametrize("what", ["resources", "http", "transaction", "result", "ctx.result ="])
async def test_what_stays_in_the_worker_is_named_and_fails_at_once(lab: Lab, what: str) -> None:
    handle = await lab.client.enqueue_now(process_handlers.reach, what=what)
    ended = await lab.ended(handle.id, timeout_seconds=30)
    name = "result" if "result" in what else what
    assert (ended.state, ended.attempt, ended.error["type"]) == (JobState.FAILED, 1, "NotInProcessError")
    assert ended.error["message"].startswith(f"process.reach: ctx.{name} is not in a process: ")
    assert "Traceback" not in ended.error["message"]


async def gone(path: Path) -> None:
    if not path.exists():
        return  # on a slow machine it is killed before it has come to its first line
    pid = int(path.read_text())
    deadline = time.monotonic() + 5
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the process still runs"
        await asyncio.sleep(0.05)
