"""The worker inside the API's process, where nobody started the application: it ends when nothing is left to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.jobs import JobRegistry
from scalable_fastapi_system.jobs.embedded import EmbeddedWorker

from tests.integration.jobs.conftest import FAST
from tests.integration.jobs.harness import Lab

pytestmark = pytest.mark.databases("sqlite")


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


async def test_an_idle_worker_ends_also_where_the_database_was_away_when_it_looked(
    make_settings: Callable[..., Settings], database_section: dict[str, Any], registry: JobRegistry
) -> None:
    lab = Lab(make_settings(database=database_section, jobs=FAST), registry)
    await lab.start()
    embedded = EmbeddedWorker(lab.resources, registry=registry)
    embedded.start()
    await until(lambda: embedded._worker is not None)
    assert embedded._worker is not None
    store: Any = embedded._worker.engine.store
    thread = embedded._thread
    assert thread is not None
    looks: list[int] = []
    count = store.count

    async def count_or_fail() -> Any:
        looks.append(len(looks))
        if len(looks) <= 2:
            raise ConnectionRefusedError("the database is away")
        return await count()

    store.count = count_or_fail
    await until(lambda: not thread.is_alive())
    assert len(looks) >= 3
    await lab.stop()
