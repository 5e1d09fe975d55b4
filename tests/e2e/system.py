"""What the end-to-end tests hold: an installation seen by kubectl and helm, and its API seen by a client."""

from __future__ import annotations

import json
import os
import re
import secrets
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from hack.clusters.programs import program
from hack.clusters.release import Release

T = TypeVar("T")

PASSWORD = "a long passphrase for tests"
FORWARD_SECONDS = 20.0


class System(Release):
    """An installed release."""

    @property
    def fullname(self) -> str:
        """What the chart's object names begin with."""
        return self.name if "scalable-fastapi-system" in self.name else f"{self.name}-scalable-fastapi-system"

    def get(self, kind: str, name: str = "", *, labels: str = "") -> Any:
        """An object, or the list of them, as Kubernetes has it."""
        words = ["get", kind]
        if name:
            words.append(name)
        if labels:
            words += ["--selector", labels]
        answer = json.loads(self.kubectl(*words, "--output", "json"))
        return answer if name else answer["items"]

    def pods(self, component: str) -> list[Any]:
        """The pods of a component that are not on their way out."""
        found = self.get("pods", labels=f"app.kubernetes.io/component={component}")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def all_pods(self, component: str) -> set[str]:
        """The unique ids of the pods of a component, those on their way out as well."""
        found = self.get("pods", labels=f"app.kubernetes.io/component={component}")
        return {pod["metadata"]["uid"] for pod in found}

    def ready_pods(self, component: str) -> list[str]:
        return [
            pod["metadata"]["name"]
            for pod in self.pods(component)
            if {"type": "Ready", "status": "True"}.items()
            <= next((c for c in pod["status"].get("conditions", []) if c["type"] == "Ready"), {}).items()
        ]

    def restarts(self, component: str) -> dict[str, int]:
        return {
            pod["metadata"]["uid"]: sum(
                status["restartCount"] for status in pod["status"]["containerStatuses"]
            )
            for pod in self.pods(component)
        }

    def api_at_rest(self) -> int:
        """Waits until the autoscaler has gone back to the least number of API pods, and they are ready; that number."""
        least = int(self.get("hpa", f"{self.fullname}-api")["spec"]["minReplicas"])
        until(
            lambda: len(self.all_pods("api")) == len(self.ready_pods("api")) == least,
            300,
            f"{least} API pods",
        )
        return least

    def upgrade(self, *arguments: str | Path) -> None:
        """Another revision with the values of the last one and what the arguments say."""
        chart = Path(__file__).parents[2] / "charts" / "scalable-fastapi-system"
        self.helm(
            "upgrade", self.name, chart, "--reset-then-reuse-values", "--wait", "--timeout", "10m", *arguments
        )

    @contextmanager
    def forward(self, target: str, port: int) -> Iterator[str]:
        """`kubectl port-forward` to a pod or a service; the URL at which it answers."""
        command = [program("kubectl"), "--kubeconfig", str(self.kubeconfig), "--namespace", self.namespace]
        command += ["port-forward", "--address", "127.0.0.1", target, f":{port}"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            try:
                ready, _, _ = select.select([process.stdout], [], [], FORWARD_SECONDS)
                line = process.stdout.readline() if ready and process.stdout else ""
                found = re.search(r"127\.0\.0\.1:(\d+) ->", line)
                assert found, f"no port-forward to {target}: {line!r}"
                yield f"http://127.0.0.1:{found[1]}"
            finally:
                process.terminate()

    @contextmanager
    def api(self) -> Iterator[httpx.Client]:
        """A client of the API through its service, as the notes tell."""
        with (
            self.forward(f"service/{self.fullname}-api", 8000) as url,
            httpx.Client(base_url=url, timeout=60) as client,
        ):
            yield client


@dataclass(frozen=True)
class User:
    """A registered user, signed in."""

    client: httpx.Client
    username: str
    token: str

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.client.request(method, path, headers={"Authorization": f"Bearer {self.token}"}, **options)

    def data(self, method: str, path: str, status: int = 200, **options: Any) -> Any:
        """`data` of an answer that must have this status."""
        answer = self.call(method, path, **options)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer.json()["data"]

    def upload(self, name: str, content: bytes) -> Any:
        return self.data("POST", "/datasets", 202, files={"file": (name, content, "text/csv")}, timeout=120)

    def task(self, task_id: str) -> Any:
        return self.data("GET", f"/tasks/{task_id}")

    def finished(self, task_id: str, seconds: float) -> Any:
        """A task once it has ended well. Fails with what it says where it ended otherwise or takes too long."""
        task = until(lambda: ended(self.task(task_id)), seconds, f"task {task_id} ends")
        assert task["status"] == "succeeded", task
        return task


def ended(task: Any) -> Any:
    return task if task["status"] in {"succeeded", "failed", "cancelled", "quarantined"} else None


def register(client: httpx.Client) -> User:
    """A new user with a name of their own."""
    username = f"user_{secrets.token_hex(6)}"
    answer = client.post(
        "/auth/register",
        json={"username": username, "email": f"{username}@example.com", "password": PASSWORD},
    )
    assert answer.status_code == 200, answer.text
    return login(client, username)


def login(client: httpx.Client, username: str) -> User:
    answer = client.post("/auth/login", data={"username": username, "password": PASSWORD})
    assert answer.status_code == 200, answer.text
    return User(client, username, answer.json()["data"]["access_token"])


def until(look: Callable[[], T | None], seconds: float, what: str, pause: float = 0.5) -> T:
    """What `look` gives once it gives something. Fails after that many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(pause)


def from_environment() -> System | None:
    """The installation that the environment names: KUBECONFIG, E2E_NAMESPACE, E2E_RELEASE."""
    namespace = os.environ.get("E2E_NAMESPACE")
    if not namespace:
        return None
    kubeconfig = Path(os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
    return System(kubeconfig, namespace, os.environ.get("E2E_RELEASE", "scalable-fastapi-system"))
