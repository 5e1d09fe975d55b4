"""items"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from scalable_fastapi_system.infra.database.base import UTCDateTime

revision: str = "b0001"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = ("product",)
depends_on: str | Sequence[str] | None = ("p0001",)  # users


def upgrade() -> None:
    op.create_table(
        "items",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("owner_id", sa.Integer(), sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
    )
    op.create_index("ix_items_owner_id_created_at_id", "items", ["owner_id", "created_at", "id"])


def downgrade() -> None:
    op.drop_table("items")
