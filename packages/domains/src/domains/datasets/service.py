"""Datasets: what may be done with them, for requests and for the worker alike. Nothing here commits.

The file comes before the row: a row always has its file, a file without a row (its transaction failed, or the
process died) is found by `delete_orphans`. A dataset is its owner's alone; to anyone else it does not exist.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from scalable_fastapi_system.infra.cache import CacheManager
from scalable_fastapi_system.infra.database import on_commit
from scalable_fastapi_system.infra.storage import FileStorage
from scalable_fastapi_system.jobs.enqueueing import enqueue
from scalable_fastapi_system.jobs.states import JobState
from scalable_fastapi_system.kit.clock import utc_now
from scalable_fastapi_system.kit.errors import NotFoundException
from scalable_fastapi_system.kit.ids import new_id
from scalable_fastapi_system.kit.pagination import Page, decode_cursor, page_of
from scalable_fastapi_system.tasks import service as tasks
from sqlalchemy.ext.asyncio import AsyncSession

from domains.datasets import repository
from domains.datasets.models import Dataset, DatasetStatus

PROFILE_JOB = "datasets.profile"

FOLDER = "datasets"
REPORT_TTL_SECONDS = 3600  # it never changes; only how long memory is spent on one that nobody reads
_ORPHAN_AGE = timedelta(days=1)  # longer than any upload takes from its file to its row
_KEYS_AT_ONCE = 500
_ROWS_AT_ONCE = 500
_UNFINISHED = frozenset({DatasetStatus.QUEUED, DatasetStatus.PROFILING})
_STATUS_OF_JOB = {
    JobState.SCHEDULED: DatasetStatus.QUEUED,
    JobState.QUEUED: DatasetStatus.QUEUED,
    JobState.RUNNING: DatasetStatus.PROFILING,
    JobState.CANCELLED: DatasetStatus.CANCELLED,
    JobState.FAILED: DatasetStatus.FAILED,
    JobState.QUARANTINED: DatasetStatus.FAILED,
}
_NO_PROFILE = "The profile could not be made; the task tells more, as long as it is kept."

_log = structlog.get_logger("datasets")


async def create(
    session: AsyncSession, *, storage: FileStorage, owner_id: int, name: str, content: AsyncIterable[bytes]
) -> Dataset:
    """Stores the file, then the dataset and its profiling job with the caller's commit.

    The session is not used before the file is stored, so a slow upload holds no connection. Raises what `content`
    and the storage raise.
    """
    dataset_id, task_id = new_id(), new_id()
    key = f"{FOLDER}/{dataset_id}"
    stored = await storage.put(key, content, content_type="text/csv")
    dataset = Dataset(
        id=dataset_id,
        owner_id=owner_id,
        task_id=task_id,
        name=name,
        storage_key=key,
        size_bytes=stored.size_bytes,
        sha256=stored.sha256 or "",
    )
    try:
        await repository.add(session, dataset)
        await enqueue(
            session,
            PROFILE_JOB,
            job_id=task_id,
            owner_id=owner_id,
            dataset_id=dataset_id,
        )
    except BaseException:
        await _delete_file(storage, key)
        raise
    return dataset


async def report(
    session: AsyncSession, *, cache: CacheManager, dataset_id: UUID, owner_id: int
) -> dict[str, Any]:
    """The dataset with its profile. Cached once it is ready. Raises NotFoundException for anyone but its owner."""
    found: dict[str, Any] | None = None

    async def load() -> dict[str, Any] | None:
        nonlocal found
        dataset = await repository.find(session, dataset_id=dataset_id, owner_id=owner_id)
        if dataset is None:
            return None
        found = {**await _summary(session, dataset), "owner_id": owner_id, "profile": dataset.profile}
        return found if found["status"] == DatasetStatus.READY else None

    cached = await cache.get_or_load(
        _cache_key(dataset_id), load, ttl=REPORT_TTL_SECONDS, negative_ttl=0, is_refreshed_in_background=False
    )
    answer = cached or found
    if answer is None:
        # Nothing of this owner's, or another caller's look that found nothing final was shared: look ourselves.
        await load()
        answer = found
    if answer is None or answer["owner_id"] != owner_id:
        raise NotFoundException("There is no such dataset")
    return {name: value for name, value in answer.items() if name != "owner_id"}


async def find_page(
    session: AsyncSession, *, owner_id: int, limit: int, cursor: str | None
) -> Page[dict[str, Any]]:
    """The owner's datasets from the newest on, without profiles. Raises ValidationException for a foreign cursor."""
    before = decode_cursor(cursor, types=[UUID])[0] if cursor else None
    rows = await repository.page(session, owner_id=owner_id, before=before, limit=limit + 1)
    page = page_of(rows, limit=limit, key=lambda row: [row.id])
    waiting = [row.task_id for row in page.items if row.status != DatasetStatus.READY]
    states = await tasks.find_states(session, job_ids=waiting)
    return Page([_described(row, states.get(row.task_id)) for row in page.items], page.next_cursor)


