"""The API with the chaos jobs. `CHAOS_EXIT_AT` ends the process at a given moment of the n-th enqueue."""

from __future__ import annotations

import os
import sys
from typing import Any

import uvicorn
from scalable_fastapi_system import create_app
from scalable_fastapi_system.infra.logging import configure_logging
from scalable_fastapi_system.infra.settings import load_settings
from scalable_fastapi_system.jobs.client import JobClient
from scalable_fastapi_system.kit.domain import Domain, Product

PRODUCT = Product(domains=(Domain("chaos", jobs=("tests.chaos.handlers",)),))


def exit_at(moment: str, count: int) -> None:
    """After `count` enqueues went well, the next one finds no process: before its commit, or before its push."""
    seen = 0
    original = getattr(JobClient, "notify_in" if moment == "before_commit" else "push")

    async def counted(self: JobClient, *arguments: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen > count:
            os._exit(77)
        return await original(self, *arguments)

    setattr(JobClient, "notify_in" if moment == "before_commit" else "push", counted)


def main() -> None:
    """Serves until it is told to stop."""
    settings = load_settings()
    configure_logging(settings)
    planned = os.environ.get("CHAOS_EXIT_AT")
    if planned:
        moment, _, count = planned.partition(":")
        exit_at(moment, int(count))
    app = create_app(settings, PRODUCT)
    uvicorn.run(
        app, host="127.0.0.1", port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False, log_level="warning"
    )  # fmt: skip


if __name__ == "__main__":
    main()
