"""Every metric and label that a rule or a dashboard asks for is one that a process of ours shows (or kube-state-metrics does)."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import REGISTRY

from tests.unit.monitoring.promql import metrics_of, queries, rules

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
SUFFIXES = {
    "counter": {"_total": set()},
    "histogram": {"_bucket": {"le"}, "_count": set(), "_sum": set()},
    "summary": {"_count": set(), "_sum": set()},
}


@pytest.fixture(scope="module")
def shown() -> dict[str, set[str]]:
    """Name -> labels of everything that API and worker show."""
    import scalable_fastapi_system.application
    import scalable_fastapi_system.infra.observation
    import scalable_fastapi_system.jobs.metrics
    import scalable_fastapi_system.worker
    from scalable_fastapi_system.infra.metrics import MetricsManager

    _ = scalable_fastapi_system
    MetricsManager()
    found: dict[str, set[str]] = {}
    for collector in REGISTRY._collector_to_names:
        labels = set(getattr(collector, "_labelnames", ()))
        family: Any
        for family in collector.describe() if hasattr(collector, "describe") else collector.collect():
            labels |= {label for sample in family.samples for label in sample.labels} - {"le", "quantile"}
            for suffix, more in SUFFIXES.get(family.type, {"": set()}).items():
                found[family.name + suffix] = labels | more
    return found


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


def test_metrics_that_tell_of_faults_are_all_watched(shown):
    """A metric that was made to tell of a fault and that no rule or panel reads is a fault that nobody sees."""
    used = {name for _, expr in asked() for name, _ in metrics_of(expr)}
    # what the platform itself registers; prometheus_client's own tell of the process and the interpreter
    ours = {name for name in shown if not name.startswith(("process_", "python_"))}
    # the same requests without routes, which the histogram by route gives as well
    unread = ours - used - {"http_request_duration_highr_seconds_bucket"}
    unread -= {
        name
        for name in unread
        if name.endswith(("_sum", "_count")) and f"{name.rpartition('_')[0]}_bucket" in shown
    }
    assert not unread
