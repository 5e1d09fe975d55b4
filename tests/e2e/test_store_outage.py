"""A store that goes away: no pod of ours is restarted for it, and all is well when it is back."""

from __future__ import annotations

import time
from contextlib import ExitStack

import httpx
import pytest

from tests.e2e.load import fixed_size
from tests.e2e.system import until
from tests.e2e.tables import real_table

pytestmark = pytest.mark.e2e


@pytest.fixture(autouse=True)
def same_pods(system):
    """The autoscaler brings none and takes none: who is there afterwards must be who was there before."""
    with fixed_size(system):
        yield


@pytest.mark.parametrize("store", ["postgres", "redis"])
def test_a_lost_store_pod_restarts_nothing_and_loses_nothing(system, user, store):
    before = user.upload("stocks.csv", real_table("stocks.csv"))
    user.finished(before["task_id"], 120)
    pods = {component: system.restarts(component) for component in ("api", "worker")}

    (lost,) = [pod["metadata"]["uid"] for pod in system.pods(store)]
    system.kubectl("delete", "pod", f"{system.fullname}-{store}-0")
    until(
        lambda: (
            system.ready_pods(store) and lost not in [pod["metadata"]["uid"] for pod in system.pods(store)]
        ),
        180,
        f"{store} is back",
    )

    def works():
        try:
            return user.call("GET", "/datasets").status_code == 200
        except (OSError, httpx.HTTPError):
            return False

    until(works, 120, "the API answers again")
    assert user.data("GET", f"/datasets/{before['id']}")["profile"]["rows"] == 560
    after = user.upload("stocks.csv", real_table("stocks.csv"))
    user.finished(after["task_id"], 120)
    assert {component: system.restarts(component) for component in pods} == pods


OUTAGE_SECONDS = 75  # longer than six failed liveness probes in a row take
SERVICES = {"api": 8000, "worker": 8001}


def status(url):
    return httpx.get(url, timeout=30).status_code


def test_an_outage_of_postgres_restarts_no_pod_and_is_told_as_such(system, user, prometheus_if_there):
    prometheus, alert = prometheus_if_there, "DatabaseUnreachable"
    before = user.upload("stocks.csv", real_table("stocks.csv"))
    user.finished(before["task_id"], 120)
    pods = {component: system.restarts(component) for component in SERVICES}
    statefulset = f"statefulset/{system.fullname}-postgres"
    with ExitStack() as forwards:
        # to the pods themselves: a Service sends nobody to pods that are not ready
        urls = {
            component: [
                forwards.enter_context(system.forward(f"pod/{pod}", port))
                for pod in system.ready_pods(component)
            ]
            for component, port in SERVICES.items()
        }
        everywhere = [url for found in urls.values() for url in found]
        assert len(everywhere) == sum(map(len, pods.values()))
        began = time.monotonic()
        system.kubectl("scale", statefulset, "--replicas=0")
        try:
            until(lambda: not system.all_pods("postgres"), 180, "Postgres is gone")
            for url in everywhere:
                until(
                    lambda url=url: status(f"{url}/health/ready") == 503,
                    60,
                    "a pod says that it is not ready",
                )
            until(lambda: not system.ready_pods("api"), 120, "no API pod is sent requests")

            for url in urls["api"]:
                report = httpx.get(f"{url}/health", timeout=60)
                assert report.status_code == 200
                assert report.json()["status"] == "degraded"
                assert status(f"{url}/") == 200
                refused = httpx.get(
                    f"{url}/datasets", headers={"Authorization": f"Bearer {user.token}"}, timeout=60
                )
                assert refused.status_code == 503, refused.text
                assert int(refused.headers["Retry-After"]) > 0
                assert refused.json()["error_code"] == "SERVICE_UNAVAILABLE"
                assert refused.json()["success"] is False
            while time.monotonic() < began + OUTAGE_SECONDS:
                for url in everywhere:
                    assert status(f"{url}/health/live") == 200
                time.sleep(1)
            if prometheus:
                until(lambda: alert in prometheus.firing(), 300, f"{alert} fires", pause=2)
        finally:
            system.kubectl("scale", statefulset, "--replicas=1")
        for url in everywhere:
            until(lambda url=url: status(f"{url}/health/ready") == 200, 180, "a pod is ready again")
        until(
            lambda: len(system.ready_pods("api")) == len(pods["api"]), 120, "the API is sent requests again"
        )

    assert {component: system.restarts(component) for component in pods} == pods
    assert user.data("GET", f"/datasets/{before['id']}")["profile"]["rows"] == 560
    after = user.upload("stocks.csv", real_table("stocks.csv"))
    user.finished(after["task_id"], 120)
    if prometheus:
        until(lambda: alert not in prometheus.firing(), 180, f"{alert} has resolved", pause=2)
