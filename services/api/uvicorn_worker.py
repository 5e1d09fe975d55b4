"""uvicorn under gunicorn: uvloop, httptools, and the shutdown that the settings ask for."""

from __future__ import annotations

from typing import Any

from scalable_fastapi_system.infra.settings import load_settings
from uvicorn_worker import UvicornWorker

_settings = load_settings()


class ServiceWorker(UvicornWorker):  # type: ignore[misc] # its package has no types
    """One process of the API."""

    CONFIG_KWARGS: dict[str, Any] = {
        "loop": "uvloop",
        # By name: gunicorn's own process, which reads this, then has no need to import it and all that it stands on.
        "http": "services.api.protocol:PROTOCOL",
        "lifespan": "on",  # a start-up that fails ends the process and does not serve half an application
        "access_log": False,
        "server_header": False,
        "date_header": True,
        "timeout_keep_alive": _settings.api.keep_alive_seconds,
        "timeout_graceful_shutdown": int(_settings.api.shutdown_grace_seconds),
        # Addresses are judged by the platform against SECURITY__TRUSTED_PROXIES, for limits and audit alike.
        "proxy_headers": False,
    }
