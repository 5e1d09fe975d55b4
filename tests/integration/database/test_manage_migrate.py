"""`manage migrate` against a database that is not up yet, as in the first seconds of an installation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
PYTHONPATH = os.pathsep.join(
    str(REPOSITORY / part) for part in ("", "packages/scalable_fastapi_system/src", "packages/domains/src")
)


def migrate(url, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "services.manage", "migrate", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": PYTHONPATH, "DATABASE__DATABASE_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_without_patience_a_missing_database_is_told_at_once(disposable_postgres):
    url = disposable_postgres.url("app")
    disposable_postgres.stop()
    process = migrate(url)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 5
    assert "does not answer" in errors


def test_with_patience_a_database_that_comes_up_is_migrated(disposable_postgres):
    url = disposable_postgres.url("app")
    disposable_postgres.stop()
    process = migrate(url, "--patience", "60")
    try:
        process.wait(3)
    except subprocess.TimeoutExpired:
        disposable_postgres.start()
    output, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    assert "The schema is current" in output
