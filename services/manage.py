"""The operators' command line of this product: `python -m services.manage --help`."""

from __future__ import annotations

import sys

from domains.registry import PRODUCT
from scalable_fastapi_system.cli import main

if __name__ == "__main__":
    sys.exit(main(product=PRODUCT))
