"""`/datasets`: upload a table, follow its profile, read it, delete it."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from scalable_fastapi_system.identity.dependencies import requires
from scalable_fastapi_system.identity.principal import Principal, declare_scopes
from scalable_fastapi_system.kit.pagination import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE
from scalable_fastapi_system.web.dependencies import App, Transaction
from scalable_fastapi_system.web.envelope import Envelope, respond
from scalable_fastapi_system.web.limits import body_limit, request_timeout
from scalable_fastapi_system.web.uploads import FORM_OVERHEAD_BYTES, file_body, receive_file

from domains.datasets import service
from domains.datasets.schemas import DatasetAccepted, DatasetOut, DatasetPage

MAX_TABLE_BYTES = 512 * 1024 * 1024
# What browsers and tools call a CSV file. A claim only: the profile finds out.
TABLE_TYPES = frozenset(
    {
        "text/csv",
        "text/plain",
        "text/tab-separated-values",
        "application/csv",
        "application/vnd.ms-excel",
        "application/octet-stream",
    }
)

declare_scopes({"datasets:read": "Read your own datasets", "datasets:write": "Upload and delete datasets"})

router = APIRouter(tags=["datasets"])

Reader = Annotated[Principal, requires("datasets:read")]
Writer = Annotated[Principal, requires("datasets:write")]
_NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"description": "No such dataset, or another's"}}
_UPLOAD_FAILURES: dict[int | str, dict[str, Any]] = {
    400: {"description": "The form is broken or ends early"},
    413: {"description": "The file is too large"},
    415: {"description": "The body is no form"},
    422: {
        "description": "The field `file` is missing, is no file, is not alone or has a type that is not taken"
    },
}


class DatasetAcceptedAnswer(Envelope[DatasetAccepted]):
    """The envelope with the members of background tasks beside it."""

    id: UUID
    task_id: UUID
    status: Literal["queued"] = "queued"


@router.post(
    "/datasets",
    response_model=DatasetAcceptedAnswer,
    status_code=202,
    responses=_UPLOAD_FAILURES,
    openapi_extra=file_body(
        "A table as CSV, its first line the names of the columns.", content_type="text/csv"
    ),
)
@body_limit(MAX_TABLE_BYTES + FORM_OVERHEAD_BYTES)
@request_timeout(None)  # a large file takes its time; one that stalls is ended by the middleware
async def upload_dataset(request: Request, principal: Writer, app: App, session: Transaction) -> Response:
    """Takes a table and profiles it in the background. The file goes to storage as it arrives."""
    limit = min(MAX_TABLE_BYTES, app.settings.storage.max_file_bytes)
    upload = await receive_file(request, max_bytes=limit, types=TABLE_TYPES)
    dataset = await service.create(
        session,
        storage=app.storage,
        owner_id=principal.id,
        name=upload.filename,
        content=upload.content(),
    )
    accepted = DatasetAccepted(
        id=dataset.id,
        task_id=dataset.task_id,
        name=dataset.name,
        size_bytes=dataset.size_bytes,
        sha256=dataset.sha256,
    )
    return respond(
        request,
        accepted,
        "Dataset accepted",
        status_code=202,
        headers={"Location": f"/datasets/{dataset.id}"},
        id=dataset.id,
        task_id=dataset.task_id,
        status=accepted.status,
    )


@router.get("/datasets", response_model=Envelope[DatasetPage])
async def list_datasets(
    request: Request,
    principal: Reader,
    session: Transaction,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE)] = DEFAULT_PAGE_SIZE,
    cursor: Annotated[str | None, Query(max_length=500)] = None,
) -> Response:
    """Your datasets from the newest on, a page at a time, without their profiles."""
    page = await service.find_page(session, owner_id=principal.id, limit=limit, cursor=cursor)
    return respond(request, {"items": page.items, "next_cursor": page.next_cursor})


@router.get("/datasets/{dataset_id}", response_model=Envelope[DatasetOut], responses=_NOT_FOUND)
async def get_dataset(
    request: Request, dataset_id: UUID, principal: Reader, app: App, session: Transaction
) -> Response:
    """A dataset, with its profile once that is ready."""
    report = await service.report(session, cache=app.cache, dataset_id=dataset_id, owner_id=principal.id)
    return respond(request, report)


@router.delete("/datasets/{dataset_id}", response_model=Envelope[None], responses=_NOT_FOUND)
async def delete_dataset(
    request: Request, dataset_id: UUID, principal: Writer, app: App, session: Transaction
) -> Response:
    """Deletes a dataset: its file, its profile, and the job that is at work on it."""
    await service.delete(
        session, storage=app.storage, cache=app.cache, dataset_id=dataset_id, owner_id=principal.id
    )
    return respond(request, None, "Dataset deleted")