async def delete(
    session: AsyncSession, *, storage: FileStorage, cache: CacheManager, dataset_id: UUID, owner_id: int
) -> None:
    """Deletes the dataset and stops its job with the commit, and its file after it.

    Raises NotFoundException for anyone but its owner.
    """
    dataset = await repository.find(session, dataset_id=dataset_id, owner_id=owner_id)
    if dataset is None:
        raise NotFoundException("There is no such dataset")
    await repository.remove(session, dataset_id=dataset_id)
    with contextlib.suppress(NotFoundException):  # ended so long ago that it was cleared away
        await tasks.cancel(session, job_id=dataset.task_id, owner=owner_id)
    key = dataset.storage_key

    async def forget() -> None:
        await cache.delete(_cache_key(dataset_id))
        await _delete_file(storage, key)

    on_commit(session, forget)


# -- for the worker -----------------------------------------------------------------------------------------


async def begin_profile(session: AsyncSession, *, dataset_id: UUID) -> Dataset | None:
    """Marks the dataset as being profiled. None where it was deleted."""
    await repository.change(session, dataset_id=dataset_id, status=DatasetStatus.PROFILING, error=None)
    return await repository.find_any(session, dataset_id=dataset_id)


async def finish_profile(
    session: AsyncSession, *, cache: CacheManager, dataset_id: UUID, profile: dict[str, Any]
) -> None:
    """Stores the profile."""
    await repository.change(
        session,
        dataset_id=dataset_id,
        status=DatasetStatus.READY,
        error=None,
        profile=profile,
        row_count=profile["rows"],
        column_count=profile["column_count"],
        profiled_at=utc_now(),
    )
    on_commit(session, lambda: _forget_report(cache, dataset_id))


async def fail_profile(session: AsyncSession, *, cache: CacheManager, dataset_id: UUID, reason: str) -> None:
    """Notes why there will be no profile, in words for the owner."""
    await repository.change(session, dataset_id=dataset_id, status=DatasetStatus.FAILED, error=reason)
    on_commit(session, lambda: _forget_report(cache, dataset_id))


async def note_ends(session: AsyncSession) -> int:
    """Writes down how jobs ended that left no word in the dataset, before they are cleared away; how many there were."""
    noted = 0
    after: UUID | None = None
    while rows := await repository.with_status(session, _UNFINISHED, after=after, limit=_ROWS_AT_ONCE):
        after = rows[-1].id
        states = await tasks.find_states(session, job_ids=[row.task_id for row in rows])
        for row in rows:
            shown = _described(row, states.get(row.task_id))
            if shown["status"] not in _UNFINISHED:
                noted += await repository.change(
                    session,
                    dataset_id=row.id,
                    only_from=_UNFINISHED,
                    status=shown["status"],
                    error=shown["error"],
                )
    return noted


async def delete_orphans(session: AsyncSession, *, storage: FileStorage, now: datetime | None = None) -> int:
    """Deletes files that no dataset has, and uploads that never ended; how many there were."""
    before = (now or utc_now()) - _ORPHAN_AGE
    deleted = await storage.delete_incomplete(older_than_seconds=_ORPHAN_AGE.total_seconds())
    keys: list[str] = []
    async for file in storage.list(FOLDER):
        if file.modified_at < before:
            keys.append(file.key)
        if len(keys) == _KEYS_AT_ONCE:
            deleted += await _delete_unknown(session, storage, keys)
            keys = []
    return deleted + await _delete_unknown(session, storage, keys)


async def _delete_unknown(session: AsyncSession, storage: FileStorage, keys: Sequence[str]) -> int:
    unknown = set(keys) - await repository.known_keys(session, keys) if keys else set()
    for key in unknown:
        await storage.delete(key)
    return len(unknown)


# -- inside -------------------------------------------------------------------------------------------------


async def _summary(session: AsyncSession, dataset: Dataset) -> dict[str, Any]:
    states: dict[UUID, JobState] = {}
    if dataset.status != DatasetStatus.READY:
        states = await tasks.find_states(session, job_ids=[dataset.task_id])
    return _described(dataset, states.get(dataset.task_id))


def _described(row: Any, state: JobState | None) -> dict[str, Any]:
    """A dataset as it is shown. While its row or its job waits for an end the job knows better.

    It may have been cancelled, or be tried again.
    """
    status, error = DatasetStatus(row.status), row.error
    if status in _UNFINISHED or (state is not None and not state.is_terminal):
        # A job that succeeded between the two looks leaves what the row says. One that is gone did not: ended jobs are
        # kept for a day at the least.
        status = DatasetStatus.FAILED if state is None else _STATUS_OF_JOB.get(state, status)
        error = _NO_PROFILE if status is DatasetStatus.FAILED else None
    return {
        "id": str(row.id),
        "task_id": str(row.task_id),
        "name": row.name,
        "status": status.value,
        "error": error,
        "size_bytes": row.size_bytes,
        "sha256": row.sha256,
        "row_count": row.row_count,
        "column_count": row.column_count,
        "created_at": _iso(row.created_at),
        "profiled_at": _iso(row.profiled_at),
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _cache_key(dataset_id: UUID) -> str:
    return f"datasets:report:{dataset_id}"


async def _forget_report(cache: CacheManager, dataset_id: UUID) -> None:
    await cache.delete(_cache_key(dataset_id))


async def _delete_file(storage: FileStorage, key: str) -> None:
    try:
        await storage.delete(key)
    except Exception as error:  # noqa: BLE001 - the sweep comes for it; what the caller did stands
        _log.warning("a file without a dataset is left to the sweep", key=key, exc_info=error)
