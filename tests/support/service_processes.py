"""The real services as processes of their own, started as their images start them, for tests that disturb them."""

from __future__ import annotations

import contextlib
import http.client
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from hack.dev.layout import REPOSITORY
from hack.dev.ports import HOST, find_free
from hack.dev.processes import Child, wait_until
from tests.support.measured import measured

START_TIMEOUT_SECONDS = 120.0
API = ("-m", "gunicorn", "-c", "services/api/gunicorn.conf.py", "services.api.main:app")
WORKER = ("-m", "services.worker")


class ServiceProcess:
    """The API or the worker on a port of its own; `environment` are its settings and nothing of this machine's."""

    def __init__(
        self, name: str, command: tuple[str, ...], folder: Path, environment: Mapping[str, str]
    ) -> None:
        self.port = find_free()
        self.url = f"http://{HOST}:{self.port}"
        port_variable = "JOBS__HEALTH_PORT" if command is WORKER else "API__PORT"
        self.child = Child(
            name,
            [sys.executable, *command],
            log_path=folder / f"{name}-{self.port}.log",
            cwd=REPOSITORY,
            environment={
                **measured(),
                "PATH": "/usr/bin:/bin",
                "PYTHONUNBUFFERED": "1",
                "ENVIRONMENT": "test",
                "SECURITY__BCRYPT_ROUNDS": "4",
                "LOGGING__FORMAT": "json",
                port_variable: str(self.port),
                **environment,
            },
        )

    def start(self, *, until: str = "/health/ready") -> None:
        """Starts it and waits until this path answers 200; an AssertionError with its log if it does not."""
        self.child.start()
        answered = wait_until(
            lambda: self.status(until) == 200 or not self.child.is_running,
            timeout_seconds=START_TIMEOUT_SECONDS,
        )
        assert self.child.is_running, self.log()[-4000:]
        # Not asked again: of several processes of one service another might answer, which is not ready yet.
        assert answered, self.log()[-4000:]

    def kill(self) -> None:
        """Ends it at once, with its children."""
        if self.child.is_running:
            self.child.kill()

    def status(self, path: str, *, timeout_seconds: float = 20.0) -> int | None:
        """The status of a GET on a fresh connection; None where no answer came."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=timeout_seconds)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def log(self) -> str:
        """Everything it has written."""
        return self.child.log_path.read_text(encoding="utf-8", errors="replace")

    def pids(self) -> list[int]:
        """The ids of the process and of all below it: the same ids later mean that nothing was restarted."""
        return sorted(process.pid for process in self.child._family())


def await_true(condition: object, *, timeout_seconds: float = 60.0, what: str) -> None:
    """Waits for `condition()` to hold; an AssertionError that names `what` when it does not in time."""
    assert callable(condition)
    began = time.monotonic()
    assert wait_until(condition, timeout_seconds=timeout_seconds), (
        f"{what}: not within {time.monotonic() - began:.0f} s"
    )


@contextlib.contextmanager
def started_services(folder: Path, **common: str) -> Iterator[Callable[..., ServiceProcess]]:
    """What starts `"api"` or `"worker"` with these settings and the call's own; all of them end with the block."""
    started: list[ServiceProcess] = []

    def start(name: str, **settings: str) -> ServiceProcess:
        service = ServiceProcess(name, {"api": API, "worker": WORKER}[name], folder, {**common, **settings})
        started.append(service)
        service.start()
        return service

    try:
        yield start
    finally:
        for service in started:
            service.kill()
