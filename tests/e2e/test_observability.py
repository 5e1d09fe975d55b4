"""Health and metrics of both services, read from every pod as a Prometheus would."""

from __future__ import annotations

import httpx
import pytest

from tests.e2e.tables import real_table

pytestmark = pytest.mark.e2e

SERVICES = {"api": 8000, "worker": 8001}


def samples(text):
    """Name with labels -> value, of the exposition format."""
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            found[name] = float(value)
    return found


@pytest.mark.parametrize(("component", "port"), SERVICES.items())
def test_every_pod_says_that_it_is_healthy(system, component, port):
    pods = system.ready_pods(component)
    assert pods
    for pod in pods:
        with system.forward(f"pod/{pod}", port) as url:
            for path in ("/health/live", "/health/ready"):
                assert httpx.get(url + path, timeout=10).status_code == 200, path
            report = httpx.get(f"{url}/health", timeout=10)
            assert report.status_code == 200
            assert report.json()["status"] == "healthy", report.text


def test_the_api_counts_its_requests(system):
    pod = system.ready_pods("api")[0]
    with system.forward(f"pod/{pod}", 8000) as url:
        name = 'http_requests_total{handler="/",method="GET",status="2xx"}'

        def count():
            found = samples(httpx.get(f"{url}/metrics", timeout=10).text)
            return sum(value for key, value in found.items() if sorted_labels(key) == sorted_labels(name))

        before = count()
        for _ in range(5):
            assert httpx.get(f"{url}/", timeout=10).status_code == 200
        assert count() == before + 5


def sorted_labels(key):
    name, _, labels = key.rstrip("}").partition("{")
    return name, tuple(sorted(labels.split(",")))


def test_the_worker_counts_its_jobs(system, user):
    (pod,) = system.ready_pods("worker")
    with system.forward(f"pod/{pod}", 8001) as url:

        def count():
            found = samples(httpx.get(f"{url}/metrics", timeout=10).text)
            return sum(
                value
                for key, value in found.items()
                if key.startswith("jobs_attempts_total{")
                and 'kind="datasets.profile"' in key
                and "succeeded" in key
            )

        before = count()
        accepted = user.upload("stocks.csv", real_table("stocks.csv"))
        user.finished(accepted["task_id"], 120)
        assert count() == before + 1


def test_logs_are_one_json_object_a_line_with_the_request_id(system, client):
    import json

    request_id = "e2e-observability-0001"
    answer = client.get("/", headers={"X-Request-ID": request_id})
    assert answer.json()["request_id"] == request_id
    lines = []
    for pod in system.ready_pods("api"):
        lines += system.kubectl("logs", pod, "--container", "api", "--tail=400").splitlines()
    parsed = [json.loads(line) for line in lines]
    assert [line for line in parsed if line.get("request_id") == request_id]
