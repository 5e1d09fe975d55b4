"""What this domain brings to the platform."""

from __future__ import annotations

from scalable_fastapi_system.kit.domain import Domain

ITEMS = Domain(
    name="items",
    models=("tests.bench.product.items.models",),
    routes=("tests.bench.product.items.routes:router",),
    jobs=("tests.bench.product.items.jobs",),
)
