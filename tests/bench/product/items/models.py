"""The table of items."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from scalable_fastapi_system.infra.database import UTCDateTime
from scalable_fastapi_system.kit.clock import utc_now
from scalable_fastapi_system.kit.ids import new_id
from sqlalchemy import Column, ForeignKey, Index, String, Text, Uuid
from sqlmodel import Field, SQLModel

MAX_TITLE_LENGTH = 200


class Item(SQLModel, table=True):
    """A thing of a user's."""

    __tablename__ = "items"
    __table_args__ = (Index("ix_items_owner_id_created_at_id", "owner_id", "created_at", "id"),)

    id: UUID = Field(default_factory=new_id, sa_column=Column("id", Uuid, primary_key=True))
    owner_id: int = Field(
        sa_column=Column("owner_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False)
    )
    title: str = Field(sa_column=Column("title", String(MAX_TITLE_LENGTH), nullable=False))
    description: str = Field(default="", sa_column=Column("description", Text, nullable=False))
    created_at: datetime = Field(
        default_factory=utc_now, sa_column=Column("created_at", UTCDateTime, nullable=False)
    )
