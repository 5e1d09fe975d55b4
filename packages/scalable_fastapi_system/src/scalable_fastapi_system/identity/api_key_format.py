"""What an API key looks like: `sfk_`, 32 random letters and digits (190 bits), 6 of checksum.

The fixed beginning lets secret scanners find a leaked key. The checksum tells a mistyped or invented one without a
query. What is stored is a keyed hash: the database alone gives no key away and cannot be searched for one.
"""

from __future__ import annotations

import hmac
import re
import secrets
import string
import zlib

from scalable_fastapi_system.identity.keys import derive
from scalable_fastapi_system.infra.settings import SecuritySettings

PREFIX = "sfk_"
SHOWN_CHARACTERS = 12
_ALPHABET = string.digits + string.ascii_letters
_RANDOM_CHARACTERS = 32
_CHECKSUM_CHARACTERS = 6  # 62^6 is more than CRC-32 needs
_SHAPE = re.compile(rf"{PREFIX}[0-9a-zA-Z]{{{_RANDOM_CHARACTERS + _CHECKSUM_CHARACTERS}}}")


def new_key() -> str:
    """A new key."""
    body = "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_CHARACTERS))
    return f"{PREFIX}{body}{_checksum(body)}"


def is_well_formed(key: str) -> bool:
    """Whether this can be a key of ours at all."""
    if _SHAPE.fullmatch(key) is None:
        return False
    body = key[len(PREFIX) :]
    return _checksum(body[:_RANDOM_CHARACTERS]) == body[_RANDOM_CHARACTERS:]


class KeyHasher:
    """Keyed hashes of API keys, under the present secret and the former ones."""

    def __init__(self, security: SecuritySettings) -> None:
        secret_keys = (security.secret_key, *security.previous_secret_keys)
        self._secrets = [derive(secret, "api-key") for secret in secret_keys]

    def hash(self, key: str) -> str:
        """What is stored of a new key."""
        return self._hash(key, self._secrets[0])

    def hashes(self, key: str) -> list[str]:
        """What may be stored of this key, the present form first."""
        return [self._hash(key, secret) for secret in self._secrets]

    @staticmethod
    def _hash(key: str, secret: bytes) -> str:
        return hmac.digest(secret, key.encode(), "sha256").hex()


def _checksum(body: str) -> str:
    number = zlib.crc32(body.encode())
    digits = ""
    for _ in range(_CHECKSUM_CHARACTERS):
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
