"""Sign-ins: open one, go on with it, end it.

Refresh tokens are good once. The one before the newest is a retry within the grace, because clients repeat a request
whose answer was lost and send several at a time; after the grace it is a theft, and the whole family ends. `rotate`
returns that verdict and does not raise it: the caller commits the family's end first and then refuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from scalable_fastapi_system.identity.audit import Client, record, subject_of
from scalable_fastapi_system.identity.models import AuthSession, User
from scalable_fastapi_system.identity.repository import sessions, users
from scalable_fastapi_system.identity.schemas import TokenPair
from scalable_fastapi_system.identity.security import SecurityManager

# More replacements than this within one grace are no client's retries: the oldest are not remembered.
_MAX_SUPERSEDED = 32


@dataclass(frozen=True, slots=True)
class Rotation:
    """What came of a refresh token: the sign-in to go on with, or why not."""

    user: User | None = None
    sign_in: AuthSession | None = None
    refusal: str | None = None


async def open_session(
    session: AsyncSession, *, user: User, method: str, client: Client, now: datetime, lifetime: timedelta
) -> AuthSession:
    """A new sign-in of a user."""
    assert user.id is not None  # noqa: S101 - it is stored
    sign_in = await sessions.add(
        session,
        AuthSession(
            user_id=user.id,
            method=method,
            ip_address=client.address,
            user_agent=client.user_agent,
            created_at=now,
            last_used_at=now,
            expires_at=now + lifetime,
        ),
    )
    subject = subject_of(user.id)
    record(session, subject, subject, "signed_in", client=client, method=method, session_id=str(sign_in.id))
    return sign_in


def issue(security: SecurityManager, *, user: User, sign_in: AuthSession, now: datetime) -> TokenPair:
    """The tokens of the sign-in's current generation. Neither outlives the sign-in."""
    remaining = sign_in.expires_at - now
    lifetime = min(timedelta(minutes=security.settings.access_token_expire_minutes), remaining)
    data = {"sub": user.username, "user_id": user.id, "sid": str(sign_in.id)}
    return TokenPair(
        access_token=security.create_access_token(data, lifetime),
        refresh_token=security.create_refresh_token({**data, "gen": sign_in.generation}, remaining),
        expires_in=int(lifetime.total_seconds()),
        session_id=sign_in.id,
    )


async def rotate(
    session: AsyncSession,
    *,
    session_id: UUID,
    generation: int,
    client: Client,
    now: datetime,
    grace_seconds: float,
) -> Rotation:
    """Goes on with a sign-in. A refused one comes back as a refusal, with its family ended where it was a theft."""
    found = await sessions.lock(session, session_id, now)
    if found is None or found.session is None:
        return Rotation(refusal="unknown")
    user, sign_in = found.user, found.session
    if sign_in.revoked_at is not None:
        return Rotation(refusal="revoked")
    if sign_in.expires_at <= now or not user.is_active:
        return Rotation(refusal="ended")
    if generation == sign_in.generation:
        moment = now.timestamp()
        recent = [[number, at] for number, at in sign_in.superseded if moment - at <= grace_seconds][
            -_MAX_SUPERSEDED:
        ]
        sign_in.superseded = [*recent, [generation, moment]]
        sign_in.generation = generation + 1
        await session.flush()
        return Rotation(user, sign_in)
    if _is_retry(sign_in, generation, now, grace_seconds):
        return Rotation(user, sign_in)
    if generation > sign_in.generation:
        return Rotation(refusal="unknown")  # signed by us and ahead of us: the database was restored
    await sessions.revoke(session, session_id, user_id=sign_in.user_id, reason="reuse", now=now)
    subject = subject_of(sign_in.user_id)
    record(session, "anonymous", subject, "refresh_token_reused", client=client, session_id=str(session_id))
    return Rotation(user, sign_in, refusal="reuse")


async def is_good(
    session: AsyncSession,
    *,
    user_id: int,
    session_id: UUID,
    generation: int,
    now: datetime,
    grace_seconds: float,
) -> bool:
    """Whether a refresh token is one that `rotate` would take. Holds the user's row until the transaction ends."""
    user = await users.lock(session, user_id)
    sign_in = await sessions.get_live(session, session_id, user_id=user_id, now=now)
    if user is None or not user.is_active or sign_in is None:
        return False
    return generation == sign_in.generation or _is_retry(sign_in, generation, now, grace_seconds)


async def end(
    session: AsyncSession, *, user_id: int, session_id: UUID, source: str, client: Client, now: datetime
) -> bool:
    """Ends one sign-in of a user; whether there was one that went on."""
    if not await sessions.revoke(session, session_id, user_id=user_id, reason="signed_out", now=now):
        return False
    record(session, source, subject_of(user_id), "signed_out", client=client, session_id=str(session_id))
    return True


async def end_all(session: AsyncSession, *, user_id: int, source: str, client: Client, now: datetime) -> int:
    """Ends every sign-in of a user, and refuses tokens that belong to none; how many there were."""
    # The user's row first, as a password reset and a sign-in do: else two could wait for each other.
    await users.refuse_tokens_before(session, user_id, now)
    ended = await sessions.revoke_all(session, user_id, reason="signed_out", now=now)
    record(session, source, subject_of(user_id), "signed_out_everywhere", client=client, sessions_ended=ended)
    return ended


def _is_retry(sign_in: AuthSession, generation: int, now: datetime, grace_seconds: float) -> bool:
    superseded_at = next((at for number, at in sign_in.superseded if number == generation), None)
    return superseded_at is not None and now.timestamp() - superseded_at <= grace_seconds
