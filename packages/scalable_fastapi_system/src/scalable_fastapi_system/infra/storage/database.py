"""Files as chunks in the SQL database: storage that needs nothing else.

Every chunk goes in, and comes out, in a short transaction of its own, so that a slow client holds no
connection. The last one makes the file visible under its key. What a crash leaves is found by its age and
deleted by `delete_incomplete`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import structlog
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from scalable_fastapi_system.infra.database import DatabaseManager
from scalable_fastapi_system.infra.database.outage import TransactionUndone
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.infra.storage.base import (
    DEFAULT_CONTENT_TYPE,
    FileMissingError,
    FileStorage,
    FileVersion,
    Measured,
    Method,
    StorageError,
    StoredFile,
    check_key,
)
from scalable_fastapi_system.infra.storage.repository import StoredFileRepository
from scalable_fastapi_system.infra.storage.signing import LinkSigner
from scalable_fastapi_system.kit.clock import SYSTEM_CLOCK, Clock
from scalable_fastapi_system.kit.ids import new_id

T = TypeVar("T")

_log = structlog.get_logger("storage")

CHUNK_BYTES = 512 * 1024  # one round trip of some milliseconds; a few in memory are nothing
_DELETED_AT_ONCE = 64  # chunks per transaction: 32 MiB
_LISTED_AT_ONCE = 500
_GARBAGE_AT_ONCE = 100
_TRIES = 10  # of the publishing transaction, against other writers of the same key: one of them gets through each time
_PAUSE_SECONDS = 0.05  # at the most before the second try; each later one may wait that much longer


class DatabaseStorage(FileStorage):
    """Files in the tables `stored_files` and `stored_file_chunks` of the product's database."""

    def __init__(self, settings: Settings, database: DatabaseManager, clock: Clock = SYSTEM_CLOCK) -> None:
        self._database = database
        self._max_file_bytes = settings.storage.max_file_bytes
        self._signer = LinkSigner(settings, clock)
        self._clock = clock
        self._rows = StoredFileRepository()
        self._cleaning: set[asyncio.Future[None]] = set()

    async def put(
        self,
        key: str,
        content: AsyncIterable[bytes] | bytes,
        *,
        max_bytes: int | None = None,
        content_type: str = DEFAULT_CONTENT_TYPE,
    ) -> StoredFile:
        check_key(key)
        measured = Measured(content, self._max_file_bytes if max_bytes is None else max_bytes)
        file_id = new_id()
        replaced: UUID | None = None
        number = 0
        try:
            async with contextlib.aclosing(measured.pieces(CHUNK_BYTES)) as pieces:
                piece = await anext(pieces, None)
                is_last = False
                while not is_last:
                    following = await anext(pieces, None)
                    is_last = following is None
                    replaced = await self._write(
                        file_id, key, number, piece, content_type, measured if is_last else None
                    )
                    piece = following
                    number += 1
        except BaseException:
            if number:
                await self._clean_up(file_id)
            raise
        if replaced is not None:
            await self._clean_up(replaced)
        return StoredFile(
            key=key,
            size_bytes=measured.size_bytes,
            modified_at=self._clock.now(),
            content_type=content_type,
            sha256=measured.sha256,
        )

    async def _write(
        self,
        file_id: UUID,
        key: str,
        number: int,
        piece: bytes | None,
        content_type: str,
        finished: Measured | None,
    ) -> UUID | None:
        """Writes one chunk; with the first the row, with the last the key. Returns the file that it replaced."""

        async def work(session: AsyncSession) -> UUID | None:
            now = self._clock.now()
            if number == 0:
                await self._rows.add(
                    session, file_id=file_id, content_type=content_type, chunk_bytes=CHUNK_BYTES, now=now
                )
            elif not await self._rows.touch(session, file_id=file_id, now=now):
                raise StorageError("the upload was silent for so long that it was given up")
            if piece is not None:
                await self._rows.add_chunk(session, file_id=file_id, number=number, data=piece)
            if finished is None:
                return None
            before = await self._rows.find(session, key=key)
            await self._rows.publish(
                session,
                file_id=file_id,
                key=key,
                size_bytes=finished.size_bytes,
                sha256=finished.sha256,
                now=now,
            )
            return before.id if before is not None else None

        return await self._transact(work)

    async def _transact(self, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
        for made in range(_TRIES):
            if made:  # at different times, or the same ones meet again
                await asyncio.sleep(random.uniform(0, _PAUSE_SECONDS * made))  # noqa: S311 - not for a secret
            try:
                async with self._database.transaction() as session:
                    return await work(session)
            except (IntegrityError, TransactionUndone):  # another writer of the same key was in the way
                if made == _TRIES - 1:
                    raise
        raise AssertionError  # the last try returns or raises

    async def get(self, key: str) -> FileVersion:
        check_key(key)
        async with self._database.transaction() as session:
            row = await self._rows.find(session, key=key)
        if row is None:
            raise FileMissingError
        return FileVersion(_stored_file(row), partial(self._read, row))

    async def _read(self, row: Any, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        while start < stop:
            number, offset = divmod(start, row.chunk_bytes)
            async with self._database.transaction() as session:
                data = await self._rows.chunk(session, file_id=row.id, number=number)
            if data is None:
                raise StorageError(f"{row.key} changed while it was read")
            piece = bytes(data[offset : offset + stop - start])
            start += len(piece)
            yield piece

    async def delete(self, key: str) -> None:
        check_key(key)
        async with self._database.transaction() as session:
            row = await self._rows.find(session, key=key)
            if row is None:
                return
            await self._rows.hide(session, key=key, now=self._clock.now())
        await self._clean_up(row.id)

    async def list(self, prefix: str = "") -> AsyncGenerator[StoredFile, None]:
        if prefix:
            check_key(prefix)
        after = ""
        while True:
            async with self._database.transaction() as session:
                rows = await self._rows.page(session, folder=prefix, after=after, limit=_LISTED_AT_ONCE)
            for row in rows:
                yield _stored_file(row)
            if len(rows) < _LISTED_AT_ONCE:
                return
            after = rows[-1].key

    async def signed_url(self, key: str, *, method: Method = "GET", expires_seconds: int = 900) -> str:
        return self._signer.sign(key, method=method, expires_seconds=expires_seconds)

    def accepts_link(self, key: str, *, expires: int, signature: str) -> bool:
        return self._signer.verify(check_key(key), expires=expires, signature=signature)

    async def delete_incomplete(self, *, older_than_seconds: float) -> int:
        before = self._clock.now() - timedelta(seconds=older_than_seconds)
        deleted = 0
        while True:
            async with self._database.transaction() as session:
                found = await self._rows.garbage(session, before=before, limit=_GARBAGE_AT_ONCE)
            for file_id in found:
                await self._discard(file_id)
            deleted += len(found)
            if len(found) < _GARBAGE_AT_ONCE:
                return deleted

    # -- inside -------------------------------------------------------------------------------------

    async def _clean_up(self, file_id: UUID) -> None:
        """Deletes a file that nobody sees. Goes on where the caller is cancelled; a failure is left to `delete_incomplete`."""
        cleaning = asyncio.ensure_future(self._discard(file_id))
        self._cleaning.add(cleaning)
        cleaning.add_done_callback(self._cleaning.discard)
        try:
            await asyncio.shield(cleaning)
        except Exception as error:  # noqa: BLE001 - the caller's own result stands; the sweep comes for the rest
            _log.warning("a discarded file is left to the sweep", file_id=str(file_id), exc_info=error)

    async def _discard(self, file_id: UUID) -> None:
        # A file that has a key stays: its commit may have been done although the answer was lost.
        async with self._database.transaction() as session:
            is_gone = not await self._rows.discard(session, file_id=file_id, now=self._clock.now())
        while not is_gone:
            async with self._database.transaction() as session:
                is_gone = await self._rows.delete_some(session, file_id=file_id, limit=_DELETED_AT_ONCE)


def _stored_file(row: Any) -> StoredFile:
    return StoredFile(
        key=row.key,
        size_bytes=row.size_bytes,
        modified_at=row.touched_at,
        content_type=row.content_type,
        sha256=row.sha256,
    )
