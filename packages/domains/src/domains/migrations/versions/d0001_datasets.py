"""datasets"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from scalable_fastapi_system.infra.database.base import JSONColumn, UTCDateTime

revision: str = "d0001"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = ("product",)
depends_on: str | Sequence[str] | None = ("p0001",)  # users


def upgrade() -> None:
    op.create_table(
        "datasets",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("owner_id", sa.Integer(), sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("storage_key", sa.String(255), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("row_count", sa.BigInteger(), nullable=True),
        sa.Column("column_count", sa.Integer(), nullable=True),
        sa.Column("profile", JSONColumn(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("profiled_at", UTCDateTime(), nullable=True),
    )
    op.create_index("ix_datasets_owner_id_id", "datasets", ["owner_id", "id"])


def downgrade() -> None:
    op.drop_table("datasets")
