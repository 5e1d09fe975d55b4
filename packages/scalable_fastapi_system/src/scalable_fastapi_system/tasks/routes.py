"""`/tasks` and `/process-data`. A task belongs to who made it; to anyone else but an administrator it does not exist."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Body, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from scalable_fastapi_system.identity.dependencies import requires
from scalable_fastapi_system.identity.principal import Principal, declare_scopes
from scalable_fastapi_system.jobs.client import ANY_OWNER, JobClient, Owner
from scalable_fastapi_system.jobs.states import JobState
from scalable_fastapi_system.kit.pagination import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE
from scalable_fastapi_system.tasks import service
from scalable_fastapi_system.tasks.admin_routes import router as admin_router
from scalable_fastapi_system.tasks.event_stream import stream_events
from scalable_fastapi_system.tasks.schemas import (
    STORABLE,
    AttemptOut,
    CreatedTask,
    CreatedTaskAnswer,
    StartedProcessing,
    StartedProcessingAnswer,
    TaskChange,
    TaskOut,
    TaskPage,
    TaskReason,
    TaskStatus,
    error_of,
    summary_of,
    task_of,
)
from scalable_fastapi_system.tasks.webhook_routes import router as webhook_router
from scalable_fastapi_system.web.dependencies import Transaction
from scalable_fastapi_system.web.envelope import Envelope, respond
from scalable_fastapi_system.web.limits import request_timeout

declare_scopes(
    {
        "tasks:read": "Read your own background tasks",
        "tasks:write": "Start, cancel and retry background tasks",
    }
)

router = APIRouter(tags=["tasks"])

Reader = Annotated[Principal, requires("tasks:read")]
Writer = Annotated[Principal, requires("tasks:write")]


async def get_jobs(request: Request) -> JobClient:
    """The job client of the application that this request reached."""
    client: JobClient = request.app.state.jobs
    return client


Jobs = Annotated[JobClient, Depends(get_jobs)]
JSONObject = Annotated[dict[str, Any], Body()]
_NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"description": "No such task, or another's"}}


@router.post("/tasks/background", response_model=CreatedTaskAnswer, status_code=202)
async def create_background_task(
    request: Request, task_data: JSONObject, principal: Writer, session: Transaction
) -> Response:
    """Starts a background task. `{"kind": …, "arguments": {…}}` names a public job kind; other data are processed."""
    handle = await service.create(session, owner_id=principal.id, task_data=task_data)
    data = CreatedTask(task_id=handle.id)
    return respond(request, data, "Task created", status_code=202, task_id=handle.id, status=data.status)


@router.post("/process-data", response_model=StartedProcessingAnswer, status_code=202)
async def process_data_endpoint(
    request: Request, data: JSONObject, principal: Writer, session: Transaction
) -> Response:
    """Describes the data in the background; the task's result holds what was found."""
    handle = await service.process(session, owner_id=principal.id, data=data)
    started = StartedProcessing(task_id=handle.id, data_id=data.get("id"))
    return respond(
        request,
        started,
        "Data processing started",
        status_code=202,
        task_id=handle.id,
        data_id=started.data_id,
    )


@router.get("/tasks", response_model=Envelope[TaskPage])
async def list_tasks(
    request: Request,
    principal: Reader,
    session: Transaction,
    status: Annotated[list[TaskStatus] | None, Query(description="Only these.")] = None,
    kind: Annotated[str | None, Query(max_length=100, pattern=STORABLE)] = None,
    queue: Annotated[str | None, Query(max_length=64, pattern=STORABLE)] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE)] = DEFAULT_PAGE_SIZE,
    cursor: Annotated[str | None, Query(max_length=500)] = None,
    everyone: Annotated[bool, Query(description="All owners' tasks; for administrators.")] = False,
) -> Response:
    """Tasks from the newest on, a page at a time."""
    page = await service.find_many(
        session,
        owner=ANY_OWNER if everyone and principal.is_admin else principal.id,
        limit=limit,
        cursor=cursor,
        states=[JobState.from_label(label) for label in status or ()],
        kind=kind,
        queue=queue,
    )
    return respond(
        request, TaskPage(items=[summary_of(job) for job in page.items], next_cursor=page.next_cursor)
    )


