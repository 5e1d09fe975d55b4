"""Worker pods that go while they are at work: nothing that was accepted is lost."""

from __future__ import annotations

import pytest

from tests.e2e.system import until
from tests.e2e.tables import made_table

pytestmark = pytest.mark.e2e

TABLES = 6
ROWS = 1_000_000  # seconds of work each, and a pod profiles one at a time


def at_work(user, accepted):
    """The tasks that a worker is some way into."""
    tasks = [user.task(item["task_id"]) for item in accepted]
    return [
        task
        for task in tasks
        if task["status"] == "running" and (task["progress"] or {}).get("fraction", 0) > 0
    ]


def test_worker_pods_deleted_in_mid_job_lose_nothing(system, user):
    worker = f"deployment/{system.fullname}-worker"
    # a backlog: without it the worker would be done sooner than the uploads
    system.kubectl("scale", worker, "--replicas=0")
    until(lambda: not system.pods("worker"), 120, "there is no worker")
    content = made_table(ROWS)
    accepted = [user.upload(f"table-{number}.csv", content) for number in range(TABLES)]
    system.kubectl("scale", worker, "--replicas=1")

    # One that is killed after a second or two: too soon for a drain to hand back what it holds. `--force` would not do:
    # it takes the pod from the API, and the kubelet gives what runs the whole time that the pod's spec has.
    until(lambda: at_work(user, accepted), 180, "a job is at work", pause=0.1)
    (first,) = system.ready_pods("worker") or [pod["metadata"]["name"] for pod in system.pods("worker")]
    system.kubectl("delete", "pod", first, "--grace-period=1")

    # one that is told to go, and has its time
    until(
        lambda: [pod for pod in system.ready_pods("worker") if pod != first], 180, "another worker is ready"
    )
    until(lambda: at_work(user, accepted), 180, "a job is at work again", pause=0.1)
    (second,) = [pod for pod in system.ready_pods("worker") if pod != first]
    system.kubectl("delete", "pod", second, "--wait=false")

    for item in accepted:
        user.finished(item["task_id"], 300)
    for item in accepted:
        dataset = user.data("GET", f"/datasets/{item['id']}")
        assert dataset["status"] == "ready"
        assert dataset["profile"]["rows"] == ROWS
    # it held jobs when it died (the backlog is longer than the kill takes), and they were started again
    ends = [
        one["outcome"] for item in accepted for one in user.data("GET", f"/tasks/{item['task_id']}/attempts")
    ]
    assert "crashed" in ends
    (third,) = until(lambda: system.ready_pods("worker"), 120, "a worker is ready")
    assert third not in (first, second)
