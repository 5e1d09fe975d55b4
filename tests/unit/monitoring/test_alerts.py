"""Every alert, by promtool: silent in health, telling in its fault, gone after it; and burn rates at each of their speeds."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.chart.helm import render
from tests.unit.chart.test_values import schema_at
from tests.unit.monitoring.faults import (
    API,
    COUNTERS,
    ERRORS,
    FAILED,
    FAULTS,
    GAUGES,
    QUARANTINED,
    QUICK,
    SOON,
    WORKER_UP,
    case,
    healthy,
    line,
)
from tests.unit.monitoring.promql import (
    NAMESPACE,
    RELEASE,
    RUNBOOKS,
    alerts,
    check_rules,
    groups,
    judge,
    rules,
)

BURNS = {
    # objective, the budget as a share: how to use up so and so many times of it, in counts a minute
    "AvailabilityBudgetBurn": ("availability", 0.001, lambda share: {ERRORS: 1000 * share / (1 - share)}),
    "LatencyBudgetBurn": ("latency", 0.01, lambda share: {QUICK: 1000 * (1 - share)}),
    "JobSuccessBudgetBurn": ("jobs", 0.01, lambda share: {FAILED: 100 * share / (1 - share)}),
    "QueueWaitBudgetBurn": ("queue-wait", 0.01, lambda share: {SOON: 100 * (1 - share)}),
}
# so many times the budget -> the windows that tell, with their severities
TELLING = {
    0.5: set(),
    2: {("3d", "warning")},
    4: {("3d", "warning"), ("1d", "warning")},
    8: {("3d", "warning"), ("1d", "warning"), ("6h", "critical")},
    20: {("3d", "warning"), ("1d", "warning"), ("6h", "critical"), ("1h", "critical")},
}
FOUR_HOURS = 4 * 60


def burning(alert: str, times: float, *, minutes: int = FOUR_HOURS) -> dict[str, str]:
    _, budget, use_up = BURNS[alert]
    changed = use_up(budget * times)
    return {
        name: line(name, [(minutes, changed.get(name, value))])
        for name, value in {**COUNTERS, **GAUGES}.items()
    }


def as_input(series: dict[str, str]) -> list[dict[str, str]]:
    return [{"series": name, "values": values} for name, values in series.items()]


def test_promtool_has_nothing_against_the_rules(tmp_path):
    assert check_rules(groups(), tmp_path) == ""


def test_nothing_fires_in_health(tmp_path):
    tests = [
        {
            "interval": "1m",
            "input_series": as_input(healthy(FOUR_HOURS)),
            "promql_expr_test": [{"expr": "ALERTS", "eval_time": "235m"}],
        }
    ]
    judge(tests, tmp_path)


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_an_alert_tells_its_fault_and_ends_with_it(tmp_path, fault):
    judge([case(fault)], tmp_path)


def test_every_alert_has_a_fault_and_a_runbook():
    assert set(alerts()) == {fault.alert for fault in FAULTS} | set(BURNS)
    assert {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"} == set(alerts())


@pytest.mark.parametrize("alert", BURNS)
@pytest.mark.parametrize("times", TELLING)
def test_a_budget_that_burns_is_told_by_the_windows_that_fit_its_speed(tmp_path, alert, times):
    samples = [
        {
            "labels": (
                f'ALERTS{{alertname="{alert}",alertstate="firing",namespace="{NAMESPACE}",release="{RELEASE}",'
                f'severity="{severity}",slo="{BURNS[alert][0]}",team="platform",window="{window}"}}'
            ),
            "value": 1,
        }
        for window, severity in TELLING[times]
    ]
    tests = [
        {
            "interval": "1m",
            "input_series": as_input(burning(alert, times)),
            "promql_expr_test": [
                {
                    "expr": f'ALERTS{{alertname="{alert}",alertstate="firing"}}',
                    "eval_time": "235m",
                    "exp_samples": samples,
                },
                {"expr": f'ALERTS{{alertname=~".*BudgetBurn",alertname!="{alert}"}}', "eval_time": "235m"},
            ],
        }
    ]
    judge(tests, tmp_path)


def test_a_page_comes_soon_and_ends_soon(tmp_path):
    """All requests fail for five minutes after half an hour of health: paged within four, silent ten minutes later."""
    series = healthy(60)
    series[ERRORS] = line(ERRORS, [(30, 0), (5, 1000), (25, 0)])
    selector = 'ALERTS{alertname="AvailabilityBudgetBurn",alertstate="firing",window="1h"}'
    fires = {
        "labels": selector.rstrip("}")
        + f',namespace="{NAMESPACE}",release="{RELEASE}",severity="critical",slo="availability",team="platform"}}',
        "value": 1,
    }
    tests = [
        {
            "interval": "1m",
            "input_series": as_input(series),
            "promql_expr_test": [
                {"expr": selector, "eval_time": "29m"},
                {"expr": selector, "eval_time": "34m", "exp_samples": [fires]},
                {"expr": selector, "eval_time": "45m"},
            ],
        }
    ]
    judge(tests, tmp_path)


def test_a_quarantined_job_uses_up_the_budget_of_job_success(tmp_path):
    series = {**healthy(FOUR_HOURS), QUARANTINED: line(QUARANTINED, [(FOUR_HOURS, 25)])}
    tests = [
        {
            "interval": "1m",
            "input_series": as_input(series),
            "promql_expr_test": [
                {
                    "expr": 'round(sfs:slo_bad:ratio_rate1h{slo="jobs"}, 0.0001)',
                    "eval_time": "235m",
                    "exp_samples": [
                        {
                            "labels": f'{{namespace="{NAMESPACE}",release="{RELEASE}",slo="jobs"}}',
                            "value": 0.2,
                        }
                    ],
                }
            ],
        }
    ]
    judge(tests, tmp_path)


@pytest.mark.parametrize("alert", BURNS)
def test_what_is_left_of_a_budget_is_recorded(tmp_path, alert):
    slo, _, _ = BURNS[alert]
    tests = [
        {
            "interval": "1m",
            "input_series": as_input(burning(alert, times, minutes=100)),
            "promql_expr_test": [
                {
                    "expr": f'round(sfs:slo_budget:remaining_ratio{{slo="{slo}"}}, 0.0001)',
                    "eval_time": "95m",
                    "exp_samples": [
                        {
                            "labels": f'{{namespace="{NAMESPACE}",release="{RELEASE}",slo="{slo}"}}',
                            "value": left,
                        }
                    ],
                }
            ],
        }
        for times, left in ((0.5, 0.5), (2, -1))
    ]
    judge(tests, tmp_path)


EVENTS_A_SECOND = {  # what there is of all events, where a share of them is bad
    "availability": lambda share: 1000 / 60 / (1 - share),
    "latency": lambda _share: 1000 / 60,
    "jobs": lambda share: 100 / 60 / (1 - share),
    "queue-wait": lambda _share: 100 / 60,
}


@pytest.mark.parametrize("alert", BURNS)
def test_every_recording_rule_records_what_its_name_says(tmp_path, alert):
    """A steady burn of eight times the budget: each record has one right value, in every window the same share."""
    times = 8
    slo, budget, _ = BURNS[alert]
    share = budget * times
    events = EVENTS_A_SECOND[slo](share)
    right = {
        "sfs:slo:objective_ratio": 1 - budget,
        "sfs:slo_all:rate5m": events,
        "sfs:slo_bad:rate5m": events * share,
        "sfs:slo_budget:remaining_ratio": 1 - times,
    }
    records = {rule["record"] for rule in rules() if "record" in rule}
    windows = {name for name in records if name.startswith("sfs:slo_bad:ratio_rate")}
    assert records == set(right) | windows
    own = f'slo="{slo}",namespace="{NAMESPACE}",release="{RELEASE}"'
    tests = [
        {
            "interval": "1m",
            "input_series": as_input(burning(alert, times)),
            "promql_expr_test": [
                {
                    # promtool's series have six digits
                    "expr": f'abs({name}{{slo="{slo}"}} / {right.get(name, share)!r} - 1) < bool 1e-3',
                    "eval_time": "235m",
                    "exp_samples": [{"labels": f"{{{own}}}", "value": 1}],
                }
                for name in sorted(records)
            ],
        }
    ]
    judge(tests, tmp_path)


def test_without_traffic_there_is_no_ratio_and_no_alert(tmp_path):
    quiet = {
        **healthy(FOUR_HOURS),
        **{name: line(name, [(FOUR_HOURS, 0)]) for name in COUNTERS if name.startswith(("http", "jobs"))},
    }
    beat = next(name for name in COUNTERS if name.startswith("jobs_last_beat"))
    quiet[beat] = line(beat, [(FOUR_HOURS, 60)])
    tests = [
        {
            "interval": "1m",
            "input_series": as_input(quiet),
            "promql_expr_test": [
                {"expr": "ALERTS", "eval_time": "235m"},
                {"expr": "sfs:slo_bad:ratio_rate1h", "eval_time": "235m"},
            ],
        }
    ]
    judge(tests, tmp_path)


def test_every_recorded_series_is_used_by_an_alert_or_a_dashboard():
    from tests.unit.monitoring.promql import metrics_of, queries

    recorded = {rule["record"] for rule in rules() if "record" in rule}
    asked = [rule["expr"] for rule in rules()] + [query.expr for query in queries()]
    used = {name for expr in asked for name, _ in metrics_of(expr) if name.startswith("sfs:")}
    assert used == recorded


TO_NONE: dict[str, Any] = {"worker.autoscaling": {"type": "keda", "minReplicas": 0}}
DUE, PLANNED = (
    f'jobs_enqueued_total{{{API},kind="orders.ship",queue="default",due="{due}"}}' for due in ("now", "later")
)
NO_WORKER = "_x400"


@pytest.mark.parametrize(
    ("worker", "due", "first", "last"),
    [
        # Its first job of all, whose counter the API has shown before: until there is a worker.
        pytest.param("_x300 1x100", "0x20 1x380", 26, 299, id="the first job"),
        # The worker went when all was done, and has not come back for what came in just after.
        pytest.param("1x20 stale _x279 1x100", "0x10 5x9 6x380", 30, 300, id="a job behind the last"),
        # A worker that cannot be scraped is none.
        pytest.param("0x300 1x100", "0x20 1x380", 26, 300, id="a worker that is not ready"),
        pytest.param("1x20 stale _x379", "0x12 5x388", None, None, id="all done before it went"),
        pytest.param("_x24 1x20 stale _x355", "0x20 1x380", None, None, id="a worker that soon comes"),
        pytest.param(NO_WORKER, "7x400", None, None, id="no jobs"),
    ],
)
def test_where_workers_may_be_scaled_to_none_a_missing_one_is_a_fault_while_jobs_wait_for_it(
    tmp_path, worker, due, first, last
):
    firing = 'ALERTS{alertname="WorkerDown",alertstate="firing"}'
    labels = f'{{alertname="WorkerDown",alertstate="firing",namespace="{NAMESPACE}",release="{RELEASE}",severity="critical",team="platform"}}'
    series = {WORKER_UP: worker, DUE: due, PLANNED: "0x50 1x350"}
    tests = [
        {
            "interval": "1m",
            "input_series": as_input(series),
            "promql_expr_test": [
                {
                    "expr": f"count_over_time({firing}[400m])",
                    "eval_time": "399m",
                    "exp_samples": [{"labels": labels, "value": last - first + 1}] if first else [],
                },
                *(
                    {"expr": firing, "eval_time": f"{minute}m", "exp_samples": samples}
                    for minute, samples in (
                        [
                            (first - 1, []),
                            (first, [{"labels": "ALERTS" + labels, "value": 1}]),
                            (last, [{"labels": "ALERTS" + labels, "value": 1}]),
                            (last + 1, []),
                        ]
                        if first
                        else []
                    )
                ),
            ],
        }
    ]
    judge(tests, tmp_path, TO_NONE)


def test_the_rules_for_workers_that_may_be_scaled_to_none_are_sound_and_stay_within_their_release(tmp_path):
    assert check_rules(groups(TO_NONE), tmp_path) == ""
    (expr,) = [rule["expr"] for rule in rules(TO_NONE) if rule.get("alert") == "WorkerDown"]
    assert all(f'namespace="{NAMESPACE}"' in part.split("}")[0] for part in expr.split("{")[1:])
    assert f'release="{RELEASE}"' in expr
    hasty = {"worker.autoscaling": {**TO_NONE["worker.autoscaling"], "keda": {"cooldownPeriodSeconds": 30}}}
    (expr,) = [rule["expr"] for rule in rules(hasty) if rule.get("alert") == "WorkerDown"]
    assert "[330s]" in expr


def test_an_alert_that_is_not_wanted_is_not_there():
    unwanted = ["ApiDown", "LatencyBudgetBurn"]
    left = {rule.get("alert") for rule in rules({"monitoring.prometheusRule.disabled": unwanted})}
    assert left & set(alerts()) == set(alerts()) - set(unwanted)


def test_the_schema_knows_the_alerts_by_name():
    items = schema_at("monitoring.prometheusRule.disabled")["items"]
    assert sorted(items["enum"]) == sorted(alerts())


def test_without_a_published_runbook_the_file_is_named():
    (found,) = render("high-availability").kind("PrometheusRule")
    for group in found["spec"]["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                assert "runbook_url" not in rule["annotations"]
                assert rule["annotations"]["runbook"] == f"docs/runbooks/{rule['alert']}.md"


def test_thresholds_are_buckets_that_there_are():
    from scalable_fastapi_system.infra import metrics
    from scalable_fastapi_system.jobs import metrics as job_metrics

    latencies = {str(float(bucket)) for bucket in metrics._LOW_RESOLUTION}
    assert set(schema_at("monitoring.prometheusRule.objectives.latencySeconds")["enum"]) <= latencies
    waits = {str(float(bucket)) for bucket in job_metrics._SHORT}
    assert set(schema_at("monitoring.prometheusRule.objectives.queueWaitSeconds")["enum"]) <= waits


def test_every_rule_stays_within_its_release():
    for rule in rules():
        for selector in (part for part in rule["expr"].split("{")[1:]):
            assert (
                selector.startswith(f'namespace="{NAMESPACE}"')
                or f'namespace="{NAMESPACE}"' in selector.split("}")[0]
            )
