"""The product: which domains it has. A new domain is a folder and one line here."""

from __future__ import annotations

from scalable_fastapi_system.kit.domain import Product

from domains.datasets.domain import DATASETS

PRODUCT = Product(
    domains=(DATASETS,),
    migrations="domains.migrations",
)
