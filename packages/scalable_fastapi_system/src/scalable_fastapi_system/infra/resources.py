"""`Resources`: everything a process shares, made once by its composition root and handed down.

The API and the worker build the same one, so that a service function gets the same stores in both. Nothing
connects before `start()`, except that a test client that never starts the application still works: each
manager then opens what it needs where it is used.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from scalable_fastapi_system.infra.cache import CacheManager
from scalable_fastapi_system.infra.database import DatabaseManager
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.infra.storage import FileStorage, create_storage
from scalable_fastapi_system.kit.domain import Product

if TYPE_CHECKING:
    from scalable_fastapi_system.infra.flags import FeatureFlags
    from scalable_fastapi_system.infra.http_client import HttpClient


class Resources:
    """Settings, product and stores of one process."""

    def __init__(self, settings: Settings, product: Product | None = None) -> None:
        """Raises TypeError where the two are not what they should be: `create_app(product)` is easily written."""
        if not isinstance(settings, Settings) or not isinstance(product, Product | None):
            raise TypeError(
                f"settings and a product are needed, and not {settings!r} and {product!r}: product=…?"
            )
        self.settings = settings
        self.product = product or Product()
        migrations = (self.product.migrations,) if self.product.migrations else ()
        self.database = DatabaseManager(settings, migrations=migrations)
        self.cache = CacheManager(settings)

    @cached_property
    def storage(self) -> FileStorage:
        """File storage; made at its first use, because the object store's library is large."""
        return create_storage(self.settings, self.database)

    @cached_property
    def http(self) -> HttpClient:
        """The client for services outside; closed by `stop()`."""
        from scalable_fastapi_system.infra.http_client import HttpClient

        return HttpClient(self.settings)

    @cached_property
    def flags(self) -> FeatureFlags:
        """Feature flags; a file that is there and wrong raises ConfigurationError here."""
        from scalable_fastapi_system.infra.flags import FeatureFlags

        return FeatureFlags(self.settings)

    async def start(self) -> None:
        """Opens pools on the running loop. Raises where the database cannot be used at all."""
        await self.database.start()
        await self.cache.start()

    async def stop(self) -> None:
        """Closes what was opened, in the opposite order."""
        await self.database.wait_for_hooks()  # which use the rest
        http: HttpClient | None = self.__dict__.pop("http", None)
        if http is not None:
            await http.close()
        await self.cache.stop()
        await self.database.stop()
