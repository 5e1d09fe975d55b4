"""`manage migrate` against a database that is not up yet, as in the first seconds of an installation, or that refuses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from scalable_fastapi_system.cli import main
from scalable_fastapi_system.kit.domain import Product

from tests.support.migrations import write_migrations

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


# -- a revision that the database refuses ----------------------------------------------------------------


@pytest.fixture
def run(database_environment, tmp_path, monkeypatch, capsys):
    """`manage`, in this process, of a product whose second revision meets a row that it does not fit."""
    package = tmp_path / f"refused_{tmp_path.name}"
    steps = {
        "b1": "op.create_table('orders', sa.Column('id', sa.Integer(), primary_key=True))\n"
        "    op.execute('INSERT INTO orders (id) VALUES (1)')",
        "b2": "op.create_table('parcels', sa.Column('id', sa.Integer(), primary_key=True, autoincrement=False))\n"
        "    op.execute('INSERT INTO parcels (id) SELECT 1 FROM orders UNION ALL SELECT 1 FROM orders')",
    }
    write_migrations(package, steps, downgrade="op.execute('DROP TABLE nothing')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("ENVIRONMENT", "test")
    for name, value in database_environment.items():
        monkeypatch.setenv(name, value)

    def command(*arguments):
        capsys.readouterr()
        code = main(arguments, product=Product(migrations=package.name))
        return code, *capsys.readouterr()

    return command


@pytest.mark.databases("sqlite", "postgres", "mariadb")
def test_a_revision_that_the_database_refuses_is_told_as_what_it_is(run):
    code, _, errors = run("migrate")
    assert code == 1
    assert errors.startswith("The migration failed at revision b2: ")
    assert re.search("unique|duplicate", errors, re.IGNORECASE)
    assert "migrate again" in errors
    assert "does not answer" not in errors
    assert "at b1, p0005" in run("migrate", "--check")[1]

    code, _, errors = run("migrate", "--downgrade", "product@base")
    assert code == 1
    assert errors.startswith("The migration failed at revision b1: ")


@pytest.mark.databases("sqlite", "postgres", "mariadb")
def test_a_revision_whose_file_is_missing_is_told_as_what_it_is(run, tmp_path):
    (revision,) = tmp_path.glob("refused_*/versions/b2.py")
    revision.write_text(
        revision.read_text().replace(
            "op.execute('INSERT", "open('/no/such/seed.csv')\n    op.execute('INSERT"
        )
    )
    code, _, errors = run("migrate")
    assert code == 1
    assert errors.startswith("The migration failed at revision b2: ")
    assert "/no/such/seed.csv" in errors


@pytest.mark.databases("sqlite", "postgres", "mariadb")
def test_a_command_that_the_database_refuses_is_told_as_what_it_is(run):
    code, _, errors = run("user", "list")
    assert code == 1
    assert errors.startswith("The database refused it: ")
    assert "users" in errors
    assert "manage migrate --check" in errors


def test_one_that_stays_says_at_which_revision_it_failed(run, monkeypatch, capsys):
    def stop(_seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("scalable_fastapi_system.cli.time.sleep", stop)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        run("migrate", "--keep", "1")
    assert "Not migrated: at revision b2: " in capsys.readouterr().out
