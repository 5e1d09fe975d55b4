"""What the item endpoints take and give."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, Field

from tests.bench.product.items.models import MAX_TITLE_LENGTH


class ItemIn(BaseModel):
    """A new item."""

    title: str = Field(min_length=1, max_length=MAX_TITLE_LENGTH)
    description: str = Field("", max_length=5000)


class ItemOut(BaseModel):
    """An item."""

    id: UUID
    owner_id: int
    title: str
    description: str
    created_at: datetime


class ItemPage(BaseModel):
    """Items from the newest on, and the cursor of the next page."""

    items: list[ItemOut]
    next_cursor: str | None


class Started(BaseModel):
    """A job that was accepted."""

    task_id: UUID
