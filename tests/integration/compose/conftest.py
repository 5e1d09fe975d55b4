"""nginx with the configuration of compose.yaml, before a real API on real stores."""

from __future__ import annotations

import http.client
import os
import secrets
import shutil
import signal
import ssl
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hack.dev.layout import REPOSITORY
from hack.dev.ports import HOST, find_free
from hack.dev.postgres import Postgres
from hack.dev.processes import Child
from hack.dev.redis_server import Redis
from tests.support.service_processes import API, ServiceProcess, await_true

COMPOSE = REPOSITORY / "compose"


class Edge:
    """A running nginx: requests over TLS, each on a connection of its own, and its log."""

    def __init__(self, folder: Path, api: ServiceProcess) -> None:
        self.port, self.plain_port = find_free(), find_free()
        self.api = api
        self._folder = folder
        self.config = self._write()
        self._child = Child(
            "nginx",
            [
                str(shutil.which("nginx", path="/usr/sbin:/usr/bin")),
                "-e",
                "stderr",
                "-c",
                str(self.config),
                "-g",
                "daemon off;",
            ],
            log_path=folder / "nginx.log",
            cwd=folder,
            environment={"PATH": "/usr/sbin:/usr/bin:/bin"},
        )

    def _write(self) -> Path:
        """The committed file with this machine's ports and folders, in the layout of the container."""
        text = (COMPOSE / "nginx" / "nginx.conf").read_text(encoding="utf-8")
        for found, instead in (
            ("listen 8080 default_server;", f"listen {HOST}:{self.plain_port} default_server;"),
            ("listen 8443 ssl default_server;", f"listen {HOST}:{self.port} ssl http2 default_server;"),
            ("http2 on;", ""),  # Debian's nginx knows it only as a word of `listen`
            ("http://api:8000", self.api.url),
            ("/run/nginx.pid", str(self._folder / "nginx.pid")),
            ("/run/https_port.con", f"{self._folder}/https_port.con"),
            ("access_log /dev/stdout", f"access_log {self._folder / 'access.log'}"),
            ("_path /tmp/", f"_path {self._folder}/"),
        ):
            assert found in text, found
            text = text.replace(found, instead)
        (self._folder / "nginx").mkdir()
        config = self._folder / "nginx" / "nginx.conf"
        config.write_text(text, encoding="utf-8")
        shutil.copy(COMPOSE / "init", self._folder / "init")
        subprocess.run([self._folder / "init"], check=True, capture_output=True)
        return config

    def start(self) -> None:
        """Starts it; an AssertionError with its log if it does not serve."""
        self._child.start()
        await_true(
            lambda: not self._child.is_running or self._answers(), timeout_seconds=30, what="nginx serves"
        )
        assert self._child.is_running, (self._folder / "nginx.log").read_text()

    def name_tls_port(self, service: dict[str, Any], port: str) -> None:
        """What the command of compose.yaml does before it starts nginx; nginx then reads its configuration again."""
        *_, script = service["command"]
        written, found, _ = script.replace("$$", "$").partition("exec nginx")
        assert found
        assert "/run/" in written
        subprocess.run(
            ["sh", "-euc", written.replace("/run/", f"{self._folder}/")], check=True, env={"HTTPS_PORT": port}
        )
        os.kill(int((self._folder / "nginx.pid").read_text()), signal.SIGHUP)

    def stop(self) -> None:
        """Ends it."""
        self._child.kill()

    def _answers(self) -> bool:
        try:
            return self.request("GET", "/health/live")[0] == 200
        except OSError:
            return False

    def connect(self) -> http.client.HTTPSConnection:
        """A connection that trusts the certificate that `compose/init` made, and checks its name."""
        context = ssl.create_default_context(cafile=str(self._folder / "tls" / "tls.crt"))
        return http.client.HTTPSConnection("localhost", self.port, context=context, timeout=60)

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Status, headers and body."""
        connection = self.connect()
        try:
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def access_log(self) -> list[str]:
        """Its lines so far."""
        return (self._folder / "access.log").read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def edge(
    postgres_server: Postgres, redis_server: Redis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Edge]:
    """nginx and the API behind it, for a module's tests."""
    if shutil.which("nginx", path="/usr/sbin:/usr/bin") is None:
        pytest.skip("nginx is not installed (Debian: nginx-light)")
    folder = tmp_path_factory.mktemp("edge")
    folder.chmod(0o755)  # nginx's processes have a user of their own where this one is root
    for parent in folder.parents:
        if parent.name.startswith("pytest-"):
            parent.chmod(0o755)
    name = f"edge_{uuid.uuid4().hex[:12]}"  # the server is all test processes' own
    api = ServiceProcess(
        "api",
        API,
        folder,
        {
            "DATABASE__DATABASE_URL": postgres_server.create_database(name),
            "REDIS__REDIS_URL": redis_server.url(),
            "REDIS__KEY_PREFIX": name,
            "SECURITY__TRUSTED_PROXIES": HOST,
            "ENVIRONMENT": "production",
            "SECURITY__SECRET_KEY": secrets.token_hex(32),
            "RATE_LIMIT__AUTH": "1000/minute",
            "STORAGE__URL": "database://",
            "JOBS__MODE": "embedded",
        },
    )
    subprocess.run(
        [sys.executable, "-m", "services.manage", "migrate"],
        check=True,
        capture_output=True,
        cwd=REPOSITORY,
        env=dict(api.child.environment),
    )
    api.start()
    edge = Edge(folder, api)
    try:
        edge.start()
        yield edge
    finally:
        edge.stop()
        api.kill()
