"""The statements of `database://`. Each method is one or a few short statements in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CursorResult, and_, delete, func, insert, or_, select, update
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncSession

from scalable_fastapi_system.infra.storage.tables import stored_file_chunks as chunks
from scalable_fastapi_system.infra.storage.tables import stored_files as files


class StoredFileRepository:
    """Rows of stored files and their chunks."""

    async def add(
        self, session: AsyncSession, *, file_id: UUID, content_type: str, chunk_bytes: int, now: datetime
    ) -> None:
        """A file that is being written: no key, so nobody sees it."""
        await session.execute(
            insert(files).values(
                id=file_id,
                key=None,
                is_discarded=False,
                content_type=content_type,
                size_bytes=0,
                chunk_bytes=chunk_bytes,
                sha256=None,
                touched_at=now,
            )
        )

    async def touch(self, session: AsyncSession, *, file_id: UUID, now: datetime) -> bool:
        """Says that the writer is alive. False where its file was collected as abandoned."""
        result = await session.execute(
            update(files).where(files.c.id == file_id, files.c.is_discarded.is_(False)).values(touched_at=now)
        )
        return _rows_changed(result) == 1

    async def add_chunk(self, session: AsyncSession, *, file_id: UUID, number: int, data: bytes) -> None:
        await session.execute(insert(chunks).values(file_id=file_id, number=number, data=data))

    async def publish(
        self,
        session: AsyncSession,
        *,
        file_id: UUID,
        key: str,
        size_bytes: int,
        sha256: str,
        now: datetime,
    ) -> None:
        """Makes the file the one under its key; the one before it is discarded."""
        await self.hide(session, key=key, now=now)
        await session.execute(
            update(files)
            .where(files.c.id == file_id)
            .values(key=key, size_bytes=size_bytes, sha256=sha256, touched_at=now)
        )

    async def hide(self, session: AsyncSession, *, key: str, now: datetime) -> None:
        """Takes the file from under its key; its chunks are left to `delete_some`."""
        await session.execute(
            update(files).where(files.c.key == key).values(key=None, is_discarded=True, touched_at=now)
        )

    async def find(self, session: AsyncSession, *, key: str) -> Row[Any] | None:
        return (await session.execute(select(files).where(files.c.key == key))).one_or_none()

    async def chunk(self, session: AsyncSession, *, file_id: UUID, number: int) -> bytes | None:
        statement = select(chunks.c.data).where(chunks.c.file_id == file_id, chunks.c.number == number)
        return (await session.execute(statement)).scalar_one_or_none()

    async def page(self, session: AsyncSession, *, folder: str, after: str, limit: int) -> Sequence[Row[Any]]:
        """Files below a folder of keys, those after a key, in the order of keys."""
        statement = select(files).where(files.c.key.is_not(None)).order_by(files.c.key).limit(limit)
        if folder:
            # '0' is the character after '/'.
            statement = statement.where(files.c.key > f"{folder}/", files.c.key < f"{folder}0")
        if after:
            statement = statement.where(files.c.key > after)
        return (await session.execute(statement)).all()

    async def garbage(self, session: AsyncSession, *, before: datetime, limit: int) -> Sequence[UUID]:
        """Discarded files, and ones whose writer has been silent since before this."""
        statement = (
            select(files.c.id)
            .where(
                or_(
                    files.c.is_discarded.is_(True),
                    and_(files.c.key.is_(None), files.c.touched_at < before),
                )
            )
            .limit(limit)
        )
        return (await session.execute(statement)).scalars().all()

    async def discard(self, session: AsyncSession, *, file_id: UUID, now: datetime) -> bool:
        """Marks a file as garbage, so that its writer, should it wake, stops. False where it has a key or is gone."""
        result = await session.execute(
            update(files)
            .where(files.c.id == file_id, files.c.key.is_(None))
            .values(is_discarded=True, touched_at=now)
        )
        return _rows_changed(result) == 1

    async def delete_some(self, session: AsyncSession, *, file_id: UUID, limit: int) -> bool:
        """Deletes the last chunks of a discarded file, and the file with its last one. True when it is gone."""
        last = (
            await session.execute(select(func.max(chunks.c.number)).where(chunks.c.file_id == file_id))
        ).scalar_one()
        if last is not None:
            await session.execute(
                delete(chunks).where(chunks.c.file_id == file_id, chunks.c.number > last - limit)
            )
        if last is None or last < limit:
            await session.execute(delete(files).where(files.c.id == file_id, files.c.is_discarded.is_(True)))
            return True
        return False


def _rows_changed(result: Any) -> int:
    return result.rowcount if isinstance(result, CursorResult) else 0
