"""From STORAGE__URL to a back end. The back end's own library is imported here, when it is chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from scalable_fastapi_system.infra.storage.base import FileStorage
from scalable_fastapi_system.kit.errors import ConfigurationError

if TYPE_CHECKING:
    from scalable_fastapi_system.infra.database import DatabaseManager
    from scalable_fastapi_system.infra.settings import Settings

OBJECT_STORE_SCHEMES = frozenset({"s3", "gs", "az"})


def create_storage(settings: Settings, database: DatabaseManager) -> FileStorage:
    """The storage that the settings name. Connects to nothing; raises ConfigurationError for a URL it cannot use."""
    url = str(settings.storage.url)
    scheme = urlsplit(url).scheme
    if scheme == "database":
        from scalable_fastapi_system.infra.storage.database import DatabaseStorage

        return DatabaseStorage(settings, database)
    if scheme == "file" or scheme in OBJECT_STORE_SCHEMES:
        from scalable_fastapi_system.infra.storage.objects import ObjectStorage

        return ObjectStorage(settings)
    raise ConfigurationError(
        f"STORAGE__URL: unknown storage {scheme or 'scheme'!r}: use file:///folder, s3://bucket/prefix, "
        "gs://bucket/prefix, az://container/prefix or database://"
    )
