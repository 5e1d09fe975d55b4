"""The API's composition root: `gunicorn -c services/api/gunicorn.conf.py services.api.main:app`.

Settings that do not make sense end the process here, with one line per problem and no traceback.
"""

from __future__ import annotations

import sys

from domains.registry import PRODUCT
from fastapi import FastAPI
from scalable_fastapi_system.application import create_app
from scalable_fastapi_system.infra.error_tracking import configure_error_tracking
from scalable_fastapi_system.infra.logging import configure_logging
from scalable_fastapi_system.infra.settings import load_settings
from scalable_fastapi_system.infra.tracing import configure_tracing
from scalable_fastapi_system.kit.errors import ConfigurationError


def build() -> FastAPI:
    """The configured application."""
    settings = load_settings()
    configure_logging(settings)
    configure_tracing(settings, component="api")
    configure_error_tracking(settings, component="api")
    return create_app(settings, PRODUCT)


try:
    app = build()
except ConfigurationError as error:
    sys.stderr.write(f"{error}\n")
    sys.exit(4)  # gunicorn's own code for an application that cannot be loaded
