"""`/webhooks`: where an owner wants to hear of the ends of their tasks."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from scalable_fastapi_system.identity.dependencies import requires
from scalable_fastapi_system.identity.principal import Principal, declare_scopes
from scalable_fastapi_system.infra.database import on_commit
from scalable_fastapi_system.jobs import webhooks
from scalable_fastapi_system.jobs.enqueueing import client_of
from scalable_fastapi_system.tasks.schemas import STORABLE
from scalable_fastapi_system.web.dependencies import App, Transaction
from scalable_fastapi_system.web.envelope import Envelope, respond
from scalable_fastapi_system.web.limits import carries_secrets

declare_scopes(
    {
        "webhooks:read": "Read your webhooks and what they were told",
        "webhooks:write": "Add, change and remove your webhooks",
    }
)

router = APIRouter(prefix="/webhooks", tags=["webhooks"])

Reader = Annotated[Principal, requires("webhooks:read")]
Writer = Annotated[Principal, requires("webhooks:write")]
_NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"description": "No such webhook, or another's"}}


class WebhookCreate(BaseModel):
    """Where to send, and of which kinds of tasks (none: of all)."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(
        max_length=webhooks.MAX_URL_LENGTH,
        description="Begins with `https://` and holds no credentials.",
        examples=["https://example.com/hooks/tasks"],
        json_schema_extra={"format": "uri", "pattern": webhooks.URL_PATTERN},
    )
    kinds: list[Annotated[str, Field(max_length=100, pattern=STORABLE)]] = Field(
        default_factory=list, max_length=50
    )


class WebhookOut(BaseModel):
    """A webhook. Its secret is shown when it is made and when it is rotated, and never again."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    url: str
    kinds: list[str]
    created_at: datetime
    disabled_at: datetime | None
    disabled_reason: str | None


class NewWebhook(WebhookOut):
    """A webhook that was just made."""

    secret: str


class NewSecret(BaseModel):
    """The new secret; the former one signs too for a day."""

    secret: str


class DeliveryOut(BaseModel):
    """One event as it was, or is to be, told."""

    id: UUID
    job_id: UUID
    event: str
    created_at: datetime
    delivered_at: datetime | None
    attempts: int
    last_status: int | None
    last_error: str | None


@router.post(
    "",
    response_model=Envelope[NewWebhook],
    status_code=201,
    responses={409: {"description": "There are as many as one may have"}},
)
@carries_secrets
async def add_webhook(
    request: Request, body: WebhookCreate, principal: Writer, session: Transaction, app: App
) -> Response:
    """Adds a webhook. Events are signed as standardwebhooks.com says, with the secret in this answer."""
    row, secret = await webhooks.add_endpoint(
        session,
        owner_id=principal.id,
        url=body.url,
        kinds=body.kinds,
        allow_plain_http=app.settings.http_client.allow_private_addresses,
    )
    return respond(request, NewWebhook(**row, secret=secret), "Webhook added", status_code=201)


@router.get("", response_model=Envelope[list[WebhookOut]])
async def list_webhooks(request: Request, principal: Reader, session: Transaction) -> Response:
    """The caller's webhooks."""
    rows = await webhooks.list_endpoints(session, owner_id=principal.id)
    return respond(request, [WebhookOut(**row) for row in rows])


@router.delete("/{webhook_id}", response_model=Envelope[None], responses=_NOT_FOUND)
async def remove_webhook(
    request: Request, webhook_id: UUID, principal: Writer, session: Transaction
) -> Response:
    """Removes a webhook and its log."""
    await webhooks.remove_endpoint(session, endpoint_id=webhook_id, owner_id=principal.id)
    return respond(request, None, "Webhook removed")


@router.post("/{webhook_id}/enable", response_model=Envelope[None], responses=_NOT_FOUND)
async def enable_webhook(
    request: Request, webhook_id: UUID, principal: Writer, session: Transaction
) -> Response:
    """Makes a webhook that was disabled (by an answer of 410) hear again."""
    await webhooks.enable_endpoint(session, endpoint_id=webhook_id, owner_id=principal.id)
    return respond(request, None, "Webhook enabled")


@router.post("/{webhook_id}/rotate", response_model=Envelope[NewSecret], responses=_NOT_FOUND)
@carries_secrets
async def rotate_webhook_secret(
    request: Request, webhook_id: UUID, principal: Writer, session: Transaction
) -> Response:
    """Gives the webhook a new secret; the former one signs too for a day."""
    secret = await webhooks.rotate_secret(session, endpoint_id=webhook_id, owner_id=principal.id)
    return respond(request, NewSecret(secret=secret), "The former secret signs too for a day")


@router.get("/{webhook_id}/deliveries", response_model=Envelope[list[DeliveryOut]], responses=_NOT_FOUND)
async def list_webhook_deliveries(
    request: Request,
    webhook_id: UUID,
    principal: Reader,
    session: Transaction,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Response:
    """What the webhook was told, the newest first."""
    rows = await webhooks.list_deliveries(session, endpoint_id=webhook_id, owner_id=principal.id, limit=limit)
    return respond(request, [DeliveryOut(**row) for row in rows])


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/replay",
    response_model=Envelope[None],
    status_code=202,
    responses={**_NOT_FOUND, 409: {"description": "The webhook is disabled"}},
)
async def replay_webhook_delivery(
    request: Request, webhook_id: UUID, delivery_id: UUID, principal: Writer, session: Transaction
) -> Response:
    """Sends a delivery again, with the same id and body."""
    hints = await webhooks.replay_delivery(
        session, delivery_id=delivery_id, endpoint_id=webhook_id, owner_id=principal.id
    )
    client = client_of(session)
    await client.notify_in(session)
    on_commit(session, lambda: client.push(hints))
    return respond(request, None, "It is sent again", status_code=202)
