"""The cache: `CacheManager` and `cache_response`. See docs/caching.md."""

from scalable_fastapi_system.infra.cache.codec import CacheValueError
from scalable_fastapi_system.infra.cache.manager import CacheManager
from scalable_fastapi_system.infra.cache.responses import (
    CachedFunction,
    cache_response,
    default_cache,
    set_default_cache,
)

__all__ = [
    "CacheManager",
    "CacheValueError",
    "CachedFunction",
    "cache_response",
    "default_cache",
    "set_default_cache",
]
