"""Accounts of people who sign in through another provider.

An outside identity is its issuer and subject, never its address: an account is not handed over because somebody could
register the same address elsewhere, or here before its owner came. Whoever has an account signs in to it first and adds
the identity then.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from datetime import datetime
from uuid import UUID

from pydantic import TypeAdapter, ValidationError
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from scalable_fastapi_system.identity.audit import Client, record, subject_of
from scalable_fastapi_system.identity.models import (
    MAX_USERNAME_LENGTH,
    ExternalIdentity,
    User,
)
from scalable_fastapi_system.identity.oidc import Link, ProvenIdentity
from scalable_fastapi_system.identity.principal import Principal
from scalable_fastapi_system.identity.repository import external, sessions, users
from scalable_fastapi_system.identity.schemas import Email
from scalable_fastapi_system.identity.service import accounts
from scalable_fastapi_system.kit.errors import AuthorizationException, ConflictException, NotFoundException

_NOT_IN_USERNAMES = re.compile(r"[^a-zA-Z0-9_]+")
# What is an address in a registration is one here, in the same form: else one address could have two accounts.
_EMAIL: TypeAdapter[str] = TypeAdapter(Email)
_MIN_USERNAME_LENGTH = 3
_SUFFIX_BYTES = 3


async def user_of(
    session: AsyncSession, *, proven: ProvenIdentity, may_register: bool, client: Client
) -> User:
    """The user of an outside identity, made where there is none.

    Raises AuthorizationException where registration is closed or the provider vouches for nothing that is an address,
    ConflictException where the address belongs to an account already.
    """
    user = await external.find_user(session, proven.issuer, proven.subject)
    if user is not None:
        # Held and asked again: a removal that came first has ended the sign-ins through it, and this one is not among them.
        await users.lock(session, _id(user))
        user = await external.find_user(session, proven.issuer, proven.subject)
    if user is not None:
        return user
    if not may_register:
        raise AuthorizationException("Registration is closed here")
    email = _address_of(proven)
    if await users.find(session, email) is not None:
        raise ConflictException(
            "There is an account with this address: sign in to it and add the provider there", "ADDRESS_TAKEN"
        )
    user = await accounts.register(
        session,
        username=await _free_username(session, proven, email),
        email=email,
        hashed_password="",
        client=client,
    )
    await _add(session, user_id=_id(user), proven=proven, source=subject_of(user.id), client=client)
    return user


async def link(
    session: AsyncSession, *, link: Link, proven: ProvenIdentity, client: Client, now: datetime
) -> User:
    """Adds an outside identity to a user.

    Raises AuthenticationException where the sign-in that began it has ended, ConflictException where the identity is
    somebody else's.
    """
    user_id = link.user_id
    user = await accounts.lock_signed_in(
        session, user_id=user_id, session_id=link.session_id, since=link.since, now=now
    )
    owner = await external.find_user(session, proven.issuer, proven.subject)
    if owner is None:
        await _add(session, user_id=user_id, proven=proven, source=subject_of(user_id), client=client)
    elif owner.id != user_id:
        raise ConflictException("This identity belongs to another account")
    return user


async def unlink(
    session: AsyncSession, *, principal: Principal, identity_id: UUID, client: Client, now: datetime
) -> None:
    """Takes an outside identity away, and ends the user's sign-ins through providers but the caller's own.

    Which of them was made through this identity is not known. Raises NotFoundException, or ConflictException where it is
    the last way in.
    """
    # Of two at once, the second counts what the first has left.
    user = await users.lock(session, principal.id)
    found = await external.of_user(session, principal.id)
    if identity_id not in {identity.id for identity in found}:
        raise NotFoundException("There is no such identity")
    if len(found) == 1 and (user is None or not user.hashed_password):
        raise ConflictException("This is your only way to sign in: set a password first")
    await external.remove(session, principal.id, identity_id)
    ended = await sessions.revoke_all(
        session,
        principal.id,
        reason="identity_removed",
        now=now,
        besides=principal.session_id,
        method="oidc",
    )
    record(
        session,
        principal.key,
        subject_of(principal.id),
        "identity_removed",
        client=client,
        identity_id=str(identity_id),
        sessions_ended=ended,
    )


async def _add(
    session: AsyncSession, *, user_id: int, proven: ProvenIdentity, source: str, client: Client
) -> None:
    try:
        await external.add(
            session, ExternalIdentity(user_id=user_id, issuer=proven.issuer, subject=proven.subject)
        )
    except IntegrityError as error:  # the same identity in two browsers at once
        raise ConflictException("This identity belongs to another account") from error
    record(session, source, subject_of(user_id), "identity_added", client=client, issuer=proven.issuer)


def _address_of(proven: ProvenIdentity) -> str:
    if proven.email is not None and proven.is_email_verified:
        with contextlib.suppress(ValidationError):
            return _EMAIL.validate_python(proven.email)
    raise AuthorizationException("The provider vouches for no address of yours")


async def _free_username(session: AsyncSession, proven: ProvenIdentity, email: str) -> str:
    """A name like the one that they have there, with something random after it where that is taken here."""
    wanted = proven.preferred_username or email.partition("@")[0]
    name = _NOT_IN_USERNAMES.sub("_", wanted.partition("@")[0]).strip("_")[:MAX_USERNAME_LENGTH]
    if len(name) >= _MIN_USERNAME_LENGTH and await users.find(session, name) is None:
        return name
    suffix = secrets.token_hex(_SUFFIX_BYTES)
    return f"{name[: MAX_USERNAME_LENGTH - len(suffix) - 1] or 'user'}_{suffix}"


def _id(user: User) -> int:
    assert user.id is not None  # noqa: S101 - it is stored
    return user.id
