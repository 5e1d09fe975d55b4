"""Redis for one process: connections of each event loop, short time limits, and a pause after a failure.

Everything that uses it goes on without it, so a failure here is one exception, `RedisAwayError`, that the caller has
an answer for. After a failure nobody waits for Redis again until `REDIS__RETRY_AFTER_FAILURE_SECONDS` have passed:
`is_away` is true and `call` raises at once. The first call after the pause tries again.

A connection belongs to the loop that opened it. Each loop gets its own pool, closed by `stop()` or, where nobody
calls that (a script, a test client that runs each request in a loop of its own), when the loop is shut down.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from prometheus_client import Counter

from scalable_fastapi_system.infra.settings import RedisSettings

if TYPE_CHECKING:
    from redis.asyncio import Redis

T = TypeVar("T")
_TELL_AGAIN_SECONDS = 60.0
_log = structlog.get_logger("redis")
_failures = Counter(
    "redis_failures_total", "Times that Redis did not answer or refused, and was left alone for a moment."
)


class RedisAwayError(Exception):
    """Redis is not configured, did not answer in time, or refused. The caller goes on without it."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, sent by its digest and with its text only to a server that does not know it."""

    text: str
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "digest", digest)


class RedisConnections:
    """The way to the Redis that the settings name, or to none."""

    def __init__(self, settings: RedisSettings, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self.is_configured = settings.redis_url is not None
        self._monotonic = monotonic
        self.failures = 0
        self._away_until = float("-inf")
        self._tell_again_at = float("-inf")
        self._lock = threading.Lock()
        self._by_loop: dict[asyncio.AbstractEventLoop, _LoopClient] = {}

    @property
    def is_away(self) -> bool:
        """Whether a call would be refused at once: there is no Redis, or it failed a moment ago."""
        return not self.is_configured or self._monotonic() < self._away_until

    def key(self, *parts: str) -> str:
        """A key under the prefix of this installation."""
        return ":".join((self.settings.key_prefix, *parts))

    async def client(self) -> Redis:
        """The running loop's client. Raises RedisAwayError where no Redis is configured."""
        loop = asyncio.get_running_loop()
        found = self._by_loop.get(loop)
        return found.client if found is not None else await self._open(loop)

    async def call(
        self, operation: Callable[[Redis], Awaitable[T]], *, timeout_seconds: float | None = None
    ) -> T:
        """What the operation gives. Raises RedisAwayError within the time limit, at once during the pause.

        timeout_seconds: for all of it, a new connection included; the settings' command time-out where None.
        """
        if self.is_away:
            raise RedisAwayError("Redis is away")
        return await self._call(operation, timeout_seconds)

    async def _call(self, operation: Callable[[Redis], Awaitable[T]], timeout_seconds: float | None) -> T:
        client = await self.client()
        from redis.exceptions import RedisError

        limit = self.settings.command_timeout_seconds if timeout_seconds is None else timeout_seconds
        try:
            async with asyncio.timeout(limit):
                result = await operation(client)
        except (RedisError, OSError, TimeoutError) as error:
            self.note_failure(error)
            raise RedisAwayError(f"{type(error).__name__}: {error}") from error
        self.note_success()
        return result

    async def run(
        self,
        script: Script,
        keys: Sequence[str | bytes],
        arguments: Sequence[Any] = (),
        *,
        timeout_seconds: float | None = None,
    ) -> Any:
        """What the script returns, in one round trip once the server knows it. Raises RedisAwayError."""
        return await self.call(
            lambda client: evaluate(client, script, keys, arguments), timeout_seconds=timeout_seconds
        )

    async def ping(self) -> bool:
        """Whether Redis answers now, whatever happened a moment ago. False where none is configured.

        For everyone else the pause goes on meanwhile, and ends where it does.
        """
        if not self.is_configured:
            return False
        try:
            await self._call(_ping, None)
        except RedisAwayError:
            return False
        return True

    def note_failure(self, error: BaseException) -> None:
        """Starts the pause. Tells the log of an outage when it begins and once a minute while it lasts."""
        self.failures += 1
        _failures.inc()
        now = self._monotonic()
        self._away_until = now + self.settings.retry_after_failure_seconds
        if now >= self._tell_again_at:
            self._tell_again_at = now + _TELL_AGAIN_SECONDS
            _log.warning("redis is away", problem=type(error).__name__, detail=str(error))

    def note_success(self) -> None:
        """Ends the pause."""
        if self._tell_again_at > 0:
            self._away_until = self._tell_again_at = float("-inf")
            _log.info("redis answers again")

    async def stop(self) -> None:
        """Closes the running loop's connections; those of other loops close with their loops."""
        with self._lock:
            found = self._by_loop.get(asyncio.get_running_loop())
        if found is not None:
            await found.lifeline.aclose()

    async def _open(self, loop: asyncio.AbstractEventLoop) -> Redis:
        opened = _LoopClient(self._connect(), self._lifeline(loop))
        with self._lock:
            for other in [other for other in self._by_loop if other.is_closed()]:
                del self._by_loop[other]
            self._by_loop[loop] = opened
        # Nothing in it waits before its `yield`; from here on the loop knows it and ends it at its own end.
        await anext(opened.lifeline)
        return opened.client

    async def _lifeline(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            with self._lock:
                opened = self._by_loop.pop(loop, None)
            if opened is not None:
                await opened.client.aclose()

    def _connect(self) -> Redis:
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        settings = self.settings
        if settings.redis_url is None:
            raise RedisAwayError("no Redis is configured")
        url = str(settings.redis_url)
        if settings.redis_ssl and url.startswith("redis://"):
            url = url.replace("redis://", "rediss://", 1)
        pool = BlockingConnectionPool.from_url(
            url,
            db=settings.redis_db,  # a number in the URL's path is stronger
            max_connections=settings.max_connections,
            timeout=settings.command_timeout_seconds,
            socket_connect_timeout=settings.connect_timeout_seconds,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),  # a retry is the caller's decision; here the pause is the answer
            lib_name=None,  # spares each new connection two round trips
            lib_version=None,
        )
        return Redis.from_pool(pool)


@dataclass(frozen=True, slots=True)
class _LoopClient:
    client: Redis
    lifeline: AsyncGenerator[None]


async def evaluate(client: Any, script: Script, keys: Sequence[str | bytes], arguments: Sequence[Any]) -> Any:
    """What the script returns. Raises redis-py's exceptions."""
    from redis.exceptions import NoScriptError

    try:
        return await client.evalsha(script.digest, len(keys), *keys, *arguments)
    except NoScriptError:
        return await client.eval(script.text, len(keys), *keys, *arguments)


async def _ping(client: Any) -> bool:
    return bool(await client.ping())
