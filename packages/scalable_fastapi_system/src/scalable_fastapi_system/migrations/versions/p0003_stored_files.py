"""files in the database: stored files and their chunks"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql, postgresql

from scalable_fastapi_system.infra.database.base import UTCDateTime

revision: str = "p0003"
down_revision: str | None = "p0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # Compared byte by byte everywhere: keys differ by case, and a prefix is a range of the index.
    key_type = (
        sa.String(255)
        .with_variant(mysql.VARCHAR(255, collation="utf8mb4_bin"), "mysql", "mariadb")
        .with_variant(postgresql.VARCHAR(255, collation="C"), "postgresql")
    )
    op.create_table(
        "stored_files",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("key", key_type, nullable=True),
        sa.Column("is_discarded", sa.Boolean(), nullable=False),
        sa.Column("content_type", sa.String(255), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("chunk_bytes", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=True),
        sa.Column("touched_at", UTCDateTime(), nullable=False),
    )
    op.create_index("ix_stored_files_key", "stored_files", ["key"], unique=True)
    op.create_index("ix_stored_files_touched_at", "stored_files", ["touched_at"])
    op.create_table(
        "stored_file_chunks",
        sa.Column(
            "file_id", sa.Uuid(), sa.ForeignKey("stored_files.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column(
            "data", sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb"), nullable=False
        ),
    )
    if op.get_bind().dialect.name == "postgresql":
        # Out of line and as it is: trying to compress each chunk would cost more than it saves.
        op.execute("ALTER TABLE stored_file_chunks ALTER COLUMN data SET STORAGE EXTERNAL")


def downgrade() -> None:
    op.drop_table("stored_file_chunks")
    op.drop_table("stored_files")
