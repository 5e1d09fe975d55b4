"""`migrate --keep`, which the chart runs where the database goes with its pod: what is emptied gets its schema again."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from hack.dev.layout import REPOSITORY
from hack.dev.processes import Child
from tests.support.databases import environment_of
from tests.support.service_processes import API, WORKER, ServiceProcess, await_true

pytestmark = pytest.mark.only_on("postgres", reason="the chart's own store is PostgreSQL")

MANAGE = (sys.executable, "-m", "services.manage")
SMOKE = REPOSITORY / "charts" / "scalable-fastapi-system" / "files" / "smoke.py"


@pytest.fixture
def told(empty_database_section, redis_url):
    return {
        **environment_of(empty_database_section),
        "REDIS__REDIS_URL": redis_url,
        "STORAGE__URL": "database://",
        "SECURITY__SECRET_KEY": secrets.token_hex(32),
    }


def run(told, *command, **more):
    environment = {**os.environ, **told, "ENVIRONMENT": "test", **more}
    return subprocess.run(
        [sys.executable, *command],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def migrate(told, *arguments):
    return run(told, "-m", "services.manage", "migrate", *arguments)


@pytest.fixture
def keeper(tmp_path, told) -> Iterator[Child]:
    child = Child(
        "keeper",
        [*MANAGE, "migrate", "--keep", "0.2"],
        log_path=tmp_path / "keeper.log",
        cwd=REPOSITORY,
        environment={**os.environ, **told, "ENVIRONMENT": "test"},
    )
    child.start()
    yield child
    if child.is_running:
        child.kill()


def times_said(keeper, text):
    return keeper.log_path.read_text().count(text)


def test_it_brings_the_schema_to_an_empty_database_and_again_to_one_that_was_emptied(keeper, told):
    await_true(lambda: times_said(keeper, "The schema is current") == 1, what="the first schema")
    migrate(told, "--downgrade", "base")
    await_true(lambda: times_said(keeper, "The schema is current") == 2, what="the schema once more")
    assert migrate(told, "--check").returncode == 0
    assert keeper.is_running


def test_it_ends_at_once_when_it_is_told_to(keeper):
    await_true(lambda: times_said(keeper, "current"), what="the schema")
    keeper.signal(signal.SIGTERM)
    await_true(lambda: not keeper.is_running, timeout_seconds=5, what="the end")
    assert keeper.exit_code == 0


def test_api_and_worker_that_ran_go_on_when_the_schema_is_there_again(keeper, told, tmp_path):
    await_true(lambda: times_said(keeper, "The schema is current"), what="the schema")
    services = [
        ServiceProcess("api", API, tmp_path, {**told, "JOBS__MODE": "worker"}),
        ServiceProcess("worker", WORKER, tmp_path, {**told, "JOBS__MODE": "worker"}),
    ]
    api, worker = services

    def job_is_done():
        where = {"API_URL": api.url, "WORKER_URL": worker.url, "JOB_TIMEOUT_SECONDS": "60"}
        return run(told, str(SMOKE), "job", **where).returncode == 0

    try:
        for service in services:
            service.start()
        assert job_is_done()
        pids = [service.pids() for service in services]
        migrate(told, "--downgrade", "base")
        await_true(lambda: times_said(keeper, "The schema is current") == 2, what="the schema once more")
        await_true(job_is_done, timeout_seconds=120, what="a job from upload to result")
        assert [service.pids() for service in services] == pids
    finally:
        for service in services:
            service.kill()
