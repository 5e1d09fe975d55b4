"""Every metric and label that a rule or a dashboard asks for is one that a process of ours shows (or kube-state-metrics does)."""

from __future__ import annotations

import re

import pytest
from prometheus_client import REGISTRY
from scalable_fastapi_system.jobs import metrics as job_metrics

from tests.unit.monitoring.promql import metrics_of, queries, rules
from tests.unit.monitoring.registry import FOREIGN, registered

SCRAPED = {"namespace", "job", "pod", "service", "container", "endpoint", "instance"}
# Those of kube-state-metrics that are used, with their labels: docs of the project, version 2.
OUTSIDE = {
    "up": set(),
    "ALERTS": {"alertname", "alertstate", "severity"},
    "kube_pod_status_ready": {"condition"},
    "kube_pod_container_status_restarts_total": {"container"},
    "kube_pod_init_container_status_running": {"container"},
    "kube_job_failed": {"job_name", "condition"},
}


@pytest.fixture(scope="module")
def shown() -> dict[str, set[str]]:
    """Name -> labels of everything that API and worker show."""
    return {name: labels for family in registered() for name, labels in family.samples().items()}


def asked() -> list[tuple[str, str]]:
    from_rules = [(rule.get("record") or rule["alert"], rule["expr"]) for rule in rules()]
    return [*from_rules, *((str(query), query.expr) for query in queries())]


@pytest.mark.parametrize(("where", "expr"), asked())
def test_what_is_asked_for_exists(shown, where, expr):
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    selected = metrics_of(expr)
    assert selected or expr.startswith("vector("), expr
    for name, labels in selected:
        if name in recorded:
            assert labels <= {"slo", "namespace", "release"}, (where, name, labels)
            continue
        known = shown[name] if name in shown else OUTSIDE.get(name)
        assert known is not None, f"{where} asks for {name}, which nothing shows"
        assert labels <= known | SCRAPED, (where, name, labels - known)


def test_probes_and_scrapes_are_left_out_and_no_route_whose_name_only_begins_so():
    left_out = {found for _, expr in asked() for found in re.findall(r'handler!~"([^"]*)"', expr)}
    assert left_out
    for pattern in left_out:
        for probe in ("/health", "/health/live", "/health/ready", "/metrics"):
            assert re.fullmatch(pattern, probe), (pattern, probe)
        for route in (
            "/health_records",
            "/health-checks/{check_id}",
            "/healthy",
            "/metrics/{name}",
            "/health/records",
        ):
            assert not re.fullmatch(pattern, route), (pattern, route)


def test_metrics_that_tell_of_faults_are_all_watched(shown):
    """A metric that was made to tell of a fault and that no rule or panel reads is a fault that nobody sees."""
    used = {name for _, expr in asked() for name, _ in metrics_of(expr)}
    # what the platform itself registers; prometheus_client's own tell of the process and the interpreter
    ours = {name for name in shown if not name.startswith(FOREIGN)}
    # the same requests without routes, which the histogram by route gives as well
    unread = ours - used - {"http_request_duration_highr_seconds_bucket"}
    unread -= {
        name
        for name in unread
        if name.endswith(("_sum", "_count")) and f"{name.rpartition('_')[0]}_bucket" in shown
    }
    assert not unread


def test_what_is_counted_of_a_kind_and_a_queue_is_there_before_the_first_attempt():
    """A rate does not see the value that a series begins with: what begins with its first event hides it."""
    job_metrics.prepare(["a.kind"], ["a-queue"])
    for outcome in ("succeeded", "retried", "failed"):
        labels = {"kind": "a.kind", "outcome": outcome}
        assert REGISTRY.get_sample_value("jobs_attempts_total", labels) == 0
    assert REGISTRY.get_sample_value("jobs_run_seconds_count", {"kind": "a.kind"}) == 0
    assert REGISTRY.get_sample_value("jobs_wait_seconds_count", {"queue": "a-queue"}) == 0
