"""From the raw headers of a request to its principal: at once where it is known, by one query where it is not.

The contract, for the middleware, the dependencies and the rate limit alike:

`identify(scope, authorization, api_key)` is synchronous, does no I/O, never raises and costs well under a microsecond
for a credential seen before. It leaves in `scope["state"]`
  - `principal`: the caller, when their standing was read from the database less than
    `security.revocation_delay_seconds` ago;
  - `rate_key`: `user:<id>` or `api_key:<id>`, whenever the credential itself is good, also where the standing has to be
    read again. A credential that is not known, not good, or was refused, leaves nothing: count it by its address;
  - `may_be_key`: True for what has the form of an API key that this process has not looked up. Anybody can write one,
    so it is counted by its address too, and apart from those who send none: they must not keep a good key from being known.
`await authenticate(authorization, api_key)` gives the principal or raises AuthenticationException (401), or
ServiceUnavailableException where the database is needed and away. Both share one memory.

What is remembered: that a token's signature is good, until it expires; the standing of its user and session, and that
its key is one of ours, for the revocation delay. Shortly before that is over, one request reads it again while the others go on. A change made in this
process takes effect at once, one made in another when its message arrives, and without any message when the delay is
over. `authorization` is stronger than `api_key` where both are sent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import structlog

from scalable_fastapi_system.identity import api_key_format
from scalable_fastapi_system.identity.api_key_format import KeyHasher
from scalable_fastapi_system.identity.models import ApiKey, User
from scalable_fastapi_system.identity.principal import Principal
from scalable_fastapi_system.identity.repository import api_keys, sessions, users
from scalable_fastapi_system.identity.security import SecurityManager
from scalable_fastapi_system.identity.tokens import ExpiredTokenException, InvalidTokenException, TokenType
from scalable_fastapi_system.infra.database import DatabaseManager
from scalable_fastapi_system.kit.clock import SYSTEM_CLOCK, Clock
from scalable_fastapi_system.kit.errors import AuthenticationException, ServiceUnavailableException

_log = structlog.get_logger("identity.authenticate")

MAX_REMEMBERED = 10_000
_SCHEME = b"Bearer "
# The part of the revocation delay after which one request reads the standing again, ahead of the rest.
_RENEW_AFTER = 0.6
_RENEWAL_SECONDS = 2.0
# A credential that was refused is not looked up again for this long.
_REFUSED_SECONDS = 1.0
_NOTE_USE_EVERY_SECONDS = 60.0


class _Known:
    """A credential seen before."""

    __slots__ = (
        "expires_at",
        "fresh_until",
        "issued_at",
        "principal",
        "rate_key",
        "refused_until",
        "renew_at",
        "renewing_until",
        "scopes",
        "session_id",
        "user_id",
        "username",
    )

    def __init__(self, *, expires_at: float, rate_key: str | None) -> None:
        self.expires_at = expires_at  # the times are monotonic seconds
        self.rate_key = rate_key
        self.principal: Principal | None = None
        self.fresh_until = self.renew_at = self.renewing_until = self.refused_until = float("-inf")
        # of a token
        self.user_id: int | None = None
        self.username = ""
        self.session_id: UUID | None = None
        self.scopes: frozenset[str] | None = None
        self.issued_at = 0


class Authenticator:
    """Remembers credentials; one per application. See the module for what it promises."""

    def __init__(
        self,
        security: SecurityManager,
        database: DatabaseManager,
        hasher: KeyHasher,
        *,
        clock: Clock = SYSTEM_CLOCK,
        monotonic: Callable[[], float] = time.monotonic,
        capacity: int = MAX_REMEMBERED,
    ) -> None:
        self._security = security
        self._database = database
        self._hasher = hasher
        self._clock = clock
        self._monotonic = monotonic
        self._capacity = capacity
        self._delay = security.settings.revocation_delay_seconds
        self._known: dict[bytes, _Known] = {}
        self._by_user: dict[int, set[bytes]] = {}
        self._changes = 0
        self._noting: set[UUID] = set()
        self._lock = threading.Lock()

    # -- without I/O --------------------------------------------------------------------------------------

    def identify(
        self, scope: MutableMapping[str, Any], authorization: bytes | None, api_key: bytes | None
    ) -> None:
        """Leaves the principal in the scope's state where it is known; see the module."""
        raw = authorization if authorization is not None else api_key
        if raw is None:
            return
        known = self._known.get(raw)
        if known is None:
            known = self._recognise(raw) if raw is authorization else None
            if known is None:
                if _may_be_key(raw, is_bearer=raw is authorization):
                    scope["state"]["may_be_key"] = True
                return
        now = self._monotonic()
        if now >= known.expires_at or known.rate_key is None:
            return
        state = scope["state"]
        state["rate_key"] = known.rate_key
        if now < known.renew_at or (now < known.renewing_until and now < known.fresh_until):
            state["principal"] = known.principal

    def forget_user(self, user_id: int) -> None:
        """Makes every credential of this user be read again. Signatures need no second look."""
        with self._lock:
            self._changes += 1
            for raw in self._by_user.get(user_id, ()):
                known = self._known.get(raw)
                if known is not None:
                    known.fresh_until = known.renew_at = known.renewing_until = float("-inf")

    def forget_all(self) -> None:
        """Makes every credential be read again."""
        with self._lock:
            self._changes += 1
            for known in self._known.values():
                known.fresh_until = known.renew_at = known.renewing_until = float("-inf")

    # -- with one query at the most -----------------------------------------------------------------------

    async def authenticate(self, authorization: bytes | None, api_key: bytes | None) -> Principal:
        """The caller of a request with these headers; see the module."""
        raw = _canonical(authorization) if authorization is not None else api_key
        if raw is None:
            raise AuthenticationException("Not authenticated")
        text = _text(raw if authorization is None else raw.removeprefix(_SCHEME))
        known = self._known.get(raw)
        if known is None and not text.startswith(api_key_format.PREFIX):
            known = self._verified(raw, text)
        now = self._monotonic()
        if known is not None:
            if now >= known.expires_at:
                raise ExpiredTokenException
            if now < known.refused_until:
                raise InvalidTokenException
            is_renewal_due = now >= known.renew_at and now >= known.renewing_until
            if known.principal is not None and now < known.fresh_until and not is_renewal_due:
                return known.principal
            known.renewing_until = now + _RENEWAL_SECONDS
        changes = self._changes
        try:
            if text.startswith(api_key_format.PREFIX):
                known, principal = await self._look_up_key(text, known)
            else:
                assert known is not None  # noqa: S101 - a token was verified above
                if not self._security.tokens.has_key_of(TokenType.ACCESS, text):
                    raise InvalidTokenException
                principal = await self._look_up_bearer(known)
        except AuthenticationException:
            if known is not None:
                known.fresh_until = known.renew_at = float("-inf")
                known.refused_until = now + _REFUSED_SECONDS
                known.rate_key = None  # whoever still sends it is a stranger, and uses up nobody's quota
            raise
        known.principal = principal
        known.rate_key = principal.key
        # What changed while the query ran may not be in its answer: then it serves this request only.
        if changes == self._changes:
            known.fresh_until = now + self._delay
            known.renew_at = now + self._delay * _RENEW_AFTER
        self._remember(raw, known, principal.id)
        return principal

    # -- inside -------------------------------------------------------------------------------------------

    def _recognise(self, authorization: bytes) -> _Known | None:
        """What is known under another spelling, or a token whose signature is good; None for anything else."""
        try:
            raw = _canonical(authorization)
            known = self._known.get(raw)
            text = _text(raw.removeprefix(_SCHEME))
            if known is not None or text.startswith(api_key_format.PREFIX):
                return known
            return self._verified(raw, text)
        except AuthenticationException:
            return None

    def _verified(self, raw: bytes, token: str) -> _Known:
        claims = self._security.verify_token(token)
        left = claims["exp"] - self._clock.now().timestamp()
        known = _Known(expires_at=self._monotonic() + left, rate_key=None)
        user_id, session_id, scope = claims.get("user_id"), claims.get("sid"), claims.get("scope")
        if user_id is not None and (not isinstance(user_id, int) or isinstance(user_id, bool)):
            raise InvalidTokenException
        try:
            known.session_id = None if session_id is None else UUID(session_id)
        except (ValueError, TypeError, AttributeError) as error:
            raise InvalidTokenException from error
        known.user_id = user_id
        known.username = claims["sub"]
        known.issued_at = int(claims["iat"])
        known.scopes = None if scope is None else frozenset(str(scope).split())
        known.rate_key = f"user:{user_id}" if user_id is not None else f"name:{known.username}"
        self._remember(raw, known, user_id)
        return known

    async def _look_up_bearer(self, known: _Known) -> Principal:
        now = self._clock.now()
        user_id = known.user_id
        if user_id is None:
            user_id = await self._id_of_named(known)
        row = await sessions.standing(self._database, user_id, known.session_id)
        if row is None:
            raise InvalidTokenException
        if known.session_id is not None:
            is_revoked = row["session_id"] is None or row["session_revoked_at"] is not None
            if is_revoked or row["session_expires_at"] <= now:
                raise InvalidTokenException
        elif (
            row["tokens_valid_after"] is not None and known.issued_at <= row["tokens_valid_after"].timestamp()
        ):
            raise InvalidTokenException
        return Principal(
            id=row["id"],
            username=row["username"],
            email=row["email"],
            role=row["role"],
            is_active=row["is_active"],
            created_at=row["created_at"],
            updated_at=row["updated_at"],
            kind="user",
            scopes=known.scopes,
            session_id=known.session_id,
            issued_at=datetime.fromtimestamp(known.issued_at, UTC),
        )

    async def _id_of_named(self, known: _Known) -> int:
        """The user of a token that has a name only."""
        async with self._database.transaction() as session:
            named = await users.find(session, known.username)
        # The name may have been another's when the token was made.
        if named is None or named.id is None or named.created_at.timestamp() > known.issued_at + 1:
            raise InvalidTokenException
        return named.id

    async def _look_up_key(self, key: str, known: _Known | None) -> tuple[_Known, Principal]:
        if not api_key_format.is_well_formed(key):
            raise InvalidTokenException
        now = self._clock.now()
        hashes = self._hasher.hashes(key)
        async with self._database.transaction() as session:
            found = await api_keys.find_with_user(session, hashes)
        if found is None:
            raise InvalidTokenException
        row, user = found
        if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now):
            raise InvalidTokenException
        await self._note_use(row, present_hash=hashes[0], now=now)
        left = float("inf") if row.expires_at is None else (row.expires_at - now).total_seconds()
        principal = _principal_of_key(row, user)
        known = known or _Known(expires_at=0.0, rate_key=principal.key)
        known.expires_at = self._monotonic() + left
        return known, principal

    async def _note_use(self, row: ApiKey, *, present_hash: str, now: datetime) -> None:
        last = row.last_used_at
        is_recent = last is not None and (now - last).total_seconds() < _NOTE_USE_EVERY_SECONDS
        if (is_recent and row.key_hash == present_hash) or row.id in self._noting:
            return
        self._noting.add(row.id)  # many requests may bring a key for the first time
        try:
            async with self._database.transaction() as session:
                await api_keys.note_use(session, row.id, key_hash=present_hash, now=now)
        except ServiceUnavailableException:
            # The key was read and is good: what could not be written is when it was last used.
            _log.warning("the use of an API key could not be noted", api_key_id=str(row.id))
        finally:
            self._noting.discard(row.id)

    def _remember(self, raw: bytes, known: _Known, user_id: int | None) -> None:
        with self._lock:
            self._known.pop(raw, None)
            while len(self._known) >= self._capacity:
                self._drop(next(iter(self._known)))
            self._known[raw] = known  # at the end: what was used longest ago goes first
            if user_id is not None:
                self._by_user.setdefault(user_id, set()).add(raw)

    def _drop(self, raw: bytes) -> None:
        dropped = self._known.pop(raw)
        user_id = dropped.principal.id if dropped.principal is not None else dropped.user_id
        if user_id is None:
            return
        others = self._by_user.get(user_id)
        if others is not None:
            others.discard(raw)
            if not others:
                del self._by_user[user_id]


def _may_be_key(raw: bytes, *, is_bearer: bool) -> bool:
    try:
        return api_key_format.is_well_formed(
            _text(_canonical(raw).removeprefix(_SCHEME) if is_bearer else raw)
        )
    except AuthenticationException:
        return False


def _principal_of_key(row: ApiKey, user: User) -> Principal:
    assert user.id is not None  # noqa: S101 - it was read from the database
    return Principal(
        id=user.id,
        username=user.username,
        email=user.email,
        role=user.role,
        is_active=user.is_active,
        created_at=user.created_at,
        updated_at=user.updated_at,
        kind="api_key",
        scopes=frozenset(row.scopes),
        api_key_id=row.id,
    )


def _canonical(authorization: bytes) -> bytes:
    """The one spelling that a bearer is remembered by: blanks must not make a new credential each time."""
    scheme, _, credentials = authorization.partition(b" ")
    if scheme.lower() != b"bearer":
        raise AuthenticationException("Not authenticated")
    return _SCHEME + credentials.strip()


def _text(raw: bytes) -> str:
    try:
        return raw.decode("ascii")
    except UnicodeDecodeError as error:
        raise InvalidTokenException from error
