"""The table of datasets."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import scalable_fastapi_system.identity.models  # noqa: F401 - the table that owner_id refers to
from scalable_fastapi_system.infra.database import JSONColumn, UTCDateTime
from scalable_fastapi_system.kit.clock import utc_now
from scalable_fastapi_system.kit.ids import new_id
from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, String, Text, Uuid
from sqlmodel import Field, SQLModel

MAX_NAME_LENGTH = 200


class DatasetStatus(StrEnum):
    """How far a dataset's profile is."""

    QUEUED = "queued"
    PROFILING = "profiling"
    READY = "ready"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Dataset(SQLModel, table=True):
    """A table that someone uploaded. `profile` is there once `status` is ready, `error` once it is failed."""

    __tablename__ = "datasets"
    __table_args__ = (Index("ix_datasets_owner_id_id", "owner_id", "id"),)

    id: UUID = Field(default_factory=new_id, sa_column=Column("id", Uuid, primary_key=True))
    owner_id: int = Field(
        sa_column=Column("owner_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False)
    )
    task_id: UUID = Field(sa_column=Column("task_id", Uuid, nullable=False))
    name: str = Field(sa_column=Column("name", String(MAX_NAME_LENGTH), nullable=False))
    status: str = Field(default=DatasetStatus.QUEUED, sa_column=Column("status", String(16), nullable=False))
    storage_key: str = Field(sa_column=Column("storage_key", String(255), nullable=False))
    size_bytes: int = Field(sa_column=Column("size_bytes", BigInteger, nullable=False))
    sha256: str = Field(sa_column=Column("sha256", String(64), nullable=False))
    row_count: int | None = Field(default=None, sa_column=Column("row_count", BigInteger))
    column_count: int | None = Field(default=None, sa_column=Column("column_count", Integer))
    profile: dict[str, Any] | None = Field(default=None, sa_column=Column("profile", JSONColumn()))
    error: str | None = Field(default=None, sa_column=Column("error", Text))
    created_at: datetime = Field(
        default_factory=utc_now, sa_column=Column("created_at", UTCDateTime, nullable=False)
    )
    profiled_at: datetime | None = Field(default=None, sa_column=Column("profiled_at", UTCDateTime))
