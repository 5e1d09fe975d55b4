"""Queues, workers and schedules, for administrators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from scalable_fastapi_system.identity.dependencies import requires
from scalable_fastapi_system.identity.principal import Principal, declare_scopes
from scalable_fastapi_system.jobs.store import overview
from scalable_fastapi_system.kit.errors import NotFoundException
from scalable_fastapi_system.tasks.schemas import STORABLE, QueueOut, ScheduleOut, WorkerOut
from scalable_fastapi_system.web.dependencies import Transaction
from scalable_fastapi_system.web.envelope import Envelope, respond

declare_scopes({"admin:jobs": "See and steer queues, workers and schedules (administrators)"})

router = APIRouter(prefix="/admin/jobs", tags=["job administration"])

Admin = Annotated[Principal, requires("admin:jobs")]
QueueName = Annotated[str, Path(max_length=64, pattern=r"^[\w.-]+$")]


@router.get("/queues", response_model=Envelope[list[QueueOut]])
async def list_queues(request: Request, principal: Admin, session: Transaction) -> Response:
    """Every queue that has live jobs, workers or a pause."""
    return respond(request, [QueueOut.model_validate(one) for one in await overview.list_queues(session)])


@router.post("/queues/{name}/pause", response_model=Envelope[None])
async def pause_queue(request: Request, name: QueueName, principal: Admin, session: Transaction) -> Response:
    """Workers take nothing from the queue any more; what runs goes on."""
    await overview.set_queue_paused(session, name=name, is_paused=True)
    return respond(request, None, f"The queue {name} is paused")


@router.post("/queues/{name}/resume", response_model=Envelope[None])
async def resume_queue(request: Request, name: QueueName, principal: Admin, session: Transaction) -> Response:
    """Ends a pause."""
    await overview.set_queue_paused(session, name=name, is_paused=False)
    return respond(request, None, f"The queue {name} is open")


@router.get("/workers", response_model=Envelope[list[WorkerOut]])
async def list_workers(request: Request, principal: Admin, session: Transaction) -> Response:
    """Every worker that was seen within the last hour."""
    return respond(request, [WorkerOut.model_validate(one) for one in await overview.list_workers(session)])


@router.post("/workers/{worker_id}/drain", response_model=Envelope[None])
async def drain_worker(
    request: Request,
    worker_id: Annotated[str, Path(max_length=100, pattern=STORABLE)],
    principal: Admin,
    session: Transaction,
) -> Response:
    """Has a worker finish or hand back what it runs, and end. In a cluster another one takes its place."""
    if not await overview.ask_to_drain(session, worker_id=worker_id):
        raise NotFoundException("There is no such worker")
    return respond(request, None, "The worker drains with its next beat")


@router.get("/schedules", response_model=Envelope[list[ScheduleOut]])
async def list_schedules(request: Request, principal: Admin, session: Transaction) -> Response:
    """Every schedule that a worker has declared."""
    return respond(
        request, [ScheduleOut.model_validate(one) for one in await overview.list_schedules(session)]
    )


@router.post("/schedules/{name}/pause", response_model=Envelope[None])
async def pause_schedule(
    request: Request,
    name: Annotated[str, Path(max_length=100, pattern=STORABLE)],
    principal: Admin,
    session: Transaction,
) -> Response:
    """Lets the schedule's slots pass."""
    return await _set_schedule_paused(request, name, session, is_paused=True)


@router.post("/schedules/{name}/resume", response_model=Envelope[None])
async def resume_schedule(
    request: Request,
    name: Annotated[str, Path(max_length=100, pattern=STORABLE)],
    principal: Admin,
    session: Transaction,
) -> Response:
    """Ends a pause."""
    return await _set_schedule_paused(request, name, session, is_paused=False)


async def _set_schedule_paused(
    request: Request, name: str, session: Transaction, *, is_paused: bool
) -> Response:
    if not await overview.set_schedule_paused(session, name=name, is_paused=is_paused):
        raise NotFoundException("There is no such schedule")
    return respond(request, None, f"The schedule {name} is {'paused' if is_paused else 'active'}")
