"""The worker's composition root: which product, which logging, and arq's WorkerSettings.

Exits 0 after a drain, 1 where it cannot listen, 4 where the settings are not usable.
"""

from __future__ import annotations

import sys
from typing import Any

from arq.worker import get_kwargs
from scalable_fastapi_system.infra.error_tracking import configure_error_tracking
from scalable_fastapi_system.infra.logging import configure_logging
from scalable_fastapi_system.infra.settings import load_settings
from scalable_fastapi_system.infra.tracing import configure_tracing
from scalable_fastapi_system.kit.errors import ConfigurationError
from scalable_fastapi_system.worker import create_worker

EXIT_SETTINGS = 4


class WorkerSettings:
    """arq's settings for this service, over the defaults of `DurableWorker`.

    Functions, Redis and the size of the worker come from the platform's own settings (`JOBS__…`, `REDIS__…`); hooks of
    arq's (`on_startup`, `on_shutdown`) may be named here and get arq's context.
    """

    # a poll waits for its hint by itself
    poll_delay = 0.0
    # an unreachable Redis is the engine's affair, not a reason to forget results that are kept in the database
    keep_result = 0
    allow_abort_jobs = False


def main() -> int:
    """Runs the worker until it is told to stop; the exit code."""
    from domains.registry import PRODUCT

    try:
        settings = load_settings()
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_SETTINGS
    configure_logging(settings)
    configure_tracing(settings, component="worker")
    configure_error_tracking(settings, component="worker")
    options: dict[str, Any] = get_kwargs(dict(vars(WorkerSettings)))
    return create_worker(settings, PRODUCT, arq_options=options).run()
