"""API keys: find by hash, add, list, end."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from sqlalchemy import CursorResult, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from scalable_fastapi_system.identity.models import ApiKey, User


async def find_with_user(session: AsyncSession, hashes: Sequence[str]) -> tuple[ApiKey, User] | None:
    """The key of one of these hashes and its user. One query."""
    statement = select(ApiKey, User).join(User, col(User.id) == col(ApiKey.user_id))
    row = (await session.execute(statement.where(col(ApiKey.key_hash).in_(hashes)))).one_or_none()
    return None if row is None else (row[0], row[1])


async def add(session: AsyncSession, key: ApiKey) -> ApiKey:
    """Stores a new key."""
    session.add(key)
    await session.flush()
    return key


async def get_own(session: AsyncSession, user_id: int, key_id: UUID) -> ApiKey | None:
    """A key of this user."""
    found: ApiKey | None = await session.scalar(
        select(ApiKey).where(col(ApiKey.id) == key_id, col(ApiKey.user_id) == user_id)
    )
    return found


async def of_user(session: AsyncSession, user_id: int, *, after: UUID | None, limit: int) -> list[ApiKey]:
    """The keys of a user, the newest first, ended ones too."""
    statement = select(ApiKey).where(col(ApiKey.user_id) == user_id).order_by(col(ApiKey.id).desc())
    if after is not None:
        statement = statement.where(col(ApiKey.id) < after)
    return list((await session.scalars(statement.limit(limit))).all())


async def count_live(session: AsyncSession, user_id: int, now: datetime) -> int:
    """How many keys of a user are good."""
    statement = (
        select(func.count())
        .select_from(ApiKey)
        .where(
            col(ApiKey.user_id) == user_id,
            col(ApiKey.revoked_at).is_(None),
            or_(col(ApiKey.expires_at).is_(None), col(ApiKey.expires_at) > now),
        )
    )
    return int(await session.scalar(statement) or 0)


async def has_successor(session: AsyncSession, key_id: UUID) -> bool:
    """Whether another key was made to take this one's place."""
    found = await session.scalar(select(col(ApiKey.id)).where(col(ApiKey.rotated_from) == key_id).limit(1))
    return found is not None


async def note_use(session: AsyncSession, key_id: UUID, *, key_hash: str, now: datetime) -> None:
    """Writes down that a key was used, and its hash under the present secret."""
    await _set(session, key_id, last_used_at=now, key_hash=key_hash)


async def end_at(session: AsyncSession, key_id: UUID, moment: datetime) -> None:
    """Lets a key expire at this moment."""
    await _set(session, key_id, expires_at=moment)


async def revoke(session: AsyncSession, key_id: UUID, *, user_id: int, now: datetime) -> bool:
    """Ends a key of a user at once; whether there was one to end."""
    statement = (
        update(ApiKey)
        .where(col(ApiKey.id) == key_id, col(ApiKey.user_id) == user_id, col(ApiKey.revoked_at).is_(None))
        .values(revoked_at=now)
        .execution_options(synchronize_session=False)
    )
    result: Any = await session.execute(statement)
    return cast("CursorResult[Any]", result).rowcount == 1


async def revoke_all(session: AsyncSession, user_id: int, now: datetime) -> int:
    """Ends every key of a user at once; how many."""
    statement = (
        update(ApiKey)
        .where(col(ApiKey.user_id) == user_id, col(ApiKey.revoked_at).is_(None))
        .values(revoked_at=now)
        .execution_options(synchronize_session=False)
    )
    result: Any = await session.execute(statement)
    return cast("CursorResult[Any]", result).rowcount


async def _set(session: AsyncSession, key_id: UUID, **values: Any) -> None:
    await session.execute(
        update(ApiKey)
        .where(col(ApiKey.id) == key_id)
        .values(**values)
        .execution_options(synchronize_session=False)
    )
