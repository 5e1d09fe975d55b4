"""`manage jobs …`, as an operator types it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from scalable_fastapi_system.cli import main
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.jobs import JobContext, JobRegistry, JobState, job

from tests.integration.jobs.harness import Lab, running_lab

pytestmark = pytest.mark.databases("sqlite")

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def settings(
    make_settings: Callable[..., Settings],
    database_section: dict[str, Any],
    database_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> Settings:
    for name, value in {"ENVIRONMENT": "test", **database_environment}.items():
        monkeypatch.setenv(name, value)
    return make_settings(database=database_section, jobs={"poll_seconds": 0.1, "heartbeat_seconds": 0.1})


@pytest.fixture
def run(settings: Settings, capsys: pytest.CaptureFixture[str]) -> Run:
    # The worker of the test logs in this process; what a command prints must stay readable beside it.
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())

    def run_command(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = main(["jobs", *words])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run_command


async def in_thread(run: Run, *words: str) -> tuple[int, str]:
    return await asyncio.to_thread(run, *words)


@pytest.mark.parametrize("words", [("list",), ("workers",)])
def test_a_database_that_does_not_answer_is_no_refusal(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("DATABASE__DATABASE_URL", "postgresql+asyncpg://u:p@127.0.0.1:1/nobody")
    code, text = run(*words)
    assert code == 5, text
    assert "The database cannot be reached" in text


async def test_jobs_are_listed_shown_cancelled_and_retried(
    settings: Settings, registry: JobRegistry, run: Run
) -> None:
    @job("fails", registry=registry, max_attempts=1)
    async def fails(ctx: JobContext) -> None:
        raise ValueError("no luck")

    async with running_lab(settings, registry) as lab:
        waiting = await lab.client.enqueue_now(fails, delay_seconds=3600)
        worker = await lab.start_worker()
        failed = await lab.client.enqueue_now(fails)
        await lab.ended(failed.id)
        code, text = await in_thread(run, "list", "--state", "failed")
        assert code == 0
        assert str(failed.id) in text
        assert "ValueError: no luck" in text
        assert str(waiting.id) not in text
        code, text = await in_thread(run, "show", str(waiting.id), "--json")
        (shown,) = json.loads(text)
        assert shown["why"].startswith("not_due: ")
        code, text = await in_thread(run, "cancel", str(waiting.id))
        assert (code, text) == (0, f"{waiting.id}: cancelled\n")
        code, text = await in_thread(run, "workers")
        assert worker.worker_id in text
        await lab.stop_worker(worker)
        code, text = await in_thread(run, "retry", "--state", "failed")
        assert (code, text) == (0, f"{failed.id}: queued\n")
        code, text = await in_thread(run, "retry", str(failed.id))
        assert code == 1
        assert await lab.state(failed.id) is JobState.QUEUED


async def test_queues_are_paused_and_a_worker_is_drained(
    settings: Settings, registry: JobRegistry, run: Run
) -> None:
    @job("idle", registry=registry)
    async def idle(ctx: JobContext) -> None: ...

    async with running_lab(settings, registry) as lab:
        worker = await lab.start_worker()
        assert (await in_thread(run, "pause", "default"))[0] == 0
        async with asyncio.timeout(20):  # workers hear of it with their next beat
            while worker.open_queues():
                await asyncio.sleep(0.01)
        waiting = await lab.client.enqueue_now(idle)
        _code, text = await in_thread(run, "stats", "--json")
        (queue,) = json.loads(text)
        assert (queue["is_paused"], queue["queued"], queue["workers"]) == (True, 1, 1)
        _code, text = await in_thread(run, "show", str(waiting.id), "--json")
        assert json.loads(text)[0]["why"].startswith("queue_paused: ")
        assert (await in_thread(run, "resume", "default"))[0] == 0
        assert (await lab.ended(waiting.id, timeout_seconds=20)).state is JobState.SUCCEEDED
        assert (await in_thread(run, "drain", "nobody"))[0] == 1
        assert (await in_thread(run, "drain", worker.worker_id))[0] == 0
        await until_ended(lab)
        assert not worker.allow_pick_jobs


async def test_a_job_that_does_not_exist_is_named_and_the_others_are_seen_to(
    settings: Settings, registry: JobRegistry, run: Run
) -> None:
    @job("waits", registry=registry)
    async def waits(ctx: JobContext) -> None: ...

    nobody = "00000000-0000-0000-0000-000000000001"
    missing = f"{nobody}: There is no such job\n"
    async with running_lab(settings, registry) as lab:
        there = str((await lab.client.enqueue_now(waits, delay_seconds=3600)).id)
        code, text = await in_thread(run, "show", nobody, there)
        assert (code, missing in text, there in text) == (1, True, True)
        code, text = await in_thread(run, "cancel", nobody, there)
        assert (code, text) == (1, f"{there}: cancelled\n{missing}")
        code, text = await in_thread(run, "retry", nobody, there)
        assert (code, text) == (1, f"{there}: queued\n{missing}")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["list", "--limit", "0"], "'0' is no number from 1 to"),
        (["list", "--limit", "-5"], "'-5' is no number from 1 to"),
        (["list", "--owner", "99999999999"], "is no number from 1 to"),
        (["pause", ""], "a queue has 1 to 64 characters"),
        (["pause", "x" * 65], "a queue has 1 to 64 characters"),
        (["cancel", "--json", "00000000-0000-0000-0000-000000000001"], "unrecognized arguments: --json"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_a_store_is_asked(
    run: Run, capsys: pytest.CaptureFixture[str], words: list[str], complaint: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(*words)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


def test_without_a_database_nothing_is_shown_as_empty(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENVIRONMENT", "development")
    monkeypatch.delenv("DATABASE__DATABASE_URL")
    code, text = run("stats")
    assert code == 1
    assert "set DATABASE__DATABASE_URL" in text


async def until_ended(lab: Lab) -> None:
    (task,) = lab._tasks.values()
    async with asyncio.timeout(30):
        await asyncio.shield(task)
    lab.workers.clear()
    lab._tasks.clear()
