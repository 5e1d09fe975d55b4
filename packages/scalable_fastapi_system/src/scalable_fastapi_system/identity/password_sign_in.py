"""Signing in with a password.

What a stranger sees does not depend on whether there is such a user: the same answer, after the same queries and a hash
of the same cost, where the user's is of the present kind and cost. No connection of the database is held while the hash
is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from scalable_fastapi_system.identity.audit import ANONYMOUS, Client, record, subject_of
from scalable_fastapi_system.identity.models import User
from scalable_fastapi_system.identity.repository import sessions, users
from scalable_fastapi_system.identity.runtime import Identity
from scalable_fastapi_system.identity.schemas import TokenPair
from scalable_fastapi_system.identity.service.sessions import issue, open_session
from scalable_fastapi_system.identity.throttle import KNOWN_FOR, network_of
from scalable_fastapi_system.kit.errors import AuthenticationException, ServiceUnavailableException


@dataclass(frozen=True, slots=True)
class SignedIn:
    """The tokens of a new sign-in, and whose it is."""

    tokens: TokenPair
    user: User


async def sign_in(
    identity: Identity, *, identifier: str, password: str, client: Client, device: str | None = None
) -> SignedIn:
    """Signs a user in by name or address.

    Raises AuthenticationException for a wrong name, a wrong password and a disabled user alike, and
    RateLimitExceededException after too many attempts.
    """
    is_known_address = partial(has_signed_in_from, identity, identifier, client)
    attempt = await identity.throttle.admit(
        identifier, client.address, device=device, is_known_address=is_known_address
    )
    hasher = identity.security.passwords
    while True:
        try:
            async with identity.database.transaction() as session:
                user = await users.find(session, identifier)
            if attempt.owner_id is not None and (user is None or user.id != attempt.owner_id):
                # The cookie is of somebody who had this name before: they are a stranger here.
                attempt = await identity.throttle.admit(
                    identifier, client.address, is_known_address=is_known_address
                )
            hashed = user.hashed_password if user is not None else ""
            is_right = await hasher.verify_in_thread(password, hashed)
        except ServiceUnavailableException:
            # Nothing was tried yet: who keeps trying through an outage or a full queue of hashes is no guesser.
            await identity.throttle.give_back(attempt)
            raise
        if user is None or not is_right or not user.is_active:
            async with identity.database.transaction() as session:
                subject = subject_of(user.id) if user is not None else "user:unknown"
                record(session, ANONYMOUS, subject, "sign_in_failed", client=client)
            raise AuthenticationException("Incorrect username or password")
        better = await hasher.hash_in_thread(password) if hasher.needs_rehash(hashed) else None
        tokens = await _open(identity, user, client, better_hash=better)
        if tokens is not None:
            break
        # Not the hash any more: the password was changed meanwhile, or another sign-in has made the same one better.
    await identity.throttle.give_back(attempt)
    return SignedIn(tokens, user)


async def has_signed_in_from(identity: Identity, identifier: str, client: Client) -> bool:
    """Whether the user of this name or address has lately signed in from where the request comes from."""
    if client.address is None:
        return False
    since = identity.clock.now() - KNOWN_FOR
    async with identity.database.transaction() as session:
        addresses = await sessions.recent_addresses(session, identifier, since)
    here = network_of(client.address)
    return any(network_of(address) == here for address in addresses)


async def _open(
    identity: Identity, user: User, client: Client, *, better_hash: str | None
) -> TokenPair | None:
    """The tokens of a new sign-in; None where the user is disabled or the hash replaced since it was verified."""
    assert user.id is not None  # noqa: S101 - it was read from the database
    now = identity.clock.now()
    async with identity.database.transaction() as session:
        if not await users.confirm_password(session, user.id, user.hashed_password):
            return None
        opened = await open_session(
            session,
            user=user,
            method="password",
            client=client,
            now=now,
            lifetime=identity.sign_in_lifetime,
        )
        if better_hash is not None:
            await users.replace_password(
                session, user.id, former=user.hashed_password, new=better_hash, now=now
            )
    return issue(identity.security, user=user, sign_in=opened, now=now)
