"""The SQL of items. Nothing here commits."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from scalable_fastapi_system.infra.database import DatabaseManager, Read, Row, Write
from scalable_fastapi_system.kit.ids import new_id
from sqlalchemy import Select, bindparam, insert, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from tests.bench.product.items.models import Item

_COLUMNS = (Item.id, Item.owner_id, Item.title, Item.description, Item.created_at)


def _of_owner() -> Select[Any]:
    return select(*_COLUMNS).where(Item.owner_id == bindparam("owner_id"))


_FIND = Read(_of_owner().where(Item.id == bindparam("item_id")))
_NEWEST_FIRST = (Item.created_at.desc(), Item.id.desc())
_NEWEST = Read(_of_owner().order_by(*_NEWEST_FIRST).limit(bindparam("count")))
_BEFORE = Read(
    _of_owner()
    .where(tuple_(Item.created_at, Item.id) < tuple_(bindparam("created_at"), bindparam("item_id")))
    .order_by(*_NEWEST_FIRST)
    .limit(bindparam("count"))
)

_ADD = Write(insert(Item).returning(*_COLUMNS))


async def find(database: DatabaseManager, *, item_id: UUID, owner_id: int) -> Row | None:
    """An item of this owner's."""
    return await _FIND.one(database, item_id=item_id, owner_id=owner_id)


async def newest(
    database: DatabaseManager, *, owner_id: int, limit: int, before: tuple[datetime, UUID] | None = None
) -> Sequence[Row]:
    """Up to `limit` items of this owner's from the newest on, or from after the one that `before` names."""
    if before is None:
        return await _NEWEST.all(database, owner_id=owner_id, count=limit)
    created_at, item_id = before
    return await _BEFORE.all(database, owner_id=owner_id, created_at=created_at, item_id=item_id, count=limit)


async def add(
    database: DatabaseManager, *, owner_id: int, title: str, description: str, created_at: datetime
) -> Row:
    """Stores a new item, at once."""
    row = await _ADD.one(
        database, id=new_id(), owner_id=owner_id, title=title, description=description, created_at=created_at
    )
    assert row is not None  # it was inserted
    return row


async def add_in(session: AsyncSession, item: Item) -> Item:
    """Stores a new item with the session's transaction."""
    session.add(item)
    await session.flush()
    return item
