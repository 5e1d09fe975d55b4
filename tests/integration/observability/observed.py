"""The whole system as `make run` starts it, and a real Prometheus that scrapes it and evaluates the chart's rules.

The targets carry the labels that the ServiceMonitors would give them. Nothing is changed in the rules but how often they
are evaluated: each second, as the scrapes are, so that a minute shows what a quarter of an hour would.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from hack.dev.layout import REPOSITORY
from hack.dev.ports import HOST, find_free
from hack.dev.stop import stop
from tests.unit.monitoring.promql import API_JOB, NAMESPACE, WORKER_JOB, groups, tool

START_SECONDS = 120.0
PATIENCE_SECONDS = 60.0
STEP_SECONDS = 1
SETTING = re.compile(r"^[A-Za-z_]+__\w+$|^ENVIRONMENT$", re.IGNORECASE)

# Room for few followers of tasks and a small rate, so that a small load meets both limits (tests/e2e/values.yaml has the
# same for the cluster); cheap passwords.
ROOM = 4
LIMITED_ROUTE, LIMITED_RATE = "GET /tasks", 5
SETTINGS = {
    "API__MAX_EVENT_STREAMS": str(ROOM),
    "RATE_LIMIT__ROUTES": json.dumps({LIMITED_ROUTE: f"{LIMITED_RATE}/minute"}),
    "SECURITY__BCRYPT_ROUNDS": "4",
    "JOBS__CONCURRENCY": "4",
    "LOGGING__FORMAT": "json",
}


TARGETS = {"api": API_JOB, "worker": WORKER_JOB}


class NotObservedError(AssertionError):
    """The system or Prometheus did not come up, or a condition did not come true in time."""


def until(condition: Callable[[], Any], what: str, *, timeout_seconds: float = PATIENCE_SECONDS) -> Any:
    """What the condition gives as soon as that is true; NotObservedError where it is not within the time."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        if found := condition():
            return found
        if time.monotonic() > deadline:
            raise NotObservedError(f"not within {timeout_seconds:.0f} s: {what}")
        time.sleep(0.2)


@dataclass(frozen=True)
class Observed:
    """What runs: addresses of API, worker and Prometheus, how to run operators' commands, when it began (Unix seconds)."""

    api_url: str
    worker_url: str
    prometheus_url: str
    began: float
    environment: Mapping[str, str]

    def ask(self, path: str, **parameters: Any) -> Any:
        """`data` of an answer of Prometheus' HTTP API. NotObservedError with its words where it refuses."""
        answer = httpx.get(f"{self.prometheus_url}/api/v1/{path}", params=parameters, timeout=30)
        body = answer.json()
        if body["status"] != "success":
            raise NotObservedError(f"{parameters}: {body['error']}")
        return body["data"]

    def instant(self, expr: str) -> list[dict[str, Any]]:
        """The series of an instant vector, now."""
        result: list[dict[str, Any]] = self.ask("query", query=expr)["result"]
        return result

    def over_time(self, expr: str) -> list[dict[str, Any]]:
        """The series of the expression from the beginning until now."""
        now = time.time()
        answer = self.ask("query_range", query=expr, start=self.began, end=now, step=STEP_SECONDS)
        result: list[dict[str, Any]] = answer["result"]
        return result

    def manage(self, *arguments: str) -> str:
        """What an operator's command prints; NotObservedError where it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "services.manage", *arguments],
            cwd=REPOSITORY,
            env=dict(self.environment),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise NotObservedError(f"manage {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout


@contextmanager
def observed(folder: Path) -> Iterator[Observed]:
    """Starts everything in `folder`, which Postgres' account must be able to enter, and ends it."""
    prometheus = tool("prometheus")
    port = find_free()
    own = {name: value for name, value in os.environ.items() if not SETTING.match(name)}
    with (folder / "run.log").open("wb") as log:
        launcher = subprocess.Popen(
            [sys.executable, "-m", "hack.dev.run", "--folder", str(folder), "--port", str(port)],
            cwd=REPOSITORY,
            env={**own, **SETTINGS},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        urls = _urls(launcher, folder)
        environment = {
            **own,
            "ENVIRONMENT": "development",
            "DATABASE__DATABASE_URL": urls["postgres"],
            "REDIS__REDIS_URL": urls["redis"],
        }
        with _prometheus(prometheus, folder, urls) as url:
            running = Observed(urls["api"], urls["worker"], url, time.time(), environment)
            # What happened before the first two looks is in no rate.
            until(
                lambda: len(running.instant("count_over_time(up[1m]) > 1 and up == 1")) == len(TARGETS),
                "Prometheus has scraped both services twice",
            )
            yield running
    finally:
        _end(launcher)
        stop(folder)


def _urls(launcher: subprocess.Popen[bytes], folder: Path) -> dict[str, str]:
    def facts() -> dict[str, str] | None:
        if launcher.poll() is not None:
            raise NotObservedError(f"the system did not start: {(folder / 'run.log').read_text()[-3000:]}")
        with suppress(FileNotFoundError):
            urls: dict[str, str] = json.loads((folder / ".local" / "run.json").read_text())["urls"]
            return urls
        return None

    found: dict[str, str] = until(facts, "the system is ready", timeout_seconds=START_SECONDS)
    return found


@contextmanager
def _prometheus(program: str, folder: Path, urls: Mapping[str, str]) -> Iterator[str]:
    address = f"{HOST}:{find_free()}"
    rules = [{**group, "interval": "1s"} for group in groups()]
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": rules}))
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration(urls)))
    command = [program, f"--config.file={folder / 'prometheus.yaml'}", f"--web.listen-address={address}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--storage.tsdb.path={folder / 'tsdb'}"],
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )

    def is_ready() -> bool:
        if process.poll() is not None:
            raise NotObservedError(
                f"Prometheus did not start: {(folder / 'prometheus.log').read_text()[-3000:]}"
            )
        with suppress(httpx.TransportError):
            return httpx.get(f"http://{address}/-/ready", timeout=5).status_code == 200
        return False

    try:
        until(is_ready, "Prometheus is ready")
        yield f"http://{address}"
    finally:
        _end(process)


def configuration(urls: Mapping[str, str]) -> dict[str, Any]:
    """Prometheus' settings: both services as targets, labelled as the ServiceMonitors would do it."""
    jobs = []
    for component, job in TARGETS.items():
        labels = {"namespace": NAMESPACE, "pod": f"{job}-0", "service": job, "container": component}
        target = urls[component].removeprefix("http://")
        jobs.append({"job_name": job, "static_configs": [{"targets": [target], "labels": labels}]})
    interval = f"{STEP_SECONDS}s"
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": ["rules.yaml"],
        "scrape_configs": jobs,
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
