"""A store that goes away: no pod of ours is restarted for it, and all is well when it is back."""

from __future__ import annotations

import pytest

from tests.e2e.system import until
from tests.e2e.tables import real_table

pytestmark = pytest.mark.e2e


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
        except OSError:
            return False

    until(works, 120, "the API answers again")
    assert user.data("GET", f"/datasets/{before['id']}")["profile"]["rows"] == 560
    after = user.upload("stocks.csv", real_table("stocks.csv"))
    user.finished(after["task_id"], 120)
    assert {component: system.restarts(component) for component in pods} == pods
