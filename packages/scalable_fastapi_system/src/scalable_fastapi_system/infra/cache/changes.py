"""How processes learn of one another's changes, and what becomes of changes made while Redis was away.

`ChangeListener` hears what others have changed and drops it from this process's memory. While it does not listen,
memory is not believed (`is_listening`), and what memory holds is forgotten when it listens again.

`MissedChanges` remembers what this process changed while Redis was away. Before Redis is asked for anything again,
those entries are deleted there: a value may be lost by an outage, an old one never comes back.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson
import structlog

from scalable_fastapi_system.infra.cache.memory import MemoryLevel
from scalable_fastapi_system.infra.ending import end_tasks
from scalable_fastapi_system.infra.redis import RedisConnections

_PING_SECONDS = 3.0
_MAX_MISSED = 10_000
_log = structlog.get_logger("cache.changes")


@dataclass(slots=True)
class Changes:
    """Keys, tags and prefixes that are no longer what they were."""

    keys: set[str] = field(default_factory=set)
    tags: set[str] = field(default_factory=set)
    prefixes: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.keys or self.tags or self.prefixes)

    def __len__(self) -> int:
        return len(self.keys) + len(self.tags) + len(self.prefixes)


class MissedChanges:
    """Changes that Redis does not know of yet. Of very many it remembers only that everything may be old."""

    def __init__(self, everything: str) -> None:
        """everything: the tag that every entry has."""
        self._everything = everything
        self._changes = Changes()
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._changes)

    def add(
        self, *, keys: Iterable[str] = (), tags: Iterable[str] = (), prefixes: Iterable[str] = ()
    ) -> None:
        """Remembers these, too."""
        with self._lock:
            changes = self._changes
            changes.keys.update(keys)
            changes.tags.update(tags)
            changes.prefixes.update(prefixes)
            if len(changes) > _MAX_MISSED or self._everything in changes.tags:
                self._changes = Changes(tags={self._everything})

    def take(self) -> Changes:
        """What there is; from here on it is the caller's to make known, or to `add` again."""
        with self._lock:
            taken, self._changes = self._changes, Changes()
            return taken


class ChangeListener:
    """Listens on the loop that started it."""

    def __init__(self, redis: RedisConnections, channel: str, memory: MemoryLevel) -> None:
        self._redis = redis
        self._channel = channel
        self._memory = memory
        self._task: asyncio.Task[None] | None = None
        self.is_listening = False

    def start(self) -> None:
        """Begins to listen in the background, and goes on for as long as it takes."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="cache-changes")

    async def stop(self) -> None:
        """Stops listening. The loop must be the one of `start`."""
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
            except ValueError:
                # Somebody else publishes on our channel. What we missed by it the memory's own time limit mends.
                _log.warning("a message on the channel of changes was not understood", exc_info=True)
            finally:
                self.is_listening = False
            await asyncio.sleep(self._redis.settings.retry_after_failure_seconds)

    async def _listen(self) -> None:
        client = await self._redis.client()
        async with client.pubsub() as pubsub:
            async with asyncio.timeout(self._redis.settings.connect_timeout_seconds):
                await pubsub.subscribe(self._channel)
            is_ping_open = False
            while True:
                message = await pubsub.get_message(timeout=_PING_SECONDS)
                if message is not None:
                    is_ping_open = False
                    self._take(message)
                elif is_ping_open:
                    raise TimeoutError("no answer on the subscription")
                else:
                    is_ping_open = True
                    async with asyncio.timeout(self._redis.settings.command_timeout_seconds):
                        await pubsub.ping()

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "subscribe":
            self._memory.clear()  # whatever was said before this moment was not heard
            self.is_listening = True
        elif message["type"] == "message":
            change = orjson.loads(message["data"])
            if "" in change["tags"]:
                self._memory.clear()
            else:
                self._memory.drop(change["keys"], change["tags"])
            if change["prefix"] is not None:
                self._memory.drop_prefix(change["prefix"])
