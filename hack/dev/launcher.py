"""Starts Postgres, Redis, the API and the worker together, watches over them, and stops them in order.

Up: what a killed run left is ended, the stores, the schema, then API and worker together until both are
ready. Down: the API (it drains), the worker (it hands its jobs back), Redis, Postgres. A child that fails
before all is ready ends the run. One that dies later is started again, as a kubelet would, so that tools may
kill what they like; one that dies more than `max_restarts` times within a minute ends the run. A failed run
raises DevError with the child's name and its last log lines. No end of a run leaves a process behind.
"""

from __future__ import annotations

import http.client
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil

from hack.dev import ports, redis_server
from hack.dev.errors import DevError
from hack.dev.layout import Layout
from hack.dev.leftovers import end_leftovers
from hack.dev.postgres import Postgres
from hack.dev.processes import Child
from hack.dev.redis_server import Redis

READY_TIMEOUT_SECONDS = 90.0
STILL_WAITING_SECONDS = 5.0
# Longer than the services' own bounds: 20 s for requests at work, 25 s for running jobs.
SERVICE_GRACE_SECONDS = 30.0
RESTART_WINDOW_SECONDS = 60.0
POLL_SECONDS = 0.05
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequested(BaseException):
    """Ctrl-C, SIGTERM or SIGHUP was seen at a point where it is safe to turn back."""


@dataclass(frozen=True)
class Commands:
    """What is run, each in the repository's root."""

    migrate: Sequence[str]
    api: Sequence[str]
    worker: Sequence[str]


@dataclass(frozen=True)
class Member:
    """One of the four: how it is started (again), and its process once it is."""

    name: str
    start: Callable[[], None]
    child: Callable[[], Child]


