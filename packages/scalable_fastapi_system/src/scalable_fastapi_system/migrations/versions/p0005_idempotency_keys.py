"""idempotency keys and the answers kept under them"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from scalable_fastapi_system.infra.database.base import JSONColumn, UTCDateTime

revision: str = "p0005"
down_revision: str | None = "p0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("held_until", UTCDateTime(), nullable=False),
        sa.Column("holder", sa.Uuid(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=True),
        sa.Column("fingerprint", sa.String(64), nullable=True),
        sa.Column("headers", JSONColumn(), nullable=True),
        sa.Column(
            "body", sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb"), nullable=True
        ),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])


def downgrade() -> None:
    op.drop_table("idempotency_keys")
