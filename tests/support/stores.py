"""The stores of one test run: one Postgres shared by all its processes, one Redis for each of them.

The processes of a run (pytest, and its xdist workers) share a folder. The first that needs Postgres starts it,
under a lock; the pytest that made the folder stops it at the end. A run that was killed is cleaned up by the
next one, which knows it by the process that owned it. The servers are the same as in `make run`, without fsync.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from hack.dev import postgres, redis_server
from hack.dev.errors import DevError
from hack.dev.layout import REPOSITORY
from hack.dev.ports import find_free
from hack.dev.postgres import APP_ROLE, THROWAWAY_SETTINGS, Postgres
from hack.dev.processes import ProcessMark
from hack.dev.redis_server import Redis
from hack.dev.unprivileged import run_as_for
from tests.support.mariadb import MariaDB, Programs
from tests.support.mariadb import end_leftover as end_leftover_mariadb
from tests.support.measured import measured
from tests.support.pgbouncer import PgBouncer

FOLDER_VARIABLE = "SFS_TEST_STORES"
_PREFIX = "sfs-tests-"
_PASSWORD = "only-for-tests"
TEMPLATE = "migrated_template"
POSTGRES_SETTINGS = {
    **THROWAWAY_SETTINGS,
    "max_connections": "300",
    # It would hold the template open while a test wants a copy of it.
    "autovacuum": "off",
}
# Kept to the end of the process: it may end before the server does, which is the run's and not its own.
_STARTED_HERE: list[Postgres | MariaDB] = []


def open_run() -> Path:
    """Make the folder of a new run, owned by this process, and clean up after runs whose owner is gone."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if _is_abandoned(folder):
            close_run(folder)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    folder.chmod(0o711)  # Postgres runs as another account where root runs the tests
    (folder / "owner.json").write_text(json.dumps(asdict(ProcessMark.of("pytest", os.getpid()))))
    return folder


def close_run(folder: Path) -> None:
    """Stop every server of a run and remove its folder."""
    for data_dir in folder.glob("postgres*"):
        if data_dir.is_dir():
            postgres.end_leftover(data_dir)
    for data_dir in folder.glob("redis*"):
        if data_dir.is_dir():
            redis_server.end_leftover(data_dir)
    for data_dir in folder.glob("mariadb*"):
        if data_dir.is_dir():
            end_leftover_mariadb(data_dir)
    shutil.rmtree(folder)


def _is_abandoned(folder: Path) -> bool:
    try:
        return not ProcessMark(**json.loads((folder / "owner.json").read_text())).is_running()
    except (OSError, ValueError, TypeError):
        return False  # another account's, or just being made


