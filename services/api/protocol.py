"""uvicorn's HTTP protocol with the limits that the settings name: httptools, with limits for slow clients."""

from __future__ import annotations

from scalable_fastapi_system.infra.settings import load_settings
from scalable_fastapi_system.web.http_protocol import http_protocol

PROTOCOL = http_protocol(load_settings())
