"""`manage migrate` against a database that is not up yet, as in the first seconds of an installation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.databases("postgres", "mariadb")

REPOSITORY = Path(__file__).resolve().parents[3]
PYTHONPATH = os.pathsep.join(
    str(REPOSITORY / part) for part in ("", "packages/scalable_fastapi_system/src", "packages/domains/src")
)


def migrate(environment, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "services.manage", "migrate", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": PYTHONPATH, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_without_patience_a_missing_database_is_told_at_once(disposable_database):
    disposable_database.stop()
    process = migrate(disposable_database.environment)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 5
    assert "does not answer" in errors


def test_with_patience_a_database_that_comes_up_is_migrated(disposable_database):
    disposable_database.stop()
    process = migrate(disposable_database.environment, "--patience", "60")
    try:
        process.wait(3)
    except subprocess.TimeoutExpired:
        disposable_database.start()
    output, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    assert "The schema is current" in output
