"""The operators' command line for this product."""

from __future__ import annotations

import sys

from scalable_fastapi_system.cli import main

from tests.bench.product.registry import PRODUCT

if __name__ == "__main__":
    sys.exit(main(product=PRODUCT))
