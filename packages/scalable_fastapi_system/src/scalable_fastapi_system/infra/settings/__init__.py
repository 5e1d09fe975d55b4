"""Settings: one typed tree read from arguments, the environment and `.env`, in that order of strength.

Nothing is read at import. `Settings()` reads; a value that cannot be used raises `ConfigurationError` through
`load_settings`, or pydantic's ValidationError from the constructor, naming the variable to set.
"""

from scalable_fastapi_system.infra.settings.loading import load_settings
from scalable_fastapi_system.infra.settings.models import (
    APISettings,
    CacheSettings,
    DatabaseSettings,
    Environment,
    ErrorTrackingSettings,
    FeatureFlagSettings,
    HttpClientSettings,
    JobSettings,
    LoggingSettings,
    MailSettings,
    MetricsSettings,
    OIDCProviderSettings,
    OIDCSettings,
    RateLimitSettings,
    RedisSettings,
    SecuritySettings,
    Settings,
    StorageSettings,
    TracingSettings,
)

__all__ = [
    "APISettings",
    "CacheSettings",
    "DatabaseSettings",
    "Environment",
    "ErrorTrackingSettings",
    "FeatureFlagSettings",
    "HttpClientSettings",
    "JobSettings",
    "LoggingSettings",
    "MailSettings",
    "MetricsSettings",
    "OIDCProviderSettings",
    "OIDCSettings",
    "RateLimitSettings",
    "RedisSettings",
    "SecuritySettings",
    "Settings",
    "StorageSettings",
    "TracingSettings",
    "load_settings",
]
