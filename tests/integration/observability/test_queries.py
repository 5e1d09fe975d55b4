"""A real Prometheus that scrapes the real services under a load: every query of a dashboard, every recording rule and every
series that an alert asks for is there. What can only be there in a cluster is named, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

import pytest

from tests.integration.observability.asked import asked, figures
from tests.integration.observability.observed import Observed, observed, until
from tests.integration.observability.traffic import Traffic
from tests.support.stores import Stores
from tests.unit.monitoring.promql import (
    API_JOB,
    METRIC,
    WORKER_JOB,
    Query,
    alerts,
    dashboards,
    filled,
    rules,
)

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("observability")]

# Series that have no data here, each with the reason. Nothing else may be empty.
ONLY_IN_A_CLUSTER = {
    "kube_pod_status_ready": "kube-state-metrics reads it from the API server",
    "kube_pod_container_status_restarts_total": "kube-state-metrics reads it from the API server",
    "kube_pod_init_container_status_running": "kube-state-metrics reads it from the API server",
    "kube_job_failed": "kube-state-metrics reads it from the API server",
}
FIRES = {"JobsFailing"}  # what the load is meant to set off
# With a scrape a second, what Grafana would take at the usual 15 s is four scrapes here as there.
VARIABLES = {"$__rate_interval": "5s"}


@pytest.fixture(scope="module")
def system(stores: Stores) -> Iterator[Observed]:
    """Everything up, after the load."""
    with observed(stores.new_folder()) as running:
        Traffic(running).run()
        yield running


@pytest.mark.parametrize(
    ("query", "is_table"), [pytest.param(*one, id=name) for name, *one in asked(VARIABLES)]
)
def test_a_panel_has_data(system: Observed, query: Query, is_table: bool) -> None:
    look = system.instant if is_table else system.over_time
    until(lambda: figures(look(query.expr)), f"data for {query}: {query.expr}")


@pytest.mark.parametrize(
    ("name", "labels"),
    sorted(
        {(rule["record"], str(rule.get("labels", {}).get("slo", ""))) for rule in rules() if "record" in rule}
    ),
)
def test_a_recording_rule_records(system: Observed, name: str, labels: str) -> None:
    selector = f'{name}{{slo="{labels}"}}' if labels else name
    until(lambda: figures(system.instant(selector)), f"a value of {selector}")


def test_each_objective_has_a_ratio_and_a_budget(system: Observed) -> None:
    wanted = {"availability", "latency", "jobs", "queue-wait"}

    def has_all(name: str) -> bool:
        return {one["metric"]["slo"] for one in system.instant(name)} == wanted

    for name in ("sfs:slo_bad:ratio_rate1h", "sfs:slo_bad:ratio_rate3d", "sfs:slo_budget:remaining_ratio"):
        until(partial(has_all, name), f"{name} of all four objectives")


@pytest.mark.parametrize("alert", alerts())
def test_the_series_that_an_alert_asks_for_are_there(system: Observed, alert: str) -> None:
    exprs = [rule["expr"] for rule in rules() if rule.get("alert") == alert]
    selected = {(name, matchers) for expr in exprs for name, matchers in METRIC.findall(expr)}
    assert selected
    for name, matchers in selected:
        found = system.over_time(f"{name}{{{matchers}}}")
        assert bool(found) != (name in ONLY_IN_A_CLUSTER), f"{name}{{{matchers}}}"


def test_no_reason_is_given_for_what_nothing_asks() -> None:
    names = {name for rule in rules() for name, _ in METRIC.findall(rule["expr"])}
    assert set(ONLY_IN_A_CLUSTER) <= names


def test_prometheus_evaluates_every_rule(system: Observed) -> None:
    def states() -> dict[str, list[str]]:
        groups = system.ask("rules")["groups"]
        return {
            rule["name"]: [rule["health"], rule.get("lastError", "")]
            for one in groups
            for rule in one["rules"]
        }

    until(lambda: all(health == "ok" for health, _ in states().values()), f"all rules are well: {states()}")
    assert set(states()) == {rule.get("record") or rule["alert"] for rule in rules()}


def test_the_alert_that_the_load_sets_off_fires_and_no_other(system: Observed) -> None:
    def firing() -> set[str]:
        found = system.ask("alerts")["alerts"]
        return {one["labels"]["alertname"] for one in found if one["state"] == "firing"}

    until(lambda: firing() >= FIRES, f"{FIRES} fires")
    # the load overdraws budgets as well, of which an alert tells after two minutes: sooner than a slow machine is here
    budgets = {name for name in alerts() if name.endswith("BudgetBurn")}
    assert firing() - budgets == FIRES


@pytest.mark.parametrize("name", dashboards())
def test_variables_have_values_to_choose_from(system: Observed, name: str) -> None:
    for variable in dashboards()[name]["templating"]["list"]:
        if variable["type"] != "query":
            continue
        text = filled(variable["query"]["query"], VARIABLES)
        (series, label) = re.fullmatch(r"label_values\((.+), (\w+)\)", text).groups()  # type: ignore[union-attr]
        assert system.ask(f"label/{label}/values", **{"match[]": series}), variable["name"]


def test_each_target_is_up_and_lost_nothing(system: Observed) -> None:
    up = {one["metric"]["job"]: one["value"][1] for one in system.instant("up")}
    assert up == {API_JOB: "1", WORKER_JOB: "1"}
