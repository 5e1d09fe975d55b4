"""The API with this product, composed as `services.api.main` composes it with its own."""

from __future__ import annotations

from scalable_fastapi_system.application import create_app
from scalable_fastapi_system.infra.logging import configure_logging
from scalable_fastapi_system.infra.settings import load_settings
from scalable_fastapi_system.infra.tracing import configure_tracing

from tests.bench.product.registry import PRODUCT

settings = load_settings()
configure_logging(settings)
configure_tracing(settings, component="api")
app = create_app(settings, PRODUCT)