class Stores:
    """The stores as one process of the run sees them."""

    def __init__(self, folder: Path, *, process_name: str) -> None:
        """`process_name` tells this process's databases and servers from those of the run's other processes."""
        self._folder = folder
        self._process_name = process_name
        self._shared: Postgres | None = None
        self._has_template = False
        self._mariadb: MariaDB | None = None
        self._count = 0

    def postgres(self) -> Postgres:
        """The run's shared server, started by the first who asks. Not to be stopped or killed by a test."""
        if self._shared is None:
            with self._lock("postgres"):
                facts = self._folder / "postgres.json"
                if facts.exists():
                    self._shared = self._postgres("postgres", port=json.loads(facts.read_text())["port"])
                else:
                    self._shared = self._postgres("postgres")
                    self._shared.start()
                    _STARTED_HERE.append(self._shared)
                    facts.write_text(json.dumps({"port": self._shared.port}))
        return self._shared

    def new_database(self, *, is_migrated: bool) -> str:
        """The name of a fresh database on the shared server, with the product's schema or empty."""
        server = self.postgres()
        if is_migrated and not self._has_template:
            self._make_template(server)
        self._count += 1
        name = f"test_{self._process_name}_{self._count}"
        server.create_database(name, template=TEMPLATE if is_migrated else None)
        return name

    def disposable_postgres(self) -> Postgres:
        """A running server of the test's own, with the schema in its `app` database, to stop, kill and freeze."""
        with self._lock("snapshot"):
            snapshot = self._folder / "postgres-snapshot"
            if not snapshot.exists():
                self._make_snapshot(snapshot)
        self._count += 1
        server = self._postgres(f"postgres-{self._process_name}-{self._count}")
        # -a: the owner too, which is another account where root runs the tests
        subprocess.run(["cp", "-a", snapshot, server.data_dir], check=True)
        server.start()
        return server

    def standby_of(self, primary: Postgres) -> Postgres:
        """A running server that follows another by streaming replication, to stop, kill and promote."""
        self._count += 1
        server = self._postgres(f"postgres-{self._process_name}-{self._count}")
        # As the account that owns the primary's data: it owns the copy, too.
        run_as = run_as_for(server.data_dir, postgres.program("postgres"))
        command: list[str | Path] = [postgres.program("pg_basebackup"), "--dbname", primary.superuser_url()]
        command += ["--pgdata", server.data_dir, "--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
        result = run_as.run(command, cwd=server.data_dir)
        if result.returncode != 0:
            raise DevError(f"pg_basebackup exited with code {result.returncode}", log=[result.stderr])
        server.start()
        return server

    def new_redis(self) -> Redis:
        """A running Redis of this process's own."""
        self._count += 1
        name = f"redis-{self._process_name}-{self._count}"
        data_dir, log_path = self._folder / name, self._folder / f"{name}.log"
        server = Redis(data_dir, port=find_free(), password=_PASSWORD, log_path=log_path)
        server.start()
        return server

    def mariadb(self, programs: Programs) -> MariaDB:
        """The run's shared MariaDB, started by the first who asks, with a migrated database to copy."""
        if self._mariadb is None:
            with self._lock("mariadb"):
                facts = self._folder / "mariadb.json"
                if facts.exists():
                    self._mariadb = self._new_mariadb(
                        programs, "mariadb", port=json.loads(facts.read_text())["port"]
                    )
                else:
                    self._mariadb = self._new_mariadb(programs, "mariadb")
                    self._mariadb.start()
                    _STARTED_HERE.append(self._mariadb)
                    migrate(self._mariadb.create_database(TEMPLATE))
                    facts.write_text(json.dumps({"port": self._mariadb.port}))
        return self._mariadb

    def new_mariadb_database(self, server: MariaDB, *, is_migrated: bool) -> str:
        """The name of a fresh database on the shared MariaDB, with the product's schema or empty."""
        self._count += 1
        name = f"test_{self._process_name}_{self._count}"
        server.copy_database(TEMPLATE, name) if is_migrated else server.create_database(name)
        return name

    def disposable_mariadb(self, programs: Programs) -> MariaDB:
        """A running MariaDB of the test's own, with the schema in its `app` database."""
        with self._lock("mariadb-snapshot"):
            snapshot = self._folder / "mariadb-snapshot"
            if not snapshot.exists():
                self._make_mariadb_snapshot(programs, snapshot)
        self._count += 1
        server = self._new_mariadb(programs, f"mariadb-{self._process_name}-{self._count}")
        subprocess.run(["cp", "-a", snapshot, server.data_dir], check=True)
        server.start()
        return server

    def new_sqlite_file(self, folder: Path, *, is_migrated: bool) -> Path:
        """A SQLite file of its own in the folder, with the product's schema; where it is to be empty, its name alone."""
        self._count += 1
        file = folder / f"{self._process_name}_{self._count}.db"
        if is_migrated:
            template = self._folder / f"{TEMPLATE}.db"
            with self._lock("sqlite-template"):
                if not template.exists():
                    unfinished = self._folder / "unfinished.db"
                    migrate(f"sqlite:///{unfinished}")
                    unfinished.rename(template)
            shutil.copyfile(template, file)
        return file

    def new_pgbouncer(self, program: str, *, pool_size: int, server_url: str | None = None) -> PgBouncer:
        """A running PgBouncer of this process's own, in front of the shared Postgres or of the given one."""
        self._count += 1
        name = f"pgbouncer-{self._process_name}-{self._count}"
        pooler = PgBouncer(
            program,
            self._folder / name,
            port=find_free(),
            server_url=server_url or self.postgres().url(),
            pool_size=pool_size,
            log_path=self._folder / f"{name}.log",
        )
        pooler.start()
        return pooler

    def _new_mariadb(self, programs: Programs, name: str, *, port: int = 0) -> MariaDB:
        return MariaDB(
            programs,
            self._folder / name,
            port=port or find_free(),
            log_path=self._folder / f"{name}.log",
        )

    def new_folder(self) -> Path:
        """A folder of the test's own that a server of another account can work in, removed with the run."""
        self._count += 1
        folder = self._folder / f"folder-{self._process_name}-{self._count}"
        folder.mkdir(mode=0o711)
        return folder

    def _postgres(self, name: str, *, port: int = 0) -> Postgres:
        return Postgres(
            self._folder / name,
            port=port or find_free(),
            superuser_password=_PASSWORD,
            app_password=_PASSWORD,
            log_path=self._folder / f"{name}.log",
            settings=POSTGRES_SETTINGS,
        )

    def _make_template(self, server: Postgres) -> None:
        with self._lock("template"):
            done = self._folder / "template-is-made"
            if not done.exists():
                migrate(server.create_database(TEMPLATE))
                done.touch()
        self._has_template = True

    def _make_snapshot(self, snapshot: Path) -> None:
        unfinished = self._postgres("postgres-snapshot-unfinished")
        unfinished.start()
        try:
            migrate(unfinished.url(APP_ROLE))
        finally:
            unfinished.stop()
        unfinished.data_dir.rename(snapshot)

    def _make_mariadb_snapshot(self, programs: Programs, snapshot: Path) -> None:
        unfinished = self._new_mariadb(programs, "mariadb-snapshot-unfinished")
        unfinished.start()
        try:
            migrate(unfinished.create_database(APP_ROLE))
        finally:
            unfinished.stop()
        unfinished.data_dir.rename(snapshot)

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        with (self._folder / f"{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def migrate(database_url: str) -> None:
    """Bring a database to the product's newest schema, as an operator would; DevError with the output if not."""
    environment = {
        # and what leads a copy of the repository to its own packages
        **{name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
        **measured(),
        "ENVIRONMENT": "test",
        "DATABASE__DATABASE_URL": database_url,
    }
    result = subprocess.run(
        [sys.executable, "-m", "services.manage", "migrate"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        log = (result.stdout + result.stderr).splitlines()[-30:]
        raise DevError(f"migrate exited with code {result.returncode}", log=log)
