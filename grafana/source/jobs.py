"""Jobs and workers: what waits, what runs, what fails, and who does the work."""

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
    heat,
    lines,
    new_dashboard,
    number,
    selector,
    to_dashboard,
    variable,
)

UID = "sfs-jobs"

QUEUE = 'queue=~"$queue"'
KIND = 'kind=~"$kind"'
WORKER = 'component="worker"'
FAILED = 'outcome="failed"'
QUEUED = 'state="queued"'
NONE_IS_GOOD = Steps.of(GREEN, (1, RED))


def build() -> dashboards.Dashboard:
    made = (
        new_dashboard(
            UID,
            "Scalable FastAPI System / Jobs and workers",
            "Durable jobs from their enqueueing to their end, by queue and kind; and the workers that run them.",
        )
        .with_variable(
            variable("queue", "Queue", 'label_values(jobs_wait_seconds_count{namespace="$namespace"}, queue)')
        )
        .with_variable(
            variable("kind", "Kind", 'label_values(jobs_attempts_total{namespace="$namespace"}, kind)')
        )
    )
    _numbers(made)
    _queues(made)
    _work(made)
    _workers(made)
    return made


def _numbers(made: dashboards.Dashboard) -> None:
    made.with_panel(
        number(
            "Workers",
            "Worker processes that are scraped. With none, jobs are accepted and wait.",
            units.Short,
            Query(f"count(service_build_info{selector(WORKER)}) or vector(0)"),
            steps=Steps.of(RED, (1, GREEN)),
        )
    )
    made.with_panel(
        number(
            "Slots in use",
            "Jobs at work, as a share of those that the workers take at once.",
            units.PercentUnit,
            Query(f"sum(jobs_running{selector()}) / sum(jobs_slots{selector()})"),
            steps=Steps.of(GREEN, (0.8, YELLOW), (1, RED)),
            decimals=0,
        )
    )
    made.with_panel(
        number(
            "Queued",
            "Jobs that are due and that nobody has taken, as last counted (every 10 s).",
            units.Short,
            Query(f"sum(max by (queue) (jobs_depth{selector(QUEUE, QUEUED)})) or vector(0)"),
        )
    )
    made.with_panel(
        number(
            "Oldest queued",
            "How long the oldest queued job has been due.",
            units.Seconds,
            Query(f"max(jobs_oldest_due_seconds{selector(QUEUE)}) or vector(0)"),
            steps=Steps.of(GREEN, (60, YELLOW), (300, RED)),
            links=[to_dashboard("SLO overview", "sfs-slo")],
        )
    )
    made.with_panel(
        number(
            "Failed, last hour",
            "Jobs that failed for good: no attempt is left. `python -m services.manage jobs list --state failed` lists them.",
            units.Short,
            Query(f"sum(increase(jobs_attempts_total{selector(KIND, FAILED)}[1h]))"),
            steps=NONE_IS_GOOD,
            decimals=0,
        )
    )
    made.with_panel(
        number(
            "Set apart, last day",
            "Jobs in quarantine, because workers died of them.",
            units.Short,
            Query(f"sum(increase(jobs_quarantined_total{selector()}[1d]))"),
            steps=NONE_IS_GOOD,
            decimals=0,
        )
    )


def _queues(made: dashboards.Dashboard) -> None:
    made.with_row(dashboards.Row("Queues"))
    made.with_panel(
        lines(
            "Live jobs",
            "Jobs that have not ended, by queue and state, as last counted. `scheduled` wait for their time or their next try.",
            units.Short,
            Query(f"max by (queue, state) (jobs_depth{selector(QUEUE)})", "{{queue}} {{state}}"),
            is_stacked=True,
        )
    )
    made.with_panel(
        lines(
            "Oldest queued job",
            "How long the oldest has been due. It grows by a second a second while nobody takes jobs of that queue.",
            units.Seconds,
            Query(f"max by (queue) (jobs_oldest_due_seconds{selector(QUEUE)})", "{{queue}}"),
            steps=Steps.of(GREEN, (300, RED)),
        )
    )
    made.with_panel(
        heat(
            "Wait",
            "From the time a job was due until it started.",
            Query(f"sum by (le) (increase(jobs_wait_seconds_bucket{selector(QUEUE)}[$__rate_interval]))"),
        )
    )
    made.with_panel(
        lines(
            "Wait, p95",
            "95 % of a queue's jobs start sooner after they are due.",
            units.Seconds,
            Query(
                f"histogram_quantile(0.95, sum by (le, queue) (rate(jobs_wait_seconds_bucket{selector(QUEUE)}[$__rate_interval])))",
                "{{queue}}",
            ),
            height=9,
        )
    )


