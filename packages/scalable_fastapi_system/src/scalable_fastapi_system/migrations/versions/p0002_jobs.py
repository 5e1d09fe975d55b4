"""jobs, their attempts, workers, schedules and webhooks"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from scalable_fastapi_system.infra.database.base import JSONColumn, UTCDateTime

revision: str = "p0002"
down_revision: str | None = "p0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("run_at", UTCDateTime(), nullable=False),
        sa.Column("started_at", UTCDateTime(), nullable=True),
        sa.Column("finished_at", UTCDateTime(), nullable=True),
        sa.Column("lease_expires_at", UTCDateTime(), nullable=True),
        sa.Column("deadline_at", UTCDateTime(), nullable=True),
        sa.Column("cancel_requested_at", UTCDateTime(), nullable=True),
        sa.Column("owner_id", sa.Integer(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("waits_for", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("timeout_seconds", sa.Float(), nullable=True),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False, server_default="0"),
        sa.Column("max_attempts", sa.SmallInteger(), nullable=False),
        sa.Column("failures", sa.SmallInteger(), nullable=False, server_default="0"),
        sa.Column("crashes", sa.SmallInteger(), nullable=False, server_default="0"),
        sa.Column("interruptions", sa.SmallInteger(), nullable=False, server_default="0"),
        sa.Column("needs_success", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("queue", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(100), nullable=False),
        sa.Column("then_id", sa.Uuid(), nullable=True),
        sa.Column("worker_id", sa.String(100), nullable=True),
        sa.Column("concurrency_key", sa.String(200), nullable=True),
        sa.Column("unique_key", sa.String(200), nullable=True),
        sa.Column("request_id", sa.String(64), nullable=True),
        sa.Column("traceparent", sa.String(55), nullable=True),
        sa.Column("args", JSONColumn(), nullable=False),
        sa.Column("progress", JSONColumn(), nullable=True),
        sa.Column("result", JSONColumn(), nullable=True),
        sa.Column("error", JSONColumn(), nullable=True),
    )
    if op.get_bind().dialect.name == "postgresql":
        _index_jobs_on_postgresql()
    else:
        _index_jobs()
    op.create_table(
        "job_attempts",
        sa.Column("job_id", sa.Uuid(), primary_key=True),
        sa.Column("attempt", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("started_at", UTCDateTime(), nullable=True),
        sa.Column("ended_at", UTCDateTime(), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("worker_id", sa.String(100), nullable=True),
        sa.Column("error", JSONColumn(), nullable=True),
    )
    op.create_table(
        "job_workers",
        sa.Column("id", sa.String(100), primary_key=True),
        sa.Column("started_at", UTCDateTime(), nullable=False),
        sa.Column("seen_at", UTCDateTime(), nullable=False),
        sa.Column("drain_requested_at", UTCDateTime(), nullable=True),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("running", sa.Integer(), nullable=False),
        sa.Column("is_draining", sa.Boolean(), nullable=False),
        sa.Column("hostname", sa.String(100), nullable=False),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("queues", JSONColumn(), nullable=False),
        sa.Column("kinds", JSONColumn(), nullable=False),
    )
    op.create_table(
        "job_queues",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("paused_at", UTCDateTime(), nullable=True),
    )
    op.create_table(
        "cron_schedules",
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("last_slot_at", UTCDateTime(), nullable=False),
        sa.Column("paused_at", UTCDateTime(), nullable=True),
        sa.Column("expression", sa.String(100), nullable=False),
        sa.Column("timezone", sa.String(64), nullable=False),
        sa.Column("misfire", sa.String(8), nullable=False),
        sa.Column("kind", sa.String(100), nullable=False),
    )
    op.create_table(
        "cron_runs",
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("slot_at", UTCDateTime(), primary_key=True),
        sa.Column("job_id", sa.Uuid(), nullable=False),
    )
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("disabled_at", UTCDateTime(), nullable=True),
        sa.Column("owner_id", sa.Integer(), nullable=True),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("disabled_reason", sa.String(200), nullable=True),
        sa.Column("secrets", JSONColumn(), nullable=False),
        sa.Column("kinds", JSONColumn(), nullable=False),
    )
    op.create_index("ix_webhook_endpoints_owner_id", "webhook_endpoints", ["owner_id"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("endpoint_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("delivered_at", UTCDateTime(), nullable=True),
        sa.Column("attempts", sa.SmallInteger(), nullable=False),
        sa.Column("last_status", sa.SmallInteger(), nullable=True),
        sa.Column("event", sa.String(64), nullable=False),
        sa.Column("last_error", sa.String(500), nullable=True),
        sa.Column("payload", JSONColumn(), nullable=True),
    )
    op.create_index("ix_webhook_deliveries_endpoint_id", "webhook_deliveries", ["endpoint_id"])
    op.create_index("ix_webhook_deliveries_job_id", "webhook_deliveries", ["job_id"])


def downgrade() -> None:
    for table in (
        "webhook_deliveries",
        "webhook_endpoints",
        "cron_runs",
        "cron_schedules",
        "job_queues",
        "job_workers",
        "job_attempts",
        "jobs",
    ):
        op.drop_table(table)


def _index_jobs_on_postgresql() -> None:
    """Partial indexes: each holds the few rows that its query can be after, so that history costs nothing."""
    # Room on each page for the two updates of a job's life; vacuumed by rows changed, not by a share of history.
    op.execute(
        "ALTER TABLE jobs SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, "
        "autovacuum_vacuum_threshold = 5000, autovacuum_analyze_scale_factor = 0.05)"
    )
    for statement in (
        # claiming in turn over owners: the lanes of a priority, then a lane's oldest
        "CREATE INDEX ix_jobs_ready ON jobs (queue, priority, (coalesce(owner_id, 0)), run_at) WHERE state = 1",
        "CREATE INDEX ix_jobs_scheduled ON jobs (run_at) WHERE state = 0",
        "CREATE INDEX ix_jobs_lease ON jobs (lease_expires_at) WHERE state = 2",
        "CREATE INDEX ix_jobs_owner ON jobs (owner_id, id) WHERE owner_id IS NOT NULL",
        "CREATE INDEX ix_jobs_broken ON jobs (id) WHERE state IN (4, 6)",
        "CREATE INDEX ix_jobs_then ON jobs (then_id) WHERE then_id IS NOT NULL",
        (
            "CREATE INDEX ix_jobs_concurrency ON jobs (concurrency_key, state, priority, run_at) "
            "WHERE concurrency_key IS NOT NULL AND state IN (1, 2)"
        ),
        "CREATE UNIQUE INDEX uq_jobs_unique_key ON jobs (unique_key) WHERE unique_key IS NOT NULL",
    ):
        op.execute(statement)


def _index_jobs() -> None:
    op.create_index("ix_jobs_ready", "jobs", ["state", "queue", "priority", "run_at"])
    op.create_index("ix_jobs_lease", "jobs", ["state", "lease_expires_at"])
    op.create_index("ix_jobs_owner", "jobs", ["owner_id", "id"])
    op.create_index("ix_jobs_then", "jobs", ["then_id"])
    op.create_index("ix_jobs_concurrency", "jobs", ["concurrency_key", "state"])
    op.create_index("uq_jobs_unique_key", "jobs", ["unique_key"], unique=True)
