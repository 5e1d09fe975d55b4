"""KEDA scales the worker on the backlog that Postgres counts, and back, without cutting a job short."""

from __future__ import annotations

import pytest

from tests.e2e.system import ended, until
from tests.e2e.tables import made_table

pytestmark = pytest.mark.e2e

BACKLOG = 8
MOST_TABLES = 60
ROWS = 1_000_000  # seconds of work each, and a pod profiles one at a time
MOST_PODS = 3
SETTINGS = {
    "type": "keda",
    "minReplicas": 1,
    "maxReplicas": MOST_PODS,
    "keda.jobsPerReplica": 2,
    "keda.pollingIntervalSeconds": 5,
    "behavior.scaleDown.stabilizationWindowSeconds": 15,
    "behavior.scaleDown.policies[0].periodSeconds": 15,
    "behavior.scaleDown.policies[0].type": "Pods",
    "behavior.scaleDown.policies[0].value": 1,
}


@pytest.fixture
def scaled_by_keda(system, add_ons):
    """The tested release with KEDA in charge of its worker."""
    if "keda" not in add_ons:
        pytest.skip("there is no KEDA in this cluster")
    arguments = [f"worker.autoscaling.{name}={value}" for name, value in SETTINGS.items()]
    # time enough for a whole table on a machine that is short of CPU
    arguments += ["worker.shutdown.drainSeconds=240", "worker.concurrency=2"]
    system.upgrade(*(word for one in arguments for word in ("--set", one)))
    yield
    until(lambda: len(system.pods("worker")) == 1, 300, "one worker")
    defaults = ["worker.autoscaling.type=none", "worker.shutdown.drainSeconds=30", "worker.concurrency=20"]
    system.upgrade(*(word for one in defaults for word in ("--set", one)))


def is_ready(scaled_object):
    conditions = scaled_object.get("status", {}).get("conditions", [])
    return {"type": "Ready", "status": "True"}.items() <= next(
        (one for one in conditions if one["type"] == "Ready"), {}
    ).items()


def add_to_backlog(user, content, accepted):
    """Uploads what brings the unended tables to BACKLOG: a fast worker is through with ten before the scaler has looked twice."""
    waiting = sum(ended(user.task(item["task_id"])) is None for item in accepted[-BACKLOG:])
    for number in range(len(accepted), min(len(accepted) + BACKLOG - waiting, MOST_TABLES)):
        accepted.append(user.upload(f"backlog-{number}.csv", content))


def test_a_backlog_brings_more_workers_and_its_end_one(system, user, scaled_by_keda):
    name = f"{system.fullname}-worker"
    until(lambda: is_ready(system.get("scaledobject", name)), 120, "KEDA has taken the worker over")
    until(lambda: len(system.pods("worker")) == 1, 180, "one worker at rest")

    content = made_table(ROWS)
    accepted = []

    def enough_workers():
        add_to_backlog(user, content, accepted)
        return len(system.ready_pods("worker")) == MOST_PODS

    until(enough_workers, 240, f"{MOST_PODS} workers", pause=0.2)

    for item in accepted:
        user.finished(item["task_id"], 600)
    until(lambda: len(system.pods("worker")) == 1, 300, "back to one worker", pause=1)
    for item in accepted:
        assert user.data("GET", f"/datasets/{item['id']}")["profile"]["rows"] == ROWS
        assert user.data("GET", f"/tasks/{item['task_id']}/attempts") == []  # none that did not succeed
    assert set(system.restarts("worker").values()) == {0}
