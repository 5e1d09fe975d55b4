"""PgBouncer in transaction mode for tests: Debian's `pgbouncer` in front of the run's Postgres.

Every client is given a server for the length of one transaction. With the pool of two that the tests use, hardly two
transactions of a client run on the same one, so whatever relies on a session's state fails at once.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from hack.dev.errors import DevError
from hack.dev.ports import HOST
from hack.dev.processes import Account, Child, wait_until
from tests.support.mariadb import find_program

MISSING = "no PgBouncer: Debian's package pgbouncer has it (hack/ci/debian-packages)"
START_TIMEOUT_SECONDS = 30.0


def find_pgbouncer() -> str | None:
    """The installed PgBouncer, if there is one."""
    return find_program("pgbouncer")


class PgBouncer:
    """One pooler for every database of one server; the client's user and password are the server's."""

    def __init__(
        self, program: str, folder: Path, *, port: int, server_url: str, pool_size: int, log_path: Path
    ) -> None:
        """`server_url`: any address of the Postgres server, with the role that clients use."""
        self.port = port
        self._server_url = server_url
        self._folder = folder
        server = urlsplit(server_url)
        account = _nobody() if os.geteuid() == 0 else None  # it refuses root
        folder.mkdir(mode=0o755, exist_ok=True)
        users = folder / "users.txt"
        users.write_text(f'"{server.username}" "{server.password}"\n', encoding="utf-8")
        configuration = folder / "pgbouncer.ini"
        configuration.write_text(
            f"""[databases]
* = host={server.hostname} port={server.port}
[pgbouncer]
listen_addr = {HOST}
listen_port = {port}
unix_socket_dir =
auth_type = plain
auth_file = {users}
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = 200
server_idle_timeout = 5
server_fast_close = 1
server_login_retry = 1
query_wait_timeout = 10
ignore_startup_parameters = extra_float_digits
""",
            encoding="utf-8",
        )
        if account is not None:
            for path in (folder, users, configuration):
                os.chown(path, account.uid, account.gid)
        self._child = Child(
            "pgbouncer", [program, configuration], log_path=log_path, cwd=folder, account=account
        )

    def url(self, database: str) -> str:
        """The address of a database of the server, through the pooler, which is there: one that a test brought down, as can
        happen to 1.18 where queries are cancelled, must not take the tests after it along."""
        if not self._child.is_running:
            self.start()
        server = urlsplit(self._server_url)
        return f"postgresql://{server.username}:{server.password}@{HOST}:{self.port}/{database}"

    def start(self) -> None:
        """Starts it and waits until it listens."""
        self._child.start()
        wait_until(
            lambda: self._listens() or not self._child.is_running, timeout_seconds=START_TIMEOUT_SECONDS
        )
        if not self._child.is_running or not self._listens():
            raise DevError(
                f"PgBouncer did not start: it {self._child.describe_exit()}", log=self._child.log_tail()
            )

    def log_tail(self) -> list[str]:
        """The last lines that it wrote."""
        return self._child.log_tail()

    def discard(self) -> None:
        """Kills it and removes its folder."""
        self._child.kill()
        shutil.rmtree(self._folder)

    def _listens(self) -> bool:
        with closing(socket.socket()) as client:
            client.settimeout(5)
            return client.connect_ex((HOST, self.port)) == 0


def _nobody() -> Account:
    entry = pwd.getpwnam("nobody")
    return Account(uid=entry.pw_uid, gid=entry.pw_gid)
