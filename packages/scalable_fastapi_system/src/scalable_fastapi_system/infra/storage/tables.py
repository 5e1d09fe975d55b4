"""The two tables of `database://`.

A file is visible exactly while its row has a key: the row being written has none, so has one that was replaced
or deleted and waits for its chunks to go. NULLs do not collide, so the unique index is the whole rule.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Uuid,
)
from sqlalchemy.dialects import mysql, postgresql

from scalable_fastapi_system.infra.database.base import UTCDateTime, metadata
from scalable_fastapi_system.infra.storage.base import MAX_KEY_LENGTH

# Compared byte by byte everywhere: keys differ by case, and a prefix is a range of the index.
KEY_TYPE = (
    String(MAX_KEY_LENGTH)
    .with_variant(mysql.VARCHAR(MAX_KEY_LENGTH, collation="utf8mb4_bin"), "mysql", "mariadb")
    .with_variant(postgresql.VARCHAR(MAX_KEY_LENGTH, collation="C"), "postgresql")
)
# MySQL's plain BLOB ends at 64 KiB; its medium one at 16 MiB.
DATA_TYPE = LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")

stored_files = Table(
    "stored_files",
    metadata,
    Column("id", Uuid(), primary_key=True),
    Column("key", KEY_TYPE, nullable=True),
    Column("is_discarded", Boolean(), nullable=False),
    Column("content_type", String(255), nullable=False),
    Column("size_bytes", BigInteger(), nullable=False),
    Column("chunk_bytes", Integer(), nullable=False),
    Column("sha256", String(64), nullable=True),
    Column("touched_at", UTCDateTime(), nullable=False),
    Index("ix_stored_files_key", "key", unique=True),
    Index("ix_stored_files_touched_at", "touched_at"),
)

stored_file_chunks = Table(
    "stored_file_chunks",
    metadata,
    Column("file_id", Uuid(), ForeignKey("stored_files.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer(), primary_key=True, autoincrement=False),
    Column("data", DATA_TYPE, nullable=False),
)
