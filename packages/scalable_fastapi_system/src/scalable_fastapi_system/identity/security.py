"""`SecurityManager`: tokens and password hashes by the guide's names."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from scalable_fastapi_system.identity.passwords import PasswordHasher
from scalable_fastapi_system.identity.tokens import TokenIssuer, TokenType
from scalable_fastapi_system.infra.settings import SecuritySettings, Settings
from scalable_fastapi_system.kit.clock import SYSTEM_CLOCK, Clock


class SecurityManager:
    """Makes and checks tokens and password hashes. Raises ConfigurationError for unusable signing keys."""

    def __init__(self, settings: Settings | SecuritySettings, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.settings = settings.security if isinstance(settings, Settings) else settings
        self.tokens = TokenIssuer(self.settings, clock=clock)
        self.passwords = PasswordHasher(self.settings)

    def create_access_token(self, data: Mapping[str, Any], expires_delta: timedelta | None = None) -> str:
        """A signed access token with these claims. `data` needs `sub`; the life defaults to the settings'."""
        lifetime = expires_delta
        if lifetime is None:
            lifetime = timedelta(minutes=self.settings.access_token_expire_minutes)
        return self.tokens.issue(TokenType.ACCESS, data, lifetime=lifetime)

    def create_refresh_token(self, data: Mapping[str, Any], expires_delta: timedelta | None = None) -> str:
        """A signed refresh token with these claims; one that names no session is refused at `/auth/refresh`."""
        lifetime = expires_delta
        if lifetime is None:
            lifetime = timedelta(days=self.settings.refresh_token_expire_days)
        return self.tokens.issue(TokenType.REFRESH, data, lifetime=lifetime)

    def verify_token(self, token: str, token_type: TokenType = TokenType.ACCESS) -> dict[str, Any]:
        """The claims of a good token. Raises AuthenticationException (401) for any other.

        Says nothing of what happened after the token was made: whether its user is active and its session goes on is
        asked by `get_current_user`.
        """
        return self.tokens.verify(token_type, token)

    def get_password_hash(self, password: str) -> str:
        """A new hash. Takes a quarter of a second; in asynchronous code await `passwords.hash_in_thread`."""
        return self.passwords.hash(password)

    def verify_password(self, plain_password: str, hashed_password: str) -> bool:
        """Whether this is the password. As slow as `get_password_hash`."""
        return self.passwords.verify(plain_password, hashed_password)

    def public_jwks(self) -> dict[str, Any]:
        """The JWK set to publish; empty where access tokens are signed with the secret."""
        return self.tokens.public_jwks()
