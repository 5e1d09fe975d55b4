"""`migrate --keep`, which the chart runs where the database goes with its pod: what is emptied under it gets its schema again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from hack.dev.layout import REPOSITORY
from hack.dev.processes import Child
from tests.support.databases import environment_of
from tests.support.service_processes import await_true

MANAGE = (sys.executable, "-m", "services.manage")


@pytest.fixture
def environment(empty_database_section):
    return {**os.environ, **environment_of(empty_database_section), "ENVIRONMENT": "test"}


def manage(environment, *arguments):
    return subprocess.run(
        [*MANAGE, *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def keeper(tmp_path, environment):
    child = Child(
        "keeper",
        [*MANAGE, "migrate", "--keep", "0.2"],
        log_path=tmp_path / "keeper.log",
        cwd=REPOSITORY,
        environment=environment,
    )
    child.start()
    yield child
    if child.is_running:
        child.kill()


def test_it_brings_the_schema_to_an_empty_database_and_again_to_one_that_was_emptied(keeper, environment):
    def said(text):
        return keeper.log_path.read_text().count(text)

    await_true(lambda: said("The schema is current") == 1, what="the first schema")
    manage(environment, "migrate", "--downgrade", "base")
    await_true(lambda: said("The schema is current") == 2, what="the schema after the database was emptied")
    assert said("The schema is empty") == 2
    assert manage(environment, "migrate", "--check").returncode == 0
    assert keeper.is_running


def test_it_ends_at_once_when_it_is_told_to(keeper):
    await_true(lambda: "current" in keeper.log_path.read_text(), what="the schema")
    keeper.signal(signal.SIGTERM)
    await_true(lambda: not keeper.is_running, timeout_seconds=5, what="the end")
    assert keeper.exit_code == 0
