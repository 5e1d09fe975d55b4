"""Who reaches whom, by trying. Needs a cluster network that enforces NetworkPolicies, as hostkube's and kind's do."""

from __future__ import annotations

import secrets

import pytest

from tests.e2e.pods import ended, pod

pytestmark = pytest.mark.e2e

TRY = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).close()
except OSError as error:
    print("refused", type(error).__name__)
else:
    print("reached")
"""


def attempt(system, labels, host, port):
    """What a pod with these labels finds when it connects."""
    command = ["python", "-c", TRY, host, str(port)]
    with pod(system, f"attempt-{secrets.token_hex(4)}", command, labels) as name:
        ended(system, name, 60)
        return system.kubectl("logs", name).split()[0]


@pytest.mark.parametrize(("store", "port"), [("postgres", 5432), ("redis", 6379)])
def test_a_stranger_reaches_no_store(system, store, port):
    assert attempt(system, {"app": "stranger"}, f"{system.fullname}-{store}", port) == "refused"


@pytest.mark.parametrize(("store", "port"), [("postgres", 5432), ("redis", 6379)])
def test_a_pod_of_the_release_reaches_the_stores(system, store, port):
    labels = {
        "app.kubernetes.io/name": "scalable-fastapi-system",
        "app.kubernetes.io/instance": system.name,
        "app.kubernetes.io/component": "test",
    }
    assert attempt(system, labels, f"{system.fullname}-{store}", port) == "reached"


def test_a_stranger_reaches_the_api(system):
    assert attempt(system, {"app": "stranger"}, f"{system.fullname}-api", 8000) == "reached"