class Launcher:
    """One run of the whole system on one `.local` folder, whose lock the caller holds."""

    def __init__(
        self,
        layout: Layout,
        commands: Commands,
        *,
        repository: Path,
        port: int,
        environment: Mapping[str, str],
        announce: Callable[[str], None],
        max_restarts: int = 3,
    ) -> None:
        """`environment`: what the services inherit, before what this sets. `announce`: prints for the person."""
        self.layout = layout
        self.port = port
        self.worker_port = 0
        self._commands = commands
        self._repository = repository
        self._inherited = environment
        self._announce = announce
        self._max_restarts = max_restarts
        self._members: list[Member] = []
        self._deaths: dict[str, list[float]] = {}
        self._urls: dict[str, str] = {}
        self._stop_requests = 0
        self._began = 0.0

    @property
    def api_url(self) -> str:
        """Where the API answers."""
        return f"http://{ports.HOST}:{self.port}"

    @property
    def worker_url(self) -> str:
        """Where the worker's health server answers."""
        return f"http://{ports.HOST}:{self.worker_port}"

    def run(self, *, when_ready: Callable[[], None], at_every_poll: Callable[[], None]) -> None:
        """Start all, call `when_ready`, watch until told to stop, stop all. DevError when that is not how it ends."""
        self._began = time.monotonic()
        previous = {number: signal.signal(number, self._on_signal) for number in STOP_SIGNALS}
        try:
            self._start_all()
            when_ready()
            while True:
                self._turn_back_if_asked()
                self._restart_the_dead()
                at_every_poll()
                time.sleep(POLL_SECONDS)
        except StopRequested:
            pass
        finally:
            self._stop_all()
            for number, handler in previous.items():
                signal.signal(number, handler)

    # -- up -----------------------------------------------------------------------------------------------

    def _start_all(self) -> None:
        end_leftovers(self.layout, announce=self._announce)
        if not ports.is_free(self.port):
            raise DevError(
                f"port {self.port} is in use by {ports.describe_holder(self.port)}",
                advice=f"Stop that, or choose another port: make run PORT={self.port + 10}",
            )
        secrets = self.layout.secrets()
        postgres = Postgres(
            self.layout.postgres_data,
            port=self.layout.port("postgres", avoid=self.port),
            superuser_password=secrets.postgres_superuser_password,
            app_password=secrets.postgres_app_password,
            log_path=self.layout.log("postgres"),
        )
        redis = Redis(
            self.layout.redis_data,
            port=self.layout.port("redis", avoid=self.port),
            password=secrets.redis_password,
            log_path=self.layout.log("redis"),
        )
        self._start(Member("postgres", postgres.start, lambda: postgres.child))
        self._step(f"Postgres {postgres.version()} on port {postgres.port}")
        self._start(Member("redis", redis.start, lambda: redis.child))
        self._step(f"Redis {redis_server.program()[1]} on port {redis.port}")
        self.worker_port = self.layout.port("worker", preferred=self.port + 1, avoid=self.port)
        environment = self._environment(postgres, redis, secret_key=secrets.secret_key)
        self._migrate(environment)
        self._step("schema is up to date")
        for name, command in (("worker", self._commands.worker), ("api", self._commands.api)):
            child = Child(
                name,
                command,
                log_path=self.layout.log(name),
                cwd=self._repository,
                environment=environment,
            )
            self._start(Member(name, child.start, lambda child=child: child))  # type: ignore[misc]
        self._await_ready("worker", self.worker_port)
        self._step(f"worker is ready, its health server on port {self.worker_port}")
        self._await_ready("api", self.port)
        self._step(f"API is ready on {self.api_url}")
        self._urls = {
            "api": self.api_url,
            "worker": self.worker_url,
            "postgres": postgres.url(),
            "redis": redis.url(),
        }
        self._publish()

    def _start(self, member: Member) -> None:
        self._turn_back_if_asked()
        member.start()
        self._members = [other for other in self._members if other.name != member.name] + [member]
        self._record_children()

    def _record_children(self) -> None:
        marks = []
        for member in self._members:
            try:
                marks.append(member.child().mark())
            except psutil.NoSuchProcess:
                continue  # ended already: whoever waits for it next finds out
        self.layout.write_children(marks)

    def _environment(self, postgres: Postgres, redis: Redis, *, secret_key: str) -> dict[str, str]:
        return {
            **self._inherited,
            "ENVIRONMENT": "development",
            "DATABASE__DATABASE_URL": postgres.url(),
            "REDIS__REDIS_URL": redis.url(),
            "SECURITY__SECRET_KEY": secret_key,
            "STORAGE__URL": self.layout.storage.resolve().as_uri(),
            "API__HOST": ports.HOST,
            "API__PORT": str(self.port),
            "JOBS__HEALTH_HOST": ports.HOST,
            "JOBS__HEALTH_PORT": str(self.worker_port),
            "LOGGING__FORMAT": self._inherited.get("LOGGING__FORMAT", "console"),
            "PYTHONUNBUFFERED": "1",
        }

    def _migrate(self, environment: Mapping[str, str]) -> None:
        child = Child(
            "migrate",
            self._commands.migrate,
            log_path=self.layout.log("migrate"),
            cwd=self._repository,
            environment=environment,
        )
        child.start()
        try:
            self._wait_for("the schema", lambda: not child.is_running)
        finally:
            child.kill()
        if child.exit_code != 0:
            raise DevError(f"the migration {child.describe_exit()}", log=child.log_tail(25))

    def _await_ready(self, name: str, port: int) -> None:
        self._wait_for(f"the {name}", lambda: _is_ready(port))

    def _wait_for(self, what: str, condition: Callable[[], bool]) -> None:
        """Poll until the condition holds; turn back when told to, when a child dies, when it takes too long."""
        began = time.monotonic()
        next_word = STILL_WAITING_SECONDS
        while not condition():
            self._turn_back_if_asked()
            for member in self._members:
                if not member.child().is_running:
                    raise _death(member, "before everything was ready")
            waited = time.monotonic() - began
            if waited > READY_TIMEOUT_SECONDS:
                logs = [line for member in self._members[-2:] for line in member.child().log_tail()]
                raise DevError(f"{what} was not ready within {READY_TIMEOUT_SECONDS:.0f} s", log=logs)
            if waited > next_word:
                self._announce(f"  still waiting for {what} ({waited:.0f} s)")
                next_word += STILL_WAITING_SECONDS
            time.sleep(POLL_SECONDS)

    def _step(self, text: str) -> None:
        self._announce(f"  {time.monotonic() - self._began:5.1f} s  {text}")

    def _publish(self) -> None:
        pids = {member.name: member.child().pid for member in self._members}
        self.layout.write_run({"urls": self._urls, "pids": {**pids, "launcher": os.getpid()}})

    # -- while it runs ------------------------------------------------------------------------------------

    def _restart_the_dead(self) -> None:
        for member in list(self._members):
            child = member.child()
            if child.is_running:
                continue
            child.wait_or_kill(grace_seconds=0)  # what is left of its group must let go of its port
            now = time.monotonic()
            deaths = [at for at in self._deaths.get(member.name, []) if now - at < RESTART_WINDOW_SECONDS]
            self._deaths[member.name] = [*deaths, now]
            if len(deaths) >= self._max_restarts:
                raise _death(member, f"{len(deaths) + 1} times within {RESTART_WINDOW_SECONDS:.0f} s")
            self._announce(f"{member.name} {child.describe_exit()}; starting it again. Its last lines:")
            for line in child.log_tail(5):
                self._announce(f"  | {line}")
            self._start(member)
            self._publish()

    # -- down ---------------------------------------------------------------------------------------------

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stop_requests += 1
        if self._stop_requests == 2:
            # The services are not waited for any longer; the stores still get to flush.
            for member in self._members:
                if member.name in {"api", "worker"}:
                    member.child().signal(signal.SIGKILL)

    def _turn_back_if_asked(self) -> None:
        if self._stop_requests:
            raise StopRequested

    def _stop_all(self) -> None:
        self.layout.remove_run()
        if self._members:
            self._announce("Stopping (Ctrl-C again: at once).")
        order = {"api": 0, "worker": 1, "redis": 2, "postgres": 3}
        for member in sorted(self._members, key=lambda member: order[member.name]):
            began = time.monotonic()
            child = member.child()
            went = child.stop(grace_seconds=SERVICE_GRACE_SECONDS)
            took = time.monotonic() - began
            manner = "stopped" if went else "did not stop and was killed"
            self._announce(f"  {member.name} {manner} ({took:.1f} s)")
        self._members = []
        self.layout.remove_children()


def _death(member: Member, when: str) -> DevError:
    child = member.child()
    return DevError(
        f"{member.name} {child.describe_exit()}, {when}",
        log=child.log_tail(25),
        advice=f"The whole log: {child.log_path}",
    )


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection(ports.HOST, port, timeout=5)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
