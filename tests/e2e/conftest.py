"""An installation to test, from the environment; where a test fails, how its pods are."""

from __future__ import annotations

import os
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.prometheus import Prometheus, cluster_prometheus
from tests.e2e.system import System, User, from_environment, register

_systems: list[System] = []
_LIMIT_SECONDS = 3600  # of a test that brings pods up and down; what waits inside has its own, shorter limits


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "e2e" in item.keywords:
            item.add_marker(pytest.mark.timeout(_LIMIT_SECONDS))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed and "e2e" in item.keywords:
        for system in _systems:
            report.sections.append((f"namespace {system.namespace}", system.diagnosis()))


@pytest.fixture(scope="session")
def system() -> Iterator[System]:
    """The installed release."""
    found = from_environment()
    if found is None:
        pytest.skip("needs an installation in a cluster: `hack/cluster e2e` makes one and runs these tests")
    _systems.append(found)
    yield found
    _systems.remove(found)


@pytest.fixture
def client(system: System) -> Iterator[httpx.Client]:
    """A client of the API through a port-forward of its own."""
    system.api_at_rest()  # else it may lead to a pod that the autoscaler is about to take away
    with system.api() as client:
        yield client


@pytest.fixture
def user(client: httpx.Client) -> User:
    """Somebody new, signed in."""
    return register(client)


@pytest.fixture(scope="session")
def watched() -> list[System]:
    """Systems whose pods are told about when a test fails."""
    return _systems


@pytest.fixture(scope="session")
def add_ons() -> frozenset[str]:
    """What the cluster has beside Kubernetes: `gateway-api`, `keda`, `prometheus`."""
    return frozenset(filter(None, os.environ.get("E2E_ADD_ONS", "").split(",")))


@pytest.fixture
def prometheus_if_there(system: System, add_ons: frozenset[str]) -> Iterator[Prometheus | None]:
    """The cluster's Prometheus; None where there is none."""
    if "prometheus" not in add_ons:
        yield None
        return
    with cluster_prometheus(system) as prometheus:
        yield prometheus


@pytest.fixture
def prometheus(prometheus_if_there: Prometheus | None) -> Prometheus:
    """The cluster's Prometheus."""
    if prometheus_if_there is None:
        pytest.skip("there is no prometheus-operator in this cluster")
    return prometheus_if_there
