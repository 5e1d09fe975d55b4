"""Sign-ins: open, rotate, revoke, and the one statement that says whether a token's bearer is still welcome."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from sqlalchemy import CursorResult, bindparam, delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from scalable_fastapi_system.identity.models import AuthSession, User
from scalable_fastapi_system.infra.database import DatabaseManager, Read, Row


@dataclass(frozen=True, slots=True)
class Standing:
    """A user as of now, and the session that goes on or not."""

    user: User
    session: AuthSession


_STANDING_COLUMNS: tuple[Any, ...] = (
    col(User.id),
    col(User.username),
    col(User.email),
    col(User.role),
    col(User.is_active),
    col(User.created_at),
    col(User.updated_at),
    col(User.tokens_valid_after),
    col(AuthSession.id).label("session_id"),
    col(AuthSession.revoked_at).label("session_revoked_at"),
    col(AuthSession.expires_at).label("session_expires_at"),
)
_IS_THAT_SESSION = (col(AuthSession.user_id) == col(User.id)) & (
    col(AuthSession.id) == bindparam("session_id")
)
# Asked for every caller every half minute: one statement straight to the driver, with nothing of the ORM around it.
_STANDING = Read(
    select(*_STANDING_COLUMNS)
    .select_from(User)
    .outerjoin(AuthSession, _IS_THAT_SESSION)
    .where(col(User.id) == bindparam("user_id"))
)


async def standing(database: DatabaseManager, user_id: int, session_id: UUID | None) -> Row | None:
    """The user's columns and, where it is theirs, those of the session (else None); None where there is no such user.

    One statement, in no transaction. Raises ServiceUnavailableException where the database is away.
    """
    return await _STANDING.one(database, user_id=user_id, session_id=session_id)


async def add(session: AsyncSession, sign_in: AuthSession) -> AuthSession:
    """Stores a new sign-in."""
    session.add(sign_in)
    await session.flush()
    return sign_in


async def lock(session: AsyncSession, session_id: UUID, now: datetime) -> Standing | None:
    """The sign-in and its user, held against every other rotation until the transaction ends.

    The update comes first: it waits for the row on every database, and what is read after it is the newest.
    """
    touched = await session.execute(
        update(AuthSession)
        .where(col(AuthSession.id) == session_id)
        .values(last_used_at=now)
        .execution_options(synchronize_session=False)
    )
    if _count(touched) == 0:
        return None
    statement = select(User, AuthSession).join(AuthSession, col(AuthSession.user_id) == col(User.id))
    row = (await session.execute(statement.where(col(AuthSession.id) == session_id))).one()
    return Standing(row[0], row[1])


async def get_live(
    session: AsyncSession, session_id: UUID, *, user_id: int, now: datetime
) -> AuthSession | None:
    """This sign-in of the user if it goes on."""
    found: AuthSession | None = await session.scalar(
        select(AuthSession).where(
            col(AuthSession.id) == session_id,
            col(AuthSession.user_id) == user_id,
            col(AuthSession.revoked_at).is_(None),
            col(AuthSession.expires_at) > now,
        )
    )
    return found


async def revoke(
    session: AsyncSession, session_id: UUID, *, user_id: int, reason: str, now: datetime
) -> bool:
    """Ends one sign-in of a user; whether there was one to end."""
    return await _revoke(session, (col(AuthSession.id) == session_id,), user_id, reason, now) == 1


async def revoke_all(
    session: AsyncSession,
    user_id: int,
    *,
    reason: str,
    now: datetime,
    besides: UUID | None = None,
    method: str | None = None,
) -> int:
    """Ends every sign-in of a user, or those by this method, but the one given; how many."""
    conditions = [] if besides is None else [col(AuthSession.id) != besides]
    if method is not None:
        conditions.append(col(AuthSession.method) == method)
    return await _revoke(session, conditions, user_id, reason, now)


async def live(session: AsyncSession, user_id: int, now: datetime) -> list[AuthSession]:
    """The sign-ins of a user that go on, the latest used first; at most 100."""
    statement = (
        select(AuthSession)
        .where(
            col(AuthSession.user_id) == user_id,
            col(AuthSession.revoked_at).is_(None),
            col(AuthSession.expires_at) > now,
        )
        .order_by(col(AuthSession.last_used_at).desc(), col(AuthSession.id).desc())
        .limit(100)
    )
    return list((await session.scalars(statement)).all())


async def recent_addresses(session: AsyncSession, identifier: str, since: datetime) -> set[str]:
    """Where the user of this name or address has signed in from since then, by their latest 500 sign-ins."""
    owner = col(User.email) if "@" in identifier else col(User.username_key)
    statement = (
        select(col(AuthSession.ip_address))
        .join(User, col(User.id) == col(AuthSession.user_id))
        .where(owner == identifier, col(AuthSession.created_at) > since)
        .order_by(col(AuthSession.expires_at).desc())  # as they were opened, by the index
        .limit(500)
    )
    return {address for address in await session.scalars(statement) if address is not None}


async def delete_ended(session: AsyncSession, before: datetime) -> int:
    """Removes sign-ins whose absolute end lies before this moment; how many."""
    result = await session.execute(delete(AuthSession).where(col(AuthSession.expires_at) < before))
    return _count(result)


async def _revoke(session: AsyncSession, conditions: Any, user_id: int, reason: str, now: datetime) -> int:
    statement = (
        update(AuthSession)
        .where(col(AuthSession.user_id) == user_id, col(AuthSession.revoked_at).is_(None), *conditions)
        .values(revoked_at=now, revoked_reason=reason)
        .execution_options(synchronize_session=False)
    )
    return _count(await session.execute(statement))


def _count(result: Any) -> int:
    return cast("CursorResult[Any]", result).rowcount
