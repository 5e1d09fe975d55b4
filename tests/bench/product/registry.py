"""The product, as `domains/registry.py` would list it."""

from __future__ import annotations

from scalable_fastapi_system.kit.domain import Product

from tests.bench.product.items.domain import ITEMS

PRODUCT = Product(domains=(ITEMS,), migrations="tests.bench.product.migrations")
