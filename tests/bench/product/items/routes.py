"""The endpoints of items."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from scalable_fastapi_system.identity.dependencies import requires
from scalable_fastapi_system.identity.principal import Principal, declare_scopes
from scalable_fastapi_system.infra.cache import cache_response
from scalable_fastapi_system.jobs import enqueue
from scalable_fastapi_system.jobs.current import current_client
from scalable_fastapi_system.kit.pagination import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE
from scalable_fastapi_system.web.dependencies import App, Transaction
from scalable_fastapi_system.web.envelope import Envelope, respond

from tests.bench.product.items import service
from tests.bench.product.items.jobs import measure
from tests.bench.product.items.schemas import ItemIn, ItemOut, ItemPage, Started

declare_scopes({"items:read": "Read your items", "items:write": "Make items"})

router = APIRouter(tags=["items"])

Reader = Annotated[Principal, requires("items:read")]
Writer = Annotated[Principal, requires("items:write")]


@router.get("/items/{item_id}", response_model=Envelope[ItemOut])
async def read_item(request: Request, item_id: UUID, principal: Reader, app: App) -> Response:
    """An item."""
    return respond(request, await service.get(app.database, item_id=item_id, owner_id=principal.id))


@router.get("/items", response_model=Envelope[ItemPage])
async def list_items(
    request: Request,
    principal: Reader,
    app: App,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE)] = DEFAULT_PAGE_SIZE,
    cursor: Annotated[str | None, Query(max_length=500)] = None,
) -> Response:
    """Items from the newest on, a page at a time."""
    page = await service.page(app.database, owner_id=principal.id, limit=limit, cursor=cursor)
    return respond(request, {"items": page.items, "next_cursor": page.next_cursor})


@router.post("/items", response_model=Envelope[ItemOut], status_code=201)
async def create_item(request: Request, new: ItemIn, principal: Writer, app: App) -> Response:
    """Makes an item: one statement, which is its own transaction."""
    item = await service.create(app.database, owner_id=principal.id, new=new)
    return respond(request, item, "Item created", status_code=201)


@router.post("/transactions/items", response_model=Envelope[ItemOut], status_code=201)
async def create_item_in_transaction(
    request: Request, new: ItemIn, principal: Writer, session: Transaction
) -> Response:
    """Makes an item in a session, as whatever changes more than one row is written."""
    item = await service.create_in(session, owner_id=principal.id, new=new)
    return respond(request, item, "Item created", status_code=201)


@router.post("/items/{item_id}/measure", response_model=Envelope[Started], status_code=202)
async def measure_item(request: Request, item_id: UUID, principal: Writer) -> Response:
    """Measures an item in the background: the job is all that there is to store."""
    handle = await current_client().enqueue_now(measure, owner_id=principal.id, item_id=item_id)
    return respond(request, Started(task_id=handle.id), "Task created", status_code=202)


@router.post("/transactions/items/{item_id}/measure", response_model=Envelope[Started], status_code=202)
async def measure_item_in_transaction(
    request: Request, item_id: UUID, principal: Writer, session: Transaction
) -> Response:
    """Measures an item in the background, with whatever else the transaction holds."""
    handle = await enqueue(session, measure, owner_id=principal.id, item_id=item_id)
    return respond(request, Started(task_id=handle.id), "Task created", status_code=202)


@router.get("/cached/items/{item_id}", response_model=Envelope[ItemOut])
@cache_response(ttl=300)
async def read_item_cached(request: Request, item_id: UUID, principal: Reader, app: App) -> Response:
    """An item, as it was within the last five minutes."""
    return respond(request, await service.get(app.database, item_id=item_id, owner_id=principal.id))


@router.get("/cached/items", response_model=Envelope[ItemPage])
@cache_response(ttl=300)
async def list_items_cached(request: Request, principal: Reader, app: App) -> Response:
    """The newest items, as they were within the last five minutes."""
    page = await service.page(app.database, owner_id=principal.id, limit=100, cursor=None)
    return respond(request, {"items": page.items, "next_cursor": page.next_cursor})
