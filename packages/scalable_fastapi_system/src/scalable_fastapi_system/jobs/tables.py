"""The tables of the job engine.

`jobs` is the hot one: three writes a job (insert, claim, finish), so it is narrow, columns are ordered by
alignment, and on PostgreSQL each index covers only the rows that its query looks for. `migrations/versions/p0002_jobs.py`
creates what is declared here; a test compares the two.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    Integer,
    SmallInteger,
    String,
    Table,
    Text,
    Uuid,
)

from scalable_fastapi_system.infra.database.base import JSONColumn, UTCDateTime, metadata

# The `run_at` of a job that waits for others: no clock reaches it.
NEVER = datetime(9999, 12, 31, tzinfo=UTC)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Uuid(), primary_key=True),
    Column("created_at", UTCDateTime(), nullable=False),
    Column("run_at", UTCDateTime(), nullable=False),
    Column("started_at", UTCDateTime(), nullable=True),
    Column("finished_at", UTCDateTime(), nullable=True),
    Column("lease_expires_at", UTCDateTime(), nullable=True),
    Column("deadline_at", UTCDateTime(), nullable=True),
    Column("cancel_requested_at", UTCDateTime(), nullable=True),
    Column("owner_id", Integer(), nullable=True),
    Column("attempt", Integer(), nullable=False, server_default="0"),
    Column("waits_for", Integer(), nullable=False, server_default="0"),
    Column("timeout_seconds", Float(), nullable=True),
    Column("state", SmallInteger(), nullable=False),
    Column("priority", SmallInteger(), nullable=False, server_default="0"),
    Column("max_attempts", SmallInteger(), nullable=False),
    Column("failures", SmallInteger(), nullable=False, server_default="0"),
    Column("crashes", SmallInteger(), nullable=False, server_default="0"),
    Column("interruptions", SmallInteger(), nullable=False, server_default="0"),
    Column("needs_success", Boolean(), nullable=False, server_default="0"),
    Column("queue", String(64), nullable=False),
    Column("kind", String(100), nullable=False),
    Column("then_id", Uuid(), nullable=True),
    Column("worker_id", String(100), nullable=True),
    Column("concurrency_key", String(200), nullable=True),
    Column("unique_key", String(200), nullable=True),
    Column("request_id", String(64), nullable=True),
    Column("traceparent", String(55), nullable=True),
    Column("args", JSONColumn(), nullable=False),
    Column("progress", JSONColumn(), nullable=True),
    Column("result", JSONColumn(), nullable=True),
    Column("error", JSONColumn(), nullable=True),
)

# Attempts that did not succeed. The one that did is in the job's own row, so a job that simply works writes none.
job_attempts = Table(
    "job_attempts",
    metadata,
    Column("job_id", Uuid(), primary_key=True),
    Column("attempt", Integer(), primary_key=True),
    Column("started_at", UTCDateTime(), nullable=True),
    Column("ended_at", UTCDateTime(), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("worker_id", String(100), nullable=True),
    Column("error", JSONColumn(), nullable=True),
)

job_workers = Table(
    "job_workers",
    metadata,
    Column("id", String(100), primary_key=True),
    Column("started_at", UTCDateTime(), nullable=False),
    Column("seen_at", UTCDateTime(), nullable=False),
    Column("drain_requested_at", UTCDateTime(), nullable=True),
    Column("concurrency", Integer(), nullable=False),
    Column("running", Integer(), nullable=False),
    Column("is_draining", Boolean(), nullable=False),
    Column("hostname", String(100), nullable=False),
    Column("version", String(32), nullable=False),
    Column("queues", JSONColumn(), nullable=False),
    Column("kinds", JSONColumn(), nullable=False),
)

# A queue has a row only while it is, or once was, paused.
job_queues = Table(
    "job_queues",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("paused_at", UTCDateTime(), nullable=True),
)

cron_schedules = Table(
    "cron_schedules",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("last_slot_at", UTCDateTime(), nullable=False),
    Column("paused_at", UTCDateTime(), nullable=True),
    Column("expression", String(100), nullable=False),
    Column("timezone", String(64), nullable=False),
    Column("misfire", String(8), nullable=False),
    Column("kind", String(100), nullable=False),
)

# One row a slot that was taken: its uniqueness is what makes a slot run once, whatever the clocks say.
cron_runs = Table(
    "cron_runs",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("slot_at", UTCDateTime(), primary_key=True),
    Column("job_id", Uuid(), nullable=False),
)

webhook_endpoints = Table(
    "webhook_endpoints",
    metadata,
    Column("id", Uuid(), primary_key=True),
    Column("created_at", UTCDateTime(), nullable=False),
    Column("disabled_at", UTCDateTime(), nullable=True),
    Column("owner_id", Integer(), nullable=True, index=True),
    Column("url", Text(), nullable=False),
    Column("disabled_reason", String(200), nullable=True),
    Column("secrets", JSONColumn(), nullable=False),
    Column("kinds", JSONColumn(), nullable=False),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", Uuid(), primary_key=True),
    Column("endpoint_id", Uuid(), nullable=False, index=True),
    Column("job_id", Uuid(), nullable=False, index=True),
    Column("created_at", UTCDateTime(), nullable=False),
    Column("delivered_at", UTCDateTime(), nullable=True),
    Column("attempts", SmallInteger(), nullable=False),
    Column("last_status", SmallInteger(), nullable=True),
    Column("event", String(64), nullable=False),
    Column("last_error", String(500), nullable=True),
    Column("payload", JSONColumn(), nullable=True),
)
