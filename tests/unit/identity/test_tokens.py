"""Row 16: every way in which a token can be wrong is a 401; and what a good one carries."""

from __future__ import annotations

import base64
import hmac
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey
from scalable_fastapi_system.identity.keys import SecretKeys, derive
from scalable_fastapi_system.identity.security import SecurityManager
from scalable_fastapi_system.identity.tokens import (
    ExpiredTokenException,
    InvalidTokenException,
    TokenIssuer,
    TokenType,
)
from scalable_fastapi_system.infra.settings import SecuritySettings, Settings
from scalable_fastapi_system.kit.errors import AuthenticationException

SECRET = "a secret that is long enough for tests"


@pytest.fixture
def security() -> SecuritySettings:
    return SecuritySettings(secret_key=SECRET)


@pytest.fixture
def manager(security: SecuritySettings) -> SecurityManager:
    return SecurityManager(Settings(environment="test", security=security, _env_file=None))  # type: ignore[call-arg]


def good_claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    claims = {
        "sub": "ada",
        "user_id": 7,
        "iss": "scalable-fastapi-system",
        "aud": "scalable-fastapi-system",
        "iat": now,
        "exp": now + 60,
        **changes,
    }
    return {name: value for name, value in claims.items() if value is not None}


def signed(security: SecuritySettings, claims: dict[str, Any], **header: Any) -> str:
    """A token as the service would sign it, but for what the test changes."""
    key = SecretKeys(security, "access-token").signer()
    values = {"alg": "HS256", "typ": "at+jwt", "kid": key.kid, **header}
    chosen = {name: value for name, value in values.items() if value is not None}
    return jwt.encode(chosen, claims, key.key, algorithms=[chosen["alg"]], default_type=None)


