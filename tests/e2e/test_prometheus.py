"""prometheus-operator takes our ServiceMonitors and PrometheusRule, and a real Prometheus has what they promise."""

from __future__ import annotations

import pytest

from tests.e2e.system import until
from tests.e2e.tables import real_table

pytestmark = pytest.mark.e2e


def test_every_pod_is_scraped(system, prometheus):
    def scraped():
        pods = {*system.ready_pods("api"), *system.ready_pods("worker")}
        return pods and prometheus.up(system) == dict.fromkeys(pods, "up")

    until(scraped, 180, "every pod of the API and of the worker is scraped")


def test_every_rule_is_taken_and_every_recording_rule_has_data(system, prometheus, user):
    accepted = user.upload("stocks.csv", real_table("stocks.csv"))
    user.finished(accepted["task_id"], 120)
    (made,) = system.get("prometheusrules")
    recorded = {
        rule["record"] for group in made["spec"]["groups"] for rule in group["rules"] if "record" in rule
    }
    alerts = {rule["alert"] for group in made["spec"]["groups"] for rule in group["rules"] if "alert" in rule}
    assert len(recorded) > 5
    assert len(alerts) > 10
    until(
        lambda: {rule["name"] for rule in prometheus.rules("record")} == recorded, 180, "the rules are read"
    )
    assert {rule["name"] for rule in prometheus.rules("alert")} == alerts

    def without_data():
        own = f'namespace="{system.namespace}",release="{system.name}"'
        return {name for name in recorded if not prometheus.query(f"{name}{{{own}}}")}

    # a group is first evaluated some time within its interval, which is five minutes for the budgets
    until(lambda: not without_data(), 480, "every recording rule has data", pause=2)
    for kind in ("record", "alert"):
        for rule in prometheus.rules(kind):
            assert rule["health"] == "ok", rule


def test_what_is_well_fires_no_alert_of_a_cause(prometheus):
    assert not prometheus.firing() & {
        "ApiDown",
        "WorkerDown",
        "DatabaseUnreachable",
        "JobsWaiting",
        "JobsQuarantined",
    }
