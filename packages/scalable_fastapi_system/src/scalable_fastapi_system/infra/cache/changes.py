"""How processes learn of one another's changes, and what becomes of changes made while Redis was away.

`ChangeListener` hears what others have changed and drops it from this process's memory. While it does not listen,
memory is not believed (`is_listening`), and what memory holds is forgotten when it listens again.

`MissedChanges` remembers what this process changed while Redis was away. Before Redis is asked for anything again,
those entries are deleted there: a value may be lost by an outage, an old one never comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import structlog

from scalable_fastapi_system.infra.cache.memory import MemoryLevel
from scalable_fastapi_system.infra.cache.shared import Lock
from scalable_fastapi_system.infra.ending import end_tasks
from scalable_fastapi_system.infra.redis import RedisConnections

_PING_SECONDS = 3.0
_MAX_MISSED = 10_000
_log = structlog.get_logger("cache.changes")


@dataclass(slots=True)
class Changes:
    """Keys, tags and prefixes that are no longer what they were, and locks that nobody in this process has any more."""

    keys: set[str] = field(default_factory=set)
    tags: set[str] = field(default_factory=set)
    prefixes: set[str] = field(default_factory=set)
    locks: set[Lock] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.keys or self.tags or self.prefixes or self.locks)


class MissedChanges:
    """Changes that Redis does not know of yet. Of very many it remembers only that everything may be old."""

    def __init__(self, everything: str) -> None:
        """everything: the tag that every entry has."""
        self._everything = everything
        self._changes = Changes()
        self._being_told = Changes()
        # Re-entrant: a coroutine that the collector closes in the middle of `add` comes by here, too.
        self._lock = threading.RLock()

    def __bool__(self) -> bool:
        """Whether there is any, those that are just being told to Redis among them."""
        # Without the lock they could be seen in neither place while they go from one to the other.
        with self._lock:
            return bool(self._changes) or bool(self._being_told)

    def add(
        self,
        *,
        keys: Iterable[str] = (),
        tags: Iterable[str] = (),
        prefixes: Iterable[str] = (),
        locks: Iterable[Lock] = (),
    ) -> None:
        """Remembers these, too."""
        with self._lock:
            self._add(Changes(set(keys), set(tags), set(prefixes), set(locks)))

    @contextlib.contextmanager
    def telling(self) -> Iterator[Changes]:
        """What there is, to be told to Redis in the block. Where that raises, all of it is still missed.

        One at a time: whoever enters while another one is inside would lose what that one has.
        """
        with self._lock:
            taken = self._being_told = self._changes
            self._changes = Changes()
        try:
            yield taken
        except BaseException:
            with self._lock:
                self._add(taken)
                self._being_told = Changes()
            raise
        with self._lock:
            self._being_told = Changes()

    def _add(self, more: Changes) -> None:
        changes = self._changes
        changes.keys |= more.keys
        changes.tags |= more.tags
        changes.prefixes |= more.prefixes
        if len(changes.locks) < _MAX_MISSED:  # beyond that they end by themselves, in their time
            changes.locks |= more.locks
        count = len(changes.keys) + len(changes.tags) + len(changes.prefixes)
        if count > _MAX_MISSED or self._everything in changes.tags:
            self._changes = Changes(tags={self._everything}, locks=changes.locks)


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