def part(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_access_token_comes_back_as_its_claims(manager: SecurityManager) -> None:
    token = manager.create_access_token({"sub": "ada", "user_id": 7})
    claims = manager.verify_token(token)
    assert claims["sub"] == "ada"
    assert claims["user_id"] == 7
    assert claims["exp"] - claims["iat"] == 30 * 60
    assert claims["jti"]


def test_data_cannot_state_what_the_issuer_states(manager: SecurityManager) -> None:
    token = manager.create_access_token(
        {"sub": "ada", "iss": "me", "aud": "you", "exp": 9999999999, "jti": "mine"}
    )
    claims = manager.verify_token(token)
    assert claims["iss"] == claims["aud"] == "scalable-fastapi-system"
    assert claims["exp"] < 9999999999
    assert claims["jti"] != "mine"


def test_data_is_not_changed_and_needs_a_subject(manager: SecurityManager) -> None:
    data = {"sub": 7}
    assert manager.verify_token(manager.create_access_token(data))["sub"] == "7"
    assert data == {"sub": 7}
    with pytest.raises(ValueError, match="sub"):
        manager.create_access_token({"user_id": 7})


def test_good_token_made_by_hand_is_accepted(manager: SecurityManager, security: SecuritySettings) -> None:
    assert manager.verify_token(signed(security, good_claims()))["user_id"] == 7


@pytest.mark.parametrize(
    "change",
    [
        {"iss": "another"},
        {"aud": "another"},
        {"aud": ["another"]},
        {"exp": None},
        {"iss": None},
        {"aud": None},
        {"sub": None},
        {"iat": None},
        {"sub": 7},
        {"exp": "tomorrow"},
        {"iat": 4_000_000_000},
        {"nbf": 4_000_000_000},
    ],
    ids=str,
)
def test_wrong_or_missing_claim_is_refused(
    manager: SecurityManager, security: SecuritySettings, change: dict[str, Any]
) -> None:
    with pytest.raises(InvalidTokenException):
        manager.verify_token(signed(security, good_claims(**change)))


@pytest.mark.parametrize("seconds", [-1, -3600])
def test_expired_token_is_told_apart_so_that_the_client_can_refresh(
    manager: SecurityManager, seconds: int
) -> None:
    token = manager.create_access_token({"sub": "ada"}, timedelta(seconds=seconds))
    with pytest.raises(ExpiredTokenException) as refused:
        manager.verify_token(token)
    assert refused.value.status_code == 401
    assert refused.value.error_code == "TOKEN_EXPIRED"


def test_token_expires_to_the_second_whatever_the_skew_allowed_for_clocks() -> None:
    class Clock:
        moment = datetime(2026, 1, 1, tzinfo=UTC)

        def now(self) -> datetime:
            return self.moment

    clock = Clock()
    issuer = TokenIssuer(SecuritySettings(secret_key=SECRET), clock=clock)
    token = issuer.issue(TokenType.ACCESS, {"sub": "ada"}, lifetime=timedelta(seconds=10))
    clock.moment += timedelta(seconds=9.9)
    issuer.verify(TokenType.ACCESS, token)
    clock.moment += timedelta(seconds=0.1)
    with pytest.raises(ExpiredTokenException):
        issuer.verify(TokenType.ACCESS, token)


def test_token_from_a_clock_that_is_a_little_ahead_is_accepted(
    manager: SecurityManager, security: SecuritySettings
) -> None:
    manager.verify_token(signed(security, good_claims(iat=int(time.time()) + 20)))


def test_alg_none_is_refused(manager: SecurityManager, security: SecuritySettings) -> None:
    kid = SecretKeys(security, "access-token").signer().kid
    for algorithm in ("none", "None", "NONE", ""):
        token = f"{part({'alg': algorithm, 'typ': 'at+jwt', 'kid': kid})}.{part(good_claims())}."
        with pytest.raises(InvalidTokenException):
            manager.verify_token(token)


@pytest.mark.parametrize(
    "header",
    [
        {"jwk": OctKey.import_key(b"x" * 32).as_dict()},
        {"jku": "https://attacker.example/keys"},
        {"x5u": "https://attacker.example/cert"},
        {"kid": "unknown"},
        {"kid": None},
        {"typ": "JWT"},
        {"typ": None},
        {"typ": "refresh+jwt"},
        {"alg": "HS512"},
    ],
    ids=lambda header: next(iter(header)),
)
def test_header_that_asks_for_something_else_is_refused(
    manager: SecurityManager, security: SecuritySettings, header: dict[str, Any]
) -> None:
    with pytest.raises(InvalidTokenException):
        manager.verify_token(signed(security, good_claims(), **header))


def test_key_in_the_header_does_not_verify_its_own_token(manager: SecurityManager) -> None:
    own = OctKey.import_key(b"attacker's key, thirty-two bytes", {"kid": "own"})
    header = {"alg": "HS256", "typ": "at+jwt", "kid": "own", "jwk": own.as_dict()}
    with pytest.raises(InvalidTokenException):
        manager.verify_token(jwt.encode(header, good_claims(), own))


def test_hs256_with_the_published_key_is_refused(tmp_path: Any) -> None:
    private = RSAKey.generate_key(2048, {"kid": "k1"})
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [private.as_dict(private=True)]}))
    manager = SecurityManager(SecuritySettings(secret_key=SECRET, algorithm="RS256", signing_keys_file=file))
    message = f"{part({'alg': 'HS256', 'typ': 'at+jwt', 'kid': 'k1'})}.{part(good_claims())}"
    signature = hmac.digest(private.as_pem(private=False), message.encode(), "sha256")
    token = f"{message}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    with pytest.raises(InvalidTokenException):
        manager.verify_token(token)


@pytest.mark.parametrize("kind", [kind for kind in TokenType if kind is not TokenType.ACCESS])
def test_token_of_another_type_is_no_access_token(manager: SecurityManager, kind: TokenType) -> None:
    token = manager.tokens.issue(kind, {"sub": "ada", "user_id": 7}, lifetime=timedelta(minutes=1))
    with pytest.raises(InvalidTokenException):
        manager.verify_token(token)
    access = manager.create_access_token({"sub": "ada", "user_id": 7})
    with pytest.raises(InvalidTokenException):
        manager.verify_token(access, kind)


def test_each_purpose_has_a_key_of_its_own() -> None:
    keys = {derive(SECRET, purpose) for purpose in (*TokenType, "api-key", "known-device")}
    assert len(keys) == len(TokenType) + 2
    assert SECRET.encode() not in b"".join(keys)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "a.b.c",
        "a.b.c.d",
        "\x00.\x00.\x00",
        "é.é.é",
        "x" * 9000,
        f"{part({'a': 1})}.x.y",
        "W10.W10.W10",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_what_is_no_token_is_refused(manager: SecurityManager, text: str) -> None:
    with pytest.raises(AuthenticationException):
        manager.verify_token(text)


def test_token_with_one_letter_changed_is_refused(manager: SecurityManager) -> None:
    token = manager.create_access_token({"sub": "ada", "user_id": 7})
    head, body, signature = token.split(".")
    for changed in (f"{head}.{body}.A{signature[1:]}", f"{head}.{part(good_claims(user_id=1))}.{signature}"):
        if changed != token:
            with pytest.raises(InvalidTokenException):
                manager.verify_token(changed)
