"""The engine's Prometheus metrics. Labels are job kinds and queues, which code names: never ids or owners."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)

enqueued = Counter(
    "jobs_enqueued_total", "Jobs inserted, by when they are due: now, or later.", ["kind", "queue", "due"]
)
finished = Counter("jobs_attempts_total", "Attempts ended, by outcome.", ["kind", "outcome"])
run_seconds = Histogram("jobs_run_seconds", "How long an attempt ran.", ["kind"], buckets=_SHORT)
wait_seconds = Histogram(
    "jobs_wait_seconds", "From the time a job was due until it started.", ["queue"], buckets=_SHORT
)
running = Gauge("jobs_running", "Jobs at work in this worker.", multiprocess_mode="livesum")
slots = Gauge("jobs_slots", "Jobs that this worker takes at once.", multiprocess_mode="livesum")
depth = Gauge("jobs_depth", "Live jobs, as last counted.", ["queue", "state"], multiprocess_mode="max")
oldest_seconds = Gauge(
    "jobs_oldest_due_seconds",
    "How long the oldest queued job has been due.",
    ["queue"],
    multiprocess_mode="max",
)
leases_lost = Counter("jobs_leases_lost_total", "Attempts whose job had passed to another owner.")
leases_expired = Counter("jobs_leases_expired_total", "Jobs taken back from workers that fell silent.")
quarantined = Counter("jobs_quarantined_total", "Jobs set apart because workers died of them.")
hints_lost = Counter("jobs_hints_lost_total", "Hints that could not be pushed.")
hints_repushed = Counter("jobs_hints_repushed_total", "Hints pushed again for jobs that were overdue.")
hints_stale = Counter("jobs_hints_stale_total", "Hints whose job was over, taken or not due.")
unknown_kinds = Counter("jobs_unknown_kind_total", "Hints left to workers that know the kind.")
store_errors = Counter("jobs_store_errors_total", "Calls of the job tables that failed and were repeated.")
loop_blocked_seconds = Gauge(
    "jobs_loop_blocked_seconds", "How long the worker's event loop has not turned.", multiprocess_mode="max"
)

last_beat_timestamp_seconds = Gauge(
    "jobs_last_beat_timestamp_seconds",
    "When this worker last told the database that it lives, in Unix seconds.",
    multiprocess_mode="max",
)

# `due` of a job that may start at once, and of one that is planned or waits for others.
DUE_NOW, DUE_LATER = "now", "later"

_enqueued: dict[tuple[str, str, str], Any] = {}
_ends: dict[tuple[str, str], tuple[Any, Any]] = {}
_waits: dict[str, Any] = {}


def prepare(kinds: Iterable[str], queues: Iterable[str]) -> None:
    """Shows what is counted of these kinds and queues before their first attempt: a rate does not see how a series begins."""
    for queue in queues:
        wait_seconds.labels(queue)
    for kind in kinds:
        run_seconds.labels(kind)
        for outcome in ("succeeded", "retried", "failed"):
            finished.labels(kind, outcome)


def prepare_enqueued(kinds: Iterable[tuple[str, str]]) -> None:
    """Shows the counters of these kinds with their queues before their first job: else an alert would not see it."""
    for kind, queue in kinds:
        enqueued.labels(kind, queue, DUE_NOW)


def count_enqueued(kind: str, queue: str, due: str = DUE_NOW) -> None:
    """Counts one inserted job."""
    child = _enqueued.get((kind, queue, due))
    if child is None:
        child = _enqueued[(kind, queue, due)] = enqueued.labels(kind, queue, due)
    child.inc()


def observe_end(kind: str, outcome: str, seconds: float) -> None:
    """Counts one attempt's end; the label children are looked up once."""
    found = _ends.get((kind, outcome))
    if found is None:
        found = _ends[(kind, outcome)] = (finished.labels(kind, outcome), run_seconds.labels(kind))
    found[0].inc()
    found[1].observe(seconds)


def observe_wait(queue: str, seconds: float) -> None:
    """Records how long a due job waited for its start."""
    child = _waits.get(queue)
    if child is None:
        child = _waits[queue] = wait_seconds.labels(queue)
    child.observe(max(0.0, seconds))
