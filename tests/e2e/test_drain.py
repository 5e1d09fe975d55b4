"""`kubectl drain` under a steady load: it waits where the last API pods would go, and no request fails and no job is lost.

There is one node for pods, so what it loses finds a place only when it takes pods again: until then the drain has to wait.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hack.clusters.programs import program
from tests.e2e.load import COMPONENTS, fixed_size, nothing_failed, steady_load, uids
from tests.e2e.system import System, until
from tests.e2e.tables import made_table

pytestmark = pytest.mark.e2e

ROWS = 1_000_000  # seconds of work
REFUSED = "Cannot evict pod as it would violate the pod's disruption budget"
WAITS_SECONDS = 12  # a drain tries again every five


@pytest.fixture
def node(system) -> str:
    names = [one["metadata"]["name"] for one in system.get("nodes") if not one["spec"].get("taints")]
    if len(names) > 1:
        pytest.skip("with more than one node the drained pods find a place at once")
    return str(names[0])


@contextmanager
def drain(system: System, node: str, said: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Drains the release's own pods, the stores left alone; in the end the node takes pods again."""
    ours = f"app.kubernetes.io/instance={system.name},app.kubernetes.io/component in ({','.join(COMPONENTS)})"
    command = [program("kubectl"), "--kubeconfig", str(system.kubeconfig), "drain", node, "--timeout=5m"]
    command += ["--delete-emptydir-data", f"--pod-selector={ours}"]
    with said.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)
        system.kubectl("uncordon", node)


def test_a_drain_under_load_fails_no_request_and_loses_no_job(system, user, node, tmp_path):
    said = tmp_path / "drain.log"
    # what is only one pod has no budget, which would hold up every drain
    assert [one["metadata"]["name"] for one in system.get("pdb")] == [f"{system.fullname}-api"]
    with fixed_size(system), steady_load(system, user.token) as load:
        most, before = len(system.pods("api")), uids(system)
        accepted = user.upload("large.csv", made_table(ROWS))["task_id"]
        until(lambda: user.task(accepted)["status"] == "running", 120, "the job runs")

        with drain(system, node, said) as drained:
            until(lambda: REFUSED in said.read_text(), 120, f"an eviction is refused: {said.read_text()}")
            answered = load.counts()
            time.sleep(WAITS_SECONDS)
            # the worker has left, one API pod has, and the others are not taken away while that one is missed
            assert drained.poll() is None, said.read_text()
            assert len(system.ready_pods("api")) == most - 1
            assert {pod["metadata"]["uid"] for pod in system.pods("api")} & before
            assert not {pod["metadata"]["uid"] for pod in system.pods("worker")} & before
            load.more_than(answered)

            system.kubectl("uncordon", node)
            assert drained.wait(300) == 0, said.read_text()
        assert not uids(system) & before
        until(lambda: len(system.ready_pods("api")) == most, 180, f"{most} API pods")
        until(lambda: system.ready_pods("worker"), 180, "a worker is ready")
        load.more_than(load.counts())
        seen = load.end()

    seen["tasks"].append(accepted)
    nothing_failed(system, user, seen)
