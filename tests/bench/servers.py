"""The servers that are measured, each one process pinned to a core, stopped (SIGSTOP) while another's turn is on."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import jwt

from hack.dev.errors import DevError
from hack.dev.layout import REPOSITORY
from hack.dev.ports import find_free, is_free
from hack.dev.processes import Child, wait_until
from tests.bench.load import Call
from tests.bench.machine import SERVER_CORE, family_seconds
from tests.bench.stores import Stores, run_sql
from tests.bench.works import Work

SEEDED_ITEMS = 10_000
READER, WRITER = "reader", "writer"
_START_SECONDS = 120.0
_TOKEN_SECONDS = 24 * 3600
_PASSWORD = "correct-horse-battery-staple-7"
SEED_ITEMS = (
    "INSERT INTO items (id, owner_id, title, description, created_at) "
    "SELECT gen_random_uuid(), {owner}, 'Item ' || n, 'description of item ' || n, "
    "timestamptz '2026-01-01' + n * interval '1 minute' FROM generate_series(1, {count}) n"
)


class Server:
    """One server on a port of 127.0.0.1. `tokens` are those of the reader, who owns items, and of the writer."""

    def __init__(
        self, name: str, command: list[str], environment: Mapping[str, str], stores: Stores, *, cores: str
    ) -> None:
        """cores: what taskset takes, such as `0` or `0-2`."""
        self.port = find_free()
        self.name = name
        self._stores = stores
        self._tokens: dict[str, str] = {}
        self._item_id = ""
        words = [word.replace("{port}", str(self.port)) for word in command]
        self.child = Child(
            name,
            ["taskset", "-c", cores, *words],
            log_path=stores.folder / f"{name}.log",
            cwd=REPOSITORY,
            environment={
                "PATH": os.environ["PATH"],
                "HOME": os.environ.get("HOME", "/"),
                "PYTHONPATH": str(REPOSITORY),
                **{name: value.replace("{port}", str(self.port)) for name, value in environment.items()},
            },
        )

    def start(self, *, probe: str) -> float:
        """Starts it and waits until `probe` is answered; how many seconds that took."""
        started = time.monotonic()
        self.child.start()
        answered = wait_until(
            lambda: not self.child.is_running or (not is_free(self.port) and self._answers(probe)),
            timeout_seconds=_START_SECONDS,
        )
        if not (answered and self.child.is_running):
            self.stop()
            raise DevError(f"{self.name} did not start", log=self.child.log_tail(25))
        return time.monotonic() - started

    def stop(self) -> None:
        """Ends it, frozen or not."""
        if self.child.is_running:
            self.child.thaw()
            self.child.stop(grace_seconds=10)

    def cpu_seconds(self) -> float:
        """Processor time of the process and its children."""
        return family_seconds(self.child.pid)

    def request(
        self, path: str, *, method: str = "GET", body: Any = None, token: str | None = None
    ) -> tuple[int, bytes]:
        """One request outside the measurement: status and body."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url(path), data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def request_as_reader(self, path: str) -> tuple[int, bytes]:
        """One GET outside the measurement, by the caller who owns items."""
        return self.request(path, token=self._tokens.get(READER))

    def prepare(self) -> None:
        """Makes the callers and finds an item to read."""
        self._tokens = self.make_tokens()
        if self._tokens:
            status, body = self.request("/items?limit=1", token=self._tokens[READER])
            if status != 200:
                raise DevError(f"{self.name}: /items answers {status}", log=self.child.log_tail(25))
            data = json.loads(body)["data"]
            self._item_id = (data["items"] if isinstance(data, dict) else data)[0]["id"]

    def make_tokens(self) -> dict[str, str]:
        """Tokens by caller; empty for a server that knows none."""
        return {}

    def call(self, work: Work) -> Call:
        """The request of this work as this server takes it. Raises DevError where it does not answer 2xx."""
        token = self._tokens.get(WRITER if work.writes else READER)
        path = work.path.replace("{item_id}", self._item_id)
        status, answer = self.request(path, method=work.method, body=work.body, token=token)
        if not 200 <= status < 300:
            raise DevError(f"{self.name}: {work.method} {path} answers {status}: {answer[:300]!r}")
        body = None if work.body is None else json.dumps(work.body)
        return Call(self._url(path), work.method, {"Authorization": f"Bearer {token}"} if token else {}, body)

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def _answers(self, path: str) -> bool:
        try:
            return self.request(path)[0] < 500
        except OSError:
            return False


