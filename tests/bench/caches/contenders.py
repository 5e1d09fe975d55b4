"""The contenders, each as its own documentation would have it. A library is imported in its own process alone.

`memory`: no Redis. `redis`: Redis alone, no copies in memory. `both`: Redis, and copies in memory that changes of other
processes void, which is how the platform runs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Load = Callable[[int], Awaitable[Any]]

TTL_SECONDS = 600
TAG = "all"
HERD = 100  # callers in a process


class Cache:
    """What the bench asks for. Keys are `number:N`; the decorated function is called with N."""

    cached: Callable[[int], Awaitable[Any]]

    async def open(self, redis_url: str, level: str, load: Load) -> None:
        """Connects, and decorates `load` as `cached`, tagged with TAG."""
        raise NotImplementedError

    async def close(self) -> None:
        """Disconnects."""
        raise NotImplementedError

    async def get(self, key: str) -> Any:
        """The value, None where there is none."""
        raise NotImplementedError

    async def set(self, key: str, value: Any) -> None:
        """Keeps it, without a tag."""
        raise NotImplementedError

    async def invalidate(self, tag: str) -> None:
        """Voids what has the tag."""
        raise NotImplementedError


class Ours(Cache):
    """The platform's."""

    async def open(self, redis_url: str, level: str, load: Load) -> None:
        import asyncio

        from scalable_fastapi_system.infra.cache import CacheManager, cache_response
        from scalable_fastapi_system.infra.settings import Settings

        # Patient, and with memory for as long as the others: what is measured is a hit, not how often one is.
        settings = Settings(
            _env_file=None,
            redis={"redis_url": None if level == "memory" else redis_url, "command_timeout_seconds": 10.0},
            cache={"memory_ttl_seconds": 60, **({"memory_max_bytes": 0} if level == "redis" else {})},
        )
        self._manager = manager = CacheManager(settings)
        await manager.start()
        while level == "both" and not manager.is_listening:
            await asyncio.sleep(0.01)

        @cache_response(ttl=TTL_SECONDS, tags=[TAG], manager=manager)
        async def cached(number: int) -> Any:
            return await load(number)

        self.cached = cached
        self.get = manager.get  # type: ignore[method-assign]

    async def close(self) -> None:
        await self._manager.stop()

    async def set(self, key: str, value: Any) -> None:
        await self._manager.set(key, value, TTL_SECONDS)

    async def invalidate(self, tag: str) -> None:
        await self._manager.invalidate_tag(tag)


class Cashews(Cache):
    """cashews. Its own protection against herds is within a process; `is_locked` adds the one across processes."""

    is_locked = False

    async def open(self, redis_url: str, level: str, load: Load) -> None:
        from cashews import Cache as Library

        self._library = library = Library()
        if level == "memory":
            library.setup("mem://", size=1_000_000)
        else:
            library.setup(redis_url, client_side=level == "both", socket_timeout=10, suppress=False)
        await library.init()

        @library(ttl=TTL_SECONDS, key="cached:{number}", tags=[TAG], lock=self.is_locked)
        async def cached(number: int) -> Any:
            return await load(number)

        self.cached = cached
        self.get = library.get  # type: ignore[method-assign]

    async def close(self) -> None:
        await self._library.close()

    async def set(self, key: str, value: Any) -> None:
        await self._library.set(key, value, expire=TTL_SECONDS)

    async def invalidate(self, tag: str) -> None:
        await self._library.delete_tags(tag)


class LockedCashews(Cashews):
    """The same with `lock=True`."""

    is_locked = True


CONTENDERS: dict[str, type[Cache]] = {"ours": Ours, "cashews": Cashews, "cashews, lock=True": LockedCashews}
LEVELS = ("memory", "redis", "both")
