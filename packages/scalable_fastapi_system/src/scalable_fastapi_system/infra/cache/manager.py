"""`CacheManager`: values for a while, in memory and in Redis, for every event loop and thread of a process.

With Redis configured, Redis holds the entries and memory holds copies for moments; processes tell one another what
they change. Without it memory is all there is, and each process has its own.

No caller ever sees an error of Redis. While it is away, memory stands in: what it has is used for up to a minute,
what is set stays in this process for up to a minute, and everything that was changed meanwhile is deleted in Redis
before Redis is believed again.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from scalable_fastapi_system.infra.cache import metrics
from scalable_fastapi_system.infra.cache.changes import ChangeListener, MissedChanges
from scalable_fastapi_system.infra.cache.codec import decode, encode
from scalable_fastapi_system.infra.cache.loading import Loaded, Recipe, SingleFlight
from scalable_fastapi_system.infra.cache.memory import Entry, MemoryLevel
from scalable_fastapi_system.infra.cache.names import names_of
from scalable_fastapi_system.infra.cache.settling import Settling
from scalable_fastapi_system.infra.cache.shared import (
    EVERYTHING,
    SHORTEST_SECONDS,
    Lock,
    SharedEntry,
    SharedLevel,
    change_message,
)
from scalable_fastapi_system.infra.cache.warming import WarmFunction, Warming
from scalable_fastapi_system.infra.redis import RedisAwayError, RedisConnections
from scalable_fastapi_system.infra.settings import Settings

Seconds = float | timedelta

STAND_IN_SECONDS = 60.0
_NEVER = float("-inf")
_CHUNK = 1000


class CacheManager:
    """The cache of one process. Values come back as plain JSON types (see `codec`)."""

    def __init__(
        self,
        settings: Settings,
        *,
        redis: RedisConnections | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connects to nothing yet. redis: connections to share, else its own."""
        self.settings = settings.cache
        self.redis = redis or RedisConnections(settings.redis)
        self.memory = MemoryLevel(self.settings.memory_max_bytes)
        self.shared = SharedLevel(self.redis)
        self.now = monotonic
        self.flights = SingleFlight(self)
        self._warming = Warming(self)
        self._listener = ChangeListener(self.redis, self.shared.channel, self.memory)
        self._missed = MissedChanges(EVERYTHING)
        self._settling = Settling(self.shared, self._missed)

    # -- reading ------------------------------------------------------------------------------------

    async def get(self, key: str, default: Any = None) -> Any:
        """The value, or `default` where there is none. A None that was set is a value."""
        entry = await self._find(key)
        return default if entry is None else decode(entry.payload)

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of those keys that have one, in at most one round trip."""
        found: dict[str, Entry] = {}
        missing: list[str] = []
        now = self.now()
        for key in dict.fromkeys(keys):
            entry = self.in_memory(key, now)
            if entry is not None and now < entry.fresh_until:
                found[key] = entry
            else:
                missing.append(key)
        found |= await self._read(missing)
        return {key: decode(entry.payload) for key, entry in found.items()}

    async def _find(self, key: str) -> Entry | None:
        now = self.now()
        entry = self.in_memory(key, now)
        if entry is not None and now < entry.fresh_until:
            return entry
        return (await self._read((key,))).get(key)

    async def _read(self, keys: Sequence[str]) -> dict[str, Entry]:
        if not keys or self.redis.is_away:
            return {}
        mark = self.memory.mark()
        try:
            await self.settle()
            answers = await self.shared.read(keys)
        except RedisAwayError:
            now = self.now()
            standing_in = {key: self.in_memory(key, now) for key in keys}
            return {key: entry for key, entry in standing_in.items() if entry and now < entry.fresh_until}
        return {
            key: self.keep(key, answer, since=mark)
            for key, answer in zip(keys, answers, strict=True)
            if answer is not None and answer.fresh_seconds > 0
        }

    async def get_or_load(
        self,
        key: str,
        load: Callable[[], Awaitable[Any]],
        *,
        ttl: Seconds | None = None,
        stale_seconds: float = 0.0,
        stale_on_error_seconds: float = 0.0,
        negative_ttl: Seconds = 30.0,
        tags: str | Sequence[str] = (),
        is_refreshed_in_background: bool = True,
    ) -> Any:
        """The value, from `await load()` where there is none: called once, however many callers and processes ask.

        stale_seconds: for so long after its life the old value is given while one caller loads the new one.
        stale_on_error_seconds: for so long after its life the old value is given where loading fails. Errors with
            a 4xx status are answers and are raised.
        negative_ttl: the life of a None, at most `ttl`; 0 keeps none.
        tags: one, or several, for `invalidate_tag`.
        is_refreshed_in_background: False where `load` uses what ends with the request, such as its session.
        Raises what `load` raises, CacheValueError for what JSON cannot say; for names as `set`.
        """
        fresh = self.fresh(key)
        if fresh is not None:
            return decode(fresh.payload)
        tags = names_of(tags)
        _check_names((key, *tags))
        seconds = self.seconds(ttl)
        recipe = Recipe(
            seconds,
            stale_seconds,
            stale_on_error_seconds,
            min(seconds, plain_seconds(negative_ttl)),
            tags,
            is_refreshed_in_background,
        )

        async def loaded() -> Loaded:
            value = await load()
            return Loaded(encode(value), is_negative=value is None)

        return decode((await self.flights.entry(key, loaded, recipe)).payload)

    # -- writing ------------------------------------------------------------------------------------

    async def set(
        self, key: str, value: Any, ttl: Seconds | None = None, *, tags: str | Sequence[str] = ()
    ) -> None:
        """Keeps the value for `ttl` seconds (the settings' default where None). tags: one, or several.

        Raises CacheValueError for what JSON cannot say, ValueError for a life that is not positive. A key or tag that
        is no str is a TypeError, one that UTF-8 cannot say a ValueError.
        """
        await self.set_many({key: value}, ttl, tags=tags)

    async def set_many(
        self, values: Mapping[str, Any], ttl: Seconds | None = None, *, tags: str | Sequence[str] = ()
    ) -> None:
        """Keeps all these values, in one round trip for each thousand."""
        tags = names_of(tags)
        _check_names((*values, *tags))
        seconds = self.seconds(ttl)
        payloads = [(key, encode(value)) for key, value in values.items()]
        for start in range(0, len(payloads), _CHUNK):
            await self._set_some(payloads[start : start + _CHUNK], seconds, tags)

    async def _set_some(
        self, payloads: Sequence[tuple[str, bytes]], seconds: float, tags: tuple[str, ...]
    ) -> None:
        keys = [key for key, _ in payloads]
        if not self.redis.is_configured:
            self.memory.drop(keys)  # whoever is loading one of them now has an older value
            for key, payload in payloads:
                self.put_alone(key, payload, seconds, tags=tags)
            return
        try:
            await self.settle()
            await self.shared.store_many(
                payloads, life_seconds=seconds, tags=tags, message=change_message(keys=keys)
            )
        except RedisAwayError:
            self._missed.add(keys=keys)
            self.memory.drop(keys)
            for key, payload in payloads:
                self.put_alone(key, payload, seconds, tags=tags)
        except BaseException:
            self._missed.add(keys=keys)  # ended on the way, as by a cancel: nobody knows whether it arrived
            self.memory.drop(keys)
            raise
        else:
            # Of two writers at once only Redis knows who was last, so the next reader asks Redis.
            self.memory.drop(keys)

    async def delete(self, *keys: str) -> int:
        """Deletes the entries of these keys, everywhere. How many there were, as far as it is known."""
        gone = 0
        for start in range(0, len(keys), _CHUNK):
            gone += await self._drop(keys=keys[start : start + _CHUNK])
        return gone

    async def delete_prefix(self, prefix: str) -> int:
        """Deletes every entry whose key begins so. Walks through all keys of the Redis: for many, use tags."""
        if not prefix:
            raise ValueError("an empty prefix means everything: that is `clear()`")
        return await self._drop(prefix=prefix)

    async def invalidate_tag(self, *tags: str) -> None:
        """Voids every entry that was set or loaded with one of these tags, at the cost of one round trip."""
        if not all(tags):
            raise ValueError("a tag is not empty")
        await self._drop(tags=tags)

    async def clear(self) -> None:
        """Voids every entry at once, then frees what they took."""
        await self._drop(tags=(EVERYTHING,))
        if not self.redis.is_away:
            await self._drop(prefix="")

    async def _drop(
        self, *, keys: Sequence[str] = (), tags: Sequence[str] = (), prefix: str | None = None
    ) -> int:
        prefixes = () if prefix is None else (prefix,)
        _check_names((*keys, *tags, *prefixes))
        gone = sum(self.memory.get(key) is not None for key in keys)
        try:
            if self.redis.is_configured:
                gone = await self._drop_shared(keys, tags, prefix)
        except RedisAwayError:
            self._missed.add(keys=keys, tags=tags, prefixes=prefixes)
        except BaseException:
            self._missed.add(keys=keys, tags=tags, prefixes=prefixes)
            raise
        finally:
            if EVERYTHING in tags:
                self.memory.clear()
            else:
                self.memory.drop(keys, tags)
            if prefix is not None:
                self.memory.drop_prefix(prefix)
        return gone

    async def _drop_shared(self, keys: Sequence[str], tags: Sequence[str], prefix: str | None) -> int:
        await self.settle()
        gone = 0
        if keys or tags:
            gone = await self.shared.drop(keys, tags, change_message(keys=keys, tags=tags))
        if prefix is not None:
            gone += await self.shared.drop_prefix(prefix, change_message(prefix=prefix))
        return gone

    # -- warming ------------------------------------------------------------------------------------

    def warm(
        self,
        function: WarmFunction,
        *,
        every_seconds: float | None = None,
        ttl: Seconds | None = None,
        tags: str | Sequence[str] = (),
        name: str | None = None,
    ) -> None:
        """Calls the function when the process starts and, with `every_seconds`, again and again; in one process of all.

        It sets what it wants by itself, or returns a mapping of keys to values, which are kept for `ttl`.
        """
        self._warming.add(
            function,
            every_seconds=every_seconds,
            ttl_seconds=self.seconds(ttl),
            tags=names_of(tags),
            name=name,
        )

    # -- running ------------------------------------------------------------------------------------

    async def health_check(self) -> str:
        """`healthy` or `unhealthy`: whether the Redis that is configured answers; without one, `healthy`."""
        return "healthy" if not self.redis.is_configured or await self.redis.ping() else "unhealthy"

    async def start(self) -> None:
        """Listens for changes of other processes, makes known what Redis has missed, and warms: in the running loop's
        background. Redis may be away.
        """
        if self.redis.is_configured:
            self._listener.start()
            self._settling.start()
        self._warming.start()

    async def stop(self) -> None:
        """Ends what runs in the background and closes the running loop's connections."""
        await self._warming.stop()
        await self.flights.stop()
        await self._settling.stop()
        await self._listener.stop()
        await self.redis.stop()

    @property
    def is_listening(self) -> bool:
        """Whether changes of other processes are heard, so that memory may be believed for a moment."""
        return self._listener.is_listening

    # -- for the parts of this package ----------------------------------------------------------------

    def seconds(self, ttl: Seconds | None) -> float:
        """A life in seconds. Raises ValueError where it is not positive."""
        if ttl is None:
            return float(self.settings.default_ttl_seconds)
        seconds = plain_seconds(ttl)
        if not SHORTEST_SECONDS <= seconds < float("inf"):
            raise ValueError(f"an entry lives for at least a millisecond, not {seconds} s")
        return seconds

    def in_memory(self, key: str, now: float) -> Entry | None:
        """What memory has and may be believed, stale or fresh."""
        entry = self.memory.get(key)
        if entry is None or now >= entry.expires_at:
            return None
        if now < entry.trusted_until and (self._listener.is_listening or not self.redis.is_configured):
            return entry
        return entry if now < entry.stands_in_until and self.redis.is_away else None

    def fresh(self, key: str) -> Entry | None:
        """What memory has, may be believed and is fresh: the answer to most reads."""
        now = self.now()
        entry = self.in_memory(key, now)
        if entry is None or now >= entry.fresh_until:
            return None
        metrics.read_memory.inc()
        return entry

    def keep(self, key: str, found: SharedEntry, *, since: int) -> Entry:
        """Copies what Redis has into memory, unless it was changed since."""
        now = self.now()
        trusted_until = now + self.settings.memory_ttl_seconds
        expires_at = now + found.life_seconds
        entry = Entry(
            found.payload,
            fresh_until=now + found.fresh_seconds,
            expires_at=expires_at,
            trusted_until=min(trusted_until, expires_at),
            stands_in_until=min(trusted_until + STAND_IN_SECONDS, expires_at),
            tags=found.tags,
        )
        if self.memory.max_bytes:
            self.memory.put(key, entry, since=since)
        return entry

    def put_alone(
        self,
        key: str,
        payload: bytes,
        fresh_seconds: float,
        *,
        life_seconds: float | None = None,
        tags: tuple[str, ...] = (),
        since: int | None = None,
    ) -> Entry:
        """Keeps a value in memory alone: for its whole life where there is no Redis, else for a minute at the most."""
        now = self.now()
        life = fresh_seconds if life_seconds is None else life_seconds
        if self.redis.is_configured:
            fresh_seconds, life = min(fresh_seconds, STAND_IN_SECONDS), min(life, STAND_IN_SECONDS)
        entry = Entry(
            payload,
            fresh_until=now + fresh_seconds,
            expires_at=now + life,
            trusted_until=_NEVER if self.redis.is_configured else now + life,
            stands_in_until=now + life,
            tags=tags,
        )
        self.memory.put(key, entry, since=since)
        return entry

    async def forget(self, keys: Sequence[str], tags: Sequence[str]) -> None:
        """Deletes keys and voids tags in one round trip."""
        await self._drop(keys=keys, tags=tags)

    def note_missed(self, key: str) -> None:
        """Has the entry deleted in Redis before Redis is asked again."""
        self._missed.add(keys=(key,))

    def note_left(self, lock: Lock) -> None:
        """Has a lock ended that Redis may have given, or may give yet, to a caller who is gone."""
        self._missed.add(locks=(lock,))

    async def settle(self) -> None:
        """Makes known what Redis has missed. Raises RedisAwayError while it is not known there: use memory."""
        await self._settling.settle()


def _check_names(names: Iterable[Any]) -> None:
    """Raises TypeError for what is no text, ValueError for text that cannot be sent.

    Before anything is remembered as missed: what cannot be said would be tried again for ever.
    """
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"keys, tags and prefixes are str, not {type(name).__name__}: {name!r}")
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{name!r} has a half of a character and cannot be part of a key") from None


def plain_seconds(value: Seconds) -> float:
    """The same in seconds."""
    return value.total_seconds() if isinstance(value, timedelta) else float(value)
