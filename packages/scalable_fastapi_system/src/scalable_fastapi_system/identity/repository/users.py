"""Users: find, add, change."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

from sqlalchemy import CursorResult, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from scalable_fastapi_system.identity.models import User


async def get(session: AsyncSession, user_id: int) -> User | None:
    """The user of this id."""
    return await session.get(User, user_id)


async def find(session: AsyncSession, identifier: str) -> User | None:
    """The user of this name, or of this address where there is an @ in it; without regard to case."""
    if "\0" in identifier:
        return None  # nobody's, and PostgreSQL does not take it
    column = col(User.email) if "@" in identifier else col(User.username_key)
    found: User | None = await session.scalar(select(User).where(column == identifier))
    # MySQL takes no notice of blanks at the end, while the throttle counts each spelling by itself.
    is_exact = found is not None and identifier.lower() in (found.email, found.username_key)
    return found if is_exact else None


async def add(session: AsyncSession, user: User) -> User:
    """Stores a new user, with its id. Raises IntegrityError where the name or the address is taken."""
    session.add(user)
    await session.flush()
    return user


async def lock(session: AsyncSession, user_id: int) -> User | None:
    """The user, held against every other change until the transaction ends.

    The update comes first: it waits for the row on every database, and what is read after it is the newest.
    """
    await _set(session, user_id, updated_at=col(User.updated_at))
    return await session.get(User, user_id, populate_existing=True)


async def confirm_password(session: AsyncSession, user_id: int, hashed: str) -> bool:
    """Holds an active user of this hash until the transaction ends; whether there is one. One statement."""
    statement = (
        update(User)
        .where(col(User.id) == user_id, col(User.hashed_password) == hashed, col(User.is_active).is_(True))
        .values(updated_at=col(User.updated_at))
        .execution_options(synchronize_session=False)
    )
    return _count(await session.execute(statement)) == 1


async def replace_password(
    session: AsyncSession, user_id: int, *, former: str, new: str, now: datetime
) -> bool:
    """Sets the hash if it is still the former one; whether it was."""
    statement = (
        update(User)
        .where(col(User.id) == user_id, col(User.hashed_password) == former)
        .values(hashed_password=new, updated_at=now)
        .execution_options(synchronize_session=False)
    )
    return _count(await session.execute(statement)) == 1


async def set_email(session: AsyncSession, user_id: int, email: str, now: datetime) -> None:
    """Sets the address. Raises IntegrityError where it is taken."""
    await _set(session, user_id, email=email, updated_at=now)


async def set_access(session: AsyncSession, user_id: int, *, now: datetime, **values: Any) -> None:
    """Sets `is_active`, `role` or both."""
    await _set(session, user_id, updated_at=now, **values)


async def refuse_tokens_before(session: AsyncSession, user_id: int, moment: datetime) -> None:
    """Makes tokens that belong to no session worthless if they were made before this moment."""
    await _set(session, user_id, tokens_valid_after=moment)


async def page(session: AsyncSession, *, after_id: int, limit: int, role: str | None = None) -> list[User]:
    """Users in the order of their ids, from after the given one."""
    statement = select(User).where(col(User.id) > after_id).order_by(col(User.id)).limit(limit)
    if role is not None:
        statement = statement.where(col(User.role) == role)
    return list((await session.scalars(statement)).all())


async def _set(session: AsyncSession, user_id: int, **values: Any) -> None:
    await session.execute(
        update(User)
        .where(col(User.id) == user_id)
        .values(**values)
        .execution_options(synchronize_session=False)
    )


def _count(result: Any) -> int:
    return cast("CursorResult[Any]", result).rowcount
