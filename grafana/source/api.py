"""API: rate, errors and duration by route, and what makes it slow or full."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.models import units

from grafana.source.parts import (
    GREEN,
    RED,
    ROUTES,
    YELLOW,
    Column,
    Query,
    Steps,
    grid,
    heat,
    lines,
    new_dashboard,
    number,
    selector,
    to_dashboard,
    variable,
)

UID = "sfs-api"

CHOSEN = ('handler=~"$route"', ROUTES)
BY_ROUTE = "{{method}} {{handler}}"
ERROR_RATE = Steps.of(GREEN, (0.001, YELLOW), (0.01, RED))


def build() -> dashboards.Dashboard:
    made = new_dashboard(
        UID,
        "Scalable FastAPI System / API",
        "Requests by route: how many, how many fail, how long they take; and how full the processes are.",
    ).with_variable(
        variable(
            "route", "Route", f'label_values(http_requests_total{{namespace="$namespace",{ROUTES}}}, handler)'
        )
    )
    _numbers(made)
    _red(made)
    _saturation(made)
    _limits(made)
    return made


def _numbers(made: dashboards.Dashboard) -> None:
    made.with_panel(
        number(
            "Requests",
            "Requests a second on the chosen routes, without probes and scrapes.",
            units.RequestsPerSecond,
            Query(f"sum({_rate('http_requests_total')})"),
        )
    )
    made.with_panel(
        number(
            "Errors",
            "Share of requests answered with 5xx.",
            units.PercentUnit,
            Query(f"{_errors()} / sum({_rate('http_requests_total')})"),
            steps=ERROR_RATE,
            decimals=2,
            links=[to_dashboard("SLO overview", "sfs-slo")],
        )
    )
    for quantile in (0.5, 0.95, 0.99):
        made.with_panel(
            number(
                f"p{quantile * 100:g}",
                f"{quantile:.0%} of the requests take no longer (estimated from the histogram's buckets).",
                units.Seconds,
                Query(_quantile(quantile)),
            )
        )
    made.with_panel(
        number(
            "Pods ready",
            "API pods that say they are ready, of those that are scraped.",
            units.Short,
            Query(
                f"sum(service_readiness{selector(READY)} * on (namespace, pod) group_left () "
                f"max by (namespace, pod) (service_build_info{selector(COMPONENT)}))"
            ),
            steps=Steps.of(RED, (1, GREEN)),
            links=[to_dashboard("Stores and runtime", "sfs-runtime")],
        )
    )


def _red(made: dashboards.Dashboard) -> None:
    made.with_row(dashboards.Row("Rate, errors, duration"))
    made.with_panel(
        lines(
            "Requests by route",
            "Requests a second. A route is a template: `/users/{id}`, never a path. `none` are paths that fit no route.",
            units.RequestsPerSecond,
            Query(f"sum by (method, handler) ({_rate('http_requests_total')})", BY_ROUTE),
            is_stacked=True,
        )
    )
    made.with_panel(
        lines(
            "Answers by status",
            "Answers a second by class of status. 4xx is the callers' part, 5xx is ours and uses up the budget.",
            units.RequestsPerSecond,
            Query(f"sum by (status) ({_rate('http_requests_total')})", "{{status}}"),
            is_stacked=True,
        )
    )
    made.with_panel(
        lines(
            "Errors by route",
            "Requests a second answered with 5xx, refused ones (503) among them.",
            units.RequestsPerSecond,
            Query(f"sum by (method, handler) ({_rate('http_requests_total', STATUS_5XX)})", BY_ROUTE),
        )
    )
    made.with_panel(
        lines(
            "Duration by route, p95",
            "95 % of a route's requests take no longer.",
            units.Seconds,
            Query(_quantile(0.95, "method, handler"), BY_ROUTE),
        )
    )
    made.with_panel(
        heat(
            "Duration",
            "How many requests took how long. Two bands are two kinds of requests: choose a route to tell them apart.",
            Query(
                f"sum by (le) (increase(http_request_duration_seconds_bucket{selector(*CHOSEN)}[$__rate_interval]))"
            ),
        )
    )
    made.with_panel(
        lines(
            "Duration, percentiles",
            "Percentiles over all chosen routes.",
            units.Seconds,
            *(Query(_quantile(quantile), f"p{quantile * 100:g}") for quantile in (0.5, 0.9, 0.95, 0.99)),
            height=9,
        )
    )
    made.with_panel(
        grid(
            "Routes",
            "Each route over the last five minutes. A click on a route chooses it.",
            {"method": "Method", "handler": "Route"},
            Column(
                "Requests/s",
                units.RequestsPerSecond,
                f"sum by (method, handler) ({_rate('http_requests_total', window='5m')})",
            ),
            Column(
                "Errors",
                units.PercentUnit,
                f"sum by (method, handler) ({_rate('http_requests_total', STATUS_5XX, window='5m')}) "
                f"/ (sum by (method, handler) ({_rate('http_requests_total', window='5m')}) > 0)",
                steps=ERROR_RATE,
            ),
            Column("p50", units.Seconds, _quantile(0.5, "method, handler", window="5m"), decimals=3),
            Column("p95", units.Seconds, _quantile(0.95, "method, handler", window="5m"), decimals=3),
            Column("p99", units.Seconds, _quantile(0.99, "method, handler", window="5m"), decimals=3),
            link=("Route", to_dashboard("Only this route", UID, route="${__value.raw:percentencode}")),
        )
    )
    made.with_panel(
        lines(
            "Bytes in",
            "Size of the requests' bodies, the mean of each route.",
            units.BytesIEC,
            Query(_mean("http_request_size_bytes"), "{{handler}}"),
            span=12,
        )
    )
    made.with_panel(
        lines(
            "Bytes out",
            "Size of the answers' bodies, the mean of each route.",
            units.BytesIEC,
            Query(_mean("http_response_size_bytes"), "{{handler}}"),
            span=12,
        )
    )


def _saturation(made: dashboards.Dashboard) -> None:
    made.with_row(dashboards.Row("Saturation"))
    made.with_panel(
        lines(
            "Requests at work",
            "By pod. A process refuses from `API__MAX_CONCURRENT_REQUESTS` on, and sooner while it is busy without a pause.",
            units.Short,
            Query(f"sum by (pod) (http_requests_inprogress{selector()})", "{{pod}}"),
            span=8,
        )
    )
    made.with_panel(
        lines(
            "Requests refused",
            "Answered 503 at once, because the process was full. More pods, or a slow store behind them.",
            units.RequestsPerSecond,
            Query(f"sum by (pod) (rate(http_requests_shed_total{selector()}[$__rate_interval]))", "{{pod}}"),
            span=8,
        )
    )
    made.with_panel(
        lines(
            "Event loop lag",
            "The longest that the loop was late by in each look (5 s). Something that blocks it delays every request of the pod.",
            units.Seconds,
            Query(_of_api("service_event_loop_lag_seconds"), "{{pod}}"),
            steps=Steps.of(GREEN, (0.1, YELLOW), (1, RED)),
            span=8,
        )
    )
    made.with_panel(
        lines(
            "CPU",
            "Cores that a pod's process uses. One process cannot use more than one.",
            units.Short,
            Query(
                f"sum by (pod) (rate(process_cpu_seconds_total{selector()}[$__rate_interval]) and on (namespace, pod) "
                f"service_build_info{selector(COMPONENT)})",
                "{{pod}}",
            ),
            span=8,
        )
    )
    made.with_panel(
        lines(
            "Memory",
            "Resident memory of a pod's process; its limit is in the chart's `api.resources`.",
            units.BytesIEC,
            Query(_of_api("process_resident_memory_bytes"), "{{pod}}"),
            span=8,
        )
    )
    made.with_panel(
        lines(
            "Database connections at work",
            "Share of each pool that is in use, the fullest pod. At 100 % requests wait for a connection.",
            units.PercentUnit,
            Query(
                f"max by (pool) (db_pool_connections{selector(IN_USE)} / on (namespace, pod, pool) "
                f"db_pool_max_connections{selector()} and on (namespace, pod) service_build_info{selector(COMPONENT)})",
                "{{pool}}",
            ),
            steps=Steps.of(GREEN, (0.8, YELLOW), (0.95, RED)),
            most=1,
            links=[to_dashboard("Stores and runtime", "sfs-runtime")],
            span=8,
        )
    )


def _limits(made: dashboards.Dashboard) -> None:
    made.with_row(dashboards.Row("Limits"))
    made.with_panel(
        lines(
            "Refused by rate limits",
            "Requests a second answered 429, by the policy that refused them. Steady refusals of one policy: a caller that does not back off, or a limit too small.",
            units.RequestsPerSecond,
            Query(
                f"sum by (policy) (rate(rate_limit_refused_total{selector()}[$__rate_interval]))",
                "{{policy}}",
            ),
            is_stacked=True,
            span=8,
        )
    )
    made.with_panel(
        lines(
            "Decided without Redis",
            "Decisions a second by a process's own count, because Redis did not answer: a limit is then as many times larger as there are processes.",
            units.RequestsPerSecond,
            Query(
                f"sum by (pod) (rate(rate_limit_decided_alone_total{selector()}[$__rate_interval]))",
                "{{pod}}",
            ),
            links=[to_dashboard("Stores and runtime", "sfs-runtime")],
            span=8,
        )
    )
    made.with_panel(
        lines(
            "Slow clients cut off",
            "Connections a second that were ended because the client was too slow, by what was waited for. Many at once: an attack, or a network that is down.",
            units.OpsPerSecond,
            Query(
                f"sum by (waiting_for) (rate(http_connections_cut_off_total{selector()}[$__rate_interval]))",
                "{{waiting_for}}",
            ),
            is_stacked=True,
            span=8,
        )
    )


READY = 'state="ready"'
IN_USE = 'state="in_use"'
COMPONENT = 'component="api"'
STATUS_5XX = 'status="5xx"'


def _rate(name: str, *parts: str, window: str = "$__rate_interval") -> str:
    return f"rate({name}{selector(*CHOSEN, *parts)}[{window}])"


def _errors() -> str:
    return f"sum({_rate('http_requests_total', STATUS_5XX)})"


def _quantile(quantile: float, by: str = "", *, window: str = "$__rate_interval") -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({quantile:g}, sum by ({labels}) ({_rate('http_request_duration_seconds_bucket', window=window)}))"


def _mean(name: str) -> str:
    return f"sum by (handler) ({_rate(f'{name}_sum')}) / (sum by (handler) ({_rate(f'{name}_count')}) > 0)"


def _of_api(name: str) -> str:
    return (
        f"max by (pod) ({name}{selector()} and on (namespace, pod) service_build_info{selector(COMPONENT)})"
    )
