"""Stores and runtime: Postgres as the pools see it, Redis and the cache, and the processes themselves."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.models import units

from grafana.source.parts import (
    GREEN,
    RED,
    YELLOW,
    Column,
    Query,
    Steps,
    grid,
    lines,
    new_dashboard,
    number,
    selector,
    states,
    to_dashboard,
    variable,
)

UID = "sfs-runtime"

JOB = 'job=~"$job"'
IN_USE = 'state="in_use"'
READY_STATES = {
    0.0: ("ready", "green"),
    1.0: ("draining", "blue"),
    2.0: ("schema not there", "orange"),
    3.0: ("no database", "red"),
}
UP = {0.0: ("away", "red"), 1.0: ("up", "green")}


def build() -> dashboards.Dashboard:
    made = new_dashboard(
        UID,
        "Scalable FastAPI System / Stores and runtime",
        "Connection pools, Redis and the cache, readiness and restarts, CPU, memory and garbage collection.",
    ).with_variable(
        variable("job", "Service", 'label_values(service_build_info{namespace="$namespace"}, job)')
    )
    _numbers(made)
    _database(made)
    _redis(made)
    _processes(made)
    return made


def _numbers(made: dashboards.Dashboard) -> None:
    made.with_panel(
        number(
            "Pods ready",
            "Share of the scraped pods that say they are ready.",
            units.PercentUnit,
            Query(f"avg(service_readiness{selector(JOB, READY)})"),
            steps=Steps.of(RED, (0.5, YELLOW), (1, GREEN)),
            decimals=0,
        )
    )
    made.with_panel(
        number(
            "Fullest pool",
            "Share of a pod's database connections in use, of the pool that is fullest.",
            units.PercentUnit,
            Query(f"max({_fill()})"),
            steps=Steps.of(GREEN, (0.8, YELLOW), (0.95, RED)),
            decimals=0,
        )
    )
    made.with_panel(
        number(
            "Redis",
            "1 where every process reaches Redis; below, some work from their own memory.",
            units.PercentUnit,
            Query(f"avg(redis_up{selector(JOB)})"),
            steps=Steps.of(RED, (1, GREEN)),
            decimals=0,
            no_value="not configured",
        )
    )
    made.with_panel(
        number(
            "Cache hits",
            "Share of cache reads that needed no load.",
            units.PercentUnit,
            Query(
                f"1 - sum(rate(cache_reads_total{selector(JOB, LOAD)}[$__rate_interval])) "
                f"/ (sum(rate(cache_reads_total{selector(JOB)}[$__rate_interval])) > 0)"
            ),
            decimals=1,
            no_value="no reads",
        )
    )
    made.with_panel(
        number(
            "Restarts, last hour",
            "Processes that began anew in a pod that stayed.",
            units.Short,
            Query(f"sum(changes(service_start_time_seconds{selector(JOB)}[1h]))"),
            steps=Steps.of(GREEN, (1, YELLOW), (3, RED)),
            decimals=0,
        )
    )
    made.with_panel(
        number(
            "Oldest process",
            "How long the pod that has gone longest without a new process has gone.",
            units.Seconds,
            Query(f"time() - min(service_start_time_seconds{selector(JOB)} > 0)"),
        )
    )


def _database(made: dashboards.Dashboard) -> None:
    made.with_row(dashboards.Row("Postgres, as the pools see it"))
    made.with_panel(
        lines(
            "Connections",
            "Open connections of all pods by pool, at work and idle. `sessions` are transactions, `reads` hot reads and the job engine.",
            units.Short,
            Query(f"sum by (pool, state) (db_pool_connections{selector(JOB)})", "{{pool}} {{state}}"),
            is_stacked=True,
            span=8,
        )
    )
    made.with_panel(
        lines(
            "Pool use by pod",
            "Share of a pool in use. At 100 % callers wait; after `DATABASE__POOL_TIMEOUT_SECONDS` they get 503.",
            units.PercentUnit,
            Query(f"max by (pod, pool) ({_fill()})", "{{pod}} {{pool}}"),
            steps=Steps.of(GREEN, (0.8, YELLOW), (0.95, RED)),
            most=1,
            span=8,
        )
    )
    made.with_panel(
        states(
            "Readiness",
            "What each pod says of itself. No database: everything that needs it answers 503. Schema: migrations are pending.",
            Query(_readiness(), "{{pod}}"),
            names=READY_STATES,
            span=8,
            height=8,
        )
    )


def _redis(made: dashboards.Dashboard) -> None:
    made.with_row(dashboards.Row("Redis and cache"))
    made.with_panel(
        states(
            "Redis reached",
            "Whether each pod reaches Redis. Without it cache and limits work from memory, and workers take jobs from Postgres.",
            Query(f"max by (pod) (redis_up{selector(JOB)})", "{{pod}}"),
            names=UP,
            span=8,
            height=8,
        )
    )
    made.with_panel(
        lines(
            "Redis failures",
            "Times a second that Redis did not answer or refused; each is followed by a pause in which nobody asks it.",
            units.OpsPerSecond,
            Query(f"sum by (pod) (rate(redis_failures_total{selector(JOB)}[$__rate_interval]))", "{{pod}}"),
            span=8,
        )
    )
    made.with_panel(
        lines(
            "Redis memory",
            "What Redis uses, and what it may (0: no limit of its own). It never evicts: when full it refuses writes.",
            units.BytesIEC,
            Query(f"max(redis_memory_used_bytes{selector(JOB)})", "used"),
            Query(f"max(redis_memory_max_bytes{selector(JOB)})", "limit"),
            span=8,
        )
    )
    made.with_panel(
        lines(
            "Cache reads by what answered",
            "`load` had to ask the source, `joined` waited for another's load, `stale` got the old value while one loads.",
            units.ReadsPerSecond,
            Query(
                f"sum by (answered_by) (rate(cache_reads_total{selector(JOB)}[$__rate_interval]))",
                "{{answered_by}}",
            ),
            is_stacked=True,
        )
    )
    made.with_panel(
        lines(
            "Cache loads by outcome",
            "`failed` raised, `outdated` were changed while they loaded and not kept.",
            units.OpsPerSecond,
            Query(
                f"sum by (outcome) (rate(cache_loads_total{selector(JOB)}[$__rate_interval]))", "{{outcome}}"
            ),
        )
    )


def _processes(made: dashboards.Dashboard) -> None:
    made.with_row(dashboards.Row("Processes (where a pod has one; of several, see the containers' metrics)"))
    made.with_panel(
        lines(
            "CPU",
            "Cores in use by pod.",
            units.Short,
            Query(
                f"sum by (pod) (rate(process_cpu_seconds_total{selector(JOB)}[$__rate_interval]))", "{{pod}}"
            ),
            span=8,
        )
    )
    made.with_panel(
        lines(
            "Memory",
            "Resident memory by pod. A steady rise is a leak; a cliff is a limit.",
            units.BytesIEC,
            Query(f"max by (pod) (process_resident_memory_bytes{selector(JOB)})", "{{pod}}"),
            span=8,
        )
    )
    made.with_panel(
        lines(
            "Event loop lag",
            "The longest that the loop was late by in each look (5 s).",
            units.Seconds,
            Query(f"max by (pod) (service_event_loop_lag_seconds{selector(JOB)})", "{{pod}}"),
            steps=Steps.of(GREEN, (0.1, YELLOW), (1, RED)),
            span=8,
        )
    )
    made.with_panel(
        lines(
            "Open files",
            "File descriptors, sockets among them, as a share of the process's limit.",
            units.PercentUnit,
            Query(
                f"max by (pod) (process_open_fds{selector(JOB)} / process_max_fds{selector(JOB)})", "{{pod}}"
            ),
            span=8,
        )
    )
    made.with_panel(
        lines(
            "Garbage collections",
            "A second, by generation. Many of generation 2 are pauses.",
            units.OpsPerSecond,
            Query(
                f"sum by (generation) (rate(python_gc_collections_total{selector(JOB)}[$__rate_interval]))",
                "generation {{generation}}",
            ),
            span=8,
        )
    )
    made.with_panel(
        grid(
            "What runs",
            "Processes by version. Two versions at once: a rollout is under way, or stuck.",
            {"component": "Component", "version": "Version", "python": "Python"},
            Column(
                "Pods",
                units.Short,
                f"count by (component, version, python) (service_build_info{selector(JOB)})",
                decimals=0,
            ),
            link=("Component", to_dashboard("SLO overview", "sfs-slo")),
            span=8,
            height=8,
        )
    )


READY = 'state="ready"'
LOAD = 'answered_by="load"'


def _fill() -> str:
    return (
        f"db_pool_connections{selector(JOB, IN_USE)} / on (namespace, pod, pool) "
        f"db_pool_max_connections{selector(JOB)}"
    )


def _readiness() -> str:
    """One number a pod, from the state that is 1."""
    return " + ".join(
        f"{value:g} * max by (pod) (service_readiness{selector(JOB, _state(state))})"
        for value, state in ((1, "draining"), (2, "schema"), (3, "database"))
    )


def _state(name: str) -> str:
    return f'state="{name}"'
