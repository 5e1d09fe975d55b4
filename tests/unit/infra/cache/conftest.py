"""A cache in memory that is also the one that functions find by themselves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scalable_fastapi_system.infra.cache import CacheManager, set_default_cache
from scalable_fastapi_system.infra.settings import Settings


@pytest.fixture
def manager(make_settings: Callable[..., Settings]) -> CacheManager:
    manager = CacheManager(make_settings())
    set_default_cache(manager)
    return manager
