"""The background work of datasets: profiling a table, and clearing away files that belong to none.

One profile runs in a process at a time, in a thread, because each may take some 200 MiB; what a process may use is
therefore known. A job that waits long for its turn is put back, so that another worker may have it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from scalable_fastapi_system.infra.storage import FileMissingError
from scalable_fastapi_system.jobs.context import JobContext
from scalable_fastapi_system.jobs.errors import FailJobError, SnoozeJobError
from scalable_fastapi_system.jobs.registry import job
from scalable_fastapi_system.jobs.schedules import cron

from domains.datasets import service
from domains.datasets.models import Dataset
from domains.datasets.profiling import ProfileRun, UnreadableTableError, workplace

_FETCH_SHARE = 0.15  # of the progress: bringing the file here
_LOOK_SECONDS = 0.25  # between two looks at a profile's progress
_WAIT_SECONDS = 5.0  # for the turn
_SNOOZE_SECONDS = 3.0

# A lock of threads and not of a loop: the embedded worker and the tests have several.
_turn = threading.Lock()


@job(
    service.PROFILE_JOB,
    timeout_seconds=900,
    max_attempts=3,
)
async def profile_dataset(ctx: JobContext, *, dataset_id: UUID) -> None:
    """Profiles an uploaded table. The profile and the end of the job are one commit. A file that is no table fails it."""
    async with _own_turn():
        async with ctx.transaction(finish=False) as session:
            dataset = await service.begin_profile(session, dataset_id=dataset_id)
        if dataset is None:
            raise FailJobError("The dataset was deleted")
        try:
            profile = await _profile(ctx, dataset)
        except (UnreadableTableError, FileMissingError) as error:
            reason = str(error)
            async with ctx.transaction(finish=False) as session:
                await service.fail_profile(
                    session, cache=ctx.resources.cache, dataset_id=dataset_id, reason=reason
                )
            raise FailJobError(reason) from error
    ctx.result = {
        "dataset_id": str(dataset_id),
        "rows": profile["rows"],
        "columns": profile["column_count"],
    }
    await ctx.progress(1.0, "done")
    async with ctx.transaction() as session:
        await service.finish_profile(
            session, cache=ctx.resources.cache, dataset_id=dataset_id, profile=profile
        )


@cron("23 * * * *")
@job("datasets.sweep", timeout_seconds=1800, max_attempts=1)
async def sweep_datasets(ctx: JobContext) -> dict[str, int]:
    """Notes the ends of jobs that left none, and deletes files that no dataset has, left by failed requests and dead processes.

    Hourly; the next one tries again.
    """
    async with ctx.resources.database.transaction() as session:
        noted = await service.note_ends(session)
    async with ctx.resources.database.transaction() as session:
        deleted = await service.delete_orphans(session, storage=ctx.resources.storage)
    return {"noted": noted, "deleted": deleted}


async def _profile(ctx: JobContext, dataset: Dataset) -> dict[str, Any]:
    with workplace() as folder:
        run = ProfileRun(folder)
        await _fetch(ctx, dataset, run.source)
        profiling = asyncio.ensure_future(asyncio.to_thread(run.run))
        profiling.add_done_callback(_look_at_error)
        try:
            while not profiling.done():
                await asyncio.wait({profiling}, timeout=_LOOK_SECONDS)
                await ctx.progress(_FETCH_SHARE + (1 - _FETCH_SHARE) * run.fraction, run.message)
            return profiling.result()
        finally:
            # A thread cannot be cancelled: it is told to stop, and the folder stays until it has.
            while not profiling.done():
                run.cancel()
                await _until_done(profiling)


async def _fetch(ctx: JobContext, dataset: Dataset, target: Path) -> None:
    arrived = 0

    def note(size: int) -> None:
        nonlocal arrived
        arrived = size

    fetching = asyncio.ensure_future(
        ctx.resources.storage.download_to(dataset.storage_key, target, on_bytes=note)
    )
    fetching.add_done_callback(_look_at_error)
    try:
        while not fetching.done():
            await asyncio.wait({fetching}, timeout=_LOOK_SECONDS)
            share = arrived / max(1, dataset.size_bytes)
            await ctx.progress(_FETCH_SHARE * share, "fetching the file")
        fetching.result()
    finally:
        fetching.cancel()


def _look_at_error(task: asyncio.Future[Any]) -> None:
    """Keeps asyncio from logging an error as overlooked: a job that is told to stop asks no more how its work ended."""
    if not task.cancelled():
        task.exception()


async def _until_done(profiling: asyncio.Future[Any]) -> None:
    try:
        await asyncio.wait({profiling})
    except asyncio.CancelledError:
        return  # asked again while the thread comes to its end; the caller goes on waiting


@asynccontextmanager
async def _own_turn() -> AsyncIterator[None]:
    until = time.monotonic() + _WAIT_SECONDS
    while not _turn.acquire(blocking=False):
        if time.monotonic() > until:
            raise SnoozeJobError(_SNOOZE_SECONDS, "another table is being profiled here")
        await asyncio.sleep(0.1)
    try:
        yield
    finally:
        _turn.release()
