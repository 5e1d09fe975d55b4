"""Password hashes: bcrypt without its 72-byte trap, or argon2id, computed in a bounded number of threads.

bcrypt reads 72 bytes and stops at a zero byte. What it is given here is the base64 of HMAC-SHA-256 of the password,
keyed with the hash's own salt (so that a leaked plain SHA-256 of the password is of no use against it); the format is
the published `$bcrypt-sha256$v=2,…` that passlib reads and writes too. Plain `$2b$` hashes from elsewhere are
verified, and replaced at the next sign-in. The asynchronous calls never run a hash on the event loop, and refuse with
503 when more are waiting than could be done in a few seconds.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hmac
import re
import secrets
import threading
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from scalable_fastapi_system.infra.settings import SecuritySettings
from scalable_fastapi_system.kit.errors import ServiceUnavailableException

T = TypeVar("T")

_BCRYPT_SHA256 = re.compile(
    r"\$bcrypt-sha256\$v=2,t=(2b),r=(\d{1,2})\$([./A-Za-z0-9]{22})\$([./A-Za-z0-9]{31})"
)
_PLAIN_BCRYPT = re.compile(r"\$2[aby]\$(\d{2})\$[./A-Za-z0-9]{53}")
_PLAIN_BCRYPT_BYTES = 72
# OWASP's second choice for argon2id: 19 MiB fit a small pod, whatever the number of threads.
_ARGON2_MEMORY_KIB = 19 * 1024
_ARGON2_TIME_COST = 2
# At a quarter of a second each this is two seconds of waiting: longer than that and the answer is 503.
_WAITING_PER_THREAD = 8
# What only hashes of nobody's password are made of; its tail is one that bcrypt can produce.
_NOBODYS_SALT = "abcdefghijklmnopqrstuu"
_NOBODYS_DIGEST = "abcdefghijklmnopqrstuvwxyz01234"


class PasswordHasher:
    """Makes and checks hashes as the settings have it."""

    def __init__(self, security: SecuritySettings) -> None:
        self._scheme = security.password_hash
        self._rounds = security.bcrypt_rounds
        self._threads = security.password_hash_threads
        self._most_waiting = self._threads * (1 + _WAITING_PER_THREAD)
        self._pending = 0
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None

    # -- in the calling thread --------------------------------------------------------------------------

    def hash(self, password: str) -> str:
        """A new hash. Takes a quarter of a second: not for the event loop."""
        text = _normalised(password)
        if self._scheme == "argon2id":
            return str(_argon2().hash(text))
        import bcrypt

        salt = bcrypt.gensalt(self._rounds)[-22:].decode()
        return f"$bcrypt-sha256$v=2,t=2b,r={self._rounds}${salt}${_bcrypt_sha256(text, salt, self._rounds)}"

    def verify(self, password: str, hashed: str) -> bool:
        """Whether this is the password. Takes as long where the hash is empty or unknown, and is False then."""
        found = _BCRYPT_SHA256.fullmatch(hashed)
        if found is not None:
            rounds, salt, digest = int(found[2]), found[3], found[4]
            return hmac.compare_digest(_bcrypt_sha256(_normalised(password), salt, rounds), digest)
        if hashed.startswith("$argon2id$"):
            return _verify_argon2(password, hashed)
        if _PLAIN_BCRYPT.fullmatch(hashed) is not None:
            import bcrypt

            # Cut where the bcrypt that made it has cut. Such a hash is replaced once it has been matched.
            return bcrypt.checkpw(password.encode()[:_PLAIN_BCRYPT_BYTES], hashed.encode())
        self.verify(password, self._nobodys_hash())
        return False

    def needs_rehash(self, hashed: str) -> bool:
        """Whether the hash is of another kind or cost than new ones are."""
        if self._scheme == "argon2id":
            return not hashed.startswith("$argon2id$") or bool(_argon2().check_needs_rehash(hashed))
        found = _BCRYPT_SHA256.fullmatch(hashed)
        return found is None or int(found[2]) != self._rounds

    # -- in threads of its own --------------------------------------------------------------------------

    async def hash_in_thread(self, password: str) -> str:
        """A new hash. Raises ServiceUnavailableException where too many are waiting."""
        return await self._run(self.hash, password)

    async def verify_in_thread(self, password: str, hashed: str) -> bool:
        """Whether this is the password; see `verify`. Raises ServiceUnavailableException where too many wait."""
        return await self._run(self.verify, password, hashed)

    def close(self) -> None:
        """Ends the threads; the next call starts new ones."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        with self._lock:
            if self._pending >= self._most_waiting:
                raise ServiceUnavailableException(
                    "Too many passwords are being checked at the moment", retry_after_seconds=2
                )
            self._pending += 1
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="password-hash")
            # Given to the thread, not to the waiter: a client that leaves must not let another one in early.
            future = self._executor.submit(work, *arguments)
        future.add_done_callback(self._done)
        return await asyncio.wrap_future(future)

    def _done(self, _future: object) -> None:
        with self._lock:
            self._pending -= 1

    def _nobodys_hash(self) -> str:
        """A hash that no password matches, of the kind and cost of new ones."""
        if self._scheme == "argon2id":
            return _nobodys_argon2_hash()
        return f"$bcrypt-sha256$v=2,t=2b,r={self._rounds}${_NOBODYS_SALT}${_NOBODYS_DIGEST}"


def _normalised(password: str) -> str:
    # The same characters come composed or not, by keyboard and system (NIST SP 800-63B, 5.1.1.2).
    return unicodedata.normalize("NFKC", password)


def _bcrypt_sha256(text: str, salt: str, rounds: int) -> str:
    import bcrypt

    digest = hmac.digest(salt.encode(), text.encode(), "sha256")
    hashed = bcrypt.hashpw(base64.b64encode(digest), f"$2b${rounds:02}${salt}".encode())
    return hashed[-31:].decode()


def _verify_argon2(password: str, hashed: str) -> bool:
    from argon2.exceptions import InvalidHashError, VerificationError

    try:
        return bool(_argon2().verify(hashed, _normalised(password)))
    except (VerificationError, InvalidHashError):
        return False


@functools.lru_cache(maxsize=1)
def _argon2() -> Any:
    from argon2 import PasswordHasher as Argon2
    from argon2 import Type

    return Argon2(time_cost=_ARGON2_TIME_COST, memory_cost=_ARGON2_MEMORY_KIB, parallelism=1, type=Type.ID)


@functools.lru_cache(maxsize=1)
def _nobodys_argon2_hash() -> str:
    salt, digest = (
        base64.b64encode(secrets.token_bytes(length)).rstrip(b"=").decode() for length in (16, 32)
    )
    return f"$argon2id$v=19$m={_ARGON2_MEMORY_KIB},t={_ARGON2_TIME_COST},p=1${salt}${digest}"
