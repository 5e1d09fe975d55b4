"""The keys that sign tokens: derived from the secret, or read from a JWK set that is watched for changes.

Each purpose has a key of its own, derived from `security.secret_key`, so that a token made for one is noise to
another. Access tokens may be signed by an asymmetric key instead, for other services to verify by the published
JWKS. Rotation without a wrong 401 takes two steps: make the new key known everywhere, then sign with it (see
docs/security.md). A key file that cannot be used at start is a ConfigurationError; one that breaks later is logged
and the keys read before it stay in force.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, JWKRegistry, Key, OctKey, OKPKey, RSAKey

from scalable_fastapi_system.infra.settings import SecuritySettings
from scalable_fastapi_system.kit.errors import ConfigurationError

_log = structlog.get_logger("identity.keys")

_DERIVED_BYTES = 64  # enough for HS512, RFC 7518 section 3.2
_MIN_RSA_BITS = 2048
_LOOK_AGAIN_SECONDS = 1.0
# RFC 9864 replaces EdDSA, which does not say which curve it means.
_ALGORITHM_NAMES = {"EdDSA": "Ed25519"}


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key, its public name and the one algorithm that it may be used with."""

    kid: str
    algorithm: str
    key: Key
    can_sign: bool


def derive(secret: str, purpose: str) -> bytes:
    """64 bytes for one purpose from a secret (HKDF with SHA-512, RFC 5869, one block)."""
    extracted = hmac.digest(b"scalable-fastapi-system", secret.encode(), "sha512")
    return hmac.digest(extracted, purpose.encode() + b"\x01", "sha512")[:_DERIVED_BYTES]


class SecretKeys:
    """Symmetric keys of one purpose: the first signs, all verify."""

    def __init__(self, security: SecuritySettings, purpose: str, *, algorithm: str = "HS256") -> None:
        secrets = [security.secret_key, *security.previous_secret_keys]
        self._keys = [_secret_key(derive(secret, purpose), algorithm) for secret in secrets]

    def signer(self) -> SigningKey:
        """The key that new tokens are signed with."""
        return self._keys[0]

    def find(self, kid: str) -> SigningKey | None:
        """The key of this name, None where there is none."""
        return next((key for key in self._keys if key.kid == kid), None)

    def public_jwks(self) -> dict[str, Any]:
        """Nothing: a symmetric key is never published."""
        return {"keys": []}


class KeyFile:
    """Asymmetric keys from a JWK set; the first signs, all verify. Reads the file again when it has changed."""

    def __init__(
        self, path: Path, *, algorithm: str, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises ConfigurationError where the file cannot be used."""
        self._path = path
        self._algorithm = _ALGORITHM_NAMES.get(algorithm, algorithm)
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._version = self._stat()
        self._looked_at = monotonic()
        self._keys = self._read()

    def signer(self) -> SigningKey:
        """The key that new tokens are signed with."""
        self._look()
        return self._keys[0]

    def find(self, kid: str) -> SigningKey | None:
        """The key of this name, None where there is none."""
        self._look()
        return next((key for key in self._keys if key.kid == kid), None)

    def public_jwks(self) -> dict[str, Any]:
        """The public halves, for other services (RFC 7517)."""
        self._look()
        return {
            "keys": [
                {**key.key.as_dict(private=False), "kid": key.kid, "alg": key.algorithm, "use": "sig"}
                for key in self._keys
            ]
        }

    def _look(self) -> None:
        now = self._monotonic()
        if now - self._looked_at < _LOOK_AGAIN_SECONDS:
            return
        with self._lock:
            self._looked_at = now
            try:
                version = self._stat()
                if version != self._version:
                    self._keys = self._read()
                    self._version = version
                    _log.info("signing keys read again", kids=[key.kid for key in self._keys])
            except ConfigurationError as error:
                _log.error("signing keys are broken, the former ones stay in force", problem=str(error))

    def _stat(self) -> tuple[int, int, int]:
        try:
            status = self._path.stat()
        except OSError as error:
            raise ConfigurationError(
                f"SECURITY__SIGNING_KEYS_FILE: {self._path} cannot be read ({error.strerror})"
            ) from error
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> list[SigningKey]:
        prefix = f"SECURITY__SIGNING_KEYS_FILE: {self._path}"
        try:
            with os.fdopen(os.open(self._path, os.O_RDONLY), "rb") as file:
                document = json.load(file)
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{prefix} is not readable JSON") from error
        entries = document.get("keys") if isinstance(document, dict) else None
        if not isinstance(entries, list) or not entries:
            raise ConfigurationError(f"{prefix} is not a JWK set: it needs a list `keys` with at least one")
        keys = [self._import(entry, f"{prefix}: key {number}") for number, entry in enumerate(entries, 1)]
        if not keys[0].can_sign:
            raise ConfigurationError(f"{prefix}: the first key signs and must be a private one")
        if len({key.kid for key in keys}) != len(keys):
            raise ConfigurationError(f"{prefix}: two keys have the same kid")
        return keys

    def _import(self, entry: Any, where: str) -> SigningKey:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SecurityWarning)  # what it warns of is refused below
                key = JWKRegistry.import_key(entry)
            kid = str(entry.get("kid") or key.thumbprint())
        except (JoseError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigurationError(f"{where} cannot be imported ({type(error).__name__})") from error
        if not _fits(key, self._algorithm):
            raise ConfigurationError(f"{where} does not fit algorithm {self._algorithm}")
        return SigningKey(kid, self._algorithm, key, can_sign=bool(getattr(key, "is_private", False)))


Keys = SecretKeys | KeyFile


def access_keys(security: SecuritySettings) -> Keys:
    """The keys of access tokens, as the settings have it. Raises ConfigurationError for a bad key file."""
    if security.algorithm.startswith("HS"):
        return SecretKeys(security, "access-token", algorithm=security.algorithm)
    if security.signing_keys_file is None:
        raise ConfigurationError(
            f"SECURITY__ALGORITHM {security.algorithm} needs SECURITY__SIGNING_KEYS_FILE"
        )
    return KeyFile(security.signing_keys_file, algorithm=security.algorithm)


def _secret_key(secret: bytes, algorithm: str) -> SigningKey:
    digest = hashlib.sha256(b"kid:" + secret).digest()
    kid = base64.urlsafe_b64encode(digest[:9]).decode()
    return SigningKey(kid, algorithm, OctKey.import_key(secret, {"kid": kid}), can_sign=True)


def _fits(key: Key, algorithm: str) -> bool:
    if algorithm == "RS256":
        return isinstance(key, RSAKey) and key.raw_value.key_size >= _MIN_RSA_BITS
    if algorithm == "ES256":
        return isinstance(key, ECKey) and key.curve_name == "P-256"
    return isinstance(key, OKPKey) and algorithm == "Ed25519" and key.as_dict()["crv"] == "Ed25519"
