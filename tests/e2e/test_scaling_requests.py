"""The API's autoscaler sees requests at work, and brings pods for those that wait and use no CPU."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from hack.clusters.programs import program
from tests.e2e.custom_metrics import custom_metrics
from tests.e2e.system import System, User, until

pytestmark = pytest.mark.e2e

METRIC = "http_requests_inprogress"
TARGET = 2
CALLERS = 24
LOCK_SECONDS = 300  # longer than pods are waited for; it ends with the test


@pytest.fixture
def scaled_by_requests(system, add_ons):
    """The tested release with an autoscaler that CPU does not move."""
    if "prometheus" not in add_ons:
        pytest.skip("there is no Prometheus in this cluster that custom metrics could come from")
    with custom_metrics(system):
        settings = {"targetRequestsInFlight": TARGET, "targetCPUUtilizationPercentage": 100_000}
        system.upgrade(*(f"--set=api.autoscaling.{name}={value}" for name, value in settings.items()))
        yield
        defaults = {"targetRequestsInFlight": "null", "targetCPUUtilizationPercentage": 70}
        system.upgrade(*(f"--set=api.autoscaling.{name}={value}" for name, value in defaults.items()))


def shown(system: System) -> str:
    """What an operator sees of the autoscaler."""
    return system.kubectl("get", "hpa", f"{system.fullname}-api")


def value_seen(system: System) -> str | None:
    """What the autoscaler last saw of the metric, as an average of a pod; None before it has."""
    for one in system.get("hpa", f"{system.fullname}-api")["status"].get("currentMetrics") or []:
        if one["type"] == "Pods" and one["pods"]["metric"]["name"] == METRIC:
            return str(one["pods"]["current"]["averageValue"])
    return None


@contextmanager
def locked_table(system: System, table: str) -> Iterator[None]:
    """Whoever reads the table waits."""
    statement = f"BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep({LOCK_SECONDS});"
    script = f'exec psql --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" --command=\'{statement}\''
    command = [program("kubectl"), "--kubeconfig", str(system.kubeconfig), "--namespace", system.namespace]
    command += ["exec", f"{system.fullname}-postgres-0", "--", "sh", "-c", script]
    end = f"SELECT pg_terminate_backend(pid) FROM pg_locks WHERE granted AND mode = 'AccessExclusiveLock' AND relation = '{table}'::regclass"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as psql:
        try:
            yield
        finally:
            system.kubectl(
                *("exec", f"{system.fullname}-postgres-0", "--", "sh", "-c"),
                f'psql --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" --command="{end}"',
            )
            psql.wait(30)


@contextmanager
def waiting_requests(user: User) -> Iterator[None]:
    """Callers that each have one request at work, and another one after it."""
    end = threading.Event()

    def call() -> None:
        with httpx.Client(base_url=user.client.base_url, timeout=120) as client:
            while not end.is_set():
                client.get("/datasets", headers={"Authorization": f"Bearer {user.token}"})
                end.wait(0.2)

    callers = [threading.Thread(target=call) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    try:
        yield
    finally:
        end.set()
        for caller in callers:
            caller.join()


def test_requests_that_wait_for_a_store_bring_more_api_pods(system, user, scaled_by_requests):
    least = system.api_at_rest()
    until(lambda: value_seen(system), 120, "the autoscaler sees the requests at work")
    until(lambda: "<unknown>" not in shown(system), 60, "every metric has a value")
    assert f"/{TARGET} " in shown(system)

    with waiting_requests(user), locked_table(system, "datasets"):
        until(lambda: len(system.ready_pods("api")) > least, 180, "a further API pod is ready", pause=1)
        seen = value_seen(system)
    assert seen not in (None, "0")
    assert user.call("GET", "/datasets").status_code == 200
    assert set(system.restarts("api").values()) == {0}
