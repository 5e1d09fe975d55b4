"""Tells the other replicas that a user has changed, so that they read the user again at once.

Best effort by design: a message that is lost, and a Redis that is away, cost no more than the revocation delay, after
which everything remembered is read again anyway. After a reconnection all is forgotten, since messages may be missing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from scalable_fastapi_system.infra.ending import end_tasks
from scalable_fastapi_system.infra.redis import RedisAwayError, RedisConnections

_CHANNEL = "changed-users"
_PING_SECONDS = 3.0
# What waits for this is the answer to whoever made the change.
_PUBLISH_SECONDS = 0.2


class ChangeFeed:
    """Sends and receives the ids of users that have changed."""

    def __init__(
        self, redis: RedisConnections, *, on_user: Callable[[int], None], on_gap: Callable[[], None]
    ) -> None:
        """on_user: called with each id. on_gap: called when ids may have been missed."""
        self._redis = redis
        self._channel = redis.key(_CHANNEL)
        self._on_user = on_user
        self._on_gap = on_gap
        self._task: asyncio.Task[None] | None = None
        self.is_listening = False

    async def publish(self, user_id: int) -> None:
        """Tells the other replicas. Never raises: they find out by themselves within the delay."""
        with contextlib.suppress(RedisAwayError):
            await self._redis.call(
                lambda client: client.publish(self._channel, str(user_id)), timeout_seconds=_PUBLISH_SECONDS
            )

    def start(self) -> None:
        """Listens, on the running loop, until `stop`."""
        if self._redis.is_configured and self._task is None:
            self._task = asyncio.create_task(self._run(), name="identity-changes")

    async def stop(self) -> None:
        """Ends listening. The loop must be the one of `start`."""
        task, self._task = self._task, None
        if task is not None:
            await end_tasks([task])

    async def _run(self) -> None:
        from redis.exceptions import RedisError

        while True:
            try:
                await self._listen()
            except (RedisError, OSError, TimeoutError) as error:
                self._redis.note_failure(error)
            finally:
                self.is_listening = False
            await asyncio.sleep(self._redis.settings.retry_after_failure_seconds)

    async def _listen(self) -> None:
        settings = self._redis.settings
        client = await self._redis.client()
        async with client.pubsub() as subscription:
            async with asyncio.timeout(settings.connect_timeout_seconds):
                await subscription.subscribe(self._channel)
            is_ping_open = False
            while True:
                message = await subscription.get_message(timeout=_PING_SECONDS)
                if message is not None:
                    is_ping_open = False
                    self._take(message)
                elif is_ping_open:
                    raise TimeoutError("no answer on the subscription")
                else:
                    # A quiet connection and a dead one look the same until asked.
                    is_ping_open = True
                    async with asyncio.timeout(settings.command_timeout_seconds):
                        await subscription.ping()

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "subscribe":
            self._on_gap()  # what was said before this moment was not heard
            self.is_listening = True
        elif message["type"] == "message" and message["data"].isdigit():
            self._on_user(int(message["data"]))
