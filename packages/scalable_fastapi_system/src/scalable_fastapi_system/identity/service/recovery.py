"""Forgotten passwords: a token that works once, for a short time, for the account as it is now.

The token is signed with a key of its own and bound to the present password hash and address, so it dies with the first
use, with any other change of either, and with its half hour. Nothing about it is stored.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from scalable_fastapi_system.identity.audit import Client, record, subject_of
from scalable_fastapi_system.identity.models import User
from scalable_fastapi_system.identity.repository import api_keys, external, sessions, users
from scalable_fastapi_system.identity.tokens import TokenIssuer, TokenType
from scalable_fastapi_system.infra.settings import SecuritySettings
from scalable_fastapi_system.kit.errors import APIException, AuthenticationException

_FINGERPRINT_CHARACTERS = 32


class ResetLinkException(APIException):
    """The link has been used, is too old, or never was one (400)."""

    status_code = 400
    error_code = "RESET_LINK_INVALID"
    title = "Reset link not valid"

    def __init__(self) -> None:
        super().__init__("This link is not valid any more: ask for a new one")


def make_token(security: SecuritySettings, user: User) -> str:
    """A token that lets its bearer set this user's password. Made by the worker, which has no signing keys."""
    claims = {"sub": str(user.id), "state": _fingerprint(user)}
    tokens = TokenIssuer(security, kinds=(TokenType.PASSWORD_RESET,))
    lifetime = timedelta(minutes=security.password_reset_minutes)
    return tokens.issue(TokenType.PASSWORD_RESET, claims, lifetime=lifetime)


def read_token(tokens: TokenIssuer, token: str) -> dict[str, Any]:
    """The claims of such a token. Raises ResetLinkException."""
    try:
        return tokens.verify(TokenType.PASSWORD_RESET, token)
    except AuthenticationException as error:
        raise ResetLinkException from error


async def user_of(session: AsyncSession, claims: dict[str, Any]) -> User:
    """The user whose token this is. Raises ResetLinkException where it has been used or the account has changed."""
    user = await users.get(session, int(claims["sub"]))
    if (
        user is None
        or not user.is_active
        or not hmac.compare_digest(str(claims["state"]), _fingerprint(user))
    ):
        raise ResetLinkException
    return user


async def reset(session: AsyncSession, *, user: User, new_hash: str, client: Client, now: datetime) -> None:
    """Sets the password and ends every other way in: sign-ins, API keys, outside identities.

    The address may have been somebody else's when the account was made, and whoever had it since may have added keys and
    providers. Raises ResetLinkException where the link was used meanwhile.
    """
    assert user.id is not None  # noqa: S101 - it was read from the database
    if not await users.replace_password(session, user.id, former=user.hashed_password, new=new_hash, now=now):
        raise ResetLinkException
    await users.refuse_tokens_before(session, user.id, now)
    ended = await sessions.revoke_all(session, user.id, reason="password_reset", now=now)
    subject = subject_of(user.id)
    record(
        session,
        subject,
        subject,
        "password_reset",
        client=client,
        sessions_ended=ended,
        api_keys_ended=await api_keys.revoke_all(session, user.id, now),
        identities_removed=await external.remove_all(session, user.id),
    )


def _fingerprint(user: User) -> str:
    # The hash has 128 random bits in it: this tells nothing about it.
    state = f"{user.hashed_password} {user.email}"
    return hashlib.sha256(state.encode()).hexdigest()[:_FINGERPRINT_CHARACTERS]