class Limit(Server):
    """A hand-written application on uvicorn."""

    def __init__(
        self,
        name: str,
        factory: str,
        stores: Stores,
        *,
        dsn: str = "",
        core: int = SERVER_CORE,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        command = [sys.executable, "-m", "uvicorn", f"tests.bench.limits.{factory}", "--factory"]
        command += ["--host", "127.0.0.1", "--port", "{port}", "--loop", "uvloop", "--http", "httptools"]
        command += ["--no-access-log", "--log-level", "warning"]
        self._secret = secrets.token_urlsafe(32)
        self._has_callers = bool(dsn)
        settings = {"DSN": dsn, "REDIS_URL": stores.redis_url, "SECRET": self._secret, **(environment or {})}
        super().__init__(name, command, settings, stores, cores=str(core))

    def make_tokens(self) -> dict[str, str]:
        if not self._has_callers and not self.name.startswith("fastapi"):
            return {}
        expiry = int(time.time()) + _TOKEN_SECONDS
        return {
            caller: jwt.encode({"sub": str(number), "exp": expiry}, self._secret, algorithm="HS256")
            for number, caller in enumerate((READER, WRITER), 1)
        }

    def prepare(self) -> None:
        if self._has_callers:
            super().prepare()
        else:
            self._tokens = self.make_tokens()


class Platform(Server):
    """The platform with everything on, as its image runs it, with the bench product or another one.

    application: what gunicorn loads. manage: the module of its operators' command. python: whose libraries it has.
    """

    def __init__(
        self,
        name: str,
        stores: Stores,
        *,
        dsn: str,
        cores: str = str(SERVER_CORE),
        environment: Mapping[str, str] | None = None,
        application: str = "tests.bench.product.main:app",
        manage: str = "tests.bench.product.manage",
        python: str = sys.executable,
    ) -> None:
        # No time limit on the processes: one that is stopped for another's turn looks dead.
        command = [python, "-m", "gunicorn", "-c", "services/api/gunicorn.conf.py", "--timeout", "0"]
        command.append(application)
        self.settings = {
            "ENVIRONMENT": "production",
            "SECURITY__SECRET_KEY": secrets.token_urlsafe(48),
            "SECURITY__ACCESS_TOKEN_EXPIRE_MINUTES": "1440",
            "DATABASE__DATABASE_URL": dsn,
            # As many as the hand-written one has.
            "DATABASE__POOL_SIZE": "16",
            "DATABASE__MAX_OVERFLOW": "16",
            "DATABASE__READ_POOL_SIZE": "16",
            "REDIS__REDIS_URL": stores.redis_url,
            "REDIS__KEY_PREFIX": name,
            "JOBS__MODE": "worker",
            "LOGGING__FORMAT": "json",
            # Every request is counted against its quota; none is refused.
            **{
                f"RATE_LIMIT__{policy}": "1000000000/minute"
                for policy in ("ANONYMOUS", "USER", "API_KEY", "ADMIN", "AUTH")
            },
            "API__HOST": "127.0.0.1",
            "API__PORT": "{port}",
            **(environment or {}),
        }
        super().__init__(name, command, self.settings, stores, cores=cores)
        self._dsn = dsn
        self._manage = manage

    def migrate(self) -> None:
        """Brings the database to the schema of the platform and of the product."""
        environment = {name: value.replace("{port}", "0") for name, value in self.settings.items()}
        result = subprocess.run(
            [sys.executable, "-m", self._manage, "migrate"],
            cwd=REPOSITORY,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            raise DevError("migrate failed", log=(result.stdout + result.stderr).splitlines()[-25:])

    def make_tokens(self) -> dict[str, str]:
        return {caller: self._sign_in(caller) for caller in (READER, WRITER)}

    def seed(self, owner: int) -> None:
        """What the reader owns before anything is measured."""
        run_sql(self._dsn, SEED_ITEMS.format(owner=owner, count=SEEDED_ITEMS), "VACUUM ANALYZE")

    def _sign_in(self, caller: str) -> str:
        user = {"username": f"bench_{caller}", "password": _PASSWORD}
        status, answer = self.request(
            "/auth/register", method="POST", body={**user, "email": f"{caller}@example.com"}
        )
        if status not in {200, 201, 400, 409}:
            raise DevError(
                f"{self.name}: registering answers {status}: {answer[:300]!r}", log=self.child.log_tail(25)
            )
        if status < 300 and caller == READER:
            self.seed(json.loads(answer)["data"]["id"])
        status, answer = self.request("/auth/login", method="POST", body=user)
        if status != 200:
            raise DevError(f"{self.name}: signing in answers {status}: {answer[:300]!r}")
        token: str = json.loads(answer)["access_token"]
        return token


def seed_limits(dsn: str) -> None:
    """The tables of the limits and what is in them."""
    schema = (REPOSITORY / "tests/bench/limits/schema.sql").read_text(encoding="utf-8")
    run_sql(
        dsn,
        schema,
        "INSERT INTO users SELECT n, 'user' || n, 'user' || n || '@example.com', 'user', true, now(), now() "
        "FROM generate_series(1, 2) n",
        SEED_ITEMS.format(owner=1, count=SEEDED_ITEMS),
        "VACUUM ANALYZE",
    )
