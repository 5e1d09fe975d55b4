"""Signed links to files for back ends that cannot sign: a folder and the database.

The link is a path of this API (`web.files` serves it) with its end and an HMAC over method, key and end. It
stays good through a change of SECURITY__SECRET_KEY while the former key is among the previous ones.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from urllib.parse import urlencode

from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.infra.storage.base import check_key, check_lifetime
from scalable_fastapi_system.kit.clock import SYSTEM_CLOCK, Clock

FILES_PATH = "/files/"
# Keeps this use of the secret key apart from its others: a signature here says nothing anywhere else.
_PURPOSE = b"scalable-fastapi-system file link 1"


class LinkSigner:
    """Makes and checks the links of one installation."""

    def __init__(self, settings: Settings, clock: Clock = SYSTEM_CLOCK) -> None:
        secrets = [settings.security.secret_key, *settings.security.previous_secret_keys]
        self._keys = [hmac.digest(str(secret).encode(), _PURPOSE, hashlib.sha256) for secret in secrets]
        self._clock = clock

    def sign(self, key: str, *, method: str, expires_seconds: int) -> str:
        """The path with its signature. Raises ValueError for anything but GET and for a life that is not possible."""
        check_key(key)
        check_lifetime(expires_seconds)
        if method != "GET":
            raise ValueError(f"this storage signs links for GET only, not {method}")
        expires = int(self._clock.now().timestamp()) + expires_seconds
        signature = self._signature(self._keys[0], key, expires)
        return f"{FILES_PATH}{key}?" + urlencode({"expires": expires, "signature": signature})

    def verify(self, key: str, *, expires: int, signature: str) -> bool:
        """Whether this signature was made here for this key and is still good."""
        given = signature.encode()
        is_ours = any(
            hmac.compare_digest(self._signature(secret, key, expires).encode(), given)
            for secret in self._keys
        )
        return is_ours and self._clock.now().timestamp() < expires

    @staticmethod
    def _signature(secret: bytes, key: str, expires: int) -> str:
        digest = hmac.digest(secret, f"GET\n{key}\n{expires}".encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
