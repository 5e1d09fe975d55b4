"""SLO overview: are the promises kept, how fast is each budget used up, and where to look next."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.models import units

from grafana.source.parts import (
    GREEN,
    RED,
    ROUTES,
    YELLOW,
    Query,
    Steps,
    lines,
    new_dashboard,
    number,
    selector,
    to_dashboard,
)

UID = "sfs-slo"

OBJECTIVES = (
    # slo label, name, what is promised, dashboard with the causes
    ("availability", "Availability", "requests that are not answered with 5xx", ("API", "sfs-api")),
    ("latency", "Latency", "requests answered within the objective's time", ("API", "sfs-api")),
    ("jobs", "Job success", "ended jobs that succeeded", ("Jobs and workers", "sfs-jobs")),
    (
        "queue-wait",
        "Queue wait",
        "jobs started in time after they were due",
        ("Jobs and workers", "sfs-jobs"),
    ),
)
BURN = Steps.of(GREEN, (1, YELLOW), (6, RED))
BUDGET = Steps.of(RED, (0, YELLOW), (0.25, GREEN))
WINDOWS = ("5m", "1h", "6h", "3d")


def build() -> dashboards.Dashboard:
    made = new_dashboard(
        UID,
        "Scalable FastAPI System / SLO overview",
        "Four objectives with their error budgets over 30 days. Recorded by the chart's PrometheusRule.",
    ).time("now-24h", "now")
    made.with_row(dashboards.Row("Error budgets, 30 days"))
    for slo, name, what, (target, uid) in OBJECTIVES:
        made.with_panel(
            number(
                f"{name}: budget left",
                f"What is left of the errors that the objective allows in 30 days, over {what}. Below 0 the promise is broken.",
                units.PercentUnit,
                Query(f"min(sfs:slo_budget:remaining_ratio{selector(_slo(slo))})"),
                steps=BUDGET,
                decimals=1,
                links=[to_dashboard(f"{target}: causes", uid)],
                span=6,
            )
        )
    made.with_row(dashboards.Row("Now"))
    for slo, name, what, (target, uid) in OBJECTIVES:
        made.with_panel(
            number(
                f"{name}, last hour",
                f"Share of good events in the last hour: {what}.",
                units.PercentUnit,
                Query(f"1 - max(sfs:slo_bad:ratio_rate1h{selector(_slo(slo))})"),
                decimals=3,
                links=[to_dashboard(f"{target}: causes", uid)],
                span=4,
            )
        )
    made.with_panel(
        number(
            "Requests",
            "Requests a second, without probes and scrapes.",
            units.RequestsPerSecond,
            Query(f"sum(rate(http_requests_total{selector(ROUTES)}[$__rate_interval]))"),
            links=[to_dashboard("API", "sfs-api")],
        )
    )
    made.with_panel(
        number(
            "Jobs ended",
            "Jobs a second that ended, well or not.",
            units.OpsPerSecond,
            Query(f"sum(rate(jobs_attempts_total{selector(ENDED)}[$__rate_interval]))"),
            links=[to_dashboard("Jobs and workers", "sfs-jobs")],
        )
    )
    made.with_row(dashboards.Row("Burn rates"))
    for slo, name, _, (target, uid) in OBJECTIVES:
        made.with_panel(
            lines(
                f"{name}: burn rate",
                "How many times faster than allowed the budget is used up, over four windows. At 1 it lasts exactly 30 days; "
                "a page comes at 14.4 (5 m and 1 h) and 6 (30 m and 6 h), a ticket at 3 (2 h and 1 d) and 1 (6 h and 3 d).",
                units.Short,
                *(Query(_burn(slo, window), window) for window in WINDOWS),
                steps=BURN,
                links=[to_dashboard(f"{target}: causes", uid)],
            )
        )
    made.with_row(dashboards.Row("Over time"))
    made.with_panel(
        lines(
            "Budgets left",
            "Each objective's remaining budget of 30 days. A steep fall is an incident; a slope below zero is an objective that does not fit.",
            units.PercentUnit,
            Query(f"min by (slo) (sfs:slo_budget:remaining_ratio{selector()})", "{{slo}}"),
            is_from_zero=False,
            most=1,
        )
    )
    made.with_panel(
        lines(
            "Alerts firing",
            "Alerts of this namespace by name; each has a page in docs/runbooks. Flat at 0: none.",
            units.Short,
            Query(
                f"count by (alertname, severity) (ALERTS{selector(_FIRING)}) or vector(0)",
                "{{alertname}} {{severity}}",
            ),
            decimals=0,
        )
    )
    return made


ENDED = 'outcome=~"succeeded|failed"'
_FIRING = 'alertstate="firing"'


def _slo(name: str) -> str:
    return f'slo="{name}"'


def _burn(slo: str, window: str) -> str:
    where = selector(_slo(slo))
    return f"max(sfs:slo_bad:ratio_rate{window}{where}) / (1 - max(sfs:slo:objective_ratio{where}))"