@router.get("/tasks/{task_id:uuid}", response_model=Envelope[TaskOut], responses=_NOT_FOUND)
async def get_task(request: Request, task_id: UUID, principal: Reader, session: Transaction) -> Response:
    """A task: how far it is, and what came of it."""
    job = await service.find(session, job_id=task_id, owner=_owner(principal))
    return respond(request, task_of(job, is_admin=principal.is_admin))


@router.get("/tasks/{task_id:uuid}/attempts", response_model=Envelope[list[AttemptOut]], responses=_NOT_FOUND)
async def list_task_attempts(
    request: Request, task_id: UUID, principal: Reader, session: Transaction
) -> Response:
    """The attempts that did not succeed, and why."""
    attempts = await service.find_attempts(session, job_id=task_id, owner=_owner(principal))
    return respond(
        request,
        [
            AttemptOut(
                attempt=one["attempt"],
                outcome=one["outcome"],
                started_at=one["started_at"],
                ended_at=one["ended_at"],
                error=error_of(one["error"], is_admin=principal.is_admin),
            )
            for one in attempts
        ],
    )


@router.get("/tasks/{task_id:uuid}/reason", response_model=Envelope[TaskReason], responses=_NOT_FOUND)
async def get_task_reason(
    request: Request, task_id: UUID, principal: Reader, session: Transaction
) -> Response:
    """Why a task is not at work yet: the first rule that holds it back."""
    reason = await service.find_reason(session, job_id=task_id, owner=_owner(principal))
    if reason is None:
        return respond(request, TaskReason(rule=None, message="The task has ended"))
    return respond(request, TaskReason(rule=reason.rule, message=reason.message))


@router.get(
    "/tasks/{task_id:uuid}/events",
    response_class=Response,
    responses={
        **_NOT_FOUND,
        200: {"description": "A stream of events", "content": {"text/event-stream": {}}},
        204: {"description": "`Last-Event-ID` was the task's end: a browser then asks no more"},
    },
)
@request_timeout(None)
async def follow_task(
    request: Request,
    task_id: UUID,
    principal: Reader,
    jobs: Jobs,
    last_event_id: Annotated[str | None, Header(max_length=100)] = None,
) -> Response:
    """The task's states and progress as server-sent events, to its end; `Last-Event-ID` goes on where one left off."""
    job = await jobs.get(task_id, owner=_owner(principal))
    if jobs.events.has_told_all(job, last_event_id):
        return Response(status_code=204)
    return StreamingResponse(
        stream_events(jobs.events.follow(task_id, last_event_id=last_event_id)),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


@router.post("/tasks/{task_id:uuid}/cancel", response_model=Envelope[TaskChange], responses=_NOT_FOUND)
async def cancel_task(request: Request, task_id: UUID, principal: Writer, session: Transaction) -> Response:
    """Cancels a waiting task at once; a running one is told to stop within two seconds."""
    change = await service.cancel(session, job_id=task_id, owner=_owner(principal))
    message = "Cancel requested" if change.state is JobState.RUNNING else f"The task is {change.state.label}"
    return respond(
        request, TaskChange(id=task_id, status=change.state.label, has_changed=change.has_changed), message
    )


@router.post(
    "/tasks/{task_id:uuid}/retry",
    response_model=Envelope[TaskChange],
    responses={**_NOT_FOUND, 409: {"description": "It succeeded, or still runs"}},
)
async def retry_task(request: Request, task_id: UUID, principal: Writer, session: Transaction) -> Response:
    """Queues a failed, cancelled or quarantined task again; one that waits for its next try runs at once."""
    change = await service.retry(session, job_id=task_id, owner=_owner(principal))
    return respond(
        request,
        TaskChange(id=task_id, status=change.state.label, has_changed=change.has_changed),
        "The task is queued",
    )


router.include_router(admin_router)
router.include_router(webhook_router)


def _owner(principal: Principal) -> Owner:
    return ANY_OWNER if principal.is_admin else principal.id
