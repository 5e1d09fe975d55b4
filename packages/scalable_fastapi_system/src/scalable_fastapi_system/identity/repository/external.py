"""Users as other providers know them."""

from __future__ import annotations

from typing import Any, cast
from uuid import UUID

from sqlalchemy import CursorResult, delete, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from scalable_fastapi_system.identity.models import ExternalIdentity, User


async def find_user(session: AsyncSession, issuer: str, subject: str) -> User | None:
    """The user whom this issuer knows by this subject."""
    statement = (
        select(User, col(ExternalIdentity.subject))
        .join(ExternalIdentity, col(ExternalIdentity.user_id) == col(User.id))
        .where(col(ExternalIdentity.issuer) == issuer, col(ExternalIdentity.subject) == subject)
    )
    found = (await session.execute(statement)).one_or_none()
    # MySQL takes no notice of blanks at the end: another's subject may be found.
    return found[0] if found is not None and found[1] == subject else None


async def add(session: AsyncSession, identity: ExternalIdentity) -> ExternalIdentity:
    """Stores an outside identity. Raises IntegrityError where it is somebody's already."""
    session.add(identity)
    await session.flush()
    return identity


async def of_user(session: AsyncSession, user_id: int) -> list[ExternalIdentity]:
    """The outside identities of a user, in the order in which they came."""
    statement = select(ExternalIdentity).where(col(ExternalIdentity.user_id) == user_id)
    return list((await session.scalars(statement.order_by(col(ExternalIdentity.id)))).all())


async def remove(session: AsyncSession, user_id: int, identity_id: UUID) -> bool:
    """Removes one of a user's; whether there was one."""
    statement = delete(ExternalIdentity).where(
        col(ExternalIdentity.id) == identity_id, col(ExternalIdentity.user_id) == user_id
    )
    return _count(await session.execute(statement)) == 1


async def remove_all(session: AsyncSession, user_id: int) -> int:
    """Removes all of a user's; how many."""
    return _count(
        await session.execute(delete(ExternalIdentity).where(col(ExternalIdentity.user_id) == user_id))
    )


def _count(result: Any) -> int:
    return cast("CursorResult[Any]", result).rowcount
