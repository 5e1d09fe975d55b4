"""A worker with the chaos jobs. `CHAOS_CLOCK_SKEW_SECONDS` moves its clock, `CHAOS_CRON` lets it run schedules,
`CHAOS_NEW_KIND` makes it the new version that knows one kind more."""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime, timedelta

_SKEW_SECONDS = float(os.environ.get("CHAOS_CLOCK_SKEW_SECONDS", "0"))
if _SKEW_SECONDS:
    # before anything of the product takes the functions over
    from scalable_fastapi_system.kit import clock

    _true_time = time.time
    clock.utc_now = lambda: datetime.now(UTC) + timedelta(seconds=_SKEW_SECONDS)
    time.time = lambda: _true_time() + _SKEW_SECONDS

from scalable_fastapi_system.infra.logging import configure_logging  # noqa: E402
from scalable_fastapi_system.infra.settings import load_settings  # noqa: E402
from scalable_fastapi_system.jobs import schedules as declared  # noqa: E402
from scalable_fastapi_system.kit.domain import Domain, Product  # noqa: E402
from scalable_fastapi_system.worker import create_worker  # noqa: E402

PRODUCT = Product(domains=(Domain("chaos", jobs=("tests.chaos.handlers",)),))


def main() -> int:
    """Runs the worker to its end."""
    settings = load_settings()
    configure_logging(settings)
    PRODUCT.load_jobs()
    if "CHAOS_CRON" not in os.environ:
        declared.schedules.clear()
    return create_worker(settings, PRODUCT).run()


if __name__ == "__main__":
    sys.exit(main())
