"""docs/operations.md: the commands inside the Postgres pod, as they stand there, run on a real server."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from pathlib import Path
from urllib.parse import unquote, urlsplit

import asyncpg
import pytest

from hack.dev.layout import REPOSITORY
from hack.dev.postgres import program

pytestmark = pytest.mark.only_on("postgres", reason="pg_dump, pg_restore and psql")

TEXT = (REPOSITORY / "docs" / "operations.md").read_text()


def inner(word):
    """What `kubectl exec … -- sh -c '…'` runs in the pod, by the program that it starts."""
    (found,) = re.findall(rf"postgres-0\" -- sh -c '({word} [^']+)'", TEXT)
    return found


def run_in_pod(command, url, **streams):
    parts = urlsplit(url)
    environment = {
        "PATH": f"{Path(program('pg_dump')).parent}:{os.environ['PATH']}",
        "POSTGRES_USER": parts.username,
        "POSTGRES_DB": parts.path.lstrip("/"),
        "PGHOST": parts.hostname,
        "PGPORT": str(parts.port),
        "PGPASSWORD": unquote(parts.password),
    }
    return subprocess.run(["sh", "-c", command], env=environment, check=True, timeout=240, **streams)


def ask(url, statement):
    async def run():
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetch(statement)
        finally:
            await connection.close()

    return asyncio.run(run())


COLUMNS = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2"


def test_what_was_backed_up_is_there_again_after_a_restore(disposable_postgres, tmp_path):
    url = disposable_postgres.url("app")
    ask(url, "CREATE TABLE kept AS SELECT n, md5(n::text) AS word FROM generate_series(1, 1000) AS n")
    before = ask(url, COLUMNS), ask(url, "SELECT * FROM kept ORDER BY n"), ask(url, "TABLE alembic_version")
    with (tmp_path / "backup.dump").open("wb") as file:
        run_in_pod(inner("pg_dump"), url, stdout=file)
    ask(url, "DELETE FROM kept WHERE n > 10")
    ask(url, "DROP TABLE users CASCADE")
    assert ask(url, COLUMNS) != before[0]
    with (tmp_path / "backup.dump").open("rb") as file:
        run_in_pod(inner("pg_restore"), url, stdin=file)
    assert (
        ask(url, COLUMNS),
        ask(url, "SELECT * FROM kept ORDER BY n"),
        ask(url, "TABLE alembic_version"),
    ) == before


def test_the_password_is_changed_by_the_command_given(disposable_postgres):
    url = disposable_postgres.url("app")
    (statement,) = re.findall(r'<<< "(ALTER ROLE [^"]+)"', TEXT)
    run_in_pod(inner("psql"), url, input=statement.replace("$NEW", "another-word").encode())
    parts = urlsplit(url)
    with pytest.raises(asyncpg.InvalidPasswordError):
        ask(url, "SELECT 1")
    changed = parts._replace(netloc=f"{parts.username}:another-word@{parts.hostname}:{parts.port}").geturl()
    assert ask(changed, "SELECT 1")[0][0] == 1
