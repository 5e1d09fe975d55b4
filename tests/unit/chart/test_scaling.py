"""Scaling: who owns the number of pods, and what it may cost."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry
from scalable_fastapi_system.doctor.postgres_checks import PLAIN_CONNECTIONS, WORKER_CONNECTIONS
from scalable_fastapi_system.infra.metrics import MetricsManager
from scalable_fastapi_system.jobs.states import JobState
from scalable_fastapi_system.jobs.tables import jobs

from tests.unit.chart.helm import NAME, RenderError, render


@pytest.mark.parametrize("shape", ["default", "everything"])
def test_an_autoscaled_deployment_states_no_number(shape):
    for name in ("-api", "-worker"):
        assert "replicas" not in render(shape).one("Deployment", name)["spec"]


def test_without_autoscaling_the_number_is_stated():
    rendered = render("ephemeral", {"api.replicas": 3, "worker.replicas": 2})
    assert rendered.one("Deployment", "-api")["spec"]["replicas"] == 3
    assert rendered.one("Deployment", "-worker")["spec"]["replicas"] == 2
    assert not rendered.kind("HorizontalPodAutoscaler")


@pytest.mark.parametrize("name", ["api", "worker"])
def test_the_autoscaler_measures_the_one_container_and_has_a_behavior(name):
    found = render().one("HorizontalPodAutoscaler", f"-{name}")
    assert found["apiVersion"] == "autoscaling/v2"
    assert found["spec"]["scaleTargetRef"] == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": f"{NAME}-{name}",
    }
    (metric,) = found["spec"]["metrics"]
    assert metric["containerResource"]["container"] == name
    assert metric["containerResource"]["target"]["averageUtilization"] == 70
    assert set(found["spec"]["behavior"]) == {"scaleUp", "scaleDown"}


def test_requests_in_flight_are_measured_beside_cpu_where_they_are_asked_for():
    found = render("default", {"api.autoscaling.targetRequestsInFlight": 20})
    cpu, requests = found.one("HorizontalPodAutoscaler", "-api")["spec"]["metrics"]
    assert cpu["containerResource"]["name"] == "cpu"
    assert requests == {
        "type": "Pods",
        "pods": {
            "metric": {"name": "http_requests_inprogress"},
            "target": {"type": "AverageValue", "averageValue": "20"},
        },
    }
    MetricsManager(registry := CollectorRegistry())
    assert registry.get_sample_value(requests["pods"]["metric"]["name"]) == 0


def test_one_worker_is_scaled_by_one_thing():
    assert render("everything").kind("ScaledObject")
    names = [item["metadata"]["name"] for item in render("everything").kind("HorizontalPodAutoscaler")]
    assert names == [f"{NAME}-api"]


def test_keda_counts_waiting_and_running_jobs_of_the_workers_queues():
    spec = render("everything").one("ScaledObject", "-worker")["spec"]
    (trigger,) = spec["triggers"]
    query = trigger["metadata"]["query"]
    assert "queue IN ('default', 'reports')" in query
    assert f"state IN ({JobState.QUEUED:d}, {JobState.RUNNING:d})" in query
    assert f"state = {JobState.SCHEDULED:d} AND run_at <= now()" in query
    assert {"queue", "state", "run_at"} <= set(jobs.columns.keys())
    assert f"FROM {jobs.name} " in query
    assert trigger["metadata"]["targetQueryValue"] == "20"
    assert trigger["metadata"]["host"] == f"{NAME}-postgres.demo.svc"
    assert trigger["metadata"]["passwordFromEnv"] == "POSTGRES_PASSWORD"
    external = render("external", {"worker.autoscaling": {"type": "keda", "keda": {"jobsPerReplica": 5}}})
    (trigger,) = external.one("ScaledObject", "-worker")["spec"]["triggers"]
    assert trigger["metadata"]["connectionFromEnv"] == "DATABASE__DATABASE_URL"
    assert trigger["metadata"]["targetQueryValue"] == "5"


def test_a_disruption_budget_needs_more_than_one_pod():
    assert not render("default", {"api.autoscaling.minReplicas": 1}).kind("PodDisruptionBudget")
    budget = render().one("PodDisruptionBudget", "-api")["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert not render("default", {"api.podDisruptionBudget.enabled": False}).kind("PodDisruptionBudget")


def test_the_disruption_budget_guards_the_pods_that_it_names():
    budget = render("everything").one("PodDisruptionBudget", "-worker")["spec"]
    labels = render("everything").pod("Deployment", "-worker")["metadata"]["labels"]
    assert budget["selector"]["matchLabels"].items() <= labels.items()


def test_pods_of_helm_test_are_not_counted_as_the_apis():
    rendered = render()
    selector = rendered.one("Deployment", "-api")["spec"]["selector"]["matchLabels"]
    for item in rendered.kind("Pod"):
        assert not selector.items() <= item["metadata"]["labels"].items()


BUDGET = {
    "api.database": {"poolSize": 5, "maxOverflow": 4, "readPoolSize": 3},
    "api.processes": 2,
    "api.autoscaling.maxReplicas": 4,
    "api.rollout.maxSurge": "25%",
    "worker.database": {"poolSize": 9, "maxOverflow": 0, "readPoolSize": 1},
    "worker.autoscaling.maxReplicas": 2,
}
API_PROCESS = 5 + 4 + 3 + PLAIN_CONNECTIONS
WORKER = 9 + 0 + 1 + WORKER_CONNECTIONS
WANTED = API_PROCESS * 2 * (4 + 1) + WORKER * (2 + 1) + 10


def test_the_connections_beside_the_pools_are_those_that_the_code_opens():
    from scalable_fastapi_system.jobs import client
    from scalable_fastapi_system.jobs.store import postgres

    assert PLAIN_CONNECTIONS == 1 + client._INSERT_POOL_SIZE
    assert WORKER_CONNECTIONS == PLAIN_CONNECTIONS + postgres._POOL_SIZE + postgres._QUICK_POOL_SIZE


def test_pools_that_fit_the_server_exactly_are_accepted():
    assert render("default", {**BUDGET, "postgres.maxConnections": WANTED}).objects


def test_pools_that_could_want_one_connection_too_many_are_refused():
    with pytest.raises(RenderError, match=f"could want {WANTED} .*Postgres grants {WANTED - 1}"):
        render("default", {**BUDGET, "postgres.maxConnections": WANTED - 1})


def test_the_budget_counts_fixed_pods_where_nothing_scales_them():
    values = {
        **BUDGET,
        "api.autoscaling.enabled": False,
        "api.replicas": 1,
        "worker.autoscaling.type": "none",
    }
    wanted = API_PROCESS * 2 * (1 + 1) + WORKER * (1 + 1) + 10
    assert render("default", {**values, "postgres.maxConnections": wanted}).objects
    with pytest.raises(RenderError, match="connections"):
        render("default", {**values, "postgres.maxConnections": wanted - 1})


def test_an_external_server_is_held_to_its_own_number():
    assert render("external", {"postgres.external.maxConnections": 0}).objects
    with pytest.raises(RenderError, match=r"postgres\.external\.maxConnections"):
        render("external", {"postgres.external.maxConnections": 20})


def test_the_server_is_told_its_number():
    args = render("default", {"postgres.maxConnections": 321}).pod("StatefulSet", "-postgres")["spec"][
        "containers"
    ][0]["args"]
    assert args[:3] == ["postgres", "-c", "max_connections=321"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"api.autoscaling.minReplicas": 9}, r"api\.autoscaling: minReplicas 9 is above maxReplicas 6"),
        ({"worker.autoscaling.minReplicas": 0}, "KEDA can"),
        ({"api.rollout.maxSurge": 0}, "no pod could be replaced"),
        ({"api.probes.liveness": None}, r"api\.probes\.liveness: it cannot be left out"),
        ({"ingress.enabled": True}, r"ingress\.hosts"),
        ({"httpRoute.enabled": True}, r"httpRoute\.parentRefs"),
    ],
)
def test_values_that_would_install_and_not_work_are_refused(values, message):
    with pytest.raises(RenderError, match=message):
        render("default", values)


def test_all_problems_are_told_at_once():
    with pytest.raises(RenderError) as caught:
        render("default", {"ingress.enabled": True, "httpRoute.enabled": True, "secrets.secretKey": "x"})
    for words in ("ingress.hosts", "httpRoute.parentRefs", "secrets.secretKey"):
        assert words in str(caught.value)
