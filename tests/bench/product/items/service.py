"""What can be done with items."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from scalable_fastapi_system.infra.database import DatabaseManager, Row
from scalable_fastapi_system.kit.clock import utc_now
from scalable_fastapi_system.kit.errors import NotFoundException
from scalable_fastapi_system.kit.pagination import Page, decode_cursor, page_of
from sqlalchemy.ext.asyncio import AsyncSession

from tests.bench.product.items import repository
from tests.bench.product.items.models import Item
from tests.bench.product.items.schemas import ItemIn


async def get(database: DatabaseManager, *, item_id: UUID, owner_id: int) -> Row:
    """An item. Raises NotFoundException where there is none, or none of this owner's."""
    row = await repository.find(database, item_id=item_id, owner_id=owner_id)
    if row is None:
        raise NotFoundException("There is no such item")
    return row


async def page(database: DatabaseManager, *, owner_id: int, limit: int, cursor: str | None) -> Page[Row]:
    """Items from the newest on. Raises ValidationException for a cursor that is not ours."""
    before = None
    if cursor is not None:
        created_at, item_id = decode_cursor(cursor, types=[datetime, UUID])
        before = created_at, item_id
    rows = await repository.newest(database, owner_id=owner_id, limit=limit + 1, before=before)
    return page_of(rows, limit=limit, key=lambda row: (row["created_at"], row["id"]))


async def create(database: DatabaseManager, *, owner_id: int, new: ItemIn) -> Row:
    """Stores a new item by itself."""
    return await repository.add(
        database, owner_id=owner_id, title=new.title, description=new.description, created_at=utc_now()
    )


async def create_in(session: AsyncSession, *, owner_id: int, new: ItemIn) -> Item:
    """Stores a new item with whatever else the transaction holds."""
    item = Item(owner_id=owner_id, title=new.title, description=new.description)
    return await repository.add_in(session, item)
