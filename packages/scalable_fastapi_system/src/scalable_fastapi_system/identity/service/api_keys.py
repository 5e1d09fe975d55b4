"""API keys: make one, put another in its place, end it."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from scalable_fastapi_system.identity.api_key_format import SHOWN_CHARACTERS, KeyHasher, new_key
from scalable_fastapi_system.identity.audit import Client, record, subject_of
from scalable_fastapi_system.identity.models import ROLE_ADMIN, ApiKey
from scalable_fastapi_system.identity.principal import ADMIN_PREFIX, Principal
from scalable_fastapi_system.identity.repository import api_keys
from scalable_fastapi_system.identity.service.accounts import lock_signed_in
from scalable_fastapi_system.kit.errors import (
    AuthorizationException,
    ConflictException,
    NotFoundException,
)

MAX_KEYS_PER_USER = 50


async def create(
    session: AsyncSession,
    *,
    principal: Principal,
    hasher: KeyHasher,
    name: str,
    scopes: list[str],
    lifetime: timedelta | None,
    client: Client,
    now: datetime,
    rotated_from: UUID | None = None,
) -> tuple[ApiKey, str]:
    """A new key of the caller, and the text that is shown once.

    Raises AuthenticationException where the caller's sign-in has ended, AuthorizationException for a scope that the caller
    does not hold, ConflictException for too many keys.
    """
    if rotated_from is None:  # else `rotate` holds the owner
        await _lock_owner(session, principal, now)
    if principal.role != ROLE_ADMIN and any(scope.startswith(ADMIN_PREFIX) for scope in scopes):
        raise AuthorizationException("Only an administrator's key can have an admin scope")
    if await api_keys.count_live(session, principal.id, now) >= MAX_KEYS_PER_USER:
        raise ConflictException(f"There are {MAX_KEYS_PER_USER} keys already: delete one first")
    text = new_key()
    row = await api_keys.add(
        session,
        ApiKey(
            user_id=principal.id,
            name=name,
            prefix=text[:SHOWN_CHARACTERS],
            key_hash=hasher.hash(text),
            scopes=sorted(set(scopes)),
            rotated_from=rotated_from,
            created_at=now,
            expires_at=None if lifetime is None else now + lifetime,
        ),
    )
    record(
        session,
        principal.key,
        f"api_key:{row.id}",
        "created",
        client=client,
        owner=subject_of(principal.id),
        scopes=row.scopes,
    )
    return row, text


async def _lock_owner(session: AsyncSession, principal: Principal, now: datetime) -> None:
    # Of several at once, each counts what the one before has made.
    await lock_signed_in(
        session, user_id=principal.id, session_id=principal.session_id, since=principal.issued_at, now=now
    )


async def rotate(
    session: AsyncSession,
    *,
    principal: Principal,
    hasher: KeyHasher,
    key_id: UUID,
    overlap: timedelta,
    client: Client,
    now: datetime,
) -> tuple[ApiKey, str]:
    """A key in the place of another, with its name, scopes and length of life; the former ends after the overlap.

    Raises AuthenticationException where the caller's sign-in has ended, NotFoundException where they have no such key,
    ConflictException where it has ended or has a successor.
    """
    await _lock_owner(session, principal, now)
    former = await api_keys.get_own(session, principal.id, key_id)
    if former is None:
        raise NotFoundException("There is no such key")
    if former.revoked_at is not None or (former.expires_at is not None and former.expires_at <= now):
        raise ConflictException("This key has ended: make a new one")
    if await api_keys.has_successor(session, former.id):
        raise ConflictException("This key has a successor already: rotate that one")
    lifetime = None if former.expires_at is None else former.expires_at - former.created_at
    row, text = await create(
        session,
        principal=principal,
        hasher=hasher,
        name=former.name,
        scopes=former.scopes,
        lifetime=lifetime,
        client=client,
        now=now,
        rotated_from=former.id,
    )
    end = now + overlap
    if former.expires_at is None or end < former.expires_at:
        await api_keys.end_at(session, former.id, end)
    record(
        session,
        principal.key,
        f"api_key:{former.id}",
        "rotated",
        client=client,
        owner=subject_of(principal.id),
        successor=str(row.id),
    )
    return row, text


async def revoke(
    session: AsyncSession, *, principal: Principal, key_id: UUID, client: Client, now: datetime
) -> None:
    """Ends a key of the caller at once. Raises NotFoundException where they have no such key that goes on."""
    if not await api_keys.revoke(session, key_id, user_id=principal.id, now=now):
        raise NotFoundException("There is no such key")
    record(
        session,
        principal.key,
        f"api_key:{key_id}",
        "revoked",
        client=client,
        owner=subject_of(principal.id),
    )
