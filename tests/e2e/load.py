"""A steady load on the API from a pod beside it, and an installation that does not grow under it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.e2e.pods import ended, phase, pod
from tests.e2e.system import System, User, until

COMPONENTS = ("api", "worker")
SCRIPT = Path(__file__).with_name("steady_load.py").read_text()


class Load:
    """A pod that calls the API through its Service; see `steady_load.py`."""

    def __init__(self, system: System, name: str) -> None:
        self._system, self._name = system, name

    def counts(self) -> Any:
        """Requests so far, by kind of connection; None until there are some of each."""
        lines = self._system.kubectl("logs", self._name, "--tail=1").splitlines()
        counts = json.loads(lines[-1]) if lines else {"kept": 0, "fresh": 0}
        return counts if counts["kept"] and counts["fresh"] else None

    def more_than(self, before: Any) -> Any:
        """Counts, once requests of both kinds have been answered since those."""

        def look() -> Any:
            now = self.counts()
            return now if all(now[kind] > before[kind] for kind in ("kept", "fresh")) else None

        return until(look, 120, "requests are answered")

    def end(self) -> Any:
        """Everything that it saw."""
        self._system.kubectl("exec", self._name, "--", "touch", "/tmp/stop")
        assert ended(self._system, self._name, 180) == "Succeeded"
        lines = [json.loads(line) for line in self._system.kubectl("logs", self._name).splitlines()]
        return {**lines[-1], "tasks": [task for line in lines for task in line.get("tasks", ())]}


@contextmanager
def steady_load(system: System, token: str) -> Iterator[Load]:
    command = ["python", "-c", SCRIPT, f"{system.fullname}-api", "8000", token]
    with pod(system, f"load-{secrets.token_hex(3)}", command) as name:
        load = Load(system, name)
        until(lambda: phase(system, name) != "Pending", 120, "the load's pod runs")
        until(load.counts, 120, "the load has begun")
        yield load


@contextmanager
def fixed_size(system: System) -> Iterator[None]:
    """The autoscaler keeps the number of API pods: a load is not to make this a test of scaling."""
    name = f"{system.fullname}-api"
    spec = system.get("hpa", name)["spec"]

    def most(pods: int) -> None:
        system.kubectl("patch", "hpa", name, "--patch", json.dumps({"spec": {"maxReplicas": pods}}))

    most(spec["minReplicas"])
    try:
        system.api_at_rest()
        yield
    finally:
        most(spec["maxReplicas"])


def uids(system: System) -> set[str]:
    """The pods that are not on their way out."""
    return {pod["metadata"]["uid"] for component in COMPONENTS for pod in system.pods(component)}


def nothing_failed(system: System, user: User, seen: Any) -> None:
    """Holds what a load saw against what was promised: every request answered, every accepted job done."""
    said = {key: value for key, value in seen.items() if key != "tasks"}
    print(json.dumps(said))
    assert seen["failed"] == 0, said
    # kept-alive ones were used again and again: each caller's, and a few for each pod that left
    assert seen["connections"] - seen["fresh"] < seen["kept"] / 5, said
    # through a new port-forward: the old one led to a pod that has left
    with system.api() as client:
        same = replace(user, client=client)
        for task in seen["tasks"]:
            same.finished(task, 120)
            # no worker was killed in mid-job: what it could not end in time it handed back
            unsuccessful = same.data("GET", f"/tasks/{task}/attempts")
            assert {one["outcome"] for one in unsuccessful} <= {"interrupted"}, unsuccessful