def _work(made: dashboards.Dashboard) -> None:
    made.with_row(dashboards.Row("Work"))
    made.with_panel(
        lines(
            "In and out",
            "Jobs a second that were enqueued, and that ended for good. Where the first stays above the second, the queue grows.",
            units.OpsPerSecond,
            Query(f"sum(rate(jobs_enqueued_total{selector(QUEUE, KIND)}[$__rate_interval]))", "enqueued"),
            Query(f"sum({_attempts(ENDED)})", "ended"),
        )
    )
    made.with_panel(
        lines(
            "Attempts by outcome",
            "Attempts a second. `retried` failed and will be tried again; `interrupted` were handed on by a worker that left; `lost` had passed to another.",
            units.OpsPerSecond,
            Query(f"sum by (outcome) ({_attempts()})", "{{outcome}}"),
            is_stacked=True,
        )
    )
    made.with_panel(
        lines(
            "Duration by kind, p95",
            "95 % of a kind's attempts take no longer.",
            units.Seconds,
            Query(
                f"histogram_quantile(0.95, sum by (le, kind) (rate(jobs_run_seconds_bucket{selector(KIND)}[$__rate_interval])))",
                "{{kind}}",
            ),
        )
    )
    made.with_panel(
        lines(
            "Failures by kind",
            "Attempts a second that failed, whether they are tried again or not.",
            units.OpsPerSecond,
            Query(f"sum by (kind, outcome) ({_attempts(BAD)})", "{{kind}} {{outcome}}"),
        )
    )
    made.with_panel(
        grid(
            "Kinds",
            "Each kind of job over the last hour. A click on a kind chooses it.",
            {"kind": "Kind"},
            Column(
                "Attempts",
                units.Short,
                f"sum by (kind) (increase(jobs_attempts_total{selector(KIND)}[1h]))",
                decimals=0,
            ),
            Column(
                "Failed",
                units.PercentUnit,
                f"sum by (kind) (increase(jobs_attempts_total{selector(KIND, FAILED)}[1h])) "
                f"/ (sum by (kind) (increase(jobs_attempts_total{selector(KIND, ENDED)}[1h])) > 0)",
                steps=Steps.of(GREEN, (0.01, YELLOW), (0.1, RED)),
            ),
            Column(
                "Mean duration",
                units.Seconds,
                f"sum by (kind) (increase(jobs_run_seconds_sum{selector(KIND)}[1h])) "
                f"/ (sum by (kind) (increase(jobs_run_seconds_count{selector(KIND)}[1h])) > 0)",
                decimals=3,
            ),
            Column(
                "p95",
                units.Seconds,
                f"histogram_quantile(0.95, sum by (le, kind) (increase(jobs_run_seconds_bucket{selector(KIND)}[1h])))",
                decimals=3,
            ),
            link=("Kind", to_dashboard("Only this kind", UID, kind="${__value.raw:percentencode}")),
            height=8,
        )
    )


def _workers(made: dashboards.Dashboard) -> None:
    made.with_row(dashboards.Row("Workers"))
    made.with_panel(
        lines(
            "Slots in use by pod",
            "Jobs at work in a pod, as a share of what it takes at once. All at 100 %: more pods, or a higher concurrency.",
            units.PercentUnit,
            Query(
                f"sum by (pod) (jobs_running{selector()}) / (sum by (pod) (jobs_slots{selector()}) > 0)",
                "{{pod}}",
            ),
            most=1,
            span=8,
        )
    )
    made.with_panel(
        lines(
            "Last sign of life",
            "Seconds since a worker last told the database that it lives. From 30 s on others take its jobs.",
            units.Seconds,
            Query(f"time() - (max by (pod) (jobs_last_beat_timestamp_seconds{selector()}) > 0)", "{{pod}}"),
            steps=Steps.of(GREEN, (10, YELLOW), (30, RED)),
            span=8,
        )
    )
    made.with_panel(
        lines(
            "Event loop blocked",
            "How long a worker's loop has stood still. Its log shows at what.",
            units.Seconds,
            Query(
                f"max by (pod) (jobs_loop_blocked_seconds{selector()} and on (namespace, pod) service_build_info{selector(WORKER)})",
                "{{pod}}",
            ),
            steps=Steps.of(GREEN, (5, YELLOW), (30, RED)),
            span=8,
        )
    )
    made.with_panel(
        lines(
            "Jobs that changed hands",
            "`taken back`: from workers that fell silent. `lost`: a worker finished what had passed to another. `set apart`: quarantined.",
            units.OpsPerSecond,
            Query(_total("jobs_leases_expired_total"), "taken back"),
            Query(_total("jobs_leases_lost_total"), "lost"),
            Query(_total("jobs_quarantined_total"), "set apart"),
            span=8,
        )
    )
    made.with_panel(
        lines(
            "Hints",
            "`lost` could not be pushed to Redis, `pushed again` were found overdue, `stale` named jobs that others had. Jobs need none of them.",
            units.OpsPerSecond,
            Query(_total("jobs_hints_lost_total"), "lost"),
            Query(_total("jobs_hints_repushed_total"), "pushed again"),
            Query(_total("jobs_hints_stale_total"), "stale"),
            Query(_total("jobs_unknown_kind_total"), "unknown kind"),
            span=8,
        )
    )
    made.with_panel(
        lines(
            "Trouble with the job tables",
            "Calls a second that failed and were repeated: Postgres is away, full or slow.",
            units.OpsPerSecond,
            Query(_total("jobs_store_errors_total"), "failed calls"),
            links=[to_dashboard("Stores and runtime", "sfs-runtime")],
            span=8,
        )
    )


ENDED = 'outcome=~"succeeded|failed"'
BAD = 'outcome=~"failed|retried"'


def _attempts(*parts: str) -> str:
    return f"rate(jobs_attempts_total{selector(KIND, *parts)}[$__rate_interval])"


def _total(name: str) -> str:
    return f"sum(rate({name}{selector()}[$__rate_interval]))"
