"""Signed tokens (JWT, RFC 7519 and 8725): made for one purpose, accepted for no other.

The type stands in the header (`at+jwt` for access, RFC 9068), each type but access has a key of its own, and the
header chooses nothing: algorithm and key are those that the service keeps under the token's `kid`. Whatever is
wrong with a token, the caller learns only that it is not valid, or that it has expired.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from joserfc import jwt
from joserfc.errors import ExpiredTokenError, JoseError
from joserfc.jwt import JWTClaimsRegistry

from scalable_fastapi_system.identity.keys import Keys, SecretKeys, access_keys
from scalable_fastapi_system.infra.settings import SecuritySettings
from scalable_fastapi_system.kit.clock import SYSTEM_CLOCK, Clock
from scalable_fastapi_system.kit.errors import AuthenticationException

MAX_TOKEN_LENGTH = 8192
# A replica's clock may be this far ahead of another's. Never added to the expiry.
_CLOCK_SKEW_SECONDS = 60
_RESERVED = frozenset({"iss", "aud", "iat", "exp", "nbf", "jti"})
# A header that names a key of its own choosing is an attack, whatever else the token says.
_FOREIGN_KEY_HEADERS = frozenset({"jwk", "jku", "x5u", "x5c", "crit"})


class TokenType(StrEnum):
    """What a token is for; the value is its `typ` header."""

    ACCESS = "at+jwt"
    REFRESH = "refresh+jwt"
    PASSWORD_RESET = "password-reset+jwt"  # noqa: S105 - a media type
    OIDC_STATE = "oidc-state+jwt"


class InvalidTokenException(AuthenticationException):
    """The token is not one that this service accepts here (401)."""

    def __init__(self, message: str = "Could not validate credentials") -> None:
        super().__init__(message)
        self.headers["WWW-Authenticate"] = 'Bearer error="invalid_token"'


class ExpiredTokenException(InvalidTokenException):
    """The token was good once (401): refresh it or sign in again."""

    error_code = "TOKEN_EXPIRED"

    def __init__(self) -> None:
        super().__init__("The token has expired")


class TokenIssuer:
    """Makes and checks tokens of every type."""

    def __init__(
        self,
        security: SecuritySettings,
        *,
        clock: Clock = SYSTEM_CLOCK,
        kinds: Iterable[TokenType] = tuple(TokenType),
    ) -> None:
        """kinds: those that it is for. Raises ConfigurationError where the signing keys cannot be used."""
        self._issuer = security.issuer
        self._audience = security.audience
        self._clock = clock
        self._keys: dict[TokenType, Keys] = {
            kind: access_keys(security) if kind is TokenType.ACCESS else SecretKeys(security, kind.value)
            for kind in kinds
        }

    def issue(self, kind: TokenType, claims: Mapping[str, Any], *, lifetime: timedelta) -> str:
        """A signed token. `claims` needs `sub`; what the issuer itself states (`iss`, `exp` …) is overridden."""
        if "sub" not in claims:
            raise ValueError("a token needs a subject: put `sub` into its data")
        now = self._clock.now()
        key = self._keys[kind].signer()
        payload = {
            **{name: value for name, value in claims.items() if name not in _RESERVED},
            "sub": str(claims["sub"]),
            "iss": self._issuer,
            "aud": self._audience,
            "iat": int(now.timestamp()),
            "exp": int((now + lifetime).timestamp()),
            "jti": secrets.token_urlsafe(16),
        }
        header = {"alg": key.algorithm, "typ": kind.value, "kid": key.kid}
        return jwt.encode(header, payload, key.key, algorithms=[key.algorithm])

    def verify(self, kind: TokenType, token: str) -> dict[str, Any]:
        """The claims of a token of this type. Raises InvalidTokenException, or ExpiredTokenException."""
        header = _header_of(token)
        kid = header.get("kid")
        if (
            header.get("typ") != kind.value
            or not isinstance(kid, str)
            or not _FOREIGN_KEY_HEADERS.isdisjoint(header)
        ):
            raise InvalidTokenException
        key = self._keys[kind].find(kid)
        if key is None or header.get("alg") != key.algorithm:
            raise InvalidTokenException
        try:
            decoded = jwt.decode(token, key.key, algorithms=[key.algorithm])
            registry = _Claims(self._clock.now(), issuer=self._issuer, audience=self._audience)
            registry.validate(decoded.claims)
        except ExpiredTokenError as error:
            raise ExpiredTokenException from error
        except (JoseError, ValueError, TypeError, OverflowError) as error:
            raise InvalidTokenException from error
        return decoded.claims

    def has_key_of(self, kind: TokenType, token: str) -> bool:
        """Whether the key of a token that was verified before is still one of ours."""
        return self._keys[kind].find(_header_of(token)["kid"]) is not None

    def public_jwks(self) -> dict[str, Any]:
        """The public keys that verify access tokens, as a JWK set; empty where the key is symmetric."""
        return self._keys[TokenType.ACCESS].public_jwks()


class _Claims(JWTClaimsRegistry):
    """Everything is needed, the expiry is exact, and only the time of issue may be a little ahead of our clock."""

    def __init__(self, now: datetime, *, issuer: str, audience: str) -> None:
        super().__init__(
            now=int(now.timestamp()),
            leeway=_CLOCK_SKEW_SECONDS,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": audience},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
        )
        self._moment = now.timestamp()

    def validate_exp(self, value: object) -> None:
        super().validate_exp(value)
        if isinstance(value, int | float) and value <= self._moment:
            raise ExpiredTokenError("exp")


def _header_of(token: str) -> dict[str, Any]:
    """The header, not yet trusted. Raises InvalidTokenException for what is no token at all."""
    if len(token) > MAX_TOKEN_LENGTH or token.count(".") != 2:
        raise InvalidTokenException
    encoded = token.partition(".")[0]
    try:
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        header = json.loads(raw)
    except (binascii.Error, ValueError) as error:
        raise InvalidTokenException from error
    if not isinstance(header, dict):
        raise InvalidTokenException
    return header
