"""The statements about datasets. Nothing here commits."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import delete, select, update
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncSession

from domains.datasets.models import Dataset

# Everything but the profile, which may be megabytes.
_SUMMARY = tuple(column for column in Dataset.__table__.c if column.name != "profile")  # type: ignore[attr-defined]
_table = Dataset.__table__  # type: ignore[attr-defined]


async def add(session: AsyncSession, dataset: Dataset) -> None:
    session.add(dataset)
    await session.flush()


async def find(session: AsyncSession, *, dataset_id: UUID, owner_id: int) -> Dataset | None:
    """The dataset with its profile, None where there is none of this owner's."""
    statement = select(Dataset).where(_table.c.id == dataset_id, _table.c.owner_id == owner_id)
    return (await session.execute(statement)).scalar_one_or_none()


async def find_any(session: AsyncSession, *, dataset_id: UUID) -> Dataset | None:
    """As `find`, whoever's it is. For the worker."""
    return await session.get(Dataset, dataset_id)


async def page(
    session: AsyncSession, *, owner_id: int, before: UUID | None, limit: int
) -> Sequence[Row[Any]]:
    """Summaries from the newest on: ids carry their time, so their order is that of making."""
    statement = (
        select(*_SUMMARY).where(_table.c.owner_id == owner_id).order_by(_table.c.id.desc()).limit(limit)
    )
    if before is not None:
        statement = statement.where(_table.c.id < before)
    return (await session.execute(statement)).all()


async def change(
    session: AsyncSession, *, dataset_id: UUID, only_from: Collection[str] = (), **values: Any
) -> bool:
    """Writes these columns. False where the dataset is gone, or has none of the statuses `only_from`."""
    statement = update(_table).where(_table.c.id == dataset_id).values(**values)
    if only_from:
        statement = statement.where(_table.c.status.in_(only_from))
    result: Any = await session.execute(statement)
    return bool(result.rowcount)


async def with_status(
    session: AsyncSession, statuses: Collection[str], *, after: UUID | None, limit: int
) -> Sequence[Row[Any]]:
    """Summaries of datasets of these statuses from the oldest on, whoever's they are. For the worker."""
    statement = select(*_SUMMARY).where(_table.c.status.in_(statuses)).order_by(_table.c.id).limit(limit)
    if after is not None:
        statement = statement.where(_table.c.id > after)
    return (await session.execute(statement)).all()


async def remove(session: AsyncSession, *, dataset_id: UUID) -> None:
    await session.execute(delete(_table).where(_table.c.id == dataset_id))


async def known_keys(session: AsyncSession, keys: Sequence[str]) -> set[str]:
    """Those of the storage keys that a dataset has."""
    statement = select(_table.c.storage_key).where(_table.c.storage_key.in_(keys))
    return set((await session.execute(statement)).scalars())
