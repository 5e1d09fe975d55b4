"""Accounts: register, change, enable and disable."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from uuid import UUID

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from scalable_fastapi_system.identity.audit import Client, record, subject_of
from scalable_fastapi_system.identity.models import ROLE_USER, User
from scalable_fastapi_system.identity.principal import Principal
from scalable_fastapi_system.identity.repository import sessions, users
from scalable_fastapi_system.kit.errors import (
    APIException,
    AuthenticationException,
    AuthorizationException,
    NotFoundException,
)


class AlreadyRegisteredException(APIException):
    """The name or the address is taken; which of them is not told (400, as the guide has it)."""

    status_code = 400
    error_code = "ALREADY_REGISTERED"
    title = "Already registered"

    def __init__(self) -> None:
        super().__init__("Username or email already registered")


async def register(
    session: AsyncSession,
    *,
    username: str,
    email: str,
    hashed_password: str,
    client: Client,
    role: str = ROLE_USER,
    source: str | None = None,
) -> User:
    """A new user. Raises AlreadyRegisteredException where the name or address is taken, also in a race."""
    user = User(username=username, email=email, hashed_password=hashed_password, role=role)
    try:
        # No look before: whoever comes second is told by the unique index, and both take the same time.
        await users.add(session, user)
    except IntegrityError as error:
        raise AlreadyRegisteredException from error
    subject = subject_of(user.id)
    record(session, source or subject, subject, "registered", client=client, username=username, role=role)
    return user


async def lock_signed_in(
    session: AsyncSession, *, user_id: int, session_id: UUID | None, since: datetime | None, now: datetime
) -> User:
    """The user, held until the transaction ends.

    since: when the caller's token was made.

    Raises AuthenticationException where the sign-in has ended, or for a token without one, where those from `since` have:
    the caller was let in by what is remembered of them, and what is added to an account now would outlive the end.
    """
    user = await users.lock(session, user_id)
    if user is None:
        raise AuthenticationException("This account is gone")
    if session_id is not None:
        goes_on = await sessions.get_live(session, session_id, user_id=user_id, now=now) is not None
    else:
        valid_after = user.tokens_valid_after
        goes_on = valid_after is None or (since is not None and since > valid_after)
    if not goes_on:
        raise AuthenticationException("This sign-in has ended")
    return user


async def change_email(
    session: AsyncSession,
    *,
    principal: Principal,
    email: str,
    admit: Callable[[], Awaitable[None]],
    client: Client,
    now: datetime,
) -> tuple[User, str | None]:
    """Sets the caller's address; the user, and the former address where it was another.

    admit: awaited where it is another, before it shows whether that one is taken; raises where it may not be changed.

    Raises AlreadyRegisteredException where it is taken, AuthenticationException where the caller's sign-in has ended. What
    the caller had is read here: what is remembered of them may be a moment old.
    """
    user = await lock_signed_in(
        session, user_id=principal.id, session_id=principal.session_id, since=principal.issued_at, now=now
    )
    former = user.email
    if former == email:
        return user, None
    await admit()
    try:
        await users.set_email(session, principal.id, email, now)
    except IntegrityError as error:
        raise AlreadyRegisteredException from error
    record(session, principal.key, subject_of(principal.id), "email_changed", client=client, former=former)
    return await _get(session, principal.id), former


async def change_password(
    session: AsyncSession,
    *,
    principal: Principal,
    former_hash: str,
    new_hash: str,
    client: Client,
    now: datetime,
) -> None:
    """Sets the caller's password and ends their other sign-ins.

    Raises AuthenticationException where the password was changed by someone else meanwhile.
    """
    if not await users.replace_password(session, principal.id, former=former_hash, new=new_hash, now=now):
        raise AuthenticationException("The password was changed meanwhile; sign in again")
    await users.refuse_tokens_before(session, principal.id, now)
    ended = await sessions.revoke_all(
        session, principal.id, reason="password_changed", now=now, besides=principal.session_id
    )
    record(
        session,
        principal.key,
        subject_of(principal.id),
        "password_changed",
        client=client,
        sessions_ended=ended,
    )


async def set_access(
    session: AsyncSession,
    *,
    user_id: int,
    source: str,
    client: Client,
    now: datetime,
    is_active: bool | None = None,
    role: str | None = None,
    administrator_id: int | None = None,
) -> User:
    """Enables, disables or gives a role. A disabled user's sign-ins end.

    administrator_id: of the user who does it, if any. Raises NotFoundException, or AuthorizationException where that one is
    no administrator any more: of two who take it from each other at once, one remains.
    """
    if administrator_id is not None:
        # In the order of their ids: two who act on each other wait, and not for each other.
        locked = {found: await users.lock(session, found) for found in sorted({administrator_id, user_id})}
        administrator = locked[administrator_id]
        if administrator is None or not administrator.is_active or not administrator.is_admin:
            raise AuthorizationException("You are no administrator any more")
    user = await _get(session, user_id)
    changes: dict[str, bool | str] = {}
    if is_active is not None and is_active != user.is_active:
        changes["is_active"] = is_active
    if role is not None and role != user.role:
        changes["role"] = role
    if not changes:
        return user
    await users.set_access(session, user_id, now=now, **changes)
    if is_active is False:
        await sessions.revoke_all(session, user_id, reason="disabled", now=now)
        await users.refuse_tokens_before(session, user_id, now)
    record(session, source, subject_of(user_id), "access_changed", client=client, **changes)
    return await _get(session, user_id)


async def _get(session: AsyncSession, user_id: int) -> User:
    user = await users.get(session, user_id)
    if user is None:
        raise NotFoundException("There is no such user")
    await session.refresh(user)
    return user
