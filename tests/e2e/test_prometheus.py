"""prometheus-operator takes our ServiceMonitors and PrometheusRule, and a real Prometheus has what they promise."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.prometheus import Prometheus, cluster_prometheus
from tests.e2e.system import System, until
from tests.integration.observability.asked import asked, figures
from tests.integration.observability.traffic import Traffic

pytestmark = pytest.mark.e2e

SCRAPE_SECONDS = 5  # monitoring-values.yaml
MANAGE = "python -m services.manage"


@dataclass(frozen=True)
class InCluster:
    """The release as the load wants to see it: one pod of the API, one of the worker, the cluster's Prometheus."""

    system: System
    prometheus: Prometheus
    api_url: str
    worker_url: str

    def manage(self, *arguments: str) -> str:
        worker = f"deployment/{self.system.fullname}-worker"
        return self.system.kubectl("exec", worker, "--container=worker", "--", *MANAGE.split(), *arguments)

    def instant(self, expr: str) -> list[dict[str, Any]]:
        return self.prometheus.query(expr)


@pytest.fixture(scope="module")
def began(system, add_ons) -> float:
    """When the load began that meets everything which a dashboard shows (Unix seconds); it is over."""
    if "prometheus" not in add_ons:
        pytest.skip("there is no prometheus-operator in this cluster")
    system.api_at_rest()  # no pod with a port-forward is taken away
    began = time.time()
    with (
        cluster_prometheus(system) as prometheus,
        system.forward(f"service/{system.fullname}-api", 8000) as api_url,
        system.forward(f"service/{system.fullname}-worker", 8001) as worker_url,
    ):
        load = InCluster(system, prometheus, api_url, worker_url)
        Traffic(load, user=f"user_{secrets.token_hex(6)}").run()
    return began


def test_every_pod_is_scraped(system, prometheus):
    def scraped():
        pods = {*system.ready_pods("api"), *system.ready_pods("worker")}
        return pods and prometheus.up(system) == dict.fromkeys(pods, "up")

    until(scraped, 180, "every pod of the API and of the worker is scraped")


def test_every_rule_is_taken_and_every_recording_rule_has_data(system, prometheus, began):
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
    rules = [*prometheus.rules("record"), *prometheus.rules("alert")]
    assert [rule for rule in rules if rule["health"] != "ok"] == []


def test_every_query_of_every_dashboard_has_data(system, prometheus, began):
    variables = {"$namespace": system.namespace, "$__rate_interval": f"{4 * SCRAPE_SECONDS}s"}
    empty = {name: (query.expr, is_table) for name, query, is_table in asked(variables)}
    assert len(empty) > 50

    def all_have_data() -> bool:
        for name, (expr, is_table) in list(empty.items()):
            found = prometheus.query(expr) if is_table else prometheus.over_time(expr, began, SCRAPE_SECONDS)
            if figures(found):
                del empty[name]
        return not empty

    try:
        until(all_have_data, 300, "every query has data", pause=SCRAPE_SECONDS)
    except AssertionError:
        pytest.fail(f"no data for {empty}")


def test_what_is_well_fires_no_alert_of_a_cause(prometheus):
    assert not prometheus.firing() & {
        "ApiDown",
        "WorkerDown",
        "DatabaseUnreachable",
        "JobsWaiting",
        "JobsQuarantined",
    }
