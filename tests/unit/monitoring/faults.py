"""A system in health, and the fault that each alert is for: series in promtool's notation, a value a minute.

A fault is what differs from health for its time; then health comes back. An alert must fire in its fault, say what is
written here, and be gone after it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.unit.monitoring.promql import API_JOB, NAMESPACE, RELEASE, WORKER_JOB

API_POD, WORKER_POD = f"{API_JOB}-7d4b9-aaaaa", f"{WORKER_JOB}-5c6f8-bbbbb"
API = f'namespace="{NAMESPACE}",job="{API_JOB}",pod="{API_POD}"'
WORKER = f'namespace="{NAMESPACE}",job="{WORKER_JOB}",pod="{WORKER_POD}"'
ROUTE = 'handler="/users/me",method="GET"'
HOURS = 60

# How long each part of a case lasts, in minutes: health, then the fault, then health again.
BEFORE, DURING, AFTER = 10, 60, 120

API_UP, WORKER_UP = f"up{{{API}}}", f"up{{{WORKER}}}"
ANSWERED = f'http_requests_total{{{API},{ROUTE},status="2xx"}}'
ERRORS = f'http_requests_total{{{API},{ROUTE},status="5xx"}}'
REQUESTS = f"http_request_duration_seconds_count{{{API},{ROUTE}}}"
QUICK = f'http_request_duration_seconds_bucket{{{API},{ROUTE},le="0.5"}}'
SHED = f"http_requests_shed_total{{{API}}}"
SUCCEEDED = f'jobs_attempts_total{{{WORKER},kind="datasets.profile",outcome="succeeded"}}'
FAILED = f'jobs_attempts_total{{{WORKER},kind="datasets.profile",outcome="failed"}}'
STARTS = f'jobs_wait_seconds_count{{{WORKER},queue="default"}}'
SOON = f'jobs_wait_seconds_bucket{{{WORKER},queue="default",le="60.0"}}'
OLDEST = f'jobs_oldest_due_seconds{{{WORKER},queue="default"}}'
QUARANTINED = f"jobs_quarantined_total{{{WORKER}}}"
LEASES = f"jobs_leases_expired_total{{{WORKER}}}"
BLOCKED = f"jobs_loop_blocked_seconds{{{WORKER}}}"
STORE_ERRORS = f"jobs_store_errors_total{{{WORKER}}}"
BEAT = f"jobs_last_beat_timestamp_seconds{{{WORKER}}}"
READY = f'service_readiness{{{API},state="ready"}}'
NO_DATABASE = f'service_readiness{{{API},state="database"}}'
NO_SCHEMA = f'service_readiness{{{API},state="schema"}}'
STARTED = f"service_start_time_seconds{{{API}}}"
LAG = f"service_event_loop_lag_seconds{{{API}}}"
IN_USE = f'db_pool_connections{{{API},pool="sessions",state="in_use"}}'
POOL_LIMIT = f'db_pool_max_connections{{{API},pool="sessions"}}'
REDIS_UP = f"redis_up{{{API}}}"
REDIS_USED = f"redis_memory_used_bytes{{{API}}}"
REDIS_LIMIT = f"redis_memory_max_bytes{{{API}}}"
# What kube-state-metrics says
KUBE = f'namespace="{NAMESPACE}",pod="{API_POD}"'
KUBE_READY = f'kube_pod_status_ready{{{KUBE},condition="true"}}'
KUBE_RESTARTS = f'kube_pod_container_status_restarts_total{{{KUBE},container="api"}}'
KUBE_WAITING = f'kube_pod_init_container_status_running{{{KUBE},container="wait-for-schema"}}'
KUBE_FAILED = f'kube_job_failed{{namespace="{NAMESPACE}",job_name="{API_JOB.removesuffix("-api")}-migrate-0a1b2c",condition="true"}}'

# A counter is the number by which it grows each minute, a gauge its value.
COUNTERS: dict[str, float] = {
    ANSWERED: 1000, ERRORS: 0, REQUESTS: 1000, QUICK: 1000, SHED: 0,
    SUCCEEDED: 100, FAILED: 0, STARTS: 100, SOON: 100,
    QUARANTINED: 0, LEASES: 0, STORE_ERRORS: 0, BEAT: 60, KUBE_RESTARTS: 0,
}  # fmt: skip
GAUGES: dict[str, float] = {
    API_UP: 1, WORKER_UP: 1, OLDEST: 2, BLOCKED: 0, READY: 1, NO_DATABASE: 0, NO_SCHEMA: 0, STARTED: 1_000, LAG: 0.01,
    IN_USE: 2, POOL_LIMIT: 10, REDIS_UP: 1, REDIS_USED: 10_000_000, REDIS_LIMIT: 200_000_000,
    KUBE_READY: 1, KUBE_WAITING: 0, KUBE_FAILED: 0,
}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """What is different, and what the alert says then, `minute` minutes into the fault.

    changes: a counter's growth a minute, or a gauge's value, while the fault lasts; None: the series is not there.
    shapes: a series in full, from the fault's beginning to its end, in promtool's notation.
    """

    alert: str
    minute: int
    severity: str
    summary: str
    description: str
    labels: dict[str, str] = field(default_factory=dict)
    changes: dict[str, float | None] = field(default_factory=dict)
    shapes: dict[str, str] = field(default_factory=dict)
    case: str = ""

    def __str__(self) -> str:
        return f"{self.alert} {self.case}".strip()


FAULTS = (
    Fault(
        "ApiDown", 3, "critical", "no API pod can be scraped", "Nobody is served, or nobody is watching.",
        {}, {API_UP: 0},
    ),
    Fault(
        "ApiDown", 8, "critical", "no API pod can be scraped", "Nobody is served, or nobody is watching.",
        {}, {API_UP: None}, case="of which there is none",
    ),
    Fault(
        "PodNotReady", 12, "warning", f"{API_POD} is not ready",
        "For ten minutes the pod has said so itself, could not be scraped, or failed its probe.",
        {"pod": API_POD}, {READY: 0}, case="as it says",
    ),
    Fault(
        "PodNotReady", 12, "warning", f"{WORKER_POD} is not ready",
        "For ten minutes the pod has said so itself, could not be scraped, or failed its probe.",
        {"pod": WORKER_POD}, {WORKER_UP: 0}, case="and not scraped",
    ),
    Fault(
        "PodNotReady", 12, "warning", f"{API_POD} is not ready",
        "For ten minutes the pod has said so itself, could not be scraped, or failed its probe.",
        {"pod": API_POD}, {KUBE_READY: 0}, case="as the kubelet says",
    ),
    Fault(
        "PodRestarting", 10, "warning", f"{API_POD} restarts again and again",
        "3 times in half an hour: out of memory, a failing liveness probe, or a crash.",
        {"pod": API_POD}, shapes={STARTED: "1000 1100 1100 1200 1200 1300x54"}, case="as it says",
    ),
    Fault(
        "PodRestarting", 10, "warning", f"{API_POD} restarts again and again",
        "4 times in half an hour: out of memory, a failing liveness probe, or a crash.",
        {"pod": API_POD}, shapes={KUBE_RESTARTS: "0 1 2 3 4 4x54"}, case="as the kubelet says",
    ),
    Fault(
        "RequestsShed", 15, "warning", "the API refuses requests because it is full",
        "2 requests a second are answered 503 at once: too few pods, or a slow store behind them.",
        {"job": API_JOB}, {SHED: 120},
    ),
    Fault(
        "EventLoopLag", 15, "warning", f"the event loop of {API_POD} is late",
        "By 2s on average: something blocks it, or the pod has too little CPU.",
        {"pod": API_POD}, {LAG: 2},
    ),
    Fault(
        "DatabaseUnreachable", 2, "critical", f"{API_JOB} does not reach Postgres",
        "1 of its pods: what needs the database answers 503, and jobs wait.",
        {"job": API_JOB}, {NO_DATABASE: 1},
    ),
    Fault(
        "DatabasePoolSaturated", 6, "warning", f'pool "sessions" of {API_POD} is nearly used up',
        "100% of its connections are at work; soon callers wait, then they get 503.",
        {"pod": API_POD, "pool": "sessions"}, {IN_USE: 10},
    ),
    Fault(
        "MigrationPending", 12, "warning", "pods wait for the schema",
        "1 pods: the migration has not run, has failed, or takes long. Pods of the last release serve on.",
        {}, {NO_SCHEMA: 1}, case="as they say",
    ),
    Fault(
        "MigrationPending", 12, "warning", "pods wait for the schema",
        "1 pods: the migration has not run, has failed, or takes long. Pods of the last release serve on.",
        {}, {KUBE_WAITING: 1}, case="as the kubelet says",
    ),
    Fault(
        "MigrationFailed", 1, "critical", f"migration {API_JOB.removesuffix('-api')}-migrate-0a1b2c failed",
        "All its retries are used up. Pods of the last release serve on; new ones wait.",
        {"job_name": f"{API_JOB.removesuffix('-api')}-migrate-0a1b2c"}, {KUBE_FAILED: 1},
    ),
    Fault(
        "RedisDegraded", 6, "warning", f"{API_JOB} works without Redis",
        "1 of its pods: cache and rate limits count in each process alone, workers ask Postgres for jobs.",
        {"job": API_JOB}, {REDIS_UP: 0},
    ),
    Fault(
        "RedisMemoryHigh", 20, "warning", "Redis is nearly full",
        "95% of its memory. It never evicts: when full it refuses writes, and the system goes on without it.",
        {}, {REDIS_USED: 190_000_000},
    ),
    Fault(
        "WorkerDown", 6, "critical", "no worker pod can be scraped", "Jobs are accepted and wait. None is lost.",
        {}, {WORKER_UP: 0},
    ),
    Fault(
        "WorkerDown", 11, "critical", "no worker pod can be scraped", "Jobs are accepted and wait. None is lost.",
        {}, {WORKER_UP: None}, case="of which there is none",
    ),
    Fault(
        "WorkerSilent", 5, "warning", f"worker {WORKER_POD} has not told the database that it lives",
        "For 6m 0s; others take its jobs. It is blocked, or does not reach Postgres.",
        {"pod": WORKER_POD}, {BEAT: 0},
    ),
    Fault(
        "WorkerBlocked", 1, "warning", f"the event loop of worker {WORKER_POD} stands still",
        "For 25s. A handler blocks it; the pod's log shows where.",
        {"pod": WORKER_POD}, {BLOCKED: 25},
    ),
    Fault(
        "WorkersDying", 20, "warning", "workers fall silent in mid-job",
        "15 jobs were taken back in 15 minutes: out of memory, evicted, or a blocked loop.",
        {"job": WORKER_JOB}, {LEASES: 1},
    ),
    Fault(
        "JobsWaiting", 6, "warning", "jobs wait in queue default",
        "The oldest has been due for 10m 0s: too few workers, slow jobs, or nobody takes that queue.",
        {"queue": "default"}, {OLDEST: 600},
    ),
    Fault(
        "JobsFailing", 40, "warning", "jobs of the kind datasets.profile fail",
        "1.5k in half an hour, more than a quarter of them.",
        {"kind": "datasets.profile"}, {FAILED: 50},
    ),
    Fault(
        "JobsQuarantined", 1, "warning", "a job was set apart",
        "Workers died of it time and again. Look at it, then retry it, or leave it: it does not run by itself.",
        {"job": WORKER_JOB}, shapes={QUARANTINED: "0 1x58"},
    ),
    Fault(
        "JobStoreErrors", 15, "warning", "workers have trouble with Postgres",
        "1 calls of the job tables a second fail and are repeated.",
        {"job": WORKER_JOB}, {STORE_ERRORS: 60},
    ),
)  # fmt: skip


def healthy(minutes: int) -> dict[str, str]:
    """Every series of a system in health."""
    return {name: line(name, [(minutes, value)]) for name, value in {**COUNTERS, **GAUGES}.items()}


def series(fault: Fault) -> dict[str, str]:
    """Every series of the case: health, the fault, health."""
    result = {}
    for name, value in {**COUNTERS, **GAUGES}.items():
        changed = fault.changes.get(name, value)
        result[name] = line(name, [(BEFORE, value), (DURING, changed), (AFTER, value)])
    for name, shape in fault.shapes.items():
        steps = expand(shape)
        assert len(steps) == DURING, (name, len(steps))
        last = steps[-1]
        result[name] = " ".join(f"{step:g}" for step in [steps[0]] * BEFORE + steps + [last] * AFTER)
    return result


def line(name: str, parts: list[tuple[int, float | None]]) -> str:
    """One series of parts of so many minutes each."""
    values = []
    total = 0.0
    for minutes, value in parts:
        for _ in range(minutes):
            if value is None:
                values.append("_")
            elif name == BEAT:  # a clock, that stands while the growth is 0
                total = 60.0 * len(values) if value else total
                values.append(f"{total:g}")
            elif name in COUNTERS:
                total += value
                values.append(f"{total:g}")
            else:
                values.append(f"{value:g}")
    return " ".join(values)


def expand(shape: str) -> list[float]:
    """`1 2x3` → 1, 2, 2, 2, 2: as promtool reads it."""
    result = []
    for word in shape.split():
        value, _, count = word.partition("x")
        result += [float(value)] * (int(count or 0) + 1)
    return result


def case(fault: Fault) -> dict[str, object]:
    """The case as promtool wants it: silent before, telling in the fault, silent after."""
    labels = {
        "namespace": NAMESPACE,
        "release": RELEASE,
        "severity": fault.severity,
        "team": "platform",
        **fault.labels,
    }
    dashboard = (
        "sfs-api"
        if fault.alert == "RequestsShed"
        else "sfs-jobs"
        if _is_of_jobs(fault.alert)
        else "sfs-runtime"
    )
    annotations = {
        "summary": f"{RELEASE}: {fault.summary}",
        "description": fault.description,
        "runbook": f"docs/runbooks/{fault.alert}.md",
        "runbook_url": f"https://runbooks.example.com/platform/{fault.alert}.md",
        "dashboard": dashboard,
    }
    told = [{"exp_labels": labels, "exp_annotations": annotations}]
    return {
        "interval": "1m",
        "name": str(fault),
        "input_series": [{"series": name, "values": values} for name, values in series(fault).items()],
        "alert_rule_test": [
            {"alertname": fault.alert, "eval_time": f"{BEFORE - 1}m"},
            {"alertname": fault.alert, "eval_time": f"{BEFORE + fault.minute}m", "exp_alerts": told},
            {"alertname": fault.alert, "eval_time": f"{BEFORE + DURING + AFTER - 1}m"},
        ],
    }


def _is_of_jobs(alert: str) -> bool:
    return alert.startswith(("Job", "Worker"))
