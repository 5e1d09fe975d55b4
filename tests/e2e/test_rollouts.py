"""Rollouts under a steady load from inside the cluster: not one request fails, and no accepted job is lost."""

from __future__ import annotations

import pytest

from tests.e2e.load import COMPONENTS, fixed_size, nothing_failed, steady_load, uids
from tests.e2e.system import until

pytestmark = pytest.mark.e2e

ROLLOUTS = 5


def test_rollouts_under_load_fail_no_request_and_lose_no_job(system, user):
    deployments = [f"deployment/{system.fullname}-{component}" for component in COMPONENTS]
    with fixed_size(system), steady_load(system, user.token) as load:
        for _ in range(ROLLOUTS):
            before, pods = load.counts(), uids(system)
            system.kubectl("rollout", "restart", *deployments)
            for deployment in deployments:
                system.kubectl("rollout", "status", deployment, "--timeout=10m")
            load.more_than(before)
            assert not uids(system) & pods
        # the last ones to leave do it under load as well
        until(
            lambda: set().union(*map(system.all_pods, COMPONENTS)) == uids(system),
            180,
            "those of the last rollout are gone",
        )
        load.more_than(load.counts())
        seen = load.end()

    nothing_failed(system, user, seen)
    assert len(seen["tasks"]) > ROLLOUTS
