"""A MariaDB server for tests: Debian's `mariadb-server` on a folder of the run, by TCP on 127.0.0.1.

No service is used and no account made: the data belongs to the account that runs the tests, root included. Where
the program is missing, `find_programs` says None and the fixtures skip.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pymysql

from hack.dev.errors import DevError
from hack.dev.processes import Child, ProcessMark, end, wait_until

ROLE = "app"
PASSWORD = "only-for-tests"
MISSING = "no MariaDB server: Debian's package mariadb-server has it (hack/ci/debian-packages)"
START_TIMEOUT_SECONDS = 60.0
# Not on the path of an ordinary user.
_MORE_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin")


@dataclass(frozen=True)
class Programs:
    """The server, and what makes its data folder."""

    server: str
    install: str


def find_program(name: str) -> str | None:
    """A program on the path or where Debian keeps its servers."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *_MORE_FOLDERS]))


def find_programs() -> Programs | None:
    """The installed MariaDB, if there is one."""
    server, install = find_program("mariadbd"), find_program("mariadb-install-db")
    return Programs(server, install) if server and install else None


class MariaDB:
    """One server on one data folder. `start`, `stop` and `kill` may alternate; the port and the data stay."""

    def __init__(self, programs: Programs, data_dir: Path, *, port: int, log_path: Path) -> None:
        self._programs = programs
        self.data_dir = data_dir
        self.port = port
        self._child = Child(
            "mariadb",
            [
                programs.server,
                "--no-defaults",
                *self._account(),
                f"--datadir={data_dir}",
                f"--port={port}",
                "--bind-address=127.0.0.1",
                f"--socket={data_dir}/mariadb.sock",
                f"--pid-file={data_dir}/mariadb.pid",
                "--max-connections=300",
                "--innodb-buffer-pool-size=64M",
                # What a crash of the machine would lose does not matter; a killed process loses nothing.
                "--innodb-flush-log-at-trx-commit=2",
                "--innodb-doublewrite=0",
                "--innodb-flush-method=nosync",
                "--sync-frm=0",
            ],
            log_path=log_path,
            cwd=data_dir.parent,
        )

    @property
    def child(self) -> Child:
        """The server as a process: `freeze`, `thaw`."""
        return self._child

    def url(self, database: str) -> str:
        """The address of a database as the role that owns all of them."""
        return f"mysql://{ROLE}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Makes the data folder if it is new, starts, waits until the server answers."""
        is_new = not (self.data_dir / "mysql").exists()
        if is_new:
            self._initialise()
        self._child.start()
        wait_until(
            lambda: self._answers() or not self._child.is_running, timeout_seconds=START_TIMEOUT_SECONDS
        )
        if not self._child.is_running or not self._answers():
            raise DevError(
                f"MariaDB did not start: it {self._child.describe_exit()}", log=self._child.log_tail()
            )
        if is_new:
            self.execute(
                f"CREATE USER '{ROLE}'@'%' IDENTIFIED BY '{PASSWORD}'",
                f"GRANT ALL PRIVILEGES ON *.* TO '{ROLE}'@'%'",
                user="root",
            )

    def stop(self) -> None:
        """A clean shutdown, killed after ten seconds."""
        self._child.stop(grace_seconds=10)

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, the next start recovers from the log."""
        self._child.kill()

    def discard(self) -> None:
        """Kills it and removes its data."""
        if self._child.is_running:
            self._child.kill()
        shutil.rmtree(self.data_dir)

    def execute(self, *statements: str, user: str = ROLE, database: str | None = None) -> list[Any]:
        """Runs statements with autocommit; the rows of the last."""
        with (
            self._connect(user, database) as connection,
            connection.cursor() as cursor,
        ):
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    def create_database(self, name: str) -> str:
        """Makes an empty database and gives its address."""
        self.execute(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4")
        return self.url(name)

    def copy_database(self, template: str, name: str) -> str:
        """A database with the tables and triggers of another and the rows of its version table."""
        url = self.create_database(name)
        with self._connect(ROLE, template) as source, source.cursor() as reader:
            statements = ["SET foreign_key_checks = 0"]
            reader.execute("SHOW TABLES")
            for (table,) in reader.fetchall():
                reader.execute(f"SHOW CREATE TABLE `{table}`")
                statements.append(reader.fetchone()[1])
            reader.execute("SHOW TRIGGERS")
            for row in reader.fetchall():
                reader.execute(f"SHOW CREATE TRIGGER `{row[0]}`")
                statements.append(reader.fetchone()[2])
        statements.append(f"INSERT INTO alembic_version SELECT * FROM `{template}`.alembic_version")
        self.execute(*statements, database=name)
        return url

    def drop_database(self, name: str) -> None:
        """Drops it, ending the sessions that it still has: an open transaction would make this wait."""
        sessions = self.execute(f"SELECT id FROM information_schema.processlist WHERE db = '{name}'")
        for (session,) in sessions:
            with contextlib.suppress(pymysql.OperationalError):  # it has ended by itself
                self.execute(f"KILL {session}")
        self.execute(f"DROP DATABASE IF EXISTS `{name}`")

    def _connect(self, user: str, database: str | None) -> Any:
        return pymysql.connect(
            host="127.0.0.1",
            port=self.port,
            user=user,
            password=PASSWORD if user == ROLE else "",
            database=database,
            autocommit=True,
            connect_timeout=10,
        )

    def _answers(self) -> bool:
        try:
            self._connect("root", None).close()
        except pymysql.Error:
            return False
        return True

    def _initialise(self) -> None:
        result = subprocess.run(
            [
                self._programs.install,
                "--no-defaults",
                *self._account(),
                f"--datadir={self.data_dir}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            log = (result.stdout + result.stderr).splitlines()[-15:]
            raise DevError(f"mariadb-install-db exited with code {result.returncode}", log=log)

    @staticmethod
    def _account() -> list[str]:
        # MariaDB refuses root unless it is told so.
        return ["--user=root"] if os.geteuid() == 0 else []


def end_leftover(data_dir: Path) -> None:
    """Ends the server that a run left on the folder, if it still runs."""
    try:
        mark = ProcessMark.of("mariadb", int((data_dir / "mariadb.pid").read_text()))
    except (OSError, ValueError, psutil.NoSuchProcess):
        return
    end(mark, first_signal=signal.SIGKILL, grace_seconds=5)
